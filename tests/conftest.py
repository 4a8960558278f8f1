"What the tests share: a cache of their own, small photos that can be learned, the commands in this process and in one of their own, a trained model."
import io, json, os, shutil, signal, subprocess, sys, tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
import children
from tl_nbdev.apps import cli
from tl_nbdev.base.schema import sealed
from tl_nbdev.base.settings import settings

# A shell's background job ignores an interrupt, and its children would; tests send some.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that take minutes begin first, so that no core is idle while the last of them runs.
_long = 'test_dashboard', 'test_site', 'test_jobs', 'test_wall', 'test_adapt', 'test_image_networks'

def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(_long)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))

small = ['--model', 'squeezenet1_1', '--size', 64, '--epochs', 2] # a training of a second

@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    "A cache without anything remembered; samples that the user has fetched already are not fetched again"
    kept, own = settings().cache/'samples', tmp_path_factory.mktemp('cache')
    kept.mkdir(parents=True, exist_ok=True)
    (own/'samples').symlink_to(kept.absolute())
    with pytest.MonkeyPatch.context() as mp: # what is measured on a machine must not decide a test
        for k, v in dict(CACHE=own, DEVICE='cpu', PRECISION='fp32', LAYOUT='contiguous', OFFLINE='no').items(): mp.setenv(f'TL_{k}', str(v))
        yield own

@pytest.fixture(scope='session', autouse=True)
def copied():
    "What is saved is checked in a process that need not import its libraries anew"
    from tl_nbdev.training import saving
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(saving, 'subprocess', SimpleNamespace(run=children.run))
        yield

@pytest.fixture(scope='module', autouse=True)
def temporary(tmp_path_factory):
    "A folder for what the tests of a file lay down by the way, and its removal: a disk is soon full"
    tmp_path_factory.getbasetemp() # pytest's own folders are beside it
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777) # as the folder above is, for tests of another user
    with pytest.MonkeyPatch.context() as mp:
        mp.setenv('TMPDIR', folder)
        mp.setattr(tempfile, 'tempdir', folder)
        yield
    if os.name == 'posix': subprocess.run(['rm', '-rf', folder]) # some are deeper than Python follows
    else: shutil.rmtree(folder, ignore_errors=True)



# photos

_shapes = dict(round=('ellipse', 'tomato'), square=('rectangle', 'royalblue'), line=('line', 'gold'))

