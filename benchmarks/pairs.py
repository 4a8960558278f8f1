"Functions of the standard library found by their docstrings, names hidden: frozen towers with projections, and trained ones beside sentence-transformers"
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

everyone = ('frozen', 'ours', 'sbert_default', 'sbert_tuned')
quick = dict(models=['bert-tiny'], n=48, repeats=1, limit=200, size=32, short=32)
size = 160 # tokens of a side
rate = 1e-4 # highest, where towers are trained, unless sentence-transformers' default is measured

def _task(seed, limit=None):
    "Held-out functions, a split of its own for each seed"
    from tl_nbdev.code.search import PairsTask
    return PairsTask.from_sample('python-functions', seed=seed, limit=limit, metric='MRR@200')

def _few(task, n):
    "The same task with fewer pairs to learn from"
    return task.fewer(n, 0)

def _numbers(result):
    "What a result says, and each query's own reciprocal rank among 200"
    from tl_nbdev.pairs.search import reciprocal_of
    each = reciprocal_of(*result.probs[:, 3:].T)
    return dict(mrr_200=result.value, interval=result.interval, n=result.n, each=[round(float(o), 4) for o in each],
                **{name: score(result.targets, result.probs) for name, score in result.answer.scores.items() if name != 'MRR@200'})

def _placed(task, vectors):
    "The result of vectors that another library gave"
    from tl_nbdev.data.metrics import Result
    rows = task.part('test')
    return _numbers(Result('MRR@200', task.targets('test'), vectors, [], 'test', list(map(str, rows.item)), answer=task.answer))


# jobs, each in a process of its own

def frozen(model, repeats, size, limit=None):
    "The same of several splits, one after the other: each is over in seconds"
    return dict(splits=[_frozen(model, seed, size, limit) for seed in range(repeats)])

def _frozen(model, seed, size, limit):
    "Frozen towers as they come, then with projections that are trained on their vectors, which the cache may hold. Then words count, too, as much as valid says. Beside them, words alone"
    import numpy as np
    from tl_nbdev.data.metrics import Result
    from tl_nbdev.pairs.answer import halves, placed, unit_vectors
    from tl_nbdev.pairs.baselines import by_tfidf, search_baselines
    from tl_nbdev.training.learner import transfer_learner, watched
    from tl_nbdev.training.phases import part_features
    from tl_nbdev.networks.heads import head_outputs
    task, laps = _task(seed, limit), Laps()
    learn = transfer_learner(task, model, size=size, seed=seed)
    for part in ('train', 'valid', 'test'): part_features(learn, part)
    laps('features')
    zero = learn.evaluate()
    laps('zero-shot')
    with watched(learn): learn.transfer('feature')
    laps('train')
    trained = learn.evaluate()
    sides = {part: halves(unit_vectors(head_outputs(learn.model.head, part_features(learn, part)).detach())) for part in ('valid', 'test')}
    common = {part: by_tfidf(*map(list, zip(*task.part(part).item))).astype(np.float32) for part in ('valid', 'test')}
    def mixed(part, share):
        alike = sides[part][0]@sides[part][1].T + share*common[part]
        return Result('MRR@200', task.targets(part), placed(lambda rows: alike[rows], task.targets(part)), [], part, answer=task.answer)
    best = max((0., .25, .5, 1.), key=lambda share: mixed('valid', share).value)
    return dict(zero=_numbers(zero), trained=_numbers(trained), with_words=_numbers(mixed('test', best)), share=best, words={name: _numbers(result) for name, result in search_baselines(task).items()}, valid=learn.evaluate('valid').value,
                seconds=laps['train'], laps=dict(laps), arithmetic=learn.mode.precision)

def ours(model, seed, n, bs, size, limit=None):
    "All of a tower trains, and its projections, for one epoch at one rate"
    from tl_nbdev.strategies.strategy import FullFineTune
    from tl_nbdev.training.learner import transfer_learner
    task = _few(_task(seed, limit), n)
    learn = transfer_learner(task, model, size=size, bs=bs, seed=seed)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(FullFineTune(rate), 1)
    laps('train')
    return dict(_numbers(learn.evaluate()), seconds=laps['train'], arithmetic=learn.mode.precision)

def sbert(model, seed, n, bs, size, limit=None, lr=5e-5):
    "sentence-transformers' trainer with MultipleNegativesRankingLoss on the same pairs, in as many steps of as many pairs"
    import tempfile, time
    import numpy as np
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tl_nbdev.base.samples import sample
    task = _few(_task(seed, limit), n)
    first = Transformer(str(sample(model)), max_seq_length=size)
    net = SentenceTransformer(modules=[first, Pooling(first.get_embedding_dimension(), 'mean')], device='cpu')
    one, other = zip(*task.part('train').item)
    data = Dataset.from_dict(dict(anchor=list(one), positive=list(other)))
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(folder, num_train_epochs=1, per_device_train_batch_size=bs, learning_rate=lr, seed=seed, save_strategy='no',
                                                    report_to='none', disable_tqdm=True, **(dict(warmup_steps=.1) if lr != 5e-5 else {}))
        trainer = SentenceTransformerTrainer(model=net, args=args, train_dataset=data, loss=MultipleNegativesRankingLoss(net))
        start = time.perf_counter()
        trainer.train()
        seconds = round(time.perf_counter() - start, 3)
    sides = [net.encode(list(side), batch_size=32, show_progress_bar=False) for side in zip(*task.part('test').item)]
    return dict(_placed(task, np.concatenate(sides, 1)), seconds=seconds, arithmetic='fp32')

