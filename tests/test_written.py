"Written answers are judged as rouge-score and sacrebleu have it; intervals are those of drawing anew; ties of a search are all their orders."
import itertools, math

import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.baselines import commonest_answer, few_shot, nearest_answer, nearest_examples, plain_prompt
from tl_nbdev.generation.likelihood import better_perplexity, bits, likelihoods, perplexity, token_loss
from tl_nbdev.generation.scores import (ItemScores, better_scores, chrf, common_length, compared_scores, exact_match, item_scores, judge_texts, rouge_l,
                                        text_scores, words)
from tl_nbdev.pairs.search import found_within, judge_search, places, reciprocal_ranks, search_table

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)


# scores

def longest(one, other):
    "By the table that every textbook has"
    rows = [[0]*(len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other): rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]

@quick
@given(st.text('abc', max_size=140), st.text('abcd', max_size=140))
def test_the_longest_sequence_is_that_of_the_table(one, other): assert common_length(one, other) == longest(one, other) == common_length(other, one)

# (written, wanted, rouge-score's F1 of rougeL, without stemming)
by_rouge_score = [('x2 mat on The, a x2', 'it\'s a 3.5 sat cat', 2/13), ('x2 Mat.', 'it\'s The, dog-like Mat. cat', 2/9), ('', 'dog-like a', 0),
                  ('A cat sat on a mat.', 'The cat sat on the mat', 2/3), ('the the the', 'the', .5), ('b a', 'a b', .5)]

@pytest.mark.parametrize('written, wanted, value', by_rouge_score)
def test_rouge_l_is_that_of_rouge_score(written, wanted, value): assert math.isclose(rouge_l(written, wanted), value)

@quick
@given(st.text(max_size=60), st.text(max_size=60))
def test_chrf_is_that_of_sacrebleu_and_all_are_shares(one, other):
    sacrebleu = pytest.importorskip('sacrebleu')
    assert math.isclose(chrf(one, other), sacrebleu.sentence_chrf(one, [other]).score/100)
    for score in (exact_match, rouge_l, chrf): assert 0 <= score(one, other) <= 1 + 1e-9
    assert exact_match(one, one) == 1 and rouge_l(one, one) == 1

def test_without_sacrebleu_it_is_one_line(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'sacrebleu.metrics', None)
    with pytest.raises(TransferError, match=r'pip install "tl_nbdev\[generation\]"'): judge_texts(['a'], ['a'], 'chrF')

@pytest.mark.parametrize('one, other, same, strictly', [('a', 'a', 1, 1), (' a\n', 'a', 1, 0), ('e\u0301', '\u00e9', 1, 0), ('A', 'a', 0, 0), ('a  b', 'a b', 0, 0),
                                                        ('ﬁ', 'fi', 0, 0), ('', ' ', 1, 0), ('\ud800', '\ud800', 1, 1)])
def test_exact_match(one, other, same, strictly): assert (exact_match(one, other), exact_match(one, other, strict=True)) == (same, strictly)

def test_scripts_without_spaces(): assert words('東京は大きい') == list('東京は大きい') and 0 < rouge_l('東京は', '東京が') < 1

def test_the_best_reference_counts_and_a_scorer_sees_the_prompt():
    assert item_scores(['Rome'], [['Roma', 'Rome']], 'exact match').tolist() == [1]
    def prompted(written, wanted, prompt): return written == prompt + wanted
    assert item_scores(['ab', 'b'], ['b', 'b'], prompted, ['a', 'a']).tolist() == [1, 0]

def fails(written, wanted, prompt): raise ValueError('two\nlines')
def none(written, wanted, prompt): return None
def text(written, wanted, prompt): return 'good'
def several(written, wanted, prompt): return [1, 2]
def lost(written, wanted, prompt): return float('nan')
def narrow(written): return 1

@pytest.mark.parametrize('score', [fails, none, text, several, lost, narrow])
def test_a_scorer_that_fails_names_the_item(score):
    with pytest.raises(TransferError, match=f'the score {score.__name__} .*item 0 ') as e: judge_texts(['one', 'two'], ['1', '2'], score)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('written, references, words', [(['a'], ['b', 'c'], '1 answers and 2 references'), ([None], ['a'], 'item 0'), (['a'], [None], 'item 0'), (['a'], [[]], 'item 0'),
                                                        (['a'], [['b', 3]], 'item 0'), ('a', ['a'], 'give a list'), ([], [], 'one number an item')])
