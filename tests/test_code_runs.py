"Programs that nobody has read: whatever they try, they are judged in time, the others as if alone, and nothing of them is left."
import json, os, re, signal, subprocess, sys, tempfile, time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tl_nbdev.base.processes import child_command, child_env
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation import checks, locks
from tl_nbdev.generation.checks import CodeRun, RunLimits, code_of, compiles, judge_code, pass_at_k, run_tests

linux = pytest.mark.skipif(bool(locks.lockable()), reason='only Linux locks a process up')
landlock = pytest.mark.skipif(bool(locks.lockable()) or locks.landlock_version() < 3, reason='a kernel without Landlock')
short = RunLimits(seconds=3, memory=256)

@pytest.fixture(autouse=True)
def own_tmp(tmp_path, monkeypatch):
    "Each test sees which folders and processes are its own"
    (tmp_path/'t').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'t'))
    yield tmp_path/'t'
    assert not [*(tmp_path/'t').iterdir()] and not running(tmp_path)

def running(mark):
    "Processes whose arguments name a folder"
    found = []
    for each in Path('/proc').glob('[0-9]*/cmdline'):
        try: arguments = each.read_bytes()
        except OSError: continue
        if str(mark).encode() in arguments and each.parent.name != str(os.getpid()): found.append(arguments)
    return found

def run(program, tests='', **limits): return run_tests(program, tests, run_code=True, limits=RunLimits(**{'seconds': 30, **limits}))


# what programs try

