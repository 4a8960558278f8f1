"Training in a process of its own: paused, stopped, killed, resumed; and found again by whoever looks."
import json, os, signal, time
from pathlib import Path

import pytest
from conftest import photos
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.apps.jobs import Experiment, Job, load_task, save_task
from tl_nbdev.base.settings import TransferError

patience = 600 # seconds: much longer than anything here takes

def until(true, seconds=patience):
    "Wait until it is so, and say whether it is"
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end: time.sleep(.05)
    return true()

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 24))

def experiment(task, folder): return Experiment(task, folder/'runs', size=32, bs=4)
def weights(exp): return {k: v.double().sum().item() for k, v in exp.runs()[0].state.items()}
def trains(job): return lambda: any('loss' in o for o in job.rows) or job.state in ('done', 'failed')

@pytest.fixture(scope='module')
def whole(task, tmp_path_factory):
    "What a job ends with that nobody disturbs"
    exp = experiment(task, tmp_path_factory.mktemp('whole'))
    assert exp.start('squeezenet1_1', 'full', 40).wait(patience) == 'done'
    return weights(exp)

def test_paused_it_waits_and_stopped_it_goes_on_to_the_same_end(task, whole, tmp_path):
    exp = experiment(task, tmp_path)
    job = exp.start('squeezenet1_1', 'full', 40)
    assert until(trains(job)) and job.state == 'running'
    job.pause()
    assert job.state == 'paused'
    def still():
        n = len(job.rows)
        time.sleep(1)
        return len(job.rows) == n
    assert until(still) and job.alive and job.rows[-1]['at'] < 40
    job.stop()
    assert job.wait(patience) == 'stopped' and not exp.runs()
    again = experiment(task, tmp_path) # another kernel
    job, = again.jobs
    assert job.state == 'stopped' and job.start().wait(patience) == 'done'
    assert weights(again) == whole
    at = [o['at'] for o in job.rows if 'loss' in o]
    assert at == sorted(at) and job.rows[-1]['at'] == 40

def test_killed_it_is_said_and_it_goes_on_to_the_same_end(task, whole, tmp_path):
    exp = experiment(task, tmp_path)
    job = exp.start('squeezenet1_1', 'full', 40)
    assert until(trains(job))
    job.kill()
    assert job.wait(patience) == 'failed' and 'without a word' in job.said
    assert exp.start('squeezenet1_1', 'full', 40) is job and job.wait(patience) == 'done' and job.said == ''
    assert weights(exp) == whole

def test_ended_by_the_system_it_goes_on_to_the_same_end(task, whole, tmp_path):
    exp = experiment(task, tmp_path)
    job = exp.start('squeezenet1_1', 'full', 40)
    assert until(trains(job))
    os.kill(int((job.folder/'process').read_text()), signal.SIGTERM)
    assert job.wait(patience) == 'stopped' and 'SIGTERM' in job.said and list((tmp_path/'runs').rglob('checkpoint.json'))
    assert exp.start('squeezenet1_1', 'full', 40) is job and job.wait(patience) == 'done' and weights(exp) == whole

def test_two_look_at_one_job(task, tmp_path):
    one, two = experiment(task, tmp_path), experiment(task, tmp_path)
    job = one.start('squeezenet1_1', 'feature', 3)
    other = two.start('squeezenet1_1', 'feature', 3) # not a second process
    assert other.folder == job.folder and other._child is None
    assert other.wait(patience) == 'done' and job.state == 'done' and len(two.runs()) == 1

def test_what_goes_wrong_is_said_in_a_line(task, tmp_path):
    exp = experiment(task, tmp_path)
    job = exp.start('squeezenet1_1', 'last:99', 2) # found out by the child, which has the network
    assert job.wait(patience) == 'failed' and 'body stages' in job.said and '\n' not in job.said
    for item in task.df.item: assert Path(item).is_file()

def test_photos_that_went_away(tmp_path):
    data = photos(tmp_path/'data', 12)
    exp = experiment(ImageTask.from_folder(data), tmp_path)
    for f in data.rglob('*.png'): f.unlink()
    job = exp.start('squeezenet1_1', 'feature', 2)
    assert job.wait(patience) == 'failed' and job.said and '\n' not in job.said

def test_torn_files_of_a_job(task, tmp_path):
    exp = experiment(task, tmp_path)
    job = exp.start('squeezenet1_1', 'feature', 2)
    assert job.wait(patience) == 'done'
    with open(job.folder/'rows.jsonl', 'a') as f: f.write('{"at": 1, "lo')
    fresh = Job(job.folder)
    assert [o for o in fresh.rows if 'at' in o] and fresh.state == 'done'
    (exp.folder/'task.json').write_text('{')
    with pytest.raises(TransferError, match='no task can be read'): experiment(task, tmp_path)
