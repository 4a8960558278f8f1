"1,000 labels, three epochs, several seeds: accuracy beside transformers' Trainer and beside TF-IDF with logistic regression; and frozen features, whose whole job is timed"
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, answers, fresh_cache, goal, half_is_faster, pairs

everyone = ('ours', 'frozen', 'trainer', 'trainer_tuned', 'tfidf')
data = dict(r8={}, **{'20newsgroups': {}, 'sentiment-movies': {}})
quick = dict(samples=['r8'], n=120, seeds=1, epochs=1)
size = 128 # tokens

def _task(sample, n, seed):
    "`n` labels in all, of which a tenth chooses; at most 1,000 texts to test"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    whole = TextTask.from_sample(sample)
    learn, test = whole.df[whole.df.part != 'test'], whole.df[whole.df.part == 'test']
    rng_rows = learn.sample(min(n, len(learn)), random_state=seed).assign(part='train')
    rows = pd.concat([rng_rows, test.sample(min(1000, len(test)), random_state=0)]).reset_index(drop=True)
    return TextTask.from_df(rows, 'item', part='part', name=sample)


# jobs, each in a process of its own

def ours(sample, n, seed, epochs, bs):
    "Everything trains, at the rates that are usual here"
    from tl_nbdev.training.learner import transfer_learner
    task = _task(sample, n, seed)
    learn = transfer_learner(task, size=size, bs=bs, seed=seed)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer('full', epochs)
    laps('train')
    return _read(learn, laps)

def frozen(sample, n, seed, **_):
    "Features and a linear head; the whole job is timed, tokenising and loading the network included; importing libraries is in nobody's time"
    from transformers import AutoModel, AutoTokenizer # which transformers imports when they are asked for
    from transformers.models.bert import modeling_bert
    from tl_nbdev.training.learner import transfer_learner
    task = _task(sample, n, seed)
    with fresh_cache():
        laps = Laps()
        learn = transfer_learner(task, size=size, seed=seed)
        with learn.no_bar(), learn.no_logging(): learn.transfer('feature')
        laps('train')
        return _read(learn, laps)

def _read(learn, laps):
    valid, report = learn.evaluate('valid'), learn.evaluate()
    laps('read')
    return dict(valid=valid.value, value=report.value, probs=report.probs.round(4).tolist(), seconds=laps['train'], arithmetic=learn.mode.precision)

def trainer(sample, n, seed, epochs, bs, tuned=False):
    "transformers' Trainer with the textbook's rate, warm-up and batches; tuned: five times that rate, and bf16 where it is faster"
    import tempfile, time
    import torch, transformers as tf
    from tl_nbdev.data.metrics import metrics
    from tl_nbdev.base.samples import sample as fetched
    task, folder, half = _task(sample, n, seed), fetched('all-MiniLM-L6-v2'), tuned and half_is_faster()
    tok = tf.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    net = tf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(task.vocab), dtype=torch.float32)
    rows = {part: [dict(**tok(t, truncation=True, max_length=size), labels=int(y)) for t, y in zip(task.part(part).item, task.targets(part))] for part in ('train', 'valid', 'test')}
    with tempfile.TemporaryDirectory() as d:
        args = tf.TrainingArguments(d, num_train_epochs=epochs, learning_rate=1e-4 if tuned else 2e-5, warmup_steps=.1, per_device_train_batch_size=bs, per_device_eval_batch_size=64, save_strategy='no', report_to='none', disable_tqdm=True,
                                    use_cpu=not torch.cuda.is_available(), seed=seed, bf16=half)
        t = tf.Trainer(net, args, train_dataset=rows['train'], data_collator=tf.DataCollatorWithPadding(tok))
        start = time.perf_counter()
        t.train()
        seconds = round(time.perf_counter() - start, 3)
        said = {o: torch.from_numpy(t.predict(rows[o]).predictions).softmax(1).double().numpy() for o in ('valid', 'test')}
    score = metrics['accuracy']
    return dict(valid=score(task.targets('valid'), said['valid']), value=score(task.targets('test'), said['test']), probs=said['test'].round(4).tolist(), seconds=seconds, arithmetic='bf16' if half else 'fp32')

def trainer_tuned(**args): return trainer(tuned=True, **args)

def tfidf(sample, n, seed, **_):
    "Words and pairs of words, logistic regression, its strength chosen on valid"
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from tl_nbdev.data.metrics import metrics
    task, laps, score = _task(sample, n, seed), Laps(), metrics['accuracy']
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x = {o: (words.fit_transform if o == 'train' else words.transform)(task.part(o).item.map(str)) for o in ('train', 'valid', 'test')}
    fits = [LogisticRegression(C=c, max_iter=2000).fit(x['train'], task.targets('train')) for c in (1, 10, 100)]
    best = max(fits, key=lambda f: score(task.targets('valid'), f.predict_proba(x['valid'])))
    laps('train')
    probs = best.predict_proba(x['test'])
    return dict(valid=score(task.targets('valid'), best.predict_proba(x['valid'])), value=score(task.targets('test'), probs), probs=probs.round(4).tolist(), seconds=laps['train'], arithmetic='fp64')


