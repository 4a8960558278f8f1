"Numbers for boxes are those of pycocotools, to the last digits; intervals are those of matching anew; odd tables are refused in one line."
import io
from contextlib import redirect_stdout

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.judging import average_precision, better_boxes, drawn_counts, judge
from tl_nbdev.boxes.matches import found_columns, matches, truth_columns
from tl_nbdev.boxes.mistakes import _ap_mended, _mended, _rows_of, _wrong_boxes, box_mistakes

names = ['mAP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large', 'AR 1', 'AR 10', 'AR 100', 'AR small', 'AR medium', 'AR large']

def scene(seed, n=12, k=3, per=6, levels=8, crowd=.15, off=5., extra=2, whole=False):
    "Photos with things, crowds and nothing; boxes on them, beside them and twice; scores that tie; classes that are absent"
    rng, there, found = np.random.default_rng(seed), [], []
    for i in range(n):
        if rng.random() < .2: continue # nothing is there, and perhaps something is found
        for _ in range(rng.integers(0, per + 1)):
            low, side = rng.uniform(0, 200, 2), np.exp(rng.uniform(1.5, 5.5, 2))
            box, label = np.concatenate([low, low + side]), int(rng.integers(k))
            if whole: box = box.round()
            there.append((i, label, *box, rng.random() < crowd))
            for _ in range(rng.integers(0, extra + 1)):
                where = np.sort((box + rng.normal(0, off, 4)).reshape(2, 2), 0).ravel()
                found.append((i, label if rng.random() < .8 else int(rng.integers(k + 1)), *(where.round() if whole else where), rng.integers(1, levels)/levels))
    for i in rng.integers(n, size=n):
        low = rng.uniform(0, 200, 2)
        found.append((i, int(rng.integers(k + 1)), *low, *(low + rng.uniform(2, 90, 2)), rng.integers(1, levels)/levels))
    return pd.DataFrame(there, columns=[*truth_columns, 'crowd']), pd.DataFrame(found, columns=found_columns)

def coco(rows, n, k, copies=None):
    "Tables as pycocotools reads them; `copies`: how often each image is there"
    dicts, images = [], []
    for i in range(n):
        for _ in range(1 if copies is None else int(copies[i])):
            images.append(dict(id=len(images) + 1))
            for row in rows[rows.file == i].itertuples():
                w, h = row.x1 - row.x0, row.y1 - row.y0
                dicts.append(dict(id=len(dicts) + 1, image_id=len(images), category_id=row.label + 1, bbox=[row.x0, row.y0, w, h],
                                  area=getattr(row, 'area', w*h), iscrowd=int(getattr(row, 'crowd', 0)), score=getattr(row, 'score', 0)))
    with redirect_stdout(io.StringIO()):
        made = COCO()
        made.dataset = dict(images=images, annotations=dicts, categories=[dict(id=o + 1) for o in range(k)])
        made.createIndex()
    return made

def by_pycocotools(truths, found, n, k, copies=None, judge_by=COCOeval):
    done = judge_by(coco(truths, n, k, copies), coco(found, n, k, copies), 'bbox')
    with redirect_stdout(io.StringIO()):
        done.evaluate()
        done.accumulate()
        done.summarize()
    return np.where(np.array(done.stats[:12]) < 0, np.nan, done.stats[:12])

def ours(truths, found, n, k, **kwargs):
    result = judge(truths, found, list(range(n)), list(range(k)), **{'times': 2, **kwargs})
    return result, np.array([result.numbers()[name][0] for name in names])

cases = {'many': dict(n=20, per=9), 'ties': dict(levels=3, extra=3), 'no crowds': dict(crowd=0.), 'crowds only': dict(crowd=1.), 'one class': dict(k=1),
         'whole pixels': dict(whole=True, off=1.), 'exact': dict(off=0.), 'far off': dict(off=40.), 'many on one': dict(n=2, per=60, extra=3, k=1, levels=900)}

@pytest.mark.parametrize('case', cases)
def test_numbers_are_those_of_pycocotools(case):
    for seed in range(3):
        of = dict(dict(n=12, k=3), **cases[case])
        truths, found = scene(seed, **of)
        n, k = of['n'], of['k'] + 2 # one class that is only found, and one that is nowhere
        np.testing.assert_allclose(ours(truths, found, n, k)[1], by_pycocotools(truths, found, n, k), atol=1e-9)

