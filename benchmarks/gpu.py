"On a GPU, in ten minutes: features, an epoch of images, LoRA, texts and a network that writes, beside fastai, timm, the Trainer and TRL"
import time
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, fresh_process, goal, interval

# What is measured: peers, the benchmark that has them as jobs, what they are told, and how many times as fast ours is to be
rows = {
    'features of photos': (('ours', 'fastai_tuned'), 'features', dict(limit=None), 2),
    'an epoch of photos': (('ours', 'fastai_default', 'fastai_tuned', 'timm_tuned'), 'finetune', dict(limit=None, how='full', epochs=1), 1.3),
    'an epoch of texts': (('ours', 'trainer_default', 'trainer_tuned'), 'texts', dict(sample='r8', n=2000, bs=16), 1.3),
    'LoRA': (('ours', 'trainer_default', 'trainer_tuned'), 'lora', dict(limit=None, r=8, epochs=1), None),
    'a step of a network that writes': (('ours', 'trl_default', 'trl_tuned'), 'writing', dict(what='answers', steps=8), None),
}
only_fastai = dict(epochs=5, num_workers=2) # of features: fastai's frozen epochs, and its workers
smaller = dict(limit=60, n=60, steps=1)

def args_of(
    row, # a name in `rows`
    job, # one of its peers
    seed, # of the split or the order
    small=False # a few items alone?
) -> dict: # for the job
    "What a job is told"
    _, bench, args, _ = rows[row]
    own = args | {'seed' if bench in ('texts', 'writing') else 'split': seed}
    if bench == 'features' and job != 'ours': own |= only_fastai
    return own | ({k: v for k, v in smaller.items() if k in own} if small else {})

class Clock:
    "Ten minutes, and what still fits into them"
    def __init__(self, minutes): self.end, self.took = time.monotonic() + 60*minutes, {}
    def fits(self, key): return time.monotonic() + self.took.get(key, 0) < self.end
    def told(self, key, start): self.took[key] = max(self.took.get(key, 0), time.monotonic() - start)

def _measured(clock, repeats, only, small):
    "Row → peer → seconds, seed by seed; what a job cost once tells whether it still fits"
    got, left_out, made = {row: {} for row in only}, set(), []
    for seed in range(repeats):
        for row in only:
            peers, bench, *_ = rows[row]
            for job in peers: # in turn, so that a change of the machine's speed meets all of them
                if not clock.fits((row, job)):
                    left_out.add(row)
                    continue
                start, args = time.monotonic(), args_of(row, job, seed, small)
                made.append(dict(job=f'{bench}.{job}', repeat=1, arguments=args, **fresh_process(bench, job, job == 'ours', **args)))
                clock.told((row, job), start)
                got[row].setdefault(job, []).append(made[-1]['found']['seconds'])
                print(f'{row}, {job}, {seed}: {got[row][job][-1]:.1f} s', flush=True)
    return got, left_out, made

def _goals(got):
    "Peers' seconds over ours, seed by seed"
    found = []
    for row, peers in got.items():
        for job in (o for o in peers if o != 'ours' and 'ours' in peers):
            ratio = [b/a for a, b in zip(peers['ours'], peers[job])]
            found.append(goal(f'{row}: seconds of {job} / of ours', median(ratio), least=rows[row][3], ends=interval(ratio), than=1, show='{:.2f}'))
    return found

@call_parse
def bench(
    minutes:float=10, # after which nothing new begins
    repeats:int=3, # each with a seed of its own
    only:Annotated[str, dict(nargs='+', choices=tuple(rows))]=tuple(rows), # what is measured
    anyway:bool=False, # also without a GPU, a few items alone: to see that it runs
    out:str=None # folder of the record; default benchmarks/results
):
    "Fill the column of a GPU"
    import torch
    from tl_nbdev.base.settings import device
    if device().type != 'cuda' and not anyway: raise SystemExit('no GPU here: --anyway runs a few items of everything on this machine, to see that it runs')
    fresh_process('features', 'ready') # weights, as the peers read them
    records, clock = Records('gpu', True, out), Clock(minutes)
    got, left_out, made = _measured(clock, 1 if anyway else repeats, only, anyway)
    table = [dict(what=row, who=job, **{'seconds, median': f'{median(took):.1f}', 'repeats': len(took), 'arithmetic': next((o['found'].get('arithmetic', '') for o in made if o['job'].endswith(f'.{job}')), '')})
             for row, peers in got.items() for job, took in peers.items()]
    remarks = ['Peers in turn, each in a fresh process; loading data and networks is in nobody\'s time.', f'torch {torch.__version__}.']
    if left_out: remarks.append(f'{minutes:g} minutes were over before everything was measured as often as asked: {", ".join(sorted(left_out))}.')
    records.write(reached=_goals(got), table=table, remarks=remarks, arguments=dict(minutes=minutes, repeats=repeats, only=list(only)), measurements=made)
    for o in _goals(got): print(f'{o["what"]}: {o["reached"]} {o["interval"]} {o["goal"]} {o["verdict"]}')

quick = dict(anyway=True, only=('an epoch of texts',))
