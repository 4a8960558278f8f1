"YOLOs of two libraries that are extras: what is said where they aren't there or not agreed to, and where they are, the laws of any detector."
import copy, os, re, subprocess, sys, tempfile, warnings
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scenes import drawn
import tl_nbdev.all # with it, a learner exports
from tl_nbdev.base.settings import TransferError, settings
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.libreyolo_nets import LibreyoloWay, libreyolo_names
from tl_nbdev.boxes.own_loss import detection_batch, detector
from tl_nbdev.boxes.starts import detector_names, detector_start, is_detector_name
from tl_nbdev.boxes.ultralytics_nets import UltralyticsWay, ultralytics_names
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import BitFit, FineTune, FullFineTune
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer

some = ('libreyolo:yolo9-t', 'libreyolo:yolo9_e2e-t', 'ultralytics:yolo11n', 'ultralytics:yolov10n')
more = ('ultralytics:yolov8n', 'ultralytics:yolov9t', 'ultralytics:yolo12n', 'ultralytics:yolo26n')

@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv('TL_AGREE', 'AGPL-3.0')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

@pytest.fixture(scope='module')
def task(tmp_path_factory): return DetectionTask.from_coco(drawn(tmp_path_factory.mktemp('scenes'), 14), valid=.2, test=.2, name='scenes')

def there(name):
    library = name.partition(':')[0] # which is imported later, in the way that is tested
    if not find_spec(library): pytest.skip(f'{library} is not installed')

def made(name, classes=3):
    there(name)
    torch.manual_seed(0)
    return detector_start(name, 'random', 64).network(classes)

def batch():
    torch.manual_seed(1)
    return detection_batch(list(torch.rand(2, 3, 64, 96)), [[1, 0], [2]], [[[4., 4, 30, 40], [40, 20, 90, 60]], [[10., 10, 50, 50]]])

def learner(task, name, **kwargs):
    there(name)
    return transfer_learner(task, name, source='random', **{**dict(size=64, bs=4, seed=0), **kwargs})

def transfer(learn, how, *args):
    with watched(learn): return learn.transfer(how, *args)

def copied(net): return {name: value.clone() for name, value in net.state_dict().items()}


# without an extra

@pytest.mark.parametrize('name', ['ultralytics:yolo11n', 'ultralytics:yolov8x'])
@pytest.mark.parametrize('source', [None, 'random', 'mine.pth'])
def test_nothing_is_imported_before_somebody_agrees(name, source, monkeypatch, tmp_path):
    monkeypatch.setenv('TL_AGREE', 'no')
    was = 'ultralytics' in sys.modules
    with pytest.raises(TransferError, match='AGPL-3.0') as said: detector_start(name, source)
    assert 'TL_AGREE=AGPL-3.0' in str(said.value) and len(str(said.value)) < 400 and ('ultralytics' in sys.modules) == was

def test_an_agreement_that_ends_is_asked_for_again(monkeypatch):
    start = detector_start('ultralytics:yolo11n', 'random')
    monkeypatch.setenv('TL_AGREE', 'no')
    with pytest.raises(TransferError, match='AGPL-3.0'): start.network(3)

def test_an_agreement_may_stand_in_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv('TL_AGREE')
    (tmp_path/'settings.ini').write_text('[DEFAULT]\ntl_agree = AGPL-3.0\n')
    monkeypatch.chdir(tmp_path)
    assert settings().agree == 'AGPL-3.0' and detector_start('ultralytics:yolo26n', 'random').library == 'ultralytics'

@pytest.mark.parametrize('said', ['yes', 'AGPL', 'agpl-3.0', 'GPL-3.0', ''])
def test_an_agreement_names_the_licence(said, monkeypatch):
    monkeypatch.setenv('TL_AGREE', said)
    with pytest.raises(TransferError, match='use one of no, AGPL-3.0'): detector_start('ultralytics:yolo11n', 'random')

@pytest.mark.parametrize('name', [some[0], some[2]])
def test_an_extra_that_is_missing_is_said_in_a_line(name, monkeypatch):
    library = name.partition(':')[0]
    for each in [each for each in sys.modules if each.partition('.')[0] == library]: monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TransferError, match=re.escape(f'pip install "tl_nbdev[{library}]"')): detector_start(name, 'random').network(3)

