"Few images: batches that fit the data and BatchNorm at rest, beside batches of 64 whose last is dropped; five sets, three sizes, five seeds"
from itertools import product
from statistics import mean
from typing import Annotated

import numpy as np, pandas as pd
from fastcore.script import call_parse
from .common import Laps, Records, goal, interval
from .features import model

sets = ('textures', 'elpv', 'kinds', 'digits', 'mnist')
held, looked_at = 300, 20 # items of test and of valid
ways = {'before': 'batches of 64, the last dropped; BatchNorm trains', 'small': 'batches that fit; BatchNorm trains', 'now': 'the default: batches that fit, BatchNorm at rest'}
arms = [*product(('full', 'last:2'), ways), ('feature', 'before'), ('feature', 'small')] # of a head alone, 64 rows at once are the default
quick = dict(data=['textures'], sizes=['4'], seeds=2, epochs=1)


# the data

def texture(kind, number, size=64):
    "A grey picture of one of five kinds of waves, in noise"
    from PIL import Image
    rng = np.random.default_rng([number, kind])
    y, x = np.mgrid[:size, :size]
    phase, f = rng.uniform(0, 2*np.pi), rng.uniform(.35, .5)
    rings, check = np.cos(f*.5*np.hypot(x - size/2, y - size/2) + phase), np.sign(np.sin(f*y + phase)*np.sin(f*x + phase))
    wave = [np.sin(f*y + phase), check, rings, np.sin(f*x + phase), check*rings][kind]
    return Image.fromarray((128 + 60*wave + rng.normal(0, 70, wave.shape)).clip(0, 255).astype(np.uint8))

def _drawn(name):
    "Pictures that are made here, as (picture, label)"
    from PIL import Image
    if name == 'textures': return [(texture(k, i), 'abcde'[k]) for k in range(5) for i in range(200)]
    from sklearn.datasets import load_digits
    data = load_digits()
    return [(Image.fromarray((a*255/16).astype(np.uint8)).resize((32, 32)), str(y)) for a, y in zip(data.images, data.target)]

def _frame(name):
    "Items and labels"
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.base.settings import settings
    if name not in ('textures', 'digits'):
        sample, column = ('elpv', dict(label='type')) if name == 'kinds' else (name, {})
        return ImageTask.from_sample(sample, **column).df[['item', 'label']].reset_index(drop=True)
    folder = settings().cache/'benchmark'/name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (picture, label) in enumerate(_drawn(name)):
        file = folder/f'{i}.png'
        if not file.exists(): picture.save(file)
        rows.append((file, label))
    return pd.DataFrame(rows, columns=['item', 'label'])

