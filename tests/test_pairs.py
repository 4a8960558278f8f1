"Two that belong together: what is learned and judged, and the way from a table to a search, also in a shell and after a kill."
import json, os, signal

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from children import python
from conftest import tl
from torch.nn import functional as F
from tl_nbdev.base.settings import TransferError
from tl_nbdev.code.search import PairsTask
from tl_nbdev.data.metrics import paired_interval
from tl_nbdev.data.tasks import task_from_dict
from tl_nbdev.networks.heads import Network
from tl_nbdev.pairs.answer import Matching, MatchLoss, halves, label_numbers, placed_vectors
from tl_nbdev.pairs.baselines import baseline_table, search_baselines
from tl_nbdev.pairs.modality import candidates_of
from tl_nbdev.pairs.start import pair_pretrained
from tl_nbdev.text.encoders import text_pretrained
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer

cities = dict(Peru='Lima', Bolivia='La Paz', Chile='Santiago', Ecuador='Quito', France='Paris', Japan='Tokyo', Kenya='Nairobi', Norway='Oslo', Egypt='Cairo', Greece='Athens',
              Spain='Madrid', Cuba='Havana', Ghana='Accra', Italy='Rome', Nepal='Kathmandu', Poland='Warsaw', Qatar='Doha', Syria='Damascus', Togo='Lome', Vietnam='Hanoi')
records = [(f'What is the capital of {land}?', f'{town} is where the government of {land} sits.') for land, town in cities.items()]

def pairs(**kwargs): return PairsTask.from_records(records, **{'name': 'capitals', 'valid': .2, 'test': .2, **kwargs})
def quiet(learn, how, epochs=1, **kwargs):
    with watched(learn): return learn.transfer(how, epochs, **kwargs)


# what is learned

def outputs(n, seed=0, d=6): return torch.randn(n, 2*d, generator=torch.Generator().manual_seed(seed))

