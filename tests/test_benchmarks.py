"The records of the benchmarks: small, readable, and enough to go on from; and what is said of an interval."
import json, re
from pathlib import Path

import numpy as np, pytest
from benchmarks import common, page as page_of
from benchmarks.common import Records, answers, goal, kind_of, load_record, same_machine, units, verdict

root = Path(__file__).resolve().parent.parent
results = root/'benchmarks'/'results'
records = sorted(results.glob('*.json'))

@pytest.fixture
def process(monkeypatch):
    "A fresh process that answers at once; what it was asked"
    asked, here = [], dict(machine=common.machine(), versions=common.versions())
    def answer(bench, job, ours=True, **args):
        asked.append((job, args))
        rng = np.random.default_rng(args['seed'])
        return dict(found=dict(value=.5, probs=rng.random((9, 3)).round(4).tolist()), process=dict(seconds=1.), load_before=0., modules=['base/disk.py'], code=common.code(['base/disk.py']),
                    date=f'2026-01-0{len(asked)}T00:00:00+00:00', **here)
    monkeypatch.setattr(common, 'fresh_process', answer)
    return asked

def finish(bench, measured): bench.write([], [dict(a=1)], ['said'], dict(seeds=2), measured)

def test_a_run_that_was_cut_off_goes_on(process, tmp_path):
    "Nothing is in the record yet: what was measured is in files of its own"
    Records('one', folder=tmp_path).measure('job', seed=0, how=['full', 'last:2'])
    assert not (tmp_path/'one.json').exists() and len(list((tmp_path/'runs/one').iterdir())) == 1
    again = Records('one', folder=tmp_path)
    known = [again.measure('job', seed=i, how=('full', 'last:2')) for i in (0, 1)]
    assert [args['seed'] for _, args in process] == [0, 1]
    assert len(known[0]['found']['probs']) == 9

def test_a_record_is_enough_to_go_on_from(process, tmp_path):
    first = Records('one', folder=tmp_path)
    measured = [first.measure('job', seed=i, none=None) for i in (0, 1)]
    finish(first, measured)
    for file in (tmp_path/'runs/one').iterdir(): file.unlink()
    later = Records('one', folder=tmp_path)
    known = [later.measure('job', seed=i) for i in (0, 1)]
    assert len(process) == 2, 'measured again'
    for a, b in zip(measured, known):
        assert (answers(a['found'], 3).argmax(1) == answers(b['found'], 3).argmax(1)).all()
        assert a['found']['value'] == b['found']['value'] and a['machine'] == b['machine']
    finish(later, known)
    assert load_record(tmp_path/'one.json')[1]['found']['predicted'].tolist() == np.argmax(measured[1]['found']['probs'], 1).tolist()

def test_what_is_measured_anew_counts(process, tmp_path):
    first = Records('one', folder=tmp_path)
    finish(first, [first.measure('job', seed=0)])
    Records('one', again=True, folder=tmp_path).measure('job', seed=0)
    assert len(process) == 2 and Records('one', folder=tmp_path).measure('job', seed=0)['date'].startswith('2026-01-02')

def test_a_smaller_run_loses_nothing(process, tmp_path):
    first = Records('one', folder=tmp_path)
    finish(first, [first.measure('job', seed=i) for i in (0, 1)])
    for file in (tmp_path/'runs/one').iterdir(): file.unlink()
    smaller = Records('one', folder=tmp_path)
    finish(smaller, [smaller.measure('job', seed=0)])
    assert len(load_record(tmp_path/'one.json')) == 1
    Records('one', folder=tmp_path).measure('job', seed=1)
    assert len(process) == 2, 'the one that the smaller run left out was measured again'

def test_other_code_or_another_machine_is_measured_again(process, tmp_path):
    first = Records('one', folder=tmp_path)
    finish(first, [first.measure('job', seed=0)])
    record = json.loads((tmp_path/'one.json').read_text())
    for file in (tmp_path/'runs/one').iterdir(): file.unlink()
    for changed in (dict(machine=dict(record['machine'], cpu='another')), dict(measurements=[dict(record['measurements'][0], code='another')])):
        (tmp_path/'one.json').write_text(json.dumps(record | changed))
        n = len(process)
        Records('one', folder=tmp_path).measure('job', seed=0)
        assert len(process) == n + 1
        for file in (tmp_path/'runs/one').iterdir(): file.unlink()
    Records('one', folder=tmp_path, earlier=True).measure('job', seed=0)
    assert len(process) == 3

def test_records_of_two_kinds_of_machine_lie_side_by_side(process, tmp_path):
    first = Records('one', folder=tmp_path)
    finish(first, [first.measure('job', seed=0)])
    here, file = kind_of(first.here['machine']), tmp_path/'one.json'
    later = Records('one', folder=tmp_path)
    later.here['machine'] = dict(first.here['machine'], units='amx_bf16 avx2')
    finish(later, [later.measure('job', seed=0)])
    kept = tmp_path/'other'/re.sub(r'\W+', '-', here).lower()/'one.json'
    assert kind_of(json.loads(kept.read_text())['machine']) == here and kind_of(json.loads(file.read_text())['machine']) == 'AMX bf16'
    again = Records('one', folder=tmp_path)
    finish(again, [again.measure('job', seed=0)])
    assert kind_of(json.loads(file.read_text())['machine']) == here and not kept.exists()
    assert [o.parent.name for o in (tmp_path/'other').rglob('one.json')] == ['amx-bf16']

