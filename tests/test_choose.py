"Advice: scores beside slow references, the race within its budget, and data that leave nothing to advise."
import json, time

import numpy as np
import pandas as pd
import pytest
import tl_nbdev.selection.choose as choose
import tl_nbdev.selection.race as race
from hypothesis import given, settings as hypo, strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from tl_nbdev.selection.choose import advise, candidates, rule_of_thumb, source_distance, source_probs
from tl_nbdev.selection.uncertainty import Judged, expected_gain, predicted, label_curve, spread
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.data.metrics import Result
from tl_nbdev.selection.scores import gbc, h_score, knn, ledoit_wolf, leep, logme, nce, ridge, score, shrunken_h_score, transrate
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text.texts import TextTask

from conftest import clocked, photos, refused, tl

few = dict(size=64)

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 60, ('round', 'square', 'line')))

@pytest.fixture(scope='module')
def noisy(task): # no leader is without an error
    return ImageTask(task.df.assign(label=np.random.default_rng(0).permutation(task.df.label)), 'noise')

@hypo(max_examples=25, deadline=None)
@given(st.integers(12, 60), st.integers(1, 80), st.integers(2, 5), st.integers(0, 10**6))
def test_scores_of_any_features(n, d, k, seed):
    "Finite, the same for float32, in another order of items, and with a column that says nothing"
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k).repeat(2), rng.integers(0, k, n - 2*k)]) if n >= 2*k else np.arange(n) % k
    f = rng.normal(size=(len(y), d)) + rng.normal(size=(k, d))[y]
    order = rng.permutation(len(y))
    for s in (logme, h_score, shrunken_h_score, transrate, gbc):
        v = s(f, y)
        assert np.isfinite(v), s
        assert np.isclose(s(f[order], y[order]), v, rtol=1e-5, atol=1e-6) and np.isclose(s(np.c_[f, np.ones(len(f))], y), v, rtol=1e-5, atol=1e-6) and np.isclose(s(f.astype(np.float32), y), v, rtol=1e-3, atol=1e-3)
    for s in (knn, ridge): assert 0 <= s(f, y) <= 1
    soft = rng.dirichlet(np.ones(3), len(y))
    assert leep(soft, y) <= 1e-12 and nce(soft.argmax(1), y) <= 1e-12
    assert np.isclose(nce(y, y), 0) and np.isclose(leep(np.eye(k)[y], y), 0)

@pytest.fixture(scope='module')
def real(tmp_path_factory):
    "Features of handwritten digits, what ImageNet's head says of them, and their classes"
    digits, folder = load_digits(), tmp_path_factory.mktemp('digits')
    files = [folder/f'{i}.png' for i in range(300)]
    for o, f in zip(digits.images, files): Image.fromarray((o*15).astype(np.uint8)).save(f)
    learn = transfer_learner(ImageTask.from_df(pd.DataFrame(dict(file=files, label=digits.target[:300]))), 'squeezenet1_1', seed=0, **few)
    rows = learn.task.df
    f = learn.frozen_now.cached(rows.item.to_list(), rows.hash.to_list())
    return f[range(len(f))].numpy(), source_probs(learn, rows), rows.label.map(int).to_numpy()

def slow_logme(f, y, times=2000):
    "You et al. 2021, algorithm 1, class by class: a full decomposition, and the fixed point of alpha and beta"
    f, said = f.astype(np.float64), []
    n, d = f.shape
    u, s, v = np.linalg.svd(f)
    sigma = np.zeros(d); sigma[:len(s)] = s**2
    for c in np.unique(y):
        t, alpha, beta = (y == c).astype(float), 1., 1.
        for _ in range(times):
            gamma = (beta*sigma/(alpha + beta*sigma)).sum()
            m = v.T@(beta/(alpha + beta*sigma)*(v@(f.T@t)))
            alpha, beta = gamma/(m@m), (n - gamma)/((f@m - t)**2).sum()
        m = v.T@(beta/(alpha + beta*sigma)*(v@(f.T@t)))
        said.append((n*np.log(beta) + d*np.log(alpha) - n*np.log(2*np.pi) - beta*((f@m - t)**2).sum() - alpha*m@m - np.log(alpha + beta*sigma).sum())/2/n)
    return np.mean(said)