refused = 'failed', 'PermissionError|not permitted|Permission denied|not allowed|AssertionError|can\'t start'
attempts = {
    'a fork bomb': ('import os\nwhile True: os.fork()', *refused),
    'a fork bomb that goes on': ('import os\nwhile True:\n  try: os.fork()\n  except OSError: pass', 'time', ''),
    'a child that stays': ('import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nimport time; time.sleep(99)', *refused),
    'a program': ('import subprocess\nsubprocess.run(["sleep", "99"])', *refused),
    'a shell': ('import os\nassert os.system("sleep 99 &") == 0', *refused),
    'another program instead': ('import os\nos.execv("/bin/sleep", ["sleep", "99"])', *refused),
    'a spawned program': ('import os\nos.posix_spawn("/bin/sleep", ["sleep", "99"], {})', *refused),
    'multiprocessing': ('import multiprocessing as m\np = m.Process(target=print)\np.start()', *refused),
    'threads without end': ('import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()', *refused),
    'a thread that goes on': ('import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()', 'passed', ''),
    'no end': ('while True: pass', 'time', ''),
    'sleep': ('import time\ntime.sleep(99)', 'time', ''),
    'deaf to all signals': ('import signal\nfor s in range(1, 65):\n  try: signal.signal(s, lambda *a: None)\n  except (OSError, ValueError): pass\nwhile True: pass', 'time', ''),
    'no end in its error': ('class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E', 'time', ''),
    'all memory': ('a = []\nwhile True: a.append(bytearray(10**7))', 'memory', ''),
    'all memory at once': ('a = [0]*10**11', 'memory', ''),
    'an endless file': ('with open("a", "wb") as f:\n  while True: f.write(bytes(10**6))', 'failed', 'File too large'),
    'endless files': ('i = 0\nwhile True:\n  open(str(i), "wb").write(bytes(10**6))\n  i += 1', 'room', ''),
    'countless files': ('i = 0\nwhile True:\n  open(str(i), "wb").close()\n  i += 1', 'room', ''),
    'a gigabyte printed': ('import sys\nfor _ in range(1000): print("x"*10**6)\nprint("x", file=sys.stderr)', 'passed time', ''),
    'its parent killed': ('import os, signal\nos.kill(os.getppid(), signal.SIGKILL)', *refused),
    'its group killed': ('import os\nos.kill(0, 9)', *refused),
    'all killed': ('import os\nos.kill(-1, 9)', *refused),
    'the parent\'s limits': ('import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))', *refused),
    'its own limits': ('import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,)*2)', *refused),
    'a signal by a file': ('import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())', *refused),
    'the parent slowed down': ('import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)', *refused),
    'the network': ('import socket\nsocket.create_connection(("127.0.0.1", 9))', *refused),
    'an address': ('import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)', *refused),
    'a local socket': ('import socket\nsocket.socket(socket.AF_UNIX)', *refused),
    'a name': ('import socket\nsocket.getaddrinfo("localhost", 80)', 'failed', ''),
    'letters by a pair': ('import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)', *refused),
    'the network by a ring': ('import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nassert c.syscall(425, 8, bytes(120)) >= 0', *refused),
    'a fork by its number': ('import ctypes, platform\nc = ctypes.CDLL(None, use_errno=True)\nassert c.syscall({"x86_64": 57}.get(platform.machine(), 220), 17) >= 0', *refused),
    'an early end': ('import sys\nsys.exit(0)', 'exit', 'SystemExit'),
    'an earlier end': ('import os\nos._exit(0)', 'exit', 'status 0'),
    'a crash': ('import ctypes\nctypes.string_at(0)', 'exit', 'SIGSEGV'),
    'an abort': ('import os\nos.abort()', 'exit', 'SIGABRT'),
    'suicide': ('import os\nos.kill(os.getpid(), 9)', 'exit', 'SIGKILL'),
    'a forged verdict': ('import os\nfor fd in range(3, 64):\n  try: os.write(fd, b\'["", "passed", ""]\')\n  except OSError: pass\nos._exit(0)', 'exit', ''),
    'a flooded pipe': ('import os\nfor fd in range(3, 64):\n  try:\n    while True: os.write(fd, b"x"*1000)\n  except OSError: pass', 'exit', ''),
    'closed pipes': ('import os, time\nos.closerange(3, 64)\ntime.sleep(9)', 'exit', ''),
    'a deep call': ('def f(): f()\nf()', 'failed', 'RecursionError'),
    'keyboard': ('input()', 'failed', 'EOFError'),
    'an odd error': ('class E(Exception):\n  def __str__(self): raise ValueError\nraise E', 'failed', '^E$'),
    'an interrupt': ('raise KeyboardInterrupt', 'failed', 'KeyboardInterrupt'),
    'no Python': ('def f(:', 'compile', 'SyntaxError'),
    'half a letter': ('x = "\ud800"', 'compile', 'Unicode'),
    'a zero byte': ('x = "\0"', 'compile', 'null bytes'),
    'a symbolic link': ('import os\nos.symlink("/etc/passwd", "a")', *refused),
    'a pipe with a name': ('import os\nos.mkfifo("a")', *refused),
    'a folder nobody can remove': ('import os\nos.mkdir("a", 0)', *refused),
    'a file nobody can remove': ('import os\nopen("a", "w").close()\nos.chmod("a", 0)', *refused),
    'another folder': ('import os\nos.chdir("/")', *refused)}

@landlock
def test_whatever_they_try_they_are_judged_and_others_are_as_if_alone():
    "Each between two that are right and one that is wrong, four at a time"
    right, wrong = 'def f(x): return 2*x', 'def f(x): return x*x'
    written, tests = [], []
    for program, *_ in attempts.values():
        written += [[program, right], [wrong]]
        tests += ['if "f" in dir() and callable(f): assert f(3) == 6', 'assert f(3) == 6']
    begun = time.monotonic()
    made = judge_code(written, tests, run_code=True, extract=False, limits=short, workers=4)
    assert time.monotonic() - begun < 60
    got = {name: made.runs[2*i][0] for i, name in enumerate(attempts)}
    for name, (_, verdict, why) in attempts.items(): assert got[name].verdict in verdict.split() and re.search(why, got[name].why), (name, got[name])
    assert all(runs[1].passed for runs in made.runs[::2]) and {runs[0].verdict for runs in made.runs[1::2]} == {'failed'}
    n = len(attempts)
    passed = sum(run.passed for run in got.values())
    assert made.scores['pass@1'].value == pytest.approx((n + passed)/2/(2*n))

