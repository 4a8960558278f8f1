"Another domain: gaps whose size is known, alignment on moons that were turned, choosing without labels, continued pretraining, and data that don't fit."
import json

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import DataLoaders, Learner
from PIL import Image
from tl_nbdev.adaptation import adapt as a
from tl_nbdev.adaptation.adapt import adapt, methods, target_loader, validators
from tl_nbdev.text.encoders import masked_language_model, text_pretrained
from tl_nbdev.adaptation.gap import domain_gap
from tl_nbdev.networks.heads import Network
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import seeded, transfer_learner
from tl_nbdev.adaptation.pretraining import blocks_of, continue_pretraining, masked
from tl_nbdev.base.settings import TransferError
from tl_nbdev.data.tasks import RowLoader
from tl_nbdev.text.texts import TextTask
from torch import nn

from conftest import photos, refused, tl

few = dict(size=64)

# where the right answer is known

def moons(n, turn, rng):
    "Two half circles, turned by so many degrees"
    t, y = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    x = np.where(y[:, None] == 0, np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), .5 - np.sin(t)]) - [.5, .25] + rng.normal(0, .08, (n, 2))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return torch.tensor(x@np.array([[c, s], [-s, c]]), dtype=torch.float32), torch.tensor(y)

def on_moons(method, seed, turn=35, epochs=150, far=0., **kwargs):
    rng = np.random.default_rng(seed)
    (xs, ys), (xt, yt), (xv, yv) = moons(300, 0, rng), moons(300, turn, rng), moons(500, turn, rng)
    xt = xt + far
    seeded(seed)
    load = lambda x, y, shuffle: RowLoader(x, y, 64, shuffle)
    net = Network(nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()), nn.Linear(32, 2))
    learn = Learner(DataLoaders(load(xs, ys, True), load(xv, yv, False), device='cpu'), net, nn.CrossEntropyLoss(), cbs=[methods[method](load(xt, yt, True), **kwargs)] if method else [])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3)
    with torch.no_grad(): return float((net.eval()(xv).argmax(1) == yv).float().mean()), learn

def test_moons_that_were_turned():
    plain = np.mean([on_moons(None, s)[0] for s in range(3)])
    dann = np.mean([on_moons('dann', s)[0] for s in range(3)])
    assert plain < .85 and dann > plain + .06, (plain, dann)

@pytest.mark.parametrize('method', methods)
def test_every_method_runs_and_counts(method):
    got, learn = on_moons(method, 0, epochs=3)
    cb = next(o for o in learn.cbs if isinstance(o, a.Align))
    assert 0 <= got <= 1 and len(cb.losses) == 3*len(learn.dls.train) and np.isfinite(cb.losses).all() and cb.hook is None

def test_methods_that_are_joined_add_their_losses(worlds):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    got = adapt(one, two, 'dann+mcc', 'squeezenet1_1', 'last:1', 2, **few)
    assert len(got.looks) == 2 and 'dann+mcc, last epoch' in repr(got)
    alone = adapt(one, two, 'mcc', 'squeezenet1_1', 'last:1', 2, earlier=got, **few)
    assert not np.allclose(got.looks[-1].probs, alone.looks[-1].probs) and np.allclose(got.plain.probs, alone.plain.probs)
    with pytest.raises(TransferError, match='can be joined: mmd'): adapt(one, two, 'mmd+adabn', **few)

def test_a_loss_that_explodes_is_said(monkeypatch):
    monkeypatch.setattr(a.CORAL, 'align_loss', lambda self, fs, ft, gs, gt, y: fs.sum()*float('inf'))
    with pytest.raises(Exception, match='lower its weight'): on_moons('coral', 0, epochs=1)
    cb = a.DANN(None)
    cb.losses = [.1]*20 + [50.]*20
    assert 'grew' in cb.trouble() and 'lower its weight' in cb.trouble()
    cb.losses = [.7]*20 + [.5]*20
    assert not cb.trouble()
    cb.losses = [.7]*20 + [.01]*20
    assert 'tells the domains apart' in cb.trouble()

def test_an_adversary_that_always_wins_is_said():
    got, learn = on_moons('dann', 0, turn=0, epochs=30, weight=0., far=8.)
    assert 'nothing is aligned' in next(o for o in learn.cbs if isinstance(o, a.Align)).trouble()

