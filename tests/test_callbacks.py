"Callbacks that people already use go through `learn.transfer` as through fastai's own fit, whatever the strategy and however many phases it has."
import csv, sys, types

import pytest, torch
from conftest import photos
from fastai.basics import DataLoaders, Learner
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from tl_nbdev.strategies.named import LPFT
from tl_nbdev.text.texts import TextTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.vision.images import ImageTask
from torch import nn

strategies = ['feature', 'last:1', 'full']
two_phases = LPFT(probe=2, epochs=2) # the head on rows of features, then everything

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 8), valid=.3, test=.2)

@pytest.fixture
def trained(task, tmp_path):
    "A function that carries out a strategy with callbacks"
    def train(how, *cbs, epochs=None, of=task, model='squeezenet1_1', **more):
        learn = transfer_learner(of, model, size=64, seed=0, bs=4, cbs=[*cbs], path=tmp_path, **more)
        with watched(learn): learn.transfer(how, epochs)
        return learn
    return train

class Steps(Callback):
    "What any logger does that counts by steps, such as one that calls mlflow.log_metric"
    def __init__(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append((self.train_iter, self.learn.before + self.epoch))


# those of fastai that watch a metric

@pytest.mark.parametrize('how', strategies)
def test_the_best_epoch_is_kept(how, trained, tmp_path):
    kept = SaveModelCallback(monitor='accuracy', fname='best', every_epoch=True)
    learn = trained(how, kept, epochs=2)
    assert len([*(tmp_path/'models').glob('best_*.pth')]) == 2
    learn.load('best_1', weights_only=False) # the whole network, also where only its head was trained
    best = SaveModelCallback(fname='top')
    assert trained(how, best, epochs=2).transfers[0]['epochs'] == 2 and best.best < float('inf')

@pytest.mark.parametrize('how', strategies)
def test_training_is_stopped_early_and_the_record_says_so(how, trained):
    learn = trained(how, EarlyStoppingCallback(min_delta=10.), epochs=4)
    phase, = learn.transfers[0]['phases']
    assert (phase['epochs'], phase['planned']) == (2, 4)

@pytest.mark.parametrize('how', strategies)
def test_the_rate_is_reduced(how, trained, capsys):
    trained(how, ReduceLROnPlateau(min_delta=10., factor=1e3), epochs=3)
    assert capsys.readouterr().out.count('reducing lr to') == 2


# logs

def rows(file): return [*csv.DictReader(file.open(encoding='utf-8'))]

@pytest.mark.parametrize('how', strategies)
def test_a_log_has_a_line_an_epoch(how, trained, tmp_path):
    learn = trained(how, CSVLogger(tmp_path/'log.csv'), epochs=3)
    log = rows(tmp_path/'log.csv')
    assert [int(row['epoch']) for row in log] == [0, 1, 2] and float(log[-1]['valid_loss']) == pytest.approx(learn.recorder.values[-1][1])

def test_a_log_of_two_phases_has_both_and_a_second_training_begins_anew(trained, tmp_path):
    learn = trained(two_phases, CSVLogger(tmp_path/'log.csv'))
    assert [int(row['epoch']) for row in rows(tmp_path/'log.csv')] == [0, 1, 2, 3]
    with watched(learn): learn.transfer('full', 1)
    assert [int(row['epoch']) for row in rows(tmp_path/'log.csv')] == [0]
    with watched(learn): learn.fit(2)
    assert [int(row['epoch']) for row in rows(tmp_path/'log.csv')] == [0, 1]

class Power(Exception): pass

class Cut(Callback):
    "The power fails in the second epoch of the second phase"
    order = 70
    def after_batch(self):
        if self.training and self.learn.before and self.epoch == 1: raise Power('out')

def test_a_log_goes_on_where_a_training_was_cut_off(task, tmp_path):
    def begin(*cbs): return transfer_learner(task, 'squeezenet1_1', size=64, seed=0, bs=4, path=tmp_path, cbs=[CSVLogger(tmp_path/'log.csv'), *cbs])
    with pytest.raises(Power), watched(cut := begin(Cut())) : cut.transfer(two_phases, resume=True, folder=tmp_path/'run')
    before = rows(tmp_path/'log.csv')
    with watched(again := begin(steps := Steps())): again.transfer(two_phases, resume=True, folder=tmp_path/'run')
    after = rows(tmp_path/'log.csv')
    assert again.resumed and after[:len(before)] == before and [int(row['epoch']) for row in after][-1] == 3
    assert [step for step, _ in steps.seen] == sorted({step for step, _ in steps.seen}) and steps.seen[-1][1] == 3
    assert [phase['epochs'] for phase in again.transfers[0]['phases']] == [2, 2]

@pytest.mark.parametrize('how', [*strategies, two_phases, 'gradual'])
def test_steps_and_epochs_are_counted_on(how, trained):
    learn = trained(how, steps := Steps(), epochs=None if how is two_phases else 4)
    counted, epochs = [step for step, _ in steps.seen], [epoch for _, epoch in steps.seen]
    assert counted == [*range(1, len(counted) + 1)] and sorted({*epochs}) == [0, 1, 2, 3]
    assert sum(phase['epochs'] for phase in learn.transfers[0]['phases']) == 4 and 'planned' not in str(learn.transfers)


# TensorBoard

def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return [o.step for o in events.Scalars(name)], events.Tags()

@pytest.mark.parametrize('how', [*strategies, two_phases])
def test_tensorboard_is_told_of_losses(how, trained, tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    trained(how, TensorBoardCallback(tmp_path/'tb', trace_model=False, log_preds=False), epochs=None if how is two_phases else 4)
    epochs, tags = scalars(tmp_path/'tb', 'valid_loss')
    assert len(epochs) == 4 and epochs == sorted({*epochs}) and 'accuracy' in tags['scalars']

@pytest.mark.parametrize('how', ['feature', 'last:1', two_phases])
def test_tensorboard_shows_images_and_the_network(how, trained, tmp_path, capsys):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    trained(how, TensorBoardCallback(tmp_path/'tb'), epochs=None if how is two_phases else 1)
    tags = scalars(tmp_path/'tb', 'train_loss')[1]
    assert tags['graph'] and ('TensorBoardCallback: it shows items or draws the network' in capsys.readouterr().out) == (how != 'last:1')

def test_without_a_folder_of_its_own_two_phases_make_one_log(trained, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    monkeypatch.chdir(tmp_path)
    trained(two_phases, board := TensorBoardCallback(trace_model=False, log_preds=False))
    where, = (tmp_path/'runs').iterdir()
    assert board.log_dir is None and len(scalars(where, 'valid_loss')[0]) == 4

def test_tensorboard_of_texts(trained, tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    texts = TextTask.from_df(dict(text=[f'{word} film {i}' for i in range(8) for word in ('a fine', 'a weak')], label=['good', 'bad']*8), valid=.3)
    trained('full', TensorBoardCallback(tmp_path/'tb', trace_model=False, log_preds=False), epochs=2, of=texts, model='bert-tiny')
    assert len(scalars(tmp_path/'tb', 'valid_loss')[0]) == 2


# W&B, or in its place what takes down what it would be sent

class Recorded:
    "What fastai's callback asks of the package `wandb`, taken down"
    def __init__(self): self.step, self.summary, self.sent = 0, {}, []
    def log(self, what, step=None):
        assert step is None or step >= self.step, 'steps go back: W&B drops what comes late'
        self.step = self.step if step is None else step
        self.sent.append((step, what))
        self.summary.update(what)

@pytest.fixture
def wandb(monkeypatch):
    try: import wandb
    except ImportError: pass
    else: pytest.skip('with the package itself: see the test below')
    run = Recorded()
    package = types.SimpleNamespace(run=run, log=run.log, config=types.SimpleNamespace(update=lambda *args, **kwargs: None), watch=lambda *args, **kwargs: None,
                                    Table=list, Image=object, Html=object, Artifact=object)
    monkeypatch.setitem(sys.modules, 'wandb', package)
    monkeypatch.delitem(sys.modules, 'fastai.callback.wandb', raising=False)
    yield run
    sys.modules.pop('fastai.callback.wandb', None)

def works_alone(callback):
    "Does it go through a Learner of fastai's own? In some versions it asks numbers for their attributes"
    pairs = [(torch.zeros(1), torch.zeros(1))]*4
    learn = Learner(DataLoaders.from_dsets(pairs, pairs, bs=2, num_workers=0), nn.Linear(1, 1), loss_func=nn.MSELoss(), cbs=callback)
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    except TypeError as e: return 'vars() argument' not in str(e)
    return True

@pytest.mark.parametrize('how', [*strategies, two_phases])
def test_wandb_is_told_of_losses(how, trained, wandb):
    from fastai.callback.wandb import WandbCallback
    if not works_alone(WandbCallback(log_preds=False)): pytest.skip('fastai\'s callback fails with every Learner in these versions of fastai and fastcore')
    wandb.sent.clear()
    trained(how, WandbCallback(log_preds=False), epochs=None if how is two_phases else 4)
    assert sum('valid_loss' in what for _, what in wandb.sent) == 4

class Told(Callback):
    "What the how-to page shows: losses told to W&B by step"
    order = 60
    def after_epoch(self):
        import wandb
        wandb.log(dict(zip(self.recorder.metric_names[1:-1], self.recorder.log[1:])), step=self.train_iter)

@pytest.mark.parametrize('how', [*strategies, two_phases])
def test_a_callback_of_ones_own_tells_wandb(how, trained, wandb):
    trained(how, Told(), epochs=None if how is two_phases else 4)
    steps = [step for step, _ in wandb.sent]
    assert len(steps) == 4 and steps == sorted({*steps}) and 'valid_loss' in wandb.summary

def test_wandb_itself_offline(trained, tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    from fastai.callback.wandb import WandbCallback
    monkeypatch.chdir(tmp_path)
    wandb.init(mode='disabled')
    if not works_alone(WandbCallback(log_preds=False)): pytest.skip('fastai\'s callback fails with every Learner in these versions')
    assert trained(two_phases, WandbCallback(log_preds=False)).transfers
    wandb.finish()

def test_mlflow_takes_down_steps(trained, tmp_path):
    mlflow = pytest.importorskip('mlflow')
    class Log(Callback):
        "As MLflow's page on PyTorch does it"
        order = 60
        def after_epoch(self): mlflow.log_metric('valid_loss', self.recorder.values[-1][1], step=self.learn.before + self.epoch)
    mlflow.set_tracking_uri((tmp_path/'mlruns').as_uri())
    with mlflow.start_run() as run: trained(two_phases, Log())
    kept = mlflow.MlflowClient().get_metric_history(run.info.run_id, 'valid_loss')
    assert [o.step for o in kept] == [0, 1, 2, 3]
