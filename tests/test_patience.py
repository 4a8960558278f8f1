"A phase that no longer improves ends with the weights of its best epoch, wherever it trains and however often it was killed."
import json, math, os, signal

import numpy as np
import pytest
import torch
from conftest import killed, photos, tl
from fastai.basics import Callback, Metric, accuracy, error_rate
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import Contrastive, FeatureExtraction, FineTune, FullFineTune, LPFT, LoRA, Patience, WiSE, strategy
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.loop import BestEpoch, changing
from tl_nbdev.vision.features import weights_hash
from tl_nbdev.vision.images import ImageTask
from torch import nn

def block(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())

def small():
    "A network of four stages and a head, of a few thousand weights; its BatchNorms have seen something"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(block(3, 8), block(8, 8), block(8, 16), block(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(16, 2))
    with torch.no_grad(): net(torch.randn(16, 3, 32, 32))
    return net

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 12), valid=.3, test=.2)

def made(task, **kwargs): return transfer_learner(task, small(), **{'size': 32, 'seed': 0, 'bs': 4, 'augment': 'flip', **kwargs})

class Falls(Metric):
    "What a test says it is, epoch by epoch"
    def __init__(self, says, name='said'): self.says, self._name, self.at = says, name, 0
    def reset(self): pass
    def accumulate(self, learn): self.at = learn.epoch + (9 if learn.before else 0) # of a second phase, from the tenth on
    @property
    def value(self): return self.says[min(self.at, len(self.says) - 1)]
    @property
    def name(self): return self._name

class Ends(Callback):
    "The weights and buffers at the end of each epoch"
    order = 61
    def __init__(self): self.seen = []
    def after_epoch(self): self.seen.append({name: value.clone() for name, value in self.model.state_dict().items()})

def quiet(learn, how, epochs=None, cbs=(), **kwargs):
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(cbs): learn.transfer(how, epochs, **kwargs)
    return learn

def same(state, other): return all(torch.equal(value, other[name]) for name, value in state.items())

says = [.1, .3, .2, .25, .3, .9] # the second is the best of the first five

@pytest.mark.parametrize('how, kwargs', [('feature', {}), ('last:1', {}), ('last:2', dict(augment='none')), ('full', {}), ('full', dict(train_bn=True)), ('lora:2', {})],
                         ids=['head alone', 'boundary', 'cached boundary', 'everything', 'statistics', 'adapters'])
@pytest.mark.parametrize('accumulate', [1, 3])
def test_it_ends_with_the_weights_of_the_best_epoch(task, how, kwargs, accumulate):
    learn, ends = made(task, metrics=Falls(says), **kwargs), Ends()
    whole = {name: value.clone() for name, value in learn.model.state_dict().items()}
    last = []
    class Last(Callback):
        order = 90
        def after_fit(self): last.append({name: value.clone() for name, value in self.model.state_dict().items()})
    quiet(learn, strategy(how) + Patience(3, 'said'), 20, [ends, Last()], accumulate=accumulate)
    phase, = learn.transfers[-1]['phases']
    assert (phase['epochs'], phase['planned'], phase['best']) == (5, 20, 2) == (len(ends.seen), 20, 2) and learn.transfers[-1]['epochs'] == 5
    assert same(last[0], ends.seen[1]) and not same(ends.seen[1], ends.seen[4])
    if how != 'lora:2':
        prefix = 'head.' if how == 'feature' else ''
        assert same({prefix + name: value for name, value in ends.seen[1].items()}, learn.model.state_dict())
    assert len(learn.recorder.values) == 5 and not any(isinstance(cb, BestEpoch) for cb in learn.cbs)
    if how == 'feature': assert all(torch.equal(value, whole[name]) for name, value in learn.model.state_dict().items() if name.startswith('body.'))

def test_each_phase_has_its_own_best(task):
    learn = quiet(made(task, metrics=Falls([.5, .4, .3] + [0.]*6 + [.2, .6, .1, .1])), LPFT(probe=9, epochs=9) + Patience(2, 'said'))
    assert [(o['epochs'], o['best'], o['planned']) for o in learn.transfers[-1]['phases']] == [(3, 1, 9), (4, 2, 9)] and learn.transfers[-1]['epochs'] == 7

