"One adapter for detectors: eleven networks of two libraries learn by their own loss, keep what is frozen, and give boxes in pixels of the photo."
import warnings
from functools import partial

import pytest, torch
import torchvision.models.detection as detection
import transformers as tf
from fastai.basics import Callback, DataLoaders, Learner
from hypothesis import given, settings, strategies as st
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.own_loss import TorchvisionWay, TransformersWay, detection_batch, detector
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import strategy
from tl_nbdev.training.freezing import by_stages
from tl_nbdev.training.learner import transfer_learner # noqa: F401, which teaches a Learner to transfer
from tl_nbdev.training.output import OwnLoss, TheirLoss

_resnet = dict(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1]*4, layer_type='basic')
_none = dict(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None)
_detr = dict(**_none, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
             decoder_attention_heads=2, num_queries=8, num_labels=2)
_levels = ['stage2', 'stage3', 'stage4']
_rt = dict(encoder_hidden_dim=32, encoder_in_channels=[16, 32, 64], encoder_ffn_dim=32, encoder_attention_heads=2, d_model=32, num_queries=8,
           decoder_in_channels=[32]*3, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32, num_denoising=4, num_labels=2, hidden_expansion=.5)

class Body(nn.Module):
    "The least backbone with BatchNorm and Dropout"
    out_channels = 32
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(.1))
    def forward(self, x): return self.two(self.one(x))

def _anchors(*sizes): return AnchorGenerator((sizes,), ((.5, 1., 2.),))
_size = dict(min_size=64, max_size=96)

def _rcnn():
    "With MobileNetV3 and a pyramid, as torchvision makes it, and a small head"
    backbone = mobilenet_backbone(backbone_name='mobilenet_v3_small', weights=None, fpn=True, trainable_layers=6)
    anchors = AnchorGenerator(((16, 32),)*3, ((.5, 1., 2.),)*3)
    return detection.FasterRCNN(backbone, rpn_anchor_generator=anchors, box_roi_pool=MultiScaleRoIAlign(['0', '1'], 3, 2), box_head=TwoMLPHead(256*9, 32),
                                box_predictor=FastRCNNPredictor(32, 3), rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=60, **_size)

class Levels(Body):
    "Two levels, by name"
    def forward(self, x):
        one = self.one(x)
        return dict(near=one, far=self.two(one))

def _ssdlite():
    boxes, norm = DefaultBoxGenerator([[2], [2]], min_ratio=20, max_ratio=80), partial(nn.BatchNorm2d, momentum=.03)
    return detection.ssd.SSD(Levels(), boxes, (64, 64), 3, head=SSDLiteHead([8, 32], boxes.num_anchors_per_location(), 3, norm))

def _rfdetr():
    backbone = tf.RfDetrDinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, num_windows=2, out_indices=[1, 2])
    return tf.RfDetrForObjectDetection(tf.RfDetrConfig(backbone_config=backbone, decoder_ffn_dim=32, decoder_layers=2, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, num_queries=8, group_detr=2, d_model=32, num_labels=2))

nets = {
    'Faster R-CNN': _rcnn,
    'RetinaNet': lambda: detection.RetinaNet(Body(), 3, anchor_generator=_anchors(16, 32), **_size),
    'FCOS': lambda: detection.FCOS(Body(), 3, anchor_generator=AnchorGenerator(((8,),), ((1.,),)), **_size),
    'SSDlite': _ssdlite,
    'DETR': lambda: tf.DetrForObjectDetection(tf.DetrConfig(**_detr, backbone_config=tf.ResNetConfig(**_resnet, out_features=['stage4']))),
    'Conditional DETR': lambda: tf.ConditionalDetrForObjectDetection(tf.ConditionalDetrConfig(**_detr, backbone_config=tf.ResNetConfig(**_resnet, out_features=['stage4']))),
    'Deformable DETR': lambda: tf.DeformableDetrForObjectDetection(tf.DeformableDetrConfig(**_detr, num_feature_levels=3, backbone_config=tf.ResNetConfig(**_resnet, out_features=_levels))),
    'RT-DETR v2': lambda: tf.RTDetrV2ForObjectDetection(tf.RTDetrV2Config(**_rt, backbone_config=tf.RTDetrResNetConfig(**_resnet, out_features=_levels))),
    'D-FINE': lambda: tf.DFineForObjectDetection(tf.DFineConfig(**_rt, backbone_config=tf.RTDetrResNetConfig(**_resnet, out_features=_levels))),
    'RF-DETR': _rfdetr,
    'YOLOS': lambda: tf.YolosForObjectDetection(tf.YolosConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=[64, 64], num_detection_tokens=8, num_labels=2)),
}
def _batch():
    torch.manual_seed(1)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    images[0][:, 20:50, 10:40], images[1][:, 10:40, 20:60] = 1., 0.
    return detection_batch(images, [[0], [1, 0]], [[[10., 20, 40, 50]], [[20., 10, 60, 40], [2, 44, 22, 62]]], [(128, 128), (64, 64)], most=4)

