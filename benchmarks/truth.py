"A table of the truth: every network that wheels carry, three strategies, three seeds, four sets of data; and against it advise, and each transferability score"
import os
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_cache, goal

images = ('squeezenet1_1', 'mobilenet_v2', 'tf_efficientnet_lite0', 'tf_efficientnet_lite1', 'tf_efficientnet_lite2', 'vit_small_patch14_dinov2')
texts = ('bert-tiny', 'all-MiniLM-L6-v2', 'SmolLM2-135M-Instruct')
strategies = ('feature', 'last:2', 'full')
data = {'elpv': dict(limit=1000, size=140, epochs=5), 'mnist': dict(limit=2000, size=70, epochs=5), 'r8': dict(limit=1000, size=64, epochs=3), 'sentiment-movies': dict(limit=1000, size=64, epochs=3)}
most = 1000 # texts to test on
names = ('knn', 'ridge', 'logme', 'h_score', 'shrunken_h_score', 'transrate', 'gbc', 'n_leep')
quick = dict(samples=['mnist'], seeds=1, limit=100, epochs=1, share=[.5], minute=20)

def _task(sample, limit):
    "`limit` labels to learn from, of which a tenth chooses; a test part that was given stays, else all the others test; of texts at most 1,000"
    import pandas as pd
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.base.samples import sample_info
    from tl_nbdev.text.texts import TextTask
    kind = {'image': ImageTask, 'text': TextTask}[sample_info(sample).kind]
    df = kind.from_sample(sample).df
    group = 'group' if 'group' in df else None
    if kind is ImageTask: return kind.from_sample(sample, valid=.1*limit/len(df), test=1 - limit/len(df))
    learn, test = df[df.part != 'test'], df[df.part == 'test']
    df = pd.concat([learn.sample(min(limit, len(learn)), random_state=0).assign(part='train'), test.sample(min(most, len(test)), random_state=0)]).reset_index(drop=True)
    return kind.from_df(df, 'item', part='part', group=group, name=sample)

def _models(sample):
    from tl_nbdev.base.samples import sample_info
    return images if sample_info(sample).kind == 'image' else texts


# jobs, each in a process of its own

def run(sample, limit, size, epochs, model, how, seed):
    "One pair, carried out whole"
    from tl_nbdev.training.learner import transfer_learner, watched
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
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.training.phases import part_features
    from tl_nbdev.selection.scores import score
    from tl_nbdev.vision.zoo import source_accuracy
    task = _task(sample, limit)
    learn = transfer_learner(task, model, seed=0, size=size)
    f = [part_features(learn, o) for o in ('train', 'valid')]
    x, y = np.concatenate([o[range(len(o))].numpy() for o in f]), np.concatenate([task.targets(o) for o in ('train', 'valid')])
    return {s.name: dict(value=s.value, interval=s.interval, seconds=s.seconds) for s in score(x, y, names)} | dict(sfda=dict(value=_sfda(x, y)), parameters=dict(value=sum(p.numel() for p in learn.model.parameters())), source_accuracy=dict(value=source_accuracy.get(model)))

def advice(sample, limit, size, epochs, budget, seed):
    "advise, with an empty cache, and what its winner reaches in the table"
    from tl_nbdev.selection.choose import advise
    with fresh_cache():
        got = advise(_task(sample, limit), budget, list(_models(sample)), strategies, epochs, seed, size=size)
        return dict(**got.best, predicted=got.entries[0].waits, trained=got.as_dict()['trained'], seconds=got.seconds, budget=budget, test=got.result.value, prior=got.prior, tied=len(got.tied), tried=len(got.entries), ranking=got.ranking)


# the run

def _tau(models, said, truth, s, n, of, rng, times=2000):
    "Weighted Kendall correlation, as transferability papers use it, of a score with what was reached; and draws of it, by a bootstrap over networks, and over seeds within them"
    import numpy as np
    from scipy.stats import weightedtau
    def value(ms, pick): # of networks, as often as they were drawn
        reached = [of({k[1:]: float(np.mean(pick(v['values']))) for k, v in truth.items() if k[0] == s and k[1] == m}, m) for m in ms]
        return float(weightedtau([said[s, m][n]['value'] for m in ms], reached).statistic)
    drawn = (list(rng.choice(models, len(models))) for _ in range(times))
    return value(models, lambda v: v), np.array([value(ms, lambda v: rng.choice(v, len(v))) if len(set(ms)) > 2 else np.nan for ms in drawn])

