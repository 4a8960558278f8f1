"The frozen part of detectors of two libraries: what trains learns the same from rows, in every mode in which a Learner asks."
import warnings
from types import SimpleNamespace

import pytest, timm, torch
import tl_nbdev.networks.finding as prefix_page
from torch import nn
from torch.nn.functional import interpolate
from test_own_loss import nets as _nets
from tl_nbdev.boxes.own_loss import detector
from tl_nbdev.networks.passes import folded, weights_hash
from tl_nbdev.networks.finding import find_prefix
from tl_nbdev.networks.stages import resting, stages

class Wrapped(nn.Module):
    "A detector that takes a tensor, and gives rows of boxes, or its loss if there are targets"
    def __init__(self, net):
        super().__init__()
        self.net = detector(net)
    def forward(self, x, targets=None):
        sizes = torch.tensor([x.shape[-2:]]*len(x))
        out = self.net(dict(pixels=x, sizes=sizes, originals=sizes), targets)
        return out.preds.flatten(1) if targets is None else out

def _frozen_but(net, last):
    for stage in stages(net)[:-last]:
        for param in stage.params.values(): param.requires_grad_(False)
    return net

def _batch(n, seed):
    torch.manual_seed(seed)
    boxes = torch.tensor([[8., 8, 40, 44], [20, 10, 60, 50], [0, 0, 0, 0]]) + torch.rand(n, 3, 4)
    return torch.rand(n, 3, 64, 64), dict(labels=torch.tensor([[0, 1, -1]]*n), boxes=boxes)

def _learned(net, x, y, training):
    "Loss, and what its gradients are"
    net.train(training)
    for module in resting(net) if training else []: module.eval()
    net.zero_grad()
    torch.manual_seed(3)
    out = net(x, y)
    out.loss.backward()
    return [out.loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]

@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

# what reaches the part that trains, beside the last output: one tensor may be enough for those that are left out here
several = {'Faster R-CNN', 'SSDlite', 'DETR', 'Conditional DETR', 'Deformable DETR', 'RT-DETR v2', 'D-FINE', 'RF-DETR'}

@pytest.mark.parametrize('last', [1, 2])
@pytest.mark.parametrize('name', _nets)
def test_a_detector_learns_the_same_from_rows(name, last):
    torch.manual_seed(0)
    net = _frozen_but(Wrapped(_nets[name]()), last)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = {module: module.training for module in net.modules()}
    prefix = find_prefix(net, *_batch(4, 0))
    assert prefix is not None and prefix.n > 0 and prefix.boundary is None
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert modes == {module: module.training for module in net.modules()}
    if name in several and last == 1: assert len(prefix.ends) > 1, prefix.ends

    lower, (x, y) = prefix.lower(), _batch(3, 1) # other items, and another number of them
    with torch.no_grad(): rows, again = lower(x), folded(lower, x)(x)
    assert rows.shape == again.shape == (3, prefix.n) and torch.allclose(again, rows, rtol=1e-3, atol=1e-3*rows.abs().max().item())
    for training in (True, False):
        net.load_state_dict(before)
        want = _learned(net, x, y, training)
        assert len(want) > 1
        net.load_state_dict(before)
        prefix.set(rows.clone())
        with prefix.upper(): got = _learned(net, torch.zeros(1).expand(x.shape), y, training)
        assert len(got) == len(want) and all(torch.allclose(a, b, rtol=1e-6, atol=1e-6*b.abs().max().item()) for a, b in zip(got, want))
    net.load_state_dict(before)
    with torch.no_grad():
        want = net.eval()(x)
        prefix.set(rows.clone())
        with prefix.upper(): got = net(torch.zeros(1).expand(x.shape))
        assert torch.allclose(got, want, atol=1e-4) and torch.equal(net(x), want)
    assert not any('forward' in vars(module) for module in net.modules())


# the kinds of boundaries

class Yolo(nn.Module):
    "A route from below into the upper part, as in YOLOv3-tiny, written as one forward pass"
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.low, self.high = (nn.Conv2d(a, b, 3, s, 1) for a, b, s in
            ((3, 8, 2), (8, 16, 2), (16, 16, 2), (16, 4, 1), (20, 4, 1)))
    def forward(self, x, targets=None):
        route = self.two(torch.relu(self.one(x)))
        deep = self.three(torch.relu(route))
        low = self.low(deep)
        high = self.high(torch.cat([interpolate(low, scale_factor=2), route], 1))
        return torch.cat([low.flatten(1), high.flatten(1)], 1)

class Features(nn.Module):
    "timm's maps of several depths, whose stages run one after the other at the top"
    def __init__(self):
        super().__init__()
        self.net = timm.create_model('resnet10t', features_only=True)
        self.heads = nn.ModuleList(nn.Conv2d(c, 2, 1) for c in self.net.feature_info.channels())
    def forward(self, x): return [head(each) for head, each in zip(self.heads, self.net(x))]