class SameBatch:
    "A loader that gives one batch again and again"
    bs, n_inp, device = 2, 1, torch.device('cpu')
    def __init__(self, batch, n): self.batch, self.n, self.dataset = batch, n, [0]*2*n
    def __len__(self): return self.n
    def __iter__(self): return iter([self.batch]*self.n)
    def to(self, device): return self

def _learner(name):
    torch.manual_seed(0)
    net = nets[name]()
    loaders = DataLoaders(SameBatch(_batch(), 3), SameBatch(_batch(), 1))
    return Learner(loaders, detector(net), loss_func=TheirLoss(), cbs=OwnLoss(), splitter=by_stages, train_bn=False)

def _copied(net): return {name: value.clone() for name, value in net.state_dict().items()}
def _same(net, before): return {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}

@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

class Losses(Callback):
    "What was to be minimised, step by step"
    def before_fit(self): self.seen = []
    def after_loss(self):
        if self.training: self.seen.append(self.loss.item())

@pytest.mark.parametrize('name', nets)
def test_learns_by_its_own_loss_and_validation_changes_nothing(name):
    learn, losses = _learner(name), Losses()
    before, random = _copied(learn.model), torch.get_rng_state()
    first = learn.validate()[0]
    assert _same(learn.model, before) == set(before) and torch.equal(random, torch.get_rng_state())
    assert learn.validate()[0] == first and not any(module.training for module in learn.model.modules())
    with learn.no_bar(), learn.no_logging():
        learn.freeze_to(-2)
        learn.fit_one_cycle(1, slice(3e-4, 3e-3))
        learn.unfreeze()
        learn.fit_one_cycle(8 if name == 'DETR' else 5, slice(3e-3, 3e-3), cbs=losses)
        preds = learn.get_preds(dl=learn.dls.valid)[0]
    assert len(learn.opt.param_groups) == len(stages(learn.model)) > 2
    start, end = sum(losses.seen[:3])/3, sum(losses.seen[-3:])/3
    assert len(losses.seen) >= 15 and end < .95*start, (start, end)
    real = preds[preds[..., 0] >= 0]
    assert preds.shape == (2, 100, 6) and set(real[:, 0].tolist()) <= {0., 1.} and (real[:, 4:] >= real[:, 2:4]).all()
    assert preds[0, :, 2:].max() <= 128 and preds[1, :, 2:].max() <= 64

@pytest.mark.parametrize('name', nets)
def test_what_a_strategy_freezes_is_bit_equal_buffers_too(name):
    for how in ('feature', 'last:1', 'last:2'):
        learn = _learner(name)
        found, before = stages(learn.model), _copied(learn.model)
        with learn.no_bar(), learn.no_logging(): learn.transfer(how, 1)
        which = {depth for phase in strategy(how).phases for depth in phase.which(len(found))}
        trained = {id(param) for depth in which for param in found[depth].params.values()}
        places = {key for key, value in learn.model.state_dict(keep_vars=True).items() if id(value) in trained} # tied ones have several names
        owners, same = {key.rpartition('.')[0] for key in places}, _same(learn.model, before)
        assert which and not places <= same and (len(which) < len(found) or how != 'feature')
        assert {key for key in before if key not in places and key.rpartition('.')[0] not in owners} <= same, how
        assert set(dict(learn.model.named_parameters())) - places <= same, how


# what goes in comes out

def _found(way, x, y):
    "What a network that is sure of the truth would have given"
    targets = way.encode(x, y)
    if isinstance(way, TorchvisionWay): return [dict(each, scores=torch.linspace(.9, .8, len(each['labels']))) for each in targets]
    n = max(len(each['boxes']) for each in targets) + 1
    logits, boxes = torch.full((len(targets), n, 4), -30.), torch.zeros(len(targets), n, 4)
    if isinstance(way.processor, (tf.DetrImageProcessor, tf.YolosImageProcessor)): logits[..., 3] = 0. # no object
    for i, each in enumerate(targets):
        boxes[i, :len(each['boxes'])] = each['boxes']
        for j, label in enumerate(each['class_labels']): logits[i, j, label] = 8. - j/2
    return tf.models.detr.modeling_detr.DetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)

