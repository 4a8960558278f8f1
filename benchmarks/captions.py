"Captions of pictures that nobody has seen, found among a hundred: what each choice of towers and projections adds; and heads that begin with the names of classes"
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal, interval

large = 'tf_efficientnet_lite2+all-mpnet-base-v2'
both = 'tf_efficientnet_lite0&tf_efficientnet_lite2+all-mpnet-base-v2'
ways = {
    'usual: lite0, MiniLM': {},
    'without the classes that the network of images knows': dict(known=False),
    'without dropout': dict(dropout=0.),
    'a hidden layer of 512': dict(hidden=512),
    'temperature .07': dict(temperature=.07),
    'twice as wide, 512': dict(dim=512),
    'four views of each picture': dict(views=4),
    'images of random weights': dict(random=True),
    'lite2, MiniLM': dict(model='tf_efficientnet_lite2+all-MiniLM-L6-v2'),
    'lite0, MPNet': dict(model='tf_efficientnet_lite0+all-mpnet-base-v2'),
    'lite2, MPNet': dict(model=large),
    'lite0 beside lite2, MPNet': dict(model=both),
    'lite0 beside lite2, MPNet, 512 wide': dict(model=both, dim=512),
    'the same, images of random weights': dict(model=both, dim=512, random=True),
    'lite0 beside lite2, MPNet, 512 wide, 165 drawings too': dict(model=both, dim=512, data='stamps-drawn'),
    'the same with drawings, images of random weights': dict(model=both, dim=512, data='stamps-drawn', random=True),
    'then texts\' network trains (LiT)': dict(then='lit'),
    'then low ranks train in both (LoRA)': dict(then='lora:8'),
    'then both train (FLYP)': dict(then='full'),
    'then both train, and the best between (FLYP, WiSE)': dict(then='full+wise')}
first_seed = 30 # of splits on which nothing was chosen
usual = 'tf_efficientnet_lite0+all-MiniLM-L6-v2'
kinds = {'animals/mammals': 'mammal', 'animals/birds': 'bird', 'animals/insects': 'insect', 'animals/fish': 'fish', 'food/fruit': 'fruit',
         'food/vegetables': 'vegetable', 'plants/flowers': 'flower', 'town/houses': 'house'}


# how far up the right one stands, among a hundred

def among(above, wrong, k, others=99):
    "The chance that a right one with so many of the wrong ones above it is among the first k of a hundred, the others drawn at random"
    import numpy as np
    from scipy.stats import hypergeom
    return float(hypergeom.cdf(k - 1, wrong, above, np.minimum(others, wrong)).mean())

def _numbers(learn, part):
    "Recall among a hundred, pictures asking for captions, and captions for pictures"
    import numpy as np
    from tl_nbdev.networks.heads import head_outputs
    from tl_nbdev.pairs.answer import halves, unit_vectors
    from tl_nbdev.training.phases import part_features
    seen, read = halves(unit_vectors(head_outputs(learn.model.head, part_features(learn, part)).detach()))
    names = learn.task.targets(part)
    wrong = ~((names[:, None, 0] == names[None, :, 0]) | (names[:, None, 1] == names[None, :, 1]))
    found = dict(MRR=learn.evaluate(part).value, n=len(names))
    for way, alike in dict(captions=seen@read.T, pictures=read@seen.T).items():
        above = ((alike > np.diag(alike)[:, None]) & wrong).sum(1)
        found |= {f'{way}@{k}': among(above, wrong.sum(1), k) for k in (1, 5, 10)}
    return found


# jobs, each in a process of its own

def found_captions(seed, model=usual, data='stamps', views=1, random=False, then=None, epochs=2, limit=None, **how):
    "Projections between frozen towers, of one split, and what more of them trains then"
    from tl_nbdev.multimodal.side_by_side import images_called
    from tl_nbdev.multimodal.start import join_towers
    from tl_nbdev.multimodal.task import ImageTextTask
    from tl_nbdev.strategies.strategy import FeatureExtraction
    from tl_nbdev.training.learner import transfer_learner, watched
    task, (image, text) = ImageTextTask.from_sample(data, seed=seed, limit=limit), model.split('+')
    p = join_towers(images_called(image, 'random' if random else None), text, **how)
    learn = transfer_learner(task, p, seed=seed, augment='flip' if views > 1 else 'none')
    before = _numbers(learn, 'test')
    with watched(learn):
        learn.transfer(FeatureExtraction(views=views))
        if then: learn.transfer(then, epochs)
    return dict(before=before, valid=_numbers(learn, 'valid'), test=_numbers(learn, 'test'), seconds=sum(each['seconds'] for each in learn.transfers))

