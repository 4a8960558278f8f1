"Runs that others carry out: the same table, whoever dies on the way; and one line for what can't be."
import os, pickle, re, signal, sys, threading, time, warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tl_nbdev.selection.crews as crews
import tl_nbdev.selection.parcels as parcels
import tl_nbdev.selection.race as race
from torch import nn
from tl_nbdev.base.settings import TransferError, settings
from tl_nbdev.selection.choose import advise
from tl_nbdev.selection.compare import compare, kept_runs
from tl_nbdev.selection.crews import Crew, Shipment, crew_of, sent_out
from tl_nbdev.training.learner import FusedAdam
from tl_nbdev.vision.images import ImageTask

from children import python
from conftest import killed, photos, refused, small, tl

driver = os.getpid()

class Tiny(nn.Module):
    "A network of our own, which trains in no time"
    def __init__(self, classes=2):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, classes)
    def forward(self, x): return self.head(self.body(x))

class Wide(Tiny):
    "One that is slower"
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(16, 2)

class Deadly(Tiny):
    "The same, whose worker does not survive it"
    def __init__(self, here):
        super().__init__()
        self.here = here
    def forward(self, x):
        if os.getpid() != self.here: os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def marking(params, *args, here, folder, wait=None, kill_once=False, **kwargs):
    "An optimizer that leaves a mark where it began, waits for a file, or ends its worker once"
    if os.getpid() != here:
        ray = sys.modules.get('ray')
        mark = folder/f'{ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else ""}-{os.getpid()}'
        mark.touch()
        if kill_once and len(list(folder.iterdir())) == 1: os.kill(os.getpid(), signal.SIGKILL)
        while wait and not Path(wait).exists(): time.sleep(.05)
    return FusedAdam(params, *args, **kwargs)

class Here:
    "Does what it is given at once, in this process, as another process would be given it"
    def __init__(self): self.asked, self.size = [], 0
    def submit(self, f, parcel):
        self.asked.append(parcel.called)
        sent = pickle.dumps(parcel)
        self.size, future = max(self.size, len(sent)), Future()
        self.answer(future, f(pickle.loads(sent)))
        return future
    def answer(self, future, found): future.set_result(found)

class Backwards(Here):
    "What is asked for last ends first"
    def answer(self, future, found): threading.Timer(max(.02, .5 - .07*len(self.asked)), future.set_result, [found]).start()

class Losing(Here):
    "Loses its worker so many times when it is to do something"
    def __init__(self, times): self.times, self.asked, self.size = dict(times), [], 0
    def submit(self, f, parcel):
        left = next((name for name in self.times if name in parcel.called and self.times[name] > 0), None)
        if left is None: return super().submit(f, parcel)
        self.times[left] -= 1
        self.asked.append(parcel.called)
        future = Future()
        future.set_exception(ConnectionError('it is gone'))
        return future

class OneByOne(Crew): one_fate = False

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 20))

few = dict(strategies=['feature', 'full'], seeds=2, epochs=1, size=32, bs=8)

def numbers(runs): return [(run.model, repr(run.strategy), run.seed, run.valid.probs.tolist(), run.report.probs.tolist(), run.report.value, run.trained, run.epochs) for run in runs]
def verdicts(runs): return [{name: value for name, value in row.items() if name not in ('seconds', 'mib')} for row in runs.rows()]

@pytest.fixture(scope='module')
def alone(task): return compare(task, [Wide(), Tiny()], **few)


# the same answer

def test_the_same_table_whichever_run_ends_first(task, alone, tmp_path):
    told, before = [], dict(task.reads)
    executor = Backwards()
    runs = compare(task, alone_models(alone), executor=executor, tell=told.append, out=tmp_path/'runs', **few)
    assert numbers(runs) == numbers(alone) and verdicts(runs) == verdicts(alone)
    assert len(told) == len(runs) == len(executor.asked) == 8 and [id(run) for run in told] != [id(run) for run in runs]
    assert task.reads['test'] - before['test'] == task.reads['valid'] - before['valid'] == 8
    assert 'seed 0' in executor.asked[0] and len({name.split()[0] for name in executor.asked[:2]}) == 2, 'the first run of each network comes first'
    assert not list((tmp_path/'runs').glob('.*')), 'marks and checkpoints are gone'
    again = Here()
    found = compare(task, alone_models(alone), executor=again, out=tmp_path/'runs', **few)
    assert not again.asked and verdicts(found) == verdicts(kept_runs_in_order(found, task, tmp_path/'runs'))

