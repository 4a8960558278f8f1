"MNIST and optdigits, both ways, a small network from random weights: source only, each method of alignment, and what each validator chooses without labels of the target"
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

lengths = {'mnist-optdigits': 10, 'optdigits-mnist': 30} # epochs: about 600 steps of 64 images of the source
bare = ('mmd', 'mcc', 'adabn') # methods that see images as they are, too
everyone = ('dann', 'cdan', 'mdd', 'coral', 'mmd', 'jan', 'mcc', 'mmd+mcc', 'pseudo', 'adabn')
quick = dict(ways=['optdigits-mnist'], peers=['mcc', 'adabn'], others=[], seeds=1, epochs=1, limit=300, peer_seeds=1)

def _tasks():
    "5,000 digits of MNIST, and the 1,797 of 8 x 8 pixels that come with scikit-learn, stretched to 28"
    import hashlib
    import numpy as np, pandas as pd
    from PIL import Image
    from sklearn.datasets import load_digits
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.base.disk import whole
    from tl_nbdev.base.settings import settings
    to, d = settings().cache/'optdigits', load_digits()
    if not to.exists():
        with whole(to) as tmp:
            for i, (a, y) in enumerate(zip(d.images, d.target)):
                (tmp/str(y)).mkdir(parents=True, exist_ok=True)
                Image.fromarray((a*255/16).astype(np.uint8)).resize((28, 28), Image.BILINEAR).save(tmp/str(y)/f'{i:04d}.png')
    return dict(mnist=ImageTask.from_sample('mnist'), optdigits=ImageTask.from_folder(to))