class OfTraining(nn.Module):
    "An auxiliary output that only training reads"
    def __init__(self):
        super().__init__()
        self.one, self.two, self.aux, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(5, 1), nn.Linear(6, 1)
    def forward(self, x, targets=None):
        one = self.one(x)
        two = self.two(one)
        out = self.head(two)
        return out + self.aux(one) if self.training else out

class OfTargets(nn.Module):
    "What is frozen sees the targets"
    def __init__(self):
        super().__init__()
        self.body, self.mixed, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    def forward(self, x, targets=None):
        x = self.body(x)
        return self.head(self.mixed(x if targets is None else x + targets))

class Odd(nn.ModuleDict):
    def __init__(self, most):
        super().__init__(dict(a=nn.Linear(4, 3)))
        self.most = most
    def forward(self, x):
        return dict(turned=self['a'](x)[None].repeat(2, 1, 1), number=(x[:, 0]*1000).long() + self.most, kind='c5', none=None)

class Whole(nn.Module):
    "Whole numbers, and rows in the second dimension"
    def __init__(self, most):
        super().__init__()
        self.body, self.head, self.most = Odd(most), nn.Linear(3, 1), most
    def forward(self, x):
        out = self.body(x)
        return self.head(out['turned'].sum(0)) + (out['number'] - self.most)[:, None]

def _cut(net, frozen, *inputs):
    for name in frozen: getattr(net, name).requires_grad_(False)
    return find_prefix(net, *inputs)

def test_a_route_from_below_is_a_part_of_the_boundary():
    net, x = Yolo(), torch.rand(4, 3, 32, 32)
    prefix = _cut(net, ['one', 'two', 'three'], x)
    assert [call.name for call, _ in prefix.ends] == ['two', 'three'] and prefix.n == 16*64 + 16*16
    with torch.no_grad():
        want = net(x)
        prefix.set(prefix.lower()(x))
        with prefix.upper(): assert torch.equal(net(torch.zeros(1).expand(x.shape)), want)

def test_maps_of_all_depths_are_a_boundary():
    prefix = _cut(Features(), ['net'], torch.rand(4, 3, 64, 64))
    assert len(prefix.ends) == 5

def test_what_only_training_reads_is_found_with_targets():
    x = torch.rand(4, 4)
    assert [call.name for call, _ in _cut(OfTraining(), ['one', 'two'], x, torch.rand(4)).ends] == ['one', 'two']

def test_what_depends_on_targets_is_left_to_the_upper_part():
    x = torch.rand(4, 4)
    assert [call.name for call, _ in _cut(OfTargets(), ['body', 'mixed'], x, torch.rand(4, 4)).ends] == ['body']

def test_whole_numbers_are_kept_where_floats_hold_them():
    x = torch.rand(4, 4)
    prefix = _cut(Whole(0), ['body'], x)
    assert prefix.n == 7
    prefix.set(prefix.lower()(x[:3]))
    assert {part.dtype for part in prefix.boundary} == {torch.long, torch.float32}
    assert _cut(Whole(2**25), ['body'], x) is None

def test_a_head_of_zeros_hides_nothing():
    "A network that says the same of everything must still be cut where it reads"
    net = Yolo()
    for head in (net.low, net.high): nn.init.zeros_(head.weight)
    prefix = _cut(net, ['one', 'two', 'three'], torch.rand(4, 3, 32, 32))
    assert [call.name for call, _ in prefix.ends] == ['two', 'three']

def test_a_parameter_of_the_whole_that_trains_ends_the_prefix_where_it_is_read():
    class Own(Yolo):
        def __init__(self, early):
            super().__init__()
            self.early, self.scale = early, nn.Parameter(torch.ones(1))
        def forward(self, x): return super().forward(x*self.scale) if self.early else super().forward(x)*self.scale
    x = torch.rand(4, 3, 32, 32)
    assert _cut(Own(True), ['one', 'two', 'three'], x) is None
    assert len(_cut(Own(False), ['one', 'two', 'three'], x).ends) == 2

def test_another_boundary_of_the_same_weights_has_another_name():
    class Plain(Yolo):
        def forward(self, x): return self.low(self.three(torch.relu(self.two(torch.relu(self.one(x))))))
    x, one, two = torch.rand(4, 3, 32, 32), Yolo(), Plain()
    two.load_state_dict(one.state_dict())
    hashes = {weights_hash(_cut(net, ['one', 'two', 'three'], x).lower()) for net in (one, two)}
    assert len(hashes) == 2

def test_one_tensor_is_kept_as_it_was():
    net, x = timm.create_model('resnet10t', num_classes=2).eval(), torch.rand(4, 3, 64, 64)
    prefix = find_prefix(_frozen_but(net, 3), x)
    lower = prefix.lower()
    assert len(prefix.ends) == 1 and not [name for name in lower.state_dict() if not name.startswith('net.')]
    with torch.no_grad(): rows = lower(x)
    prefix.set(rows, torch.channels_last)
    assert prefix.boundary.shape == (4, *prefix.shape) and prefix.boundary.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(prefix.boundary.flatten(1), rows)