# the run

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=tuple(data), # texts
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    n:int=1000, # labels, of which a tenth chooses
    seeds:int=5, # of the draw of labels, of head and training
    tuned_seeds:int=3, # of them, for the tuned Trainer
    epochs:int=3, # where the body trains
    bs:int=16, # texts in a batch
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Few labels of texts: accuracy beside the Trainer, with paired intervals"
    import numpy as np
    from tl_nbdev.data.metrics import Result, mean_interval, paired_interval
    records, runs, table, reached, ratio = Records('labels', again, out), [], [], [], {}
    for s in samples:
        made = {p: [] for p in peers}
        for seed in range(seeds):
            for p in peers if seed < tuned_seeds else [o for o in peers if o != 'trainer_tuned']:
                made[p].append(records.measure(p, ours=p in ('ours', 'frozen'), anywhere=True, sample=s, n=n, seed=seed, epochs=epochs, bs=bs))
        runs += sum(made.values(), [])
        got = {p: [o['found'] for o in v] for p, v in made.items()}
        task = _task(s, n, 0)
        results = {p: [Result('accuracy', task.targets('test'), answers(o, len(task.vocab)), task.vocab) for o in v] for p, v in got.items()}
        seconds = {p: median(records.seconds(v)) for p, v in made.items()}
        for p, v in got.items():
            low, high = mean_interval(results[p])
            row = {'data': s, 'what': p, 'test accuracy % [95 %]': f'{100*mean(o["value"] for o in v):.1f} [{100*low:.1f}, {100*high:.1f}]', 'seconds': f'{seconds[p]:.1f}', 'arithmetic': v[0]['arithmetic']}
            if p != 'trainer' and 'trainer' in peers:
                same = len(v) # seeds that both have
                a, b = paired_interval(results[p], results['trainer'][:same])
                apart = 100*(mean(o['value'] for o in v) - mean(o['value'] for o in got['trainer'][:same]))
                row['− Trainer, points'] = f'{apart:+.1f} [{100*a:+.1f}, {100*b:+.1f}]' + (', no difference shown' if a <= 0 <= b else '')
                if p in ('ours', 'frozen'):
                    if p == 'ours':
                        reached.append(goal(f'{s}: ours − Trainer, points, {same} seeds', apart, least=0, show='{:+.1f}', ends=[100*a, 100*b]))
                        if tuned := got.get('trainer_tuned'):
                            low, high = paired_interval(results[p][:len(tuned)], results['trainer_tuned'])
                            gain = 100*(mean(o['value'] for o in v[:len(tuned)]) - mean(o['value'] for o in tuned))
                            reached.append(goal(f'{s}: ours − tuned Trainer, points, {len(tuned)} seeds', gain, least=0, show='{:+.1f}', ends=[100*low, 100*high]))
                    if together := pairs(made[p], made['trainer']):
                        ratio[f'{s} trainer / {p}'] = median(b['seconds']/a['seconds'] for a, b in together)
                        reached.append(goal(f'{s}: {epochs} epochs of the Trainer / {"whole job with frozen features" if p == "frozen" else "of ours"}', ratio[f'{s} trainer / {p}'], least=20 if p == 'frozen' else None))
            table.append(row)
        best = max(results, key=lambda p: mean(o['valid'] for o in got[p]))
        table[-1]['note'] = f'chosen on valid: {best}'
    records.write(ratio=ratio, table=table, reached=reached, measurements=runs, arguments=dict(samples=samples, peers=peers, n=n, seeds=seeds, tuned_seeds=tuned_seeds, epochs=epochs, bs=bs),
                  remarks=[f'MiniLM, {n:,} labels drawn anew for each seed (a tenth of them chooses), {epochs} epochs, {bs} texts in a batch, at most {size} tokens; at most 1,000 texts to test, the same for all. Differences are paired by item and seed.',
                           'trainer: its defaults with rate 2e-5 and warm-up 0.1; tuned: rate 1e-4, and bf16 where products in it are faster, ' + str(tuned_seeds) + ' seeds. tfidf: words and pairs of words, logistic regression, C of 1, 10, 100 chosen on valid. Seconds are of training; of `frozen`, of the whole job, with an empty cache, evaluation left out; importing libraries is in nobody\'s time. Both take the arithmetic that is fastest on the machine; the column says which.'])