@pytest.mark.parametrize('what, why', [
    ('yolov8n', 'ultralytics:yolov8n'), ('yolov8n.pt', 'ultralytics:yolov8n'), ('yolo11n', 'ultralytics:yolo11n'), ('yolov11n', 'ultralytics:yolo11n'),
    ('yolo9-t', 'libreyolo:yolo9-t or ultralytics:yolov9t'), ('YOLOv9t', 'libreyolo:yolo9-t'), ('libreyolo:yolo9t', 'libreyolo:yolo9-t'),
    ('libreyolo:yolo9', 'libreyolo:yolo9'), ('libreyolo:', 'libreyolo:yolo9-t'), ('libreyolo:yolo9_e2e-x', 'libreyolo:yolo9_e2e'),
    ('ultralytics:yolo11', 'ultralytics:yolo11'), ('ultralytics:yolo11n.pt', 'ultralytics:yolo11n'), ('Ultralytics:yolo11n', 'ultralytics:yolo11n'),
    ('ultralytics:rtdetr-l', 'ultralytics:yolo'), ('./libreyolo', 'no such folder')])
def test_a_name_that_is_nearly_one(what, why):
    with pytest.raises(TransferError, match=why) as said: detector_start(what, 'random')
    assert len(str(said.value)) < 400

@pytest.mark.parametrize('name', [some[0], some[2]])
def test_names_are_of_boxes(name, task):
    assert is_detector_name(name) and is_detector_name(name + 'x') and not is_detector_name(name.partition(':')[2])
    assert task.modality.owns(name)

def test_what_a_start_says():
    ours, theirs = detector_start(some[0]), detector_start(some[2], 'random')
    assert (ours.library, ours.source, ours.size, len(ours.classes)) == ('libreyolo', 'hub', 640, 80) and 'MIT' in ours.licence
    assert (theirs.library, theirs.source, theirs.classes) == ('ultralytics', 'random', None) and theirs.licence.startswith('AGPL-3.0')
    assert detector_start(some[0], 'random').licence.startswith('none')

def test_weights_that_nobody_fetches():
    with pytest.raises(TransferError, match='source="mine.pth"'): detector_start('ultralytics:yolo11n')
    with pytest.raises(TransferError, match='only a repository'): detector_start('ultralytics:yolo11n', 'random', revision='main')
    with pytest.raises(TransferError, match='no such file'): detector_start('ultralytics:yolo11n', 'nowhere.pth')

def test_the_table_lists_them(monkeypatch):
    rows = {row['name']: row for row in detector_names('yolo', limit=0)}
    assert {*libreyolo_names, *ultralytics_names} < rows.keys() and rows['ultralytics:yolo11n']['licence'] == 'AGPL-3.0'
    for name, can in ((some[0], 'hub'), (some[2], 'file')): assert rows[name]['available'] == (can if find_spec(name.partition(':')[0]) else 'extra')
    monkeypatch.setenv('TL_AGREE', 'no')
    assert {row['available'] for row in detector_names('ultralytics', limit=0)} == {'agree' if find_spec('ultralytics') else 'extra'}


# networks

@pytest.mark.parametrize('name', some + more)
def test_losses_are_of_either_mode_and_nothing_notices(name):
    net, (x, y) = made(name), batch()
    call, before = detector(net), copied(net)
    out = call(x, y)
    assert out.preds.shape == (2, 100, 6) and torch.isfinite(out.loss) and torch.equal(out.preds, call(x).preds)
    assert torch.equal(call(x, y).loss, out.loss)
    assert all(torch.equal(value, before[each]) for each, value in net.state_dict().items()) and not any(module.training for module in net.modules())
    net.train()
    learned = call(x, y)
    learned.loss.backward()
    assert learned.preds.shape == (2, 0, 6) and learned.loss.item() > 0
    lost = [each for each, param in net.named_parameters() if param.grad is None]
    assert not lost and all(module.training for module in net.modules())
    if name in ('ultralytics:yolo11n', 'libreyolo:yolo9-t'): assert torch.isfinite(call(x).preds).all() # in training mode, without labels

@pytest.mark.parametrize('name', some)
@pytest.mark.parametrize('labels, boxes', [([[], []], [[], []]), ([[0], []], [[[4., 4, 4, 30]], []]), ([[-1, 1], [2]], [[[1., 1, 9, 9], [2, 2, 30, 30]], [[0., 0, 96, 64]]])])
def test_photos_with_nothing_or_boxes_without_area(name, labels, boxes):
    net = made(name)
    x, y = detection_batch(list(torch.rand(2, 3, 64, 96)), labels, boxes, most=4)
    loss = detector(net.train())(x, y).loss
    loss.backward()
    assert torch.isfinite(loss)

def test_both_encode_the_same_things():
    x, y = batch()
    ours, theirs = LibreyoloWay(), UltralyticsWay()
    rows, flat = ours.encode(ours.images(x), y), theirs.encode(theirs.images(x), y)
    assert rows.shape == (2, 2, 5) and (rows[1, 1] == 0).all() and flat['cls'].tolist() == [1, 0, 2] and flat['batch_idx'].tolist() == [0, 0, 1]
    corners = torch.cat([flat['bboxes'][:, :2] - flat['bboxes'][:, 2:]/2, flat['bboxes'][:, :2] + flat['bboxes'][:, 2:]/2], 1)
    assert torch.allclose(corners, torch.cat([rows[0], rows[1, :1]])[:, 1:])

