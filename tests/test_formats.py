"What is written today is read by later versions: each record has a format, and one of another is read rightly, or refused in one line."
import json, shutil, warnings
from types import SimpleNamespace

import pytest, torch
from conftest import edited, photos
from tl_nbdev.selection import compare as comparing
from tl_nbdev.training.checkpoint import Checkpoints
from tl_nbdev.selection.compare import compare, kept_runs
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.apps.job_folder import Job, read_about, write_about
from tl_nbdev.apps.jobs import Experiment
from tl_nbdev.base.records import folder_record
from tl_nbdev.selection.runs import _record
from tl_nbdev.base.schema import LaterFormat, sealed
from tl_nbdev.base.settings import TransferError
from tl_nbdev.apps.task_files import load_task, save_task
from tl_nbdev.vision.zoo import pretrained

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 8))

@pytest.fixture(scope='module')
def written(task, tmp_path_factory):
    "A file of each kind, with what reads it: `(file, read)`"
    to = tmp_path_factory.mktemp('written')
    net = pretrained('resnet10t', source='random', size=32)
    compare(task, net, ['feature'], epochs=1, out=to/'runs', bs=4)
    run, = (to/'runs').glob('*.json')
    save_task(task, to/'task.json')
    write_about(to/'job', dict(kind='run', model='resnet10t', seed=0))
    Checkpoints(to/'state', dict(task='cats')).save({'w': torch.zeros(2)}, dict(epoch=3))
    return dict(run=(run, _record), task=(to/'task.json', load_task), job=(to/'job/job.json', lambda file: read_about(file.parent)),
                checkpoint=(to/'state/1/checkpoint.json', lambda file: Checkpoints(file.parent.parent, dict(task='cats')).load()))

@pytest.fixture(params=['run', 'task', 'job', 'checkpoint'])
def record(request, written, tmp_path):
    "One of them, in a folder of its own: `file`, `read`, `kind`"
    file, read = written[request.param]
    whole = file.parent.parent if request.param == 'checkpoint' else file.parent
    shutil.copytree(whole, tmp_path/'copy')
    return SimpleNamespace(file=tmp_path/'copy'/file.relative_to(whole), read=read, kind=request.param)

def said(record): return json.loads(record.file.read_text('utf-8'))

def test_what_is_written_has_a_format_versions_and_a_seal(record):
    found = said(record)
    assert found['format'] == 1 and 'tl_nbdev' in found['versions'] and record.read(record.file)
    rest = {k: v for k, v in found.items() if k != 'seal'}
    assert sealed(rest) == found

def test_before_there_were_formats_it_is_read_as_ever(record):
    before = record.read(record.file)
    gone = dict(run={'format'}, checkpoint={'format', 'versions'}).get(record.kind, {'format', 'versions', 'seal'})
    edited(record.file, lambda info: {k: v for k, v in info.items() if k not in gone}, seal='seal' not in gone)
    again = record.read(record.file)
    if record.kind == 'run': assert {k: v for k, v in before.items() if k not in ('format', 'seal')} == {k: v for k, v in again.items() if k != 'seal'}
    elif record.kind == 'task': assert again.fingerprint == before.fingerprint and again.call == before.call
    elif record.kind == 'checkpoint': assert again[1] == before[1] == dict(epoch=3)
    else: assert again == before

def refused(record):
    "The line that says why it is refused"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try: found = record.read(record.file)
        except TransferError as e: line = str(e)
        else:
            assert found is None, 'it was read'
            line = str(caught[0].message)
    assert '\n' not in line
    return line

@pytest.mark.parametrize('number', [2, 7, 2**63 - 1])
def test_a_later_format_is_refused_and_says_who_wrote_it(record, number):
    edited(record.file, lambda info: info | dict(format=number, versions=dict(info['versions'], tl_nbdev='9.1'), more=[1]))
    with pytest.raises(LaterFormat) as error: record.read(record.file)
    line = str(error.value)
    assert line.startswith(f'{record.file} has format {number} (written by tl_nbdev "9.1"), this version reads format 1, and records from before they had a format: update tl_nbdev, or ')
    assert '\n' not in line

