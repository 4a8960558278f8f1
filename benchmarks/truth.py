"A table of the truth: every network that wheels carry, three strategies, three seeds, four sets of data; and against it advise, and each transferability score"
import os
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_cache, goal

images = ('squeezenet1_1', 'mobilenet_v2', 'tf_efficientnet_lite0', 'tf_efficientnet_lite1', 'tf_efficientnet_lite2', 'vit_small_patch14_dinov2')
texts = ('bert-tiny', 'all-MiniLM-L6-v2')
strategies = ('feature', 'last:2', 'full')
data = {'elpv': dict(limit=1000, size=168, epochs=5), 'mnist': dict(limit=2000, size=70, epochs=5), 'r8': dict(limit=1000, size=128, epochs=3), 'sentiment-movies': dict(limit=1000, size=128, epochs=3)}
names = ('knn', 'ridge', 'logme', 'h_score', 'shrunken_h_score', 'transrate', 'gbc', 'n_leep')
quick = dict(samples=['mnist'], seeds=1, limit=100, epochs=1, share=[.5])

def _task(sample, limit):
    "A sample of its labels; a split that was given stays, with its test part cut to 2,000"
    from tl_nbdev.images import ImageTask
    from tl_nbdev.samples import sample_info
    from tl_nbdev.texts import TextTask
    if sample_info(sample).kind == 'image': return ImageTask.from_sample(sample, limit=limit)
    import pandas as pd
    df = TextTask.from_sample(sample).df
    learn, test = df[df.part != 'test'], df[df.part == 'test']
    df = pd.concat([learn.sample(min(limit, len(learn)), random_state=0).assign(part='train'), test.sample(min(2*limit, len(test)), random_state=0)]).reset_index(drop=True)
    return TextTask.from_df(df, 'item', part='part', name=sample)

def _models(sample):
    from tl_nbdev.samples import sample_info
    return images if sample_info(sample).kind == 'image' else texts


# jobs, each in a process of its own

def run(sample, limit, size, epochs, model, how, seed):
    "One pair, carried out whole"
    from tl_nbdev.learner import transfer_learner, watched
    with fresh_cache():
        learn, laps = transfer_learner(_task(sample, limit), model, seed=seed, size=size), Laps()
        with watched(learn): learn.transfer(how, None if how == 'feature' else epochs)
        laps('train')
        valid, report = learn.evaluate('valid'), learn.evaluate()
        return dict(valid=valid.value, value=report.value, seconds=laps['train'])

def _sfda(x, y):
    "Self-challenging Fisher discriminant analysis (Shao et al. 2022, eq. 3 to 10), a candidate: items move towards the other classes the less they are sure, and are told apart again"
    import numpy as np
    from scipy.special import softmax
    x, k = x.astype(float), int(y.max()) + 1
    share = np.bincount(y)/len(y)
    def told(x, shrink=None):
        means = np.stack([x[y == c].mean(0) for c in range(k)])
        within = (x - means[y]).T@(x - means[y])/len(x)
        if shrink is None: shrink = max(np.exp(-5*np.linalg.eigvalsh(within)[-1]), 1e-10)
        within = (1 - shrink)*within + (shrink*np.trace(within)/len(within) + 1e-12)*np.eye(len(within))
        w = np.linalg.solve(within, means.T)
        return softmax(x@w - .5*(means.T*w).sum(0) + np.log(share), 1), shrink
    probs, shrink = told(x)
    sure = softmax(probs, 1)[np.arange(len(x)), y][:, None]
    others = np.stack([x[y != c].mean(0) for c in range(k)])
    return float(told(sure*x + (1 - sure)*others[y], shrink)[0][np.arange(len(x)), y].mean())

def scores(sample, limit, size, model):
    "Each score of the frozen features of train and valid"
    import numpy as np
    from tl_nbdev.learner import transfer_learner
    from tl_nbdev.phases import part_features
    from tl_nbdev.scores import score
    from tl_nbdev.zoo import source_accuracy
    task = _task(sample, limit)
    learn = transfer_learner(task, model, seed=0, size=size)
    f = [part_features(learn, o) for o in ('train', 'valid')]
    x, y = np.concatenate([o[range(len(o))].numpy() for o in f]), np.concatenate([task.targets(o) for o in ('train', 'valid')])
    return {s.name: dict(value=s.value, interval=s.interval, seconds=s.seconds) for s in score(x, y, names)} | dict(sfda=dict(value=_sfda(x, y)), parameters=dict(value=sum(p.numel() for p in learn.model.parameters())), source_accuracy=dict(value=source_accuracy.get(model)))

def advice(sample, limit, size, epochs, budget, seed):
    "advise, with an empty cache, and what its winner reaches in the table"
    from tl_nbdev.choose import advise
    with fresh_cache():
        got = advise(_task(sample, limit), budget, list(_models(sample)), strategies, epochs, seed, size=size)
        return dict(**got.best, seconds=got.seconds, budget=budget, test=got.result.value, tied=len(got.tied), tried=len(got.entries))


# the run