def sbert_default(**args): return sbert(**args)
def sbert_tuned(**args): return sbert(lr=rate, **args)


# the run

@call_parse
def bench(
    models:Annotated[str, dict(nargs='+')]=('all-MiniLM-L6-v2', 'all-mpnet-base-v2'), # encoders, the first of which is trained, too
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    n:int=384, # pairs on which towers are trained
    bs:int=32, # pairs in a batch, where they are
    short:int=96, # tokens of a side, where they are
    few:int=2, # of the repeats, where they are
    repeats:int=5, # each with a split and a seed of its own
    once:Annotated[str, dict(nargs='*', choices=everyone)]=('sbert_default',), # those that are measured with the first seed alone
    limit:int=None, # pairs in all
    size:int=size, # tokens of a side
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Search among functions, frozen and trained"
    records, runs, got = Records('pairs', again, out, earlier=True), [], {}
    def measure(job, ours=True, **args):
        runs.append(records.measure(job, ours=ours, limit=limit, **args))
        return runs[-1]['found']
    def keep(found):
        for key, o in found.items(): got.setdefault(key, []).append(o)
    def towers(model):
        for o in measure('frozen', model=model, repeats=repeats, size=size)['splits']:
            if model == models[0]: keep({('words', name): each for name, each in o['words'].items()})
            keep({(model, way): dict(o[way], seconds=o['seconds'] if way == 'trained' else None) for way in ('zero', 'trained', 'with_words')})
    if 'frozen' in peers: towers(models[0])
    for seed in range(min(few, repeats)):
        for p in (o for o in peers if o != 'frozen' and (not seed or o not in once)):
            keep({(models[0], p): measure(p, ours=not p.startswith('sbert'), model=models[0], seed=seed, n=n, bs=bs, size=short)})
    for model in models[1:] if 'frozen' in peers else (): towers(model)
    value = {key: [o['mrr_200'] for o in v] for key, v in got.items()}
    def apart(one, other): return [a - b for a, b in zip(value[one], value[other])]
    said = dict(zero='frozen, as it comes', trained='frozen, projections trained', with_words='the same, and TF-IDF beside it', ours='trained whole, ours', sbert_default='trained whole, sentence-transformers, default rate',
                sbert_tuned='trained whole, sentence-transformers, tuned rate')
    def seconds(v): return f'{median(o["seconds"] for o in v):.1f}' if v[0].get('seconds') else ''
    table = [dict(encoder='none' if model == 'words' else model, way=said.get(way, way), **{'MRR@200': f'{mean(value[model, way]):.3f}', '95 % over seeds': '' if len(v) < 2 else '[{:.3f}, {:.3f}]'.format(*interval(value[model, way])),
                  'MRR': f'{mean(o["MRR"] for o in v):.3f}', 'recall@1': f'{mean(o["recall@1"] for o in v):.3f}', 'recall@10': f'{mean(o["recall@10"] for o in v):.3f}', 'seconds of training': seconds(v), 'seeds': len(v)})
             for (model, way), v in got.items()]
    reached = [goal(f'{model}, {said[way]}: MRR@200', mean(v), least=.8 if way != 'zero' else None, show='{:.3f}', ends=interval(v)) for (model, way), v in value.items() if way in ('zero', 'trained', 'with_words')]
    reached += [goal(f'{model}: what trained projections add', mean(d), show='{:+.3f}', ends=interval(d), than=0) for model in models if (model, 'trained') in value for d in [apart((model, 'trained'), (model, 'zero'))]]
    main = models[0], 'ours'
    rival = models[0], 'sbert_tuned'
    ratio = {}
    if main in got and rival in got:
        ratio['seconds of sentence-transformers, tuned / of ours'] = median(b['seconds']/a['seconds'] for a, b in zip(got[main], got[rival]))
        reached += [goal('trained whole: seconds of sentence-transformers, tuned / of ours', median(ratio.values())),
                    goal('trained whole: MRR@200, ours − sentence-transformers, tuned', mean(apart(main, rival)), show='{:+.3f}', ends=interval(apart(main, rival)), than=0)]
    records.write(reached, table, [
        f'Docstrings ask for functions of the standard library whose names are hidden; held-out functions, a split for each seed, among 200 of the part (MRR@200), or all of it. At most {size} tokens of a side.',
        f'Trained whole: one epoch over {n} pairs in batches of {bs}, in turn; at most {short} tokens of a side; `ours` is FullFineTune({rate:g}), sentence-transformers has its MultipleNegativesRankingLoss and trainer, at its default rate (5e-5) and at {rate:g} with warm-up.',
        'Frozen: the strategy `feature` at its usual settings on all pairs of train. Vectors of towers come from the cache and are in no one\'s seconds. How much TF-IDF counts beside them was chosen on valid.'],
        dict(models=models, peers=peers, n=n, bs=bs, short=short, few=few, repeats=repeats, once=once, limit=limit, size=size), runs, ratio=ratio, mean_mrr_200={' '.join(key): mean(v) for key, v in value.items()})