@pytest.mark.parametrize('number', ['1', True, False, 1., 2., 0, -1, None, [1], '1' * 5000])
def test_what_is_no_format_is_refused(record, number):
    edited(record.file, lambda info: info | dict(format=number))
    line = refused(record)
    assert 'has format' in line and (record.kind == 'checkpoint' or str(record.file) in line), line

def test_a_number_without_end_is_refused(record):
    record.file.write_text(record.file.read_text('utf-8').replace('"format": 1', '"format": ' + '9'*400), 'utf-8')
    assert 'too large' in refused(record) and len(refused(record)) < 500

def test_what_was_edited_by_hand_is_refused(record):
    edited(record.file, lambda info: info | dict(model='another', name='another', number=9), seal=False)
    assert 'seal' in refused(record)

@pytest.mark.parametrize('text', ['', '[]', '1', 'null', '{', '{"format": 1}', '\0'])
def test_what_is_no_record_is_refused(record, text):
    record.file.write_text(text, 'utf-8')
    refused(record)


# what is made of a refusal

def test_a_run_of_a_later_format_is_not_made_anew_in_its_place(task, written, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, '_one_run', lambda *args: pytest.fail('trained'))
    shutil.copytree(written['run'][0].parent, tmp_path/'runs')
    file, net = tmp_path/'runs'/written['run'][0].name, pretrained('resnet10t', source='random', size=32)
    def again(): return compare(task, net, ['feature'], epochs=1, out=tmp_path/'runs', bs=4)
    assert len(again()) == 1
    edited(file, lambda info: info | dict(format=2))
    kept = file.read_bytes()
    with pytest.raises(LaterFormat, match='has format 2 .written by tl_nbdev'): again()
    assert file.read_bytes() == kept and not list(tmp_path.rglob('*.torn'))
    with pytest.warns(UserWarning, match='passed over.*has format 2'): assert not kept_runs(task, tmp_path/'runs')
    edited(file, lambda info: {k: v for k, v in info.items() if k != 'format'})
    assert len(again()) == len(kept_runs(task, tmp_path/'runs')) == 1

def test_a_checkpoint_of_a_later_format_is_not_written_over(written, tmp_path):
    kept = Checkpoints(tmp_path, dict(task='cats'))
    for i in range(2): kept.save({'w': torch.zeros(2)}, dict(epoch=i))
    newest = tmp_path/'0'/'checkpoint.json'
    edited(newest, lambda info: info | dict(format=2))
    with pytest.raises(LaterFormat, match='has format 2'): Checkpoints(tmp_path, dict(task='cats')).load()
    assert json.loads(newest.read_text('utf-8'))['format'] == 2

def test_a_job_of_a_later_format_does_not_begin(task, tmp_path):
    exp = Experiment(task, tmp_path/'runs')
    write_about(tmp_path/'runs/jobs/one', dict(kind='run', model='resnet10t', seed=0))
    edited(tmp_path/'runs/jobs/one/job.json', lambda info: info | dict(format=2))
    job, = exp.jobs
    with pytest.raises(LaterFormat, match='job.json has format 2'): job.about
    edited(tmp_path/'runs/task.json', lambda info: info | dict(format=2))
    with pytest.raises(LaterFormat, match='task.json has format 2'): Experiment(task, tmp_path/'runs')
    with pytest.raises(TransferError, match="job.json: can't be read"): Job(tmp_path).about

@pytest.mark.parametrize('number', [0, 4, -1, '3', True, 3., None])
def test_a_saved_model_is_asked_in_the_same_way(tmp_path, number):
    (tmp_path/'transfer.json').write_text(json.dumps(sealed(dict(format=number, sha256='0'*64, files={}))))
    with pytest.raises(TransferError, match='transfer.json has format .*this version reads formats 1 to 3: update tl_nbdev, or save the model again'): folder_record(tmp_path)
