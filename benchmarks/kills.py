"Forty trainings killed at random moments and resumed: how many end with the same bits, and what do checkpoints cost?"
import json, os, random, signal, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal, root

quick = dict(strategies=['full'], kills=2, limit=60, longer=2)

# A process that imports once, and forks a child for each training; it has used no threads itself
_trainer = '''
import json, os, sys, time
import tl_nbdev.vision.images, tl_nbdev.training.learner, torchvision, timm
from tl_nbdev.vision.features import weights_hash
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.loop import KeepState

def train(how, epochs, limit, folder, often):
    if often is not None: KeepState.often = often
    learn = transfer_learner(ImageTask.from_sample('elpv', limit=limit), 'tf_efficientnet_lite0', size=96, bs=16, seed=0)
    start = time.perf_counter()
    with watched(learn): learn.transfer(how, epochs, resume=folder is not None, folder=folder)
    return dict(weights=weights_hash(learn.model), seconds=time.perf_counter() - start)

for line in sys.stdin:
    out, *args = json.loads(line)
    if not (child := os.fork()):
        with open(out, 'w') as f: json.dump(train(*args), f)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''

def _trainings():
    "A process that trains when it is told to: `train(how, folder, …)` gives the hash of the weights and the seconds, or `None` for one that was killed; and the folder of its files"
    p, d = subprocess.Popen([sys.executable, '-c', _trainer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root), tempfile.TemporaryDirectory()
    def train(how, folder, epochs, limit, kill_after=None, often=None):
        out = Path(d.name)/'out.json'
        print(json.dumps([str(out), how, epochs, limit, folder, often]), file=p.stdin, flush=True)
        child = int(p.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            try: os.kill(child, signal.SIGKILL)
            except ProcessLookupError: pass
        return json.loads(out.read_text()) if int(p.stdout.readline()) == 0 else None
    return train, d

def work(strategies, kills, epochs, limit, seed):
    "Train without interruption; then kill and resume until it ends, again and again"
    (train, d), rng, found = _trainings(), random.Random(seed), {}
    train('feature', None, epochs, limit) # weights and scans are in the cache from now on
    for how in strategies:
        plain = train(how, None, epochs, limit)
        whole_run, ends, at = plain['seconds'], [], []
        for i in range(kills):
            moments, got = [], None
            while got is None: # killed once or twice at moments spread over the whole run and its start, then let go on
                after = rng.uniform(.3, whole_run + 3) if len(moments) < 1 + i % 2 else None
                got = train(how, f'{d.name}/run-{how}-{i}', epochs, limit, after, often=1.)
                if got is None: moments.append(round(after, 2))
            ends.append(got['weights'] == plain['weights'])
            at.append(moments)
        found[how] = dict(bit_equal=sum(ends), killed=sum(map(len, at)), runs=kills, moments=at, seconds=plain['seconds'])
    return found

def cost(epochs, limit, pairs):
    "Pairs of runs, without and with checkpoints, in turn"
    train, d = _trainings()
    train('feature', None, 1, limit)
    got = [(train('full', None, epochs, limit), train('full', f'{d.name}/cost-{i}', epochs, limit)) for i in range(pairs)]
    return dict(without=[a['seconds'] for a, _ in got], kept=[b['seconds'] for _, b in got], same=len({o['weights'] for pair in got for o in pair}) == 1)

@call_parse
def bench(
    strategies:Annotated[str, dict(nargs='+')]=('full', 'last:2', 'lpft+l2sp', 'lora:4'), # words of the shell
    kills:int=10, # runs of each, killed once or twice
    epochs:int=3, # of each
    longer:int=12, # of the runs that tell what checkpoints cost
    pairs:int=5, # of such runs
    limit:int=300, # images
    seed:int=0, # of the moments
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Kill trainings at random moments and resume them"
    records = Records('kills', again, out)
    runs = [records.measure('work', strategies=list(strategies), kills=kills, epochs=epochs, limit=limit, seed=seed), records.measure('cost', epochs=longer, limit=limit, pairs=pairs)]
    found, said = (o['found'] for o in runs)
    cost = 100*(median(b/a for a, b in zip(said['without'], said['kept'])) - 1)
    table = [dict(strategy=how, runs=o['runs'], kills=o['killed'], **{'ended bit-equal': o['bit_equal'], 'seconds without interruption': f'{o["seconds"]:.1f}'}) for how, o in found.items()]
    total = sum(o['runs'] for o in found.values())
    records.write(ratio=dict(bit_equal=sum(o['bit_equal'] for o in found.values())/total, cost_percent=cost), table=table,
                  reached=[goal(f'runs that were killed and ended bit-equal, of {total}', sum(o['bit_equal'] for o in found.values()), least=total, show='{:.0f}'),
                           goal(f'time that checkpoints cost, %, median of {len(said["kept"])} pairs of runs of {median(said["without"]):.0f} s', cost, most=3)],
                  remarks=[f'EfficientNet-Lite0 at 96 pixels, {limit} ELPV cells, {epochs} epochs, 16 a batch; SIGKILL after a random time, once or twice a run, then let go on; the weights at the end are compared by hash with a run that was never interrupted.',
                           'While killing, checkpoints are written as often as once per cost of the last; the cost is measured with the default, at most one in thirty times its cost, with the first and the last.'],
                  arguments=dict(strategies=strategies, kills=kills, epochs=epochs, longer=longer, limit=limit, seed=seed), measurements=runs)
