"Networks of images from a hub: every family by its owner's name, trained, saved, and loaded with the hub off; and all that goes wrong on the way."
import json, shutil, time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers as T
from conftest import photos, refused, tl
from hub import good_token, other_token
from safetensors.torch import load_file, save, save_file
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.bodies import noise
from tl_nbdev.networks.hub import models
from tl_nbdev.networks.stages import stages
from tl_nbdev.selection.candidates import candidates
from tl_nbdev.selection.choose import advise
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import check_saved, load_transfer
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.vision.zoo import pretrained
from torch import nn

@pytest.fixture(autouse=True)
def silent():
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 3))

def train(task, p, how='feature'):
    learn = transfer_learner(task, p, bs=2, seed=0)
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, 1)
    return learn

def line(what, **kwargs):
    "The one line of an error"
    with pytest.raises(TransferError) as e: pretrained(what, **kwargs).body()
    assert '\n' not in str(e.value)
    return str(e.value)


# every family

tower = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
dino = {k: v for k, v in tower.items() if k != 'intermediate_size'} | dict(mlp_ratio=2)
words = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, bos_token_id=0, eos_token_id=1, pad_token_id=1)
maps = dict(hidden_sizes=[8, 16, 24, 32], depths=[1]*4)
windows = dict(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)

def scored(net, x):
    "What the head of a classifier is given, averaged where there are two"
    seen = []
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.append(args[0])) for name, m in net.named_modules()
             if isinstance(m, nn.Linear) and 'classifier' in name]
    net(x)
    for hook in hooks: hook.remove()
    return torch.stack(seen).mean(0)

def vector(net, x): return getattr(net, 'vision_model', net)(x).pooler_output
def first(net, x): return net(x).last_hidden_state[:, 0]
def first_and_mean(net, x): return torch.cat([first(net, x), net(x).last_hidden_state[:, 1:].mean(1)], 1)

families = dict( # class, what configures it, its image processor, and what the library gives as features
    vit=('ViTForImageClassification', T.ViTConfig(**tower), 'ViTImageProcessor', scored),
    vit_bare=('ViTModel', T.ViTConfig(**tower), 'ViTImageProcessor', first),
    deit=('DeiTForImageClassification', T.DeiTConfig(**tower), 'DeiTImageProcessor', scored),
    distilled=('DeiTForImageClassificationWithTeacher', T.DeiTConfig(**tower), 'DeiTImageProcessor', scored),
    beit=('BeitForImageClassification', T.BeitConfig(**tower), 'BeitImageProcessor', scored),
    dinov2=('Dinov2Model', T.Dinov2Config(**dino), 'BitImageProcessor', first_and_mean),
    registers=('Dinov2WithRegistersForImageClassification', T.Dinov2WithRegistersConfig(**dino, num_register_tokens=2), 'BitImageProcessor', scored),
    dinov3=('DINOv3ViTModel', T.DINOv3ViTConfig(**tower, num_register_tokens=2), 'DINOv3ViTImageProcessor', vector),
    convnext=('ConvNextForImageClassification', T.ConvNextConfig(**maps, image_size=32), 'ConvNextImageProcessor', scored),
    convnextv2=('ConvNextV2ForImageClassification', T.ConvNextV2Config(**maps, image_size=32), 'ConvNextImageProcessor', scored),
    swin=('SwinForImageClassification', T.SwinConfig(**windows), 'ViTImageProcessor', scored),
    swinv2=('Swinv2ForImageClassification', T.Swinv2Config(**windows), 'ViTImageProcessor', scored),
    resnet=('ResNetForImageClassification', T.ResNetConfig(**maps, embedding_size=8), 'ConvNextImageProcessor', scored),
    regnet=('RegNetForImageClassification', T.RegNetConfig(**maps, embedding_size=8, groups_width=8), 'ConvNextImageProcessor', scored),
    efficientnet=('EfficientNetForImageClassification', T.EfficientNetConfig(image_size=32, width_coefficient=.25, depth_coefficient=.2, hidden_dim=320), 'EfficientNetImageProcessor', scored),
    mobilenetv2=('MobileNetV2ForImageClassification', T.MobileNetV2Config(image_size=32, depth_multiplier=.25), 'MobileNetV2ImageProcessor', scored),
    mobilevit=('MobileViTForImageClassification', T.MobileViTConfig(image_size=32, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 24, 32, 64], num_attention_heads=2), 'MobileViTImageProcessor', scored),
    pvt=('PvtForImageClassification', T.PvtConfig(**maps, image_size=64, num_attention_heads=[1, 1, 2, 2]), 'PvtImageProcessor', scored),
    levit=('LevitForImageClassification', T.LevitConfig(image_size=64, hidden_sizes=[16, 32, 48], depths=[1]*3, num_attention_heads=[1, 2, 2], key_dim=[8]*3), 'LevitImageProcessor', None),
    siglip=('SiglipModel', T.SiglipConfig(vision_config=tower, text_config=words), 'SiglipImageProcessor', vector),
    siglip_tower=('SiglipVisionModel', T.SiglipVisionConfig(**tower), 'SiglipImageProcessor', vector),
    clip=('CLIPModel', T.CLIPConfig(vision_config=tower, text_config=words, projection_dim=16), 'CLIPImageProcessor', vector),
    clip_classifier=('CLIPForImageClassification', T.CLIPConfig(vision_config=tower, text_config=words), 'CLIPImageProcessor', scored))

