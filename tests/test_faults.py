"Every command that writes, and every fault of a disk: it ends as tests/faults.py says."
import errno, io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import fuzz
import pytest
import torch
from conftest import die, killed
from faults import ends, writes
from tl_nbdev.apps import cli; from tl_nbdev.base import disk, keep

@pytest.fixture(scope='module')
def there(tmp_path_factory):
    "Models, photos and texts that commands can be given"
    torch.set_num_threads(1) # threads don't outlive a fork
    root = tmp_path_factory.mktemp('there')
    return dict(zip(('images', 'texts', 'photos', 'table'), fuzz.prepare_options(root)))

def argv(command, o):
    "A command that takes a second or two"
    small = ['--size', 32, '--bs', 4]
    return {'train': [o['photos'], '--model', o['images'], '--epochs', 1, *small], 'compare': [o['photos'], '--models', o['images'], '--strategies', 'feature', '--epochs', 1, *small],
            'advise': [o['photos'], '--models', o['images'], '--strategies', 'feature', '--budget', 20, *small], 'adapt': ['--texts', o['table'], '--text', 'text', '--model', o['texts'], '--steps', 2, '--block', 12, '--new-head'],
            'eval': [o['images'], o['photos']], 'predict': [o['images'], o['photos']], 'audit': [o['photos']], 'gap': [o['photos'], o['photos'], '--model', o['images'], '--size', 32],
            'demo': [o['photos'], '--model', o['images'], '--strategies', 'feature', '--epochs', 1, '--size', 32]}.get(command, [])

def tl(name, words):
    "`tl-name words`, where the file of `--json` may be anything"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): status = getattr(cli, f'tl_{name}')([*map(str, words)])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())

def tree(folder): return {o.relative_to(folder).as_posix(): o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

def take(target, option, command):
    "Put something of somebody's where a command would write"
    if option == '--json': target.write_text('file,label\n')
    elif option == '--runs': target.write_text('mine')
    elif command in ('advise', 'demo'):
        (target/'model').mkdir(parents=True)
        (target/'model'/'thesis.docx').write_text('five years')
    else:
        target.mkdir()
        (target/'thesis.docx').write_text('five years')

def one_line(got):
    lines = [o for o in got.err.splitlines() if o.startswith('tl-') and 'checkpoint could not' not in o and "cache can't" not in o]
    assert got.status == 1 and len(lines) == 1 and '--debug shows where' not in lines[0], got
    return lines[0]

cases = [(command.removeprefix('tl-'), option) for command, options in writes.items() for option in options]

def test_every_command_that_writes_is_in_the_table():
    for name in cli.__all__:
        takes = {f'--{o.dest}' for o in getattr(cli, name).parser._actions} & {'--out', '--runs', '--json'}
        assert takes == set(writes[name.replace('_', '-')]), name

@pytest.mark.parametrize('fault', ends)
@pytest.mark.parametrize('command, option', cases)
def test_it_ends_as_the_table_says(command, option, fault, there, tmp_path, monkeypatch):
    target = tmp_path/'place'/('out.json' if option == '--json' else 'out')
    target.parent.mkdir()
    monkeypatch.chdir(there['images'].parent) # where a command has a default, it writes there
    words = [*argv(command, there), option, target]
    if fault == 'taken': take(target, option, command)
    before = tree(tmp_path)
    inside = lambda path: Path(path).resolve().is_relative_to(target.parent)
    real = disk._flush
    if fault == 'readonly':
        def no_file(dir=None, **kwargs): raise OSError(errno.EROFS, 'Read-only file system')
        monkeypatch.setattr(keep.tempfile, 'TemporaryFile', no_file)
    if fault == 'full':
        def full(path):
            if inside(path): raise OSError(errno.ENOSPC, 'No space left on device')
            real(path)
        monkeypatch.setattr(disk, '_flush', full)
    if fault == 'killed':
        monkeypatch.setattr(disk, '_flush', lambda path: die() if inside(path) else real(path))
        assert killed(lambda: tl(command, words))
        assert not target.exists() or command in ('compare', 'advise', 'demo') # whose folders grow
        assert all(o.startswith('place/.') or '/.' in o for o in tree(tmp_path)) # not under its name
        return
    got = tl(command, words)
    said = one_line(got)
    if fault == 'full':
        assert 'No space left on device' in said
        assert got.out or command == 'adapt'
        assert not target.is_file() and not (target/'transfer.json').exists()
    else: assert tree(tmp_path) == before
    if fault == 'readonly': assert 'Read-only file system' in said
