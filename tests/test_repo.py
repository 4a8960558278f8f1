"What must hold for the repository itself: settings, pins, notebooks, README, and the order of the rooms."
import ast, re, shutil, subprocess, sys, tomllib
from pathlib import Path
from posixpath import normpath

import pytest
from fastcore.nbio import mk_cell, new_nb, read_nb, write_nb
from fastcore.xtras import Config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

root = Path(__file__).resolve().parent.parent
project = tomllib.loads((root/'pyproject.toml').read_text())['project']
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
rooms = sorted((root/'nbs/api').glob('[0-9]*.ipynb'))

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

def test_every_sample_is_in_the_notice():
    from tl_nbdev.samples import _samples
    notice = (root/'NOTICE').read_text()
    for s in _samples.values(): assert s.wheel.replace('==', ' ') in notice, f'{s.name}: NOTICE lacks {s.wheel}'