def test_shorter_batches_of_the_target():
    rng = np.random.default_rng(0)
    xt, yt = moons(10, 30, rng)
    seeded(0)
    net = Network(nn.Linear(2, 8), nn.Linear(8, 2))
    xs, ys = moons(100, 0, rng)
    learn = Learner(DataLoaders(RowLoader(xs, ys, 32), RowLoader(xt, yt, 4), device='cpu'), net, nn.CrossEntropyLoss(), cbs=a.DANN(RowLoader(xt, yt, 4)))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_coral_makes_the_covariances_equal():
    rng = torch.Generator().manual_seed(0)
    s, t = torch.randn(500, 6, generator=rng)@torch.randn(6, 6, generator=rng), torch.randn(400, 6, generator=rng)@torch.randn(6, 6, generator=rng) + 3
    moved = a.coral_features(s, t)
    assert torch.allclose(moved.mean(0), t.mean(0), atol=1e-4) and a.coral_loss(moved, t) < .2*a.coral_loss(s, t)

def test_validators_prefer_what_is_better():
    rng, y = np.random.default_rng(0), np.arange(300) % 3
    def seen(skill): # of the target
        logits = np.eye(3)[y]*skill + rng.normal(size=(300, 3))
        p = np.exp(logits)/np.exp(logits).sum(1, keepdims=True)
        return a.Seen(p, rng.normal(size=(300, 4)), p, rng.normal(size=(300, 4)), y)
    for name, v in validators.items():
        assert v(seen(6.)) > v(seen(.5)), name
    one = np.tile([.98, .01, .01], (300, 1)) # sure, and always of the same class
    collapsed = a.Seen(one, rng.normal(size=(300, 4)), one, rng.normal(size=(300, 4)), y)
    assert validators['im'](collapsed) < validators['im'](seen(3.)) and validators['bnm'](collapsed) < validators['bnm'](seen(3.)) and validators['entropy'](collapsed) > validators['entropy'](seen(3.)) # which is why certainty alone misleads

# photos of two worlds

@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    "The same shapes, in colour and as negatives"
    root = photos(tmp_path_factory.mktemp('worlds')/'a', 40)
    for f in root.rglob('*.png'):
        to = root.parent/'b'/f.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(f).convert('RGB'))).save(to)
    return root, root.parent/'b'

@pytest.mark.parametrize('method, how', [('mcc', 'last:1'), ('coral', 'feature'), ('none', 'feature'), ('dann', 'full'), ('adabn', 'last:1')])
def test_four_rows(worlds, method, how):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    got = adapt(one, two, method, 'mobilenet_v2' if method == 'adabn' else 'squeezenet1_1', how, 2, **few)
    rows = got.rows()
    assert rows[0]['row'] == 'source only' and 'oracle' in rows[-1]['row'] and len(rows) == 4 and rows[-1]['accuracy'] >= max(rows[0]['accuracy'], rows[1]['accuracy']) - 1e-9
    assert all(set(validators) <= set(r) for r in rows) and got.result().value == pytest.approx(rows[1]['accuracy'])
    assert all(torch.equal(v, got.chosen.state[k]) for k, v in got.learn.model.state_dict().items())
    if got.negative: assert got.chosen is got.plain and 'worse than source only' in repr(got)
    assert len(got.gain) == 2

def test_an_adaptation_that_harms_is_not_returned(worlds, monkeypatch):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    calls = iter([1., .5, .4, .3, .2])
    monkeypatch.setitem(validators, 'im', lambda s: next(calls))
    got = adapt(one, two, 'mmd', 'squeezenet1_1', 'last:1', 2, **few)
    assert got.negative and got.chosen is got.plain and 'source-only model is returned' in repr(got)

def test_answers_that_collapse_are_said(worlds, monkeypatch):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    monkeypatch.setattr(a.MMD, 'align_loss', lambda self, fs, ft, gs, gt, y: 100*torch.nn.functional.cross_entropy(gt, torch.zeros_like(gt[:, 0], dtype=torch.long)))
    got = adapt(one, two, 'mmd', 'squeezenet1_1', 'full', 4, **few)
    assert 'its answers have collapsed' in repr(got) and one.vocab[0] in repr(got)

