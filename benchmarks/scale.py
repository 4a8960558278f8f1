"One process at one thread beside two at one thread each: seconds of frozen features, and of an epoch of the whole network"
import os, time
from statistics import median

from fastcore.script import call_parse
from .common import Records, fresh_cache, goal

quick = dict(images=256, texts=200, repeats=1)

def _learner(kind, n):
    "Photos or texts, in fp32, at one thread"
    import torch
    from tl_nbdev.all import ImageTask, TextTask, transfer_learner
    from tl_nbdev.networks.passes import Mode
    torch.set_num_threads(1)
    if kind == 'photos': return transfer_learner(ImageTask.from_sample('mnist', limit=n), 'squeezenet1_1', size=64, bs=32, seed=0, mode=Mode())
    return transfer_learner(TextTask.from_sample('r8', limit=n), 'bert-tiny', bs=32, seed=0, mode=Mode())

def timed(learn):
    "Seconds of features of train, and of an epoch, in each of the processes that do it together"
    import torch
    from tl_nbdev.base.ranks import wait_for_all
    from tl_nbdev.training.learner import watched
    from tl_nbdev.training.phases import part_features
    torch.set_num_threads(1)
    wait_for_all()
    laps = [time.perf_counter()]
    part_features(learn, 'train')
    wait_for_all()
    laps.append(time.perf_counter())
    with watched(learn): learn.transfer('full', 1)
    laps.append(time.perf_counter())
    learn.transfers[-1] |= dict(features=round(laps[1] - laps[0], 3), epoch=round(laps[2] - laps[1], 3))

def both(kind, n, processes):
    "Seconds, without those in which processes start"
    from tl_nbdev.training.devices import on_devices
    os.environ['TL_THREADS'] = str(processes) # for each one
    with fresh_cache():
        learn, begun = _learner(kind, n), time.perf_counter()
        if processes == 1: timed(learn)
        else: on_devices(learn, processes, timed)
        took = time.perf_counter() - begun
        last = learn.transfers[-1]
        return dict(features=last['features'], epoch=last['epoch'], started=round(took - last['features'] - last['epoch'], 1),
                    n=learn.task.n('train'), loss=float(learn.recorder.losses[-1]), value=learn.evaluate(closer=False).value)

@call_parse
def bench(
    images:int=1500, # of mnist, at 64 pixels through squeezenet1_1
    texts:int=2000, # of R8, through bert-tiny
    repeats:int=3, # of each
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Two processes beside one, in turn"
    records, runs, table, reached, ratio = Records('scale', again, out), [], [], [], {}
    for kind, n in (('photos', images), ('texts', texts)):
        made = [[records.measure('both', repeat, kind=kind, n=n, processes=k) for k in (1, 2)] for repeat in range(1, repeats + 1)]
        runs += [o for pair in made for o in pair]
        for what, least in (('features', 1.7), ('epoch', 1.5)):
            each = [one['found'][what]/two['found'][what] for one, two in made]
            ratio[f'{kind}, {what}'] = median(each)
            span = ' to '.join(f'{o:.2f}' for o in (min(each), max(each)))
            table.append({'': f'{kind}, {what}', 'one process, s': f'{median(o[0]["found"][what] for o in made):.1f}', 'two, s': f'{median(o[1]["found"][what] for o in made):.1f}',
                          'one / two': f'{median(each):.2f} ({span})', 'starting two, s': f'{median(o[1]["found"]["started"] for o in made):.0f}'})
            reached.append(goal(f'{kind}, {what}: seconds of one process / of two, a thread each', median(each), least=least, show='{:.2f}'))
        gaps = [abs(one['found']['loss'] - two['found']['loss']) for one, two in made]
        reached.append(goal(f'{kind}: largest gap between the last losses', max(gaps), show='{:.1e}'))
    records.write(ratio=ratio, reached=reached, table=table, arguments=dict(images=images, texts=texts, repeats=repeats), measurements=runs,
                  remarks=[f'Medians of {repeats} pairs of runs, in turn, and the range of their ratios. Each process has one thread, an empty cache, and fp32. Starting two processes is not in the times; it is the last column.',
                           'bert-tiny has dropout, whose random numbers are others in each process.'])
