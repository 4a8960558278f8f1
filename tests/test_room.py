"Where the memory doesn't hold a batch: half as many items at once, the same training, and it is said and remembered."
import numpy as np
import pytest
import torch
from conftest import photos, tl
from tl_nbdev.vision.features import Frozen, out_of_memory
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.job import pieces
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 16), valid=.25, test=.25) # 16 of train

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('TL_CACHE', str(tmp_path/'cache'))

def made(task, bs, seed=0, **kwargs): return transfer_learner(task, 'timm/resnet10t', source='random', size=32, bs=bs, seed=seed, augment='none', **kwargs)

class Small:
    "A memory that holds so many items of a step that trains"
    def __init__(self, learn, most, after=0, error=None):
        self.most, self.after, self.seen, self.error = most, after, [], error or torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        learn.model.register_forward_pre_hook(self.look)
    def look(self, net, args):
        if not net.training: return
        self.seen.append(len(args[0]))
        if len(args[0]) > self.most and len(self.seen) > self.after: raise self.error

def fit(learn, how, epochs=2, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs, **kwargs)
    return torch.cat([o.detach().flatten() for o in learn.model.state_dict().values() if o.is_floating_point()])

@pytest.mark.parametrize('how', ['full', 'last:2', 'gradual', 'l2sp'])
@pytest.mark.parametrize('most', [4, 2])
def test_it_trains_as_if_the_user_had_said_so(how, most, task, capsys):
    want = fit(made(task, most), how, accumulate=8//most)
    learn = made(task, 8)
    memory = Small(learn, most)
    got = fit(learn, how)
    assert torch.equal(want, got) and pieces(learn) == 8//most and learn.dls.train.bs == most
    assert f'a batch of 8 doesn\'t fit into the memory here: 2 batches of 4 make one step' in capsys.readouterr().out
    assert memory.seen.count(8) == 1

def test_in_the_middle_of_an_epoch_it_begins_anew_from_the_same_weights(task):
    want, learn = fit(made(task, 4), 'full', accumulate=2), made(task, 8)
    Small(learn, 4, after=3)
    assert torch.equal(want, fit(learn, 'full'))

def test_it_is_remembered_for_network_and_device(task, capsys):
    learn = made(task, 8)
    Small(learn, 4)
    fit(learn, 'full', 1)
    again = made(task, 8)
    memory = Small(again, 4)
    capsys.readouterr()
    fit(again, 'full', 1)
    assert 8 not in memory.seen and 'batches of 8 were too large for the memory here: 2 batches of 4 make one step' in capsys.readouterr().out
    other = transfer_learner(task, 'timm/resnet10t', source='random', size=48, bs=8, seed=0)
    memory = Small(other, 99)
    fit(other, 'full', 1)
    assert max(memory.seen) > 4

def test_a_second_training_has_the_same_effective_batch(task):
    learn = made(task, 8)
    Small(learn, 4)
    fit(learn, 'full', 1)
    fit(learn, 'full', 1)
    assert pieces(learn) == 2 and learn.dls.train.bs == 4

def test_not_even_one_item_is_one_line(task):
    learn = made(task, 4)
    Small(learn, 0)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(TransferError, match='not even one item .*size=.*checkpointing=True') as e: fit(learn, 'full')
    assert '\n' not in str(e.value) and 'CUDA out of memory' in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items() if 'num_batches' not in k and 'running' not in k)

def test_other_errors_are_other_errors(task):
    learn = made(task, 8)
    Small(learn, 4, error=RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    with pytest.raises(RuntimeError, match='shapes'): fit(learn, 'full')
    assert pieces(learn) == 1

@pytest.mark.parametrize('error, is_so', [
    (torch.OutOfMemoryError('CUDA out of memory.'), True), (MemoryError(), True), (RuntimeError('MPS backend out of memory (MPS allocated: 9 GB)'), True),
    (RuntimeError('[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)'), True),
    (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.'), True), (RuntimeError('CUDA error: device-side assert'), False), (ValueError('out of memory'), False)], ids=lambda o: str(o)[:20])
def test_what_is_want_of_memory(error, is_so): assert out_of_memory(error) == is_so

def test_a_checkpoint_of_pieces_is_gone_on_from(task, tmp_path):
    want, learn = fit(made(task, 8), 'full', accumulate=2), made(task, 16)
    Small(learn, 8)
    assert torch.equal(want, fit(learn, 'full', resume=True, folder=tmp_path/'run'))
    again = made(task, 16)
    memory = Small(again, 8)
    assert torch.equal(want, fit(again, 'full', resume=True, folder=tmp_path/'run')) and memory.seen == []

def test_features_are_computed_in_halves(task, monkeypatch):
    learn = made(task, 8)
    fit(learn, 'full', 1)
    want = learn.evaluate().probs
    def look(net, args):
        if len(args[0]) > 1: raise torch.OutOfMemoryError('CUDA out of memory.')
    once = Frozen.__call__
    monkeypatch.setattr(Frozen, '__call__', lambda self, a: look(None, [a]) or once(self, a))
    monkeypatch.setattr(Frozen, 'cached', lambda self, files, *args: self.all(files))
    assert np.allclose(learn.evaluate().probs, want, atol=1e-4)
    monkeypatch.setattr(Frozen, '__call__', lambda self, a: look(None, ['one', 'more']))
    with pytest.raises(TransferError, match='not even one item fits'): learn.evaluate()