def run(way, methods, seed, epochs, limit=None, vary=True):
    "All methods with one seed, over one training on the source: at six epochs accuracy on the target, and what every validator thinks of it"
    import copy
    import torch
    from tl_nbdev.adaptation.adapt import adapt, agreement
    from .peer_net import digits_net
    from tl_nbdev.strategies.strategy import FullFineTune
    from tl_nbdev.vision.zoo import pretrained
    tasks = _tasks()
    source, target = (copy.copy(tasks[o]) for o in way.split('-'))
    target.df = target.df.assign(part='test') # all of it is adapted to, and judged on, as is usual here
    if limit:
        for o in (source, target): o.df = o.df.iloc[::max(1, len(o.df)//limit)].reset_index(drop=True)
    torch.manual_seed(seed)
    net, got, laps = pretrained(digits_net(vary), size=28, mean=(.5,)*3, std=(.5,)*3), {}, Laps()
    for m in methods.split(','):
        got[m] = adapt(source, target, m, net, FullFineTune(lr=2e-3), epochs, seed=seed, looks=6, earlier=next(iter(got.values()), None), size=28, augment='none')
        laps(m)
    say = lambda o: dict(epoch=o.epoch, accuracy=o.accuracy, **o.scores)
    return dict(plain=say(next(iter(got.values())).plain), looks={m: [say(o) for o in a.looks] for m, a in got.items()},
                chosen={m: a.chosen.accuracy for m, a in got.items()}, agreement=agreement({'source only': next(iter(got.values())).plain.unseen, **{m: a.chosen.unseen for m, a in got.items()}}), seconds=dict(laps))

def peer(library, way, method, seed, epochs, limit=None, tuned=False):
    "Another library's method on the same network and data, as many steps, with its defaults and Adam, or with one-cycle and the rate and decay that ours has; its last epoch"
    import json, os, subprocess, tempfile
    from pathlib import Path
    import numpy as np
    from PIL import Image
    tasks, arrays = _tasks(), {}
    for at, name in zip('st', way.split('-')):
        df = tasks[name].df
        if at == 's': df = df[df.part == 'train'] # what ours is trained on
        if limit: df = df.iloc[::max(1, len(df)//limit)]
        pixels = np.stack([np.asarray(Image.open(f).convert('RGB'), np.float32) for f in df.item])
        arrays |= {f'x{at}': ((pixels/255 - .5)/.5).transpose(0, 3, 1, 2), f'y{at}': df.label.astype(int).to_numpy()}
    with tempfile.TemporaryDirectory() as d:
        files = [str(Path(d)/o) for o in ('in.npz', 'out.json')]
        np.savez(files[0], about=json.dumps(dict(method=method, seed=seed, steps=epochs*-(-len(arrays['ys'])//64), tuned=tuned, lr=2e-3 if tuned else 1e-3)), **arrays)
        subprocess.run([os.environ['TL_PEERS'], Path(__file__).with_name(f'peer_{library}.py'), *files], check=True)
        return json.loads(Path(files[1]).read_text())

@call_parse
def bench(
    ways:Annotated[str, dict(nargs='+', choices=list(lengths))]=tuple(lengths), # source and target
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # methods
    others:Annotated[str, dict(nargs='*')]=('coral', 'dann', 'mcc'), # methods of the other libraries, which need TL_PEERS
    libraries:Annotated[str, dict(nargs='+')]=('skada', 'pytorch_adapt'),
    seeds:int=5,
    peer_seeds:int=3, # of them, for the other libraries
    epochs:int=None, # default as many as make about 600 steps
    limit:int=None, # images of each
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Another domain: digits"
    import os
    from itertools import product
    from tl_nbdev.adaptation.adapt import validators
    if others and not os.environ.get('TL_PEERS'): raise SystemExit('the other libraries need an environment of its own: see benchmarks/peers.txt, and name that environment\'s Python in TL_PEERS; or --others with nothing after it')
    records, runs, table, reached, lost = Records('domains', again, out), [], [], [], {}
    say = lambda v: f'{100*mean(v):.1f}' + (f' [{100*interval(v)[0]:.1f}, {100*interval(v)[1]:.1f}]' if len(v) > 1 else '')
    best = lambda o: max(e['accuracy'] for e in o)
    for way, vary in product(ways, (True, False)):
        got, n, some = [], epochs or lengths[way], [m for m in peers if vary or m in bare]
        for s in range(seeds):
            runs.append(records.measure('run', way=way, methods=','.join(some), seed=s, epochs=n, limit=limit, vary=vary))
            got.append(runs[-1]['found'])
        plain, where = [o['plain']['accuracy'] for o in got], {'from, to': way, 'images': 'varied' if vary else 'as they are'}
        table.append({**where, 'method': 'source only', 'last epoch %': say(plain)})
        every = [[o['plain'], *(e for m in some for e in o['looks'][m])] for o in got] # methods and epochs, source only among them
        for m, looks in [*((m, [o['looks'][m] for o in got]) for m in some), ('any, with source only', every)]:
            by = {v: [max(o, key=lambda e: e[v])['accuracy'] for o in looks] for v in validators}
            table.append({**where, 'method': m, **({'last epoch %': say([o[-1]['accuracy'] for o in looks])} if m in some else {}), **{f'by {v} %': say(o) for v, o in by.items()}, 'oracle %': say([best(o) for o in looks])})
            for v, o in by.items(): lost.setdefault((vary, m in some, v), []).extend(100*(best(e) - a) for e, a in zip(looks, o))
        picked = [dict(o['chosen'], **{'source only': o['plain']['accuracy']})[next(iter(o['agreement']))] for o in got]
        table.append({**where, 'method': 'each method by im, one of them by agreement', 'last epoch %': say(picked)})
        for lib, m, tuned in product(libraries, others, (False, True)) if vary else ():
            theirs = []
            for i in range(peer_seeds):
                runs.append(records.measure('peer', ours=False, library=lib, way=way, method=m, seed=i, epochs=n, limit=limit, tuned=tuned))
                theirs.append(runs[-1]['found']['accuracy'])
            name = f'{lib} {m}' + (', tuned' if tuned else '')
            table.append({**where, 'method': name, 'last epoch %': say(theirs)})
            if m in peers:
                gaps = [100*(o['looks'][m][-1]['accuracy'] - b) for o, b in zip(got, theirs)]
                reached.append(goal(f'{way}, {m}, last epoch: ours − {name}, points, {len(gaps)} seeds', mean(gaps), least=0, show='{:+.1f}', ends=interval(gaps)))
        about, gains = f'{way}, images {where["images"]}', [100*(a - b) for a, b in zip(picked, plain)]
        reached += [goal(f'{about}: epoch chosen by im, method by agreement, without labels of the target, %', 100*mean(picked), least=65 if vary else None, ends=interval([100*o for o in picked])),
                    goal(f'{about}: that − source only, points, {len(gains)} seeds', mean(gains), least=0 if vary else None, show='{:+.1f}', ends=interval(gains), than=0)]
    for vary, one in product((True, False), (True, False)):
        table.append({'from, to': 'both ways', 'images': 'varied' if vary else 'as they are', 'method': f'points lost to the oracle, mean: {"an epoch of a method" if one else "a method and its epoch"}',
                      **{f'by {v} %': f'{mean(lost[vary, one, v]):.1f}' for v in validators}})
    records.write(ratio={}, table=table, reached=reached, measurements=runs, arguments=dict(ways=ways, peers=peers, others=others, libraries=libraries, seeds=seeds, peer_seeds=peer_seeds, epochs=epochs, limit=limit),
                  remarks=[f'The small network of Ganin et al. (2016) with BatchNorm, from random weights, about 600 steps of 64 images of the source, rate 2e-3, one-cycle, {seeds} seeds; 28 pixels. Varied: in training each image is turned, moved and made smaller or larger by chance, in the network, so for everybody alike; the digits of one collection fill the frame, those of the other don\'t. All of the target is adapted to, without its labels, and judged on. The validators look at six epochs. Intervals (95 %, t) over seeds.',
                           f'skada and pytorch-adapt: their own methods (skada: and trainer) on the same network, images and split, as many steps of as large batches, {peer_seeds} seeds, weight of the method 1; Adam at 1e-3, or tuned: AdamW, one-cycle to 2e-3, as ours. They choose no epoch, so the last ones are compared.'])
