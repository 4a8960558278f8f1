"Several processes train as one: two of them, on a CPU, forked from one that has imported everything."
import json, os, signal, socket, sqlite3, subprocess, sys, threading, time
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from children import libraries
from conftest import photos
from fastai.basics import SGD, Callback
from torch import nn
from tl_nbdev.base.ranks import rank
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.passes import Mode
from tl_nbdev.training.devices import to_start
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.vision.images import ImageTask

server = libraries + '''
import contextlib, io, json, os, signal, sys, time, traceback
import torch
torch.set_num_threads(1)
from torch import nn
from fastai.basics import Callback, SGD
from tl_nbdev.all import *
from tl_nbdev.networks.passes import Mode
from tl_nbdev.networks import turns
from tl_nbdev.training.learner import watched
from tl_nbdev.training.loop import KeepState
from tl_nbdev.vision.features import Frozen, weights_hash
from tl_nbdev.apps import train as apps_train

class Dies(Callback):
    "Kill this process after so many batches of training"
    order, n = 90, 0
    def __init__(self, at): self.at = at
    def after_batch(self):
        self.n += self.training
        if self.n == self.at: os.kill(os.getpid(), signal.SIGKILL)

class Sees(Callback):
    "What a process was given"
    order = -30
    def __init__(self): self.sizes, self.valid = [], []
    def after_batch(self): (self.sizes if self.training else self.valid).append(len(self.xb[0]))

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(.3)
        return x

def small(seed=3, slow=False, odd=False):
    torch.manual_seed(seed)
    convs = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*[Slow()]*slow, *convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())

def scenario(data, out, how='full', epochs=2, bs=8, folder=None, stop=None, seed=0, slow=False, opt='SGD', transfer={}, setup={}, lose=None, shell=None, net=3, least=32, cache=None, again=False):
    if shell: return dict(status=apps_train.main(shell))
    if cache: os.environ['TL_CACHE'] = cache
    me = int(os.environ.get('RANK', 0))
    counted = []
    run = Frozen.__call__
    def count(self, x):
        counted.append(len(x))
        if lose is not None and lose[0] == me and len(counted) == lose[1]: os.kill(os.getpid(), signal.SIGKILL)
        return run(self, x)
    Frozen.__call__, turns._least = count, least
    KeepState.often = 0.
    task = ImageTask.from_folder(data if isinstance(data, str) else data[me])
    given = dict(size=32, bs=bs, seed=seed, mode=Mode(), **setup)
    if opt == 'SGD': given['opt_func'] = SGD
    learn = transfer_learner(task, small(net, slow), **given)
    counted.clear()
    sees = Sees()
    dies = [Dies(stop[1])] if stop and stop[0] in (me, 'all') else []
    with watched(learn), learn.added_cbs([sees, *dies]): learn.transfer(how, epochs, folder=folder, **transfer)
    computed = sum(counted)
    torch.save({k: v.clone() for k, v in learn.model.state_dict().items()}, f'{out}.{me}.pt')
    losses, values = [float(x) for x in learn.recorder.losses], [[float(x) for x in row] for row in learn.recorder.values]
    result, own = learn.evaluate(), learn.evaluate(fast=False)
    return dict(hash=weights_hash(learn.model), losses=losses, values=values,
                value=result.value, interval=result.interval, own=own.value, computed=computed, sizes=sees.sizes, valid=sees.valid,
                epochs=learn.transfers[-1]['epochs'], rng=torch.rand(1).item(), n=len(result.probs) if hasattr(result, 'probs') else result.n)

def one(rank, world, port, out, kwargs):
    if world > 1: os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try: found = scenario(out=out, **kwargs)
        except SystemExit as e: found = dict(status=e.code)
        except BaseException as e:
            found, status = dict(error=f'{type(e).__name__}: {e}'), 1
            traceback.print_exc()
    with open(f'{out}.{rank}', 'w') as f: json.dump({**found, 'said': said.getvalue()}, f)
    sys.stdout.flush()
    os._exit(status)

for line in sys.stdin:
    world, port, out, kwargs = json.loads(line)
    pids = []
    for rank in range(world):
        pid = os.fork()
        if not pid: one(rank, world, port, out, kwargs)
        pids.append(pid)
    status, until = {}, time.monotonic() + 120
    while len(status) < world:
        for pid in pids:
            if pid in status: continue
            done, code = os.waitpid(pid, os.WNOHANG)
            if not done: continue
            status[pid] = os.waitstatus_to_exitcode(code)
            if status[pid]: until = min(until, time.monotonic() + 15) # time to notice that another is gone
        if time.monotonic() > until:
            for pid in pids:
                if pid not in status: os.kill(pid, signal.SIGKILL)
        time.sleep(.02)
    print(json.dumps([status[pid] for pid in pids]), flush=True)
'''

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "What each process of a training ends with; without `world`, one process"
    p = subprocess.Popen([sys.executable, '-c', server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder, number, known = tmp_path_factory.mktemp('out'), iter(range(10_000)), {}
    def train(data, world=1, port=None, **kwargs):
        key = repr((data, world, kwargs))
        if key not in known or 'folder' in kwargs: known[key] = anew(data, world, port, kwargs)
        return known[key]
    def anew(data, world, port, kwargs):
        out = str(folder/str(next(number)))
        data = [str(d) for d in data] if isinstance(data, list) else str(data)
        begun = time.monotonic()
        print(json.dumps([world, port or free_port(), out, dict(data=data, **kwargs)]), file=p.stdin, flush=True)
        status = json.loads(p.stdout.readline())
        found = []
        for rank, code in enumerate(status):
            file = Path(f'{out}.{rank}')
            each = json.loads(file.read_text()) if file.is_file() else {}
            weights = Path(f'{out}.{rank}.pt')
            if 'error' in each: print(rank, each['error'], each['said'][-1500:])
            found.append(SimpleNamespace(code=code, weights=torch.load(weights) if weights.is_file() else None, took=time.monotonic() - begun, **each))
        return found if world > 1 else found[0]
    yield train
    p.stdin.close()
    p.wait()

@pytest.fixture(scope='module')
def data(tmp_path_factory): return photos(tmp_path_factory.mktemp('photos'), 19)

def alike(one, other, most=1e-5):
    "Are the weights the same, up to a share of the largest of each tensor?"
    for name, value in one.weights.items():
        gap = (value.float() - other.weights[name].float()).abs().max()
        assert gap <= most*max(1., value.float().abs().max()), (name, gap)
    assert torch.allclose(torch.tensor(one.losses), torch.tensor(other.losses), atol=most)
    assert torch.allclose(torch.tensor(one.values), torch.tensor(other.values), atol=10*most)
    assert (one.value, one.interval, one.own) == (other.value, other.interval, other.own)

@pytest.mark.parametrize('how, bs, setup, transfer', [
    ('feature', 8, {}, {}), ('last:1', 5, {}, {}), ('full', 8, {}, {}), ('full', 7, dict(train_bn=True, class_weights=True), {}),
    ('lpft+l2sp', 8, dict(augment='none'), {}), ('full', 6, {}, dict(accumulate=2)), ('contrastive', 8, {}, {})])
def test_two_processes_train_what_one_does(trained, data, how, bs, setup, transfer):
    want = trained(data, how=how, bs=bs, setup=setup, transfer=transfer)
    first, second = trained(data, 2, how=how, bs=bs, setup=setup, transfer=transfer)
    assert first.hash == second.hash
    alike(want, first)
    alike(want, second)
    assert first.said.count('\n') == want.said.count('\n') # and the other says nothing
    if how == 'full': # each batch was taken apart, and each item of valid was seen once
        assert [a + b for a, b in zip(first.sizes, second.sizes)] == want.sizes and min(first.sizes) >= 1
        assert [a + b for a, b in zip(first.valid, second.valid)] == want.valid

@pytest.mark.parametrize('bs', [5, 3])
def test_four_processes_also_where_a_batch_has_fewer_items(trained, data, bs):
    want = trained(data, how='full', bs=bs)
    for each in trained(data, 4, how='full', bs=bs): alike(want, each)

def test_random_numbers_go_on_alike(trained, data):
    first, second = trained(data, 2, seed=None, opt='Adam')
    assert first.hash == second.hash and first.rng == second.rng # though each began with its own

def test_features_are_computed_once(trained, data, tmp_path):
    how = dict(how='feature', least=4, cache=str(tmp_path/'two'))
    one, other = trained(data, 2, slow=True, **how)
    want = trained(data, how='feature', cache=str(tmp_path/'one'))
    assert one.computed + other.computed == want.computed
    assert one.computed and other.computed
    again = trained(data, 2, again=True, slow=True, **how)
    assert not again[0].computed and not again[1].computed

def test_what_a_dead_process_had_taken_is_taken_by_another(trained, data, tmp_path):
    how = dict(how='feature', slow=True, cache=str(tmp_path/'cache'))
    one, other = trained(data, 2, lose=[1, 2], least=4, **how)
    assert other.code == -signal.SIGKILL
    assert one.code == 1 and 'lost touch with the others' in one.error
    after = trained(data, **how)
    assert not after.computed and after.losses # the first has computed all of it

@pytest.mark.parametrize('before, after', [(2, 1), (1, 2), (2, 2)])
def test_a_run_goes_on_with_another_number_of_processes(trained, data, tmp_path, before, after):
    how = dict(how='full', epochs=2)
    want = trained(data, after, **how)
    cut = trained(data, before, **how, folder=str(tmp_path/'run'), stop=['all', 6])
    assert all(each.code == -signal.SIGKILL for each in (cut if before > 1 else [cut]))
    assert {o.name for o in (tmp_path/'run').iterdir()} == {'0', '1'} # two states, and nothing half-written
    found = trained(data, after, **how, folder=str(tmp_path/'run'))
    wanted, found = (want[0], found[0]) if after > 1 else (want, found)
    alike(wanted, found)
    assert len(found.losses) == len(wanted.losses)
    if before == after: assert found.hash == wanted.hash
    done = trained(data, 2, **how, folder=str(tmp_path/'run')) # done: it is there at once
    assert done[0].hash == done[1].hash == found.hash and done[0].sizes == []

def test_all_stop_early_together(trained, data):
    first, second = trained(data, 2, how='full+patience:1', epochs=8, transfer={}, setup={})
    want = trained(data, how='full+patience:1', epochs=8)
    assert first.epochs == second.epochs == want.epochs
    alike(want, first)

def test_a_process_that_dies_stops_the_others_and_the_run_goes_on(trained, data, tmp_path):
    first, second = trained(data, 2, how='full', folder=str(tmp_path/'run'), stop=[1, 3])
    assert second.code == -signal.SIGKILL and first.code == 1
    assert first.error.startswith('LostTouch: process 0 of 2 lost touch') and '\n' not in first.error and 'resume=True' in first.error
    assert first.took < 20
    found, want = trained(data, 2, how='full', folder=str(tmp_path/'run')), trained(data, 2, how='full')
    assert found[0].hash == want[0].hash

def test_processes_that_see_other_files_are_told(trained, data, tmp_path):
    other = photos(tmp_path/'photos', 19)
    next((other/'round').iterdir()).unlink()
    for each in trained([data, other], 2):
        assert each.code == 1 and 'process 1 sees another task than process 0' in each.error and 'the same files' in each.error

def test_a_port_that_is_taken(trained, data):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        first, _ = trained(data, 2, port=s.getsockname()[1])
    assert first.code == 1 and 'is taken by another program' in first.error and '\n' not in first.error

def test_the_shell_is_heard_once(trained, data, tmp_path):
    words = [str(data), '--model', 'squeezenet1_1', '--size', '32', '--epochs', '1', '--json', str(tmp_path/'report.json')]
    first, second = trained(data, 2, shell=words)
    assert (first.status, second.status, second.said) == (0, 0, '')
    assert json.loads((tmp_path/'report.json').read_text())['n_test'] > 0 and 'on test' in first.said
    first, second = trained(data, 2, shell=['nowhere'])
    assert first.status == second.status == 1 and 'nowhere' in first.said

# In this process

@pytest.mark.parametrize('wrong', [0, -1, 1.5, '2', True])
def test_no_number_of_processes(wrong):
    with pytest.raises(TransferError, match='use 1 or more'): to_start(wrong)

class Locked(nn.Module):
    "A network that holds what belongs to one process"
    def __init__(self, held):
        super().__init__()
        self.held, self.layers = held, nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    def forward(self, x): return self.layers(x)

@pytest.mark.parametrize('held', [threading.Lock, threading.Event, lambda: sqlite3.connect(':memory:'), lambda: (i for i in range(3)), socket.socket])
def test_what_cannot_be_sent_is_refused(data, held, monkeypatch):
    monkeypatch.setenv('TL_DEVICE', 'cpu')
    learn = transfer_learner(ImageTask.from_folder(data), Locked(None), size=32, bs=8, seed=0)
    held = learn.model.body.held = held()
    with pytest.raises(TransferError, match="can't be sent to other processes") as e: learn.transfer('feature', 1, devices=2)
    assert '\n' not in str(e.value)
    if hasattr(held, 'close'): held.close()

# Processes that are started for it

class Ends(Callback):
    "End a process in the middle of training: the second of two kills itself, or the one that waits for both is interrupted"
    order, n = 90, 0
    def __init__(self, whom): self.whom, self.parent = whom, os.getpid()
    def after_batch(self):
        if not self.training: return
        self.n += 1
        if self.n != 3: return
        if self.whom == 'second' and rank() == 1: os.kill(os.getpid(), signal.SIGKILL)
        if self.whom == 'parent' and rank() == 0: os.kill(self.parent, signal.SIGINT)
        if self.whom == 'parent': time.sleep(1)

def own_learner(data):
    torch.manual_seed(0)
    return transfer_learner(ImageTask.from_folder(data), Locked(None), size=32, bs=8, seed=0, mode=Mode(), opt_func=SGD)

def children():
    import psutil
    def words(process):
        try: return ' '.join(process.cmdline())
        except psutil.Error: return '' # it has ended, and other tests' children may be waited for later
    return [p for p in psutil.Process().children(recursive=True) if 'tl_nbdev.training.devices' in words(p)]

def same(one, other):
    for a, b in zip(one.state_dict().values(), other.state_dict().values()): assert torch.allclose(a.float(), b.float(), atol=1e-5)

def test_what_was_trained_comes_back(data, monkeypatch, capsys):
    monkeypatch.setenv('TL_DEVICE', 'cpu')
    here, there = own_learner(data), own_learner(data)
    drawn = []
    for learn, n in ((here, None), (there, 2)):
        torch.manual_seed(1)
        with watched(learn): assert learn.transfer('last:1', 2, devices=n) is learn
        drawn.append(torch.rand(1).item())
    same(here.model, there.model)
    assert drawn[0] == drawn[1]
    assert torch.allclose(torch.stack([*map(torch.as_tensor, here.recorder.losses)]), torch.stack(there.recorder.losses), atol=1e-5)
    assert [p.requires_grad for p in here.model.parameters()] == [p.requires_grad for p in there.model.parameters()]
    assert [t['trained'] for t in here.transfers] == [t['trained'] for t in there.transfers]
    assert here.opt.hypers == there.opt.hypers and str(here.evaluate()) == str(there.evaluate())
    for learn in (here, there): learn.fit(1, 1e-3) # and what comes next is the same
    same(here.model, there.model)
    assert not children()

@pytest.mark.skipif(os.name == 'nt', reason='signals')
def test_one_dies_one_is_interrupted_and_nothing_is_lost(data, tmp_path, monkeypatch):
    monkeypatch.setenv('TL_DEVICE', 'cpu')
    want = own_learner(data)
    with watched(want): want.transfer('full', 2)
    for whom, error, words in (('second', TransferError, 'process 1 of 2 was ended by SIGKILL'), ('parent', KeyboardInterrupt, '')):
        learn = own_learner(data)
        before = {name: value.clone() for name, value in learn.model.state_dict().items()}
        with watched(learn), learn.added_cbs(Ends(whom)), pytest.raises(error, match=words or None) as e: learn.transfer('full', 2, folder=tmp_path/'run', devices=2)
        if words: assert '\n' not in str(e.value) and str(tmp_path/'run') in str(e.value)
        assert not children()
        for name, value in learn.model.state_dict().items(): assert torch.equal(value, before[name])
        assert (tmp_path/'run').is_dir()
    with watched(learn): learn.transfer('full', 2, folder=tmp_path/'run')
    same(want.model, learn.model)
    assert len(learn.recorder.losses) == 8
