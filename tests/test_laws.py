"What must hold whatever the data and the network."
import json, re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from torch import nn
from tl_nbdev.data.metrics import Result
from tl_nbdev.base.samples import Table
from tl_nbdev.base.disk import whole
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import resting, stages
from tl_nbdev.strategies.strategy import Phase, strategy
from tl_nbdev.data.parts import split_parts

law = hypothesis_settings(deadline=None, derandomize=True, max_examples=60)
items = st.lists(st.tuples(st.sampled_from('abc'), st.integers(0, 12)), min_size=1, max_size=60)

@law
@given(items, st.integers(0, 5))
def test_a_split_covers_everything_and_tears_nothing(items, seed):
    labels, units = zip(*items)
    parts = split_parts(labels, units, .15, .25, seed)
    assert set(parts) <= {'train', 'valid', 'test'} and 'train' in parts
    assert all(len({p for p, u in zip(parts, units) if u == unit}) == 1 for unit in set(units))
    assert (parts == split_parts(labels, units, .15, .25, seed)).all()

@law
@given(st.dictionaries(st.sampled_from('abcd'), st.lists(st.sampled_from([1, 2, 50]), min_size=3, max_size=6), min_size=1), st.integers(0, 5))
def test_a_class_of_three_units_is_in_every_part(sizes, seed):
    labels, units = zip(*((c, f'{c}{i}') for c, ns in sizes.items() for i, n in enumerate(ns) for _ in range(n))) # unit `i` of a class has `n` items
    parts = split_parts(labels, units, .1, .2, seed)
    for c in sizes: assert {p for p, l in zip(parts, labels) if l == c} == {'train', 'valid', 'test'}

@law
@given(st.integers(2, 15), st.data(), st.floats(1e-6, 1e-3), st.floats(1, 1000))
def test_rates_rise_with_depth_and_are_zero_below(n, data, low, times):
    train = data.draw(st.one_of(st.sampled_from(['head', 'all']), st.integers(0, n - 1)))
    ph = Phase(train, slice(low, low*times))
    rates, first = ph.rates(n), ph.which(n)[0]
    assert len(rates) == n and not any(rates[:first]) and all(rates[first:])
    assert all(a <= b*(1 + 1e-9) for a, b in zip(rates[first:], rates[first + 1:])) and rates[-1] == pytest.approx(low*times)

words = st.one_of(st.sampled_from(['feature', 'full', 'gradual', 'lpft', 'layerdecay:0.75', 'surgical:early', 'surgical:0,2', 'bitfit', 'lora:4', 'l2sp', 'wise', 'wise:0.5']), st.integers(1, 99).map('last:{}'.format))

@law
@given(st.lists(words, min_size=1, max_size=4).map('+'.join))
def test_a_strategy_is_spelled_as_it_is_read(word):
    how = strategy(word)
    assert how.name == word and strategy(how) is how and strategy(how.name) == how
    assert strategy(json.loads(json.dumps(how.as_dict()))) == how

@law
@given(st.lists(words, min_size=1, max_size=4), st.integers(1, 30), st.integers(2, 15))
def test_epochs_are_whole_and_all_used(names, epochs, n):
    how = strategy('+'.join(names))
    try: phases = how.resolved(n, epochs)
    except TransferError: return
    fixed = sum(ph.epochs for ph in how.phases if ph.epochs)
    assert all(ph.epochs >= 1 for ph in phases) and sum(ph.epochs for ph in phases) - fixed >= epochs*any(ph.epochs is None for ph in how.phases or [Phase()])

@law
@given(st.integers(1, 60), st.one_of(st.none(), st.integers(1, 9)), st.integers(0, 1000))
def test_an_interval_holds_its_value(n, groups, seed):
    rng = np.random.default_rng(seed)
    r = Result('accuracy', rng.integers(3, size=n), rng.dirichlet([1, 1, 1], n), list('abc'), groups=None if groups is None else rng.integers(groups, size=n))
    low, high = r.interval
    assert 0 <= low <= r.value + 1e-9 and r.value - 1e-9 <= high <= 1

@law
@given(st.lists(st.dictionaries(st.sampled_from('abc'), st.text(), min_size=1), min_size=1, max_size=4), st.text(st.characters(exclude_characters='\n')))
def test_a_table_has_a_line_for_each_row(rows, about):
    table = Table(rows, about)
    assert repr(table).split('\n')[len(rows) + 1:] == ([about] if about else [])
    lines = table._repr_markdown_().split('\n')[:len(rows) + 2]
    assert len({len(re.findall(r'(?<!\\)\|', o)) for o in lines}) == 1 # as many cells in each

class Odd(nn.Module):
    "A network of random shape: nested, with loose parameters, perhaps tied"
    def __init__(self, shape, loose, tied):
        super().__init__()
        self.parts = nn.Sequential(*(nn.Sequential(*(nn.Linear(4, 4) if k else nn.BatchNorm1d(4) for k in part)) for part in shape))
        if loose: self.scale = nn.Parameter(torch.ones(3))
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        if tied: self.head.weight = self.first.weight

@law
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_stages_partition_any_network(shape, loose, tied):
    net = Odd(shape, loose, tied)
    times = Counter(id(p) for s in stages(net) for p in s.params.values())
    assert times == Counter(id(p) for p in net.parameters())
    assert any(n.startswith('head.') for n in stages(net)[-1].params)

@law
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_what_trains_never_rests(shape, data):
    net = Odd(shape, False, False)
    for s in stages(net)[:data.draw(st.integers(0, 4))]:
        for p in s.params.values(): p.requires_grad_(False)
    at_rest = {id(m) for m in resting(net)}
    for m in net.modules():
        own = [p.requires_grad for p in m.parameters(recurse=False)]
        if own: assert (id(m) in at_rest) == (not any(own))

@law
@given(st.one_of(st.none(), st.binary(max_size=20)), st.binary(max_size=20), st.sampled_from([None, ValueError, OSError, KeyboardInterrupt, SystemExit]), st.booleans())
def test_it_is_whole_or_as_it_was(old, new, fails, folder):
    with TemporaryDirectory() as d:
        path, file = Path(d)/'it', Path(d)/'it/file' if folder else Path(d)/'it'
        def write(data, fails=None):
            with whole(path, ['file']) as tmp: # what this package writes there
                if folder: tmp.mkdir()
                (tmp/'file' if folder else tmp).write_bytes(data)
                if fails: raise fails
        if old is not None: write(old)
        if fails:
            with pytest.raises(fails): write(new, fails)
        else: write(new)
        assert (file.read_bytes() if file.exists() else None) == (old if fails else new)
        assert [o.name for o in Path(d).iterdir()] == (['it'] if file.exists() else [])
