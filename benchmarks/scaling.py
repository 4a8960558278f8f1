"Seconds and memory of cached features from 500 to 50,000 images: does time grow in proportion, and does memory stay flat?"
from statistics import median
from typing import Annotated

import numpy as np
from fastcore.script import call_parse
from PIL import Image
from scipy import stats
from tl_nbdev.base.disk import remove
from .common import Meter, Records, fresh_cache, fresh_process, goal, settings

model, size = 'squeezenet1_1', 96
quick = dict(sizes=[100, 200, 400], repeats=1)

def _folder(): return settings().cache/'benchmark-cells'

def cut_cells(
    n # files to write
):
    "Write `n` different JPEG files of 128x128 pixels: ELPV cells, cropped and flipped at random"
    from tl_nbdev.vision.images import image_files
    from tl_nbdev.base.samples import sample
    rng = np.random.default_rng(0)
    files = rng.permutation(image_files(sample('elpv'))[0])
    _folder().mkdir()
    for file, at in zip(files, np.array_split(rng.permutation(n), len(files))): # so that the first files are a fair sample of all
        with Image.open(file) as im: im.load()
        for i in at:
            x, y = rng.integers(im.width - 127), rng.integers(im.height - 127)
            view = im.crop((x, y, x + 128, y + 128))
            if rng.random() < .5: view = view.transpose(Image.FLIP_LEFT_RIGHT)
            view.save(_folder()/f'{i:05}-{file.parent.name}.jpg', quality=90, comment=str(i)) # so that no two files are the same


# jobs, each in a process of its own

def ready():
    "Find this machine's fastest arithmetic once, for all sizes"
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner
    transfer_learner(ImageTask.from_sample('elpv', limit=100), model, size=size)

def grow(n, epochs):
    "Look at `n` images, make their features into an empty cache, and train a head on them"
    import pandas as pd
    from tl_nbdev.vision.features import cached_features
    from tl_nbdev.vision.images import ImageTask, image_files
    from tl_nbdev.training.learner import frozen_body, transfer_learner
    files = image_files(_folder())[0][:n]
    df = pd.DataFrame(dict(file=files, label=[f.stem.split('-')[1] for f in files], part=['valid' if i % 10 == 0 else 'train' for i in range(n)]))
    with fresh_cache():
        with Meter() as scan: task = ImageTask.from_df(df, part='part')
        learn = transfer_learner(task, model, size=size, seed=0)
        with Meter() as start: # the same for all sizes
            frozen = frozen_body(learn)
            frozen(np.zeros((32, size, size, 3), np.uint8))
        with Meter() as features: feats = cached_features(frozen, task.df.item.to_list(), task.df.hash.to_list())
        assert len(set(task.df.hash)) == len(feats) == n
        with Meter() as head, learn.no_bar(), learn.no_logging(): learn.transfer('feature', epochs)
    return dict(n=n, width=feats.dim, arithmetic=f'{learn.mode.precision} {learn.mode.layout}', scan=scan.record(), start=start.record(), features=features.record(), head=head.record())


# the run

def _grown(runs, step):
    "How one step grows: exponent of time, and memory above what was there before"
    n = [o['found']['n'] for o in runs]
    line = stats.linregress(np.log(n), np.log([o['found'][step]['seconds'] for o in runs]))
    above = {k: median(o['found'][step]['anon_peak_mib'] - o['found'][step]['anon_before_mib'] for o in runs if o['found']['n'] == k) for k in sorted(set(n))}
    seconds = {k: median(o['found'][step]['seconds'] for o in runs if o['found']['n'] == k) for k in sorted(set(n))}
    straight = stats.linregress(list(above), list(above.values()))
    return dict(exponent=line.slope, standard_error=line.stderr, median_seconds=seconds, median_mib_above=above, bytes_an_image=straight.slope*2**20)

@call_parse
def bench(
    sizes:Annotated[int, dict(nargs='+')]=(500, 1581, 5000, 15811, 50000), # images; at least three sizes
    repeats:int=3, # of each size
    epochs:int=3, # of the head
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Seconds and memory of cached features as images become more; needs Linux, whose /proc tells the memory"
    records, runs = Records('scaling', again, out), []
    fresh_process('scaling', 'ready')
    remove(_folder(), ['*.jpg'])
    try:
        cut_cells(max(sizes))
        for repeat in range(1, repeats + 1):
            for n in sizes: runs.append(records.measure('grow', repeat, n=n, epochs=epochs))
    finally: remove(_folder(), ['*.jpg'])
    steps = {o: _grown(runs, o) for o in ('scan', 'features', 'head')}
    main, first, last, width = steps['features'], min(sizes), max(sizes), runs[0]['found']['width']
    rss = {n: median(o['process']['rss_peak_mib'] for o in runs if o['found']['n'] == n) for n in sizes}
    table = [dict(images=f'{n:,}', **{f'{o}, {unit}': f'{steps[o][k][n]:.1f}' for o in steps for k, unit in (('median_seconds', 's'), ('median_mib_above', 'MiB'))},
                  **{'whole process, MiB': f'{rss[n]:.0f}'}) for n in sorted(sizes)]
    reached = [goal(f'exponent of time of cached features, {first:,} to {last:,} images (standard error {main["standard_error"]:.3f})', main['exponent'], most=1.05, show='{:.3f}'),
               goal(f'highest memory of the whole process at {last:,} images / at {first:,}', rss[last]/rss[first], most=1.1, show='{:.2f}'),
               goal(f'memory that grows with the images while features are made, bytes an image (an image decoded is {3*size**2:,}, its features {4*width:,})', main['bytes_an_image'], show='{:,.0f}'),
               goal('memory that grows with the images while the head trains, bytes an image', steps['head']['bytes_an_image'], show='{:,.0f}')]
    records.write(ratio=dict(exponent=main['exponent'], images=last/first, seconds={k: v['median_seconds'][last]/v['median_seconds'][first] for k, v in steps.items()}, rss=rss[last]/rss[first]), **steps, median_rss_mib=rss,
                  median_start_seconds=median(o['found']['start']['seconds'] for o in runs), reached=reached, table=table,
                  remarks=[f'{model} at {size} pixels, JPEG files of 128x128; medians of {repeats} runs, a fresh process and an empty cache each; scan looks at the files, head trains {epochs} epochs.',
                           'MiB: highest anonymous memory (RssAnon) above what the process held before the step; what grows with the images is their names, hashes and keys.',
                           f'Making the frozen network ready takes {median(o["found"]["start"]["seconds"] for o in runs):.1f} s once and is not in the times.'],
                  arguments=dict(model=model, size=size, sizes=sizes, repeats=repeats, epochs=epochs), measurements=runs)