def made(name, folder):
    "A tiny network of a family in a folder, with its processor; the network, and what the processor is"
    cls, config, processor, _ = families[name]
    torch.manual_seed(0)
    net = getattr(T, cls)(config).eval()
    with torch.no_grad():
        for buffer, value in net.named_buffers(): # statistics as after some training
            if buffer.endswith('running_var'): value.add_(.5)
    net.save_pretrained(folder)
    side = getattr(getattr(config, 'vision_config', config), 'image_size', 32)
    cls = getattr(T, processor)
    cropped = getattr(cls, 'crop_size', None)
    both = dict(height=side, width=side)
    size = dict(shortest_edge=side) if 'shortest_edge' in (cls.size or {}) else both
    cls(size=size, image_mean=[.1, .2, .3], image_std=[.4, .5, .6], **(dict(crop_size=both) if cropped else {})).save_pretrained(folder)
    return net, json.loads((folder/'preprocessor_config.json').read_text('utf-8')), side

filters = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic'}

@pytest.mark.parametrize('name', families)
def test_a_family_by_name(name, hub, task, tmp_path):
    net, said, side = made(name, tmp_path/'net')
    commit = hub.add(f'somebody/{name}.v1', tmp_path/'net', licence='mit')
    p = pretrained(f'somebody/{name}.v1')
    assert (p.name, p.source, p.licence, p.repository, p.revision, p.size) == (f'somebody/{name}.v1', 'hub', 'mit', f'somebody/{name}.v1', commit, side)
    assert not any('safetensors' in asked for asked in hub.asked) # described before it is loaded
    scaled = said.get('do_normalize') and not said.get('rescale_offset')
    if scaled: assert p.mean == (.1, .2, .3) and p.std == (.4, .5, .6)
    assert p.interpolation == filters[said['resample']] and not p.notes
    body, x, features = p.body(), noise(3, side), families[name][3]
    if said.get('do_flip_channel_order'): assert name == 'mobilevit'
    if features:
        with torch.no_grad(): torch.testing.assert_close(body(x), features(net, x.flip(1) if said.get('do_flip_channel_order') else x), atol=1e-5, rtol=1e-5)
    assert len(stages(body)) >= 3 and sum(s.n for s in stages(body)) == sum(o.numel() for o in body.parameters())
    learn = train(task, p)
    with learn.no_bar(), learn.no_logging():
        for how in ('last:1', 'full'): learn.transfer(how, 1)
    result = learn.evaluate()
    learn.save_transfer(tmp_path/'saved', result, check=False)
    record = json.loads((tmp_path/'saved'/'transfer.json').read_text('utf-8'))['pretrained']
    assert record['revision'] == commit and commit in (tmp_path/'saved'/'README.md').read_text('utf-8')
    hub.close()
    shutil.rmtree(tmp_path/'hub_home') # not even its cache is there
    there = load_transfer(tmp_path/'saved')
    check_saved(tmp_path/'saved', there)
    got = there.probs(result.items)
    np.testing.assert_allclose(np.stack([got[i] for i in range(result.n)]), result.probs, atol=1e-5)
    again = pretrained(tmp_path/'saved')
    assert (again.name, again.built, again.revision) == (p.name, p.built, commit)
    torch.testing.assert_close(again.body()(x), learn.model.body.cpu().eval()(x), atol=1e-5, rtol=1e-5)


def test_code_that_lies_beside_weights_is_not_run_where_it_is_not_needed(hub, tmp_path):
    net, *_ = made('vit', tmp_path/'net')
    said = json.loads((tmp_path/'net'/'config.json').read_text('utf-8'))
    (tmp_path/'net'/'config.json').write_text(json.dumps({**said, 'auto_map': {'AutoModel': 'net.Net'}}), 'utf-8')
    (tmp_path/'net'/'net.py').write_text('raise SystemExit', 'utf-8')
    hub.add('somebody/net', tmp_path/'net')
    p = pretrained('somebody/net')
    assert 'is not run' in p.notes[0] and not any('net.py' in asked for asked in hub.asked)
    with torch.no_grad(): torch.testing.assert_close(p.body()(noise(3, 32)), scored(net, noise(3, 32)), atol=1e-5, rtol=1e-5)