@pytest.mark.parametrize('name', some + more)
def test_stages_begin_with_the_photo_and_end_with_the_head(name):
    net = made(name)
    ss = stages(net)
    head = 'head' if name.startswith('libreyolo') else f'model.{len(net.model) - 1}'
    assert len(ss) > 12 and ss[-1].name == head and sum(stage.n for stage in ss) == sum(param.numel() for param in net.parameters())
    assert ss[0].name in ('backbone.conv0', 'model.0', 'model.1') and not [each for each, param in net.named_parameters() if not param.requires_grad]

@pytest.mark.parametrize('name', some)
def test_weights_that_come_later_and_copies_give_the_same_bit_for_bit(name):
    net, (x, y) = made(name), batch()
    again = detector_start(name, 'random', 64).network(3, weights=False)
    again.load_state_dict(net.state_dict())
    with torch.no_grad(): one, other, copy_of = (detector(each)(x, y) for each in (net, again, copy.deepcopy(net)))
    assert torch.equal(one.preds, other.preds) and torch.equal(one.preds, copy_of.preds) and torch.equal(one.loss, copy_of.loss)

@pytest.mark.parametrize('name', some)
@pytest.mark.parametrize('kind', ['.safetensors', '.pth'])
def test_weights_from_a_file(name, kind, tmp_path):
    source, file = made(name, 5), tmp_path/f'mine{kind}'
    state = {**source.state_dict(), 'aux_head.x': torch.zeros(1)} if name.startswith('libreyolo') else source.state_dict()
    save_file(state, file) if kind == '.safetensors' else torch.save(dict(model=state, names='abcde'), file)
    start = detector_start(name, file, 64)
    same, fewer = start.network(5), start.network(['a', 'b'])
    assert start.source == 'file' and same.kept_classes == (0, 1, 2, 3, 4) and fewer.kept_classes == ()
    assert all(torch.equal(value, same.state_dict()[each]) for each, value in source.state_dict().items())
    other = [each for each, value in source.state_dict().items() if not (value.shape == fewer.state_dict()[each].shape and torch.equal(value, fewer.state_dict()[each]))]
    assert other and all(re.search(r'cv3\.\d\.2\.(weight|bias)$', each) for each in other)
    with pytest.raises(TransferError, match='another network'): detector_start(name.replace('9-t', '9-s').replace('e-t', 'e-s').replace('11n', '11s').replace('10n', '10s'), file, 64).network(5)

def test_known_classes_keep_their_rows_in_all_towers():
    for name in some:
        if not find_spec(name.partition(':')[0]): continue
        with tempfile.TemporaryDirectory() as folder:
            source, file = made(name, 3), f'{folder}/mine.safetensors'
            save_file(source.state_dict(), file)
            net = replace(detector_start(name, file, 64), classes=('cat', 'dog', 'cow')).network(['forklift', 'dog'])
        assert net.kept_classes == ('dog',)
        rows = [each for each in net.state_dict() if re.search(r'cv3\.\d\.2\.(weight|bias)$', each)]
        assert len(rows) == (12 if 'e2e' in name or 'v10' in name else 6)
        for each in rows: assert torch.equal(net.state_dict()[each][1], source.state_dict()[each][1])

def test_a_file_of_whole_objects_is_not_opened(tmp_path):
    net = made('ultralytics:yolo11n')
    vars(net).pop('way')
    torch.save(dict(model=net, ema=None), tmp_path/'yolo11n.pt')
    with pytest.raises(TransferError, match='state_dict') as said: detector_start('ultralytics:yolo11n', tmp_path/'yolo11n.pt').network(3)
    assert 'was not run' in str(said.value)

def test_libreyolos_weights_of_a_hub(tmp_path, hub):
    source = made('libreyolo:yolo9-t', 80)
    (tmp_path/'made').mkdir()
    torch.save(dict(model=source.state_dict(), model_family='yolo9', nc=80), tmp_path/'made'/'LibreYOLO9t.pt')
    hub.add('LibreYOLO/LibreYOLO9t', tmp_path/'made', licence='mit')
    net = detector_start('libreyolo:yolo9-t').network(['forklift', 'dog'])
    dog = detector_start('libreyolo:yolo9-t').classes.index('dog')
    assert net.kept_classes == ('dog',) and torch.equal(net.head.cv3[1][2].bias[1], source.head.cv3[1][2].bias[dog])
    assert torch.equal(net.backbone.conv0.conv.weight, source.backbone.conv0.conv.weight)
    with pytest.raises(TransferError, match='no such repository'): detector_start('libreyolo:yolo9-s').network(2)