def _ends(values):
    "The middle 95 %, of draws"
    import numpy as np
    return [float(o) for o in np.nanpercentile(values, [2.5, 97.5])]

def _mean(by_sample, times=2000):
    "The mean of values of several sets of data, and its 95 % interval: a bootstrap over sets, and over the values within them"
    import numpy as np
    rng, sets = np.random.default_rng(0), list(by_sample.values())
    draws = [np.mean([rng.choice(sets[i], len(sets[i])).mean() for i in rng.integers(len(sets), size=len(sets))]) for _ in range(times)]
    return float(np.mean([np.mean(o) for o in sets])), _ends(draws)

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=tuple(data), # sets of data
    seeds:int=3, # of head and training; of the race
    share:Annotated[float, dict(nargs='+')]=(.15,), # budgets of the race, as shares of what trying everything once costs
    minute:int=60, # one more budget, in seconds
    limit:int=None, # labels
    epochs:int=None, # where the body trains
    again:bool=False, # measure anew what is there already
    earlier:bool=False, # keep what was measured with earlier code of the package
    out:str=None # folder of the records; default benchmarks/results
):
    "What every pair reaches; and how much is lost by taking advice instead of trying everything"
    import numpy as np
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.text.texts import TextTask
    records, runs, table, taus, races, picks = Records('truth', again, out, earlier), [], [], [], [], {}
    truth, said = {}, {}
    for s in samples:
        o = dict(data[s], **{k: v for k, v in dict(limit=limit, epochs=epochs).items() if v})
        ms = _models(s)
        for m in ms:
            for how in strategies:
                got = [records.measure('run', sample=s, model=m, how=how, seed=i, **o) for i in range(seeds)]
                runs += got
                truth[s, m, how] = dict(value=mean(r['found']['value'] for r in got), seconds=median(r['found']['seconds'] for r in got), values=[r['found']['value'] for r in got])
                table.append({'data': s, 'model': m, 'strategy': how, 'test %, mean of seeds': f'{100*truth[s, m, how]["value"]:.1f}', 'of each seed': ', '.join(f'{100*r["found"]["value"]:.1f}' for r in got), 'seconds': f'{truth[s, m, how]["seconds"]:.0f}'})
            runs.append(records.measure('scores', sample=s, model=m, **{k: o[k] for k in ('limit', 'size')}))
            said[s, m] = runs[-1]['found']
        whole = sum(v['seconds'] for k, v in truth.items() if k[0] == s)
        best = max(v['value'] for k, v in truth.items() if k[0] == s)
        lost = lambda m, how: 100*(best - truth[s, m, how]['value'])
        for what, budget in [*((f'advise, {p:.0%} of the cost', p*whole) for p in share), (f'advise, {minute} seconds', minute)]:
            for i in range(seeds):
                runs.append(records.measure('advice', sample=s, budget=round(budget, 1), seed=i, **o))
                f = runs[-1]['found']
                races.append(dict(sample=s, what=what, regret=lost(f['model'], f['strategy']), itself=100*(best - f['test']), cost=f['seconds']/whole, over=f['seconds']/f['budget'], predicted=f.get('predicted', f.get('foretold')), **{k: f[k] for k in ('model', 'strategy', 'trained')}))
        # what one would do without a race
        prior, usual = runs[-1]['found']['prior'], (ImageTask if ms is images else TextTask).usual_model
        score = lambda n: max((m for m in ms if said[s, m][n]['value'] is not None), key=lambda m: said[s, m][n]['value'], default=None)
        for what, m, how in [('the usual model, frozen', usual, 'feature'), ('the usual model, by the rule of thumb', usual, prior), ('the usual model, all of it', usual, 'full'), ('the largest, all of it', score('parameters'), 'full'),
                             *((f'best by {n}, by the rule of thumb', score(n), prior) for n in names), *((f'best by {n}, all of it', score(n), 'full') for n in names)]:
            picks.setdefault(what, {})[s] = dict(model=m, strategy=how, regret=lost(m, how), cost=(truth[s, m, how]['seconds'] + (sum(truth[s, o, 'feature']['seconds'] for o in ms if o != m) if 'best by' in what else 0))/whole)
        picks.setdefault('a pair by chance', {})[s] = dict(model='', strategy='', regret=mean(lost(*k[1:]) for k in truth if k[0] == s), cost=mean(v['seconds'] for k, v in truth.items() if k[0] == s)/whole)
        rng = np.random.default_rng(0)
        for n in (*names, 'sfda', 'parameters', 'source_accuracy'):
            known = [m for m in ms if said[s, m][n]['value'] is not None] # of one network no accuracy on ImageNet is published, of those for texts none
            if len(known) < 3: continue
            for against, of in dict(best=lambda seen, m: max(seen[m, h] for h in strategies), frozen=lambda seen, m: seen[m, 'feature']).items():
                value, draws = _tau(known, said, truth, s, n, of, rng)
                taus.append(dict(sample=s, score=n, against=against, networks=len(known), tau=value, interval=_ends(draws), draws=draws))
    reached, lines = [], []
    for what in dict.fromkeys(o['what'] for o in races):
        mine = [o for o in races if o['what'] == what]
        value, ends = _mean({s: [o['regret'] for o in mine if o['sample'] == s] for s in samples})
        aim = what == f'advise, {share[0]:.0%} of the cost'
        reached.append(goal(f'{what}: mean regret, points', value, most=1 if aim else None, show='{:.2f}', ends=ends))
        value, ends = _mean({s: [o['itself'] for o in mine if o['sample'] == s] for s in samples})
        reached.append(goal(f'{what}: mean regret of the network that it hands over, points', value, most=1 if aim else None, show='{:.2f}', ends=ends))
        reached.append(goal(f'{what}: the most that it used, % of what it was given', 100*max(o['over'] for o in mine), most=115, show='{:.0f}'))
        lines += [dict(data=o['sample'], model=what, strategy=f'took {o["model"]} {o["strategy"]}' + (', predicted' if o['predicted'] else ''), **{'test %, mean of seeds': f'regret {o["regret"]:.1f}, of the network itself {o["itself"]:.1f}', 'seconds': f'{100*o["cost"]:.0f} % of all'}) for o in mine]
    for what, of in picks.items():
        value, ends = _mean({s: [o['regret']] for s, o in of.items()})
        reached.append(goal(f'{what}: mean regret, points', value, show='{:.2f}', ends=ends))
    for t in list(taus): # over the sets of data
        mine = [o for o in taus if (o['score'], o['against']) == (t['score'], t['against'])]
        if t is mine[0] and len(mine) > 1: taus.append(dict(sample='mean', score=t['score'], against=t['against'], networks=None, tau=mean(o['tau'] for o in mine), interval=_ends(np.nanmean([o['draws'] for o in mine], 0))))
    for t in taus: t.pop('draws', None)
    records.write(ratio={}, table=table + lines, reached=reached, races=races, picks=picks, taus=taus, measurements=runs, arguments=dict(samples=samples, seeds=seeds, share=share, minute=minute, limit=limit, epochs=epochs),
                  remarks=[f'{s}: {o["limit"]:,} labels, of which a tenth chooses, {o["size"]} {"pixels" if _models(s) is images else "tokens"}, {o["epochs"]} epochs where the body trains' for s, o in data.items()] +
                          [f'{seeds} seeds. Regret: the best pair\'s mean on test less that of the pair that was picked, in this table; and, of the network that advise hands over, less what that reaches on the same test part: its body was trained from a head that was trained before, as the code that is printed does. As the best is chosen by the very values that it is compared by, regret is a little too large, for everybody. Intervals by bootstrap over sets of data, and races within them. The cost of trying all is that of one run of each pair.',
                           'With six networks, and three for texts, a correlation of ranks says little, as its intervals show (95 %, bootstrap over networks and seeds). Accuracy on ImageNet is published for five networks.'])