def test_scores_of_real_features_are_what_was_published(real):
    f, p, y = real
    assert f.shape == (300, 512) and p.shape == (300, 1000) and f.dtype == np.float32
    for x in (f, f[:, :64]): assert abs(logme(x, y) - slow_logme(x, y)) < 1e-6 # more dimensions than items, and fewer
    g, x = np.zeros((300, 64)), f[:, f.std(0).argsort()[-64:]].astype(np.float64)
    for c in np.unique(y): g[y == c] = x[y == c].mean(0)
    assert abs(h_score(x.astype(np.float32), y) - np.trace(np.linalg.pinv(np.cov(x.T, bias=True), rcond=1e-15)@np.cov(g.T, bias=True))) < 1e-6 # Bao et al. 2019, eq. 4
    p = p.astype(np.float64)
    joint = np.array([[p[y == c, z].sum()/300 for z in range(1000)] for c in range(10)]) # Nguyen et al. 2020, eq. 1 and 2
    assert abs(leep(p, y) - np.mean([np.log(sum(joint[y[i], z]/joint[:, z].sum()*p[i, z] for z in range(1000))) for i in range(300)])) < 1e-6
    z = p.argmax(1)
    assert len(set(z)) > 2 and abs(nce(z, y) - np.mean([np.log(((z == z[i]) & (y == y[i])).sum()/(z == z[i]).sum()) for i in range(300)])) < 1e-6 # Tran et al. 2019, eq. 4

def test_h_score_of_separate_classes(): # as many as there are, less one
    f = np.eye(4)[np.arange(40) % 4] + np.random.default_rng(0).normal(0, 1e-6, (40, 4))
    assert np.isclose(h_score(f, np.arange(40) % 4), 3, atol=1e-3)

def test_h_score_of_features_that_are_noise():
    "Where all of the covariance is replaced nothing is left, also of more dimensions than items"
    rng, replaced = np.random.default_rng(0), 0
    for n, d in [(60, 61)]*20 + [(60, 20)]*20:
        f = rng.normal(size=(n, d))
        replaced += ledoit_wolf(f - f.mean(0)) == 1
        assert np.isfinite(shrunken_h_score(f, np.arange(n) % 2))
    assert replaced

def test_scores_refuse(task):
    rng = np.random.default_rng(0)
    with pytest.raises(TransferError, match='row of features'): logme(np.ones((3, 2)), [0, 1])
    with pytest.raises(TransferError, match='no feature differs'): logme(np.full((4, 2), np.nan), [0, 1, 0, 1])
    with pytest.raises(TransferError, match='one class'): score(rng.normal(size=(5, 2)), np.zeros(5))
    with pytest.raises(TransferError, match='sum 1'): leep(np.ones((4, 3)), [0, 1, 0, 1])
    with pytest.raises(TransferError, match='too few'): label_curve(rng.normal(size=(30, 4)), np.arange(30) % 3)

    f, y = rng.normal(size=(60, 8)), np.arange(60) % 3
    holes = f.copy(); holes[[3, 9], [1, 4]] = np.nan
    for refuses in (lambda: ridge(holes, y), lambda: score(holes, y), lambda: label_curve(np.r_[holes]*1, y)):
        with pytest.raises(TransferError, match='2 of 60 items have features that are no numbers, the first is item 3'): refuses()
    gone = np.c_[f, np.full(60, np.nan)]
    assert np.isclose(logme(gone, y), logme(f, y)) # a column of no numbers says nothing
    for s in (score, logme, knn, h_score):
        with pytest.raises(TransferError, match='one for each item'): s(f, np.eye(3)[y])
    with pytest.raises(TransferError, match='no numbers'): logme(f, np.where(y == 0, np.nan, y))
    with pytest.raises(TransferError, match='numbers, not classes'): score(f, rng.normal(size=60))
    assert score(f, f[:, 0] + rng.normal(size=60)/9, ['logme'])[0].value > score(f, rng.normal(size=60), ['logme'])[0].value
    with pytest.raises(TransferError, match='one group'): ridge(f, y, np.zeros(60))
    with pytest.raises(TransferError, match='one class'): label_curve(rng.normal(size=(300, 4)), np.zeros(300, int))
    assert score(f[:4], np.arange(4) % 2, ['logme'])[0].interval == [-np.inf, np.inf]
    sure = score(np.eye(3)[y] + f[:, :3]/100, y, ['ridge'])[0]
    assert sure.value == 1 and sure.interval[0] < .97

