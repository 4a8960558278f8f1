"The laws of detectors in transfer: what a strategy freezes stays, both heads learn, and what was learned is kept, whatever the detector."
import json, os, signal, subprocess, sys, warnings

import numpy as np
import pytest
import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.interpret import Interpretation
from PIL import Image, ImageOps
from children import libraries, python
from conftest import clocked
from scenes import drawn, modules, named, start_of
from tl_nbdev.adaptation.gap import domain_gap
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.answer import rows_of
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.modality import detector_pretrained
from tl_nbdev.boxes.network import DetectorPretrained
from tl_nbdev.networks.modes import Mode
from tl_nbdev.networks.stages import stages
from tl_nbdev.selection.choose import advise
from tl_nbdev.selection.compare import compare
from tl_nbdev.strategies.strategy import BitFit, FeatureExtraction, FineTune, FullFineTune, L2SP, LPFT
from tl_nbdev.training.freezing import at_boundary, freeze_phase
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer

hows = dict(feature=FeatureExtraction(epochs=1), last2=FineTune(2, epochs=1), full=FullFineTune(epochs=1), lpft=LPFT(probe=1, epochs=1),
            bitfit=BitFit(epochs=1), l2sp=L2SP() + FineTune(1, epochs=1))
detectors = [*named[:5], *modules]
quick = ('yolov3-tiny', 'feature'), ('yolov3-tiny', 'lpft'), ('faster_rcnn:mobilenetv2_050', 'last2'), ('DETR', 'bitfit'), ('RT-DETR v2', 'l2sp'), ('YOLOS', 'full'), \
        ('ssdlite320_mobilenet_v3_large', 'feature'), ('LW-DETR', 'last2'), ('FCOS', 'bitfit'), ('Deformable DETR', 'feature'), ('D-FINE', 'last2'), ('RF-DETR', 'feature')
all_pairs = [(net, how) for net in (*detectors, *named[5:]) for how in hows]
matrix = [pytest.param(*pair, marks=() if pair in quick else pytest.mark.slow, id='-'.join(pair)) for pair in all_pairs]

@pytest.fixture(autouse=True)
def quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('scenes')

@pytest.fixture(scope='module')
def task(folder): return DetectionTask.from_coco(drawn(folder, 14), valid=.2, test=.2, name='scenes')

def learner(task, name, **kwargs): return transfer_learner(task, **{**dict(size=64, bs=4, seed=0), **start_of(name), **kwargs})

def transfer(learn, how, *args, **kwargs):
    with watched(learn): return learn.transfer(how, *args, **kwargs)

def copied(net): return {name: value.clone() for name, value in net.state_dict().items()}

def owners(names): return {name.rpartition('.')[0] for name in names}

def halves(names):
    "Parameters of the last stage by what they say: the class, and the place"
    of_class = [name for name in names if any(word in name for word in ('cls', 'class', 'obj', 'score'))]
    of_place = [name for name in names if any(word in name for word in ('bbox', 'box', 'reg'))]
    return of_class, [name for name in of_place if name not in of_class]


# what a strategy freezes, and what learns under each

@pytest.mark.parametrize('name, how', matrix)
def test_what_a_strategy_freezes_stays_and_both_heads_learn(task, name, how):
    learn = learner(task, name)
    net, ss, before = learn.model, stages(learn.model), copied(learn.model)
    may = {each for phase in hows[how].resolved(ss) for each in phase.params(ss)}
    same = {id(param): each for each, param in net.named_parameters()}
    params = dict(net.named_parameters(remove_duplicate=False))
    transfer(learn, hows[how])
    after = net.state_dict()
    assert after.keys() == before.keys() and [each.params.keys() for each in stages(net)] == [each.params.keys() for each in ss]
    trains = {each for each, param in params.items() if same.get(id(param), each) in may}
    still = owners(params.keys() - trains) - owners(trains)
    for each, value in before.items():
        frozen = each not in trains if each in params else each.rpartition('.')[0] in still
        if frozen: assert torch.equal(value, after[each]), f'{each} changed'
    assert all(torch.isfinite(value).all() for value in after.values() if value.is_floating_point())
    changed = {each for each in trains if not torch.equal(before[each], after[each])}
    for half in halves(ss[-1].params):
        if half: assert changed & set(half), half
    assert changed & ss[-1].params.keys()
    for phase in hows[how].resolved(ss): # each stage that trains did
        for i in phase.which(ss):
            if ss[i].params.keys() & may: assert changed & ss[i].params.keys(), ss[i].name

