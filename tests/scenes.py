"Small scenes with boxes, written as anyone's own program would write them; and small detectors of every kind."
import json
from functools import partial

import numpy as np
import torch
import transformers as tf
from PIL import Image
from test_own_loss import _levels, _resnet, _rt, nets as own

kinds = dict(square=((24, 24), (220, 20, 20)), bar=((36, 14), (20, 20, 220)))

def scenes(folder, n=12, seed=0, kinds=kinds, size=80):
    "`n` photos with at least one thing each on light noise, and the dictionary of COCO that says where they are"
    folder.mkdir(parents=True, exist_ok=True)
    rng, said = np.random.default_rng(seed), dict(images=[], annotations=[], categories=[])
    said['categories'] = [dict(id=3*i + 1, name=name) for i, name in enumerate(kinds)]
    for i in range(n):
        w, h = int(rng.integers(size - 10, size + 20)), int(rng.integers(size - 10, size + 10))
        pic = rng.integers(150, 255, (h, w, 3), dtype=np.uint8)
        said['images'].append(dict(id=10*i + 7, file_name=f'{i:03}.png', width=w, height=h))
        for k, (across, colour) in enumerate(kinds.values()):
            if (i + k) % 3 == 0 and len(kinds) > 1: continue
            x, y = int(rng.integers(0, w - across[0])), int(rng.integers(0, h - across[1]))
            pic[y:y + across[1], x:x + across[0]] = colour
            said['annotations'].append(dict(id=len(said['annotations']) + 1, image_id=10*i + 7, category_id=3*k + 1, bbox=[x, y, *across],
                                            area=across[0]*across[1], iscrowd=0))
        Image.fromarray(pic).save(folder/f'{i:03}.png')
    return said

def written(folder, said, name='annotations.json'):
    "The file of it"
    (folder/name).write_text(json.dumps(said))
    return folder/name

def drawn(folder, n=12, **kwargs):
    "Photos, and their file"
    return written(folder, scenes(folder, n, **kwargs))

def _lwdetr():
    backbone = tf.LwDetrViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, pretrain_image_size=64, patch_size=16,
                                  num_windows=4, window_block_indices=[0], out_indices=[1, 2])
    return tf.LwDetrForObjectDetection(tf.LwDetrConfig(backbone_config=backbone, projector_scale_factors=[1.], decoder_ffn_dim=32, decoder_layers=2,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2, d_model=32, num_labels=2))

more = {
    'RT-DETR': lambda: tf.RTDetrForObjectDetection(tf.RTDetrConfig(**_rt, backbone_config=tf.RTDetrResNetConfig(**_resnet, out_features=_levels))),
    'LW-DETR': _lwdetr,
}
named = ('ssdlite320_mobilenet_v3_large', 'fasterrcnn_mobilenet_v3_large_320_fpn', 'retinanet:mobilenetv2_050', 'faster_rcnn:mobilenetv2_050',
         'yolov3-tiny', 'retinanet_resnet50_fpn', 'fcos_resnet50_fpn')
modules = {**own, **more}

def start_of(name):
    "What `transfer_learner` takes: a name and `source`, or a small network of a known seed"
    if name in named: return dict(model=name, source='random')
    torch.manual_seed(0)
    return dict(model=modules[name]())