def test_ultralytics_leaves_no_trace(tmp_path):
    there('ultralytics:')
    code = '''import os, numpy as np, torch
was = dict(os.environ), torch.save, np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy()
from tl_nbdev.boxes.starts import detector_start
detector_start('ultralytics:yolo11n', 'random', 64).network(2)
assert was == (dict(os.environ), torch.save, np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS))'''
    home = dict(os.environ, HOME=str(tmp_path/'home'), XDG_CONFIG_HOME=str(tmp_path/'home'), TL_CACHE=str(tmp_path/'cache'))
    done = subprocess.run([sys.executable, '-c', code], env=home, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path/'home').exists() and [each.name for each in tmp_path.iterdir()] == ['cache'] and 'ultralytics' not in done.stdout.lower()


# in transfer

@pytest.mark.parametrize('name, how', [pytest.param(name, how, id=f'{name}-{i}') for name in some for i, how in enumerate(
    [FineTune(2, epochs=1), FullFineTune(epochs=1), BitFit(epochs=1)]) if name in some[::2] or i == 0])
def test_what_is_frozen_stays_bit_for_bit(task, name, how):
    learn = learner(task, name)
    net, ss, before = learn.model, stages(learn.model), copied(learn.model)
    may = {each for phase in how.resolved(ss) for each in phase.params(ss)}
    transfer(learn, how)
    after, params = net.state_dict(), dict(net.named_parameters())
    still = {each.rpartition('.')[0] for each in params.keys() - may} - {each.rpartition('.')[0] for each in may}
    frozen = [each for each in before if (each not in may if each in params else each.rpartition('.')[0] in still or 'dfl' in each)]
    assert all(torch.equal(before[each], after[each]) for each in frozen) and (len(frozen) > 100 or may == params.keys())
    changed = {each for each in may if not torch.equal(before[each], after[each])}
    assert changed & ss[-1].params.keys() and all(torch.isfinite(value).all() for value in after.values())

@pytest.mark.parametrize('name', some)
def test_two_epochs_lower_the_loss(task, name):
    learn = learner(task, name, augment='none', bs=2, size=128) # where things are too small for a first guess, nothing is learned of boxes
    before = learn.validate(ds_idx=0)[0]
    transfer(learn, FullFineTune(epochs=2, lr=2e-3))
    after = learn.validate(ds_idx=0)[0]
    assert after < before and before > 1

def boxes(predictor, items): return np.stack([probs for _, probs, _ in predictor.answers(items)])

@pytest.mark.parametrize('name', some)
def test_saved_and_read_again_by_a_fresh_process_it_finds_the_same(task, tmp_path, name, monkeypatch):
    learn, items = learner(task, name), list(map(str, task.part('test').item))
    for head in [module for module in learn.model.modules() if hasattr(module, 'cv3') and hasattr(module, 'reg_max')]:
        for tower in (*head.cv3, *getattr(head, 'one2one_cv3', ())): torch.nn.init.normal_(tower[-1].bias, -2., .1) # so that something is found
    transfer(learn, 'last:1', 1)
    learn.save_transfer(tmp_path/'saved', check=False)
    want = boxes(learn.predictor(), items)
    assert (want.reshape(len(want), -1, 6)[..., 1] > .01).any()
    code = '''import sys, numpy as np
from tl_nbdev.training.saved import load_transfer
np.save(sys.argv[2], np.stack([probs for _, probs, _ in load_transfer(sys.argv[1]).answers(sys.argv[3:])]))'''
    subprocess.run([sys.executable, '-c', code, tmp_path/'saved', tmp_path/'found.npy', *items], check=True, capture_output=True)
    assert task.answer.apart(np.load(tmp_path/'found.npy'), want) < 1e-3
    if name.startswith('ultralytics'):
        monkeypatch.setenv('TL_AGREE', 'no')
        with pytest.raises(TransferError, match='TL_AGREE=AGPL-3.0'): load_transfer(tmp_path/'saved')

@pytest.mark.parametrize('name', [some[0], some[3]])
def test_a_graph_finds_the_same(task, tmp_path, name):
    onnxruntime, _ = (pytest.importorskip(each) for each in ('onnxruntime', 'onnxscript'))
    learn = learner(task, name)
    learn.model.eval()
    for head in [module for module in learn.model.modules() if hasattr(module, 'cv3') and hasattr(module, 'reg_max')]:
        for tower in (*head.cv3, *getattr(head, 'one2one_cv3', ())): torch.nn.init.normal_(tower[-1].bias, -2., .1)
    folder = learn.export(tmp_path/'program', 'onnx')
    photo = task.part('test').item.iloc[0]
    pixels = np.asarray(Image.open(photo).convert('RGB').resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
    found, = onnxruntime.InferenceSession(folder/'model.onnx', providers=['CPUExecutionProvider']).run(None, dict(pixels=pixels))
    assert task.answer.apart(found, learn.outgoing().answers([photo])) < 1e-3