def alone_models(alone): return [run.learn.pretrained for run in alone[:4:2]]
def kept_runs_in_order(runs, task, out):
    kept = {(run.model, repr(run.strategy), run.seed): run for run in kept_runs(task, out)}
    found = type(runs)(kept[run.model, repr(run.strategy), run.seed] for run in runs)
    return found

def test_models_are_kept_where_the_folder_is_shared_and_where_it_is_not(task, tmp_path, monkeypatch):
    how = dict(few, strategies=['feature'], seeds=1, weights=True)
    here = compare(task, 'squeezenet1_1', out=tmp_path/'here', **how)
    shared = compare(task, 'squeezenet1_1', out=tmp_path/'shared', executor=Here(), **how)
    with monkeypatch.context() as mp:
        mp.setattr(parcels, 'seen', lambda folder, marks: False)
        mp.setattr('tl_nbdev.selection.compare.seen', lambda folder, marks: False)
        sent = compare(task, 'squeezenet1_1', out=tmp_path/'sent', executor=Here(), **how)
    for runs in (shared, sent):
        assert runs[0].folder.is_dir() and numbers(runs) == numbers(here)
        assert all((runs[0].state[name] == value).all() for name, value in here[0].state.items())

@pytest.fixture
def steady(monkeypatch):
    "What is measured in seconds decides which network comes first, and which of two equals: here it is told"
    def account(self, entry, took): entry.seconds, entry.whole = entry.epochs, float(entry.of)
    monkeypatch.setattr(race._Race, '_account', account)
    monkeypatch.setattr(race._Race, 'pass_seconds', lambda self, p: .001 if p.name == 'Tiny' else .002)

def test_advice_does_not_depend_on_who_trains(task, steady, tmp_path, monkeypatch):
    noisy = ImageTask(task.df.assign(label=np.random.default_rng(3).permutation(task.df.label)), 'noise')
    ask = dict(candidates=[Tiny(), Wide()], strategies=['feature', 'last:1', 'full'], budget=600, epochs=2, size=32, bs=8)
    def said(advice):
        rows = [{name: value for name, value in row.items() if name not in ('seconds', 'why')} for row in advice.ranking]
        return rows, advice.best, advice.code, [entry.legs for entry in advice.entries]
    lines = {}
    def answer(name, **more):
        lines[name] = []
        return said(advise(noisy, tell=lambda line: lines[name].append(re.sub(', [0-9]+ s$', '', line)), **ask, **more))
    plain, executor = answer('alone'), Backwards()
    assert answer('ahead', executor=executor, out=tmp_path/'race') == plain and lines['ahead'] == lines['alone']
    assert executor.asked and len(set(executor.asked)) > 3
    with monkeypatch.context() as mp: # nothing is shared: features are sent
        for place in ('parcels', 'ahead'): mp.setattr(f'tl_nbdev.selection.{place}.seen', lambda folder, marks: False)
        assert answer('apart', executor=Here()) == plain
    gone = answer('gone', executor=OneByOne(Losing({'full': 99})))
    assert gone == plain and any('It is done in this process' in line for line in lines['gone'])


# what is sent

def test_little_is_sent(task, alone):
    executor = Here()
    compare(task, 'squeezenet1_1', executor=executor, **few)
    assert executor.size < 20_000 + 200*len(task.df), 'hashes of files, not their bytes, and the name of a network'

def test_what_cannot_be_sent_is_refused_in_one_line(task):
    with pytest.raises(TransferError, match='squeezenet1_1 feature seed 0 can.t be sent to another process'):
        compare(task, 'squeezenet1_1', executor=Here(), **few, opt_func=lambda *args, **kwargs: FusedAdam(*args, **kwargs))
    with pytest.raises(TransferError, match='cbs watch a training in this process'): compare(task, 'squeezenet1_1', executor=Here(), cbs=[object()], **few)
    for odd, words in ((3, 'has no submit'), ('slurm', 'use processes, ray'), ('processes:x', 'say how many'), (object(), 'has no submit')):
        with pytest.raises(TransferError, match=words): compare(task, 'squeezenet1_1', executor=odd, **few)

def test_a_shell_says_what_an_executor_may_be(tmp_path):
    got = tl('compare', photos(tmp_path/'data'), *small, '--strategies', 'feature', '--executor', 'slurm')
    refused(got, 'executor "slurm": use processes, ray')