@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), k=st.integers(1, 4), levels=st.integers(2, 40), crowd=st.floats(0, 1), off=st.floats(0, 30))
def test_whatever_is_on_the_photos(seed, n, k, levels, crowd, off):
    truths, found = scene(seed, n, k, 5, levels, crowd, off)
    result, numbers = ours(truths, found, n, k + 1)
    np.testing.assert_allclose(numbers, by_pycocotools(truths, found, n, k + 1), atol=1e-9)
    for value, (low, high) in result.numbers().values(): assert np.isnan(value) or 0 <= value <= 1

def test_and_those_of_a_second_judge():
    faster = pytest.importorskip('faster_coco_eval')
    from functools import partial
    truths, found = scene(5, n=30, per=9)
    quiet = partial(faster.COCOeval_faster, print_function=lambda *said: None)
    np.testing.assert_allclose(ours(truths, found, 30, 4)[1], by_pycocotools(truths, found, 30, 4, judge_by=quiet), atol=1e-6)

def test_areas_that_are_not_those_of_the_boxes_decide_on_size():
    truths, found = scene(3, n=20)
    truths['area'] = (truths.x1 - truths.x0)*(truths.y1 - truths.y0)*np.random.default_rng(0).uniform(.2, .9, len(truths))
    np.testing.assert_allclose(ours(truths, found, 20, 4)[1], by_pycocotools(truths, found, 20, 4), atol=1e-9)

def test_a_class_alone_is_judged_as_if_there_were_no_other():
    truths, found = scene(7, n=20)
    result = ours(truths, found, 20, 4)[0]
    for label in range(3):
        alone = by_pycocotools(*(rows[rows.label == label] for rows in (truths, found)), 20, 4)
        np.testing.assert_allclose([result.numbers(label)[name][0] for name in names], alone, atol=1e-9)

def test_a_draw_is_what_matching_its_photos_anew_would_give():
    "Each photo as often as a draw has it, under new names: no score may tie, since a tie has no order"
    truths, found = scene(11, n=10, per=8)
    found['score'] = np.random.default_rng(1).permutation(len(found))/len(found)
    result = judge(truths, found, list(range(10)), list(range(4)), times=12, seed=3)
    from tl_nbdev.boxes.judging import _summary
    draws = _summary(result.cells, result.matches.sizes)
    for i, copies in enumerate(drawn_counts(10, None, 12, 3)):
        np.testing.assert_allclose([draws[name][i] for name in names], by_pycocotools(truths, found, 10, 4, copies), atol=1e-6)

