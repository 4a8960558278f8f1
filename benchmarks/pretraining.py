"Continued pretraining of a small BERT on software licences and on diagnoses: the held-out loss, and what it is worth with few labels a class"
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, answers, goal

everyone = ('wheel', 'continued', 'minilm', 'tfidf')
domains = ('licences', 'icd10')
asks = {'Permissive': 'permissive', 'Copyleft': 'copyleft', 'Copyleft Limited': 'copyleft', 'Proprietary Free': 'restricted', 'Commercial': 'restricted', 'Free Restricted': 'restricted', 'Source-available': 'restricted'}
quick = dict(samples=['icd10'], shots=[3], seeds=1, budget=5, peers=['wheel', 'continued'])

def _parts(sample):
    "A third of the owners, or of the categories, is kept to test on: at most 1,000 texts; classes of 300 texts and more"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    df = TextTask.from_sample(sample).df
    if sample == 'licences': df = df.assign(label=df.label.map(asks))
    df = df[df.groupby('label').label.transform('size') >= 300]
    groups = pd.Series(sorted(df.group.unique())).sample(frac=1, random_state=0)
    held = set(groups[:len(groups)//3])
    test = df[df.group.isin(held)]
    return df[~df.group.isin(held)], test.sample(min(1000, len(test)), random_state=0)

def _task(sample, shots, seed):
    "`shots` labels a class; valid is a copy of train, and chooses nothing"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    learn, test = _parts(sample)
    rows = learn.groupby('label').sample(shots, random_state=seed)
    return TextTask(pd.concat([rows.assign(part='train'), rows.assign(part='valid'), test.assign(part='test')]).reset_index(drop=True), sample)

def _folder(sample, budget):
    from tl_nbdev.base.settings import settings
    return settings().cache/'benchmarks-pretraining'/f'{sample}-{budget:g}'


# jobs, each in a process of its own

def pretrain(sample, budget):
    "bert-tiny goes on reading, without labels and without the texts that are tested on"
    from tl_nbdev.base.disk import remove
    from tl_nbdev.adaptation.pretraining import continue_pretraining
    learn, test = _parts(sample)
    remove(_folder(sample, budget))
    _folder(sample, budget).parent.mkdir(parents=True, exist_ok=True)
    laps = Laps()
    got = continue_pretraining(learn.item.to_list(), 'bert-tiny', _folder(sample, budget), budget, test=test.item.to_list())
    laps('whole job')
    return dict({k: v for k, v in got.as_dict().items() if k != 'folder'}, seconds=laps['whole job'], training=got.seconds)

def few(sample, shots, seed, start, budget, epochs=10):
    "Everything trains; or, of MiniLM, a head on frozen features"
    from tl_nbdev.training.learner import transfer_learner
    names = dict(wheel='bert-tiny', continued=_folder(sample, budget), minilm='all-MiniLM-L6-v2')
    learn = transfer_learner(_task(sample, shots, seed), names[start], size=128, bs=16, seed=seed)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer('feature') if start == 'minilm' else learn.transfer('full', epochs)
    laps('train')
    report = learn.evaluate()
    return dict(value=report.value, probs=report.probs.round(4).tolist(), seconds=laps['train'])

def tfidf(sample, shots, seed):
    "Words and pairs of words, logistic regression"
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from tl_nbdev.data.metrics import metrics
    task, laps = _task(sample, shots, seed), Laps()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x = {o: (words.fit_transform if o == 'train' else words.transform)(task.part(o).item.map(str)) for o in ('train', 'test')}
    probs = LogisticRegression(C=10, max_iter=2000).fit(x['train'], task.targets('train')).predict_proba(x['test'])
    laps('train')
    return dict(value=metrics['accuracy'](task.targets('test'), probs), probs=np.round(probs, 4).tolist(), seconds=laps['train'])


# the run

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=domains, # texts
    shots:Annotated[int, dict(nargs='+')]=(10, 50, 200), # labels a class
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    seeds:int=5, # of the draw of labels, and of training
    budget:float=420, # seconds of continued pretraining
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Continued pretraining, legal and medical"
    import numpy as np
    from tl_nbdev.data.metrics import Result, mean_interval, paired_interval
    records, runs, table, reached = Records('pretraining', again, out), [], [], []
    for s in samples:
        runs.append(records.measure('pretrain', anew=not _folder(s, budget).exists(), sample=s, budget=budget))
        f = runs[-1]['found']
        reached += [goal(f'{s}: fall of the held-out masked loss, %', 100*(1 - f['after']/f['before']), least=55), goal(f'{s}: the whole job, seconds', f['seconds'], most=600, show='{:.0f}')]
        table.append({'data': s, 'what': 'continued pretraining', 'test accuracy % [95 %]': f'held-out loss {f["before"]:.2f} → {f["after"]:.2f} nats a token, {f["tokens"]:,} tokens', 'seconds, median': f'{f["seconds"]:.0f}'})
    for s in samples:
        task = _task(s, 1, 0)
        y, names = task.targets('test'), task.vocab
        for k in shots:
            got = {p: [] for p in peers}
            for seed in range(seeds):
                for p in peers:
                    runs.append(records.measure('tfidf', ours=False, sample=s, shots=k, seed=seed) if p == 'tfidf' else records.measure('few', sample=s, shots=k, seed=seed, start=p, budget=budget))
                    got[p].append(runs[-1]['found'])
            results = {p: [Result('accuracy', y, answers(o, len(names)), names) for o in v] for p, v in got.items()}
            for p, v in got.items():
                low, high = mean_interval(results[p])
                row = {'data': s, 'labels a class': k, 'what': p, 'test accuracy % [95 %]': f'{100*mean(o["value"] for o in v):.1f} [{100*low:.1f}, {100*high:.1f}]', 'seconds, median': f'{median(o["seconds"] for o in v):.1f}'}
                if p != 'wheel' and 'wheel' in peers:
                    a, b = paired_interval(results[p], results['wheel'])
                    gain = 100*(mean(o['value'] for o in v) - mean(o['value'] for o in got['wheel']))
                    row['− wheel, points'] = f'{gain:+.1f} [{100*a:+.1f}, {100*b:+.1f}]' + (', no difference shown' if a <= 0 <= b else '')
                    if p == 'continued': reached.append(goal(f'{s}, {k} a class: gain by continued pretraining, points', gain, show='{:+.1f}', ends=[100*a, 100*b], than=0))
                table.append(row)
    records.write(ratio={}, table=table, reached=reached, measurements=runs, arguments=dict(samples=samples, shots=shots, peers=peers, seeds=seeds, budget=budget),
                  remarks=['wheel: bert-tiny as it comes, everything trains for 10 epochs; continued: the same, after reading the texts of the domain without labels; minilm: a head on frozen features of MiniLM; tfidf: words and pairs of words, logistic regression. 128 tokens. Nothing is chosen: valid is a copy of train.',
                           'Software licences in three classes (permissive, copyleft, restricted), diagnoses in the chapters of ICD-10 with 300 descriptions and more. A third of the owners, or of the three-letter categories, is kept to test on, at most 1,000 texts, the same for all seeds; they are not read in pretraining. Labels drawn anew for each seed; differences are paired by item and seed.'])