def test_odd_texts_are_one_line(written, references, words):
    with pytest.raises(TransferError, match=words): judge_texts(written, references)


# intervals

def test_an_interval_is_that_of_drawing_by_hand():
    rng = np.random.default_rng(3)
    sums, counts = rng.gamma(2, size=40), rng.integers(1, 9, 40)
    of = ItemScores('loss', sums, counts)
    draws = np.random.default_rng(0)
    values = []
    for _ in range(1000):
        ids = draws.integers(40, size=40)
        values.append(sums[ids].sum()/counts[ids].sum())
    assert np.allclose(of.interval, np.percentile(values, [2.5, 97.5])) and math.isclose(of.value, sums.sum()/counts.sum())

def test_groups_widen_an_interval():
    rng = np.random.default_rng(0)
    groups = np.arange(120)//12
    values = rng.normal(size=10)[groups] + rng.normal(0, .1, 120)
    alone, together = ItemScores('x', values), ItemScores('x', values, groups=groups)
    width = lambda of: of.interval[1] - of.interval[0]
    assert width(together) > 2*width(alone) and alone.value == together.value

def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(1, 30, 80)
        hard = rng.normal(2, .5, 80)
        low, high = token_loss(tokens*hard.clip(0), tokens).interval
        held += low <= 2 <= high
    assert .88 <= held/200 <= .99, held

def test_a_small_difference_is_seen_in_pairs_and_none_is_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 100)
    one, other = ItemScores('x', hard + rng.normal(.3, .5, 100)), ItemScores('x', hard)
    assert one.interval[0] < other.interval[1] and better_scores(one, other)['verdict'] == 'better' and better_scores(other, one)['verdict'] == 'worse'
    wrong = sum(better_scores(ItemScores('x', hard + np.random.default_rng(i).normal(0, .5, 100)), other)['verdict'] != 'can\'t tell' for i in range(60))
    assert wrong <= 9

def test_seeds_are_drawn_as_well():
    "Two seeds that disagree can't tell, though each is sure"
    base = ItemScores('x', np.zeros(50))
    up, down = (ItemScores('x', np.full(50, by) + np.random.default_rng(0).normal(0, .01, 50)) for by in (1., -.8))
    assert better_scores(up, base)['verdict'] == 'better' and better_scores([up, down], [base, base])['verdict'] == 'can\'t tell'

def test_one_item_is_no_proof():
    one = ItemScores('loss', [3.], [2])
    assert np.isnan(one.interval).all() and better_scores(one, ItemScores('loss', [1.], [2]))['verdict'] == 'can\'t tell'

def test_what_is_not_comparable_is_one_line():
    a = ItemScores('x', np.ones(4), groups=list('aabb'))
    for other in (ItemScores('x', np.ones(4)), ItemScores('x', np.ones(3)), ItemScores('y', np.ones(4), groups=list('aabb')),
                  ItemScores('x', np.ones(4), groups=list('aaab')), ItemScores('x', np.ones(4), groups=list('aabb'), part='valid')):
        with pytest.raises(TransferError, match='can\'t be paired'): better_scores(a, other)
    with pytest.raises(TransferError, match='no results'): better_scores([], [])
    with pytest.raises(TransferError, match='no results'): compared_scores({})
    with pytest.raises(TransferError, match='groups of 3'): ItemScores('x', np.ones(4), groups=list('abc'))


# likelihood

@quick
@given(st.lists(st.tuples(st.floats(.01, 9), st.integers(1, 50)), min_size=2, max_size=30))
def test_perplexity_is_the_exponential_of_the_mean_over_tokens(items):
    losses, tokens = np.array([loss*n for loss, n in items]), np.array([n for _, n in items])
    value, (low, high) = perplexity(token_loss(losses, tokens))
    assert math.isclose(value, math.exp(sum(losses)/sum(tokens)), rel_tol=1e-9) and low <= value*(1 + 1e-9) and value <= high*(1 + 1e-9)

def test_a_ratio_is_that_of_perplexities():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, 30)
    a, b = (token_loss(tokens*rng.gamma(2, size=30), tokens) for _ in range(2))
    apart = better_perplexity(a, b)
    assert math.isclose(apart['ratio'], perplexity(a)[0]/perplexity(b)[0]) and len(likelihoods({'a': a, 'b': b})) == 2
    assert better_perplexity(a, a) == dict(ratio=1., interval=[1., 1.], difference=0., verdict='can\'t tell')