def shipped(task, crew=None, folder='.'): return Shipment(crew or Crew(None), task, (), [], folder)
def counting(task, to, marks): return [parcels.content_hash(path) for path in task.df.item]

def test_files_that_a_worker_lacks_are_sent(tmp_path, cache):
    data = photos(tmp_path/'data', 3)
    task = ImageTask.from_folder(data)
    want, ship = counting(task, {}, []), shipped(task)
    parcel = ship.parcel(counting, (), 'counting')
    goods = ship.goods()
    data.rename(tmp_path/'moved')
    how, what = parcels.carried_out(parcel)
    assert how == 'lacking' and what.startswith('6 of 6')
    assert parcels.carried_out(replace(parcel, goods=goods)) == ('done', want)
    assert (cache/'sent'/ship.key).is_dir()
    assert list(sent_out(Crew(Here()), [(0, replace(parcel, key='again'), None)], lambda: goods)) == [(0, 'done', want)]

def test_a_store_without_room_falls_back_to_a_folder(tmp_path):
    class Full(Crew):
        def put(self, data): raise OSError('the object store has no room')
    data = photos(tmp_path/'data', 3)
    task = ImageTask.from_folder(data)
    want = counting(task, {}, [])
    with crews.shipment(Full(Here()), task, out=tmp_path/'out') as ship:
        parcel, goods = ship.parcel(counting, (), 'counting'), ship.goods()
        assert goods.is_dir() and goods.parent == tmp_path/'out'
        data.rename(tmp_path/'moved')
        assert parcels.carried_out(replace(parcel, goods=goods)) == ('done', want)
        how, what = parcels.carried_out(replace(parcel, key='other', goods=tmp_path/'unseen'))
        assert how == 'refused' and 'does not see' in what and '\n' not in what
    assert not list((tmp_path/'out').iterdir())

@pytest.mark.parametrize('change', ['content', 'cut', 'gone', 'one more byte', 'another file'])
def test_a_worker_that_sees_other_files_does_nothing(tmp_path, change):
    task = ImageTask.from_folder(photos(tmp_path/'data', 3))
    parcel, file = shipped(task).parcel(counting, (), 'counting'), task.df.item.iloc[2]
    data = file.read_bytes()
    new = dict(content=data[:-9] + b'x' + data[-8:], cut=data[:-20])
    new |= {'one more byte': data + b'x', 'another file': task.df.item.iloc[1].read_bytes()}
    if change == 'gone': file.unlink()
    else: file.write_bytes(new[change])
    how, what = parcels.carried_out(parcel)
    assert how == ('lacking' if change == 'gone' else 'refused') and '\n' not in what
    if how == 'refused': assert f'sees another {file}' in what

def test_a_worker_of_another_version_ends_the_comparison_in_one_line(task, tmp_path):
    class Older(Here):
        def submit(self, f, parcel):
            if len(self.asked) == 2: parcel.here.world['package'] = 'of yesterday'
            return super().submit(f, parcel)
    with pytest.raises(TransferError, match='has another version of this package: install the same one') as e:
        compare(task, Tiny(), executor=Older(), out=tmp_path/'runs', **few)
    assert '\n' not in str(e.value) and len(kept_runs(task, tmp_path/'runs')) == 2, 'what was finished is kept'
    assert 'has torch 1, and here it is 2' in parcels._other_world(dict(torch='1'), dict(torch='2')) and 'missing' in parcels._other_world({}, dict(timm='1'))

def test_threads_and_forks_are_refused(task):
    with ThreadPoolExecutor(2) as pool, pytest.raises(TransferError, match='share the random numbers of torch'):
        compare(task, Tiny(), executor=pool, **few)
    import multiprocessing
    forks = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))
    with pytest.raises(TransferError, match='executor="processes"'): compare(task, Tiny(), executor=forks, **few)


# who dies on the way

def test_a_worker_that_is_lost_twice_is_replaced_and_one_that_is_lost_thrice_named(task, alone):
    tiny = alone_models(alone)[1]
    twice = OneByOne(Losing({'feature seed 1': 2}))
    assert numbers(compare(task, tiny, executor=twice, **few)) == numbers([run for run in alone if run.model == tiny.name])
    with pytest.warns(UserWarning, match='full seed 0: its worker was lost three times'):
        runs = compare(task, tiny, executor=OneByOne(Losing({'full seed 0': 3})), **few)
    assert len(runs) == 3 and len(runs.failed) == 1 and 'lost three times' in runs.table().about
    with pytest.warns(UserWarning), pytest.raises(TransferError, match='lost three times'):
        compare(task, tiny, executor=OneByOne(Losing({'seed': 99})), **few)