fine = {
    'threads': 'import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()',
    'asyncio': 'import asyncio\nasync def f(): await asyncio.sleep(.01)\nasyncio.run(f())',
    'a pair of sockets': 'import socket\na, b = socket.socketpair()\na.send(b"x")\nassert b.recv(1) == b"x"',
    'files of its own': 'import os, shutil\nos.makedirs("a/b")\nopen("a/b/c", "w").write("x")\nos.rename("a/b/c", "d")\nassert open("d").read() == "x"\nshutil.rmtree("a")\nos.remove("d")',
    'a folder for a while': 'import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + "/x", "w").write("a")',
    'an alarm': 'import signal\ndef h(*a): raise TimeoutError\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, .05)\ntry: signal.pause()\nexcept TimeoutError: pass',
    'chance': 'import random, secrets, uuid\nrandom.random(), secrets.token_hex(), uuid.uuid4()',
    'the clock': 'import time, datetime\ntime.sleep(.01), datetime.datetime.now()',
    'a dataclass': 'from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A: x: int\nassert A(1).x == 1',
    'no demonstration': 'if __name__ == "__main__": input()',
    'numpy': 'import numpy as np\nassert (np.ones((50, 50)) @ np.ones((50, 50)))[0, 0] == 50',
    'an empty environment': 'import os\nassert "PYTHONPATH" not in os.environ and "TL_CACHE" not in os.environ and not os.listdir()',
    'much to read': 'x = """' + 'a'*900_000 + '"""'}

@linux
@pytest.mark.parametrize('name', fine)
def test_what_programs_need_is_there(name):
    if name in ('files of its own', 'a folder for a while') and locks.landlock_version() < 3: pytest.skip('nothing can be written')
    assert run(fine[name], seconds=10) == CodeRun('passed')

@landlock
def test_nobody_elses_files(tmp_path):
    mine = tmp_path/'mine.txt'
    mine.write_text('secret', encoding='utf-8')
    for deed in (f'open({str(mine)!r}).read()', f'open({str(mine)!r}, "a")', f'import os; os.remove({str(mine)!r})', f'import os; os.rename({str(mine)!r}, "a")',
                 f'import os; os.truncate({str(mine)!r}, 0)', f'import os; os.mkdir({str(tmp_path/"new")!r})', 'open("../job.json").read()', 'open("/etc/passwd").read()',
                 'import os; open(f"/proc/{os.getppid()}/environ").read()', f'import os; os.listdir({str(tmp_path)!r})', 'open("/dev/tty", "w")'):
        got = run(deed)
        assert got.verdict == 'failed' and re.search('Permission|not permitted|No such', got.why), (deed, got)
    assert mine.read_text(encoding='utf-8') == 'secret' and sorted(each.name for each in tmp_path.iterdir()) == ['mine.txt', 't']

@linux
def test_without_landlock_nothing_can_be_written(tmp_path):
    mine = tmp_path/'mine.txt'
    mine.write_text('x', encoding='utf-8')
    for deed in ('open("a", "w")', f'open({str(mine)!r}, "a")', f'open({str(mine)!r}, "r+")', f'import os; os.remove({str(mine)!r})', f'import os; os.rename({str(mine)!r}, "a")',
                 'import os; os.mkdir("a")', f'import os; os.open({str(mine)!r}, os.O_TRUNC)', f'import os; os.truncate({str(mine)!r}, 0)'):
        assert run(deed, landlock=False).verdict == 'failed', deed
    assert mine.read_text(encoding='utf-8') == 'x' and run(f'assert open({str(mine)!r}).read() == "x"', landlock=False).passed

