"Processes of the tests that begin as copies of one which has imported the libraries: it would take each of them seconds. The package itself is imported by each anew."
import json, os, socket, subprocess, sys, tempfile
from functools import cache

# What takes seconds to import; nothing is computed before a process is copied, as torch's threads are not.
libraries = '''import fastai.basics, fastai.vision.all, matplotlib.figure, pandas, safetensors.torch, scipy.stats, sklearn.linear_model, timm, torchvision
import torch._dynamo # as torchvision does
from PIL import Image
Image.init()
import transformers.models.auto.modeling_auto, transformers.models.bert.modeling_bert, transformers.models.llama.modeling_llama
'''

# Listens at a socket. Whoever connects says what is to be done, and gives it two files to write to; a copy of the process does it, another waits for its end and tells
_server = '''
import atexit, json, os, shutil, signal, socket, sys, tempfile, threading, traceback
import torch
torch.set_num_threads(1)
''' + libraries + '''
def carry_out(code, args, env, cwd):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None # that of the environment
    sys.argv = ['-c', *args]
    if 'PYTHONSAFEPATH' in env: sys.path.remove('')
    sys.path[:0] = [o for o in env.get('PYTHONPATH', '').split(os.pathsep) if o]
    assert 'tl_nbdev' not in sys.modules
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try: exec(compile(code, '<string>', 'exec'), {'__name__': '__main__', '__builtins__': __builtins__})
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        if status and not isinstance(e.code, int): print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for out in sys.stdout, sys.stderr: out.flush()
    os._exit(status)

def answer(to):
    said, files, _, _ = socket.recv_fds(to, 4, 2)
    size, said = int.from_bytes(said, 'big'), b''
    while len(said) < size: said += to.recv(1 << 20)
    if not (child := os.fork()):
        to.close()
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        for each in files: os.close(each)
        carry_out(*json.loads(said))
    to.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)

signal.signal(signal.SIGCHLD, signal.SIG_DFL)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
with socket.socket(socket.AF_UNIX) as door:
    door.bind(sys.argv[1])
    door.listen()
    os.rename(sys.argv[1], sys.argv[1] + '.open')
    parent = os.getppid()
    door.settimeout(1)
    while os.getppid() == parent:
        try: to, _ = door.accept()
        except TimeoutError:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]: pass
            except ChildProcessError: pass
            continue
        if not os.fork():
            door.close()
            answer(to)
        to.close()
shutil.rmtree(os.path.dirname(sys.argv[1]))
'''

@cache
def _door():
    "Where the server listens; it ends with this process"
    folder = tempfile.mkdtemp(dir='/tmp') # a socket's path is short
    door = f'{folder}/door'
    process = subprocess.Popen([sys.executable, '-c', _server, door], stdin=subprocess.DEVNULL)
    while not os.path.exists(f'{door}.open'):
        assert process.poll() is None, 'the server of children did not start'
        try: process.wait(.05)
        except subprocess.TimeoutExpired: pass
    return f'{door}.open'

def _forked(code, args, env, cwd, files):
    "Status of a copy of the server that does it"
    said = json.dumps([code, args, env, str(cwd)]).encode()
    with socket.socket(socket.AF_UNIX) as to:
        to.connect(_door())
        socket.send_fds(to, [len(said).to_bytes(4, 'big')], [o.fileno() for o in files])
        to.sendall(said)
        return int(to.recv(16) or 1)

def python(code, *args, env=None, cwd=None):
    "`python -c code args`, ended: `returncode`, `stdout` and `stderr`"
    args, env, cwd = [*map(str, args)], dict(os.environ if env is None else env), cwd or os.getcwd()
    if not hasattr(socket, 'send_fds') or not hasattr(os, 'fork') or sys.platform == 'darwin':
        return subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, encoding='utf-8', errors='replace', env=env, cwd=cwd)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = _forked(code, args, env, cwd, (out, err))
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode('utf-8', 'replace'))
    return subprocess.CompletedProcess(['python', '-c', code, *args], status, *texts)

def run(command, env=None, **kwargs):
    "`subprocess.run` of a command of the package's own (`child_command`), whose output is read"
    interpreter, safe, c, code, *args = command
    assert (interpreter, safe, c) == (sys.executable, '-P', '-c'), command
    return python(code, *args, env=env)