# timm's layout

def timms(to, name='resnet10t', classes=3, args=None, cfg=None, **kwargs):
    "A folder as timm puts it on a hub"
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=classes, **kwargs).eval()
    to.mkdir(exist_ok=True)
    save_file(net.state_dict(), to/'model.safetensors')
    own = dict(input_size=[3, 48, 48], mean=[.1, .2, .3], std=[.4, .5, .6], interpolation='bilinear', crop_pct=.9)
    said = dict(architecture=name, num_classes=classes, num_features=net.num_features, pretrained_cfg={**own, **(cfg or {})}, **(dict(model_args=args) if args else {}))
    (to/'config.json').write_text(json.dumps(said), 'utf-8')
    return net

def features(net, x):
    with torch.no_grad(): return net.forward_head(net.forward_features(x), pre_logits=True)

def test_timms_layout_and_its_own_preprocessing(hub, task, tmp_path):
    net = timms(tmp_path/'net')
    commit = hub.add('somebody/birds', tmp_path/'net', licence='cc-by-4.0')
    for what in ('somebody/birds', 'hf-hub:somebody/birds', 'hf_hub:somebody/birds', 'somebody/birds@main', f'somebody/birds@{commit[:8]}'):
        p = pretrained(what)
        assert (p.repository, p.built, p.library, p.licence, p.revision) == ('somebody/birds', 'resnet10t', 'timm', 'cc-by-4.0', commit)
        assert p.name == what.partition(':')[2] or p.name == what
        assert (p.size, p.mean, p.std, p.interpolation, p.crop) == (48, (.1, .2, .3), (.4, .5, .6), 'bilinear', .9)
    torch.testing.assert_close(p.body()(noise(3, 48)), features(net, noise(3, 48)), atol=1e-5, rtol=1e-5)
    learn = train(task, 'hf-hub:somebody/birds', 'last:1')
    learn.save_transfer(tmp_path/'saved', learn.evaluate(), check=False)
    hub.close()
    check_saved(tmp_path/'saved')

@pytest.mark.parametrize('name,args,make', [
    ('resnet10t', dict(in_chans=1), dict(in_chans=1)),
    ('resnet10t', dict(in_chans=5, drop_path_rate=.1, checkpoint_path='/elsewhere', features_only=True), dict(in_chans=5)),
    ('vit_tiny_patch16_224', dict(img_size=48, depth=1, global_pool='avg', class_token=False), dict(img_size=48, depth=1, global_pool='avg', class_token=False)),
    ('convnext_atto', dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32]), dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)))])
def test_how_a_network_is_built_is_told(name, args, make, hub, task, tmp_path):
    net = timms(tmp_path/'net', name, args=args, cfg=dict(input_size=[args.get('in_chans', 3), 48, 48]), **make)
    hub.add('somebody/net', tmp_path/'net')
    p = pretrained('somebody/net')
    assert p.channels == args.get('in_chans', 3) == len(p.mean) and p.size == 48
    x = noise(p.channels, 48)
    torch.testing.assert_close(p.body()(x), features(net, x), atol=1e-5, rtol=1e-5)
    if p.channels != 3: return
    learn = train(task, p)
    learn.save_transfer(tmp_path/'saved', learn.evaluate(), check=False)
    hub.close()
    check_saved(tmp_path/'saved')

def test_another_size_is_fitted_as_timm_does(hub, tmp_path):
    timms(tmp_path/'net', 'vit_tiny_patch16_224', args=dict(depth=1, img_size=48), depth=1, img_size=48)
    hub.add('somebody/net', tmp_path/'net')
    body = pretrained('somebody/net', size=64).body()
    assert body(noise(3, 64)).shape == (2, 192) and body.pos_embed.shape[1] == 17

def test_a_name_that_timm_lists_at_a_revision(hub, tmp_path):
    timms(tmp_path/'net', 'resnet10t', cfg=dict(license='mit'))
    commit = hub.add('timm/resnet10t.c3_in1k', tmp_path/'net', ref='v1')
    for p in (pretrained('resnet10t.c3_in1k', revision='v1'), pretrained('timm/resnet10t.c3_in1k@v1')):
        assert p.revision == commit and p.size == 48
    assert pretrained('timm/resnet10t.c3_in1k').repository is None # as timm lists it, with timm's own figures

