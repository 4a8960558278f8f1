"Reuters R8 and 20 Newsgroups, MiniLM: an epoch over 2,000 texts beside transformers' Trainer"
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, half_is_faster

everyone = ('ours', 'padded', 'buckets', 'textbook', 'trainer_default', 'trainer_tuned')
quick = dict(samples=['r8'], n=60, repeats=1, square=256)
size = 256 # tokens

def _task(sample, n):
    from tl_nbdev.text.texts import TextTask
    task = TextTask.from_sample(sample)
    df = task.df
    kept = df[df.part == 'train'].sample(n, random_state=0), df[df.part == 'valid'].iloc[:100], df[df.part == 'test'].iloc[:1000]
    import pandas as pd
    return TextTask.from_df(pd.concat(kept).reset_index(drop=True), 'item', part='part', name=sample)

def _work(task, net, tokens):
    "Floating-point operations of one epoch in matrix products: six for each parameter that multiplies and each token, and attention"
    linear = sum(p.numel() for n, p in net.named_parameters() if p.dim() == 2 and 'embed' not in n)
    lengths = [len(o[0]) for o in tokens(task.part('train').item.to_list())]
    width, layers = net.body.net.config.hidden_size, net.body.net.config.num_hidden_layers
    return sum(6*linear*n + 12*layers*width*n*n for n in lengths)


def matrix_peak(size=2048):
    "The most floating-point operations a second that matrix products of this machine reach, in each arithmetic: the best of twenty, or of what fits into ten seconds"
    import time
    import torch
    from tl_nbdev.base.settings import device
    best, d = {}, device()
    for name, dtype in dict(bf16=torch.bfloat16, fp32=torch.float32).items():
        a, b = (torch.randn(size, size).to(d, dtype) for _ in range(2))
        took = []
        while len(took) < 20 and sum(took) < 10:
            start = time.perf_counter()
            a@b
            if d.type == 'cuda': torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        best[name] = 2*size**3/min(took)
    return best


# jobs, each in a process of its own: one epoch; making loaders and learner is in nobody's time

def ours(sample, n, seed, bs, padded=False, buckets=0):
    "Everything trains, at the rates that are usual here; with a validation of 100 texts. Tokens are packed; or padded, in random order, or sorted by length within so many batches"
    from tl_nbdev.training.learner import transfer_learner
    task = _task(sample, n)
    learn = transfer_learner(task, size=size, bs=bs, seed=seed)
    if padded: learn.model.body.net.set_attn_implementation(learn.model.body._usual); learn.model.body.offset = None
    if buckets:
        length, rng = [len(o[0]) for o in learn.frozen_now.tokens(task.part('train').item.to_list())], learn.dls.train.rng
        def order(ids):
            ids = rng.sample(list(ids), len(ids))
            ids = [i for at in range(0, len(ids), bs*buckets) for i in sorted(ids[at:at + bs*buckets], key=lambda i: length[i])]
            some = [ids[at:at + bs] for at in range(0, len(ids), bs)]
            return [i for o in rng.sample(some, len(some)) for i in o]
        learn.dls.train.shuffle_fn = order
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer('full', 1)
    laps('train')
    return dict(accuracy=learn.evaluate().value, seconds=laps['train'], work=_work(task, learn.model, learn.frozen_now.tokens), arithmetic=learn.mode.precision)

def padded(**args): return ours(padded=True, **args)
def buckets(**args): return ours(padded=True, buckets=50, **args)

def textbook(sample, n, seed, bs):
    "The Trainer's own recipe, its head and its rate, through this package"
    from tl_nbdev.training.learner import textbook as recipe
    task, laps = _task(sample, n), Laps()
    learn = recipe(task, size=size, bs=bs, epochs=1, seed=seed)
    laps('make and train')
    return dict(accuracy=learn.evaluate().value, seconds=learn.transfers[-1]['seconds'], arithmetic=learn.mode.precision)