def few(name, size, seed):
    "A task with `size` items of each class to learn from; test is the same for every seed"
    from tl_nbdev.vision.images import ImageTask
    df = _frame(name)
    test = df.groupby('label').sample(held//df.label.nunique(), random_state=0)
    learn = df.drop(test.index)
    train = learn.groupby('label').sample(size, random_state=seed)
    valid = learn.drop(train.index).sample(looked_at, random_state=seed)
    rows = pd.concat([train.assign(part='train'), valid.assign(part='valid'), test.assign(part='test')])
    return ImageTask.from_df(rows, 'item', 'label', part='part', name=name)


# the ways

def _dropping():
    "The loader that leaves out what doesn't fill a batch, as fastai's own does in training"
    from fastai.data.core import TfmdDL
    from tl_nbdev.data.tasks import Loader
    class Dropping(Loader):
        def __len__(self): return max(1, self.n//self.bs)
        def sample(self):
            ids = list(TfmdDL.sample(self))
            return [ids[i:i + self.bs] for i in range(0, len(ids) - self.bs + 1, self.bs)]
    return Dropping

def _run(task, how, way, seed, epochs, px):
    from tl_nbdev.training.learner import transfer_learner
    n = task.n('train')
    old = way == 'before'
    learn = transfer_learner(task, model, seed=seed, size=px, bs=min(64, n) if old else task.batch_size(), train_bn=None if way == 'now' else False)
    if old: learn.dls.train.__class__ = _dropping()
    steps = len(learn.dls.train)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs)
    laps('train')
    return dict(how=how, way=way, value=learn.evaluate().value, seconds=laps['train'], batch=learn.dls.train.bs, steps=steps, items=n)

def runs(data, size, seed, epochs, px):
    "Every strategy and way on one draw"
    task = few(data, size, seed)
    return dict(runs=[_run(task, how, way, seed, epochs if how != 'feature' else None, px) for how, way in arms])


# the record

def _points(a, b):
    "The mean difference in points, its interval, and what that says"
    d = [100*(x - y) for x, y in zip(a, b)]
    low, high = interval(d) or (d[0], d[0])
    return dict(mean=mean(d), low=low, high=high, said='better' if low > 0 else 'worse' if high < 0 else "can't tell")

def _show(o): return f'{o["mean"]:+.1f} [{o["low"]:+.1f}, {o["high"]:+.1f}] {o["said"]}'

@call_parse
def bench(
    data:Annotated[str, dict(nargs='+')]=sets, # sets
    sizes:Annotated[str, dict(nargs='+')]=('8', '24', '70'), # items of a class
    seeds:int=5, # draws, heads and trainings
    epochs:int=5, # where the body trains
    px:int=64, # pixels
    again:bool=False, # measure anew what is there already
    earlier:bool=False, # keep what was measured with earlier code? Each measurement says with which
    out:str=None # folder of the records; default benchmarks/results
):
    "What the defaults for few images give, and what each half of them does"
    records, taken, table, said = Records('fewimages', again, out, earlier), [], [], []
    for name, size in product(data, map(int, sizes)):
        found = [records.measure('runs', repeat=seed + 1, anywhere=True, data=name, size=size, seed=seed, epochs=epochs, px=px) for seed in range(seeds)]
        taken += found
        at = {arm: [next(o for o in f['found']['runs'] if (o['how'], o['way']) == arm) for f in found] for arm in arms}
        value = {arm: [o['value'] for o in v] for arm, v in at.items()}
        for how in ('full', 'last:2', 'feature'):
            new = 'small' if how == 'feature' else 'now'
            gain = _points(value[how, new], value[how, 'before'])
            said.append((how, gain))
            row = {'data': name, 'a class': size, 'strategy': how, **{way: f'{100*mean(value[how, way]):.1f}' if (how, way) in value else '' for way in ways}}
            row |= {f'{new} − before': _show(gain)}
            if how != 'feature':
                row['small − before'] = _show(_points(value[how, 'small'], value[how, 'before']))
                row['now − small'] = _show(_points(value[how, 'now'], value[how, 'small']))
                row |= {f'{how} − frozen, {way}': _show(_points(value[how, way], value['feature', 'before'])) for way in ('before', 'now')}
                row = {k.replace(f'{how} − frozen', 'training it − frozen'): v for k, v in row.items()}
            row |= {'batch': at[how, new][0]['batch'], 'steps an epoch': f'{at[how, "before"][0]["steps"]} → {at[how, new][0]["steps"]}', 'seconds': ' → '.join(f'{np.median([o["seconds"] for o in at[how, w]]):.1f}' for w in ('before', new))}
            table.append(row)
    reached = []
    for how in ('full', 'last:2', 'feature'):
        of, new = [g for h, g in said if h == how], 'small' if how == 'feature' else 'now'
        wanted = {} if how == 'feature' else dict(least=0)
        reached.append(goal(f'{how}: {new} − before, points, mean of {len(of)} sets and sizes', mean(g['mean'] for g in of), **wanted, show='{:+.1f}', ends=interval([g['mean'] for g in of]), than=0))
        reached.append(goal(f'{how}: sets and sizes where {new} is better', sum(g['said'] == 'better' for g in of), show='{}'))
        reached.append(goal(f'{how}: sets and sizes where {new} is worse', sum(g['said'] == 'worse' for g in of), **({} if how == 'feature' else dict(most=0)), show='{}'))
    records.write(ratio={}, reached=reached, table=table, arguments=dict(data=data, sizes=sizes, seeds=seeds, epochs=epochs, px=px), measurements=taken,
                  remarks=[f'{model}, {px} pixels, {epochs} epochs where the body trains, {seeds} draws of items, head and training on one test of {held} items ({held//10} of each digit); 95 % intervals of paired differences over draws (Student\'s t).',
                           *(f'{k}: {v}.' for k, v in ways.items())])
