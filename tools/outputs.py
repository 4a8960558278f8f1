"""Stored outputs belong to the code above them, and to the code of the package behind it. When the outputs of a page were stored, nbs/outputs.json
got two hashes: of its own cells, and of what they import (`behind.py`). After them stand `long`, where it takes long, and the cells that show
something else each time. Of what a page computes nothing changes while both hashes stay, so a page that takes long is then not run again.

    outputs.py                    run the pages that are stale, and store what they show; one that shows what is stored is only marked so
    outputs.py PAGE …             run and store these
    outputs.py --check            fail where a page's own code has changed since
    outputs.py --check --package  fail also where the package behind a page has: before a release
    outputs.py --stale            say which those are
    outputs.py --test …           nbdev-test, with its options; what the notebooks show as they run is compared with what is stored
    outputs.py --test --all …     the same, with pages that take long and whose outputs were stored with this very code
    outputs.py --stamp PAGE …     they were stored just now, by other means"""
import json, multiprocessing, os, re, shutil, subprocess, sys, tempfile, time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from behind import behind, cells_of, digest, root

file = root/'nbs'/'outputs.json'
seen = root/'.outputs' # what the last test of each page saw, on this machine
here = Path(sys.executable).parent


# what is stale

def pages(): return sorted(o for o in (root/'nbs').rglob('*.ipynb') if not any(p.startswith(('.', '_')) for p in o.relative_to(root).parts))

def name(page): return page.relative_to(root/'nbs').as_posix()

def mark(page):
    "Hashes of a page's own code, and of what is behind it"
    return f'{digest(cells_of(page))} {behind(page) or "-"}'

def known():
    "Page → its two hashes, and the cells that show something else each time"
    return json.loads(file.read_text('utf-8')) if file.exists() else {}

def state(page, was):
    "`fresh`, `own` (its own code has changed), `package` (what is behind it has), or `unknown` (what was behind it was not written down)"
    then, now = was.get(name(page), '').split(), mark(page).split()
    if then[:1] != now[:1]: return 'own'
    if then[1:2] == now[1:] or now[1] == '-': return 'fresh'
    return 'package' if len(then) > 1 else 'unknown'

def stale(*states):
    was = known()
    return [page for page in pages() if state(page, was) in states]

def varying(page, was):
    "The cells of a page that show something else each time"
    return was.get(name(page), '').split()[2:]

_long, _short = 12, 6 # seconds; in between a page is what it was

def is_long(page, was):
    "Does a page take long?"
    return 'long' in was.get(name(page), '').split()[2:]

def _takes_long(page, was):
    try: seconds = json.loads(_seen_file(page).read_text('utf-8')).get('seconds', 0)
    except (OSError, ValueError): seconds = 0
    return seconds > (_short if is_long(page, was) else _long) if seconds else is_long(page, was)

def stamp(done, varies={}):
    "Mark pages as stored just now; `varies`: page → cells that were seen to show something else each time"
    was, now = known(), {}
    for page in pages():
        there = {cell.get('id') for cell in cells(page)}
        odd = sorted({*varying(page, was), *varies.get(page, [])} & there)
        hashes = mark(page) if page in done else ' '.join(was.get(name(page), '').split()[:2])
        now[name(page)] = ' '.join([hashes, *['long']*_takes_long(page, was), *odd])
    file.write_text(json.dumps(now, indent=1) + '\n', encoding='utf-8')


# what differs

_address = re.compile(r'\b0x[0-9a-fA-F]+')
_temporary = re.compile(r'\btmp[a-z0-9_]{8}\b')
_date = re.compile(r'\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[+-]\d\d:\d\d|Z)?)?')
_measured = re.compile(r'\d\s?(?:s|ms|µs|min|h|KiB|MiB|GiB|KB|MB|GB)\b|\b(?:seconds?|minutes?|ms|MiB|GiB|MB|GB)\b|\b\w+/s\b')
_number = re.compile(r'[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?')
_progress = re.compile(r'[█▉▊▋▌▍▎▏\r]')
_row = re.compile(r'[^\n]*\n?')
_embedded = re.compile(r'base64,[A-Za-z0-9+/=]+') # a picture or a sound inside a page
_decimal = re.compile(r'\d\.\d')
_between = re.compile(r'[\s|:-]+') # columns are as wide as what is in them

