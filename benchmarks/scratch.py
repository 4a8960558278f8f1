"How many labels does a pretrained network save? The same network with random weights, trained whole, beside it, three sizes, five seeds"
from itertools import product
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval
from .features import model
from .fewimages import few, held

sets = ('kinds', 'textures')
arms = ('scratch', 'feature', 'full')
quick = dict(data=['textures'], sizes=['4'], seeds=2, epochs=1, longer=1)
# Of random weights: the best of .001, .003 and .01 on valid of a draw that is in no seed, kinds of cells, 24 per class.
rate = 3e-3

def _strategy(arm):
    "Random weights learn at one rate everywhere"
    from tl_nbdev.strategies.strategy import Phase, Strategy
    return Strategy('scratch', (Phase('all', rate),)) if arm == 'scratch' else arm

def one(data, size, seed, arm, epochs, px):
    "One training on one draw"
    from tl_nbdev.training.learner import transfer_learner
    task = few(data, size, seed)
    learn = transfer_learner(task, model, source='random' if arm == 'scratch' else None, seed=seed, size=px)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(_strategy(arm), epochs)
    laps('train')
    return dict(value=learn.evaluate().value, valid=learn.evaluate('valid').value, seconds=laps['train'], items=task.n('train'))

def _gain(found, arm):
    "Points by which an arm is above random weights, draw by draw, and their interval"
    apart = [100*(a - b) for a, b in zip(found[arm], found['scratch'])]
    return mean(apart), interval(apart) or (apart[0], apart[0])

def _show(value, ends): return f'{value:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]'

@call_parse
def bench(
    data:Annotated[str, dict(nargs='+')]=sets, # sets
    sizes:Annotated[str, dict(nargs='+')]=('8', '24', '70'), # items of a class
    seeds:int=5, # draws, heads and trainings
    epochs:int=5, # of the pretrained network, where its body trains
    longer:int=30, # epochs of random weights
    px:int=64, # pixels
    again:bool=False, # measure anew what is there already
    earlier:bool=False, # keep what was measured with earlier code? Each measurement says with which
    out:str=None # folder of the records; default benchmarks/results
):
    "Accuracy by the number of labels: random weights, a head on frozen features, and everything trained"
    records, taken, table, reached = Records('scratch', again, out, earlier), [], [], []
    taught = dict(scratch=longer, feature=None, full=epochs)
    for name, size in product(data, map(int, sizes)):
        found = {}
        for arm in arms:
            runs = [records.measure('one', repeat=seed + 1, anywhere=True, data=name, size=size, seed=seed, arm=arm, epochs=taught[arm], px=px)
                    for seed in range(seeds)]
            taken += runs
            found[arm] = [run['found']['value'] for run in runs]
        row = {'data': name, 'labels per class': size}
        for arm in arms:
            ends = interval(found[arm]) or (found[arm][0],)*2
            row[arm] = f'{100*mean(found[arm]):.1f} [{100*ends[0]:.1f}, {100*min(1, ends[1]):.1f}]'
        for arm in arms[1:]:
            gain, ends = _gain(found, arm)
            row[f'{arm} − scratch, points'] = _show(gain, ends)
            reached.append(goal(f'{name}, {size} labels per class: {arm} − random weights, points, {seeds} seeds', gain,
                                show='{:+.1f}', ends=ends, than=0, least=0))
        table.append(row)
    records.write(ratio={}, reached=reached, table=table, measurements=taken,
                  arguments=dict(data=data, sizes=sizes, seeds=seeds, epochs=epochs, longer=longer, px=px),
                  remarks=[f'{model}, {px} pixels; {seeds} draws of items, head and training on one test of {held} items. Random weights: {longer} '
                           f'epochs at one rate of {rate:g} everywhere; the pretrained network: a head on frozen features, or {epochs} epochs of '
                           "everything. 95 % intervals over draws (Student's t)."])