def _tau(models, said, truth, s, n, of, times=2000):
    "Weighted Kendall correlation, as transferability papers use it, of a score with what was reached; and its ends (95 %), by a bootstrap over networks, and over seeds within them"
    import numpy as np
    from scipy.stats import weightedtau
    def value(ms, pick): # of networks, as often as they were drawn
        reached = [of({k[1:]: float(np.mean(pick(v['values']))) for k, v in truth.items() if k[0] == s and k[1] == m}, m) for m in ms]
        return float(weightedtau([said[s, m][n]['value'] for m in ms], reached).statistic)
    rng, draws = np.random.default_rng(0), []
    for _ in range(times):
        ms = list(rng.choice(models, len(models)))
        if len(set(ms)) > 2: draws.append(value(ms, lambda v: rng.choice(v, len(v))))
    return [value(models, lambda v: v), *(float(o) for o in np.nanpercentile(draws, [2.5, 97.5]))]

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=tuple(data), # sets of data
    seeds:int=3, # of head and training; of the race
    share:Annotated[float, dict(nargs='+')]=(.15, .05), # budgets of the race, as shares of what trying everything once costs
    limit:int=None, # labels
    epochs:int=None, # where the body trains
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "What every pair reaches; and how much is lost by taking advice instead of trying everything"
    import numpy as np
    records, runs, table, taus, races = Records('truth', again, out), [], [], [], []
    truth, said = {}, {}
    for s in samples:
        o = dict(data[s], **{k: v for k, v in dict(limit=limit, epochs=epochs).items() if v})
        for m in _models(s):
            for how in strategies:
                got = [records.measure('run', sample=s, model=m, how=how, seed=i, **o) for i in range(seeds)]
                runs += got
                truth[s, m, how] = dict(value=mean(r['found']['value'] for r in got), seconds=median(r['found']['seconds'] for r in got), values=[r['found']['value'] for r in got])
                table.append({'data': s, 'model': m, 'strategy': how, 'test %, mean of seeds': f'{100*truth[s, m, how]["value"]:.1f}', 'of each seed': ', '.join(f'{100*r["found"]["value"]:.1f}' for r in got), 'seconds': f'{truth[s, m, how]["seconds"]:.0f}'})
            runs.append(records.measure('scores', sample=s, model=m, **{k: o[k] for k in ('limit', 'size')}))
            said[s, m] = runs[-1]['found']
        whole = sum(v['seconds'] for k, v in truth.items() if k[0] == s)
        best = max(v['value'] for k, v in truth.items() if k[0] == s)
        for part in share:
            for i in range(seeds):
                runs.append(records.measure('advice', sample=s, budget=round(part*whole, 1), seed=i, **o))
                f = runs[-1]['found']
                races.append(dict(sample=s, share=part, regret=best - truth[s, f['model'], f['strategy']]['value'], cost=f['seconds']/whole, **{k: f[k] for k in ('model', 'strategy')}))
        for n in (*names, 'sfda', 'parameters', 'source_accuracy') if len(_models(s)) > 2 else ():
            ms = [m for m in _models(s) if said[s, m][n]['value'] is not None] # of one network no accuracy on ImageNet is published
            taus.append(dict(sample=s, score=n, models=len(ms), tau=_tau(ms, said, truth, s, n, lambda seen, m: max(seen[m, h] for h in strategies)), frozen=_tau(ms, said, truth, s, n, lambda seen, m: seen[m, 'feature'])))
    lines, reached = [], []
    for part in share:
        mine = [o for o in races if o['share'] == part]
        regrets = np.array([100*o['regret'] for o in mine])
        draws = np.random.default_rng(0).choice(regrets, (2000, len(regrets))).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        reached.append(goal(f'mean regret of advise at {part:.0%} of the cost of trying all, points [{low:.1f}, {high:.1f}]', regrets.mean(), most=1, show='{:.2f}'))
        reached.append(goal(f'largest share of that cost it used, asked for {part:.0%}', 100*max(o['cost'] for o in mine), most=100*part*1.15, show='{:.1f}'))
        lines += [dict(data=o['sample'], model=f'advise, {part:.0%} of the cost', strategy=f'took {o["model"]} {o["strategy"]}', **{'test %, mean of seeds': f'regret {100*o["regret"]:.1f}', 'seconds': f'{100*o["cost"]:.0f} % of all'}) for o in mine]
    say = lambda o: f'{o[0]:+.2f} [{o[1]:+.2f}, {o[2]:+.2f}]'
    for n in dict.fromkeys(o['score'] for o in taus):
        mine = [o for o in taus if o['score'] == n]
        lines.append({'data': 'images', 'model': n, 'strategy': 'weighted Kendall τ with the best strategy, and with frozen features', 'test %, mean of seeds': '; '.join(f'{o["sample"]} {say(o["tau"])}, {say(o["frozen"])}' for o in mine)})
    records.write(ratio={}, table=table + lines, reached=reached, races=races, taus=taus, measurements=runs, arguments=dict(samples=samples, seeds=seeds, share=share, limit=limit, epochs=epochs),
                  remarks=[f'{s}: {o["limit"]} labels at most, {o["size"]} {"pixels" if s in ("elpv", "mnist") else "tokens"}, {o["epochs"]} epochs where the body trains' for s, o in data.items()] +
                          [f'{seeds} seeds; regret: the best pair\'s mean on test less that of the pair that was picked, in this table; intervals by bootstrap over races. The cost of trying all is that of one run of each pair.', 'With six networks a correlation of ranks says little, as its intervals show (95 %, bootstrap over networks and seeds); with two it says nothing, and is left out. Accuracy on ImageNet is published for five of them.'])
