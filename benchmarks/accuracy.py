"ELPV, two classes, EfficientNet-Lite0: how accurate fine-tuning gets, everything chosen on split 0"
import time
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval
from .features import _task, model

chosen = dict(how='full', lr=[1e-4, 1e-3], augment='flips', epochs=6) # trained for 12, valid of split 0 is no better from the eighth on
quick = dict(splits=[1], trials=False, limit=100, epochs=1)

def ours(split, limit, how, lr, augment, epochs, bs=64):
    "One training; on split 0 only valid is read"
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.strategies.strategy import FullFineTune, LPFT, LayerDecay, WiSE
    rate = slice(*lr) if isinstance(lr, (list, tuple)) else lr
    made = {'full': FullFineTune, 'lpft': LPFT, 'layerdecay': lambda lr: LayerDecay(.75, lr), 'full+wise': lambda lr: FullFineTune(lr) + WiSE(), 'lpft+wise': lambda lr: LPFT(lr) + WiSE()}[how](rate)
    learn = transfer_learner(_task(split, limit), model, seed=split, augment=augment, bs=bs)
    laps, cpu = Laps(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.transfer(made, epochs)
    laps('train')
    cpu = time.process_time() - cpu
    return dict(valid=learn.evaluate('valid').value, accuracy=learn.evaluate().value if split else None, seconds=laps['train'], cpu_seconds=round(cpu, 1),
                by_epoch=[dict(zip(('train_loss', 'valid_loss', 'accuracy'), (round(float(o), 4) for o in v))) for v in learn.recorder.values])

tried = [dict(chosen), dict(chosen, how='lpft')]

@call_parse
def bench(
    splits:Annotated[int, dict(nargs='+')]=(1, 2, 3, 4, 5), # seeds of the split
    trials:bool=True, # also what was tried on split 0
    epochs:int=None, # default what was chosen
    limit:int=None, # at most so many images
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Fine-tuning until it is accurate"
    records, runs, how = Records('accuracy', again, out), [], dict(chosen, **({'epochs': epochs} if epochs else {}))
    rows = []
    for o in tried if trials else ():
        runs.append(records.measure('ours', split=0, limit=limit, **o))
        rows.append({'split': '0, to choose', **{k: str(v) for k, v in o.items()}, 'valid %': f'{100*runs[-1]["found"]["valid"]:.1f}', 'test %': 'not read'})
    got = [records.measure('ours', split=s, limit=limit, **how) for s in splits]
    rows += [{'split': str(s), **{k: str(v) for k, v in how.items()}, 'valid %': f'{100*o["found"]["valid"]:.1f}', 'test %': f'{100*o["found"]["accuracy"]:.1f}', 'seconds of all cores': f'{o["found"]["cpu_seconds"]:.0f}'} for s, o in zip(splits, got)]
    values = [100*o['found']['accuracy'] for o in got]
    ends = interval(values)
    records.write(accuracy_by_split=values, interval=ends, table=rows, measurements=[*runs, *got],
                  reached=[goal('accuracy, %, mean over splits', mean(values), least=90, ends=ends), goal('seconds of all cores a split, median', median(o['found']['cpu_seconds'] for o in got), show='{:.0f}')],
                  remarks=['Seconds of all cores together, as they do not depend on what else a machine does.', f'Everything was chosen on split 0, whose test part was not read{f"; the 95 % interval over splits is {ends[0]:.1f} to {ends[1]:.1f}" if ends else ""}.'],
                  arguments=dict(splits=splits, epochs=epochs, limit=limit))