def test_units_and_kinds():
    assert units('processor: 0\nflags\t\t: fpu avx2 amx_tile amx_bf16 avx512f\n') == 'amx_bf16 avx512f avx2'
    assert units('Features\t: fp asimd bf16') == 'bf16 asimd' and units('') == ''
    old = dict(device='cpu', cpu_capability='AVX2')
    assert kind_of(old) == 'AVX2' and kind_of(old | dict(device='a GPU')) == 'a GPU' and kind_of(old | dict(units='avx512f avx2')) == 'AVX-512'
    assert same_machine(old, old | dict(units='avx2')) and not same_machine(old, old | dict(device='cuda'))

def test_records_are_few_and_small():
    files = [o for o in results.rglob('*') if o.is_file()]
    assert len(files) <= 60 and sum(o.stat().st_size for o in files) <= 3e6

@pytest.mark.parametrize('file', records, ids=lambda o: o.stem)
def test_a_record_has_all_that_going_on_asks_for(file):
    record, found = json.loads(file.read_text(encoding='utf-8')), load_record(file)
    assert found and all({'job', 'repeat', 'arguments', 'found', 'machine', 'versions', 'code', 'date'} <= set(o) for o in found)
    assert len({common.key_of(o) for o in found}) == len(found)
    assert all(set(o) == {'what', 'goal', 'reached', 'interval', 'verdict'} for o in record['reached'])
    assert {o['verdict'] for o in record['reached']} <= {'', 'better', 'worse', "can't tell"}
    for o in record['reached']: # an interval that holds the goal decides nothing
        if o['interval'] and o['verdict']:
            low, high = (float(e) for e in o['interval'].strip('[]').replace(',', ' ').split())
            aim = float(o['goal'][2:] or 0) if o['goal'] else 0
            if low < aim < high: assert o['verdict'] == "can't tell", o
    for o in found:
        if 'predicted' in o['found'] and 'value' in o['found']: assert len(o['found']['predicted']) > 0

def test_three_verdicts():
    assert goal('a − b, points', -4.5, least=0, ends=[-48.3, 39.3])['verdict'] == "can't tell"
    assert [verdict(*o, least=0) for o in ((1, 2), (0, 2), (-1, 1), (-1, 0), (-2, -1))] == ['better', 'better', "can't tell", "can't tell", 'worse']
    assert [verdict(*o, most=1) for o in ((.5, .9), (.5, 1.5), (1.1, 2))] == ['better', "can't tell", 'worse']
    assert [goal('time', v, most=60)['verdict'] for v in (59, 61)] == ['better', 'worse']
    assert goal('a fact', 3)['verdict'] == '' == goal('one run alone', 3, than=0)['verdict']
    assert goal('a gain', 3, than=0, ends=[1, 5], show='{:+.1f}') == dict(what='a gain', goal='', reached='+3.0', interval='[+1.0, +5.0]', verdict='better')


# what the pages of evidence make of it

pages = sorted((root/'nbs'/'evidence').glob('*.ipynb'))

def outputs(page, kind):
    "What the cells of a page show, of one kind"
    for c in json.loads(page.read_text(encoding='utf-8'))['cells']:
        if not ''.join(c['source']).startswith('#| hide'): yield from (''.join(o['data'][kind]) for o in c.get('outputs', []) if kind in o.get('data', {}))

@pytest.mark.parametrize('page', pages, ids=lambda o: o.stem)
def test_a_page_of_evidence_has_a_question_a_figure_and_verdicts(page):
    cells = json.loads(page.read_text(encoding='utf-8'))['cells']
    headings = [line for c in cells if c['cell_type'] == 'markdown' for line in ''.join(c['source']).splitlines() if line.startswith('## ')]
    assert headings and all(o.endswith('?') or o == '## Question by question' for o in headings), headings
    assert list(outputs(page, 'image/png')), 'no figure'
    shown = list(outputs(page, 'text/markdown'))
    said = '\n'.join(shown)
    assert any(o in said for o in page_of.marks.values() if o)
    for o in shown: # what is long is folded
        open_ = re.sub(r'<details>.*?</details>', '', o, flags=re.S)
        assert open_.count('\n|') <= 20, f'a table of {open_.count(chr(10) + "|")} rows: {open_[:100]}'

def test_folded_and_tally():
    rows = [goal('a', 1, least=0, ends=[-1, 3]), goal('b', 5, most=3), goal('c', 7)]
    assert page_of.tally(rows) == "1 can't tell, 1 worse" and page_of.tally(rows[2:]) == 'nothing to compare with'
    shown = page_of.folded('all', page_of.verdict_table(rows, 'a note'))
    assert shown.startswith('<details>\n<summary>all</summary>\n\n|') and shown.endswith('a note\n\n</details>')
    assert '| b | 5.0 | no interval | ≤ 3.0 | ▼ worse |' in shown and '| c | 7.0 |  |  |  |' in shown
    assert page_of.numbers('+1.2 [-3.0, +4,000.5] 8e-3') == [1.2, -3, 4000.5, .008]

def test_every_benchmark_has_a_question():
    from benchmarks.run import names
    assert set(names) == set(page_of.questions) == {o.stem for o in records}

def test_the_page_of_results_is_current():
    from benchmarks import summary
    assert (results.parent/'README.md').read_text(encoding='utf-8') == summary.page(summary.records(results))