def test_refused(worlds, tmp_path):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    for m in ('dann', 'cdan', 'mdd'):
        with pytest.raises(TransferError, match='use a strategy that trains the body, such as last:2'): adapt(one, two, m, 'squeezenet1_1', 'feature', **few)
    with pytest.raises(TransferError, match='no method "magic"'): adapt(one, two, 'magic', **few)
    with pytest.raises(TransferError, match='no validator'): adapt(one, two, validator='luck', **few)
    with pytest.raises(TransferError, match='has no BatchNorm'): adapt(one, two, 'adabn', 'squeezenet1_1', 'feature', 1, **few)
    words = TextTask.from_df(pd.DataFrame(dict(text=[f'{w} {i}' for i in range(10) for w in 'ab'], label=['x', 'y']*10)))
    with pytest.raises(TransferError, match='two kinds'): adapt(one, words)
    with pytest.raises(TransferError, match='two kinds'): domain_gap(one, words)

def test_other_classes_are_named(worlds, tmp_path):
    one = ImageTask.from_folder(worlds[0])
    other = ImageTask.from_folder(photos(tmp_path/'c', 20, ('round', 'line')))
    got = adapt(one, other, 'mcc', 'squeezenet1_1', 'last:1', 1, **few)
    assert 'lacks classes of the source (square)' in repr(got) and 'accuracy leaves them out: line (20 of 40 items)' in repr(got)
    gap = domain_gap(one, other, 'squeezenet1_1', **few)
    assert gap.only_target == ['line'] and gap.only_source == ['square'] and 'no adaptation can learn them' in gap.verdict

def test_no_class_in_common_and_no_labels(worlds, tmp_path):
    made = photos(tmp_path/'c', 20, ('line', 'round'))
    (made/'round').rename(made/'circle')
    one, other = ImageTask.from_folder(worlds[0]), ImageTask.from_folder(made)
    with pytest.raises(TransferError, match='has no class of a'): adapt(one, other, 'mcc', 'squeezenet1_1', 'last:1', 1, **few)
    bare = ImageTask.from_df(other.df[['item']].rename(columns=dict(item='file')), label=None, name='bare')
    assert not bare.labelled and set(bare.df.part) == {'test'}
    got = adapt(one, bare, 'mcc', 'squeezenet1_1', 'last:1', 1, **few)
    assert got.plain.accuracy is None and not any('class' in o for o in got.notes)
    gap = domain_gap(one, bare, 'squeezenet1_1', **few)
    assert not gap.classes and not gap.only_target and not gap.only_source
    texts = TextTask.from_df(pd.DataFrame(dict(text=[f'number {i}' for i in range(9)])), label=None)
    assert not texts.labelled and len(texts.df) == 9

def test_agreement_chooses_among_methods(worlds, tmp_path):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    got = adapt(one, two, ['mmd', 'coral', 'adabn'], 'mobilenet_v2', 'last:1', 1, **few)
    assert [o.method for o in got.tried] == ['mmd', 'coral', 'adabn'] and set(got.agreement) == {'source only', 'mmd', 'coral', 'adabn'}
    first = next(iter(got.agreement))
    assert got.method == first or first == 'source only' and got.chosen is got.plain
    alone = adapt(one, two, 'coral', 'mobilenet_v2', 'last:1', 1, **few) # the same as in company
    assert np.allclose(alone.looks[-1].probs, got.tried[1].looks[-1].probs, atol=1e-5)
    wanted = next(o for o in [got.plain, *(o.chosen for o in got.tried)] if np.array_equal(o.unseen, got.chosen.unseen))
    assert all(torch.equal(v, got.learn.model.state_dict()[k]) for k, v in wanted.state.items())
    args = ['--model', 'squeezenet1_1', '--size', 64]
    said = tl('train', worlds[0], '--target', worlds[1], '--adapt', 'mmd,coral,mcc', '--epochs', 1, *args, '--json', tmp_path/'a.json')
    assert said.status == 0 and len(said.json['agreement']) == 4 and 'Agreement with the mean' in said.out, said