ways = {'torchvision': TorchvisionWay, **{kind: partial(TransformersWay, kind) for kind in
        ('detr', 'yolos', 'conditional_detr', 'deformable_detr', 'rt_detr', 'rt_detr_v2', 'd_fine', 'rf_detr', 'lw_detr', 'deimv2', 'dab-detr', 'table-transformer')}}
made = {name: make() for name, make in ways.items()}

@st.composite
def photos(draw):
    "A batch of photos of other sizes than their tensors, with things on them"
    n, labels, boxes, images, originals = draw(st.integers(1, 3)), [], [], [], []
    for _ in range(n):
        high, wide = draw(st.integers(8, 40)), draw(st.integers(8, 40))
        images.append(torch.zeros(3, high, wide))
        originals.append((high*draw(st.integers(1, 9)), wide*draw(st.integers(1, 9))))
        share = st.tuples(*[st.floats(0, .45)]*2, *[st.floats(.55, 1)]*2)
        shares = draw(st.lists(share, max_size=4))
        boxes.append([[x0*wide, y0*high, x1*wide, y1*high] for x0, y0, x1, y1 in shares])
        labels.append([draw(st.integers(0, 2)) for _ in shares])
    return detection_batch(images, labels, boxes, originals)

@pytest.mark.parametrize('name', made)
@settings(max_examples=15, deadline=None)
@given(batch=photos())
def test_truths_come_back_in_pixels_of_the_photo(name, batch):
    (x, y), way = batch, made[name]
    rows = way.decode(_found(way, x, y), x)
    for i, (labels, boxes) in enumerate(zip(y['labels'], y['boxes'])):
        n = int((labels >= 0).sum())
        scale = (x['originals'][i]/x['sizes'][i]).flip(0).repeat(2)
        assert torch.equal(rows[i, :n, 0].long(), labels[:n])
        assert torch.allclose(rows[i, :n, 2:], boxes[:n]*scale, atol=.01)
        assert (rows[i, n:, 1] < .01).all() and (rows[i, :, 1].diff() <= 0).all()

@pytest.mark.parametrize('name', ['Faster R-CNN', 'RetinaNet', 'FCOS', 'SSDlite', 'DETR', 'Conditional DETR', 'Deformable DETR', 'RT-DETR v2', 'D-FINE', 'RF-DETR', 'YOLOS'])
@pytest.mark.parametrize('training', [True, False])
def test_photos_without_anything_and_boxes_without_area_are_learned_from(name, training):
    torch.manual_seed(0)
    net = detector(nets[name]()).train(training)
    x, _ = _batch()
    _, y = detection_batch([torch.zeros(3, 64, 64)]*2, [[], [1]], [[], [[5., 5, 5, 30]]], most=3) # nothing, and a line
    loss = net(x, y).loss
    assert torch.isfinite(loss) and loss.requires_grad
    loss.backward()

def test_a_padded_photo_has_its_boxes_where_they_were_alone():
    "For networks that look at the mask: what a photo gives does not depend on its padding, nor on its neighbours"
    torch.manual_seed(0)
    net = detector(nets['Deformable DETR']()).eval()
    small, large = torch.rand(3, 64, 64), torch.rand(3, 64, 128)
    with torch.no_grad(): alone, together = (net(*detection_batch(images)).preds[0] for images in ([small], [small, large]))
    assert torch.allclose(alone[:, 1], together[:, 1], atol=.02) and (alone[0, 2:] - together[0, 2:]).abs().max() < 3

def test_what_does_not_fit_is_refused_in_one_line():
    for make, line in ((lambda: detector(nn.Linear(1, 1)), 'no detector'), (lambda: TransformersWay('bert'), 'names no processor'),
                       (lambda: detection_batch([torch.zeros(3, 9, 9)], [[0, 1]], [[]]), '2 labels and 0 boxes'),
                       (lambda: detection_batch([torch.zeros(3, 9, 9)], [[0]*3], [[[0, 0, 1, 1]]*3], most=2), 'room for 2')):
        with pytest.raises(TransferError, match=line) as error: make()
        assert len(str(error.value).splitlines()) == 1