def test_a_race(task, tmp_path):
    began = time.perf_counter()
    got = advise(task, 60, ['squeezenet1_1', 'tf_efficientnet_lite0'], epochs=2, out=tmp_path/'race', **few)
    assert 0 < got.seconds <= time.perf_counter() - began # that a budget is kept: see below, where the clock is ours
    d = json.loads((tmp_path/'race'/'advice.json').read_text())
    assert d['best'] == got.best and d['ranking'][0]['interval'][0] <= d['ranking'][0]['estimate'] <= d['ranking'][0]['interval'][1] + 1e-9
    assert all(r['why'] for r in d['ranking']) and d['prior']['strategy'] in ('feature', 'last:2', 'full') and compile(d['code'], 'code', 'exec')
    assert task.reads['test'] == 0 and got.result.part == 'test' and task.reads['test'] == 1 and got.result is got.result # test is read when it is asked for, once
    assert got.result.value > .8
    said = []
    again = advise(task, 60, ['squeezenet1_1', 'tf_efficientnet_lite0'], epochs=2, out=tmp_path/'race', tell=said.append, **few)
    assert {(e.p.name, e.how.name): round(e.estimate, 6) for e in again.entries if (e.p.name, e.how.name) in {(o.p.name, o.how.name) for o in got.entries}} == {(e.p.name, e.how.name): round(e.estimate, 6) for e in got.entries if (e.p.name, e.how.name) in {(o.p.name, o.how.name) for o in again.entries}}
    assert len(got.scores()) == len({e.p.name for e in got.entries})
    assert got.more_labels().at == 2*got.more_labels().ns[-1]

def test_interrupted(task, monkeypatch):
    def stop(self): raise KeyboardInterrupt
    monkeypatch.setattr(choose._Race, 'tune', stop)
    got = advise(task, 60, 'squeezenet1_1', **few)
    assert got.interrupted and got.best == dict(model='squeezenet1_1', strategy='feature') and 'interrupted' in ' '.join(got.words())
    monkeypatch.setattr(choose._Race, 'heads', stop)
    with pytest.raises(TransferError, match='nothing was measured'): advise(task, 60, 'squeezenet1_1', **few)
    early = advise(task, 60, ['squeezenet1_1', 'mobilenet_v2'], **few) # a look at a sample was there
    assert not early.trained and len(early.entries) == 2 and 'a linear classifier makes of' in ' '.join(early.words()) and all(o['interval'] for o in early.ranking) and early.plot() is not None
    assert early.result.n == task.n('test') # it is trained when it is asked for