def _words(text): return _between.sub(' ', _number.sub('#', text)).strip()

def _lasting(text):
    "Without what no second run shows again: progress, addresses, temporary folders, dates, what is embedded as bytes, and where time or memory is measured, the numbers"
    text = ''.join(line for line in _row.findall(_embedded.sub('base64', text)) if not _progress.search(line))
    text = _temporary.sub('tmp', _date.sub('DATE', _address.sub('0x', text)))
    return _words(text) if _measured.search(text) else text.strip()

def _shown(cell):
    "`(text, pictures)` that a cell shows; warnings are not of it"
    text, pictures = [], []
    for output in cell.get('outputs', []):
        if output.get('name') == 'stdout': text.append(''.join(output.get('text', '')))
        for kind, value in sorted(output.get('data', {}).items()):
            if kind.startswith('text/'): text.append(''.join(value) + '\n')
            elif kind.startswith('image/'): pictures.append(''.join(value).strip())
    return ''.join(text), pictures

def _kind(was, now):
    "How far what a cell shows differs: in `words`, only in `numbers` that another machine may compute otherwise, in a `picture`, or not"
    (text_was, pictures_was), (text_now, pictures_now) = was, now
    if _lasting(text_was) == _lasting(text_now): return '' if pictures_was == pictures_now else 'picture'
    computed = _decimal.search(text_was) and _decimal.search(text_now)
    return 'numbers' if computed and _words(text_was) == _words(text_now) else 'words'

def _odd(was, now):
    "The first lines that differ"
    was, now = was.splitlines() or [''], now.splitlines() or ['']
    pairs = list(zip(was + ['']*(len(now) - len(was)), now + ['']*(len(was) - len(now))))
    return next(((a[:160], b[:160]) for a, b in pairs if _lasting(a) != _lasting(b)), pairs[0])

def differences(was, now):
    "Of the cells of a notebook, as they are stored and as they ran: `(kind, id of the cell, line that is stored, line now)`"
    found = []
    for stored, ran in zip(was, now):
        if stored['cell_type'] != 'code': continue
        before, after = _shown(stored), _shown(ran)
        if kind := _kind(before, after): found.append([kind, stored.get('id', ''), *_odd(before[0], after[0])])
    return found

def cells(page): return json.loads(page.read_text('utf-8'))['cells']


# while they are tested

_marks = {} # of all pages, when the test began

def _seen_file(page): return seen/f'{name(page).replace("/", "+")}.json'

_needs = re.compile(r'^#\| needs: (.+)$', re.M)

def lacking(page):
    "What a page needs and is not here: programs, and samples that have to be agreed to (`#| needs: espeak-ng stamps` in one of its cells)"
    words = [word for cell in cells(page) for line in _needs.findall(''.join(cell['source'])) for word in line.split()]
    return [word for word in words if not shutil.which(word) and not _can_be_had(word)]

def _can_be_had(sample):
    "Is a sample here, or has somebody agreed to it?"
    try: from tl_nbdev.base.samples import _check_asked, _folder, _samples
    except ImportError: return False
    from tl_nbdev.base.settings import TransferError
    if sample not in _samples: return False
    try: return _folder(_samples[sample]).exists() or not _check_asked(_samples[sample])
    except TransferError: return False

def left_alone(page, was):
    "Does it take long, and have neither its code nor the package changed since its outputs were stored? Then it is tested only where somebody asks for it, or for all"
    return 'TL_ALL_PAGES' not in os.environ and is_long(page, was) and state(page, was) == 'fresh'