def test_a_run_that_fails_leaves_the_others(task, alone):
    with pytest.warns(UserWarning, match='last:9 seed 0: '):
        runs = compare(task, Tiny(), ['feature', 'last:9'], epochs=1, size=32, bs=8, executor=Here())
    assert [run.strategy.name for run in runs] == ['feature'] and len(runs.failed) == 1

def test_an_executor_that_was_shut_down(task):
    class Closed(Here):
        def submit(self, f, parcel):
            if len(self.asked) == self.most: raise RuntimeError('cannot schedule new futures after shutdown')
            return super().submit(f, parcel)
    closed = Closed()
    closed.most = 0
    with pytest.raises(TransferError, match='the executor takes no work .*after shutdown'): compare(task, Tiny(), executor=closed, **few)
    closed.most = 2
    with pytest.warns(UserWarning, match='takes no work'): assert len(compare(task, Tiny(), executor=closed, **few)) == 2

def test_ctrl_c_cancels_what_waits_and_keeps_what_is_done(task, tmp_path):
    class Slow(Here):
        def submit(self, f, parcel):
            if not self.asked: return super().submit(f, parcel)
            self.waiting = [*getattr(self, 'waiting', []), Future()]
            return self.waiting[-1]
    def tell(run): raise KeyboardInterrupt
    slow = Slow()
    with pytest.raises(KeyboardInterrupt): compare(task, Tiny(), executor=slow, out=tmp_path/'runs', tell=tell, **few)
    assert all(future.cancelled() for future in getattr(slow, 'waiting', [])) and len(kept_runs(task, tmp_path/'runs')) == 1
    assert not list((tmp_path/'runs').glob('.shared*'))

def test_a_driver_that_is_killed_finds_what_was_done(task, alone, tmp_path):
    tiny, done = alone_models(alone)[1], []
    def die(run):
        done.append(run)
        if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)
    assert killed(lambda: compare(task, tiny, executor=Here(), out=tmp_path/'runs', tell=die, **few))
    again = Here()
    runs = compare(task, tiny, executor=again, out=tmp_path/'runs', **few)
    assert len(again.asked) == 2
    want = [run for run in alone if run.model == tiny.name]
    assert [run.report.value for run in runs] == [run.report.value for run in want]


# nobody else

def test_nothing_of_it_is_needed_on_a_laptop(tmp_path):
    code = ('import sys, concurrent.futures, multiprocessing\n'
            'def no(*args, **kwargs): raise SystemExit("a pool was made")\n'
            'concurrent.futures.ProcessPoolExecutor.__init__ = no\n'
            'from tl_nbdev.selection.choose import advise\nfrom tl_nbdev.selection.compare import compare\n'
            'from tl_nbdev.vision.images import ImageTask\nfrom test_executor import Tiny\n'
            'task = ImageTask.from_folder(sys.argv[1])\ncompare(task, Tiny(), ["feature"], epochs=1, size=32)\n'
            'assert not {"ray", "dask"} & sys.modules.keys() and not multiprocessing.active_children()')
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([os.environ.get('PYTHONPATH', ''), str(Path(__file__).parent)])}
    got = python(code, photos(tmp_path/'data', 12), env=env)
    assert not got.returncode, got.stderr[-1500:]


# processes

def test_processes_that_die_are_replaced(task, alone, tmp_path):
    (tmp_path/'marks').mkdir()
    act = partial(marking, here=driver, folder=tmp_path/'marks', kill_once=True)
    tiny = alone_models(alone)[1]
    runs = compare(task, tiny, executor='processes:1', opt_func=act, **dict(few, strategies=['feature']))
    assert numbers(runs) == numbers([run for run in alone if run.model == tiny.name and run.strategy.name == 'feature'])
    assert len({mark.name for mark in (tmp_path/'marks').iterdir()}) == 2, 'one died, another went on'


# Ray

