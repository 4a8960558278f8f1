"Labels that are numbers: read, split, learned, judged, saved and predicted, for photos and for texts; and pooling that is learned."
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tl_nbdev.selection.compare import compare
from tl_nbdev.text.encoders import AttentivePooling, text_pretrained
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.data.labels import as_number
from tl_nbdev.text.texts import TextTask

from conftest import refused, tl

small = 'bert-tiny'

def prices(n=120, seed=0):
    "Texts whose price is told by a word, give or take"
    rng = np.random.default_rng(seed)
    worth = dict(penny=1., coin=5., note=20., gold=100.)
    words = rng.choice(list(worth), n)
    return pd.DataFrame(dict(text=[f'a thing for a {w}, number {i}' for i, w in enumerate(words)], price=[worth[w]*(1 + rng.normal(0, .02)) for w in words]))

@pytest.fixture(scope='module')
def grey(tmp_path_factory):
    "Photos whose label is how bright they are"
    root, rng, rows = tmp_path_factory.mktemp('grey'), np.random.default_rng(0), []
    for i in range(60):
        v = rng.integers(20, 235)
        Image.fromarray(np.clip(rng.normal(v, 10, (40, 40, 3)), 0, 255).astype(np.uint8)).save(root/f'{i}.png')
        rows.append(dict(file=f'{i}.png', bright=v/100))
    pd.DataFrame(rows).to_csv(root/'labels.csv', index=False)
    return root

@pytest.mark.parametrize('said, value', [('3.5', 3.5), (' -2 ', -2.), ('3,5', 3.5), ('1e3', 1000.), ('1,234', None), ('1,234.5', None), ('cheap', None), ('', None), ('inf', None), ('nan', None), (None, None), (7, 7.)])
def test_what_is_a_number(said, value):
    got = as_number(said)
    assert np.isnan(got) if value is None else got == value

def test_photos(grey, tmp_path):
    args = [grey/'labels.csv', '--label', 'bright', '--regression', '--model', 'squeezenet1_1', '--size', 64, '--augment', 'none']
    got = tl('train', *args, '--epochs', 60, '--out', tmp_path/'model', '--json', tmp_path/'r.json')
    assert got.status == 0, got.err
    assert got.json['metric'] == 'r2' and got.json['value'] > .8 and got.json['classes'] == [] and 'always the mean' in got.out
    again = tl('eval', tmp_path/'model', grey/'labels.csv', '--label', 'bright', '--json', tmp_path/'e.json')
    assert again.status == 0 and again.json['value'] > .8 and again.json['n'] == 60
    said = tl('predict', tmp_path/'model', grey/'0.png', '--json', tmp_path/'p.json')
    assert said.status == 0 and abs(said.json[0]['value'] - pd.read_csv(grey/'labels.csv').bright[0]) < .6
    assert 'regression' in (tmp_path/'model'/'README.md').read_text()
    deep = tl('train', *args, '--strategy', 'full', '--epochs', 2, '--json', tmp_path/'f.json')
    assert deep.status == 0 and np.isfinite(deep.json['value'])

def test_texts(tmp_path):
    task = TextTask.from_df(prices(), label='price', regression=True, name='prices')
    assert len(task.df) == 120 and all(task.n(o) > 9 for o in ('train', 'valid', 'test'))
    assert all((task.part(o).label > 50).any() and (task.part(o).label < 3).any() for o in ('train', 'valid', 'test')) # a number is stratified too
    runs = compare(task, small, ['feature', 'full'], epochs=4)
    assert all(np.isfinite(r.valid.value) for r in runs) and 'r2' in repr(runs)
    learn = runs[0].learn
    folder = learn.save_transfer(tmp_path/'model')
    saved = load_transfer(folder)
    test = task.part('test')
    assert np.allclose([r['value'] for r in saved.predict(test.item)], learn.evaluate().predicted, atol=1e-3)
    assert saved.explain(test.item.iloc[0]).probability is None
    with pytest.raises(TransferError, match='no class "dear"'): saved.explain(test.item.iloc[0], 'dear')

def test_scale_does_not_matter(): # a network learns the number with mean 0 and deviation 1
    df, values = prices(), []
    for unit in (1, 1e6):
        task = TextTask.from_df(df.assign(price=df.price*unit + 3*unit), label='price', regression=True)
        learn = transfer_learner(task, small, seed=0)
        learn.transfer('feature', 3)
        values.append(learn.evaluate().value)
    assert np.isclose(*values, atol=1e-3)

