"Detectors for the tools of others: each is read again by its own library, and finds the same boxes."
import json, sys
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
for library in ('transformers', 'onnxruntime', 'onnxscript'): pytest.importorskip(library)
import transformers as T
from conftest import scenes
from hub import good_token
from tl_nbdev.all import TransferError, load_transfer, transfer_learner
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.yolo import YoloV3Tiny

T.logging.set_verbosity_error()

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    made = DetectionTask.from_coco(scenes(tmp_path_factory.mktemp('scenes'))/'annotations.json')
    made.answer.least = .05 # a network that hasn't learned is sure of little
    return made

def yolo():
    torch.manual_seed(0)
    net = YoloV3Tiny(2)
    for out in net.outputs:
        for each in (out.weight, out.bias): torch.nn.init.normal_(each, std=2.)
    return net

def detr():
    torch.manual_seed(0)
    small = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=8)
    backbone = T.ResNetConfig(embedding_size=16, hidden_sizes=[16, 16, 16, 16], depths=[1]*4, layer_type='basic', out_features=['stage4'])
    return T.DetrForObjectDetection(T.DetrConfig(**small, backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False))

def learner(task, name):
    makers = dict(pyramid=('faster_rcnn:mobilenetv3_small_050', dict(source='random')), yolo=(yolo(), {}), detr=(detr(), {}))
    what, options = makers[name]
    torch.manual_seed(0)
    learn = transfer_learner(task, what, size=96, bs=4, seed=0, **options)
    if name == 'yolo': learn.model.body.net.load_state_dict(what.state_dict()) # a new class head finds nothing
    learn.model.eval()
    return learn

def rows(answers): return np.asarray(answers, float).reshape(-1, 100, 6)

@pytest.mark.parametrize('name', ['pyramid', 'yolo', 'detr'])
def test_a_graph_finds_the_same_from_bytes_on(task, tmp_path, name):
    import onnxruntime
    learn, photo = learner(task, name), task.part('test').item.iloc[0]
    folder = learn.export(tmp_path/'graph', 'onnx')
    pixels = np.asarray(Image.open(photo).convert('RGB').resize((96, 96), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
    found, = onnxruntime.InferenceSession(folder/'model.onnx', providers=['CPUExecutionProvider']).run(None, dict(pixels=pixels))
    want = learn.outgoing().answers([photo])
    assert task.answer.apart(found, want) < 1e-4 and (rows(want)[0, :, 1] > .05).any()
    said = json.loads((folder/'preprocessing.json').read_text())
    assert said['size'] == 96 and said['classes'] == ['bar', 'square'] and 'one photo' in said['input']
    assert 'pipeline_tag: object-detection' in (folder/'README.md').read_text()

def test_transformers_alone_finds_the_same_boxes(task, tmp_path):
    learn, photo = learner(task, 'detr'), task.part('test').item.iloc[0]
    folder = learn.export(tmp_path/'theirs', 'transformers')
    net, processor = T.AutoModelForObjectDetection.from_pretrained(folder).eval(), T.AutoImageProcessor.from_pretrained(folder)
    assert net.config.id2label == {0: 'bar', 1: 'square'}
    assert json.loads((folder/'preprocessor_config.json').read_text())['size'] == dict(height=96, width=96)
    image = Image.open(photo).convert('RGB')
    with torch.no_grad(): out = net(**processor(image, return_tensors='pt'))
    found, = processor.post_process_object_detection(out, threshold=.05, target_sizes=[image.size[::-1]])
    want = task.answer.replied(learn.outgoing().answers([photo])[0], image.size)
    assert len(want['boxes']) and [net.config.id2label[int(i)] for i in found['labels'][found['scores'].argsort(descending=True)]] == [box['label'] for box in want['boxes']]
    assert np.allclose(sorted(found['scores'].tolist()), sorted(box['score'] for box in want['boxes']), atol=2e-3) # its resizing rounds otherwise
    exact = json.loads((folder/'export.json').read_text())['largest_difference']
    assert exact < 1e-4

def test_a_program_of_a_detector_that_chooses_by_rank(task, tmp_path):
    learn, photo = learner(task, 'detr'), task.part('test').item.iloc[0]
    folder = learn.export(tmp_path/'program', 'program')
    pixels = np.asarray(Image.open(photo).convert('RGB').resize((96, 96), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None].copy()
    found = torch.export.load(folder/'model.pt2').module()(pixels=torch.from_numpy(pixels))
    assert task.answer.apart(found.detach().numpy(), learn.outgoing().answers([photo])) < 1e-4

@pytest.mark.parametrize('to, why', [('timm', 'finds boxes, and timm has classifiers'), ('sentence-transformers', 'encoders of texts'), ('transformers', 'no class for faster_rcnn'), ('program', 'can.t follow how faster_rcnn')])
def test_what_cannot_be_is_said_in_a_line(task, tmp_path, to, why):
    if to == 'sentence-transformers': pytest.importorskip('sentence_transformers')
    with pytest.raises(TransferError, match=why) as refused: learner(task, 'pyramid').export(tmp_path/'none', to)
    assert '\n' not in str(refused.value) and not (tmp_path/'none').exists()

def test_a_detector_goes_to_a_hub_and_comes_back(task, tmp_path, hub):
    learn, photo = learner(task, 'pyramid'), task.part('test').item.iloc[0]
    learn.push_to_hub('me/boxes', token=good_token)
    found = load_transfer('me/boxes')
    assert found.answer.classes == ['bar', 'square'] and found.answer.least == .05
    assert task.answer.apart(found.answers([photo])[0][1][None], learn.outgoing().answers([photo])) < 1e-4
