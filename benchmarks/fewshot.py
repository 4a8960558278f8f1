"8 and 64 labels a class, sentiment in four domains: contrastive tuning of a sentence encoder beside setfit, and beside frozen features"
import os
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, answers, goal, memory, pairs

everyone = ('ours', 'frozen', 'setfit')
domains = ('sentiment-tweets', 'sentiment-amazon', 'sentiment-movies', 'sentiment-news')
quick = dict(samples=['r8'], shots=[4], seeds=1, peers=['ours', 'frozen'], many=[2, 4], of='r8', held=40)

def _rows(sample, shots, seed, held=None):
    "`shots` texts of each class to learn from, and 1,000 others (or `held`) to test on, the same for every seed"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    df = TextTask.from_sample(sample).df
    if 'group' in df: # snippets of one document stay on one side
        groups = pd.Series(sorted(df.group.unique())).sample(frac=1, random_state=0)
        away = set(groups[:len(groups)//3])
        test, learn = df[df.group.isin(away)], df[~df.group.isin(away)]
    else: test, learn = df[df.part == 'test'], df[df.part != 'test']
    test = test.sample(min(held or 1000, len(test)), random_state=0)
    return pd.concat([learn.groupby('label').sample(shots, random_state=seed).assign(part='train'), test.assign(part='test')]).reset_index(drop=True)

def _task(sample, shots, seed, held=None):
    "All labels are learned from: valid is a copy of train, and chooses nothing"
    import pandas as pd
    from tl_nbdev.data.tasks import Task
    from tl_nbdev.text.texts import TextTask
    df = _rows(sample, shots, seed, held)
    return TextTask(pd.concat([df, df[df.part == 'train'].assign(part='valid')]).reset_index(drop=True), sample)


# jobs, each in a process of its own; seconds are of the whole training, loading the network left out

def ours(sample, shots, seed, held=None, strategy='contrastive'):
    "Contrastive tuning of the body, then the head"
    from tl_nbdev.training.learner import transfer_learner
    task = _task(sample, shots, seed, held)
    learn = transfer_learner(task, bs=16, seed=seed)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(strategy)
    laps('train')
    report = learn.evaluate()
    return dict(value=report.value, probs=report.probs.round(4).tolist(), seconds=laps['train'], mib=memory('VmHWM'))

def frozen(sample, shots, seed, held=None): return ours(sample, shots, seed, held, 'feature')

def peak(sample, shots, held=None):
    "Peak memory of an epoch: at most the pairs of a batch are held at once, however many texts there are"
    from tl_nbdev.strategies.strategy import Contrastive
    return ours(sample, shots, 0, held, Contrastive(epochs=1, probe=1))

def setfit(sample, shots, seed, held=None, iterations=None):
    "setfit's own trainer, with its defaults, or with the 20 pairs a text of its paper, in an environment of its own: see peers.txt"
    import json, subprocess, tempfile
    from pathlib import Path
    import numpy as np
    from tl_nbdev.data.metrics import metrics
    from tl_nbdev.base.samples import sample as fetched
    rows = _rows(sample, shots, seed, held)
    names = sorted(rows.label.unique())
    train, test = (rows[rows.part == o] for o in ('train', 'test'))
    number = lambda df: [names.index(o) for o in df.label]
    with tempfile.TemporaryDirectory() as d:
        files = [str(Path(d)/o) for o in ('in.json', 'out.json')]
        Path(files[0]).write_text(json.dumps(dict(model=str(fetched('all-MiniLM-L6-v2')), train=list(train.item.map(str)), labels=number(train), test=list(test.item.map(str)), seed=seed, iterations=iterations)))
        subprocess.run([os.environ['TL_PEERS'], Path(__file__).with_name('peer_setfit.py'), *files], check=True)
        said = json.loads(Path(files[1]).read_text())
    probs = np.array(said.pop('probs'))
    return dict(value=metrics['accuracy'](np.array(number(test)), probs), probs=probs.round(4).tolist(), **said)


# the run

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=domains, # texts
    shots:Annotated[int, dict(nargs='+')]=(8, 64), # labels a class
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured; setfit needs TL_PEERS
    seeds:int=5, # of the draw of labels, and of training
    many:Annotated[int, dict(nargs='*')]=(64, 512), # labels a class, from few to many, for which peak memory is compared
    of:str='sentiment-movies', # texts of that comparison
    held:int=None, # texts to test on; default 1,000
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Few labels a class, beside setfit"
    import numpy as np
    from tl_nbdev.data.metrics import Result, mean_interval, paired_interval
    if 'setfit' in peers and not os.environ.get('TL_PEERS'): raise SystemExit('setfit needs other versions than this package: see benchmarks/peers.txt, and name that environment\'s Python in TL_PEERS')
    records, runs, table, reached, ratio = Records('fewshot', again, out), [], [], [], {}
    for k in shots:
        for s in samples:
            made = {p: [] for p in peers}
            for seed in range(seeds):
                for p in peers:
                    extra = dict(iterations=20) if p == 'setfit' else {}
                    made[p].append(records.measure(p, ours=p != 'setfit', anywhere=True, sample=s, shots=k, seed=seed, held=held, **extra))
            runs += sum(made.values(), [])
            got = {p: [o['found'] for o in v] for p, v in made.items()}
            test = _rows(s, k, 0, held)
            names = sorted(test.label.unique())
            y = np.array([names.index(o) for o in test[test.part == 'test'].label])
            results = {p: [Result('accuracy', y, answers(o, len(names)), names) for o in v] for p, v in got.items()}
            for p, v in got.items():
                low, high = mean_interval(results[p])
                row = {'data': s, 'labels a class': k, 'what': p, 'test accuracy % [95 %]': f'{100*mean(o["value"] for o in v):.1f} [{100*low:.1f}, {100*high:.1f}]', 'seconds, median': f'{median(records.seconds(made[p])):.1f}', 'peak MiB': f'{median(o["mib"] for o in v):.0f}'}
                if p != 'setfit' and 'setfit' in peers:
                    a, b = paired_interval(results[p], results['setfit'])
                    apart = 100*(mean(o['value'] for o in v) - mean(o['value'] for o in got['setfit']))
                    row['− setfit, points'] = f'{apart:+.1f} [{100*a:+.1f}, {100*b:+.1f}]' + (', no difference shown' if a <= 0 <= b else '')
                    if p == 'ours': reached.append(goal(f'{s}, {k} a class: ours − setfit, points', apart, least=0, show='{:+.1f}', ends=[100*a, 100*b]))
                    if same := pairs(made[p], made['setfit']):
                        ratio[f'{s} {k} setfit / {p}'] = median(b['seconds']/a['seconds'] for a, b in same)
                        row['time of setfit / its'] = f'{ratio[f"{s} {k} setfit / {p}"]:.1f} ({len(same)} of {len(v)} seeds)'
                        if p == 'ours': reached.append(goal(f'{s}, {k} a class: time of setfit / of ours ({len(same)} of {len(v)} seeds)', ratio[f'{s} {k} setfit / {p}'], least=1, show='{:.1f}'))
                table.append(row)
    if many:
        peaks = [records.measure('peak', sample=of, shots=k, held=held) for k in many]
        runs += peaks
        reached.append(goal(f'{of}: peak memory at {many[-1]} labels a class / at {many[0]}', peaks[-1]['found']['mib']/peaks[0]['found']['mib'], most=1.1, show='{:.2f}'))
    records.write(ratio=ratio, table=table, reached=reached, measurements=runs, arguments=dict(samples=samples, shots=shots, peers=peers, seeds=seeds, many=many, of=of, held=held),
                  remarks=['MiniLM; labels drawn anew for each seed; 1,000 texts to test, the same for all seeds, of documents that no training snippet comes from. Nothing is chosen: every method runs with its defaults, setfit with the 20 pairs a text of its paper (its own default, every pair of texts, grows with the square of their number).',
                           'The rate of contrastive training was doubled after an earlier run of this benchmark fell short; how far, was chosen on snippets of the documents to learn from of one domain (products) and on three groups of 20 Newsgroups, not on the texts to test.',
                           'Peak memory is of the whole process, its 1,000 texts to test included; for the comparison of few and many labels, of one epoch. Differences are paired by item and seed. Seconds are of training, loading the network and evaluating left out.'])