def test_the_same_items_and_a_forgotten_source_are_said(worlds):
    one = ImageTask.from_folder(worlds[0])
    got = adapt(one, one, 'mmd', 'squeezenet1_1', 'last:1', 2, **few)
    assert any('80 items are in source and target' in o for o in got.notes)
    lost = adapt(one, ImageTask.from_folder(worlds[1]), 'mcc', 'squeezenet1_1', 'last:2', 3, weight=-1e6, bs=64, **few)
    assert any('the source is forgotten' in o for o in lost.notes), (lost.notes, lost.rows())

def test_nothing_is_trained_for_what_can_t_be_done(worlds, monkeypatch):
    one, two = (ImageTask.from_folder(o) for o in worlds)
    monkeypatch.setattr(Learner, 'transfer', lambda *args, **kwargs: pytest.fail('trained'))
    with pytest.raises(TransferError, match='has no BatchNorm'): adapt(one, two, 'adabn', 'squeezenet1_1', 'last:1', 1, **few)

def test_a_gap_of_few_items_is_no_verdict(worlds, tmp_path):
    gap = domain_gap(ImageTask.from_folder(worlds[0]), ImageTask.from_folder(photos(tmp_path/'c', 2, ('round', 'square')), learn=False), 'squeezenet1_1', **few)
    assert gap.verdict.startswith('too few items to say (80 and 4)')

def test_words_that_only_the_target_has():
    rows = lambda extra: pd.DataFrame(dict(text=[f'a {w} film {extra} of number {i}' for i in range(20) for w in ('good', 'bad')], label=['pos', 'neg']*20))
    gap = domain_gap(TextTask.from_df(rows('')), TextTask.from_df(rows('zig zag zog')), 'bert-tiny')
    assert abs(gap.facts['share of the target that is words the source lacks'] - 1/3) < 1e-6

def test_texts_of_another_domain():
    rows = lambda words, n=30: pd.DataFrame(dict(text=[f'a {w} {words} of number {i}' for i in range(n) for w in ('good', 'bad')], label=['pos', 'neg']*n))
    got = adapt(TextTask.from_df(rows('film')), TextTask.from_df(rows('meal in a restaurant by the sea')), 'dann', 'bert-tiny', 'full', 1)
    assert len(got.rows()) == 4 and got.learn.evaluate().n

def test_from_the_shell(worlds, tmp_path):
    args = ['--model', 'squeezenet1_1', '--size', 64]
    got = tl('train', worlds[0], '--target', worlds[1], '--adapt', 'mcc', '--strategy', 'last:1', '--epochs', 1, *args, '--json', tmp_path/'a.json', '--out', tmp_path/'model')
    assert got.status == 0, got.err
    assert [r['row'].partition(':')[0].partition(',')[0] for r in got.json['rows']] == ['source only', 'mcc', 'mcc', 'oracle'] and (tmp_path/'model'/'model.safetensors').is_file()
    loose = tmp_path/'loose'
    loose.mkdir()
    for i, f in enumerate(worlds[1].rglob('*.png')): (loose/f'{i}.png').write_bytes(f.read_bytes())
    got = tl('train', worlds[0], '--target', loose, '--strategy', 'last:1', '--epochs', 1, *args, '--json', tmp_path/'b.json') # no labels, no oracle
    assert got.status == 0 and got.json['labelled'] is False and len(got.json['rows']) == 3 and got.json['rows'][0]['accuracy'] is None
    got = tl('gap', worlds[0], loose, *args, '--json', tmp_path/'g.json')
    assert got.status == 0 and got.json['distance'] > 1 and 'adapt' in got.json['verdict']
    same = tl('gap', worlds[0], worlds[0], *args, '--json', tmp_path/'s.json')
    assert same.json['interval'][0] <= 0 <= same.json['interval'][1] and same.json['copies'] == 80
    refused(tl('train', worlds[0], '--target', worlds[1], '--adapt', 'dann', '--strategy', 'feature', *args), 'trains the body')
    refused(tl('train', worlds[0], '--target', worlds[1], '--dry-run', *args), '--dry-run can\'t be used together with --target')
    (loose/'torn.png').write_bytes(b'no photo')
    got = tl('train', worlds[0], '--target', loose, '--epochs', 1, *args, '--json', tmp_path/'c.json') # its strategy trains the body
    assert got.status == 0 and [o['reason'] for o in got.json['skipped_target']] == ['not an image'] and 'left out, not an image' in got.out and 'classes' not in ' '.join(got.json['notes'])
    refused(tl('gap', worlds[0], tmp_path/'nowhere'), 'no such folder')

