"Photos that were saved again: how many are found among others, how many others are taken for one, and how long it takes"
import time
from io import BytesIO
from typing import Annotated

import numpy as np
from fastcore.script import call_parse
from .common import Records, goal

sets = ('elpv', 'mnist')
quick = dict(data=['mnist'], photos=60, copies=10)

def _jpeg(im, quality):
    from PIL import Image
    data = BytesIO()
    im.save(data, 'JPEG', quality=quality)
    return Image.open(data).convert('RGB')

def _scaled(im, x, y): return im.resize((max(8, round(x*im.width)), max(8, round(y*im.height))))

def _cut(im, share, rng):
    w, h = (round(share*o) for o in im.size)
    x, y = rng.integers(im.width - w + 1), rng.integers(im.height - h + 1)
    return im.crop((x, y, x + w, y + h))

saved_again = {
    'JPEG 90': lambda im, rng: _jpeg(im, 90), 'JPEG 50': lambda im, rng: _jpeg(im, 50), 'JPEG 20': lambda im, rng: _jpeg(im, 20),
    'twice as large': lambda im, rng: _scaled(im, 2, 2), 'three quarters': lambda im, rng: _scaled(im, .75, .75), 'half as large': lambda im, rng: _scaled(im, .5, .5), 'squeezed': lambda im, rng: _scaled(im, .77, .71)}
changed = {'brighter by 20 %': lambda im, rng: im.point(lambda v: min(255, 1.2*v)), 'gamma 0.7': lambda im, rng: im.point(lambda v: int(255*(v/255)**.7))}
cropped = {f'cropped to {100*o:.0f} %': lambda im, rng, o=o: _cut(im, o, rng) for o in (.95, .9, .8)}

def find(sample, way, photos, copies):
    "Copies of one kind among a sample's photos"
    from PIL import Image
    import tl_nbdev.base.samples as samples
    from tl_nbdev.vision.copies import crops, whole_copies
    rng = np.random.default_rng(0)
    files = sorted(samples.sample(sample).rglob('*.png'))
    images = [Image.open(files[i]).convert('RGB') for i in rng.permutation(len(files))[:photos]]
    make = {**saved_again, **changed, **cropped}[way]
    start = time.perf_counter()
    small = lambda im: np.asarray(im.convert('L').resize((64, 64), Image.BILINEAR, reducing_gap=3.), np.float32)
    thumbs = np.stack([small(o) for o in [*images, *(make(im, rng) for im in images[:copies])]])
    made = time.perf_counter()
    whole = whole_copies(thumbs)
    found = whole | {(min(o), max(o)) for o in crops(thumbs)}
    wanted, n = {(i, photos + i) for i in range(copies)}, len(thumbs)
    return dict(found=len(found & wanted), copies=copies, others=len(found - wanted), whole_others=len(whole - wanted), pairs=n*(n - 1)//2,
                ms=1e3*(time.perf_counter() - start)/n, ms_thumbnails=1e3*(made - start)/n)

@call_parse
def bench(
    data:Annotated[str, dict(nargs='+')]=sets, # samples
    photos:int=1000, # of each
    copies:int=100, # of them, saved again
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Copies among photos of one kind, which are as hard to tell apart as photos get"
    records, taken, table, reached = Records('copies', again, out), [], [], []
    for name in data:
        got = {}
        for kind, ways in dict(saved=saved_again, changed=changed, cropped=cropped).items():
            for way in ways:
                taken.append(records.measure('find', sample=name, way=way, photos=photos, copies=copies))
                got.setdefault(kind, []).append(o := taken[-1]['found'])
                table.append({'data': name, 'copy': way, 'found %': f'{100*o["found"]/o["copies"]:.0f}', 'others taken for copies, in 1,000 pairs': f'{1e3*o["others"]/o["pairs"]:.3f}', 'ms a photo': f'{o["ms"]:.2f}'})
        share = lambda kind: 100*sum(o['found'] for o in got[kind])/sum(o['copies'] for o in got[kind])
        every = [o for kind in got.values() for o in kind]
        reached += [goal(f'{name}: re-encoded and resized copies that are found, %', share('saved'), least=90),
                    goal(f'{name}: brightened copies that are found, %', share('changed')),
                    goal(f'{name}: cropped copies that are found, %', share('cropped'), least=50),
                    goal(f'{name}: others taken for copies, in 1,000 pairs', 1e3*sum(o['others'] for o in every)/sum(o['pairs'] for o in every), most=1, show='{:.3f}'),
                    goal(f'{name}: milliseconds a photo, median', float(np.median([o['ms'] for o in every])), most=2, show='{:.2f}')]
    records.write(ratio={}, reached=reached, table=table, arguments=dict(data=data, photos=photos, copies=copies), measurements=taken,
                  remarks=[f'{photos:,} photos of each sample, {copies} of them once more. Photos of solar cells resemble each other more than most photos do, and some cells were photographed twice, which counts as others here.'])