@landlock
def test_folders_deeper_than_a_path_are_removed():
    "A tree is moved below another, again and again"
    deep = 'import os\nfor i in range(12):\n  p = "n"\n  for _ in range(70):\n    os.mkdir(p)\n    p += "/" + "n"*20\n  if os.path.exists("o"): os.rename("o", p)\n  os.rename("n", "o")'
    assert run(deep, seconds=20).verdict in ('passed', 'failed', 'room')

@linux
def test_limits_are_as_they_are_said(tmp_path):
    assert run('x = bytearray(300 << 20)', memory=256).verdict == 'memory' and run('x = bytearray(300 << 20)', memory=1024).passed
    assert run('import time\ntime.sleep(.7)', seconds=.3).verdict == 'time' and run('import time\ntime.sleep(.3)', seconds=30).passed
    if locks.landlock_version() < 3: return
    assert run('open("a", "wb").write(bytes(3 << 20))', file_size=2).verdict == 'failed' and run('open("a", "wb").write(bytes(3 << 20))', file_size=4).passed

@linux
def test_tests_see_what_was_written_and_two_runs_have_one_order():
    assert run('def f(): return 1', 'assert f() == 1').passed and run('def f(): return 1', 'assert g() == 1').why.startswith('NameError')
    order = {run(f'raise ValueError(list({{{", ".join(map(repr, "abcdefgh"))}}}))').why for _ in range(3)}
    assert len(order) == 1

@linux
def test_it_ends_with_its_parent(tmp_path):
    "Also where the parent is killed"
    code = f'''import tempfile
tempfile.tempdir = {str(tmp_path/"t")!r}
from tl_nbdev.generation.checks import RunLimits, run_tests
run_tests('import time; time.sleep(60)', run_code=True, limits=RunLimits(seconds=60))'''
    parent = subprocess.Popen(child_command(code), env=child_env())
    ends = time.monotonic() + 60
    while not (there := [each for each in running(tmp_path) if b'job.json' in each]) and time.monotonic() < ends: time.sleep(.05)
    assert there
    time.sleep(.5) # it is locked by now
    parent.kill()
    parent.wait()
    while running(tmp_path) and time.monotonic() < ends: time.sleep(.05)
    assert not running(tmp_path)
    subprocess.run(['rm', '-rf', *map(str, (tmp_path/'t').iterdir())])

@linux
def test_an_interrupt_ends_what_runs_and_what_waits(monkeypatch):
    seen = []
    def stopped(*args, **kwargs):
        seen.append(1)
        raise KeyboardInterrupt
    monkeypatch.setattr(checks, '_heard', stopped)
    with pytest.raises(KeyboardInterrupt): judge_code(['while True: pass']*50, ['']*50, run_code=True)
    assert len(seen) < 50


# what is said

def test_nothing_runs_unasked(tmp_path):
    deed = f'open({str(tmp_path/"was_here")!r}, "w")'
    for no in (False, None, 1, 'yes', 0):
        with pytest.raises(TransferError, match='run_code=True') as e: run_tests(deed, run_code=no)
        assert '\n' not in str(e.value)
        made = judge_code([deed], [''], run_code=no)
        assert made.runs is None and list(made.scores) == ['compiles'] and 'run_code=True' in made.table().about
    assert not (tmp_path/'was_here').exists()

def test_elsewhere_it_is_one_line_and_what_compiles(monkeypatch):
    monkeypatch.setattr(checks, 'lockable', lambda: 'a process can be locked up on Linux only, and this is Windows')
    with pytest.raises(TransferError, match='Linux only'): run_tests('1', run_code=True)
    made = judge_code(['x = 1', 'x ='], ['', ''], run_code=True)
    assert made.scores['compiles'].value == .5 and 'Windows' in made.note and made.runs is None

@pytest.mark.parametrize('system, machine, said', [('win32', 'AMD64', 'Linux only'), ('darwin', 'arm64', 'Linux only'), ('linux', 'riscv64', 'riscv64'), ('linux', 'x86_64', ''), ('linux', 'aarch64', '')])
def test_where_a_process_can_be_locked_up(system, machine, said, monkeypatch):
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.setattr(locks.platform, 'machine', lambda: machine)
    assert said in locks.lockable() and bool(said) == bool(locks.lockable())