# continued pretraining

def licence(n, seed=0):
    rng = np.random.default_rng(seed)
    pick = lambda words: rng.choice(words.split())
    return [f'The {pick("licensee licensor distributor")} shall {pick("indemnify notify credit")} the {pick("owner author holder")} of the {pick("software work copy")} before any {pick("sale use transfer")}' for _ in range(n)]

def test_pretraining_that_explodes_keeps_what_was_there(tmp_path):
    got = continue_pretraining(licence(80), 'bert-tiny', tmp_path/'p', steps=8, lr=100., block=32, bs=4)
    assert got.after <= got.before and any('never fell' in o for o in got.notes)
    start, kept = (text_pretrained(o).body().state_dict() for o in ('bert-tiny', tmp_path/'p'))
    assert all(torch.allclose(start[k], kept[k], atol=1e-6) for k in start)

def test_short_and_leaking_corpora(tmp_path):
    few_words = [f'a {w} word of law' for w in 'first second third fourth fifth sixth seventh eighth'.split()]
    assert continue_pretraining(few_words*1, 'bert-tiny', tmp_path/'s', steps=8, block=32, bs=2).tokens
    with pytest.raises(TransferError, match='texts to train on|texts that are held out'): continue_pretraining(['a b', 'c d'], 'bert-tiny', tmp_path/'t', steps=8)
    with pytest.raises(TransferError, match='0 different texts, after 67 texts are in the test part'): continue_pretraining(licence(80), 'bert-tiny', tmp_path/'u', steps=8, test=licence(80))
    with pytest.raises(TransferError, match='budget=0'): continue_pretraining(licence(80), 'bert-tiny', tmp_path/'u', budget=0)
    with pytest.raises(TransferError, match='texts for replay'): continue_pretraining(licence(80), 'bert-tiny', tmp_path/'u', steps=8, replay=['two', 'texts'])
    general = continue_pretraining(licence(80), 'bert-tiny', tmp_path/'g', steps=8, block=32, bs=4, general=[f'The weather in {c} is fine and the price of wheat fell by {i} percent' for i in range(40) for c in ('Paris', 'Rome')])
    assert len(general.general) == 2 and min(general.general) > 0
    (tmp_path/'c.txt').write_text('\n\n'.join(licence(80)))
    (tmp_path/'held.txt').write_text('\n\n'.join(licence(80)[:10]))
    for _ in range(2): # what it wrote it may write again
        got = tl('adapt', '--texts', tmp_path/'c.txt', '--test', tmp_path/'held.txt', '--steps', 8, '--out', tmp_path/'o', '--json', tmp_path/'o.json')
        assert got.status == 0 and 'in the test part' in got.json['notes'][0], got

def test_blocks_hold_every_token():
    tok = text_pretrained('bert-tiny').tokenizer()
    texts = licence(50)
    ids, words = blocks_of(texts, tok, 32)
    assert ids.shape == words.shape and ids.shape[1] == 32 and (ids[:, 0] == tok.cls_token_id).all() and (ids[:, -1] == tok.sep_token_id).all()
    inner = ids[:, 1:-1].ravel().tolist()
    want = [t for i, o in enumerate(texts) for t in ([tok.sep_token_id] if i else []) + tok(o, add_special_tokens=False)['input_ids']]
    assert inner == want[:len(inner)] and len(want) - len(inner) < 30
    x, where = masked(ids[0], words[0], np.random.default_rng(0), tok, .5, whole=True)
    for w in np.unique(words[0][words[0] >= 0]): assert len(set(where[words[0] == w])) == 1 # all of a word, or nothing of it
    assert (x[~where] == ids[0][~where]).all()