def test_page(fn, save=False, **kwargs):
    "What nbdev runs for each notebook, in a process of its own: what another one left in memory, or on disk, must not decide a test"
    if missing := lacking(Path(fn)):
        print(f'{fn}: not run, as it needs {", ".join(missing)}', file=sys.__stderr__)
        return True, 0
    if not save and left_alone(Path(fn).resolve(), known()): return True, 0
    if not hasattr(os, 'fork') or sys.platform == 'darwin': return _test_page(fn, save, **kwargs)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder: return _apart(fn, save, folder, **kwargs)

def _apart(fn, save, folder, **kwargs):
    "In a process of its own, whose temporary files are in a folder"
    def run():
        os.environ['TMPDIR'] = tempfile.tempdir = folder
        there.send(_test_page(fn, save, **kwargs))
    fork = multiprocessing.get_context('fork')
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=run)
    child.start()
    there.close() # the child's copy is the last one, so that its end is seen
    try: return here.recv()
    except EOFError:
        print(f'{fn}: its process ended before it had run', file=sys.__stderr__)
        return False, 0
    finally: child.join()

def _test_page(fn, save, **kwargs):
    "Instead of storing what a notebook shows, it is compared with what is stored"
    import nbdev.test
    page, before = Path(fn).resolve(), []
    if save or page not in pages(): return _test_nb()(fn, save=save, **kwargs)
    def compare(nb, fn): before.append(differences(cells(page), clean(nb).cells))
    nbdev.test.write_nb = compare
    began = time.perf_counter()
    result = _test_nb()(fn, save=True, **kwargs)
    took = round(time.perf_counter() - began, 1)
    if before: _seen_file(page).write_text(json.dumps(dict(mark=_marks.get(page) or mark(page), differs=before[0], seconds=took)), encoding='utf-8')
    return result

def clean(nb):
    "A notebook as nbdev-clean leaves it, where of several forms only the richest stays"
    from nbdev.clean import clean_nb
    clean_nb(nb)
    return nb

def _test_nb():
    "nbdev's own function"
    import nbdev.test
    if nbdev.test.test_nb is not test_page: nbdev.test._test_nb = nbdev.test.test_nb
    return nbdev.test._test_nb

def saw(page):
    "What the last test saw differ, of the page and the package as they are now; `None` where there was none"
    try: found = json.loads(_seen_file(page).read_text('utf-8'))
    except (OSError, ValueError): return None
    return found['differs'] if found.get('mark') == mark(page) else None

def steady(page, differs, was):
    "Differences in cells that don't show something else each time"
    return [difference for difference in differs if difference[1] not in varying(page, was)]

def lasting(page, differs):
    "Of what differs, that which does so in a second run as well. The rest was chance"
    if not differs: return []
    from nbdev.config import get_config
    test_page(page, skip_flags=get_config().tst_flags.split())
    again = {(cell, _lasting(now)) for _, cell, _, now in saw(page) or []}
    return [difference for difference in differs if (difference[1], _lasting(difference[3])) in again]

def verdict():
    "`(lines to tell, lines that fail)` of what was tested"
    was, told, failed = known(), [], []
    for page in pages():
        differs = steady(page, saw(page) or [], was)
        kinds = {difference[0] for difference in differs}
        changed = state(page, was) == 'package' and lasting(page, [o for o in differs if o[0] == 'words'])
        if changed: failed += [_line(page, o) for o in changed]
        elif kinds - {'picture'}: told.append(f'{name(page)} ({", ".join(sorted(kinds))})')
    return told, failed

def _line(page, difference):
    kind, cell, was, now = difference
    return f'{page.relative_to(root).as_posix()}, cell {cell}: stored is {was!r}, and it shows {now!r}'