def test_refused(grey, tmp_path):
    with pytest.raises(TransferError, match='every item of train has the same value'): TextTask.from_df(prices().assign(price=3), label='price', regression=True)
    with pytest.raises(TransferError, match='accuracy is of classes'): TextTask.from_df(prices(), label='price', regression=True, metric='accuracy')
    with pytest.raises(TransferError, match='regression=True'): TextTask.from_df(prices(), label='price')
    task = TextTask.from_df(prices(), label='price', regression=True)
    with pytest.raises(TransferError, match='no classes to weight'): transfer_learner(task, small, class_weights=True)
    with pytest.raises(TransferError, match='one label per item'): transfer_learner(task, small).transfer('contrastive')
    odd = TextTask.from_df(pd.concat([prices(), pd.DataFrame(dict(text=['x', 'y', 'z'], price=['dear', None, '1,000']))]), label='price', regression=True)
    assert [w.split(':')[0] for _, w in odd.skipped] == ['no label', 'its label is no number', 'its label is no number']
    refused(tl('train', grey/'labels.csv', '--label', 'bright', '--regression', '--metric', 'f1'), 'f1 is of classes', 'r2')
    learn = transfer_learner(TextTask.from_df(pd.DataFrame(dict(text=[f'{w} {i}' for i in range(20) for w in 'ab'], label=['x', 'y']*20))), small, seed=0)
    learn.transfer('feature', 1)
    learn.save_transfer(tmp_path/'classes', check=False)
    prices().to_csv(tmp_path/'p.csv', index=False)
    refused(tl('eval', tmp_path/'classes', tmp_path/'p.csv', '--text', 'text', '--label', 'price', '--regression'), 'gives classes')

def test_pooling_that_is_learned(tmp_path):
    "One word in a long text tells the class: a mean drowns it"
    rng = np.random.default_rng(0)
    filler = 'the of and to in a is that for it on with as was at by'.split()
    def text(key):
        w = rng.choice(filler, 60).tolist()
        w.insert(rng.integers(60), key)
        return ' '.join(w)
    label = ['animal', 'metal']*60
    task = TextTask.from_df(pd.DataFrame(dict(text=[text('tiger' if o == 'animal' else 'copper') for o in label], label=label)))
    p = text_pretrained(small, pooling='attention')
    learn = transfer_learner(task, p, seed=0)
    assert isinstance(learn.model.head[0], AttentivePooling)
    before = {k: v.clone() for k, v in learn.model.body.state_dict().items()}
    learn.transfer('feature', 20)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.body.state_dict().items())
    assert learn.model.head[0].query.weight.abs().max() > 0
    report = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'model')
    assert json.loads((folder/'transfer.json').read_text())['pretrained']['pooling'] == 'attention'
    said = load_transfer(folder).predict(task.part('test').item)
    assert [r['label'] for r in said] == [report.classes[i] for i in report.predicted]
    learn.transfer('full', 1)
    assert learn.evaluate().value > .5 and not torch.equal(next(iter(before.values())), next(iter(learn.model.body.state_dict().values())))
    assert learn.transfer('feature', dry_run=True).seconds > 0
    windows = transfer_learner(task, text_pretrained(small, pooling='attention', size=24, long='windows'), seed=0)
    windows.transfer('feature', 2)
    assert windows.evaluate().n == task.n('test')
    with pytest.raises(TransferError, match='one vector per text'): transfer_learner(task, p).transfer('contrastive')

def test_states_of_tokens_are_kept(tmp_path, monkeypatch):
    "Attentive pooling reads the states of tokens from disk: a second learner computes none, and after an interruption only those that are missing"
    from tl_nbdev.text.tokens import FrozenText
    monkeypatch.setenv('TL_CACHE', str(tmp_path))
    net, ran, run = text_pretrained(small).body(), [], FrozenText.run
    monkeypatch.setattr(FrozenText, 'run', lambda self, x: ran.append(len(x)) or run(self, x))
    texts = [f'{"word "*(i % 7)}number {i}' for i in range(50)]
    keys = [f'{i:032x}' for i in range(50)]
    made = lambda: text_pretrained(small, pooling='attention').frozen(net)
    first = made().cached(texts[:20], keys[:20])[range(20)]
    assert sum(ran) == 20
    both = made().cached(texts + texts[:1], keys + keys[:1])
    assert sum(ran) == 50 and len(both) == 51 and torch.equal(both[[50, 6]], both[[0, 6]])
    assert torch.equal(both[range(20)], first) and both.dim == 128
    plain = made().all(texts)
    assert max((both[[i]] - plain[[i]]).abs().max() for i in range(50)) < .05 # 16 bits
    assert sum(o.stat().st_size for o in tmp_path.rglob('rows.npy')) < 1.1*2*128*sum(len(both[[i]][0]) for i in range(50)) + 1000
