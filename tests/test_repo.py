"What must hold for the repository itself: settings, pins, notebooks, README, and the order of the rooms."
import ast, json, re, shutil, subprocess, sys, tomllib
from pathlib import Path
from posixpath import normpath
from types import SimpleNamespace

import pytest
from fastcore.nbio import mk_cell, new_nb, read_nb, write_nb
from fastcore.xtras import Config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

root = Path(__file__).resolve().parent.parent
project = tomllib.loads((root/'pyproject.toml').read_text())['project']
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
sys.path.insert(0, str(root/'tools'))
from wings import rooms as rooms_of
rooms = rooms_of(root/'nbs/api')

def name(p): return str(p.relative_to(root))

def tool(repo, *args): return subprocess.run([sys.executable, *args], cwd=repo, capture_output=True, text=True)


# settings and pins

def test_settings_are_ours_and_parse():
    cfg = Config.find('settings.ini', root)
    assert cfg.d and all(k.startswith('tl_') for k in cfg.d)
    assert cfg.tl_device in ('auto', 'cpu', 'cuda', 'mps') and cfg.tl_offline in ('no', 'yes')
    assert int(cfg.tl_threads) >= 0 and int(cfg.tl_max_pixels) > 0

def test_pins_satisfy_the_ranges():
    pins = dict(line.split('==') for line in (root/'constraints.txt').read_text().splitlines() if line and not line.startswith('#'))
    pins = {canonicalize_name(k): v for k, v in pins.items()}
    wanted = [Requirement(s) for s in sum(project['optional-dependencies'].values(), project['dependencies'])]
    for r in wanted:
        if r.name != project['name']: assert r.specifier.contains(pins[canonicalize_name(r.name)]), f'{r} and its pin'


# what the notebooks store

MACHINE = re.compile(r'(?<![\w.:~/-])/(?:home|root|tmp|work|Users)/\w')
PROGRESS = re.compile(r'\r(?!\n)|\|[█▉▊▋▌▍▎▏]|\bit/s\b|\bs/it\b|<progress\b|progress-bar')

def texts(nb):
    "Source and stored text, without pictures: base64 may spell anything"
    for c in nb.cells:
        yield c, c.source
        for o in c.get('outputs', []):
            yield c, o.get('text', '') + '\n'.join(o.get('traceback', []))
            for k, v in o.get('data', {}).items():
                assert 'widget' not in k, f'cell {c.id} stores a widget'
                if k.startswith('text/'): yield c, v

@pytest.mark.parametrize('nb', notebooks, ids=name)
def test_notebook_stores_no_machine(nb):
    for c, text in texts(read_nb(nb)):
        assert not (m := MACHINE.search(text)), f'cell {c.id} has the path {text[m.start():][:60]}'
        assert not PROGRESS.search(text), f'cell {c.id} stores a progress bar'


# the walk

def module(nb):
    "Name of the module that a room exports, or None"
    exp = (c.directives.get('default_exp') for c in read_nb(nb).cells)
    return next((e for e in exp if e), None)

order = {m: i for i, nb in enumerate(rooms) if (m := module(nb))}

def imported(file, package='tl_nbdev'):
    "Modules of the package that `file` imports, anywhere in it"
    here = [package, *file.relative_to(root/package).parts[:-1]]
    for n in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(n, ast.Import): found = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            base = [*(here[:len(here)+1-n.level] if n.level else []), *filter(None, [n.module])]
            found = ['.'.join(base), *('.'.join([*base, a.name]) for a in n.names)]
        else: continue
        yield from (f.removeprefix(f'{package}.') for f in found)

@pytest.mark.parametrize('mod', order)
def test_module_imports_only_from_earlier_rooms(mod):
    file = root/'tl_nbdev'/(mod.replace('.', '/') + '.py')
    late = [m for m in imported(file) if order.get(m, -1) > order[mod]]
    assert not late, f'{mod} imports {late}, which come later in the walk'

@pytest.mark.parametrize('mod', order)
def test_module_is_short(mod):
    lines = (root/'tl_nbdev'/(mod.replace('.', '/') + '.py')).read_text(encoding='utf-8').count('\n')
    assert lines < 600, f'{mod} has {lines} lines: cut it in two'


@pytest.mark.parametrize('mod', order)
def test_a_module_has_the_names_it_promises(mod):
    import importlib
    module = importlib.import_module(f'tl_nbdev.{mod}')
    assert not [name for name in module.__all__ if not hasattr(module, name)]


# README

