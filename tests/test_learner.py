"The learner decides rightly with few items, and does all that fastai's does."
import copy, json, os, signal, warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import edited, killed, photo, photos, tl
from fastai.basics import (Callback, CrossEntropyLossFlat, F1Score, LabelSmoothingCrossEntropyFlat, Learner, accuracy, before_batch_cb, error_rate,
                           load_learner, trainable_params)
from fastai.callback.all import (BnFreeze, CSVLogger, CutMix, EarlyStoppingCallback, GradientAccumulation, GradientClip, MixedPrecision, MixUp,
                                 ReduceLROnPlateau, SaveModelCallback, ShortEpochCallback)
from fastai.losses import FocalLossFlat
from PIL import Image
from torch import nn
from tl_nbdev.selection.compare import Comparison, Run, compare, kept_runs
from tl_nbdev.vision.features import weights_hash
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import textbook, transfer_learner, watched
from tl_nbdev.training.phases import few_steps
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import FeatureExtraction, FullFineTune, GradualUnfreeze, LPFT, strategy
from tl_nbdev.data.tasks import Loader, RowLoader, evenly, size_of_batches
from tl_nbdev.text.texts import TextTask
from tl_nbdev.training.loop import Accumulate, Rest, touching

def block(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())

def small():
    "A network of four stages and a head, of a few thousand weights; its BatchNorms have seen something"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(block(3, 8), block(8, 8), block(8, 16), block(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(16, 2))
    with torch.no_grad(): net(torch.randn(16, 3, 32, 32))
    return net

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 25), test=.2)

def made(task, **kwargs): return transfer_learner(task, small(), **{'size': 32, 'seed': 0, 'augment': 'flip', **kwargs})

def quiet(learn, how, epochs=None, cbs=(), **kwargs):
    "Train without a word"
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(cbs): learn.transfer(how, epochs, **kwargs)
    return learn


# batches

class Numbers:
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return i

@pytest.mark.parametrize('n, bs', [(126, 64), (65, 64), (9, 8), (8, 8), (3, 8), (1, 4), (41, 8)])
def test_no_item_is_left_out_and_none_is_alone(n, bs):
    sizes = [len(o) for o in evenly(range(n), bs)]
    assert sum(sizes) == n and max(sizes) - min(sizes) <= 1 and max(sizes) <= bs and (n == 1 or min(sizes) > 1)
    for loader in (Loader(Numbers(n), bs=bs, shuffle=True, drop_last=True), RowLoader(torch.arange(n), torch.arange(n), bs, shuffle=True)):
        got = [b[0] if isinstance(b, tuple) else b for b in loader]
        assert [len(b) for b in got] == sizes and len(loader) == len(sizes) and sorted(torch.cat(got).tolist()) == list(range(n))

@pytest.mark.parametrize('workers', [1, 3])
def test_worker_processes_give_the_same_batches(workers):
    plain = [b.tolist() for b in Loader(Numbers(41), bs=8)]
    assert [b.tolist() for b in Loader(Numbers(41), bs=8, num_workers=workers)] == plain

def test_a_fit_sees_every_item(task):
    seen = []
    class Watch(Callback):
        run_valid = False
        def after_batch(self): seen.extend(self.dl.ids)
    for how in ('full', FeatureExtraction(views=2)):
        seen.clear()
        quiet(made(task, bs=16), how, 1, [Watch])
        assert set(seen) == set(range(task.n('train'))) and len(seen) == task.n('train')*(1 if how == 'full' else 2)

def test_the_default_follows_the_number_of_items(task):
    assert [size_of_batches(n, 64) for n in (2, 126, 255, 256, 600, 5000)] == [8, 8, 8, 16, 32, 64] and size_of_batches(5000, 32) == 32
    learn = made(task)
    assert learn.dls.train.bs == 8 == learn.recipe['bs'] and learn.dls.valid.bs == 64
    assert made(task, bs=64).dls.train.bs == task.n('train') and made(task, bs=5).dls.train.bs == 5 # a user's own is obeyed
    few = TextTask.from_df([dict(text=f'a text of {w} number {i}', label=w) for i in range(20) for w in ('red', 'blue')])
    assert few.batch_size() == 8 and few.usual_augment() == 'none'

