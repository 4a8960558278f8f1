"Images a second from files on disk through a frozen network, beside the same network on tensors that lie ready in memory"
import time
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal

quick = dict(models=['squeezenet1_1'], images=64, repeats=2)

def share(model, images, repeats):
    "Images a second, the three ways in turn"
    import torch
    from tl_nbdev.vision.features import Frozen
    from tl_nbdev.vision.images import image_files
    from tl_nbdev.vision.pixels import batches
    from tl_nbdev.base.samples import sample
    from tl_nbdev.vision.zoo import body, pretrained
    p = pretrained(model)
    frozen, files = Frozen(body(p), p), image_files(sample('elpv'))[0][:images]
    arrays = [a for _, a in batches(files, frozen.prep)]
    tensors = [frozen.ready(a) for a in arrays]
    @torch.no_grad()
    def alone(x):
        with frozen.mode.autocast(frozen.device): return frozen.net(x).float().cpu()
    ways = dict(files=lambda: [f for _, f in frozen.passes(files)], arrays=lambda: [frozen(a) for a in arrays], tensors=lambda: [alone(x) for x in tensors])
    same = [torch.cat(w()) for w in ways.values()] # this also warms up: files come from the page cache from now on
    assert torch.equal(same[0], same[1]) and torch.equal(same[1], same[2])
    got = {k: [] for k in ways}
    for _ in range(repeats):
        for k, w in ways.items():
            start = time.perf_counter()
            w()
            got[k].append(round(len(files)/(time.perf_counter() - start), 1))
    return dict(images_per_second=got, images=len(files), size=p.size, arithmetic=f'{frozen.mode.precision} {frozen.mode.layout}')

@call_parse
def bench(
    models:Annotated[str, dict(nargs='+')]=('tf_efficientnet_lite0', 'mobilenet_v2', 'squeezenet1_1'), # networks
    images:int=512, # ELPV cells, all held in memory as float tensors too
    repeats:int=5, # of each way
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Images a second from files on disk beside the network alone"
    records = Records('throughput', again, out)
    runs = [records.measure('share', model=m, images=images, repeats=repeats) for m in models]
    speed = {m: {k: median(v) for k, v in o['found']['images_per_second'].items()} for m, o in zip(models, runs)}
    ratio = {m: v['files']/v['tensors'] for m, v in speed.items()}
    table = [dict(model=m, **{'files / tensors': f'{100*ratio[m]:.0f} %', 'from files, images/s': f'{v["files"]:.0f}', 'from uint8 arrays': f'{v["arrays"]:.0f}',
                              'network on ready tensors': f'{v["tensors"]:.0f}', 'arithmetic': o['found']['arithmetic']}) for (m, v), o in zip(speed.items(), runs)]
    records.write(ratio=ratio, median_images_per_second=speed, reached=[goal(f'{m}: images/s from files / on ready tensors, %', 100*r, least=80, show='{:.0f}') for m, r in ratio.items()], table=table,
                  remarks=[f'Medians of {repeats} passes over {runs[0]["found"]["images"]} ELPV cells (PNG, 300x300) in each way, the ways in turn; files are in the page cache.'],
                  arguments=dict(models=models, images=images, repeats=repeats), measurements=runs)