def listen():
    "From now on nbdev-test compares what it runs. What most notebooks import is loaded once, before they part"
    import nbdev.test
    sys.path.insert(0, str(root))
    for name in ('tl_nbdev.all', 'timm', 'sklearn.linear_model', 'transformers.models.auto.modeling_auto', 'transformers.models.auto.image_processing_auto', 'transformers.models.bert.modeling_bert'):
        with suppress(ImportError): import_module(name)
    _marks.update((page, mark(page)) for page in pages())
    seen.mkdir(exist_ok=True)
    _test_nb()
    nbdev.test.test_nb = test_page

def report():
    "What was seen"
    was = known()
    if left := [page for page in pages() if left_alone(page, was)]: print(f'not run, as they take long and nothing has changed since their outputs were stored (--all runs them): {", ".join(map(name, left))}')
    told, failed = verdict()
    if told: print('shows something else than is stored, by chance, by this machine, or since nobody ran it after a change of the package: ' + ', '.join(told))
    if failed: sys.exit('the package behind these pages has changed, and what is stored is no longer what they show:\n' + '\n'.join(failed) + '\nrun make outputs, look at them, and commit')


# the commands

def listing(found): return ', '.join(page.relative_to(root).as_posix() for page in found)

def check(also_package):
    if old := stale('own'): sys.exit(f'stored outputs are older than their code: {listing(old)}\nrun python tools/outputs.py, look at them, and commit')
    if also_package and (old := stale('package', 'unknown')):
        sys.exit(f'the package behind {len(old)} pages has changed since their outputs were stored: {listing(old)}\nrun python tools/outputs.py, look at them, and commit')

def store(page):
    "Run a page, and keep what it shows"
    if subprocess.run([here/'nbdev-test', '--n-workers', '1', '--save', page], cwd=root).returncode:
        sys.exit(f'{page.relative_to(root)}: it does not run, so its outputs stay as they were')

def renew(page):
    "Run a page whose own code is as it was; its file stays too, where it shows what is stored"
    before = page.read_bytes()
    store(page)
    subprocess.run([here/'nbdev-clean', '--fname', page], cwd=root, check=True)
    if not steady(page, differences(json.loads(before)['cells'], cells(page)), known()): page.write_bytes(before)

def renew_all():
    "Mark what was seen to be as it is stored, with the package as it is; run the rest of what is stale"
    stamp([], {page: [o[1] for o in saw(page) or []] for page in stale('fresh')}) # nothing has changed, and yet they show something else
    was = known()
    stamp([page for page in stale('package', 'unknown') if saw(page) is not None and not steady(page, saw(page), was)])
    for kind, run in dict(own=store, package=renew, unknown=renew).items():
        for page in stale(kind):
            run(page)
            stamp([page])

def main(args):
    if args[:1] == ['--check']: check('--package' in args)
    elif args == ['--stale']:
        for kind, why in dict(own='its own code has changed', package='the package behind it has changed', unknown='what was behind it was not written down').items():
            for page in stale(kind): print(f'{page.relative_to(root).as_posix()}: {why}')
    elif args[:1] == ['--stamp']: stamp([(root/o).resolve() for o in args[1:]] or pages())
    elif args:
        for page in [(root/o).resolve() for o in args]:
            store(page)
            stamp([page])
    else: renew_all()
    if not args or args[0][:2] != '--': subprocess.run([here/'nbdev-clean'], cwd=root, check=True)

if __name__ == '__main__':
    import outputs # by its name, for the processes that run notebooks
    if sys.argv[1:2] != ['--test']: outputs.main(sys.argv[1:])
    else:
        from nbdev.test import nbdev_test
        del sys.argv[1]
        if '--all' in sys.argv or any(o.endswith('.ipynb') for o in sys.argv): os.environ['TL_ALL_PAGES'] = 'yes'
        if '--all' in sys.argv: sys.argv.remove('--all')
        if '--flags' not in sys.argv: outputs.listen() # a device, or hours, show something else
        nbdev_test() # reads the options itself, and exits where a notebook fails
        outputs.report()
