"all-mpnet-base-v2 beside all-MiniLM-L6-v2 where counts of words were hard to beat: frozen and trained, 20 Newsgroups and diagnoses"
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

names = dict(minilm='all-MiniLM-L6-v2', mpnet='all-mpnet-base-v2')
everyone = ('tfidf', 'minilm_frozen', 'mpnet_frozen', 'minilm_trained', 'mpnet_trained')
quick = dict(samples=['icd10'], n=60, seeds=1)
sizes = {'20newsgroups': 96, 'icd10': 32} # tokens of a text

def _task(sample, n, seed):
    "`n` labels in all, of which a tenth chooses, and as many texts to test, the same for each seed; texts of one group are in one part"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    whole = TextTask.from_sample(sample)
    learn, test = whole.df[whole.df.part != 'test'], whole.df[whole.df.part == 'test']
    rows = pd.concat([learn.sample(n, random_state=seed).assign(part='train'), test.sample(n, random_state=0)]).reset_index(drop=True)
    return TextTask.from_df(rows, 'item', part='part', seed=seed, name=sample)

def _judged(task, probs):
    from tl_nbdev.data.metrics import metrics
    return metrics['accuracy'](task.targets('test'), probs)

def tfidf(sample, n, seed):
    "Words and pairs of words, logistic regression, its strength chosen on valid"
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from tl_nbdev.data.metrics import metrics
    task, score = _task(sample, n, seed), metrics['accuracy']
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x = {part: (words.fit_transform if part == 'train' else words.transform)(task.part(part).item.map(str)) for part in ('train', 'valid', 'test')}
    fits = [LogisticRegression(C=c, max_iter=2000).fit(x['train'], task.targets('train')) for c in (1, 10, 100)]
    best = max(fits, key=lambda fit: score(task.targets('valid'), fit.predict_proba(x['valid'])))
    return dict(value=_judged(task, best.predict_proba(x['test'])), seconds=0., arithmetic='fp64')

def encoder(sample, n, seed, model, how):
    "A strategy, everything else as transfer_learner sets it"
    from tl_nbdev.training.learner import transfer_learner
    task = _task(sample, n, seed)
    learn, laps = transfer_learner(task, names[model], size=sizes[sample], seed=seed), Laps()
    with learn.no_bar(), learn.no_logging():
        if how == 'frozen': learn.transfer('feature')
        else: learn.transfer('lpft', 2)
    laps('train')
    return dict(value=_judged(task, learn.evaluate(closer=False).probs), seconds=laps['train'], arithmetic=learn.mode.precision)

def minilm_frozen(**args): return encoder(model='minilm', how='frozen', **args)
def mpnet_frozen(**args): return encoder(model='mpnet', how='frozen', **args)
def minilm_trained(**args): return encoder(model='minilm', how='trained', **args)
def mpnet_trained(**args): return encoder(model='mpnet', how='trained', **args)

def _points(values): return [100*value for value in values]

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+', choices=tuple(sizes))]=tuple(sizes), # data
    n:int=300, # labels in all
    seeds:int=3, # of the labels
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    frozen:Annotated[str, dict(nargs='*', choices=tuple(sizes))]=(), # data on which nothing is trained whole
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "A stronger encoder, frozen and trained, beside the usual one and beside counts of words"
    records, runs, got = Records('encoders', again, out, earlier=True), [], {}
    for seed in range(seeds):
        for sample in samples:
            for peer in peers:
                if sample in frozen and peer.endswith('trained'): continue
                runs.append(records.measure(peer, ours=peer != 'tfidf', sample=sample, n=n, seed=seed))
                got.setdefault((sample, peer), []).append(runs[-1]['found'])
    table = [{'texts': sample, 'who': peer.replace('_', ' '), 'accuracy % on test': f'{100*mean(run["value"] for run in o):.1f}', 'each': ', '.join(f'{100*run["value"]:.1f}' for run in o)}
             for (sample, peer), o in got.items()]
    reached = []
    for sample in samples:
        for a, b in (('mpnet_frozen', 'tfidf'), ('mpnet_frozen', 'minilm_frozen'), ('mpnet_trained', 'tfidf'), ('mpnet_trained', 'minilm_trained')):
            if (sample, a) not in got or (sample, b) not in got: continue
            apart = _points(x['value'] - y['value'] for x, y in zip(got[sample, a], got[sample, b]))
            reached.append(goal(f'{sample}: {a.replace("_", " ")} − {b.replace("_", " ")}, points', mean(apart), show='{:+.1f}', ends=interval(apart), than=0))
    records.write(table=table, reached=reached, measurements=runs,
                  remarks=[f'{n} labels in all, of which a tenth chooses, and {n} texts to test, the same for each seed; {", ".join(f"{sample}: {size} tokens" for sample, size in sizes.items())}. '
                           'Trained: a head first, then everything for two epochs (LP-FT). 95 % over seeds, paired.'],
                  arguments=dict(samples=samples, n=n, seeds=seeds, peers=peers, frozen=frozen))