def test_interrupted_in_the_middle(noisy, monkeypatch):
    train = choose._Race.train
    def some(self, e, epochs):
        if not e.feature: monkeypatch.setattr(choose.Learner, 'transfer', lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        train(self, e, epochs)
    monkeypatch.setattr(choose._Race, 'train', some)
    got = advise(noisy, 60, 'squeezenet1_1', ('feature', 'last:2'), 3, **few)
    assert got.interrupted and [r['why'] for r in got.ranking if r['strategy'] == 'last:2'] == ['interrupted after 0 of 3 epochs']

def test_only_what_was_asked_for_is_advised(noisy):
    got = advise(noisy, 60, 'squeezenet1_1', 'last:2'.split(), 1, **few)
    assert got.best['strategy'] == 'last:2' and [r['why'] for r in got.ranking if r['strategy'] == 'feature'] == ['for comparison: features were needed on the way']
    sizes = got.scores()[0]
    assert sizes['parameters'] and sizes['source accuracy'] == '0.582'

def test_a_leader_without_an_error_and_a_model_without_room(task, monkeypatch):
    got = advise(task, 60, 'tf_efficientnet_lite0', ('feature', 'full'), 1, **few)
    if got.entries[0].estimate == 1: assert 'which nothing can surpass' in got.ranking[-1]['why'] and got.interval(0)[0] < .97
    monkeypatch.setattr(race, 'free_mib', lambda: 12.)
    got = advise(task, 60, ['squeezenet1_1', 'tf_efficientnet_lite0'], ('feature',), **few)
    assert 'MiB of memory' in got.ranking[-1]['why'] and got.best['model'] == 'squeezenet1_1'
    with pytest.raises(TransferError, match='no model fits into memory'): advise(task, 60, 'tf_efficientnet_lite0', **few)

def test_time_that_runs_out(noisy, monkeypatch):
    "A fit is ended when the budget is over, and what it reached does not count as a whole run"
    monkeypatch.setattr(choose._Race, 'epoch_seconds', lambda self, e: 1e-6)
    clock, real = [0.], time.perf_counter
    monkeypatch.setattr(choose.time, 'perf_counter', lambda: real() + clock[0])
    train = choose._Race.train
    def late(self, e, epochs):
        if not e.feature: clock[0] += 1000
        train(self, e, epochs)
    monkeypatch.setattr(choose._Race, 'train', late)
    got = advise(noisy, 100, 'squeezenet1_1', ['feature', 'full'], epochs=4, **few)
    assert [e.how.name for e in got.entries] == ['feature'] and any('budget was over' in e.out for e in got.left)

def _overrun(got, clock, began, budget, least):
    "Was a budget kept to, but for three tenths of it and the least that can be trained?"
    took = clock[0] - began
    assert got.seconds <= took <= 1.3*budget + least, (got.seconds, took, budget, least)

@pytest.mark.parametrize('budget, size', [(30, 40), (100, 48), pytest.param(1000, 56, marks=pytest.mark.slow)]) # of each size nothing is in the cache yet
def test_a_budget_is_kept_to_with_photos(noisy, monkeypatch, budget, size):
    each, clock = .1, clocked(monkeypatch, .1)
    began = clock[0]
    got = advise(noisy, budget, ['squeezenet1_1', 'tf_efficientnet_lite0'], epochs=2, size=size)
    _overrun(got, clock, began, budget, each*len(noisy.df))

@pytest.mark.parametrize('budget', [30, 300])
def test_a_budget_is_kept_to_with_texts(monkeypatch, budget):
    rows = pd.DataFrame(dict(text=[f'{word} number {i}' for i in range(60) for word in ('red', 'blue')], label=np.random.default_rng(0).choice(['r', 'b'], 120)))
    each, clock = .1, clocked(monkeypatch, .1)
    began, task = clock[0], TextTask.from_df(rows)
    got = advise(task, budget, 'bert-tiny', epochs=2)
    _overrun(got, clock, began, budget, each*len(task.df))

def test_what_could_not_be_trained_is_predicted(noisy, monkeypatch):
    monkeypatch.setattr(choose._Race, 'epoch_seconds', lambda self, e: 1e4)
    monkeypatch.setattr(race, 'expected_gain', lambda how, steps, batchnorm=False: (.2*(how == 'full'), .04*(how != 'feature')))
    got = advise(noisy, 60, 'squeezenet1_1', ('feature', 'full'), 2, **few)
    d, words = got.as_dict(), ' '.join(got.words())
    assert got.best == dict(model='squeezenet1_1', strategy='full') and d['trained'] == dict(model='squeezenet1_1', strategy='feature')
    assert [r['predicted'] for r in d['ranking']] == [True, False] and d['ranking'][0]['valid'] is None and 'it would take about 20000 s' in d['ranking'][0]['why']
    assert 'not trained' in words and 'squeezenet1_1 with FeatureExtraction()' in words and "learn.transfer('full', 2)" in got.code
    assert got.learn.transfers[-1]['strategy'] != 'full' and got.result.part == 'test' and 'predicted' in repr(got) and got.plot() is not None and got.more_labels()
    only = advise(noisy, 60, 'squeezenet1_1', ('full',), 2, **few)
    assert only.instead and only.best['strategy'] == 'full' and only.result.n == noisy.n('test') and 'None of the strategies' in ' '.join(only.words())

def test_a_network_with_batchnorm_is_not_predicted_from_a_few_steps(noisy, monkeypatch):
    monkeypatch.setattr(choose._Race, 'epoch_seconds', lambda self, e: 1e4)
    got = advise(noisy, 60, 'mobilenet_v2', ('feature', 'full'), 2, **few)
    assert got.best['strategy'] == 'feature' and not any(r['predicted'] for r in got.ranking) and len(got.ranking) == 2
    monkeypatch.setattr(choose._Race, 'steps_of', lambda self, e: 500)
    assert any(r['predicted'] for r in advise(noisy, 60, 'mobilenet_v2', ('feature', 'full'), 2, **few).ranking)

def test_predicting():
    pairs = [(p, h) for p in 'ab' for h in ('feature', 'last:2', 'full')]
    rng = np.random.default_rng(0)
    seen, noise = np.array([.7, .72, .75, .8, np.nan, np.nan]), np.diag(rng.uniform(.005, .03, 6)**2)
    gains, own = zip(*(expected_gain(h, 100) for _, h in pairs))
    mean, sure = predicted(pairs, seen, noise, gains, own)
    # the same from the definition: the joint Gaussian of a, g and u, conditioned on what was seen
    a, g, u = 2, 3, 6
    z = np.zeros((6, a + g + u)) # shared by all strategies, by last:2, by full
    for i, (p, h) in enumerate(pairs):
        z[i, 'ab'.index(p)] = .1
        if h != 'feature': z[i, 2], z[i, 3 + ('last:2', 'full').index(h)], z[i, 5 + i] = .02/2**.5, .02/2**.5, .04
    known, m0 = ~np.isnan(seen), np.nanmean(seen - np.array(gains)) + np.array(gains)
    precision = np.eye(a + g + u) + z[known].T@np.linalg.inv(noise[np.ix_(known, known)])@z[known]
    factors = np.linalg.solve(precision, z[known].T@np.linalg.inv(noise[np.ix_(known, known)])@(seen - m0)[known])
    assert np.allclose(mean, m0 + z@factors) and np.allclose(sure, z@np.linalg.inv(precision)@z.T)
    assert mean[5] > mean[4] > mean[3] and sure[5, 5] > sure[2, 2]
    assert expected_gain('feature', 10**6) == (0, 0) and expected_gain('full', 10)[0] == 0 and expected_gain('full', 30, True)[0] < 0 < expected_gain('full', 30)[0] < expected_gain('full', 10**9)[0] == .02

def test_labels_that_are_noise(tmp_path):
    rows = pd.DataFrame(dict(text=[f'text of number {i}' for i in range(200)], label=np.random.default_rng(0).choice(['a', 'b'], 200)))
    got = advise(TextTask.from_df(rows), 60, 'bert-tiny', ['feature'])
    assert 'no better than guessing' in ' '.join(got.words())

def test_other_problems(task):
    rows = pd.DataFrame(dict(text=[f'{w} {i}' for i in range(30) for w in ('red', 'blue', 'red blue')], label=['r', 'b', 'r;b']*30))
    got = advise(TextTask.from_df(rows, delim=';'), 60, 'bert-tiny', ['feature', 'full'], epochs=1)
    assert got.entries[0].judged.base is None and 0 <= got.interval(0)[0] <= got.interval(0)[1] <= 1
    with pytest.raises(TransferError, match='needs classes'): got.more_labels()
    price = TextTask.from_df(rows.assign(label=[1., 5., 3.]*30), regression=True)
    assert advise(price, 60, 'bert-tiny', ['feature'], epochs=1).best['model'] == 'bert-tiny'

def test_groups_stay_together():
    rows = pd.DataFrame(dict(text=[f'{w} thing {g} {i}' for g in range(12) for i in range(6) for w in ('red', 'blue')], label=['r', 'b']*72, who=[g for g in range(12) for _ in range(12)]))
    got = advise(TextTask.from_df(rows, group='who'), 60, 'bert-tiny', ['feature'])
    assert got.interval(0)[0] <= got.interval(0)[1] and got.scores()

def test_candidates(task):
    assert [p.name for p in candidates(task, params=4_000_000)] == ['squeezenet1_1', 'mobilenet_v2']
    assert [p.name for p in candidates(task, licence='BSD')] == ['squeezenet1_1']
    assert candidates(task, mib=6)[0].name == 'squeezenet1_1'
    with pytest.raises(TransferError, match='no candidate is left.*parameters'): candidates(task, params=1000)
    with pytest.raises(TransferError, match='ms an item'): candidates(task, 'squeezenet1_1', latency=1e-6)
    assert [r['model'] for r in advise(task, 60, candidates=dict(licence='BSD'), strategies=['feature'], **few).ranking] == ['squeezenet1_1']
    with pytest.raises(TransferError, match='latency'): advise(task, 60, candidates=dict(latenzy=20), **few)

def test_rules_of_thumb(task):
    learn = transfer_learner(task, 'squeezenet1_1', seed=0, **few)
    assert source_distance(learn) is None # it has no BatchNorm
    near = source_distance(transfer_learner(task, 'mobilenet_v2', seed=0, **few))
    assert near > 0 and rule_of_thumb(task, .1)[0] == 'feature' and rule_of_thumb(task, 3.)[0] == 'last:2'

def test_a_control_variate_has_no_say_without_agreement():
    y, rng = np.ones(200, int), np.random.default_rng(0)
    r = Result('accuracy', y, np.eye(2)[(rng.random(200) < .7).astype(int)], ['a', 'b'])
    o = Judged(r, (rng.random(200) < .7)*1., np.zeros(400))
    assert o.weight < .2 and abs(o.estimate - r.value) < .2*.8
    assert spread([o, o]).shape == (400, 2) and np.allclose(*spread([o, o]).T)

def test_from_the_shell(tmp_path):
    root = photos(tmp_path/'photos', 40)
    got = tl('advise', root, '--budget', 40, '--models', 'squeezenet1_1', '--strategies', 'feature,last:1', '--epochs', 1, '--size', 64, '--out', tmp_path/'out', '--json', tmp_path/'a.json')
    assert got.status == 0, got.err
    assert {'ranking', 'best', 'tied_with_best', 'prior', 'budget', 'seconds', 'code', 'test'} <= set(got.json) and got.json['budget'] == 40
    assert (tmp_path/'out'/'advice.png').is_file() and (tmp_path/'out'/'model'/'model.safetensors').is_file()
    refused(tl('advise', root, '--budget', 'soon'), 'budget "soon"', '5 min')
    refused(tl('advise', root, '--budget', .001, '--models', 'squeezenet1_1', '--size', 64), 'too small', 'needs about')
    refused(tl('advise', root, '--models', 'squeezenet1_1', '--params', 10), 'no candidate is left')