# a boundary that is remembered

@pytest.fixture
def searched(monkeypatch):
    "How often a boundary was looked for, in a process that remembers nothing yet"
    times, longest = [], prefix_page._longest
    monkeypatch.setattr(prefix_page, '_known', {})
    monkeypatch.setattr(prefix_page, '_longest', lambda *args: times.append(1) or longest(*args))
    return times

def _same_upper(net, prefix, x):
    with torch.no_grad():
        want = net.eval()(x)
        prefix.set(prefix.lower()(x))
        with prefix.upper(): return torch.equal(net(torch.zeros(1).expand(x.shape)), want)

def test_the_same_structure_is_asked_once(searched):
    x, body = torch.rand(4, 3, 32, 32), ['one', 'two', 'three']
    for seed in range(3):
        torch.manual_seed(seed)
        net = Yolo()
        prefix = _cut(net, body, x)
        assert [call.name for call, _ in prefix.ends] == ['two', 'three'] and _same_upper(net, prefix, torch.rand(3, 3, 32, 32))
    assert len(searched) == 1

def test_where_nothing_can_be_cut_it_is_remembered_too_unless_weights_are_no_numbers(searched):
    class Early(Yolo):
        def forward(self, x): return super().forward(x*self.scale)
    def early(fill):
        net = Early()
        net.scale = nn.Parameter(torch.full((1,), fill))
        return _cut(net, ['one', 'two', 'three'], torch.rand(4, 3, 32, 32))
    assert [early(fill) for fill in (torch.nan, 1., 1.)] == [None]*3 and len(searched) == 2

def _replaced(net): net.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.Tanh()).requires_grad_(False)
def _mask(net): net.three.requires_grad_(True)
def _forward(net): net.two.forward = lambda x: nn.functional.conv2d(x, net.two.weight, None, 2, 1)*2

@pytest.mark.parametrize('change', [_replaced, _mask, _forward])
def test_what_a_user_changes_is_another_structure(searched, change):
    x, net = torch.rand(4, 3, 32, 32), Yolo()
    _cut(net, ['one', 'two', 'three'], x)
    change(net)
    assert _same_upper(net, find_prefix(net, x), x) and len(searched) == 2

def test_another_module_of_the_same_form_is_verified(searched):
    x, net = torch.rand(4, 3, 32, 32), Yolo()
    _cut(net, ['one', 'two', 'three'], x)
    net.two = nn.Conv2d(8, 16, 3, 2, 1).requires_grad_(False)
    assert _same_upper(net, find_prefix(net, x), x) and len(searched) == 1

def test_another_size_and_another_device_are_other_structures(searched):
    net = Yolo()
    for size in (32, 64, 32):
        prefix = _cut(net, ['one', 'two', 'three'], torch.rand(4, 3, size, size))
        assert prefix.n == 20*(size//4)**2
    assert len(searched) == 2
    x = torch.rand(4, 3, 32, 32)
    assert len({prefix_page._structure(net.to(where), x.to(where)) for where in ('cpu', 'meta')}) == 2

def test_another_mode_is_left_as_it_was(searched):
    x, net = torch.rand(4, 4), OfTraining()
    for training in (False, True, False):
        net.train(training)
        assert [call.name for call, _ in _cut(net, ['one', 'two'], x, torch.rand(4)).ends] == ['one', 'two']
        assert net.training is training and net.one.training is training
    assert len(searched) == 1

def test_what_no_structure_shows_is_noticed(searched):
    "A route that an object of the user switches: the remembered boundary doesn't do, and another is found"
    class Switched(Yolo):
        def forward(self, x):
            if self.way.skips: return super().forward(x)
            return self.low(self.three(torch.relu(self.two(torch.relu(self.one(x)))))).flatten(1)
    def ends(skips):
        net = Switched()
        net.way = SimpleNamespace(skips=skips)
        prefix = _cut(net, ['one', 'two', 'three'], x)
        assert _same_upper(net, prefix, x)
        return [call.name for call, _ in prefix.ends]
    x = torch.rand(4, 3, 32, 32)
    assert ends(False) == ['three'] and ends(True) == ['two', 'three'] and len(searched) == 2

def test_what_is_the_same_for_all_items_is_that_of_this_network(searched):
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.table, self.head = nn.Linear(4, 4), Table(), nn.Linear(4, 1)
        def forward(self, x):
            place = self.table(x)
            return self.head(self.body(x) + place)
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.rand(1, 4))
        def forward(self, x): return self.rows*2
    for seed in range(2):
        torch.manual_seed(seed)
        net, x = Placed(), torch.rand(4, 4)
        assert _same_upper(net, _cut(net, ['body', 'table'], x), x)
    assert len(searched) == 1
