"A thousand requests from 32 clients at a served model: none lost, how long each took, with requests answered together and one by one"
import http.client, json, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Annotated
from urllib.request import urlopen

from fastcore.script import call_parse
from tl_nbdev.base.processes import child_command, child_env
from .common import Records, goal, interval, root

quick = dict(requests=64, clients=4, repeats=1)
ways = {'together': 32, 'one by one': 1} # items that the network sees at once
serves = 'import sys\nfrom tl_nbdev.apps.serve import tl_serve\nsys.exit(tl_serve())'


# who asks: a process of its own

def _person(port, path, kind, bodies):
    "Seconds and status of each request of one client, over one connection"
    line, told = http.client.HTTPConnection('127.0.0.1', port, timeout=600), []
    for body in bodies:
        start = time.perf_counter()
        line.request('POST', path, body, {'Content-Type': kind})
        answer = line.getresponse()
        said = json.loads(answer.read())
        told.append((time.perf_counter() - start, answer.status == 200 and 'label' in said['answers'][0]))
    return told

def ask_all():
    "Read from stdin who is asked what; write seconds, how many were answered, and the whole time"
    asked = json.loads(sys.stdin.read())
    bodies = [Path(file).read_bytes() for file in asked['bodies']]
    n, clients = asked['requests'], asked['clients']
    shares = [[bodies[i % len(bodies)] for i in range(who, n, clients)] for who in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        told = [one for person in pool.map(lambda share: _person(asked['port'], '/predict', asked['kind'], share), shares) for one in person]
    print(json.dumps(dict(seconds=[s for s, _ in told], answered=sum(good for _, good in told), took=time.perf_counter() - start)))

def _crowd(port, kind, bodies, requests, clients):
    "What a process full of clients saw"
    asked = json.dumps(dict(port=port, kind=kind, bodies=list(map(str, bodies)), requests=requests, clients=clients))
    done = subprocess.run([sys.executable, '-c', 'from benchmarks.serve import ask_all; ask_all()'], input=asked, capture_output=True, text=True, cwd=root, check=True)
    return json.loads(done.stdout)


# who is asked

def _image_model(to):
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner
    task = ImageTask.from_sample('mnist', limit=100)
    transfer_learner(task, 'squeezenet1_1', size=64, seed=0).save_transfer(to/'model', check=False)
    return 'image/png', list(task.df.item)

def _text_model(to):
    from tl_nbdev.text.texts import TextTask
    from tl_nbdev.training.learner import transfer_learner
    task = TextTask.from_sample('r8', limit=120)
    transfer_learner(task, 'bert-tiny', size=128, seed=0).save_transfer(to/'model', check=False)
    files = [to/f'{i}.txt' for i in range(len(task.df))]
    for file, text in zip(files, task.df.item): file.write_text(text, encoding='utf-8')
    return 'text/plain', files

@contextmanager
def _served(folder, batch):
    "The port of a server in a process of its own"
    process = subprocess.Popen(child_command(serves, folder, '--port', 0, '--batch', batch), env=child_env(), stdout=subprocess.PIPE, text=True)
    try: yield int(re.search(r'http://[\d.]+:(\d+)', process.stdout.readline())[1])
    finally:
        process.terminate()
        process.communicate(timeout=60)

def _seen(told, requests):
    "What a crowd saw, in a few numbers"
    times = sorted(told['seconds'])
    return dict(lost=requests - told['answered'], median_ms=round(1000*median(times), 1), p99_ms=round(1000*times[-(-99*len(times)//100) - 1], 1),
                per_second=round(requests/told['took'], 1))

def load(model, requests, clients, repeats):
    "Both ways in turn, on two servers of which one rests, after a few requests that nobody measures"
    found = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        kind, bodies = dict(image=_image_model, text=_text_model)[model](Path(folder))
        ports = {way: stack.enter_context(_served(Path(folder)/'model', batch)) for way, batch in ways.items()}
        for port in ports.values(): _crowd(port, kind, bodies, clients, clients)
        for repeat in range(repeats):
            for way in list(ways)[::-1 if repeat % 2 else 1]:
                found[way].append(_seen(_crowd(ports[way], kind, bodies, requests, clients), requests))
        for way, port in ports.items():
            with urlopen(f'http://127.0.0.1:{port}/health') as answer: health = json.loads(answer.read())
            for seen in found[way]: seen['batch'] = round(health['answered']/health['batches'], 2)
    return found

@call_parse
def bench(
    models:Annotated[str, dict(nargs='+')]=('image', 'text'), # what is served
    requests:int=1000, # of each way, in each repeat
    clients:int=32, # each over one connection, in one process
    repeats:int=3, # of everything
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "A served model under load"
    records = Records('serve', again, out)
    runs = {m: records.measure('load', model=m, requests=requests, clients=clients, repeats=repeats) for m in models}
    table, reached, gain = [], [], {}
    for model, made in runs.items():
        found = [dict(zip(ways, pair)) for pair in zip(*(made['found'][way] for way in ways))]
        gain[model] = [o['together']['per_second']/o['one by one']['per_second'] for o in found]
        for way in ways:
            worst = {k: max(o[way][k] for o in found) for k in ('lost', 'median_ms', 'p99_ms')}
            table.append({'model': model, 'answered': way, 'lost': worst['lost'], 'requests/s': f'{mean(o[way]["per_second"] for o in found):.0f}',
                          'median, ms': f'{mean(o[way]["median_ms"] for o in found):.0f}', 'p99, ms': f'{mean(o[way]["p99_ms"] for o in found):.0f}',
                          'p99 / median': f'{mean(o[way]["p99_ms"]/o[way]["median_ms"] for o in found):.1f}', 'items in a batch': f'{mean(o[way]["batch"] for o in found):.1f}'})
        reached += [goal(f'{model}: requests lost', sum(o[way]['lost'] for o in found for way in ways), most=0, show='{:.0f}'),
                    goal(f'{model}: p99 / median, together, the worst repeat', max(o['together']['p99_ms']/o['together']['median_ms'] for o in found), most=10),
                    goal(f'{model}: requests/s together / one by one', mean(gain[model]), show='{:.2f}', ends=interval(gain[model]), than=1)]
    records.write(gain=gain, reached=reached, table=table, arguments=dict(models=models, requests=requests, clients=clients, repeats=repeats), measurements=list(runs.values()),
                  remarks=[f'{requests} requests from {clients} clients with one connection each, in a process of their own on the same machine; {repeats} repeats, in which the two ways take turns in being first.',
                           'SqueezeNet 1.1 at 64 pixels on digits as PNG, BERT-tiny on news; both untrained, as answers cost the same.'])