def test_without_an_end_the_best_epoch_comes_back_all_the_same(task):
    learn, ends = made(task, metrics=Falls([.1, .5, .2, .3])), Ends()
    quiet(learn, FullFineTune(epochs=4) + Patience(9, 'said'), cbs=[ends])
    phase, = learn.transfers[-1]['phases']
    assert 'planned' not in phase and phase['best'] == 2 and same(ends.seen[1], learn.model.state_dict())

@pytest.mark.parametrize('numbers, done, best', [([math.nan]*9, 2, None), ([math.nan, .1, math.nan, math.nan], 4, 2), ([.1, math.inf, -math.inf], 3, 1), ([.1, .15, .3, .35, .35], 5, 3)])
def test_what_is_no_number_is_no_improvement(task, numbers, done, best):
    learn, ends = made(task, metrics=Falls(numbers)), Ends()
    quiet(learn, FullFineTune(epochs=8) + Patience(2, 'said', least=.1), cbs=[ends])
    phase, = learn.transfers[-1]['phases']
    assert (phase['epochs'], phase['best']) == (done, best) and same(ends.seen[(best or done) - 1], learn.model.state_dict())

def test_less_is_better_where_its_name_or_the_user_says_so(task):
    for name, kwargs, best in [('error_said', {}, 2), ('said', dict(lower=True), 2), ('said', {}, 1)]:
        learn = quiet(made(task, metrics=Falls([.5, .4, .45, .46], name)), FullFineTune(epochs=4) + Patience(2, name, **kwargs))
        assert learn.transfers[-1]['phases'][0]['best'] == best

def test_what_nobody_measures_is_refused_before_training(task):
    learn = made(task, metrics=[accuracy, error_rate])
    before = weights_hash(learn.model)
    for ask in (lambda: quiet(learn, FullFineTune() + LoRA() + Patience(2, 'auroc')), lambda: learn.transfer(FullFineTune() + Patience(2, 'auroc'), dry_run=True)):
        with pytest.raises(TransferError, match='watches "auroc", which nobody measures: use valid_loss, accuracy, error_rate, or') as e: ask()
        assert '\n' not in str(e.value)
    assert weights_hash(learn.model) == before and not learn.transfers

def test_a_plan_says_at_most(task):
    learn = made(task)
    plan, dry = learn.plan('last:2+patience:3', 20), learn.transfer('last:2+patience:3', 20, dry_run=True)
    for said in (plan.about, dry.about): assert 'At most 20 epochs: a phase ends after 3 epochs without a better valid_loss' in said and 'at most' in said
    assert 'most' not in learn.plan('last:2', 20).about + learn.transfer('last:2', 20, dry_run=True).about

def test_pairs_are_watched_by_their_own_loss(task):
    learn = quiet(made(task), Contrastive(epochs=3, probe=4) + Patience(1, 'accuracy'))
    assert all(phase['best'] for phase in learn.transfers[-1]['phases'])

def test_interpolation_begins_at_the_best(task):
    learn, ends = made(task, metrics=Falls(says)), Ends()
    quiet(learn, FullFineTune(epochs=9) + Patience(3, 'said') + WiSE(1.), cbs=[ends])
    assert all(torch.allclose(value, ends.seen[1][name]) for name, value in learn.model.state_dict().items() if value.is_floating_point())

def test_one_copy_of_what_changes_is_kept(task):
    "Beside the network, also while a loss that is no number is waited for"
    learn, seen = made(task, metrics=Falls(says)), []
    class Look(Callback):
        order = 91
        def before_train(self):
            best, good = self.learn.best_epoch.weights, self.learn.finite._good
            seen.append((best is good or not best, set(good) == set(changing(self.model)), *(value.data_ptr() for value in best.values())))
    quiet(learn, FineTune(1, epochs=9) + Patience(3, 'said'), cbs=[Look()])
    assert all(one and all_ for one, all_, *_ in seen) and len({tuple(o[2:]) for o in seen[2:]}) == 1 # written over, not made anew
    frozen = {name for stage in stages(learn.model)[:-2] for name in stage.params}
    assert frozen and not frozen & set(changing(learn.model))

