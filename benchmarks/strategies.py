"Every strategy on ELPV and on 2,000 MNIST digits, several seeds, as compare makes it; and fastai's fine_tune beside them"
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, answers, goal
from .features import model

every = ('feature', 'last:2', 'full', 'gradual', 'lpft', 'layerdecay:0.75', 'surgical:early', 'bitfit', 'lora:8', 'l2sp', 'wise', 'lpft+wise')
data = dict(elpv=dict(epochs=3, size=160), mnist=dict(epochs=5, size=64, limit=2000)) # so that the whole ends within an hour or two on two cores
quick = dict(samples=['mnist'], strategies=['feature', 'last:1'], seeds=2, epochs=1, limit=120)

def _task(sample, limit):
    from tl_nbdev.vision.images import ImageTask
    return ImageTask.from_sample(sample, limit=limit)

def ours(sample, limit, how, seed, epochs, size=None):
    "One run: its predictions on test are in the record, so that intervals can be made later"
    from tl_nbdev.selection.compare import compare
    run = compare(_task(sample, limit), model, [how], [seed], epochs, size=size)[0]
    return dict(valid=run.valid.value, value=run.report.value, probs=run.report.probs.round(5).tolist(), seconds=run.seconds, epochs=run.epochs, trained=run.trained, total=run.total, mib=run.mib)

def fine_tune(sample, limit, seed, epochs, size=None):
    "fastai's own verb on a learner of this package, so that weights, files, split and arithmetic are the same"
    from tl_nbdev.training.learner import transfer_learner
    learn = transfer_learner(_task(sample, limit), model, seed=seed, size=size)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs)
    laps('train')
    valid, report = learn.evaluate('valid'), learn.evaluate()
    return dict(valid=valid.value, value=report.value, probs=report.probs.round(5).tolist(), seconds=laps['train'], epochs=epochs + 1, trained=sum(p.numel() for p in learn.model.parameters()))

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=('elpv', 'mnist'), # data
    strategies:Annotated[str, dict(nargs='+')]=every, # words of the shell
    seeds:int=3, # of head and training; the split is that of seed 0
    epochs:int=None, # of each, on the body; a head alone has its own
    limit:int=None, # at most so many images
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Strategies side by side, with intervals over items and seeds"
    import numpy as np
    from tl_nbdev.data.metrics import Result, mean_interval, paired_interval
    records, runs, table, reached = Records('strategies', again, out), [], [], []
    for sample in samples:
        set_up = {**data.get(sample, {}), **{k: v for k, v in dict(epochs=epochs, limit=limit).items() if v}}
        many, size, most = set_up.get('epochs', 5), set_up.get('size'), set_up.get('limit')
        task, got = _task(sample, most), {}
        for seed in range(seeds):
            for how in (*strategies, "fastai's fine_tune"):
                own = None if how == 'feature' else many
                runs.append(records.measure('ours', sample=sample, limit=most, how=how, seed=seed, epochs=own, size=size) if how in strategies else records.measure('fine_tune', sample=sample, limit=most, seed=seed, epochs=many, size=size))
                got.setdefault(how, []).append(runs[-1]['found'])
        results = {how: [Result(task.metric, task.targets(task.reported), answers(o, len(task.vocab)), task.vocab, task.reported) for o in v] for how, v in got.items()}
        chosen = max(strategies, key=lambda how: np.mean([o['valid'] for o in got[how]]))
        for how, v in got.items():
            value, (low, high) = np.mean([o['value'] for o in v]), mean_interval(results[how])
            a, b = paired_interval(results[how], results[chosen])
            difference = 'chosen on valid' if how == chosen else f'{100*(value - np.mean([o["value"] for o in got[chosen]])):+.1f} [{100*a:+.1f}, {100*b:+.1f}]' + (', no difference shown' if a <= 0 <= b else '')
            table.append({'data': sample, 'strategy': how, f'valid {task.metric} %': f'{100*np.mean([o["valid"] for o in v]):.1f}', f'test {task.metric} %': f'{100*value:.1f} [{100*low:.1f}, {100*high:.1f}]',
                          'difference in points': difference, 'trained parameters': f'{v[0]["trained"]:,}', 'seconds, median': f'{np.median([o["seconds"] for o in v]):.0f}', 'peak MiB': f'{v[0]["mib"]:.0f}' if v[0].get('mib') else ''})
        theirs = got["fastai's fine_tune"]
        for how in [o for o in ('lpft', 'layerdecay:0.75') if o in got]:
            a, b = paired_interval(results[how], results["fastai's fine_tune"])
            apart = 100*(np.mean([o['value'] for o in got[how]]) - np.mean([o['value'] for o in theirs]))
            reached.append(goal(f'{sample}: {how} − fastai\'s fine_tune, points', apart, least=0, show='{:+.1f}', ends=[100*a, 100*b]))
            reached.append(goal(f'{sample}: time of fine_tune / of {how}', np.median([o['seconds'] for o in theirs])/np.median([o['seconds'] for o in got[how]]), least=1, show='{:.2f}'))
    records.write(ratio={}, reached=reached, table=table, arguments=dict(samples=samples, strategies=strategies, seeds=seeds, epochs=epochs, limit=limit), measurements=runs,
                  remarks=[f'{model}, {seeds} seeds on the split of seed 0; ELPV at 160 pixels, 3 epochs where the body trains, 2,000 digits at 64 pixels, 5 epochs; intervals (95 %) by bootstrap over test items and seeds, differences paired by both. Chosen on valid, reported on test.',
                           'fine_tune runs on the same learner, so with the same fast arithmetic and resting BatchNorm; beside fastai as it comes, see finetune.'])
