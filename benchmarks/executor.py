"Twenty runs by workers of Ray's beside the same runs in one process: what does it cost to hand them out? And a million images through a hundred networks, simulated from what was measured"
import json, os, time
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal, results

quick = dict(runs=2, seconds=2., repeats=1)

def _comparison(runs, seconds, executor):
    "Seconds of a comparison: runs of one small network, each drawn out to a length"
    from tl_nbdev.selection.compare import compare
    from tl_nbdev.vision.images import ImageTask
    task, ends, began = ImageTask.from_sample('mnist', limit=200), [], time.perf_counter()
    def tell(run): ends.append(time.perf_counter() - began)
    found = compare(task, 'squeezenet1_1', ['full'], seeds=runs, size=64, bs=16, epochs=max(1, round(seconds)), executor=executor, tell=tell)
    return found, ends, time.perf_counter() - began

def alone(runs, seconds):
    "The comparison in one process, and the seconds of its first run, which warms up"
    import torch
    torch.set_num_threads(1)
    found, ends, took = _comparison(runs, seconds, None)
    return dict(seconds=round(took, 3), first=round(ends[0], 3), each=[round(run.seconds, 3) for run in found], values=[run.report.value for run in found])

def on_ray(runs, seconds):
    "The same by one worker of Ray's on one processor: start-up, which comes once, apart from what each run costs"
    import ray, torch
    from tl_nbdev.selection.on_ray import OnRay
    torch.set_num_threads(1)
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    start = time.perf_counter()
    ray.init(num_cpus=1, object_store_memory=200*2**20, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    up = time.perf_counter() - start
    found, ends, took = _comparison(runs, seconds, OnRay(cpus=1))
    ray.shutdown()
    return dict(seconds=round(took, 3), first=round(ends[0], 3), ray_start=round(up, 3), each=[round(run.seconds, 3) for run in found],
                values=[run.report.value for run in found])

def after_first(found):
    "Seconds a run, without the first, in which imports, and the features of a cold cache, are"
    return (found['seconds'] - found['first'])/(len(found['each']) - 1)

def million(networks, images):
    "What a choice among so many networks on so many images takes, on fleets of several kinds, from the record of `throughput`"
    from tl_nbdev.selection.scale import Fleet, many, passes_of, scales
    record = json.loads((results/'throughput.json').read_text(encoding='utf-8'))
    job = many(passes_of(record), networks, images)
    big = dict(cores=16)
    fleets = {'16 cores': Fleet(**big), '16 cores, decoded images kept': Fleet(**big, keeps=True), 'a GPU as well': Fleet(**big, gpus=1),
              'a GPU as well, decoded images kept': Fleet(**big, gpus=1, keeps=True)}
    return dict(rows=list(scales(job, fleets)), job=dict(networks=networks, images=images, file_bytes=job.file))

@call_parse
def bench(
    runs:int=20, # of the comparison
    seconds:float=30., # epochs of a run, about a second each on a slow core
    repeats:int=3, # of each way, in turn
    networks:int=100, # that are simulated
    images:int=1_000_000, # of the same simulation
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Overhead of Ray for runs of a fixed length, and a simulation of many machines"
    records = Records('executor', again, out)
    pairs = [(records.measure('alone', repeat=i, runs=runs, seconds=seconds), records.measure('on_ray', repeat=i, runs=runs, seconds=seconds)) for i in range(1, repeats + 1)]
    for one, other in pairs: assert one['found']['values'] == other['found']['values'], 'not the same table'
    over = [100*(after_first(b['found'])/after_first(a['found']) - 1) for a, b in pairs]
    rows = [dict(way=name, **{'seconds a run after the first': f'{median(after_first(o["found"]) for o in them):.2f}',
                              'until the first run is done, s': f'{median(o["found"]["first"] for o in them):.1f}',
                              'seconds in all': f'{median(o["found"]["seconds"] for o in them):.0f}'})
            for name, them in zip(('one process', 'one worker of Ray\'s'), zip(*pairs))]
    simulated = records.measure('million', networks=networks, images=images)
    up = median(o['found']['ray_start'] for _, o in pairs)
    records.write(overhead_percent=over, simulated=simulated['found'],
                  reached=[goal('overhead of Ray a run, %, median of the repeats', median(over), most=5, show='{:.1f}')], table=rows,
                  remarks=[f'{runs} runs of `full` on mnist, {round(seconds)} epochs each, one thread, in turn, a fresh process for each way; both ways gave the same table.',
                           f'Starting Ray took {up:.1f} s, which is not counted; nor is the first run, in which a worker imports the package.'],
                  arguments=dict(runs=runs, seconds=seconds, repeats=repeats, networks=networks, images=images), measurements=[*sum(map(list, pairs), []), simulated])