def test_readme_is_current():
    r = tool(root, 'tools/readme.py', '--check')
    assert not r.returncode, r.stderr

def test_readme_names_both_commands_and_links_to_files():
    text = (root/'README.md').read_text(encoding='utf-8')
    assert 'make demo' in text and 'make test' in text
    for link in re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)):
        assert (root/link).exists(), f'README.md links to {link}, which is not there'


# the tools say so when something does not hold

@pytest.fixture
def repo(tmp_path):
    "A repository of two notebooks with this one's tools"
    shutil.copytree(root/'tools', tmp_path/'tools', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(root/'pyproject.toml', tmp_path)
    def nb(file, *cells):
        (tmp_path/file).parent.mkdir(parents=True, exist_ok=True)
        write_nb(new_nb([mk_cell(s, t, id=f'{i:08}') for i, (t, s) in enumerate(cells)]), tmp_path/file)
    nb('nbs/index.ipynb', ('markdown', '# Front\n\n> page'), ('code', '#| hide\n1'), ('code', '#| echo: false\n2'),
       ('markdown', '[a](api/00_a.ipynb) ![p](images/p.png) [up](../LICENSE) [out](https://x.org/y) [in](#z) `[c](d)`\n\n[r]: api/00_a.ipynb'))
    nb('nbs/api/00_a.ipynb', ('markdown', '# A\n\n> room'), ('code', '#| default_exp a'), ('code', '#| export\nx = 1'))
    assert not subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'], cwd=tmp_path).returncode
    return tmp_path

def test_readme_links_are_relative_to_the_root(repo):
    assert not tool(repo, 'tools/readme.py').returncode
    text = (repo/'README.md').read_text()
    assert '[a](nbs/api/00_a.ipynb) ![p](nbs/images/p.png) [up](LICENSE) [out](https://x.org/y) [in](#z) `[c](d)`\n\n[r]: nbs/api/00_a.ipynb' in text
    assert '```' not in text
    assert not tool(repo, 'tools/readme.py', '--check').returncode
    (repo/'README.md').write_text(text + 'by hand')
    assert 'make readme' in tool(repo, 'tools/readme.py', '--check').stderr

def test_check_names_what_is_out_of_step(repo):
    assert not (r := tool(repo, 'tools/check.py')).returncode, r.stderr
    stale, nb = repo/'tl_nbdev/gone.py', repo/'nbs/api/00_a.ipynb'
    shutil.copy(repo/'tl_nbdev/a.py', stale)
    nb.write_text(nb.read_text().replace('x = 1', 'x = 2').replace('"execution_count": null', '"execution_count": 7'))
    before = {p: p.read_bytes() for p in repo.rglob('*') if p.is_file()}
    r = tool(repo, 'tools/check.py')
    assert r.returncode and all(s in r.stderr for s in ('tl_nbdev/gone.py', 'tl_nbdev/a.py', 'nbs/api/00_a.ipynb is not clean'))
    assert before == {p: p.read_bytes() for p in repo.rglob('*') if p.is_file()}

@pytest.fixture
def house(repo):
    "Pages on a package of three rooms, one of which is in a wing: `page` sees `hall`, which sees `wing.deep`; `alone` sees neither"
    package, nbs = repo/'tl_nbdev', repo/'nbs'
    (package/'wing').mkdir()
    (package/'wing/__init__.py').write_text('')
    (package/'wing/deep.py').write_text('"A room"\ndef depth():\n    "How deep"\n    return 3 # metres\n')
    (package/'hall.py').write_text('def below():\n    from .wing.deep import depth\n    return depth()\n')
    (package/'other.py').write_text('from .wing import deep\n')
    (package/'all.py').write_text('from .hall import *\n')
    def nb(name, *codes): write_nb(new_nb([mk_cell(code, 'code', id=f'{i:08}') for i, code in enumerate(codes)]), nbs/name)
    nb('page.ipynb', 'import time\nfrom tl_nbdev.hall import *', 'below(), "deep"', "print('took 3 s' if time.time() % 1 < .5 else 'took 4 s')")
    nb('every.ipynb', 'from tl_nbdev.all import *')
    nb('words.ipynb', "room = 'tl_nbdev.wing.deep' # imported by its name")
    nb('alone.ipynb', '1 + 1')
    return SimpleNamespace(root=repo, deep=package/'wing/deep.py', hall=package/'hall.py', nb=nb, page=nbs/'page.ipynb')

def stale(house):
    out = tool(house.root, 'tools/outputs.py', '--stale').stdout
    return {line.split(':')[0].removeprefix('nbs/'): line.split(': ')[1] for line in out.splitlines()}

def write(file, *pairs):
    text = file.read_text('utf-8')
    for old, new in pairs: text = text.replace(old, new)
    file.write_text(text, 'utf-8')

@pytest.mark.parametrize('old, new, seen', [
    ('return 3', 'return 4', True), ('return 3', 'return 3.', True), ('depth():', 'depth(x=1):', True), ("def depth", "import json\ndef depth", True),
    ('"How deep"', '"How deep it is"', False), ('"A room"\n', '', False), ('# metres', '# feet', False), ('return', '\n    return', False)])
def test_what_changes_two_rooms_away_makes_a_page_stale_and_what_is_said_there_does_not(house, old, new, seen):
    assert not tool(house.root, 'tools/outputs.py', '--stamp').returncode and not stale(house)
    write(house.deep, (old, new))
    assert stale(house) == (dict.fromkeys(('page.ipynb', 'every.ipynb', 'words.ipynb'), 'the package behind it has changed') if seen else {})
    assert not tool(house.root, 'tools/outputs.py', '--check').returncode
    gate = tool(house.root, 'tools/outputs.py', '--check', '--package')
    assert gate.returncode == seen and ('nbs/page.ipynb' in gate.stderr) == seen and 'alone' not in gate.stderr

def test_a_room_that_moves_makes_no_page_stale(house):
    tool(house.root, 'tools/outputs.py', '--stamp')
    house.deep.rename(house.deep.with_name('deeper.py'))
    write(house.hall, ('.wing.deep', '.wing.deeper'))
    assert 'page.ipynb' not in stale(house)

def test_a_page_sees_the_room_that_it_exports_and_the_commands_that_it_calls(house):
    house.nb('api/00_h.ipynb', '#| default_exp hall', '#| export\ndef below(): return 0')
    house.nb('shell.ipynb', '!tl-train photos')
    (house.root/'tl_nbdev/apps').mkdir(exist_ok=True)
    (house.root/'tl_nbdev/apps/cli.py').write_text('from ..hall import below\nfrom .. import other\n')
    tool(house.root, 'tools/outputs.py', '--stamp')
    write(house.deep, ('return 3', 'return 4'))
    assert {'api/00_h.ipynb', 'shell.ipynb'} <= stale(house).keys()

def test_pages_that_are_tested_are_compared_with_what_is_stored(house):
    "Own code, package and chance: what fails, what is told, and what `make outputs` does then"
    def run(*args): return tool(house.root, 'tools/outputs.py', *args)
    def of(page): return json.loads((house.root/'nbs/outputs.json').read_text('utf-8'))[page]
    assert not (r := run('nbs/page.ipynb')).returncode, r.stderr
    run('--stamp')
    stored = house.page.read_bytes()
    assert b"(3, 'deep')" in stored and not run('--test', 'nbs/page.ipynb').returncode
    write(house.deep, ('return 3', 'return 2 + 1')) # another package, which does the same
    was = of('page.ipynb')
    assert not (r := run('--test')).returncode, r.stderr
    assert not run().returncode and of('page.ipynb') != was and house.page.read_bytes() == stored and not stale(house)
    write(house.deep, ('return 2 + 1', 'return 5'))
    r = run('--test', 'nbs/page.ipynb')
    assert r.returncode == 1 and "stored is \"(3, 'deep')\", and it shows \"(5, 'deep')\"" in r.stderr and 'make outputs' in r.stderr
    assert house.page.read_bytes() == stored
    assert not run().returncode and b"(5, 'deep')" in house.page.read_bytes() and not stale(house)

def test_a_cell_that_shows_something_else_each_time_is_known(house):
    def run(*args): return tool(house.root, 'tools/outputs.py', *args)
    house.nb('chance.ipynb', 'from tl_nbdev.hall import *', 'import uuid', 'print(uuid.uuid4().hex, "of", below())')
    run('--stamp')
    r = run('--test', 'nbs/chance.ipynb')
    assert not r.returncode and 'chance.ipynb (words)' in r.stdout # it is fresh: only told
    assert not run().returncode
    write(house.deep, ('return 3', 'return 4'))
    r = run('--test', 'nbs/chance.ipynb')
    assert not r.returncode and 'chance' not in r.stdout + r.stderr

def test_pages_that_are_not_run(house):
    "What takes long, while nothing has changed since its outputs were stored; what needs something that isn't here"
    def run(*args): return tool(house.root, 'tools/outputs.py', *args)
    def ran(): return (house.root/'ran').read_text().count('x') if (house.root/'ran').exists() else 0
    house.nb('hours.ipynb', 'from tl_nbdev.hall import *', f'with open({str(house.root/"ran")!r}, "a") as f: f.write("x")', 'below()')
    house.nb('speaks.ipynb', '#| needs: no-such-program\nraise SystemExit("it was run")')
    run('--stamp')
    file = house.root/'nbs/outputs.json'
    said = json.loads(file.read_text('utf-8'))
    said['hours.ipynb'] += ' long'
    file.write_text(json.dumps(said), encoding='utf-8')
    r = run('--test')
    assert not r.returncode and 'hours.ipynb' in r.stdout and '--all runs them' in r.stdout and not ran(), r.stderr
    assert 'speaks.ipynb: not run, as it needs no-such-program' in r.stderr
    write(house.deep, ('return 3', 'return 4'))
    run('--test')
    assert ran() and json.loads((house.root/'.outputs/hours.ipynb.json').read_text('utf-8'))['differs']

@pytest.mark.parametrize('was, now, kind', [
    ('took 3 s', 'took 14 s', ''), ('| a | seconds |\n| --- | --- |\n| b | 3 |', '| a | seconds |\n| --- | --- |\n| b | 12 |', ''), ('<a at 0x12>', '<a at 0x7f>', ''),
    ('made 2026-01-02T03:04:05+00:00', 'made 2027-01-02', ''), ('a\n', 'a', ''), ('epoch ██ 1\na', 'a', ''),
    ('0.91 of 3', '0.9 of 4', 'numbers'), ('| a | 0.91 |', '| a  | 0.912 |', 'numbers'),
    ('(3,)', '(4,)', 'words'), ('0.91 right', '0.91 wrong', 'words'), ('took 3 s', 'took 3 s more', 'words'), ('True', '', 'words'), ('1e-3', 'x', 'words')])
def test_what_counts_as_a_difference(was, now, kind, monkeypatch):
    monkeypatch.syspath_prepend(root/'tools')
    import outputs
    def cell(text): return dict(cell_type='code', id='a', outputs=[dict(output_type='stream', name='stdout', text=[text])])
    assert [o[0] for o in outputs.differences([cell(was)], [cell(now)])] == [kind][:bool(kind)]

def test_a_picture_and_a_warning_are_told_apart(monkeypatch):
    monkeypatch.syspath_prepend(root/'tools')
    import outputs
    def cell(picture, warning): return dict(cell_type='code', id='a', outputs=[dict(name='stderr', text=warning), dict(data={'image/png': picture, 'text/plain': ['p']})])
    assert outputs.differences([cell('x', 'a')], [cell('x', 'b')]) == [] and outputs.differences([cell('x', '')], [cell('y', '')])[0][0] == 'picture'

def test_hashes_without_a_package_are_read(house):
    "As they were written before a page knew what is behind it"
    tool(house.root, 'tools/outputs.py', '--stamp')
    file = house.root/'nbs/outputs.json'
    file.write_text(json.dumps({k: v.split()[0] for k, v in json.loads(file.read_text('utf-8')).items()}), 'utf-8')
    assert not tool(house.root, 'tools/outputs.py', '--check').returncode
    assert set(stale(house).values()) == {'what was behind it was not written down'} and 'alone.ipynb' not in stale(house)
    write(house.page, ('below()', 'below( )'))
    assert 'nbs/page.ipynb' in tool(house.root, 'tools/outputs.py', '--check').stderr

def test_every_sample_is_in_the_notice():
    from tl_nbdev.base.samples import _samples
    notice = (root/'NOTICE').read_text()
    for s in _samples.values():
        for wheel in (s.wheel, *(more['wheel'] for more in s.also)): assert wheel.replace('==', ' ') in notice, f'{s.name}: NOTICE lacks {wheel}'


# what a stranger finds

def test_promises_have_tests():
    "SECURITY.md names a test for each promise, and it is there"
    rows = [o for o in (root/'SECURITY.md').read_text(encoding='utf-8').splitlines() if o.startswith('| ') and '`' in o]
    named = [re.findall(r'`(test_\w+)`', o) for o in rows]
    there = set(re.findall(r'^def (test_\w+)', '\n'.join(o.read_text(encoding='utf-8') for o in (root/'tests').glob('test_*.py')), re.M))
    assert len(rows) > 5 and all(named), 'a promise without a test'
    assert not (lost := {o for tests in named for o in tests} - there), f'not there: {lost}'

def test_workflows_and_templates_can_be_read_and_name_what_is_there():
    yaml = pytest.importorskip('yaml')
    files = [*(root/'.github').rglob('*.y*ml'), root/'CITATION.cff']
    assert len(files) >= 6
    for file in files:
        assert yaml.safe_load(file.read_text(encoding='utf-8')), file
        for test in re.findall(r'tests/test_\w+\.py', file.read_text(encoding='utf-8')): assert (root/test).exists(), f'{file.name} names {test}'
    cite = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    version = re.search(r"__version__ = ['\"](.+?)['\"]", (root/'tl_nbdev/__init__.py').read_text())[1]
    assert (cite['version'], cite['license']) == (version, project['license'])

def test_an_editor_is_told_that_there_are_types():
    assert (root/'tl_nbdev/py.typed').exists() and 'Typing :: Typed' in project['classifiers']
    packed = tomllib.loads((root/'pyproject.toml').read_text())['tool']['setuptools']['package-data']
    assert {'py.typed', '**/*.pyi'} <= set(packed['tl_nbdev'])

def test_a_release_has_addresses_and_absolute_links(tmp_path):
    for name in ('README.md', 'pyproject.toml', 'tools/release.py'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        shutil.copy(root/name, tmp_path/name)
    for wrong in ((), ('example',), ('https://example.org',)): assert tool(tmp_path, 'tools/release.py', *wrong).returncode == 1
    assert not tool(tmp_path, 'tools/release.py', 'https://example.org/somebody/tl_nbdev/', 'v1').returncode
    made = tomllib.loads((tmp_path/'pyproject.toml').read_text())
    assert made['project'].pop('urls')['Issues'] == 'https://example.org/somebody/tl_nbdev/issues' and made['project'] == project
    text = (tmp_path/'README.md').read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)\s]+)\)', re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S))
    assert len(links) > 5 and all(re.match('https?:|#', o) for o in links), links
    assert 'https://example.org/somebody/tl_nbdev/raw/v1/nbs/images/front.png' in text