def test_the_plan_tells_batches_and_steps(task):
    learn, n = made(task), task.n('train')
    plan, dry = learn.plan('lpft', accumulate=2), learn.transfer('lpft', dry_run=True)
    each, head = -(-n//8), -(-n//64) # a head alone goes over rows of features, 64 at once
    halves = -(-head//2), -(-each//2)
    assert f'2 batches of 64, then 8 a step: {halves[0]}, then {halves[1]} steps an epoch, {30*halves[0] + 5*halves[1]:,} in all' in plan.about
    assert f'Batches of 64, then 8: {head}, then {each} steps an epoch, {30*head + 5*each} in all' in dry.about
    assert [(o['batch'], o['steps an epoch'], o['steps in all']) for o in dry] == [(64, head, 30*head), (8, each, 5*each)]
    assert 'Batches of 16:' in made(task, bs=16).plan('feature').about # as the user says
    assert 'Batches of 32: 2 steps an epoch, 10 in all' in made(task, bs=32).plan('full').about

def test_one_item_a_batch_and_batchnorm_are_refused(task):
    with pytest.raises(TransferError, match='batch of one item.*bs=2 or more'): made(task, bs=1).transfer('full', 1)
    with pytest.raises(TransferError, match='bs=0'): made(task, bs=0)

def test_what_is_left_of_an_epoch_makes_a_step_too(task):
    class Steps(Callback):
        n = 0
        def after_step(self): self.n += 1
    count = Steps()
    quiet(made(task, bs=8), 'full', 2, [count], accumulate=3)
    assert count.n == 2*-(-(-(-task.n('train')//8))//3)

def test_one_result_whatever_was_left_to_add_up(task):
    "Accumulated batches are the mean of their losses, also the last ones of an epoch"
    learn, sizes = made(task, bs=8), []
    class Shares(Callback):
        order = 7 # after `Accumulate`
        def after_loss(self):
            if self.training: sizes.append(float((self.loss_grad/self.loss).detach()))
    quiet(learn, 'full', 1, [Shares], accumulate=2)
    n = len(learn.dls.train)
    assert np.allclose(sizes, [.5]*(n - n % 2) + [1.]*(n % 2))


# BatchNorm

def buffers(learn): return {k: v.clone() for k, v in learn.model.body.state_dict().items() if 'running' in k}
def moved(before, learn): return any(not torch.equal(v, before[k]) for k, v in buffers(learn).items())

@pytest.mark.parametrize('train_bn, moves', [(None, False), (True, True), (False, True)])
def test_statistics_rest_where_steps_are_few(task, train_bn, moves):
    learn = made(task, train_bn=train_bn)
    before, weights = buffers(learn), {n: m.weight.clone() for n, m in learn.model.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    report = learn.frozen('full')
    assert all(('eval' in o['BatchNorm']) != moves for o in list(report)[:-1]) and 'train' in report[-1]['BatchNorm']
    assert ('keeps the statistics' in learn.plan('full').about) != moves
    quiet(learn, 'full', 1)
    assert moved(before, learn) == moves
    assert all(not torch.equal(m.weight, weights[n]) for n, m in learn.model.body.named_modules() if isinstance(m, nn.BatchNorm2d)) # they train all the same
    assert [o['BatchNorm'] for o in learn.frozen()] == [o['BatchNorm'] for o in report]
    assert learn.rest.norms == () # and what the user does next is fastai's
    before = buffers(learn)
    with learn.no_bar(), learn.no_logging(): learn.unfreeze(); learn.fit_one_cycle(1, 1e-3)
    assert moved(before, learn)

def test_many_steps_or_no_source_and_statistics_follow(task):
    learn = made(task)
    assert 'keeps the statistics' not in learn.plan('full', few_steps//len(learn.dls.train) + 1).about
    fresh = transfer_learner(task, 'mobilenetv3_small_050', source='random', size=32, seed=0)
    assert 'keeps the statistics' not in fresh.plan('full').about
    before = buffers(fresh)
    quiet(fresh, 'full', 1)
    assert moved(before, fresh)

@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_whoever_interrupts_finds_the_precision_that_was_there(task, error):
    from tl_nbdev.networks.modes import Mode
    learn, x = made(task, mode=Mode('bf16', 'channels_last')), torch.ones(2, 3, 32, 32)
    def interrupt(*args): raise error
    for go in (lambda: quiet(learn, 'full', 1), lambda: learn.fit(1), learn.lr_find, learn.validate, learn.get_preds):
        hook = next(learn.model.body.children()).register_forward_hook(interrupt)
        with learn.no_bar(), learn.no_logging(), pytest.raises(error): go()
        hook.remove()
        assert not torch.is_autocast_enabled('cpu') and not torch.overrides._len_torch_function_stack() and learn.model(x).dtype == torch.float32

def test_train_bn_trains_norms_below_what_a_strategy_trains(task):
    learn = made(task, train_bn=True)
    norms = {n: m.weight.detach().clone() for n, m in learn.model.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    convs = {n: m.weight.detach().clone() for n, m in learn.model.body.named_modules() if isinstance(m, nn.Conv2d)}
    quiet(learn, 'feature', 1)
    now = dict(learn.model.body.named_modules())
    assert all(not torch.equal(now[n].weight, w) for n, w in norms.items()) and all(torch.equal(now[n].weight, w) for n, w in convs.items())


# what a user may give

@pytest.mark.parametrize('metrics, names', [(error_rate, ['error_rate']), ([accuracy, F1Score()], ['accuracy', 'f1_score']), ([], [])])
def test_metrics(task, metrics, names):
    learn = made(task, metrics=metrics)
    for how in ('feature', 'full'): quiet(learn, how, 1)
    assert [m.name for m in learn.metrics] == names and len(learn.recorder.values[-1]) == 2 + len(names)

@pytest.mark.parametrize('loss', [LabelSmoothingCrossEntropyFlat(), FocalLossFlat(), nn.CrossEntropyLoss(), nn.functional.cross_entropy],
                         ids=['label smoothing', 'focal', 'module', 'function'])
def test_losses(task, loss):
    learn = made(task, loss_func=loss)
    for how in ('feature', 'last:1'): quiet(learn, how, 1)
    assert learn.loss_func is loss and 0 <= learn.evaluate().value <= 1
    with pytest.raises(TransferError, match='give them to your loss_func'): made(task, loss_func=loss, class_weights=True)

def test_a_splitter_gives_fastai_s_verbs_their_groups_and_strategies_go_by_stages(task):
    halves = lambda net: [list(net.body.parameters()), list(net.head.parameters())]
    learn, plain = made(task, splitter=halves), made(task)
    assert len(learn.opt.param_lists) == 2 and not any(o.requires_grad for o in learn.model.body.parameters() if o.ndim > 1)
    with learn.no_bar(), learn.no_logging():
        learn.unfreeze()
        learn.fit_one_cycle(1, slice(1e-5, 1e-3))
        assert all(o.requires_grad for o in learn.model.parameters())
        learn.freeze_to(-1)
        learn.fit(1)
    again = made(task, splitter=halves)
    quiet(again, 'last:2', 1)
    quiet(plain, 'last:2', 1)
    assert all(torch.equal(v, plain.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert len(again.opt.param_lists) == 2 and len(plain.opt.param_lists) == len(stages(plain.model))
    again.frozen()

@pytest.mark.parametrize('given, weights', [({'round': 2.}, [2, 1]), ([1, 3], [1, 3]), (np.array([1., 3.]), [1, 3]), (torch.tensor([1, 3]), [1, 3]), ({}, [1, 1])])
def test_class_weights(task, given, weights): assert made(task, class_weights=given).loss_func.func.weight.tolist() == weights

@pytest.mark.parametrize('given, words', [({'round': 1, 'rond': 2}, 'no class rond. It has round, square'), ([1, 2, 3], '3 numbers for 2 classes'),
                                          ([1, float('nan')], 'use positive numbers'), ([-1, 1], 'use positive numbers'), ([0, 0], 'use positive numbers')])
def test_class_weights_that_do_not_fit(task, given, words):
    with pytest.raises(TransferError, match=words): made(task, class_weights=given)

def test_classes_called_by_numbers_may_be_weighted_by_numbers(tmp_path):
    numbers = ImageTask.from_folder(_renamed(photos(tmp_path, 6)))
    assert made(numbers, class_weights={1: 3}).loss_func.func.weight.tolist() == [1, 3]

def _renamed(folder):
    for i, o in enumerate(sorted(folder.iterdir())): o.rename(folder/str(i))
    return folder

def test_what_fastai_does_works_as_ever(task, tmp_path):
    learn, files = made(task, num_workers=1, path=tmp_path), task.part('test').item.to_list()
    quiet(learn, 'feature', 1)
    assert learn.dls.train.fake_l.num_workers == 1
    with learn.no_bar(), learn.no_logging():
        probs = learn.get_preds(dl=learn.dls.test_dl(files))[0]
        assert np.allclose(probs, learn.evaluate().probs, atol=1e-4)
        assert len(learn.get_preds(ds_idx=0)[0]) == task.n('train') and len(learn.tta()[0]) == task.n('valid')
        learn.fit_one_cycle(1, 1e-3); learn.fine_tune(1); learn.lr_find(num_it=12, show_plot=False)
        learn.export()
        again = load_learner(tmp_path/'export.pkl')
        assert again.predict(files[0])[0] == learn.predict(files[0])[0]

def test_new_items_in_any_form_make_a_loader(task, tmp_path):
    learn, files = made(task, path=tmp_path), task.part('test').item.to_list()
    quiet(learn, 'feature', 1)
    for o in learn.model.head.parameters(): o.data.mul_(5000) # so that answers differ
    want = np.stack([learn.predict(f)[2].numpy() for f in files])
    assert np.ptp(want[:, 0]) > .01
    pictures = [Image.open(f).convert('RGB') for f in files]
    forms = [files, [*map(str, files)], pictures, [*map(np.asarray, pictures)], [f.read_bytes() for f in files], (f for f in files),
             pd.DataFrame(dict(file=[*map(str, files)], label='x')), [dict(bytes=f.read_bytes(), path=None) for f in files]]
    asked = lambda some, items: some.get_preds(dl=some.dls.test_dl(items))[0].numpy()
    with learn.no_bar(), learn.no_logging():
        for items in forms: assert np.allclose(asked(learn, items), want, atol=1e-3)
        assert np.allclose(learn.get_preds(dl=learn.dls.test_dl(files, bs=2))[0], want, atol=1e-4)
        learn.export()
        assert np.allclose(asked(load_learner(tmp_path/'export.pkl'), [*map(str, files)]), want, atol=1e-4)
        with pytest.raises(TransferError, match='nowhere.png: no such file'): asked(learn, [tmp_path/'nowhere.png'])
        with pytest.raises(TransferError, match='nothing in it'): asked(learn, [])

def test_new_texts_in_any_form_make_a_loader(tmp_path):
    df = pd.DataFrame([(f'{word} is what number {i} is about', word) for i in range(12) for word in ('rain', 'wool')], columns=['text', 'label'])
    learn = transfer_learner(TextTask.from_df(df), 'bert-tiny', seed=0, size=16, path=tmp_path)
    quiet(learn, 'feature', 2)
    texts = df.text.to_list()
    want = np.stack([learn.predict(o)[2].numpy() for o in texts])
    assert np.ptp(want[:, 0]) > .01
    asked = lambda some, items: some.get_preds(dl=some.dls.test_dl(items))[0].numpy()
    with learn.no_bar(), learn.no_logging():
        for items in (texts, tuple(texts), df, df[['text']], df.text, df.to_dict('records'), iter(texts)): assert np.allclose(asked(learn, items), want, atol=1e-3)
        learn.export()
        assert np.allclose(asked(load_learner(tmp_path/'export.pkl'), texts), want, atol=1e-4)
        with pytest.raises(TransferError, match='item 1: there is no text'): asked(learn, ['fine', ' '])
        with pytest.raises(TransferError, match='item 0 is .*: a text is wanted'): asked(learn, [('a', 'b')])


# callbacks

class Erase(Callback):
    "As somebody might write it"
    run_valid = False
    def before_batch(self): x = self.xb[0].clone(); x[:, :, 10:20, 10:20] = 0; self.learn.xb = (x,)

class Look(Callback):
    "Looks at pixels, in valid too"
    def before_batch(self): assert self.xb[0].shape[1:] == (3, 32, 32)

class Plot(Callback):
    "What a graph would be drawn from"
    def after_epoch(self): self.drawn = [len(self.recorder.losses), len(self.recorder.values), len(self.learn.dls.train)]

callbacks = dict(cutmix=CutMix, mixup=MixUp, erase=Erase, look=Look, function=lambda: before_batch_cb(lambda self, x, y: (x, y)), bnfreeze=BnFreeze,
                 save=lambda: SaveModelCallback(fname='best'), stop=lambda: EarlyStoppingCallback(patience=1), plateau=ReduceLROnPlateau, log=CSVLogger,
                 clip=lambda: GradientClip(.1), accumulate=lambda: GradientAccumulation(16), plot=Plot, half=MixedPrecision, short=lambda: ShortEpochCallback(.5))
hows = dict(feature=FeatureExtraction(epochs=2), lpft=LPFT(probe=2, epochs=1), gradual=GradualUnfreeze(epochs=2), last=strategy('last:2'), full=FullFineTune(epochs=1))

@pytest.fixture(scope='module')
def ready(task, tmp_path_factory):
    "A learner, and how to make it new again"
    learn = made(task, path=tmp_path_factory.mktemp('learner'), bs=16)
    start = copy.deepcopy(learn.model.state_dict())
    def again():
        learn.model.load_state_dict(start)
        learn.transfers = []
        learn.create_opt()
        return learn
    return again

@pytest.mark.parametrize('how', hows)
@pytest.mark.parametrize('callback', callbacks)
def test_every_callback_with_every_strategy(ready, callback, how, capsys):
    learn, cbs = ready(), len(ready().cbs)
    before = weights_hash(learn.model.head)
    quiet(learn, hows[how], 1 if how == 'last' else None, [callbacks[callback]()])
    assert weights_hash(learn.model.head) != before and 0 <= learn.evaluate().value <= 1 and len(learn.cbs) == cbs
    assert learn.loss_func.func.reduction == 'mean' and all(torch.isfinite(p).all() for p in learn.model.parameters())
    sees = callback in ('cutmix', 'mixup', 'erase', 'look', 'function')
    assert ("can't be trained on cached features" in capsys.readouterr().out) == (sees and how in ('feature', 'lpft', 'gradual'))
    if callback == 'plot': assert all(learn.transfers)

def test_a_callback_that_sees_images_gives_the_same_where_it_changes_nothing(task):
    "The slow path and the fast one end with the same answers, but for rounding"
    class Same(Callback):
        run_valid = False
        def before_batch(self): self.learn.xb = (self.xb[0].clone(),)
    answers = []
    for cbs in ([], [Same()]):
        learn = transfer_learner(task, 'squeezenet1_1', size=64, augment='none', bs=64, seed=0) # one batch, whose order doesn't matter
        answers.append(quiet(learn, FeatureExtraction(lr=.02, epochs=20), None, cbs).evaluate('valid').probs)
    assert np.ptp(answers[0]) > .5 and np.allclose(*answers, atol=1e-3)

@pytest.mark.parametrize('how', ['feature', 'last:2', 'full'])
def test_the_best_weights_are_saved_and_come_back(task, tmp_path, how):
    "Here the best are those with the largest loss, which aren't the last"
    learn, seen = made(task, path=tmp_path), []
    class Watch(Callback):
        order = 62
        def after_epoch(self): seen.append((float(self.recorder.values[-1][1]), weights_hash(self.learn.model)))
    quiet(learn, how, 5, [SaveModelCallback(fname='best', comp=np.greater), Watch()])
    now = weights_hash(learn.model)
    assert max(seen)[1] in (now, weights_hash(learn.model.head)) and max(seen) != seen[-1]
    with torch.no_grad():
        for p in learn.model.parameters(): p.zero_()
    learn.load('best', with_opt=False)
    assert weights_hash(learn.model) == now # the file holds the whole network

def test_what_is_recorded_is_what_was_trained(task, tmp_path):
    learn = made(task, path=tmp_path)
    quiet(learn, FeatureExtraction(lr=5., epochs=20), cbs=[EarlyStoppingCallback(patience=2)])
    did = learn.transfers[-1]
    assert did['epochs'] == len(learn.recorder.values) == did['phases'][0]['epochs'] < 20 == did['phases'][0]['planned']
    folder = learn.save_transfer(tmp_path/'saved', check=False)
    assert f'feature: {did["epochs"]} epochs' in (folder/'README.md').read_text() and json.loads((folder/'transfer.json').read_text())['transfers'][-1]['epochs'] == did['epochs']
    runs = compare(task, small(), [FullFineTune(lr=5., epochs=9)], size=32, augment='flip', cbs=[EarlyStoppingCallback(patience=1)])
    assert runs[0].epochs < 9 and runs.rows()[0]['epochs'] == runs[0].epochs
    quiet(learn, 'full', 2, [ShortEpochCallback(.4)])
    assert 0 < learn.transfers[-1]['epochs'] < 2
    assert learn.frozen().heads

def test_our_own_callbacks_and_fastais_known_ones_see_rows():
    assert touching([Rest(), Accumulate(2), BnFreeze(), CSVLogger(), GradientClip(), MixedPrecision()]) == []
    assert len(touching([CutMix(), MixUp(), Erase(), callbacks['function']()])) == 4

def test_half_precision_of_the_users_own_is_not_mixed_with_ours(task):
    quiet(made(task), 'full', 1, [MixedPrecision()])
    assert not torch.is_autocast_enabled('cpu')

def test_pairs_of_mixed_items_are_refused(task):
    with pytest.raises(TransferError, match='leave out MixUp'): quiet(made(task), 'contrastive', 1, [MixUp()])


# killed and resumed

@pytest.mark.parametrize('how, accumulate, cbs', [('full', 3, []), ('full', 1, [MixUp]), ('full', 2, [lambda: SaveModelCallback(fname='kept')]), ('last:2', 1, [CutMix])],
                         ids=['accumulated', 'mixed', 'tracked', 'cut'])
def test_it_goes_on_where_it_was(task, tmp_path, monkeypatch, how, accumulate, cbs):
    monkeypatch.setattr('tl_nbdev.training.loop.KeepState.often', 0.)
    class Die(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.train_iter == 8: os.kill(os.getpid(), signal.SIGKILL)
    def run(*more, **kwargs): return quiet(made(task, path=tmp_path), how, 2, [o() for o in cbs] + list(more), accumulate=accumulate, **kwargs)
    want = weights_hash(run().model)
    assert killed(lambda: run(Die(), folder=tmp_path/'run', resume=True))
    assert weights_hash(run(folder=tmp_path/'run', resume=True).model) == want

def test_what_was_trained_otherwise_is_not_taken_for_the_same(task, tmp_path):
    learn = made(task)
    quiet(learn, 'last:1', 1, folder=tmp_path/'run', resume=True)
    for file in (tmp_path/'run').glob('*/checkpoint.json'): # as it was written before batches were even
        edited(file, lambda o: o | dict(about=o['about'] | dict(settings={k: v for k, v in o['about']['settings'].items() if k != 'way of training'})))
    with pytest.raises(TransferError, match='another settings'): quiet(made(task), 'last:1', 1, folder=tmp_path/'run', resume=True)
    compare(task, small(), ['feature'], epochs=1, size=32, augment='flip', out=tmp_path/'runs')
    assert len(kept_runs(task, tmp_path/'runs')) == 1
    file = next((tmp_path/'runs').glob('*.json'))
    edited(file, lambda o: o | dict(about={k: v for k, v in o['about'].items() if k != 'way of training'}))
    assert len(kept_runs(task, tmp_path/'runs')) == 0
    with pytest.raises(TransferError, match='another way of training'): compare(task, small(), ['feature'], epochs=1, size=32, augment='flip', out=tmp_path/'runs')
