"A training that is killed goes on, and ends with the same bits."
import errno, json, os, signal, subprocess, sys

import pytest
from children import libraries
from conftest import photos, tl
from tl_nbdev.training import checkpoint
from tl_nbdev.vision.features import weights_hash
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.base.settings import TransferError

# A process that imports once, and forks a child for each training: a child may be killed by itself after a number of batches, counted over all phases
trainer = libraries + '''
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from fastai.basics import Callback
from tl_nbdev.vision.features import weights_hash
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.loop import KeepState

class Die(Callback):
    order, n = 90, 0
    def after_batch(self):
        if self.training: self.n += 1
        if self.n == stop: os.kill(os.getpid(), signal.SIGKILL)

def train(data, how, folder, augment):
    KeepState.often = 0.
    learn = transfer_learner(ImageTask.from_folder(data), 'timm/test_efficientnet', size=32, bs=4, seed=0, augment=augment, head='textbook', source='random')
    with watched(learn), learn.added_cbs(Die()): learn.transfer(how, 2, resume=folder is not None, folder=folder)
    return [weights_hash(learn.model), len(learn.recorder.losses), learn.recorder.losses[0].item(), learn.evaluate().value]

for line in sys.stdin:
    stop, out, *args = json.loads(line)
    if not (child := os.fork()):
        with open(out, 'w') as f: json.dump(train(*args), f)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "What a training ends with, or `None` if it was killed"
    data, out = str(photos(tmp_path_factory.mktemp('photos'), 16)), tmp_path_factory.mktemp('out')/'out.json'
    p = subprocess.Popen([sys.executable, '-c', trainer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def train(how, folder=None, stop=-1, augment='flip'):
        print(json.dumps([stop, str(out), data, how, folder and str(folder), augment]), file=p.stdin, flush=True)
        status = int(p.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return json.loads(out.read_text()) if status == 0 else None
    yield train
    p.stdin.close()
    p.wait()

@pytest.mark.parametrize('how, augment, stops', [('full', 'flip', (3, 2)), ('lpft+l2sp', 'flip', (5, 33, 2)), ('last:2', 'none', (4,)), ('gradual+wise', 'flip', (2, 3)), ('lora:2', 'flip', (4, 3))])
def test_killed_and_resumed_it_ends_the_same(trained, tmp_path, how, augment, stops):
    want = trained(how, augment=augment)
    for s in stops: assert trained(how, tmp_path/'run', s, augment) is None
    assert trained(how, tmp_path/'run', augment=augment) == want
    assert trained(how, tmp_path/'run', augment=augment) == want # done: it is there at once

def test_a_torn_checkpoint_falls_back(trained, tmp_path):
    want = trained('full')
    assert trained('full', tmp_path/'run', 6) is None
    newest = max((tmp_path/'run').glob('?/checkpoint.json'), key=lambda f: json.loads(f.read_text())['number'])
    state = newest.with_name('state.safetensors')
    state.write_bytes(state.read_bytes()[:1000])
    assert trained('full', tmp_path/'run') == want

def test_the_shell_goes_on(tmp_path):
    data = photos(tmp_path/'photos', 8)
    words = ['--model', 'squeezenet1_1', '--size', 32, '--strategy', 'full', '--epochs', 1, '--resume', '--out', tmp_path/'saved', '--json', tmp_path/'report.json']
    first = tl('train', data, *words)
    assert first.status == 0, first.err
    assert tl('train', data, *words).json['value'] == first.json['value']

def learner(folder, model='squeezenet1_1'): return transfer_learner(ImageTask.from_folder(folder), model, size=32, seed=0)

def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    data, run = photos(tmp_path/'photos', 4), tmp_path/'run'
    learn = learner(data)
    with watched(learn): learn.transfer('last:1', 1, resume=True, folder=run)
    for other, how, words in [(learner(photos(tmp_path/'others', 5)), 'last:1', 'another task'), (learner(data, 'mobilenetv2_100'), 'last:1', 'another network'), (learner(data), 'full', 'another strategy')]:
        with pytest.raises(TransferError, match=words): other.transfer(how, 1, resume=True, folder=run)

def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    learn, real, full = learner(photos(tmp_path/'photos', 4)), checkpoint.save_file, False
    def save(*args):
        if full: raise OSError(errno.ENOSPC, 'No space left on device')
        real(*args)
    monkeypatch.setattr(checkpoint, 'save_file', save)
    keep = checkpoint.Checkpoints(tmp_path/'run', dict(a=1))
    assert keep.save(dict(learn.model.state_dict()), dict(n=1))
    full = True
    with pytest.warns(UserWarning, match='No space left on device.*the checkpoint before is kept'): assert not keep.save(dict(learn.model.state_dict()), dict(n=2))
    assert keep.load()[1] == dict(n=1)
    with watched(learn), pytest.warns(UserWarning, match='could not be written'): learn.transfer('last:1', 1, resume=True, folder=tmp_path/'other')
    assert learn.transfers[-1]['strategy'] == 'last:1'

def test_interrupted_by_hand_the_same_learner_goes_on(tmp_path, monkeypatch):
    "As in a notebook: stop, then the same call once more"
    from fastai.basics import Callback
    monkeypatch.setattr('tl_nbdev.training.loop.KeepState.often', 0.)
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.train_iter == 2: raise KeyboardInterrupt
    data = photos(tmp_path/'photos', 8)
    def fresh(): return transfer_learner(ImageTask.from_folder(data), 'squeezenet1_1', size=32, bs=4, seed=0)
    whole, part = fresh(), fresh()
    with watched(whole): whole.transfer('full', 1)
    with watched(part), part.added_cbs(Stop()), pytest.raises(KeyboardInterrupt): part.transfer('full', 1, resume=True, folder=tmp_path/'run')
    with watched(part): part.transfer('full', 1, resume=True, folder=tmp_path/'run')
    assert weights_hash(part.model) == weights_hash(whole.model) and len(part.recorder.losses) == len(whole.recorder.losses)