def test_bits_do_not_depend_on_how_a_text_is_cut():
    answers = ['wheat', 'ré\ud800']
    one, other = (bits(losses, answers) for losses in ([8., 3.], [8., 3.]))
    assert one.counts.tolist() == [5, 6] and math.isclose(one.value, 11/math.log(2)/11) and better_scores(one, other)['difference'] == 0
    with pytest.raises(TransferError, match='the counts of items differ'): better_scores(token_loss([8., 3.], [2, 2]), token_loss([8., 3.], [2, 3]))

@pytest.mark.parametrize('losses, tokens, words', [([1, np.nan], [1, 1], 'item 1 has nan'), ([1], [1, 2], 'one number an item'), ([], [], 'one number an item'), ([1], [1.5], '1.5 tokens'),
                                                   (['a'], [1], 'numbers'), ([[1]], [[1]], 'one number an item'), ([0, 0], [0, 0], 'no item has a token'), ([2, -1], [1, 1], 'item 1')])
def test_odd_losses_are_one_line(losses, tokens, words):
    with pytest.raises(TransferError, match=words): token_loss(losses, tokens)


# search

@quick
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.data())
def test_ties_are_all_their_orders(row, data):
    right, k = data.draw(st.integers(0, len(row) - 1)), data.draw(st.integers(1, 7))
    ranks = []
    for order in itertools.permutations(range(len(row))): # a stable sort of each order is each order of those that tie
        ranked = sorted(order, key=lambda i: -row[i])
        ranks.append(ranked.index(right) + 1)
    assert math.isclose(reciprocal_ranks([row], [right])[0], np.mean(1/np.array(ranks)))
    assert math.isclose(found_within([row], k, [right])[0], np.mean(np.array(ranks) <= k), abs_tol=1e-12)

def test_infinite_similarities_are_ranked(): assert places([[np.inf, 1, -np.inf]], [2])[0].tolist() == [2]

def test_a_search_is_judged_by_query_and_group():
    rng = np.random.default_rng(0)
    made = judge_search(np.eye(30) + rng.normal(0, .5, (30, 30)), ks=(1, 3), groups=np.arange(30)//5)
    assert list(made) == ['MRR', 'recall@1', 'recall@3'] and made['MRR'].units == 6 and len(search_table(made)) == 3
    assert made['recall@1'].value <= made['MRR'].value <= 1 and made['recall@1'].value <= made['recall@3'].value


# baselines

prompts, answers = ['capital of France', 'capital of Italy', 'author of Faust'], ['Paris', 'Rome', 'Goethe']

def test_each_example_is_nearest_to_itself(): assert nearest_answer(prompts, answers, prompts) == answers

def test_many_questions_are_as_one_by_one():
    asked = [f'{prompts[i % 3]} {i}' for i in range(600)]
    together = nearest_examples(prompts, asked, 2)
    assert together.shape == (600, 2) and all((nearest_examples(prompts, [asked[i]], 2) == together[i]).all() for i in (0, 255, 256, 599))

def test_prompts_with_examples():
    shots = few_shot(prompts, answers, ['author of Emma', 'capital of Spain'], k=2, choose='nearest')
    assert [turn[0] for turn in shots[0]] == ['user', 'assistant']*2 + ['user'] and shots[0][-3] == ('user', 'author of Faust') and shots[0][-1][1] == 'author of Emma'
    assert all(answer in answers for turns in shots for role, answer in turns if role == 'assistant')
    assert plain_prompt(shots[0]).endswith('Question: author of Emma\nAnswer:') and few_shot([], [], ['a'], k=0) == [[('user', 'a')]]

@pytest.mark.parametrize('way', [nearest_answer, commonest_answer])
@pytest.mark.parametrize('given_prompts, given_answers', [([], []), (['a'], []), ('a', ['b']), ([3], ['b']), (['a'], [None])])
def test_odd_examples_are_one_line(way, given_prompts, given_answers):
    with pytest.raises(TransferError) as e: way(given_prompts, given_answers, ['q'])
    assert '\n' not in str(e.value)

def test_every_named_score_can_be_asked_for(): assert all(judge_texts(['a b'], ['a b'], name).value == pytest.approx(1) for name in text_scores)
