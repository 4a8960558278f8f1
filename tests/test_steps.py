"A strategy's step says itself what it adds, undoes and needs: one that the package has never seen is carried out like its own."
import copy, json
from dataclasses import dataclass

import pytest
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import LoRA, Phase, Step, Strategy, WiSE
from tl_nbdev.data.tasks import Loader
from tl_nbdev.training.loop import FusedAdam, KeepState
from torch import nn
from torch.nn.utils import parametrize
from conftest import photos

class Times(nn.Module):
    "A weight, each of whose outputs is scaled by a factor that trains"
    def __init__(self, n): super().__init__(); self.factor = nn.Parameter(torch.ones(n, 1, 1, 1))
    def forward(self, weight): return weight*self.factor

@dataclass(frozen=True)
class Rescale(Step):
    "Scale the outputs of the first convolutions, and merge that into their weights"
    layers: int = 2 # so many convolutions
    adds, only, needs_start = 'factors', 'factor', True

    @staticmethod
    def owns(name): return name.endswith('.factor')

    def prepare(self, net):
        found = [module for module in net.modules() if isinstance(module, nn.Conv2d)][:self.layers]
        if len(found) < self.layers: raise TransferError(f'rescaling {self.layers} convolutions: the network has {len(found)}')
        host = {name: stage.depth for stage in stages(net) for name in stage.params}
        for module in found: parametrize.register_parametrization(module, 'weight', Times(len(module.weight)))
        cut = [[] for _ in range(max(host.values()) + 1)]
        for name, _ in net.named_parameters():
            cut[host[name.replace('.parametrizations.weight.original', '.weight').replace('.parametrizations.weight.0.factor', '.weight')]].append(name)
        net.stage_cut = cut

    def undo(self, net, start):
        for module in net.modules():
            if parametrize.is_parametrized(module): parametrize.remove_parametrizations(module, 'weight')
        for name in [name for name in start if '.parametrizations.' in name]:
            value = start.pop(name)
            if not self.owns(name): start[name.replace('.parametrizations.weight.original', '.weight')] = value
        if hasattr(net, 'stage_cut'): del net.stage_cut
        for parameter in net.parameters(): parameter.requires_grad_(True)

def rescaling(layers=2, epochs=1): return Strategy('rescale', [Phase('all', .05, only='factor')], epochs, steps=[Rescale(layers)])

class Stop(Callback):
    "Break off, as by hand, at a batch"
    order = 90
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.train_iter == self.at: raise KeyboardInterrupt

@pytest.fixture(scope='module')
def data(tmp_path_factory): return photos(tmp_path_factory.mktemp('photos'), 8)

@pytest.fixture
def learn(data): return transfer_learner(ImageTask.from_folder(data), 'squeezenet1_1', size=32, bs=4, seed=0)

def hosts(net): return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)][:2]

def test_what_it_would_do_is_said(learn):
    how, names = rescaling(), list(learn.model.state_dict())
    plan, frozen, table = learn.plan(how), learn.frozen(how), how.table(learn.model)
    estimate = learn.transfer(how, dry_run=True)
    factors = sum(len(learn.model.get_submodule(name).weight) for name in hosts(learn.model))
    head = stages(learn.model)[-1].n
    assert estimate[0]['parameters'] == f'{factors + head:,}' and 'trains factors and the head' in plan.about
    assert 'its factors come in addition' in frozen.about and 'trains factors and the head' in table.about
    assert frozen[-1]['trained'] == f'{head:,}' and all(row['trained'] == '0' for row in frozen[:-1])
    assert list(learn.model.state_dict()) == names

def test_it_trains_what_it_added_and_takes_it_away(learn):
    before = copy.deepcopy(learn.model.state_dict())
    with watched(learn): learn.transfer(rescaling())
    after, changed = learn.model.state_dict(), [f'{name}.weight' for name in hosts(learn.model)]
    assert sorted(after) == sorted(before)
    below = set().union(*(stage.params for stage in stages(learn.model)[:-1]))
    assert {name for name in below if not torch.equal(after[name], before[name])} == set(changed)
    for name in changed: # each output by a factor of its own
        ratio = (after[name]/before[name]).flatten(1)
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3)
    assert learn.transfers[-1]['strategy'] == 'rescale'

def test_with_a_last_word_its_start_is_the_network_without_it(learn):
    before = copy.deepcopy(learn.model.state_dict())
    with watched(learn): learn.transfer(rescaling() + WiSE(1e-6))
    after = learn.model.state_dict()
    assert all(torch.allclose(after[f'{name}.weight'], before[f'{name}.weight'], atol=1e-4) for name in hosts(learn.model))

def test_broken_off_and_resumed_it_ends_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(KeepState, 'often', 0.)
    def fresh(): return transfer_learner(ImageTask.from_folder(data), 'squeezenet1_1', size=32, bs=4, seed=0)
    whole, part, other = fresh(), fresh(), fresh()
    with watched(whole): whole.transfer(rescaling())
    names = sorted(part.model.state_dict())
    with watched(part), part.added_cbs(Stop(2)), pytest.raises(KeyboardInterrupt):
        part.transfer(rescaling(), resume=True, folder=tmp_path/'run')
    assert sorted(part.model.state_dict()) == names and not hasattr(part.model, 'stage_cut')
    record = json.loads(next((tmp_path/'run').rglob('checkpoint.json')).read_text('utf-8'))
    assert record['about']['strategy']['steps'] == [dict(kind='Rescale')] and record['about']['strategy']['phases'][0]['only'] == 'factor'
    with watched(other): other.transfer(rescaling(), resume=True, folder=tmp_path/'run')
    assert len(other.recorder.losses) == len(whole.recorder.losses)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in whole.model.state_dict().items())

def small():
    "Three stages"
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def plain(net):
    items = [(torch.randn(3, 8, 8), i % 2) for i in range(8)]
    return Learner(DataLoaders(Loader(items, bs=4, shuffle=True), Loader(items, bs=4)), net, CrossEntropyLossFlat(), opt_func=FusedAdam)

def test_one_that_refuses_leaves_nothing_of_those_before_it():
    net = small()
    names = list(net.state_dict())
    how = LoRA(2, epochs=1) + rescaling(9)
    with pytest.raises(TransferError, match='rescaling 9 convolutions'): plain(net).transfer(how)
    assert list(net.state_dict()) == names and not hasattr(net, 'stage_cut')

def test_nobody_adds_what_the_phase_trains():
    with pytest.raises(TransferError, match='no factor parameters'): plain(small()).transfer(Strategy('none', [Phase('all', only='factor')]))
    with pytest.raises(TransferError, match="trains only 'elsewhere'"): Phase('all', only='elsewhere')

def test_no_room_asks_for_the_class_of_a_step():
    import inspect, re
    from pathlib import Path
    import tl_nbdev.strategies.strategy as room
    steps = [name for name, value in vars(room).items() if inspect.isclass(value) and issubclass(value, Step) and value is not Step]
    homes = {Path(inspect.getfile(vars(room)[name])) for name in steps}
    others = [path for path in Path(room.__file__).parent.parent.rglob('*.py') if path.stem != '_modidx' and path not in homes]
    found = [f'{path.name}: {line}' for path in others for line in path.read_text('utf-8').splitlines() if re.search(rf"isinstance\(.*\b({'|'.join(steps)})\b", line)]
    assert steps and not found
