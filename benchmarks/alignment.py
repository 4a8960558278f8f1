"What an alignment callback costs: a step with a batch of the source and one of the target, beside two plain steps"
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal

everyone = ('dann', 'cdan', 'mdd', 'coral', 'mmd', 'jan', 'mcc', 'pseudo')
both = ('images', 'texts')
quick = dict(methods=['mcc'], repeats=1, n=64)

def _learner(kind, n, bs):
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.text.texts import TextTask
    import copy
    images = kind == 'images'
    task = copy.copy(ImageTask.from_sample('mnist') if images else TextTask.from_sample('sentiment-news'))
    task.df = task.df.groupby('part').head(n).reset_index(drop=True)
    task.df = task.df[(task.df.part == 'train') | (task.df.groupby('part').cumcount() < 64)].reset_index(drop=True)
    return task, transfer_learner(task, *(['tf_efficientnet_lite0'] if images else []), seed=0, bs=bs, size=96 if images else 64, augment='none')

def cost(kind, methods, n, bs, repeats):
    "Seconds of the steps of an epoch, validation left out: plain, and with each method, in turn, in one process"
    import time
    from fastai.basics import Callback
    from tl_nbdev.adaptation.adapt import methods as known, target_loader
    task, learn = _learner(kind, n, bs)
    class Timed(Callback):
        order = 90
        def before_epoch(self): self.first = None
        def after_batch(self): # from the end of the first step to that of the last
            if not self.training: return
            self.last = time.perf_counter()
            if self.first is None: self.first = self.last
    begin = {k: v.detach().clone() for k, v in learn.model.state_dict().items()}
    found = {m: [] for m in ('none', *methods.split('+'))}
    for i in range(repeats + 1): # the first to get warm
        for m in found:
            learn.model.load_state_dict(begin)
            timed = Timed()
            with learn.no_bar(), learn.no_logging(), learn.added_cbs([timed, *([known[m](target_loader(learn, task))] if m != 'none' else [])]): learn.transfer('full', 1)
            if i: found[m].append((timed.last - timed.first)/(n//bs - 1))
    return found

@call_parse
def bench(
    kinds:Annotated[str, dict(nargs='+', choices=both)]=both,
    methods:Annotated[str, dict(nargs='+', choices=everyone)]=everyone,
    n:int=640, # items of each domain
    bs:int=32, # of them in a batch
    repeats:int=5,
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "What alignment costs"
    records, runs, table, reached, ratio = Records('alignment', again, out), [], [], [], {}
    for kind in kinds:
        runs.append(records.measure('cost', kind=kind, methods='+'.join(methods), n=n, bs=bs, repeats=repeats))
        found = runs[-1]['found']
        table.append({'network': kind, 'method': 'none', 'seconds a step, median': f'{median(found["none"]):.3f}'})
        for m in methods:
            ratio[f'{kind} {m}'] = median(a/(2*b) for a, b in zip(found[m], found['none']))
            table.append({'network': kind, 'method': m, 'seconds a step, median': f'{median(found[m]):.3f}', 'time / that of two plain steps': f'{ratio[f"{kind} {m}"]:.2f}'})
            reached.append(goal(f'{kind}, {m}: a step with it / two plain steps', ratio[f'{kind} {m}'], most=1.15, show='{:.2f}'))
    records.write(ratio=ratio, table=table, reached=reached, measurements=runs, arguments=dict(kinds=kinds, methods=methods, n=n, bs=bs, repeats=repeats),
                  remarks=[f'images: tf_efficientnet_lite0 at 96 pixels; texts: MiniLM at 64 tokens; everything trains, {bs} of each domain in a batch, {repeats} epochs of each in turn in one process, loading included, validation left out.'])