def photo(kind, seed=0, size=48):
    "A shape on noise, each kind in a colour of its own"
    rng, (shape, colour) = np.random.default_rng([seed, len(kind)]), _shapes[kind]
    im = Image.fromarray(rng.integers(0, 60, (size, size, 3), dtype=np.uint8))
    x, y = rng.integers(2, size//3, 2).tolist()
    getattr(ImageDraw.Draw(im), shape)([x, y, x + size//2, y + size//2], fill=colour)
    return im

def photos(to, n=6, kinds=('round', 'square')):
    "A folder of class folders, `n` different photos in each"
    for kind in kinds:
        (to/kind).mkdir(parents=True, exist_ok=True)
        for i in range(n): photo(kind, i).save(to/kind/f'{kind}{i}.png')
    return to

def scenes(to, n=20):
    "Photos of two coloured rectangles on noise, with their boxes"
    from tl_nbdev.boxes.coco import write_coco
    from tl_nbdev.boxes.table import box_table
    rng, images, boxes = np.random.default_rng(0), [], []
    to.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        wide, high = map(int, rng.integers(60, 120, 2))
        pixels = rng.integers(120, 255, (high, wide, 3), dtype=np.uint8)
        images.append(dict(item=to/f'{i:02}.png', width=wide, height=high))
        for label, (w, h), colour in (('square', (20, 20), (220, 20, 20)), ('bar', (36, 10), (20, 20, 220))):
            x, y = int(rng.integers(0, wide - w)), int(rng.integers(0, high - h))
            pixels[y:y + h, x:x + w] = colour
            boxes.append(dict(image=i, label=label, x0=x, y0=y, x1=x + w, y1=y + h))
        Image.fromarray(pixels).save(to/f'{i:02}.png')
    write_coco(box_table(images, boxes), to/'annotations.json')
    return to


# commands

def _strict(text): return json.loads(text, parse_constant=lambda o: pytest.fail(f'{o} is no JSON'))

def tl(name, *argv):
    "`tl-name argv` in this process: `status`, `out`, `err`, and `json` where it was asked for"
    argv, out, err = [*map(str, argv)], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): status = getattr(cli, f'tl_{name}')(argv)
    file = Path(argv[argv.index('--json') + 1]) if '--json' in argv else None
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue(), json=_strict(file.read_text('utf-8')) if file and file.is_file() else None)

def refused(got, *words):
    "Was it refused by one line that holds `words`, and that somebody wrote for this case?"
    assert got.status == 1, got
    assert got.err.startswith('tl-') and got.err.count('\n') == 1 and got.err.endswith('\n'), got.err
    assert '--debug shows where' not in got.err, got.err
    for w in words: assert w in got.err

def start(name, *argv, process_group=None, **env):
    "`tl-name argv` as a process of its own"
    script = Path(sys.executable).with_name(f'tl-{name}')
    return subprocess.Popen([script, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=process_group,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), # a shell's background job ignores it, and so would its children
                            env={**os.environ, 'PYTHONUNBUFFERED': '1', **env})

def run(name, *argv, **env):
    "The same, ended: `status`, `out`, `err`"
    p = start(name, *argv, **env)
    out, err = p.communicate()
    return SimpleNamespace(status=p.returncode, out=out, err=err)


# a model

@pytest.fixture(scope='session')
def model(tmp_path_factory):
    "A trained, saved model of round and square: its `folder`, its `data`, and the `report` of the run"
    to = tmp_path_factory.mktemp('model')
    data = photos(to/'photos', 12)
    got = tl('train', data, *small, '--epochs', 20, '--out', to/'saved', '--json', to/'report.json')
    assert got.status == 0, got.err
    return SimpleNamespace(folder=to/'saved', data=data, report=got.json)


def edited(where, change, seal=True):
    "Change what a record says, of a model where a folder is named, and make its seal anew"
    file = where/'transfer.json' if where.is_dir() else where
    info = change({k: v for k, v in json.loads(file.read_text('utf-8')).items() if k != 'seal'})
    file.write_text(json.dumps(sealed(info) if seal and isinstance(info, dict) else info), 'utf-8')


# killed processes

def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)

def killed(f):
    "Do `f` in a child of this process: was it killed on the way?"
    if not (child := os.fork()):
        try: f()
        finally: os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# a hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub on loopback with nothing on it yet, for this process and its children, and a cache of its own"
    from huggingface_hub import constants, hf_api
    from hub import Hub
    home = tmp_path/'hub_home'
    with Hub() as made:
        set_ = dict(ENDPOINT=made.url, HUGGINGFACE_CO_URL_TEMPLATE=made.url + '/{repo_id}/resolve/{revision}/{filename}',
                    HF_HOME=str(home), HF_HUB_CACHE=str(home/'hub'), HUGGINGFACE_HUB_CACHE=str(home/'hub'),
                    HF_TOKEN_PATH=str(home/'token'), HF_STORED_TOKENS_PATH=str(home/'stored_tokens'), HF_XET_CACHE=str(home/'xet'),
                    HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True)
        for name, value in set_.items(): monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, 'endpoint', made.url)
        env = dict(HF_ENDPOINT=made.url, HF_HOME=str(home), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
        for name, value in env.items(): monkeypatch.setenv(name, value)
        for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE'): monkeypatch.delenv(name, raising=False)
        yield made

def clocked(monkeypatch, seconds):
    "Let the time be our own: it passes only while a network sees items, so many seconds each"
    import time
    import tl_nbdev.training.phases as phases
    from fastai.basics import Learner, find_bs
    from tl_nbdev.networks.heads import Network
    from tl_nbdev.networks.passes import FrozenItems
    now = [1000.]
    def slow(cls, name, items):
        real = getattr(cls, name)
        def slowly(*args, **kwargs):
            now[0] += seconds*len(items(*args, **kwargs))
            return real(*args, **kwargs)
        monkeypatch.setattr(cls, name, slowly)
    slow(Learner, '_do_one_batch', lambda learn: range(find_bs(learn.xb) if isinstance(learn.model, Network) else 0)) # rows cost nothing
    for kind in (FrozenItems, *FrozenItems.__subclasses__()):
        if 'run' in vars(kind): slow(kind, 'run', lambda frozen, x: x)
    slow(phases, '_step', lambda learn, net, x, y: x[0])
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
    return now