def test_weights_that_run_away_come_back_from_the_best(task):
    learn = made(task, metrics=Falls([.1, .2, .3]))
    class Ruin(Callback):
        order = -30
        def before_batch(self):
            if self.training and self.epoch == 2: next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float('nan'))
    with pytest.raises(TransferError, match='those of epoch 2 are back'): quiet(learn, FullFineTune(epochs=4) + Patience(3, 'said'), cbs=[Ruin()])
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())

def test_a_rate_that_stays(task):
    learn = quiet(made(task), FullFineTune(lr=1e-3, epochs=3) + Patience(9, flat=True))
    assert learn.recorder.lrs[-1] == max(learn.recorder.lrs) == 1e-3 > learn.recorder.lrs[0]

def test_as_json_in_the_shell(task, tmp_path):
    (tmp_path/'how.json').write_text(json.dumps((FineTune(1, epochs=4) + Patience(1, 'accuracy', .01)).as_dict()))
    data = photos(tmp_path/'photos', 8)
    words = ['--model', 'squeezenet1_1', '--size', 32, '--out', tmp_path/'saved']
    got = tl('train', data, *words, '--strategy', tmp_path/'how.json', '--epochs', 4, '--json', tmp_path/'report.json')
    assert got.status == 0 and got.json['epochs'] <= 4, got.err
    got = tl('train', data, *words, '--strategy', 'full+patience:0')
    assert got.status == 1 and 'patience:3' in got.err and 'Join them with +' in got.err


# killed and resumed

@pytest.mark.parametrize('how, kwargs, stops', [('full', {}, (7, 8, 4)), ('full', dict(accumulate=3), (8, 7)), ('last:1', {}, (11,)), ('lora:2', {}, (14,)), ('lpft', {}, (11,)), ('gradual+wise', {}, (6,))],
                         ids=['everything', 'accumulated', 'boundary', 'adapters', 'after a probe', 'phases'])
def test_killed_and_resumed_it_ends_the_same(task, tmp_path, monkeypatch, how, kwargs, stops):
    "Before the best epoch, in the one after it, and while it waits for a better one: 5 epochs of 4 batches, the second is the best"
    monkeypatch.setattr('tl_nbdev.training.loop.KeepState.often', 0.)
    class Die(Callback):
        order, n = 90, 0
        def __init__(self, stop): self.stop = stop
        def after_batch(self):
            if self.training and not isinstance(self.model, nn.Linear): self.n += 1 # not on rows, where a phase begins anew
            if self.n == self.stop: os.kill(os.getpid(), signal.SIGKILL)
    def run(*cbs, **more):
        learn = quiet(made(task, bs=3, metrics=Falls(says + [.9]*3 + says)), strategy(how) + Patience(3, 'said'), 8, cbs, **kwargs, **more)
        return [weights_hash(learn.model), learn.transfers[-1]['phases'], np.asarray(learn.recorder.values, float).tolist()]
    want = run()
    if 'gradual' not in how: assert [(phase['epochs'], phase['best']) for phase in want[1]] == [(5, 2)]*(2 if how == 'lpft' else 1)
    for stop in stops: assert killed(lambda: run(Die(stop), folder=tmp_path/'run', resume=True))
    assert run(folder=tmp_path/'run', resume=True) == want
    assert run(folder=tmp_path/'run', resume=True) == want # done: it is there at once

def test_a_checkpoint_without_its_best_weights_is_refused_in_one_line(task, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file
    from tl_nbdev.base.disk import digest
    from tl_nbdev.base.schema import sealed
    monkeypatch.setattr('tl_nbdev.training.loop.KeepState.often', 0.)
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.epoch == 2: raise KeyboardInterrupt
    how = FullFineTune(epochs=4) + Patience(9)
    with pytest.raises(KeyboardInterrupt): quiet(made(task), how, cbs=[Stop()], folder=tmp_path/'run', resume=True)
    for record in (tmp_path/'run').glob('*/checkpoint.json'):
        state = record.with_name('state.safetensors')
        save_file({name: value for name, value in load_file(state).items() if not name.startswith('best.')}, state)
        said = {k: v for k, v in json.loads(record.read_text()).items() if k != 'seal'}
        record.write_text(json.dumps(sealed(said | dict(hash=digest(state, '0'*32)))))
    with pytest.raises(TransferError, match='a checkpoint that can\'t be used') as e: quiet(made(task), how, folder=tmp_path/'run', resume=True)
    assert '\n' not in str(e.value)