def test_what_was_saved_here_and_shared_is_a_start(hub, task, tmp_path):
    for name, start in ('timm', pretrained('resnet10t', 'random', size=32)), ('theirs', T.ViTForImageClassification(families['vit'][1])):
        learn = train(task, start)
        learn.save_transfer(tmp_path/name, learn.evaluate(), check=False)
        hub.add(f'somebody/{name}', tmp_path/name)
        p = pretrained(f'somebody/{name}')
        x = noise(3, 32)
        torch.testing.assert_close(p.body()(x), learn.model.body.cpu().eval()(x), atol=1e-5, rtol=1e-5)


# revisions, and what is kept

def test_a_revision_is_what_it_was(hub, tmp_path):
    old, new = timms(tmp_path/'old'), timms(tmp_path/'new', classes=9)
    with torch.no_grad(): new.conv1[0].weight.mul_(2)
    save_file(new.state_dict(), tmp_path/'new'/'model.safetensors')
    first = hub.add('somebody/net', tmp_path/'old', ref='v1')
    second = hub.add('somebody/net', tmp_path/'new')
    hub.add('somebody/net', tmp_path/'old', ref='refs/pr/1')
    assert {rev: pretrained('somebody/net', revision=rev).revision for rev in ('v1', first, None, 'main')} == {'v1': first, first: first, None: second, 'main': second}
    x = noise(3, 48)
    for what, net in ('somebody/net@v1', old), ('somebody/net', new), ('somebody/net@refs/pr/1', old):
        torch.testing.assert_close(pretrained(what).body()(x), features(net, x), atol=1e-5, rtol=1e-5)
    assert 'no revision "v2"' in line('somebody/net@v2') and 'name one of them' in line('somebody/net@v1', revision='v2')
    assert 'is no revision' in line('somebody/net', revision='../../x')
    for what in ('squeezenet1_1', tmp_path/'old'): assert 'revision' in line(what, revision='v1')

def test_without_a_hub_the_cache_is_used(hub, tmp_path, monkeypatch):
    net = timms(tmp_path/'net')
    commit = hub.add('somebody/net', tmp_path/'net')
    hub.add('somebody/half', tmp_path/'net')
    pretrained('somebody/half') # its weights never came
    pretrained('somebody/net').body()
    with monkeypatch.context() as m:
        m.setenv('TL_OFFLINE', 'yes')
        asked = len(hub.asked)
        p = pretrained('somebody/net')
        assert 'from the cache' in p.notes[0] and p.revision == commit and len(hub.asked) == asked
        torch.testing.assert_close(p.body()(noise(3, 48)), features(net, noise(3, 48)), atol=1e-5, rtol=1e-5)
        assert "weights are not in the hub's cache" in line('somebody/half') and 'tl_offline is yes' in line('somebody/other')
    hub.fault('somebody/net', '(info)', '503')
    assert '503' in pretrained('somebody/net').notes[0]
    hub.close()
    assert pretrained('somebody/net', revision='main').body() and "can't be reached" in line('somebody/other')