def test_stubs_tell_an_editor_of_all_that_is_there(tmp_path):
    "Every public function, class and method, also those that are patched into a class, with its arguments and what is said of them"
    import importlib, inspect
    assert not tool(root, 'tools/stubs.py', str(tmp_path)).returncode
    told = {'.'.join(f.relative_to(tmp_path).with_suffix('').parts): ast.parse(f.read_text(encoding='utf-8')) for f in tmp_path.rglob('*.pyi')}
    assert set(told) >= set(order)
    def arguments(node): return [o.arg for o in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    def inside(node): return {o.name: o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    n = 0
    for name, tree in told.items():
        module, top = importlib.import_module(f'tl_nbdev.{name}'), inside(tree)
        for public, o in vars(module).items():
            if public.startswith('_') or getattr(o, '__module__', '') != module.__name__ or not inspect.isclass(o): continue
            for method, f in vars(o).items():
                if not inspect.isfunction(f) or method.startswith('_') or f.__module__ != module.__name__ or f.__qualname__.startswith('<') or '<locals>' in f.__qualname__: continue
                if hasattr(f, '__wrapped__') or f.__name__ != method: continue
                assert arguments(inside(top[public])[method]) == inspect.getfullargspec(f).args + inspect.getfullargspec(f).kwonlyargs, (name, public, method)
                n += 1
    assert n > 200
    learner = inside(inside(told['training.learner'])['_Learner'])
    assert {'transfer', 'evaluate', 'plan', 'frozen', 'predict', 'predictor', 'explain'} <= set(learner)
    assert 'default the strategy\'s own' in ast.get_docstring(learner['transfer']) and inside(told['training.learner'])['transfer_learner'].returns.id == '_Learner'


# the front door

def test_the_front_door_is_small_and_hides_nothing():
    import builtins
    from tl_nbdev import all as door
    assert len(door.__all__) == len({*door.__all__}) <= 50
    assert not [name for name in door.__all__ if hasattr(builtins, name)]
    assert all(hasattr(door, name) for name in door.__all__)

def test_a_learner_of_the_front_door_has_what_rooms_teach_it():
    code = 'from tl_nbdev.all import *; from fastai.learner import Learner; print(sorted(vars(Learner)))'
    taught = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
    assert not taught.returncode, taught.stderr
    for method in ('transfer', 'plan', 'evaluate', 'save_transfer', 'explain'): assert f"'{method}'" in taught.stdout
