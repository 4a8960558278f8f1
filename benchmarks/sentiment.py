"Sentiment in four domains, every pair of them: source only, the target's texts read before, alignment and self-training while MiniLM's last stages train"
from itertools import permutations
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

domains = ('tweets', 'amazon', 'movies', 'news')
aligned = ('dann', 'pseudo')
quick = dict(samples=['tweets', 'news'], seeds=1, limit=150, epochs=1, budget=5)
size = 64 # tokens: nearly every text is shorter

def _task(domain, limit, seed=0):
    "At most `limit` texts to learn from, drawn by the seed, a tenth of them to choose by; at most 1,000 texts to test, the same for every seed, of other documents than those"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    df = TextTask.from_sample(f'sentiment-{domain}').df
    learn, test = df[df.part != 'test'], df[df.part == 'test']
    rows = learn.sample(min(limit, len(learn)), random_state=seed).assign(part='train')
    valid = rows.sample(frac=.1, random_state=seed)
    rows.loc[valid.index, 'part'] = 'valid'
    return TextTask(pd.concat([rows, test.sample(min(1000, len(test)), random_state=0)]).reset_index(drop=True), domain)

def _folder(domain, limit, budget):
    from tl_nbdev.base.settings import settings
    return settings().cache/'benchmarks-sentiment'/f'{domain}-{limit}-{budget:g}'


# jobs, each in a process of its own