def test_whole_groups_are_drawn():
    groups = np.array([0, 0, 0, 1, 2, 2])
    counts = drawn_counts(6, groups, 200)
    assert all((counts[:, groups == group].std(1) == 0).all() for group in range(3)) and len({*counts.sum(1)}) > 3
    truths, found = scene(2, n=40, per=4)
    result = [judge(truths, found, list(range(40)), list(range(4)), groups=of, times=200) for of in (None, np.arange(40)//10)]
    widths = [high - low for low, high in (each.interval for each in result)]
    assert result[0].value == result[1].value and widths[0] != widths[1] and '4 groups' in result[1].table().about

def test_intervals_hold_what_they_say():
    "Of many small samples of one large one, about 95 % have its value inside their interval"
    truths, found = scene(1, n=600, per=5, levels=1000)
    of = matches(truths, found, list(range(600)), list(range(4)))
    cell = of.cells[0, 'all']
    whole = average_precision(cell, 0, np.ones((1, 600)))[0]
    rng, inside = np.random.default_rng(0), []
    for _ in range(80):
        sample = rng.choice(600, 60, replace=False)
        counts = np.zeros((300, 600))
        for row in counts: np.add.at(row, sample[rng.integers(60, size=60)], 1)
        low, high = np.nanpercentile(average_precision(cell, 0, counts), [2.5, 97.5])
        inside.append(low <= whole <= high)
    assert .85 <= np.mean(inside) <= 1.

def test_pairs_of_detectors():
    truths, found = scene(4, n=60, off=6.)
    files, classes = list(range(60)), list(range(4))
    def judged(rows): return judge(truths, rows, files, classes, times=300)
    base = judged(found)
    sharper = judged(pd.concat([found, truths.drop(columns='crowd').assign(score=1.)]))
    assert better_boxes(sharper, base)['verdict'] == 'better' and better_boxes(base, sharper)['verdict'] == 'worse'
    same = better_boxes(base, judged(found.sample(frac=1, random_state=0).assign(score=lambda rows: rows.score/2)))
    assert same['verdict'] == 'can\'t tell' and abs(same['difference']) < .05
    assert better_boxes(base, base, 'AP50', label=0)['interval'] == [0., 0.]

def test_matching_happens_once_whatever_the_number_of_draws():
    import tl_nbdev.boxes.matches as room
    truths, found = scene(0, n=60)
    asked, was = [], room._evaluated
    try:
        room._evaluated = lambda *args: asked.append(1) or was(*args)
        judge(truths, found, list(range(60)), list(range(4)), times=400)
    finally: room._evaluated = was
    assert asked == [1]


# mistakes

@pytest.mark.parametrize('seed', range(4))
def test_each_box_is_right_or_wrong_in_one_way_and_each_thing_is_found_missed_or_has_a_box_to_blame(seed):
    truths, found = scene(seed, n=25, per=7)
    result = judge(truths, found, list(range(25)), list(range(4)), times=2)
    right, nothing, taken, judged = _rows_of(result.matches)
    wrong, _ = _wrong_boxes(result.matches, .5, .1)
    assert len(right) + len(nothing) + len(wrong) == len(judged) == len(found) and set(wrong.kind) <= set(box_mistakes) - {'missed'}
    listed = result.mistakes()
    wanted, blamed = truths.index[~truths.crowd], set(wrong.about[wrong.kind.isin(['misplaced', 'confused'])])
    assert (listed.kind == 'missed').sum() == len(set(wanted) - set(taken) - blamed) and len(listed) == len(wrong) + (listed.kind == 'missed').sum()

@pytest.mark.parametrize('seed', range(3))
def test_what_a_mistake_costs_is_what_judging_anew_without_it_says(seed):
    truths, found = scene(seed, n=25, per=7, crowd=0.)
    found['score'] = np.random.default_rng(1).permutation(len(found))/len(found)
    files, classes = list(range(25)), list(range(4))
    of = judge(truths, found, files, classes, times=2).matches
    wrong, taken = _wrong_boxes(of, .5, .1)
    for kind in ('invented', 'duplicate', 'confused and misplaced'):
        anew = judge(truths, found.drop(index=wrong.index[wrong.kind == kind]), files, classes, times=2).numbers()['AP50'][0]
        assert _ap_mended(of, *_mended(of, wrong, taken, kind)) == pytest.approx(anew, abs=1e-9), kind
    blamed = wrong.about[wrong.kind.isin(['misplaced', 'confused'])]
    seen = truths.loc[[i for i in truths.index if i in set(taken) | set(blamed)]]
    assert _ap_mended(of, *_mended(of, wrong, taken, 'missed')) == pytest.approx(judge(seen, found, files, classes, times=2).numbers()['AP50'][0], abs=1e-9)
    base = judge(truths, found, files, classes, times=2).numbers()['AP50'][0]
    assert all(_ap_mended(of, *_mended(of, wrong, taken, kind)) >= base - .02 for kind in ('misplaced', 'confused'))

def test_a_threshold_is_worth_what_is_counted_by_hand():
    truths, found = scene(9, n=30, crowd=0.)
    result = judge(truths, found, list(range(30)), list(range(4)), times=50)
    for score in (.2, .5, .8):
        of = result.at_score(score, label=1)
        cell = result.matches.cells[1, 'all']
        kept = cell.score >= score
        assert of['boxes'] == kept.sum() and of['precision'][0] == pytest.approx(cell.hit[0][kept].mean()) and of['recall'][0] == pytest.approx(cell.hit[0][kept].sum()/cell.positives.sum())
    chosen = result.score_for(.2)
    assert chosen['precision'][0] >= .2 and chosen['precision'][1][0] <= chosen['precision'][0] <= chosen['precision'][1][1]

@pytest.mark.parametrize('odd, line', [
    (dict(x1=np.inf), 'no finite number'), (dict(score=None), 'no '), (dict(x0=1e9), 'end before they begin'), (dict(label='?'), 'not among'), (dict(file=99), 'not among')])
def test_odd_tables_are_refused_in_one_line(odd, line):
    truths, found = scene(0)
    with pytest.raises(TransferError, match=line) as error: judge(truths, found.assign(**odd), list(range(12)), list(range(4)))
    assert len(str(error.value).splitlines()) == 1

def test_nothing_at_all_is_judged_too():
    truths, found = scene(0)
    files, classes = list(range(12)), list(range(4))
    assert judge(truths, [], files, classes, times=5).value == 0 and np.isnan(judge([], found, files, classes, times=5).value)
    assert 'nothing was found' in judge(truths, [], files, classes, times=5).why_zero()
    assert len(judge(truths, [], files, classes, times=5).mistakes()) == (~truths.crowd).sum()