def test_a_kernel_that_does_not_lock_runs_nothing():
    done = SimpleNamespace(wait=lambda: 0)
    with pytest.raises(TransferError, match='nothing was run') as e: checks._ended(done, b'["w", "unlocked", "OSError: no"]', '', 'w')
    assert '\n' not in str(e.value) and checks._ended(done, b'["v", "unlocked", ""]', '', 'w')[0] == 'exit'

@pytest.mark.parametrize('written, tests, kwargs, words', [
    (['x'], ['a', 'b'], {}, '1 answers and 2 tests'), (['x'], ['assert'], {}, 'item 0 don\'t compile'), ([[]], [''], {}, 'item 0 is no program'), ([3], [''], {}, 'item 0'), ([None], [''], {}, 'item 0'),
    ('x', [''], {}, 'give a list'), ([], [], {}, 'no items'), (['x'], [''], dict(ks=(2,)), 'pass@2'), (['x'], [''], dict(ks=(0,)), 'pass@0'), (['x'], [''], dict(before=['a', 'b']), '2 before'),
    (['x'], [None], {}, 'item 0')])
def test_odd_things_are_one_line(written, tests, kwargs, words):
    with pytest.raises(TransferError, match=words) as e: judge_code(written, tests, **kwargs)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('name', ['seconds', 'memory', 'file_size', 'room'])
@pytest.mark.parametrize('value', [0, -1, None, 'x', float('nan'), float('inf')])
def test_odd_limits_are_one_line(name, value):
    with pytest.raises(TransferError, match=name): RunLimits(**{name: value})

@linux
def test_a_completion_stands_between_its_beginning_and_its_end():
    made = judge_code(['    return 2*x\n', '```python\n    return x\n```'], ['assert f(3) == 6']*2, run_code=True, before=['def f(x):\n']*2, after=['\ny = 1']*2, limits=short)
    assert [runs[0].verdict for runs in made.runs] == ['passed', 'failed'] and made.scores['compiles'].value == 1

@pytest.mark.parametrize('answer, code', [('x', 'x'), ('```\nx\n```', 'x\n'), ('a\n```js\ny\n```\n```python\nx\n```', 'x\n'), ('```python\nx', 'x'), ('````py\n```\n````', '```\n'), ('`x`', '`x`'),
                                          ('1. so\n   ```python\n   x\n   ```', '   x\n'), ('```python title="a"\nx\n```', 'x\n'), ('```\n```', '')])
def test_code_of_an_answer(answer, code): assert code_of(answer) == code

deep = 60_000
odd_programs = ['('*deep, '-'*deep + '1', 'not '*deep + '1', 'a' + '.a'*deep, 'a' + '()'*deep, 'lambda:'*deep + '1', '2**'*deep + '2', 'x=' + '9'*deep, 'if 1: pass\n' + 'elif 1: pass\n'*deep,
                'a\0b', '"\ud800"', 'return', '\t x\n\tx', 'x = 1' + ' '*2_000_000]

@pytest.mark.parametrize('code', odd_programs, ids=range(len(odd_programs)))
def test_what_does_not_compile_does_no_harm(code): assert compiles(code) is False

def test_what_compiles(recwarn): assert compiles('') and compiles('x = "\\d"\nx is 1') and compiles('x = 2**10**9') and not len(recwarn)

def test_pass_at_k_is_unbiased():
    "The mean of the estimate over what might have been written is what it estimates"
    from math import comb
    for p in (.1, .5, .9):
        for n, k in ((5, 1), (5, 3), (8, 8)):
            mean = sum(comb(n, c)*p**c*(1 - p)**(n - c)*pass_at_k(n, c, k) for c in range(n + 1))
            assert mean == pytest.approx(1 - (1 - p)**k)


# the filter, instruction by instruction