def read(domain, limit, budget):
    "MiniLM goes on reading the domain's texts, a masked-language head being trained first, as its own was not kept"
    from tl_nbdev.base.disk import remove
    from tl_nbdev.adaptation.pretraining import continue_pretraining
    task, to = _task(domain, limit), _folder(domain, limit, budget)
    remove(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    got = continue_pretraining(task.df[task.df.part != 'test'].item.to_list(), 'all-MiniLM-L6-v2', to, budget, new_head=True)
    return {k: v for k, v in got.as_dict().items() if k != 'folder'}

def run(source, target, seed, limit, epochs, budget):
    "All methods with one seed: at each epoch accuracy on the target's test part, and what every validator thinks of it"
    from tl_nbdev.adaptation.adapt import adapt, agreement
    a, b, laps, got = _task(source, limit, seed), _task(target, limit, seed), Laps(), {}
    start = adapt(a, b, 'none', how='last:2', epochs=epochs, seed=seed, size=size, bs=16)
    laps('source only')
    for m in aligned:
        got[m] = adapt(a, b, m, how='last:2', epochs=epochs, seed=seed, size=size, bs=16, earlier=start)
        laps(m)
    got['tapt'] = adapt(a, b, 'none', _folder(target, limit, budget), 'last:2', epochs, seed=seed, size=size, bs=16)
    laps('tapt')
    say = lambda o: dict(epoch=o.epoch, accuracy=o.accuracy, **o.scores)
    return dict(plain=say(start.plain), looks={m: [say(o) for o in (g.looks or [g.plain])] for m, g in got.items()}, chosen={m: g.chosen.accuracy for m, g in got.items()},
                agreement=agreement({'source only': start.plain.unseen, **{m: g.chosen.unseen for m, g in got.items()}}), own=start.learn.evaluate().value, seconds=dict(laps))

def tfidf(source, target, seed, limit):
    "Words and pairs of words of the source, logistic regression, its strength chosen on the source's valid part"
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    a, b = _task(source, limit, seed), _task(target, limit, seed)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x = words.fit_transform(a.part('train').item.map(str))
    fits = [LogisticRegression(C=c, max_iter=2000).fit(x, a.targets('train')) for c in (1, 10, 100)]
    best = max(fits, key=lambda f: f.score(words.transform(a.part('valid').item.map(str)), a.targets('valid')))
    return dict(accuracy=float(best.score(words.transform(b.part('test').item.map(str)), b.targets('test'))))


# the run

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+', choices=domains)]=domains, # every ordered pair of them
    seeds:int=3, # of the draw of texts, of head and training
    limit:int=2000, # texts of each to learn from
    epochs:int=3,
    budget:float=120, # seconds of continued pretraining
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Another domain: sentiment"
    from tl_nbdev.adaptation.adapt import validators
    records, runs, table, reached, losses, got, words = Records('sentiment', again, out), [], [], [], [], {}, {}
    for d in samples:
        runs.append(records.measure('read', anew=not _folder(d, limit, budget).exists(), domain=d, limit=limit, budget=budget))
        f = runs[-1]['found']
        losses.append(f'{d} {f["before"]:.2f} → {f["after"]:.2f}')
    for seed in range(seeds):
        for s, t in permutations(samples, 2):
            runs.append(records.measure('run', source=s, target=t, seed=seed, limit=limit, epochs=epochs, budget=budget))
            got.setdefault((s, t), []).append(runs[-1]['found'])
            runs.append(records.measure('tfidf', ours=False, source=s, target=t, seed=seed, limit=limit))
            words.setdefault((s, t), []).append(runs[-1]['found']['accuracy'])
    shown = (*aligned, 'tapt')
    every = lambda o: [o['plain'], *(e for m in shown for e in o['looks'][m])] # methods and epochs, source only among them
    taken = lambda o: next(iter(o['agreement']))
    value = {**{f'{m}, last epoch': lambda o, m=m: o['looks'][m][-1]['accuracy'] for m in shown},
             'chosen without labels (a method by agreement, its epoch by im)': lambda o: {**o['chosen'], 'source only': o['plain']['accuracy']}[taken(o)],
             'last epoch of the method chosen': lambda o: o['looks'].get(taken(o), [o['plain']])[-1]['accuracy'],
             **{f'any method and epoch, by {v}': lambda o, v=v: max(every(o), key=lambda e: e[v])['accuracy'] for v in validators},
             'oracle': lambda o: max(e['accuracy'] for e in every(o))}
    for (s, t), o in got.items():
        table.append({'from': s, 'to': t, 'own test part %': f'{100*mean(e["own"] for e in o):.1f}', 'source only %': f'{100*mean(e["plain"]["accuracy"] for e in o):.1f}', 'tfidf %': f'{100*mean(words[s, t]):.1f}',
                      **{f'{k} %': f'{100*mean(map(v, o)):.1f}' for k, v in value.items() if not k.startswith('any')}})
    for name, v in value.items():
        gains = [100*mean(v(e) - e['plain']['accuracy'] for e in o) for o in got.values()]
        reached.append(goal(f'{name}: mean gain over source only, points, {len(gains)} pairs', mean(gains), show='{:+.1f}', ends=interval(gains), than=0))
    gains = [100*(mean(words[k]) - mean(e['plain']['accuracy'] for e in o)) for k, o in got.items()]
    reached.append(goal(f'tfidf: mean gain over source only, points, {len(gains)} pairs', mean(gains), show='{:+.1f}', ends=interval(gains), than=0))
    records.write(ratio={}, table=table, reached=reached, measurements=runs, arguments=dict(samples=samples, seeds=seeds, limit=limit, epochs=epochs, budget=budget),
                  remarks=[f'MiniLM, last:2, {epochs} epochs, {seeds} seeds; {limit:,} texts of each domain at most, drawn anew for each seed, a tenth to choose by; the target\'s without labels. At most 1,000 texts of the target to test, the same for all.',
                           f'tapt: MiniLM went on reading the target\'s texts for {budget:g} s, with a masked-language head that was trained first, then source only; held-out masked loss: {", ".join(losses)}. pseudo: self-training, answers surer than 0.9 are taken for labels. Chosen without labels: of each method the epoch that im likes best, or source only; of the methods the one that agrees most with the mean of all. By a validator: among all methods, epochs and source only. The oracle knows the labels.',
                           'Gains are means over seeds, intervals (95 %, t) over pairs; pairs share domains, so intervals for new domains are wider.'])