def trainer(sample, n, seed, bs, tuned=False):
    "transformers' Trainer on the same texts, tokenised before; tuned: bf16 where it is faster, and batches of texts of one length"
    import tempfile, time
    import torch, transformers as tf
    from tl_nbdev.data.metrics import metrics
    from tl_nbdev.base.samples import sample as fetched
    task, folder, half = _task(sample, n), fetched('all-MiniLM-L6-v2'), tuned and half_is_faster()
    tok = tf.AutoTokenizer.from_pretrained(folder)
    net = tf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(task.vocab), dtype=torch.float32)
    rows = {part: [dict(**tok(t, truncation=True, max_length=size), labels=int(y)) for t, y in zip(task.part(part).item, task.targets(part))] for part in ('train', 'test')}
    with tempfile.TemporaryDirectory() as d:
        args = tf.TrainingArguments(d, num_train_epochs=1, learning_rate=2e-5, warmup_steps=.1, per_device_train_batch_size=bs, per_device_eval_batch_size=64, save_strategy='no', report_to='none', disable_tqdm=True,
                                    use_cpu=not torch.cuda.is_available(), seed=seed, **(dict(bf16=half, train_sampling_strategy='group_by_length') if tuned else {}))
        t = tf.Trainer(net, args, train_dataset=rows['train'], data_collator=tf.DataCollatorWithPadding(tok))
        start = time.perf_counter()
        t.train()
        seconds = round(time.perf_counter() - start, 3)
        said = torch.from_numpy(t.predict(rows['test']).predictions)
    return dict(accuracy=metrics['accuracy'](task.targets('test'), said.softmax(1).numpy()), seconds=seconds, arithmetic='bf16' if half else 'fp32')

def trainer_default(**args): return trainer(**args)
def trainer_tuned(**args): return trainer(tuned=True, **args)


# the run

@call_parse
def bench(
    samples:Annotated[str, dict(nargs='+')]=('r8', '20newsgroups'), # data
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    n:int=2000, # texts
    bs:int=16, # texts in a batch
    repeats:int=3, # each with a seed of its own
    once:Annotated[str, dict(nargs='*', choices=everyone)]=('padded', 'buckets', 'textbook'), # those that are measured with the first seed alone
    first:Annotated[str, dict(nargs='*', choices=everyone)]=('padded',), # those that are measured on the first of the samples alone
    square:int=2048, # rows of the matrices whose product tells the machine's peak
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "An epoch of fine-tuning a transformer beside the Trainer"
    records, runs, got = Records('texts', again, out), [], {}
    for seed in range(repeats):
        for s in samples:
            for p in (o for o in peers if (not seed or o not in once) and (s == samples[0] or o not in first)):
                runs.append(records.measure(p, ours=not p.startswith('trainer'), sample=s, n=n, seed=seed, bs=bs))
                got.setdefault((s, p), []).append(runs[-1]['found'])
    peaks = records.measure('matrix_peak', size=square)
    runs.append(peaks)
    peaks = peaks['found']
    seconds = {k: median(o['seconds'] for o in v) for k, v in got.items()}
    ratio = {(s, p): median(b['seconds']/a['seconds'] for a, b in zip(got[s, 'ours'], v)) for (s, p), v in got.items() if p != 'ours' and 'ours' in peers}
    def share(s, p):
        o = got[s, p][0]
        work = got[s, 'ours'][0].get('work') if 'ours' in peers else None
        return f'{100*work/seconds[s, p]/peaks[o["arithmetic"]]:.0f} %' if work and o['arithmetic'] in peaks else ''
    table = [dict(data=s, peer=p, **{'seconds': f'{seconds[s, p]:.0f}', 'its time / ours': f'{ratio[s, p]:.1f}' if (s, p) in ratio else '', 'repeats': len(v), 'test accuracy %': f'{100*mean(o["accuracy"] for o in v):.1f}',
                                     'share of the matrix peak': share(s, p), 'arithmetic': v[0]['arithmetic']}) for (s, p), v in got.items()]
    records.write(ratio={f'{s} {p}': r for (s, p), r in ratio.items()}, median_seconds={f'{s} {p}': r for (s, p), r in seconds.items()}, table=table, measurements=runs,
                  reached=[goal(f'{s}: an epoch of {p} / of ours', r, least=3.5 if p == 'trainer_default' else None) for (s, p), r in ratio.items()],
                  remarks=[f'MiniLM, {n:,} texts of at most {size} tokens, {bs} in a batch, one epoch, in turn; tokenising, loading and evaluating are in no one\'s time. The share counts the arithmetic of the texts alone, not of padding; the peak is that of products of matrices of {square} rows, measured in the same run: ' + ', '.join(f'{k} {v/1e9:.3g} GFLOP/s' for k, v in peaks.items()) + '.',
                           'ours: the rates of FullFineTune, a linear head on the mean of tokens. padded: the same without packing; buckets: padded, and batches of texts of one length, sorted within 50 batches. textbook: the Trainer\'s recipe and head (rate 2e-5, warm-up, linear decay) through this package. trainer_tuned: `train_sampling_strategy="group_by_length"`, and `bf16=True` where products in it are faster.'],
                  arguments=dict(samples=samples, peers=peers, n=n, bs=bs, repeats=repeats, once=once, first=first, square=square))