@pytest.mark.parametrize('name', ['yolov3-tiny', 'RetinaNet', 'DETR', 'RT-DETR v2', pytest.param('faster_rcnn:mobilenetv2_050', marks=pytest.mark.slow),
                                  *(pytest.param(name, marks=pytest.mark.slow) for name in ('Conditional DETR', 'RF-DETR', 'LW-DETR', 'YOLOS', 'FCOS', 'SSDlite'))]) # D-FINE's losses weigh by overlap: they begin small where nothing overlaps
def test_full_fine_tuning_lowers_the_loss(task, name):
    learn = learner(task, name, augment='none')
    before = learn.validate(ds_idx=0)[0]
    transfer(learn, FullFineTune(epochs=6, lr=1e-3))
    assert learn.validate(ds_idx=0)[0] < before


# what is frozen sees each photo, and its mirror image, once

def mirrored(file, label, to):
    with Image.open(file) as photo: ImageOps.mirror(photo).save(to/file.name)
    wide = label['size'][0]
    return to/file.name, {**label, 'things': [[name, wide - x1, y0, wide - x0, y1, crowd] for name, x0, y0, x1, y1, crowd in label['things']]}

@pytest.mark.parametrize('name', ['yolov3-tiny', 'faster_rcnn:mobilenetv2_050'])
def test_a_mirrored_photo_comes_with_its_own_boxes(task, tmp_path, name):
    learn, train = learner(task, name, augment='flip'), task.part('train')
    freeze_phase(learn, stages(learn.model), FeatureExtraction().phases[0])
    files, labels = zip(*(mirrored(row.item, row.label, tmp_path) for row in train.itertuples()))
    with at_boundary(learn, 1) as frozen:
        loader, n = learn.dls.train, len(train)
        assert loader.views == 2 and len(loader.rows) == 2*n and len(loader) == -(-n//loader.bs)
        assert torch.allclose(loader.rows[list(range(n, 2*n))], frozen.all(list(files)), atol=1e-3)
        assert not torch.allclose(loader.rows[list(range(n))], frozen.all(list(files)), atol=1e-3)
        assert torch.allclose(loader.y[n:], task.answer.tensor(list(labels)), atol=1e-6)
        drawn = [y for _ in range(20) for _, y in loader] # each photo once an epoch, by chance as it is or mirrored
        assert sum(map(len, drawn)) == 20*n and any(torch.equal(y, loader.y[n]) for each in drawn for y in each)

def test_photos_that_are_only_mirrored_pass_the_frozen_part_twice(task, tmp_path, monkeypatch):
    from tl_nbdev.base.settings import settings
    monkeypatch.setenv('TL_CACHE', str(tmp_path))
    learn, passes = learner(task, 'yolov3-tiny', augment='flip'), []
    run = type(learn.frozen_now).__call__
    monkeypatch.setattr(type(learn.frozen_now), '__call__', lambda self, pixels: (passes.append(len(pixels)), run(self, pixels))[1])
    transfer(learn, FeatureExtraction(epochs=4))
    assert settings().cache == tmp_path and sum(passes) == 2*task.n('train') + task.n('valid')


# what was learned is kept

def boxes(predictor, items): return np.stack([probs for _, probs, _ in predictor.answers(items)])

slowly = ('fasterrcnn_mobilenet_v3_large_320_fpn', 'Conditional DETR', 'D-FINE', 'RF-DETR', 'RT-DETR', 'retinanet:mobilenetv2_050')

@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if name in slowly else ()) for name in detectors])
def test_saved_and_read_again_it_finds_the_same_boxes(task, tmp_path, name):
    learn, items = learner(task, name), task.part('test').item.to_list()
    transfer(learn, 'last:1', 1)
    fast, slow = learn.evaluate(), learn.evaluate(fast=False)
    assert fast.value == pytest.approx(slow.value, abs=1e-6) and task.answer.apart(fast.probs, slow.probs) < 1e-3
    want = boxes(learn.predictor(), items)
    assert np.allclose(want, fast.probs, atol=1e-4) or task.answer.apart(want, fast.probs) < 1e-3
    learn.save_transfer(tmp_path/'saved', check=False)
    handed_in = {}
    if learn.pretrained.library == 'module': # such a network can't be made by its name
        with pytest.raises(TransferError, match='body=the_module'): load_transfer(tmp_path/'saved')
        handed_in = dict(body=start_of(name)['model'])
    again = load_transfer(tmp_path/'saved', **handed_in)
    got = boxes(again, items)
    assert task.answer.apart(want, got) < 1e-3, np.abs(want - got).max()
    assert (rows_of(got)[..., 1] >= 0).all() and again.answer == task.answer