@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    "Two nodes of one processor each"
    pytest.importorskip('ray', reason='needs Ray: pip install "tl_nbdev[ray]"')
    import ray
    from ray.cluster_utils import Cluster
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([str(Path(here).parent), here, os.environ.get('PYTHONPATH', '')])
    with pytest.MonkeyPatch.context() as mp:
        settings_of = dict(RAY_USAGE_STATS_ENABLED='0', RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0', RAY_memory_monitor_refresh_ms='0', RAY_raylet_start_wait_time_s='120', PYTHONPATH=paths,
                           RAY_health_check_period_ms='500', RAY_health_check_failure_threshold='4', RAY_health_check_timeout_ms='1000')
        for name, value in settings_of.items(): mp.setenv(name, value)
        node = dict(num_cpus=1, object_store_memory=100*2**20)
        cluster = Cluster(initialize_head=True, head_node_args=dict(node, include_dashboard=False))
        cluster.second = cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level='ERROR')
        yield cluster
        ray.shutdown()
        cluster.shutdown()

def test_on_ray_a_node_is_killed_and_its_runs_alone_are_done_again(task, alone, cluster, tmp_path, monkeypatch):
    import ray
    from tl_nbdev.selection.on_ray import OnRay
    begun, start = [], OnRay.start
    monkeypatch.setattr(OnRay, 'start', lambda self, parcel, mib=None: begun.append(parcel.called) or start(self, parcel, mib))
    (tmp_path/'marks').mkdir()
    tiny, told = alone_models(alone)[1], []
    act = partial(marking, here=driver, folder=tmp_path/'marks', wait=tmp_path/'go')
    def watch(): # until each node has a run
        while len(list((tmp_path/'marks').iterdir())) < 2: time.sleep(.05)
        cluster.remove_node(cluster.second, allow_graceful=False)
        (tmp_path/'go').touch()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    runs = compare(task, tiny, executor='ray', opt_func=act, tell=told.append, out=tmp_path/'runs', **few)
    watcher.join()
    assert ray.is_initialized() and len([node for node in ray.nodes() if node['Alive']]) == 1, 'a cluster that was there stays'
    want = [run for run in alone if run.model == tiny.name]
    assert numbers(runs) == numbers(want) and len(told) == 4 and not runs.failed
    assert len({mark.name.split('-')[0] for mark in (tmp_path/'marks').iterdir()}) == 2
    assert len(begun) == 5 and len(set(begun)) == 4, 'one run was sent twice, that of the node that was killed'

def test_on_ray_a_worker_that_always_dies_is_named_and_the_others_stand(task, alone, cluster):
    tiny = alone_models(alone)[1]
    with pytest.warns(UserWarning, match='Deadly feature seed 0: its worker was lost three times'):
        runs = compare(task, [tiny, Deadly(driver)], executor='ray', **dict(few, seeds=1, strategies=['feature']))
    assert numbers(runs) == numbers([run for run in alone if run.model == tiny.name][:1]) and len(runs.failed) == 1

def test_on_ray_what_is_asked_for_must_be_there(task, cluster, monkeypatch):
    from tl_nbdev.selection.on_ray import OnRay
    with pytest.warns(UserWarning), pytest.raises(TransferError, match='needs about .* MiB, and no machine of the cluster has more'):
        compare(task, Tiny(), executor=OnRay(mib=10**9), **few)
    with pytest.warns(UserWarning, match='1 processors at most'):
        monkeypatch.setattr('torch.get_num_threads', lambda: 64)
        assert OnRay().cpus == 1

def test_on_ray_bytes_of_files_come_through_the_store(cluster, tmp_path):
    from tl_nbdev.selection.on_ray import OnRay, _InStore
    data = photos(tmp_path/'data', 3)
    task, crew = ImageTask.from_folder(data), OnRay()
    want, ship = counting(task, {}, []), shipped(task, crew)
    parcel, goods = ship.parcel(counting, (), 'counting'), ship.goods()
    assert isinstance(ship.common, _InStore) and all(isinstance(piece, _InStore) for piece in goods)
    data.rename(tmp_path/'moved')
    assert list(sent_out(crew, [(0, parcel, None)], lambda: goods)) == [(0, 'done', want)]

def test_on_ray_a_store_without_room_stops_nothing(task, alone, cluster, monkeypatch, tmp_path):
    import ray
    def full(data): raise ray.exceptions.ObjectStoreFullError('no room')
    monkeypatch.setattr(ray, 'put', full)
    tiny = alone_models(alone)[1]
    runs = compare(task, tiny, executor='ray', **dict(few, seeds=1, strategies=['feature']))
    assert runs[0].report.value == next(run.report.value for run in alone if run.model == tiny.name)

def test_ray_that_is_not_there_is_said_in_one_line(task, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(TransferError, match=r'Ray is not installed: pip install "tl_nbdev\[ray\]"') as e: compare(task, Tiny(), executor='ray', **few)
    assert '\n' not in str(e.value)
