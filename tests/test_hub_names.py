"""The names that people start from, asked for by these names on a hub on loopback: built, cut, trained a step under three
strategies, saved, and loaded again with the hub and its cache gone. The networks are of the classes that the names stand for,
and small; `TL_RECORD=1 python -m pytest tests/test_hub_names.py` writes what came to `names.json`, which a page shows."""
import json, os, shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import photos
from test_hub_images import families, made
from test_hub_texts import kinds, texts, written
from tl_nbdev.networks.stages import stages
from tl_nbdev.text.texts import TextTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.vision.images import ImageTask

record = Path(__file__).with_name('names.json')
hows = 'feature', 'last:1', 'full'

# name → family of transformers, or a network of timm, which is as large as it is: its name says how it is built
photos_by = {
    'timm/resnet50.a1_in1k': ('resnet50',),
    'microsoft/resnet-50': 'resnet',
    'timm/tf_efficientnetv2_s.in21k_ft_in1k': ('tf_efficientnetv2_s',),
    'google/efficientnet-b0': 'efficientnet',
    'timm/vit_base_patch16_224.augreg2_in21k_ft_in1k': ('vit_base_patch16_224',),
    'google/vit-base-patch16-224': 'vit',
    'facebook/deit-base-distilled-patch16-224': 'distilled',
    'facebook/dinov2-base': 'dinov2',
    'facebook/dinov3-vits16-pretrain-lvd1689m': 'dinov3',
    'facebook/convnext-tiny-224': 'convnext',
    'microsoft/swin-tiny-patch4-window7-224': 'swin',
    'openai/clip-vit-base-patch32': 'clip',
    'google/siglip-base-patch16-224': 'siglip'}
gated = 'meta-llama/Llama-3.2-1B', 'facebook/dinov3-vits16-pretrain-lvd1689m' # a token is needed, there as here

@pytest.fixture(autouse=True)
def silent():
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()

@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    return dict(image=ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 3)), text=TextTask.from_df(texts(18), name='topics'))

def of_timm(folder, architecture):
    "A folder as timm writes it for a hub; the class"
    torch.manual_seed(0)
    net = timm.create_model(architecture, num_classes=1000)
    timm.models.save_for_hf(net, folder, model_config=dict(num_classes=1000), safe_serialization=True)
    return type(net).__name__

def put(hub, name, folder):
    "A small network of the class that a name stands for; the class, and what it reads"
    if name in kinds:
        written(folder, name)
        cls, kind = json.loads((folder/'config.json').read_text('utf-8'))['architectures'][0], 'text'
    else:
        what, kind = photos_by[name], 'image'
        cls = of_timm(folder, *what) if isinstance(what, tuple) else type(made(what, folder)[0]).__name__
    return cls, kind, hub.add(name, folder, licence='mit', gated=name in gated)

@pytest.fixture(scope='module')
def rows():
    "What came, and what is on record"
    kept = json.loads(record.read_text('utf-8')) if record.is_file() else {}
    found = {}
    yield found, kept
    if os.environ.get('TL_RECORD'): record.write_text(json.dumps({**kept, **found}, indent=1) + '\n', 'utf-8')

def outputs(predictor, items): return np.stack(list(predictor.probs(items).values()))

@pytest.mark.parametrize('name', [*photos_by, *kinds])
def test_name(name, hub, tasks, rows, tmp_path, monkeypatch):
    from hub import good_token
    if name in gated: monkeypatch.setenv('HF_TOKEN', good_token)
    cls, kind, commit = put(hub, name, tmp_path/'net')
    size = dict(size=16) if kind == 'text' else dict(size=64) if name.startswith('timm/') else {}
    task = tasks[kind]
    learn = transfer_learner(task, name, bs=4, seed=0, **size)
    assert learn.pretrained.revision == commit or name.startswith('timm/')
    depth = len(stages(learn.model))
    trained = []
    with learn.no_bar(), learn.no_logging():
        for how in hows:
            learn.transfer(how, 1)
            trained.append(how)
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    hub.close()
    shutil.rmtree(tmp_path/'hub_home')
    off = float(np.abs(outputs(load_transfer(saved), result.items) - result.probs).max())
    assert off < 1e-5
    found, kept = rows
    found[name] = dict(reads=kind, network=cls, gated=name in gated, stages=depth, trained=trained, loaded_without_hub=True)
    if not os.environ.get('TL_RECORD'): assert kept.get(name) == found[name], f'TL_RECORD=1 python -m pytest {Path(__file__).name} writes it anew'

def test_no_name_on_record_is_gone():
    assert list(json.loads(record.read_text('utf-8'))) == [*photos_by, *kinds]
