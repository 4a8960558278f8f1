"A hosted service on loopback for tests: files to send, a service that fails when asked to, and the command as a shell sees it."
import io, json, os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

from tl_nbdev.apps.host import tl_host
from tl_nbdev.hosted.rehearsal import Rehearsal

key = 'secret-word-of-nobody-0123456789'
cities = dict(Peru='Lima', Chile='Santiago', Cuba='Havana', Kenya='Nairobi', Norway='Oslo', Japan='Tokyo')

def example(land, city, n=1, **more):
    "One line of a file"
    return dict(messages=[dict(role='user', content=f'What is the capital of {land}, asked for the {n}. time?'), dict(role='assistant', content=city, **more)])

examples = [example(*pair, n) for pair in cities.items() for n in range(3)]

def jsonl(path, records):
    "Records, or lines as they are, one a line"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    Path(path).write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return Path(path)

@contextmanager
def served(monkeypatch, **about):
    "A service, whose address and key are in the environment"
    with Rehearsal(key, **about) as service:
        monkeypatch.setenv('OPENAI_BASE_URL', service.url)
        monkeypatch.setenv('OPENAI_API_KEY', key)
        yield service

def host(*argv):
    "`tl-host argv` in this process: `status`, `out`, `err`"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try: status = tl_host([*map(str, argv)])
        except SystemExit as e: status = e.code
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())

def one_line(got, *words):
    "Was it refused in one line that holds `words`?"
    assert got.status == 1 and got.err.count('\n') == 1 and got.err.startswith('tl-host '), got
    assert '--debug shows where' not in got.err, got.err
    for word in words: assert word in got.err, got.err
    return got

def written(folder):
    "All that is in the files of a folder"
    return b'\n'.join(file.read_bytes() for file in sorted(Path(folder).rglob('*')) if file.is_file())