@given(st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_the_same_from_both_sides_and_in_any_order(n, seed):
    out, ids = outputs(n, seed), torch.randint(0, 4, (n, 2), generator=torch.Generator().manual_seed(seed))
    loss, turned = MatchLoss(), torch.cat(halves(out)[::-1], 1)
    assert loss(out, ids).item() == pytest.approx(loss(turned, ids.flip(1)).item(), rel=1e-5, abs=1e-6)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert loss(out[order], ids[order]).item() == pytest.approx(loss(out, ids).item(), rel=1e-5, abs=1e-6)
    assert loss(out, ids).item() >= -1e-6

def test_without_copies_it_is_the_usual_loss_of_clip():
    out, ids = outputs(8), torch.arange(16).reshape(8, 2)
    first, second = halves(out)
    usual = (F.cross_entropy(first@second.T, torch.arange(8)) + F.cross_entropy(second@first.T, torch.arange(8)))/2
    assert MatchLoss()(out, ids).item() == pytest.approx(usual.item(), rel=1e-6)

def test_what_shares_a_side_is_no_wrong_answer():
    "The same pairs with one more that shares a question: to the old ones nothing is new but their own copy"
    out, ids = outputs(3), torch.tensor([[1, 4], [2, 5], [3, 6]])
    more, copy = torch.cat([out, out[:1]]), torch.cat([ids, torch.tensor([[1, 7]])])
    out.requires_grad_(), more.requires_grad_()
    alone = MatchLoss()(out, ids, reduction='none')
    with_copy = MatchLoss()(more, copy, reduction='none')
    assert with_copy[0].item() == pytest.approx(alone[0].item(), rel=1e-6) # only the copy was added for it
    pulled, = torch.autograd.grad(with_copy[0], more)
    assert pulled[3].abs().max() == 0

def test_both_towers_learn():
    for towers in (1, 2):
        p = pair_pretrained('bert-tiny', size=16, towers=towers)
        net = Network(p.body(), p.head('linear', 256, 1))
        MatchLoss()(net(p.example(4)), torch.arange(8).reshape(4, 2)).backward()
        for tower in {net.body.first, net.body.tower(1)}: assert all(each.grad is not None and each.grad.abs().sum() > 0 for name, each in tower.named_parameters() if 'layer.1' in name and 'key.bias' not in name)
        assert net.head.first.linear.weight.grad.abs().sum() > 0


# how it is judged

@given(st.integers(2, 40), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_places_are_those_of_a_plain_count_and_no_order_matters(n, seed):
    rng = np.random.default_rng(seed)
    vectors, names = rng.normal(size=(n, 8)).astype(np.float32), rng.integers(0, max(3, n//2), (n, 2))
    found, (a, b) = placed_vectors(vectors, names), halves(vectors)
    alike = (a/np.linalg.norm(a, axis=1, keepdims=True))@(b/np.linalg.norm(b, axis=1, keepdims=True)).T
    for i in range(n):
        wrong = [j for j in range(n) if names[j, 0] != names[i, 0] and names[j, 1] != names[i, 1]]
        assert found[i, 0] == sum(alike[i, j] > alike[i, i] + 1e-6 for j in wrong)
    turn = rng.permutation(n)
    assert (np.delete(placed_vectors(vectors[turn], names[turn]), 2, 1) == np.delete(found[turn], 2, 1)).all()

def test_among_200_is_easier_than_among_all_and_the_same_for_every_network():
    rng = np.random.default_rng(0)
    names, vectors = rng.integers(0, 1 << 59, (700, 2)), rng.normal(size=(700, 8))
    found = placed_vectors(vectors, names)
    assert (found[:, 3] <= found[:, 0]).all() and found[:, 3].max() <= 199
    chance = (1/np.arange(1, 201)).mean()
    assert Matching.scores['MRR@200'](names, found) == pytest.approx(chance, abs=.015)

def test_a_network_that_gives_the_same_to_all_is_no_better_than_chance():
    names = np.arange(60).reshape(30, 2)
    found = placed_vectors(np.ones((30, 8)), names)
    assert Matching.scores['MRR'](names, found) == pytest.approx((1/np.arange(1, 31)).mean())


# from a table to a model

@pytest.fixture(scope='module')
def learn():
    made = transfer_learner(pairs(), 'bert-tiny', size=32, seed=0)
    return quiet(made, 'full', 2)

def test_frozen_and_cached_is_the_whole_network(learn):
    fast, slow = learn.evaluate('valid'), learn.evaluate('valid', fast=False)
    assert (fast.probs == slow.probs).all()
    items = learn.task.df.item.to_list()
    frozen = learn.predictor().frozen
    assert (frozen.cached(items, None)[list(range(len(items)))] - frozen.all(items)).abs().max() < 1e-5*frozen.all(items).abs().max()

def test_zero_shot_is_the_encoder_itself():
    "A projection that changes nothing: the cosine of the encoder's own vectors"
    task = pairs()
    learn = transfer_learner(task, 'bert-tiny', size=32, seed=0)
    p = text_pretrained('bert-tiny', size=32)
    alone = p.frozen(p.body())
    items = task.part('test').item
    vectors = torch.cat([alone.cached(list(side), [f'{i:032x}' for i in range(j, j + len(items))])[list(range(len(items)))] for j, side in enumerate(zip(*items), 10)], 1)
    assert (placed_vectors(vectors.numpy(), task.targets('test'))[:, :2] == learn.evaluate().probs[:, :2]).all()

def test_shown_metric_is_of_the_whole_part(learn):
    again = transfer_learner(pairs(), 'bert-tiny', size=32, seed=0, bs=4)
    again.dls.valid.bs = 2
    with again.no_bar(): shown = again.validate()[1]
    assert shown == pytest.approx(again.evaluate('valid').value, abs=1e-6)

def test_saved_and_loaded_it_answers_the_same(learn, tmp_path):
    result = learn.evaluate()
    learn.save_transfer(tmp_path/'model', result)
    model = load_transfer(tmp_path/'model')
    texts = [answer for _, answer in records]
    assert model.search('the capital of Kenya', texts) == learn.search('the capital of Kenya', texts)
    assert model.frozen.p.temperature == .05 and model.head.temperature == pytest.approx(.05)
    row, = model.predict([records[0]])
    assert row['similarity'] == pytest.approx(learn.predict(records[0])[0], abs=1e-5)
    start = transfer_learner(pairs(), tmp_path/'model', head='own', seed=1)
    assert (start.evaluate().probs == result.probs).all()
    assert task_from_dict(pairs().as_dict()).fingerprint == learn.task.fingerprint

@pytest.mark.parametrize('how', ['feature', 'last:1', 'lora:2', 'wise', 'gradual'])
@pytest.mark.parametrize('more', [dict(), dict(towers=2, learn_temperature=True, temperature=.1), dict(projections=1)])
def test_strategies_as_they_are(how, more, tmp_path):
    learn = quiet(transfer_learner(pairs(), 'bert-tiny', size=16, seed=0, **more), how)
    assert np.isfinite(learn.recorder.losses[-1].item()) and 0 < learn.evaluate().value <= 1
    learn.save_transfer(tmp_path/'model', check=False)
    assert load_transfer(tmp_path/'model').search('Peru', ['Lima', 'Oslo']) == learn.search('Peru', ['Lima', 'Oslo'])

def test_windows_of_long_sides():
    long = [(one, other + ' It rains there.'*60) for one, other in records]
    learn = quiet(transfer_learner(PairsTask.from_records(long, name='long', valid=.2, test=.2), 'bert-tiny', size=32, long='windows', seed=0), 'full')
    assert learn.evaluate().n == 4

trainer = '''
import json, os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[4])
from fastai.basics import Callback
import test_pairs as t
from tl_nbdev.networks.passes import weights_hash
from tl_nbdev.training.loop import KeepState
KeepState.often = 0.
stop, folder, how = int(sys.argv[1]), sys.argv[2] or None, sys.argv[3]

class Die(Callback):
    order, n = 90, 0
    def after_batch(self):
        if self.training: self.n += 1
        if self.n == stop: os.kill(os.getpid(), signal.SIGKILL)

learn = t.transfer_learner(t.pairs(), 'bert-tiny', size=16, bs=4, seed=0, learn_temperature=True)
with t.watched(learn), learn.added_cbs(Die()): learn.transfer(how, 2, resume=folder is not None, folder=folder)
print(json.dumps([weights_hash(learn.model), len(learn.recorder.losses), learn.evaluate().value]))
'''

@pytest.mark.parametrize('how, stop', [('full', 4), ('feature', 1)])
def test_killed_and_resumed_it_ends_the_same(how, stop, tmp_path):
    def run(stop, folder):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')]))
        done = python(trainer, stop, folder, how, os.path.dirname(__file__), env=env)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else None
    want = run(-1, '')
    assert run(stop, tmp_path/'run') is None
    assert run(-1, tmp_path/'run') == want


# splits

def test_what_shares_a_side_stays_together():
    rows = [(f'question {i % 15}', f'answer {i}') for i in range(60)]
    task = PairsTask.from_records(rows, name='shared')
    parts = task.df.assign(question=[one for one, _ in task.df.item]).groupby('question').part.nunique()
    assert (parts == 1).all() and set(task.df.part) == {'train', 'valid', 'test'}

def test_files_stay_together_and_a_given_split_is_kept():
    rows = pd.DataFrame([dict(question=f'q {i}', answer=f'a {i}', file=f'f{i % 9}', part=['train', 'train', 'test'][i % 3]) for i in range(60)])
    assert (PairsTask.from_df(rows, group='file').df.groupby('group').part.nunique() == 1).all()
    given_split = PairsTask.from_df(rows, part='part')
    assert given_split.n('test') == 20 and given_split.n('valid') > 0

def test_better_or_cannot_tell():
    task = pairs()
    learn = transfer_learner(task, 'bert-tiny', size=16, seed=0)
    found = search_baselines(task)
    assert len(baseline_table(found, learn.evaluate())) == len(found) + 2
    low, high = paired_interval(found['BM25, parts of names'], found['BM25, parts of names'])
    assert low == high == 0


# what goes wrong

@pytest.mark.parametrize('rows', [[], [('a', 'b')], [('a', '')]*3, [('a',)], ['ab'], [3], [('a', 'b'), ('a', 'c'), ('a', 'd')], [('a', None), (None, 'b')], [dict(question='a')], [('a', ['b'])]*4])
def test_no_pairs(rows):
    with pytest.raises(TransferError) as error: PairsTask.from_records(rows)
    assert '\n' not in str(error.value)

def test_what_is_left_out_is_named():
    task = PairsTask.from_records([*records, ('', 'b'), ('a', None), records[0]], name='some')
    assert [why for _, why in task.skipped] == ['question: an empty text', 'answer: no text', 'the same pair is there before']

@pytest.mark.parametrize('options', [dict(towers=0), dict(projections=3), dict(temperature=0), dict(temperature=-1), dict(temperature='x'), dict(pooling='attention'), dict(head='textbook'), dict(class_weights=True), dict(size=1)])
def test_settings_that_make_no_sense(options):
    with pytest.raises(TransferError): transfer_learner(pairs(), 'bert-tiny', **options)

@pytest.mark.parametrize('query, among', [('', ['a']), (None, ['a']), ([], ['a']), ('a', []), ('a', ['']), ('a', [None]), ('a', 'no/such/folder'), (3, ['a']), ('a', [3])])
def test_searches_that_make_no_sense(learn, query, among):
    with pytest.raises(TransferError) as error: learn.search(query, among)
    assert '\n' not in str(error.value)

def test_words_count_where_they_are_asked_to(learn):
    texts = [answer for _, answer in records]
    assert learn.search('Kathmandu', texts, 1, words=10)[0]['found'].startswith('Kathmandu')
    for odd in (-1, 'a', True, float('nan')):
        with pytest.raises(TransferError): learn.search('a', texts, words=odd)

def test_a_model_of_classes_searches_nothing():
    from tl_nbdev.text.texts import TextTask
    rows = pd.DataFrame(dict(text=[f'{word} {i}' for i in range(12) for word in ('good', 'bad')], label=['a', 'b']*12))
    learn = transfer_learner(TextTask.from_df(rows, name='some'), 'bert-tiny', size=16, seed=0)
    with pytest.raises(TransferError, match='searches nothing'): learn.search('a', ['b'])

def test_candidates_of_files_and_folders(tmp_path):
    (tmp_path/'lines.txt').write_text('one\n\ntwo\n')
    (tmp_path/'tools.py').write_text('def load(path):\n    "Reads"\n    return open(path)\n')
    assert candidates_of(tmp_path/'lines.txt') == [('one', 'lines.txt:1'), ('two', 'lines.txt:3')]
    assert [name for _, name in candidates_of(tmp_path)] == ['tools.py:1 load']
    assert [name for _, name in candidates_of(tmp_path/'tools.py')] == ['tools.py:1 load']
    pd.DataFrame(dict(n=[1, 2], body=['a long text', 'another one'])).to_csv(tmp_path/'t.csv', index=False)
    assert [text for text, _ in candidates_of(tmp_path/'t.csv')] == ['a long text', 'another one']


# in a shell

def test_from_the_shell(tmp_path):
    pd.DataFrame(records, columns=['question', 'answer']).to_csv(tmp_path/'pairs.csv', index=False)
    (tmp_path/'towns.txt').write_text('\n'.join(cities.values()), encoding='utf-8')
    done = tl('train', tmp_path/'pairs.csv', '--task', 'pairs', '--model', 'bert-tiny', '--size', 16, '--strategy', 'last:1', '--epochs', 1, '--out', tmp_path/'model', '--json', tmp_path/'report.json')
    assert done.status == 0, done.err
    assert done.json['metric'] == 'MRR'
    done = tl('predict', tmp_path/'model', 'the capital of Peru', '--among', tmp_path/'towns.txt', '--top', 3, '--json', tmp_path/'found.json')
    assert done.status == 0, done.err
    assert [row['place'] for row in json.loads((tmp_path/'found.json').read_text())] == [1, 2, 3]
    done = tl('predict', tmp_path/'model', tmp_path/'pairs.csv', '--text', 'question', '--second', 'answer')
    assert done.status == 0 and len(done.out.splitlines()) == 20, done.err
    for words in (['x'], ['x', '--top', 3], ['--among', tmp_path], ['x', '--among', tmp_path/'no'], ['x', '--among', tmp_path/'towns.txt', '--top', 0]):
        done = tl('predict', tmp_path/'model', *words)
        assert done.status == 1 and len(done.err.strip().splitlines()) == 1, (words, done.err)


# out of here

def test_an_encoder_for_sentence_transformers(tmp_path):
    st_ = pytest.importorskip('sentence_transformers')
    import tl_nbdev.all # teaches a learner to export
    learn = quiet(transfer_learner(pairs(), 'bert-tiny', size=32, projections=1, seed=0), 'feature', 3)
    made = learn.export(tmp_path/'encoder', 'sentence-transformers')
    question, answer = st_.SentenceTransformer(str(made), device='cpu').encode(list(records[0]))
    assert float(question@answer) == pytest.approx(learn.predict(records[0])[0], abs=1e-3)
    apart = transfer_learner(pairs(), 'bert-tiny', size=32, seed=0)
    with pytest.raises(TransferError, match='projections=1'): apart.export(tmp_path/'other', 'sentence-transformers')