def named_heads(repeats, labels=(1, 5, 10), limit=None):
    "Towers that learned from captions of other kinds of things tell eight kinds apart by their names, and from few labels"
    import json
    from pathlib import Path
    import pandas as pd
    from tl_nbdev.base.samples import sample
    from tl_nbdev.multimodal.class_names import class_names, zero_shot
    from tl_nbdev.multimodal.task import ImageTextTask
    from tl_nbdev.training.learner import transfer_learner, watched
    from tl_nbdev.vision.images import ImageTask
    folder = sample('stamps')
    rows = pd.DataFrame(map(json.loads, (folder/'metadata.jsonl').read_text('utf-8').splitlines()))
    rows['file'] = [folder/name for name in rows.file_name]
    captions = rows[~rows.kind.isin(kinds)][:limit]
    pairs = ImageTextTask.from_df(captions[['file', 'text', 'group']], 'file', 'text', group='group', name='other stamps')
    found = []
    for seed in range(10, 10 + repeats): # how sure class names begin was chosen with the first ones
        learn = transfer_learner(pairs, usual, seed=seed)
        things = ImageTask.from_df(rows[rows.kind.isin(kinds)].assign(label=lambda df: df.kind.map(kinds))[['file', 'label', 'group']], group='group', valid=.1, test=.5, seed=seed, name='eight kinds')
        untrained = zero_shot(things, learn).value
        with watched(learn): learn.transfer('feature')
        here, start = dict(untrained=untrained, zero=zero_shot(things, learn).value), class_names(learn)
        for n in labels:
            few = things.fewer(n, seed)
            for way, (model, head) in {'names': (start, 'class names'), 'linear': ('tf_efficientnet_lite0', 'linear')}.items():
                other = transfer_learner(few, model, head=head, seed=seed)
                with watched(other): other.transfer('feature')
                here[f'{way} {n}'] = other.evaluate().value
        found.append(here)
    return dict(seeds=found)


quick = dict(chosen=['usual: lite0, MiniLM'], repeats=1, seeds=1, limit=120)

@call_parse
def bench(
    chosen:Annotated[str, dict(nargs='+', choices=[*ways])]=tuple(ways), # what is measured
    repeats:int=3, # splits, from `first_seed` on
    seeds:int=5, # of heads with class names, none with 0
    limit:int=None, # pairs in all
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Held-out captions among a hundred, and class names as heads"
    records, runs, got = Records('captions', again, out, earlier=True), [], {}
    for way in chosen:
        mine = [records.measure('found_captions', seed=first_seed + i, limit=limit, **ways[way]) for i in range(repeats)]
        runs += mine
        got[way] = [each['found'] for each in mine]
    def of(way, part, number): return [split[part][number] for split in got[way]]
    best = max((way for way in got if 'random' not in way and 'drawings' not in way), key=lambda way: mean(of(way, 'valid', 'MRR')))
    all_of = next((way for way in got if way.endswith('165 drawings too')), None)
    table = [dict(way=way, **{'valid: MRR': f'{mean(of(way, "valid", "MRR")):.3f}', **{f'captions@{k}': f'{mean(of(way, "test", f"captions@{k}")):.3f}' for k in (1, 5, 10)},
                              'pictures@1': f'{mean(of(way, "test", "pictures@1")):.3f}', 'before training: captions@1': f'{mean(of(way, "before", "captions@1")):.3f}',
                              'seconds': f'{mean(split["seconds"] for split in got[way]):.1f}'}) for way in got]
    asked = {1: .35, 5: None, 10: .75}
    judged = {f'{best} (chosen on valid)': best, **({f'{all_of} (950 in all)': all_of} if all_of else {})}
    reached = [goal(f'{said}: recall@{k} among 100', mean(v), least=least, show='{:.3f}', ends=interval(v) if len(v) > 1 else None)
               for said, way in judged.items() for k, least in asked.items() for v in [of(way, 'test', f'captions@{k}')]]
    first = next(iter(got))
    for way in list(got)[1:]:
        apart = [a - b for a, b in zip(of(way, 'test', 'captions@1'), of(first, 'test', 'captions@1'))]
        reached.append(goal(f'{way} − {first}: recall@1', mean(apart), show='{:+.3f}', ends=interval(apart) if len(apart) > 1 else None, than=0))
    if seeds:
        runs.append(records.measure('named_heads', repeats=seeds, limit=limit))
        heads = runs[-1]['found']['seeds']
        value = lambda name: [each[name] for each in heads]
        table += [dict(way=f'eight kinds of stamps: {name}', **{'valid: MRR': '', 'captions@1': f'{mean(value(name)):.3f} (accuracy)'}) for name in heads[0]]
        for n in (1, 5, 10):
            apart = [a - b for a, b in zip(value(f'names {n}'), value(f'linear {n}'))]
            reached.append(goal(f'{n} labels a class: accuracy, class names − ordinary head', mean(apart), show='{:+.3f}', ends=interval(apart) if len(apart) > 1 else None, than=0))
    records.write(reached, table, [
        'Tux Paint\'s stamps with their English captions; near copies, pictures under one caption and pictures of one name are never in two parts. A part of some 160, of which 99 wrong ones are drawn for each query, in expectation; a picture that shares the caption counts as neither.',
        'Frozen towers, projections trained by `feature` at its usual settings; what trains then does so for 2 epochs, from the usual ones. What is best was chosen by MRR on valid, mean of the splits.',
        f'The usual settings were found earlier, with the test parts of splits 0 to 2 in view; what stands beside them was chosen on the valid parts of splits 20 to 23. These are splits {first_seed} to {first_seed + repeats - 1} of the same pictures, which nobody had looked at before this run.',
        'Where the 165 drawings are among the pictures, parts and their queries are others, so differences to the usual way are not of the same queries.',
        'Heads: towers learned from the captions of other kinds of stamps; test is half of the eight kinds, a split and a draw of labels for each seed.'],
        dict(chosen=chosen, repeats=repeats, seeds=seeds, limit=limit), runs, recall={way: mean(of(way, 'test', 'captions@1')) for way in got})