def test_a_folder_to_start_from(tmp_path):
    done = continue_pretraining(licence(200), 'bert-tiny', tmp_path/'legal', steps=16, rounds=4, block=32, replay=[f'the weather on day {i} was fine and we went to the sea' for i in range(100)], test=licence(200)[:3])
    assert done.fall > .1 and len(done.general) == 2 and any('test part' in o for o in done.notes)
    assert masked_language_model(done.pretrained)[0] is not None
    df = pd.DataFrame(dict(text=licence(40), label=['a', 'b']*20))
    learn = transfer_learner(TextTask.from_df(df), tmp_path/'legal', seed=0)
    start = text_pretrained('bert-tiny').body()
    assert not torch.equal(next(learn.model.body.parameters()), next(start.parameters()))
    learn.transfer('feature', 1)
    assert json.loads((tmp_path/'legal'/'pretraining.json').read_text())['of'] == 'bert-tiny'
    done = continue_pretraining(licence(60), tmp_path/'legal', tmp_path/'more', steps=4, rounds=2, block=32) # and on from there
    assert done.before < 6

@pytest.fixture
def often(monkeypatch):
    "A checkpoint after every batch, however long it takes here"
    monkeypatch.setattr('tl_nbdev.training.loop.KeepState.often', 0.)

def test_pretraining_goes_on_after_it_was_cut_off(tmp_path, monkeypatch, often):
    from tl_nbdev.adaptation.pretraining import _Best
    args = dict(steps=12, rounds=3, block=32, resume=True)
    want = continue_pretraining(licence(100), 'bert-tiny', tmp_path/'whole', **args)
    real = _Best.after_epoch
    def stop(self):
        real(self)
        if self.learn.epoch == 1: raise KeyboardInterrupt
    monkeypatch.setattr(_Best, 'after_epoch', stop)
    with pytest.raises(KeyboardInterrupt): continue_pretraining(licence(100), 'bert-tiny', tmp_path/'cut', **args)
    monkeypatch.setattr(_Best, 'after_epoch', real)
    got = continue_pretraining(licence(100), 'bert-tiny', tmp_path/'cut', **args)
    assert got.after == pytest.approx(want.after, abs=.2) and len(got.curve) == len(want.curve) == 3

def test_a_budget_is_measured_once(tmp_path, monkeypatch, often):
    "What a budget came to stays what it was, or the checkpoint would be of another run"
    from tl_nbdev.adaptation.pretraining import _Best
    real = _Best.after_epoch
    def stop(self):
        real(self)
        if self.learn.epoch == 1: raise KeyboardInterrupt
    args = dict(budget=.5, rounds=3, block=32, bs=2, resume=True)
    monkeypatch.setattr(_Best, 'after_epoch', stop)
    with pytest.raises(KeyboardInterrupt): continue_pretraining(licence(100), 'bert-tiny', tmp_path/'cut', **args)
    steps = (tmp_path/'.cut.steps').read_text()
    monkeypatch.setattr(_Best, 'after_epoch', real)
    got = continue_pretraining(licence(100), 'bert-tiny', tmp_path/'cut', **{**args, 'budget': 5.})
    assert json.loads((tmp_path/'cut'/'pretraining.json').read_text())['steps'] <= int(steps) and not (tmp_path/'.cut.steps').exists() and got.after < got.before

def test_pretraining_refuses(tmp_path):
    with pytest.raises(TransferError, match='new_head=True'): continue_pretraining(licence(20), 'all-MiniLM-L6-v2', tmp_path/'x')
    with pytest.raises(TransferError, match='at least two'): continue_pretraining(['one text', '', None], 'bert-tiny', tmp_path/'x')
    with pytest.raises(TransferError, match='too little'): continue_pretraining(['a b', 'c d'], 'bert-tiny', tmp_path/'x')
    assert not (tmp_path/'x').exists()
    (tmp_path/'t.txt').write_text('\n\n'.join(licence(60)))
    got = tl('adapt', '--texts', tmp_path/'t.txt', '--model', 'bert-tiny', '--out', tmp_path/'out', '--steps', 8, '--block', 32, '--json', tmp_path/'r.json')
    assert got.status == 0, got.err
    assert got.json['after'] < got.json['before'] and (tmp_path/'out'/'model.safetensors').is_file()
    refused(tl('adapt', '--texts', tmp_path/'nowhere'), 'no such file')
    refused(tl('adapt'), '--texts')