@pytest.mark.parametrize('name', ['yolov3-tiny', pytest.param('faster_rcnn:mobilenetv2_050', marks=pytest.mark.slow), pytest.param('DETR', marks=pytest.mark.slow)])
def test_a_fresh_process_finds_the_same_boxes(task, tmp_path, name):
    learn = learner(task, name)
    transfer(learn, 'feature', 1)
    learn.save_transfer(tmp_path/'saved', check=False)
    code = '''import sys, numpy as np
from tl_nbdev.training.saved import load_transfer
np.save(sys.argv[2], np.stack([probs for _, probs, _ in load_transfer(sys.argv[1]).answers(sys.argv[3:])]))'''
    items = list(map(str, task.part('test').item))
    done = python(code, tmp_path/'saved', tmp_path/'found.npy', *items)
    assert not done.returncode, done.stderr
    assert task.answer.apart(np.load(tmp_path/'found.npy'), boxes(learn.predictor(), items)) < 1e-3

trainer = libraries + '''
import json, os, signal, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from fastai.basics import Callback
from scenes import start_of
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.training.freezing import at_boundary, freeze_phase
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.loop import KeepState
from tl_nbdev.vision.features import weights_hash

class Die(Callback):
    order, n = 90, 0
    def after_batch(self):
        if self.training: self.n += 1
        if self.n == stop: os.kill(os.getpid(), signal.SIGKILL)

def train(data, name, how, folder):
    KeepState.often = 0.
    task = DetectionTask.from_coco(data, valid=.2, test=.2, name='scenes')
    learn = transfer_learner(task, size=64, bs=4, seed=0, **start_of(name))
    with watched(learn), learn.added_cbs(Die()): learn.transfer(how, 2, resume=folder is not None, folder=folder)
    return [weights_hash(learn.model), len(learn.recorder.losses), learn.recorder.losses[0].item(), learn.evaluate().value]

for line in sys.stdin:
    stop, out, *args = json.loads(line)
    if not (child := os.fork()):
        with open(out, 'w') as f: json.dump(train(*args), f)
        os._exit(0)
    print('status', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''

@pytest.fixture(scope='module')
def trained(folder, task, tmp_path_factory):
    "What a training ends with, or `None` if it was killed"
    p = subprocess.Popen([sys.executable, '-c', trainer, os.path.dirname(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out = tmp_path_factory.mktemp('out')/'out.json'
    def train(name, how, run=None, stop=-1):
        print(json.dumps([stop, str(out), str(folder/'annotations.json'), name, how, run and str(run)]), file=p.stdin, flush=True)
        status = int(next(line for line in p.stdout if line.startswith('status')).split()[1])
        assert status in (0, -signal.SIGKILL)
        return json.loads(out.read_text()) if status == 0 else None
    yield train
    p.stdin.close()
    p.wait()

@pytest.mark.parametrize('name, how, stops', [('yolov3-tiny', 'full', (3, 1)), ('DETR', 'last:2', (2,)), ('RT-DETR v2', 'gradual', (3,)),
                                              pytest.param('faster_rcnn:mobilenetv2_050', 'l2sp+full', (2, 2), marks=pytest.mark.slow)])
def test_killed_and_resumed_it_ends_the_same(trained, tmp_path, name, how, stops):
    want = trained(name, how)
    for stop in stops: assert trained(name, how, tmp_path/'run', stop) is None
    assert trained(name, how, tmp_path/'run') == want


# the verbs around it

def test_plans_and_dry_runs_train_nothing(task):
    learn = learner(task, 'yolov3-tiny')
    before = copied(learn.model)
    assert 'outputs' in str(learn.plan('last:2')) and 'Nothing was trained' in str(learn.transfer('lpft', 1, dry_run=True))
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())

@pytest.mark.parametrize('name', ['yolov3-tiny', 'DETR'])
def test_fastais_own_verbs_work(task, name):
    learn = learner(task, name)
    before = copied(learn.model)
    with learn.no_bar(), learn.no_logging():
        assert learn.lr_find(num_it=4, show_plot=False).valley > 0
        assert all(torch.equal(value, before[each]) for each, value in learn.model.state_dict().items())
        learn.freeze_to(-1)
        frozen = {each for each, param in learn.model.named_parameters() if not param.requires_grad}
        learn.fit_one_cycle(1, 1e-3)
        assert frozen and all(torch.equal(before[each], learn.model.state_dict()[each]) for each in frozen)
        assert len(learn.recorder.values[-1]) == 3 and np.isfinite(learn.recorder.values[-1]).all()
        learn.unfreeze()
        learn.fine_tune(1, 1e-3)
        assert learn.get_preds()[0].shape == (task.n('valid'), 600)

def test_what_is_learned_and_found_is_shown(task):
    learn = learner(task, 'yolov3-tiny')
    shown = learn.dls.show_batch(max_n=3)
    assert len(shown.axes) == 3 and all('to learn' in axes.get_title() for axes in shown.axes)
    found = learn.show_results(max_n=2)
    assert len(found.axes) == 2 and all('there' in axes.get_title() for axes in found.axes)
    assert len(learn.show_results(ds_idx=0, max_n=1, shuffle=False).axes) == 1

def test_one_photo_is_answered_in_any_form(task):
    from PIL import Image
    learn, item = learner(task, 'DETR'), task.df.item[0]
    forms = item, str(item), item.read_bytes(), np.asarray(Image.open(item).convert('RGB'))
    want = [learn.predict(form) for form in forms]
    assert all(torch.equal(want[0][1], other[1]) and want[0][0] == other[0] for other in want)
    with pytest.raises(TransferError, match='one item'): learn.predict([item, item])
    for asked in (dict(proba=True), dict(top=2)):
        with pytest.raises(TransferError, match='leave proba and top out'): learn.predict(item, **asked)

def test_two_strategies_are_compared_and_read_from_disk(task, tmp_path):
    asked = dict(models=detector_pretrained('yolov3-tiny', 'random'), seeds=1, epochs=1, size=64, bs=4, out=tmp_path/'runs')
    first = compare(task, strategies=['feature', 'last:2'], **asked)
    held = sorted(file.read_bytes() for file in (tmp_path/'runs').glob('*.json'))
    again = compare(task, strategies=['feature', 'last:2'], **asked)
    assert str(first.table()) == str(again.table()) and held == sorted(file.read_bytes() for file in (tmp_path/'runs').glob('*.json'))

def test_a_budget_is_kept_to(task, tmp_path):
    start = detector_pretrained('yolov3-tiny', 'random')
    advice = advise(task, budget='8 s', candidates=[start], strategies=('feature', 'last:1'), size=64, bs=4, epochs=1, out=tmp_path/'advice')
    assert advice.best['model'] == 'yolov3-tiny' and advice.table() and (tmp_path/'advice/advice.json').is_file()

@pytest.mark.parametrize('budget', [2, 20, 100])
def test_no_detector_takes_longer_than_the_budget_but_for_one_epoch(task, monkeypatch, budget):
    "Where the time is our own, a tenth of a second for each item that a network sees"
    clock, said, start = clocked(monkeypatch, .1), [], detector_pretrained('yolov3-tiny', 'random')
    began, epoch = clock[0], .1*len(task.df)
    advice = advise(task, budget, [start], ('feature', 'last:1'), size=64, bs=4, tell=said.append)
    assert advice.seconds <= clock[0] - began <= 1.3*budget + 2*epoch
    head, words = next(entry for entry in advice._race.entries if entry.feature), ' '.join(advice.words())
    assert head.done and (f'of {head.short} epochs at most' in words) == bool(head.short)
    assert any('the least that can be measured' in line for line in said) == ('the least that can be measured' in words) == (budget == 2)
    if budget < 100: assert 0 < head.of < head.how.epochs and f"learn.transfer('feature', {head.of})" in advice.code

def test_what_cant_be_had_leaves_the_race(task):
    "Weights of one are only in an archive that would run code: the others go on"
    class Gone(DetectorPretrained):
        def body(self, weights=True): raise TransferError('its weights are nowhere')
    here = detector_pretrained('yolov3-tiny', 'random')
    gone = Gone(**{**here.__dict__, 'name': 'gone'})
    advice = advise(task, budget='6 s', candidates=[gone, here], strategies=('feature',), size=64, bs=4)
    assert advice.best['model'] == 'yolov3-tiny' and any('nowhere' in entry.out for entry in advice.left)
    with pytest.raises(TransferError, match='nowhere'): advise(task, budget='6 s', candidates=[gone], size=64, bs=4)

def test_two_sets_of_scenes_are_told_apart(task):
    from tl_nbdev.vision.zoo import pretrained
    gap = domain_gap(task, task, pretrained('squeezenet1_1', source='random', size=64))
    assert gap.copies == len(task.df) and 'squeezenet' in gap.model

def test_a_start_of_another_size_is_made_for_it():
    start = detector_pretrained(detector_pretrained('ssdlite320_mobilenet_v3_large', 'random'), size=96)
    assert start.size == 96 and start.built_by.size == 96
    with pytest.raises(TransferError, match='size=16'): detector_pretrained(start, size=16)


@pytest.mark.parametrize('augment', ['none', 'flip', 'crop', 'strong', 'mosaic'])
def test_photos_are_varied_with_their_boxes(task, augment):
    learn = learner(task, 'yolov3-tiny', augment=augment)
    _, targets = learn.dls.one_batch()
    there = targets[targets[..., 0] >= 0]
    assert len(there) and (there[:, 1:] >= 0).all() and (there[:, 1:] <= 1).all() and (there[:, 3:] > there[:, 1:3]).all()
    transfer(learn, 'last:1', 1)
    assert np.isfinite(learn.recorder.losses).all()

@pytest.mark.parametrize('said', [dict(mode=Mode(precision='bf16')), dict(train_bn=True), dict(num_workers=1), dict(metrics=[])])
def test_it_learns_in_other_ways_too(task, said):
    learn = learner(task, 'yolov3-tiny', **said)
    transfer(learn, FineTune(1, views=2, epochs=1), accumulate=2)
    assert np.isfinite(learn.evaluate().value) and all(torch.isfinite(param).all() for param in learn.model.parameters())

def test_gradients_are_computed_again_where_a_network_can(task):
    transfer(learner(task, 'DETR', checkpointing=True), 'full', 1)
    with pytest.raises(TransferError, match='no gradient checkpointing'): learner(task, 'yolov3-tiny', checkpointing=True)

def test_single_items_have_no_loss(task):
    with pytest.raises(TransferError, match='learn.evaluate'): Interpretation.from_learner(learner(task, 'yolov3-tiny')).top_losses(2)


# what doesn't fit is refused

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_boxes_are_not_mixed(task, mix):
    learn = learner(task, 'yolov3-tiny', cbs=mix())
    before = copied(learn.model)
    with pytest.raises(TransferError, match=f'leave {mix.__name__} out'): transfer(learn, 'full', 1)
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())

@pytest.mark.parametrize('how', ['contrastive', 'contrastive+full'])
def test_boxes_have_no_pairs(task, how):
    with pytest.raises(TransferError, match='one label per item'): transfer(learner(task, 'yolov3-tiny'), how, 1)

@pytest.mark.parametrize('said, words', [
    (dict(loss_func=torch.nn.CrossEntropyLoss()), 'leave loss_func out'), (dict(class_weights=True), 'leave class_weights out'), (dict(class_weights=dict(bar=2)), 'leave class_weights out'),
    (dict(head='textbook'), 'leave head out'), (dict(head=torch.nn.Linear(3, 2)), 'leave head out'), (dict(fit='crop'), 'squeeze'), (dict(fit='pad'), 'squeeze'),
    (dict(augment='trivial'), 'use one of'), (dict(size=16), 'from 32 to 4096'), (dict(size=0), 'size=0'), (dict(size=32.5), 'whole number'), (dict(bs=0), 'use 1 or more'), (dict(pooling='mean'), 'for texts'),
    (dict(model='resnet18'), 'faster_rcnn:resnet18'), (dict(model='tf_efficientnet_lite0'), 'retinanet:tf_efficientnet_lite0'), (dict(model='bert-base-uncased'), 'no detector'),
    (dict(model='yolov8n.pt'), 'AGPL'), (dict(model=torch.nn.Linear(2, 2)), 'no detector'), (dict(model=''), 'no detector'), (dict(model=3), 'no name, folder')])
def test_what_does_not_fit_boxes_is_refused_in_one_line(task, said, words):
    with pytest.raises(TransferError, match=words) as e: learner(task, 'yolov3-tiny', **said)
    assert '\n' not in str(e.value)

def test_a_classifier_and_a_detector_are_not_mistaken_for_each_other(task, tmp_path):
    from conftest import photos
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.vision.zoo import pretrained
    of_photos = ImageTask.from_folder(photos(tmp_path/'photos', 4))
    for name in ('yolov3-tiny', 'faster_rcnn:tf_efficientnet_lite0', 'ssd300_vgg16'):
        with pytest.raises(TransferError, match='DetectionTask'): transfer_learner(of_photos, name)
    with pytest.raises(TransferError, match='answers by itself'): transfer_learner(of_photos, detector_pretrained('yolov3-tiny', 'random'))
    with pytest.raises(TransferError, match='faster_rcnn:tf_efficientnet_lite0'): transfer_learner(task, pretrained('tf_efficientnet_lite0'))
    with pytest.raises(TransferError, match='texts'): learner(task, 'yolov3-tiny').explain(task.df.item[0])