def test_a_folder_of_that_name_wins(hub, tmp_path, monkeypatch):
    timms(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net')
    monkeypatch.chdir(tmp_path)
    assert pretrained('somebody/net').source == 'hub'
    shutil.copytree(tmp_path/'net', tmp_path/'somebody'/'net')
    assert pretrained('somebody/net').source == 'folder'

def test_everything_that_names_a_network_takes_it(hub, tmp_path, capsys):
    data = photos(tmp_path/'photos', 6)
    for i, name in enumerate(('one', 'other')):
        timms(tmp_path/name, classes=3 + i)
        hub.add(f'somebody/{name}', tmp_path/name, licence='mit')
    got = tl('train', data, '--model', 'somebody/one@main', '--size', 32, '--epochs', 1, '--json', tmp_path/'report.json')
    assert got.status == 0 and got.json['model'] == 'somebody/one@main', got.err
    task = ImageTask.from_folder(data)
    assert transfer_learner(task, 'somebody/one', revision='main', size=32).pretrained.name == 'somebody/one@main'
    dry = tl('train', data, '--model', 'somebody/one', '--revision', 'main', '--size', 32, '--dry-run')
    assert dry.status == 0, dry.err
    assert {p.name for p in candidates(task, ['somebody/one', 'somebody/other'], licence='mit')} == {'somebody/one', 'somebody/other'}
    got = tl('compare', data, '--models', 'somebody/one,somebody/other', '--strategies', 'feature', '--seeds', 1, '--epochs', 1, '--size', 32, '--json', tmp_path/'compared.json')
    assert got.status == 0 and 'somebody/one' in got.out and 'somebody/other' in got.out, got.err
    refused(tl('train', data, '--model', 'somebody/none'), 'no such repository')

def test_advice_about_a_network_of_a_hub(hub, tmp_path):
    timms(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net', licence='mit')
    task = ImageTask.from_folder(photos(tmp_path/'photos', 6))
    got = advise(task, 60, 'somebody/net', strategies=('feature',), epochs=1, size=32, bs=4)
    assert 'somebody/net' in got.code and {entry.p.name for entry in got.entries} == {'somebody/net'}, got


# what is refused

def test_gates_and_tokens(hub, tmp_path, monkeypatch):
    timms(tmp_path/'net')
    hub.add('somebody/gated', tmp_path/'net', gated=True)
    hub.add('somebody/private', tmp_path/'net', private=True)
    hub.add('somebody/net', tmp_path/'net')
    assert 'is gated' in line('somebody/gated') and 'HF_TOKEN' in line('somebody/gated') and 'private' in line('somebody/private')
    monkeypatch.setenv('HF_TOKEN', other_token)
    assert 'your token may not' in line('somebody/gated') and 'this token can see' in line('somebody/private')
    wrong = 'hf_' + 'w'*34
    for token in (wrong, f'{wrong}\u00e9', f'{wrong} x'):
        monkeypatch.setenv('HF_TOKEN', token)
        with pytest.raises(TransferError) as e: pretrained('somebody/net')
        chain, told = e.value, []
        while chain is not None: told.append(repr(chain)); chain = chain.__cause__ or chain.__context__
        assert not any('www' in each for each in told), told
        if token == wrong: assert 'refuses the token' in str(e.value)
    monkeypatch.setenv('HF_TOKEN', good_token)
    assert pretrained('somebody/gated').body() and pretrained('somebody/private').body()

bert = T.BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
held = dict( # files of a repository, and words of the line that refuses it
    nothing=({'README.md': 'x'}, 'no config.json'),
    no_weights=({'config.json': '{"model_type": "vit"}'}, 'no weights in it'),
    a_pickle=({'config.json': '{"model_type": "vit"}', 'pytorch_model.bin': b'x'}, 'convert=True'),
    an_adapter=({'config.json': '{}', 'adapter_config.json': '{}', 'adapter_model.safetensors': b'x'}, 'an adapter'),
    another_name=({'config.json': '{}', 'open_clip_model.safetensors': b'x'}, 'called open_clip_model.safetensors'),
    own_code=({'config.json': '{"model_type": "mine", "auto_map": {"AutoModel": "net.Net"}}', 'model.safetensors': b'x'}, 'code of its own'),
    unknown=({'config.json': '{"model_type": "mine"}', 'model.safetensors': b'x'}, 'transformers knows none'),
    texts=({'config.json': json.dumps(bert.to_dict() | dict(architectures=['BertModel'])), 'model.safetensors': b'x'}, 'give it to a TextTask'),
    no_json=({'config.json': '{', 'model.safetensors': b'x'}, 'is not JSON'),
    nobody=({'config.json': '{"a": 1}', 'model.safetensors': b'x'}, 'neither an "architecture"'),
    hidden=({'config.json': '{"architecture": "hf-hub:somebody/else"}', 'model.safetensors': b'x'}, 'is no network that'),
    no_safetensors=({'config.json': '{"architecture": "resnet10t"}', 'model.safetensors': b'not safetensors'}, 'shorter than it should be'),
    other_weights=({'config.json': '{"architecture": "resnet10t"}', 'model.safetensors': save(dict(w=torch.ones(2)))}, 'of another network'),
    torn_index=({'config.json': '{"model_type": "vit"}', 'model.safetensors.index.json': '{"weight_map": {"w": "a.safetensors"}}'}, 'in its index, and not in it'))

@pytest.mark.parametrize('name', held)
def test_what_a_repository_may_hold(name, hub):
    files, words = held[name]
    hub.add('somebody/net', files)
    said = line('somebody/net')
    assert words in said and 'hub_home' not in said and 'somebody/net' in said, said

def test_large_networks_come_in_pieces(hub, tmp_path):
    net, *_ = made('vit', tmp_path/'whole')
    net.save_pretrained(tmp_path/'net', max_shard_size='20KB')
    assert len(list((tmp_path/'net').glob('*.safetensors'))) > 1
    hub.add('somebody/net', tmp_path/'net')
    hub.fault('somebody/net', 'model-00002*', 'short', times=1)
    assert 'model-00002' in line('somebody/net')
    with torch.no_grad(): torch.testing.assert_close(pretrained('somebody/net').body()(noise(3, 32)), scored(net, noise(3, 32)), atol=1e-5, rtol=1e-5)

def test_siglip2_takes_more_than_images(hub, tmp_path):
    vision = {k: v for k, v in tower.items() if k != 'image_size'} | dict(num_patches=16)
    T.Siglip2Model(T.Siglip2Config(vision_config=vision, text_config=words)).save_pretrained(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net')
    assert 'takes more than images' in line('somebody/net')


# pickles

def as_pickle(folder, pieces=False):
    "The same folder with its weights as pickles"
    state = load_file(folder/'model.safetensors')
    (folder/'model.safetensors').unlink()
    if not pieces: torch.save(state, folder/'pytorch_model.bin')
    else:
        names, files = sorted(state), [f'pytorch_model-0000{i + 1}-of-00002.bin' for i in range(2)]
        for i, file in enumerate(files): torch.save({key: state[key] for key in names[i::2]}, folder/file)
        index = dict(metadata={}, weight_map={key: file for i, file in enumerate(files) for key in names[i::2]})
        (folder/'pytorch_model.bin.index.json').write_text(json.dumps(index), 'utf-8')

@pytest.mark.parametrize('kind', ['timm', 'vit', 'pieces'])
def test_a_pickle_is_converted_where_somebody_asks_for_it(kind, hub, task, tmp_path):
    net = timms(tmp_path/'net') if kind == 'timm' else made('vit', tmp_path/'net')[0]
    side = 48 if kind == 'timm' else 32
    want = (features if kind == 'timm' else scored)(net, noise(3, side)).detach()
    as_pickle(tmp_path/'net', kind == 'pieces')
    commit = hub.add('somebody/old', tmp_path/'net', licence='mit')
    assert 'convert=True' in line('somebody/old') and not any('.bin' in asked for asked in hub.asked)
    p = pretrained('somebody/old', convert=True)
    assert (p.source, p.repository, p.revision, p.licence, p.size) == ('hub', 'somebody/old', commit, 'mit', side)
    asked = [each for each in hub.asked if '.bin' in each]
    with torch.no_grad(): torch.testing.assert_close(p.body()(noise(3, side)), want, atol=1e-5, rtol=1e-5)
    assert pretrained('somebody/old', convert=True).body() and [each for each in hub.asked if '.bin' in each] == asked
    learn = train(task, p)
    learn.save_transfer(tmp_path/'saved', learn.evaluate(), check=False)
    hub.close()
    check_saved(tmp_path/'saved')
    again = pretrained('somebody/old', convert=True) # of what is in the cache
    with torch.no_grad(): torch.testing.assert_close(again.body()(noise(3, side)), want, atol=1e-5, rtol=1e-5)

def test_a_pickle_in_a_folder_or_a_file(tmp_path):
    net = timms(tmp_path/'net')
    want = features(net, noise(3, 48)).detach()
    assert pretrained(tmp_path/'net', convert=True).where == tmp_path/'net' # nothing is to be done
    as_pickle(tmp_path/'net')
    before = sorted(tmp_path.rglob('*'))
    assert 'convert=True' in line(tmp_path/'net') and 'convert=True' in line(tmp_path/'net'/'pytorch_model.bin')
    torch.testing.assert_close(pretrained(tmp_path/'net', convert=True).body()(noise(3, 48)), want, atol=1e-5, rtol=1e-5)
    file = tmp_path/'net'/'pytorch_model.bin'
    p = pretrained('resnet10t', weights=file, convert=True, size=48)
    torch.testing.assert_close(p.body()(noise(3, 48)), want, atol=1e-5, rtol=1e-5)
    assert sorted(tmp_path.rglob('*')) == before # it is made in the cache

class Evil:
    def __init__(self, file): self.file = file
    def __reduce__(self): return Path.touch, (self.file,)

def test_a_pickle_with_code_is_refused(hub, tmp_path):
    timms(tmp_path/'net')
    as_pickle(tmp_path/'net')
    torch.save(dict(w=Evil(tmp_path/'ran')), tmp_path/'net'/'pytorch_model.bin')
    hub.add('somebody/bad', tmp_path/'net')
    for what in ('somebody/bad', tmp_path/'net'): assert 'was not run' in line(what, convert=True)
    assert not (tmp_path/'ran').exists()


# what fails on the way

@pytest.fixture
def hasty(monkeypatch):
    "No pause between tries; `hasty()` makes waits short, and they are long again where it ends"
    clock = SimpleNamespace(sleep=lambda s: None, time=time.time, monotonic=time.monotonic, perf_counter=time.perf_counter)
    for module in ('huggingface_hub.file_download', 'huggingface_hub.utils._http', 'tl_nbdev.networks.repository'):
        monkeypatch.setattr(f'{module}.time', clock)
    @contextmanager
    def waits(kind):
        with monkeypatch.context() as m:
            for name in ('HF_HUB_ETAG_TIMEOUT', 'HF_HUB_DOWNLOAD_TIMEOUT'):
                m.setattr(f'huggingface_hub.constants.{name}', .3 if kind == 'hang' else 60) # a slow machine is not a slow hub
            yield
    return waits

ways = [('(info)', '500', 'trouble of its own (500)'), ('(info)', '429', 'asks to wait'), ('(info)', 'hang', 'no answer within'),
        ('config.json', '503', 'trouble of its own (503)'), ('config.json', '429', 'asks to wait'), ('config.json', 'hang', 'no answer within'),
        ('config.json', 'cut', 'config.json could not be fetched'), ('config.json', 'short', 'only in part'), ('model.safetensors', 'short', 'only in part'),
        ('model.safetensors', '500', 'trouble of its own (500)'), ('model.safetensors', 'hang', 'no answer within')]

@pytest.mark.parametrize('path,kind,words', ways)
def test_a_fault_is_one_line_and_the_next_try_succeeds(path, kind, words, hub, hasty, tmp_path, capfd):
    net = timms(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net')
    hub.fault('somebody/net', path, kind)
    with hasty(kind): said = line('somebody/net')
    assert words in said and 'hub_home' not in said, said
    assert not capfd.readouterr().err # nothing else is said
    snapshots = tmp_path/'hub_home'/'hub'/'models--somebody--net'/'snapshots'
    assert not [file for file in snapshots.rglob(path) if file.is_file()]
    hub.mend()
    torch.testing.assert_close(pretrained('somebody/net').body()(noise(3, 48)), features(net, noise(3, 48)), atol=1e-5, rtol=1e-5)

def test_a_connection_that_breaks_twice_is_taken_up_again(hub, hasty, tmp_path):
    timms(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net')
    hub.fault('somebody/net', 'model.safetensors', 'cut', times=2)
    assert pretrained('somebody/net').body()
    assert sum('/cdn/' in asked and asked.startswith('GET') for asked in hub.asked) == 3

def test_what_lies_torn_in_the_cache_is_fetched_again(hub, tmp_path):
    net = timms(tmp_path/'net')
    hub.add('somebody/net', tmp_path/'net')
    pretrained('somebody/net').body()
    file = next((tmp_path/'hub_home'/'hub').rglob('snapshots/*/model.safetensors')).resolve()
    file.write_bytes(file.read_bytes()[:1000])
    torch.testing.assert_close(pretrained('somebody/net').body()(noise(3, 48)), features(net, noise(3, 48)), atol=1e-5, rtol=1e-5)


# searching

def test_models_search_the_hub(hub, hasty, tmp_path):
    for i in range(4): hub.add(f'somebody/convnext_tiny-{i}', {'config.json': '{"architecture": "convnext_tiny"}', 'model.safetensors': b''}, licence='mit', downloads=i, gated=i == 3)
    hub.add('timm/convnext_tiny.fb_in1k', {'config.json': '{"architecture": "convnext_tiny"}'}, downloads=9)
    hub.add('somebody/convnext_words', {'config.json': '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'})
    rows = models(query='convnext_tiny')
    names = [row['name'] for row in rows]
    assert 'convnext_tiny.fb_in1k' in names and 'convnext_tiny' in names and 'timm/convnext_tiny.fb_in1k' not in names and len(set(names)) == len(names) - names.count('convnext_tiny') + 1
    found = [row for row in rows if row['name'].startswith('somebody/')]
    assert [row['name'][-1] for row in found] == ['3', '2', '1', '0'] and not rows.about
    assert found[0] | dict(name='') == dict(name='', library='timm', licence='mit', source='hub', available='hub', downloads=3, gated='yes')
    assert [row['name'] for row in models('text', 'convnext')] == ['somebody/convnext_words']
    assert [row['name'] for row in models(query='somebody/convnext_tiny', limit=2)] == ['somebody/convnext_tiny-3', 'somebody/convnext_tiny-2']
    asked = len(hub.asked)
    assert not [row for row in models(query='convnext', limit=0) if '/' in row['name']] and models() and len(hub.asked) == asked
    got = tl('models', '--query', 'somebody', '--limit', 1, '--json', tmp_path/'found.json')
    assert got.status == 0 and [row['name'] for row in got.json] == ['somebody/convnext_tiny-3']
    got = tl('models', '--task', 'text', '--query', 'convnext', '--json', tmp_path/'found.json')
    assert [row['name'] for row in got.json] == ['somebody/convnext_words']
    with pytest.raises(TransferError, match='use 0 or more'): models(query='x', limit=-1)

@pytest.mark.parametrize('kind,words', [('500', '(500)'), ('429', '(429)'), ('hang', 'no answer')])
def test_a_hub_that_does_not_answer_is_a_line_below_the_table(kind, words, hub, hasty):
    hub.fault('', '(search)', kind)
    with hasty(kind): found = models(query='squeezenet')
    assert {'squeezenet1_0', 'squeezenet1_1'} <= {row['name'] for row in found} and words in found.about and 'not searched' in repr(found)
    hub.close()
    assert "can't be reached" in models(query='squeezenet').about


# folders and files that people have

def test_a_folder_without_config_says_to_name_the_network(tmp_path):
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path/'model.safetensors')
    said = line(tmp_path)
    assert f'pretrained("resnet50", weights="{tmp_path/"model.safetensors"}")' in said
    assert pretrained('resnet10t', weights=tmp_path).body() # the only file of a folder
    save_file(dict(w=torch.ones(1)), tmp_path/'other.safetensors')
    assert 'one file of weights is meant' in line('resnet10t', weights=tmp_path)

wrappers = dict(parallel='module.{}', lightning='model.{}', backbone='backbone.{}', several='module.model.backbone.{}', compiled='_orig_mod.{}', none='{}')

@pytest.mark.parametrize('wrapper', wrappers)
@pytest.mark.parametrize('name', ['resnet10t', 'torchvision/squeezenet1_1', 'mobilenetv3_small_050'])
def test_names_and_heads_of_weights_that_people_have(name, wrapper, tmp_path):
    torch.manual_seed(2)
    library, _, short = name.rpartition('/')
    net = torchvision.models.get_model(short, num_classes=7) if library else timm.create_model(short, num_classes=7)
    state = {wrappers[wrapper].format(key): value.contiguous() for key, value in net.state_dict().items()}
    heads = [key for key in state if 'fc.' in key or 'classifier.' in key]
    if wrapper == 'backbone': # and a head of their own, elsewhere
        for key in heads: del state[key]
        state['head.1.weight'] = torch.ones(4, 4)
    if wrapper == 'none': # a head that is a sequence
        for key in heads: state[key.replace('fc.', 'fc.1.').replace('classifier.1.', 'classifier.2.1.')] = state.pop(key)
    save_file(state, tmp_path/'w.safetensors')
    p = pretrained(name, weights=tmp_path/'w.safetensors', size=64)
    want = net.eval().features(noise(3, 64)).mean((2, 3)) if library else features(net.eval(), noise(3, 64))
    torch.testing.assert_close(p.body()(noise(3, 64)), want, atol=1e-5, rtol=1e-5)

def test_two_networks_in_a_file_are_not_guessed(tmp_path):
    state = timm.create_model('resnet10t').state_dict()
    save_file({f'{who}.{key}': value.clone() for who in ('student', 'teacher') for key, value in state.items()}, tmp_path/'w.safetensors')
    said = line('resnet10t', weights=tmp_path/'w.safetensors')
    assert 'student.' in said and 'teacher.' in said and 'save the one' in said

@pytest.mark.parametrize('channels', [1, 2, 5])
def test_weights_for_other_channels(channels, tmp_path):
    net = timm.create_model('resnet10t', in_chans=channels).eval()
    save_file({f'module.{key}': value for key, value in net.state_dict().items()}, tmp_path/'w.safetensors')
    p = pretrained('resnet10t', weights=tmp_path/'w.safetensors', size=48)
    assert p.channels == len(p.mean) == channels
    torch.testing.assert_close(p.body()(noise(channels, 48)), features(net, noise(channels, 48)), atol=1e-5, rtol=1e-5)
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path/'rgb.safetensors')
    changed = pretrained('resnet10t', weights=tmp_path/'rgb.safetensors', size=48, channels=channels).body()
    assert changed(noise(channels, 48)).shape == (2, 512)

def test_another_head_in_a_folder_of_timms_format(tmp_path):
    net = timms(tmp_path, classes=3)
    said = json.loads((tmp_path/'config.json').read_text('utf-8'))
    (tmp_path/'config.json').write_text(json.dumps({**said, 'num_classes': 1000}), 'utf-8') # as it was before
    torch.testing.assert_close(pretrained(tmp_path).body()(noise(3, 48)), features(net, noise(3, 48)), atol=1e-5, rtol=1e-5)

def test_a_network_that_gives_a_dict(task):
    class Told(nn.Module):
        "As a network of detection or distillation answers"
        def __init__(self):
            super().__init__()
            self.low, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        def forward(self, x):
            maps = self.low(x).relu()
            return dict(features=maps, logits=self.fc(maps.mean((2, 3))))
    net = Told().eval()
    body = pretrained(net, size=32).body()
    assert body(noise(3, 32)).shape == (2, 8)
    with torch.no_grad(): torch.testing.assert_close(body(noise(3, 32)), net.low(noise(3, 32)).relu().mean((2, 3)))