def asked(steps, arch, number, *arguments):
    "What a filter says of a call: `allow`, an error number, or `kill`"
    import struct
    data, value, at = struct.pack('<iIQ6Q', number if number < 1 << 31 else number - (1 << 32), arch, 0, *[*arguments, *[0]*(6 - len(arguments))]), 0, 0
    while True:
        code, yes, no, k = struct.unpack_from('=HBBI', steps, 8*at)
        at += 1
        if code == 0x20: value, = struct.unpack_from('<I', data, k)
        elif code == 0x54: value &= k
        elif code == 0x15: at += yes if value == k else no
        elif code == 0x35: at += yes if value >= k else no
        else: return {0x7fff0000: 'allow', 0x80000000: 'kill'}.get(k, k & 0xffff)

@pytest.mark.parametrize('machine, arch, column', [('x86_64', 0xc000003e, 0), ('aarch64', 0xc00000b7, 1)])
@pytest.mark.parametrize('writes', [True, False])
def test_what_the_filter_says(machine, arch, column, writes):
    steps, here = locks.call_filter(machine, 77, writes), -100 & (1 << 64) - 1
    def ask(numbers, *arguments): return asked(steps, arch, numbers[column], *arguments)
    assert ask((0, 63)) == ask((9, 222)) == ask((231, 94)) == 'allow' and asked(steps, 0x40000003, 0) == 'kill'
    for number in ((57, 1079), (59, 221), (41, 198), (425, 425), (101, 117), (161, 51), (272, 97), (319, 279), (9999, 9999)): assert ask(number) == 1, number
    assert ask((435, 435)) == 38 and ask((56, 220), 0x3d0f00) == 'allow' and ask((56, 220), 17) == ask((56, 220), 0x1200011) == 1 and ask((56, 220), 0x10010000) == 1
    assert ask((62, 129), 77) == 'allow' and ask((62, 129), 78) == ask((62, 129), (1 << 64) - 1) == ask((62, 129), 0) == 1
    assert ask((257, 56), here, 0, 0o2000000) == 'allow' and ask((257, 56), here, 0, 0o102) == ('allow' if writes else 1) and ask((257, 56), here, 0, 0o1000) == ('allow' if writes else 1)
    assert ask((258, 34), here, 0, 0o777) == ('allow' if writes else 1) and ask((258, 34), here, 0, 0o077) == ask((258, 34), 5, 0, 0o777) == 1
    assert ask((263, 35)) == ask((264, 38)) == ('allow' if writes else 1)
    assert ask((53, 199), 1, 0o2000001) == 'allow' and ask((53, 199), 1, 2) == ask((53, 199), 2, 1) == 1
    assert ask((72, 25), 3, 1) == 'allow' and ask((72, 25), 3, 8) == 1 and ask((16, 29), 0, 0x5401) == 'allow' and ask((16, 29), 0, 0x5412) == 1
    assert ask((302, 261), 0) == ask((302, 261), 77) == 'allow' and ask((302, 261), 78) == 1
    if machine == 'x86_64': assert asked(steps, arch, 0x40000000) == 38 and ask((2,), 0, 0) == 'allow' and ask((2,), 0, 0o101) == ('allow' if writes else 1)

headers = {'x86_64': Path('/usr/include/x86_64-linux-gnu/asm/unistd_64.h'), 'aarch64': Path('/usr/include/asm-generic/unistd.h')}

@pytest.mark.parametrize('machine', headers)
def test_numbers_are_those_of_the_kernel(machine):
    if not headers[machine].is_file(): pytest.skip('the headers of the kernel are not installed')
    said = {name.replace('fstatat', 'newfstatat').replace('newnew', 'new'): int(number)
            for name, number in re.findall(r'#define __NR(?:3264)?_(\w+) (\d+)', headers[machine].read_text(encoding='utf-8'))}
    for name, number in locks.numbers_of(f'{locks._known}, {locks._changes}', machine).items(): assert said.get(name) == number, name
