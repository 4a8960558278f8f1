"Networks of images as people have them: with their own preprocessing, without their old head, by transformers' classes, grey, in files."
import copy, json, socket

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import edited, photos
from PIL import Image
from safetensors.torch import save_file
from tl_nbdev.networks.bodies import headless, noise
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.vision.pixels import pixels, squared
from tl_nbdev.training.saved import check_saved, load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.vision.zoo import pretrained
from torch import nn
from torch.nn import functional as F
from transformers import (BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel, ConvNextConfig,
                          ConvNextForImageClassification, Dinov2Config, Dinov2Model, ResNetConfig, ResNetForImageClassification, SiglipVisionConfig,
                          SiglipVisionModel, SwinConfig, SwinForImageClassification, TimmWrapperConfig, TimmWrapperForImageClassification,
                          ViTConfig, ViTForImageClassification, ViTModel)

@pytest.fixture(scope='module')
def task(tmp_path_factory): return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 3))

def learner(task, model, **kwargs): return transfer_learner(task, model, bs=2, **kwargs)

def partition(net):
    "The stages of a network, each of whose parameters is in one of them"
    ss = stages(net)
    got = [id(p) for s in ss for p in s.params.values()]
    assert len(got) == len(set(got)) and set(got) == {id(p) for p in net.parameters()}
    return ss


# its own preprocessing

def wrapped(net): return nn.Sequential(net)

@pytest.mark.parametrize('around', [lambda o: o, nn.DataParallel, torch.compile, wrapped, torch.optim.swa_utils.AveragedModel], ids=['bare', 'parallel', 'compiled', 'inside', 'averaged'])
def test_a_module_is_prepared_as_timm_says(around):
    net = timm.create_model('tf_mobilenetv3_small_minimal_100')
    p, cfg = pretrained(around(net)), net.pretrained_cfg
    assert (p.mean, p.std, p.interpolation, p.size, p.crop) == (cfg['mean'], cfg['std'], cfg['interpolation'], cfg['input_size'][-1], cfg['crop_pct'])
    assert p.mean == (.5,)*3 and p.licence == cfg['license'] and not p.notes

def test_by_name_and_as_module_photos_give_the_same_features(task):
    files, named = task.df.item.to_list()[:2], pretrained('tf_efficientnet_lite0', 'random', size=64, mean=(.5,)*3, std=(.5,)*3, interpolation='bicubic')
    net = timm.create_model('tf_efficientnet_lite0')
    body = copy.deepcopy(net)
    body.reset_classifier(0)
    given = pretrained(net, size=64)
    torch.testing.assert_close(given.frozen(given.body()).all(files), named.frozen(body.eval()).all(files))

def test_a_size_that_a_module_was_made_for_needs_no_word(task):
    assert pretrained(timm.create_model('vit_tiny_patch16_384')).size == 384
    learn = learner(task, timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1))
    assert learn.pretrained.size == 32 and learn.pretrained.mean == (.5,)*3

def test_what_the_user_says_wins():
    net = timm.create_model('resnet10t')
    p = pretrained(net, size=40, mean=.4, std=[.1, .2, .3], licence='mine')
    assert (p.size, p.mean, p.std, p.licence) == (40, (.4,)*3, (.1, .2, .3), 'mine')
    for wrong, words in (dict(mean=(.5, .5)), '2 numbers, and the images have 3'), (dict(std=0), 'above 0'), (dict(mean='x'), 'a number for each'), (dict(colour=1), 'no such field'), (dict(interpolation='cubic'), 'use nearest'), (dict(crop=0), 'crop=0'):
        with pytest.raises(TransferError, match=words): pretrained(net, **wrong)

def test_what_is_assumed_is_said_once(task, capsys):
    net = torchvision.models.squeezenet1_1()
    task = copy.copy(task)
    task.notes = []
    for _ in range(2): learner(task, net, size=32)
    assert capsys.readouterr().out.count('assumed') == 1 and len(task.notes) == 1 and '32 pixels' in task.notes[0]
    assert not pretrained(net, mean=.5, std=.5).notes

def test_a_network_that_normalises_itself_takes_images_as_they_are():
    norm = torchvision.transforms.Normalize((.5,)*3, (.2,)*3)
    p = pretrained(nn.Sequential(norm, timm.create_model('resnet10t')))
    assert (p.mean, p.std, p.notes) == ((0.,)*3, (1.,)*3, ())

def test_the_crop_of_the_weights_is_used_where_images_are_cropped(task):
    net = timm.create_model('resnet10t')
    p = pretrained(net, size=32)
    a = np.zeros((64, 64, 3), np.uint8)
    a[2:62, 2:62] = 255 # the middle 56 pixels are 0.875 of 64
    dark = {fit: np.asarray(squared(Image.fromarray(a), p.prep(fit))).min() < 200 for fit in ('crop', 'squeeze')}
    assert p.crop == .875 and dark == dict(crop=False, squeeze=True)


# its old head

def low(width=16): return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, width, 3, 2), nn.ReLU())
def pooled(x): return x.mean((2, 3))

class By(nn.Module):
    "Parts, and a function that runs them"
    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for k, m in parts.items(): setattr(self, k, m)
    def forward(self, x): return self.run(self, x)

class Normed(nn.Linear):
    def forward(self, x): return 9*F.linear(F.normalize(x), F.normalize(self.weight))

class Cosine(nn.Module):
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.randn(16, 10))
    def forward(self, x): return F.normalize(x)@F.normalize(self.w, dim=0)

class Lora(nn.Module):
    def __init__(self): super().__init__(); self.base, self.down, self.up = nn.Linear(16, 10), nn.Linear(16, 2), nn.Linear(2, 10)
    def forward(self, x): return self.base(x) + self.up(self.down(x))

class Attention(nn.Module):
    "With its projection last, as a list of layers or as torch's own, and no head"
    def __init__(self, own):
        super().__init__()
        self.stem, self.own = nn.Conv2d(3, 16, 8, 8), own
        if own: self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        else: self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        if not self.own: return self.attend(x, x, x)[0].mean(1)
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q@k.mT).softmax(-1)@v).mean(1)

def head(): return nn.Linear(16, 10)
def on(run, **parts): return By(run, low=low(), **parts)
def simple(head): return on(lambda s, x: s.head(pooled(s.low(x))), head=head)
def sequence(*tail): return nn.Sequential(low(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *tail)

heads = { # a network with 10 classes, and the width of its features
    'registered first':   (lambda: By(lambda s, x: s.fc(pooled(s.low(x))), fc=head(), low=low()), 16),
    'in DataParallel':    (lambda: nn.DataParallel(simple(head())), 16),
    'before LogSoftmax':  (lambda: sequence(head(), nn.LogSoftmax(1)), 16),
    'before Softmax':     (lambda: sequence(head(), nn.Softmax(1)), 16),
    'before Sigmoid':     (lambda: sequence(head(), nn.Sigmoid()), 16),
    'before a function':  (lambda: on(lambda s, x: F.log_softmax(s.fc(pooled(s.low(x))), 1), fc=head()), 16),
    'before a reshape':   (lambda: on(lambda s, x: s.fc(pooled(s.low(x))).view(-1, 2, 5).mean(1), fc=head()), 16),
    'two linears':        (lambda: sequence(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10)), 24),
    'two, first':         (lambda: By(lambda s, x: s.fc(pooled(s.low(x))), fc=nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10)), low=low()), 24),
    'a convolution':      (lambda: nn.Sequential(low(), nn.Dropout(), nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16),
    'of each pixel':      (lambda: nn.Sequential(low(), nn.Conv2d(16, 10, 1)), 16),
    'of a whole map':     (lambda: nn.Sequential(low(), nn.Conv2d(16, 10, 7), nn.Flatten()), 16),
    'then Flatten':       (lambda: sequence(head(), nn.Flatten()), 16),
    'lazy':               (lambda: sequence(nn.LazyLinear(10)), 16),
    'a subclass':         (lambda: simple(Normed(16, 10)), 16),
    'cosine':             (lambda: simple(Cosine()), 16),
    'LoRA':               (lambda: simple(Lora()), 16),
    'weight norm':        (lambda: simple(nn.utils.parametrizations.weight_norm(head())), 16),
    'of tokens':          (lambda: on(lambda s, x: s.fc(s.low(x).flatten(2).mT).mean(1), fc=head()), 16),
    'twice':              (lambda: on(lambda s, x: s.fc(pooled(s.low(x))) + s.fc(pooled(s.low(x.flip(3)))), fc=head()), 16),
    'distilled':          (lambda: on(lambda s, x: (s.a(pooled(s.low(x))) + s.b(pooled(s.low(x.flip(3)))))/2, a=head(), b=head()), 16),
    'an ensemble':        (lambda: on(lambda s, x: s.a(pooled(s.low(x))).softmax(1) + s.b(pooled(s.other(x))).softmax(1), a=head(), b=nn.Linear(8, 10), other=low(8)), 24),
    'helped in training': (lambda: on(lambda s, x: (s.fc(pooled(s.low(x))), s.aux(pooled(s.low(x)))) if s.training else s.fc(pooled(s.low(x))), aux=head(), fc=head()), 16),
    'two tasks':          (lambda: on(lambda s, x: (s.a(pooled(s.low(x))), s.b(pooled(s.low(x)))), b=nn.Linear(16, 7), a=head()), 16),
    'in a dict':          (lambda: on(lambda s, x: {'logits': s.fc(pooled(s.low(x))), 'x': x}, fc=head()), 16),
    'timm, inside':       (lambda: wrapped(timm.create_model('resnet10t', num_classes=10)), 512),
    'timm, distilled':    (lambda: timm.create_model('deit_tiny_distilled_patch16_224', img_size=32, depth=1, num_classes=10), 192),
    'of torch.fx':        (lambda: torch.fx.symbolic_trace(torchvision.models.squeezenet1_1(num_classes=10)), 512),
}

@pytest.mark.parametrize('name', heads)
def test_the_old_head_is_gone(name):
    made, width = heads[name]
    torch.manual_seed(0)
    body = headless(made(), noise(3, 32)).eval()
    with torch.no_grad(): assert body(noise(3, 32)).shape == (2, width)
    assert body.train()(noise(3, 32)).shape == (2, width)
    assert not any(10 in p.shape for p in body.parameters()) # nothing of it is left to train
    copy.deepcopy(body) # as every learner does
    partition(nn.ModuleDict(dict(body=body, head=nn.Linear(width, 2))))

none = { # a network without a head
    'torch attention': (lambda: Attention(False), 16),
    'own attention':   (lambda: Attention(True), 16),
    'maps':            (low, 16),
    'flat':            (lambda: nn.Sequential(low(), nn.Flatten()), 16*7*7),
    'embedding':       (lambda: sequence(nn.Linear(16, 12), nn.BatchNorm1d(12)), 12),
    'a pyramid':       (lambda: timm.create_model('resnet10t', features_only=True), 512),
    'timm, unpooled':  (lambda: timm.create_model('resnet10t', num_classes=0, global_pool=''), 512),
}

@pytest.mark.parametrize('name', none)
def test_without_a_head_nothing_is_taken_off(name):
    made, width = none[name]
    net, x = made().eval(), noise(3, 32)
    with torch.no_grad():
        want = net(x)
        want = want[-1] if isinstance(want, list) else want
        got = headless(net, x).eval()(x)
    assert got.shape == (2, width)
    torch.testing.assert_close(got, pooled(want) if want.dim() == 4 else want)

def test_what_follows_a_head_does_not_touch_the_features():
    net = sequence(head(), nn.Softmax(1)).eval()
    want = net[2](net[1](net[0](noise(3, 32))))
    torch.testing.assert_close(headless(net, noise(3, 32))(noise(3, 32)), want)

def test_what_cannot_be_told_is_asked():
    def ends_in_a_product(): return on(lambda s, x: pooled(s.low(x))@s.w, w=nn.Parameter(torch.randn(16, 10)))
    with pytest.raises(TransferError, match='product with w.*head_name'): pretrained(ends_in_a_product(), size=32).body()
    assert pretrained(ends_in_a_product(), size=32, head_name='').body()(noise(3, 32)).shape == (2, 10)
    named = pretrained(sequence(nn.Linear(16, 12), nn.Linear(12, 10)), size=32, head_name='3')
    assert named.body()(noise(3, 32)).shape == (2, 16)
    for wrong, words in ('fc', 'is not called'), ('0.0.0', 'is not called'):
        with pytest.raises(TransferError, match=words): pretrained(sequence(head()), size=32, head_name=wrong).body()
    for net, words in (on(lambda s, x: {'a': s.low(x), 'b': x}), 'a, b: which of them'), (on(lambda s, x: F.dropout(pooled(s.low(x)))), 'each time'), (torch.jit.script(low()), 'TorchScript'):
        with pytest.raises(TransferError, match=words): pretrained(net, size=32).body()

def test_a_users_module_stays_as_it_is(task):
    net = simple(head()).train()
    for p in net.low.parameters(): p.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn = learner(task, net, size=32)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and isinstance(net.head, nn.Linear)
    assert all(m.training for m in net.modules()) and not any(p.requires_grad for p in net.low.parameters())
    assert learn.model.body(noise(3, 32)).shape == (2, 16)

def test_half_precision_is_made_whole(): assert pretrained(simple(head()).to(torch.bfloat16), size=32).body()(noise(3, 32)).dtype == torch.float32

def test_the_helping_heads_of_googlenet_are_gone():
    body = headless(torchvision.models.googlenet(weights=None, init_weights=False), noise(3, 64))
    assert body.gone == ['net.aux1', 'net.aux2'] and not any('aux' in n for n, _ in body.named_parameters())
    older = {'body.net.aux1.conv.weight': torch.zeros(1), **{f'body.{k}': v for k, v in body.state_dict().items()}}
    nn.ModuleDict(dict(body=body)).load_state_dict(older) # folders of before hold them

def test_experts_that_noise_did_not_ask_stay():
    class Experts(nn.Module):
        def __init__(self): super().__init__(); self.low, self.gate, self.all, self.fc = low(), nn.Linear(16, 8), nn.ModuleList(nn.Linear(16, 16) for _ in range(8)), head()
        def forward(self, x):
            f = pooled(self.low(x))
            return self.fc(torch.stack([self.all[int(i)](v) for i, v in zip(self.gate(f).argmax(1), f)]))
    assert len([n for n, _ in headless(Experts(), noise(3, 32)).named_parameters() if '.all.' in n]) == 16


# transformers

small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8)
texts = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50000)
def clip(): return CLIPModel(CLIPConfig(vision_config=CLIPVisionConfig(**small).to_dict(), text_config=CLIPTextConfig(**texts).to_dict()))
def swin(): return SwinForImageClassification(SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=32, patch_size=4))
def resnet(): return ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
def convnext(): return ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1]*4, image_size=32))

nets = { # a network, and the features that its own classifier takes
    'vit':      (lambda: ViTForImageClassification(ViTConfig(**small, num_labels=10)), lambda n, x: n.vit(x).last_hidden_state[:, 0]),
    'vit model': (lambda: ViTModel(ViTConfig(**small)), lambda n, x: n(x).last_hidden_state[:, 0]),
    'resnet':   (resnet, lambda n, x: n.resnet(x).pooler_output.flatten(1)),
    'convnext': (convnext, lambda n, x: n.convnext(x).pooler_output),
    'swin':     (swin, lambda n, x: n.swin(x).pooler_output),
    'dinov2':   (lambda: Dinov2Model(Dinov2Config(**small)), lambda n, x: torch.cat([(h := n(x).last_hidden_state)[:, 0], h[:, 1:].mean(1)], 1)),
    'clip tower': (lambda: CLIPVisionModel(CLIPVisionConfig(**small)), lambda n, x: n(x).pooler_output),
    'clip':     (clip, lambda n, x: n.vision_model(x).pooler_output),
    'siglip':   (lambda: SiglipVisionModel(SiglipVisionConfig(**small)), lambda n, x: n(x).pooler_output),
}

@pytest.fixture(autouse=True)
def silent():
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()

def beside(folder, **said):
    (folder/'preprocessor_config.json').write_text(json.dumps(dict(image_processor_type='ViTImageProcessor', do_resize=True, do_rescale=True, do_normalize=True, **said)))

@pytest.mark.parametrize('name', nets)
def test_a_network_of_transformers_gives_what_its_classifier_takes(name, tmp_path):
    torch.manual_seed(0)
    made, features = nets[name]
    net = made().eval()
    with torch.no_grad(): want = features(net, noise(3, 32))
    given = pretrained(net, size=32)
    assert given.library == 'transformers' and given.source == 'module' and '32 pixels' in given.notes[0]
    net.save_pretrained(tmp_path)
    beside(tmp_path, size=32, image_mean=[.1, .2, .3], image_std=[.4, .5, .6], resample=1)
    folder = pretrained(tmp_path)
    assert (folder.size, folder.mean, folder.std, folder.interpolation, folder.notes) == (32, (.1, .2, .3), (.4, .5, .6), 'lanczos', ())
    for p in (given, folder):
        body = p.body()
        torch.testing.assert_close(body(noise(3, 32)), want)
        ss = partition(nn.ModuleDict(dict(body=body, head=nn.Linear(want.shape[1], 2))))
        assert len(ss) > 3 and ss[-1].name == 'head' and ss.scale in (1., .2)

def test_a_folder_of_transformers_is_saved_and_loaded(task, tmp_path):
    made, _ = nets['vit']
    made().save_pretrained(tmp_path/'vit')
    beside(tmp_path/'vit', size=32, image_mean=[.5]*3, image_std=[.5]*3, resample=2)
    for name, start in ('folder', tmp_path/'vit'), ('module', ViTModel(ViTConfig(**small))):
        learn = learner(task, start, seed=0)
        result = learn.evaluate()
        learn.save_transfer(tmp_path/name, result, check=name == 'folder') # in a fresh process, once
        assert {'config.json', 'preprocessor_config.json'} <= {o.name for o in (tmp_path/name).iterdir()}
        there = load_transfer(tmp_path/name)
        check_saved(tmp_path/name, there)
        got = there.probs(result.items)
        np.testing.assert_allclose(np.stack([got[i] for i in range(result.n)]), result.probs, atol=1e-5)
        again = pretrained(tmp_path/name) # and it is a start for another task
        torch.testing.assert_close(again.body()(noise(3, 32)), learn.model.body.cpu().eval()(noise(3, 32)))
        assert (again.name, again.source, again.size) == ('ViTForImageClassification', 'folder', 32)

said = { # a preprocessor_config.json, and what of it is to be expected
    'cropped':   (dict(size={'shortest_edge': 256}, crop_size={'height': 224, 'width': 224}, do_center_crop=True, resample=3, image_mean=[.5]*3, image_std=[.5]*3), dict(size=224, crop=.875, interpolation='bicubic')),
    'a share':   (dict(size={'shortest_edge': 224}, crop_pct=.875, resample=3, image_mean=[.5]*3, image_std=[.5]*3), dict(size=224, crop=.875)),
    'large':     (dict(size={'shortest_edge': 384}, crop_pct=.875, resample=3, image_mean=[.5]*3, image_std=[.5]*3), dict(size=384, crop=1.)),
    'unscaled':  (dict(size=64, image_mean=[127.5]*3, image_std=[51.]*3, do_rescale=False), dict(mean=(.5,)*3, std=(.2,)*3)),
    'rescaled':  (dict(size=64, rescale_factor=1/127.5, image_mean=[1.]*3, image_std=[1.]*3), dict(mean=(.5,)*3, std=(.5,)*3)),
    'as it is':  (dict(size=64, do_normalize=False), dict(mean=(0.,)*3, std=(1.,)*3)),
}

@pytest.mark.parametrize('name', said)
def test_preprocessing_is_read(name, tmp_path):
    ViTConfig(**small).save_pretrained(tmp_path)
    save_file({'x': torch.zeros(1)}, tmp_path/'model.safetensors')
    beside(tmp_path)
    now = json.loads((tmp_path/'preprocessor_config.json').read_text())
    (tmp_path/'preprocessor_config.json').write_text(json.dumps({**now, **said[name][0]}))
    p = pretrained(tmp_path)
    for k, v in said[name][1].items(): assert getattr(p, k) == pytest.approx(v) if k != 'interpolation' else v == p.interpolation

def test_blue_first_is_turned_round(tmp_path):
    net = nets['vit'][0]().eval()
    net.save_pretrained(tmp_path)
    beside(tmp_path, size=32, do_flip_channel_order=True, image_mean=[.5]*3, image_std=[.5]*3)
    x = noise(3, 32)
    with torch.no_grad(): torch.testing.assert_close(pretrained(tmp_path).body()(x), net.vit(x.flip(1)).last_hidden_state[:, 0])

def test_folders_that_do_not_hold_together_are_refused(tmp_path):
    net = nets['vit'][0]()
    net.save_pretrained(tmp_path)
    state = {k: v for k, v in net.state_dict().items() if 'layers.1.' not in k}
    save_file(state, tmp_path/'model.safetensors', {'format': 'pt'})
    with pytest.raises(TransferError, match='weights of ViTForImageClassification are not in it'): pretrained(tmp_path).body()
    (tmp_path/'model.safetensors').write_bytes(b'torn')
    with pytest.raises(TransferError, match='can\'t be used'): pretrained(tmp_path).body()
    for said, words in (dict(model_type='bert'), 'no network of images'), (dict(model_type='xyz'), 'transformers knows none'), (dict(), 'neither an "architecture"'), ([], 'neither an "architecture"'):
        (tmp_path/'config.json').write_text(json.dumps(said))
        with pytest.raises(TransferError, match=words): pretrained(tmp_path)
    with pytest.raises(TransferError, match='takes input_ids'): pretrained(BertModel(BertConfig(**{**texts, 'vocab_size': 99})))

def test_weights_in_pieces_and_a_folder_of_timms_wrapper(tmp_path):
    net = nets['vit'][0]().eval()
    net.save_pretrained(tmp_path/'pieces', max_shard_size='20KB')
    assert not (tmp_path/'pieces/model.safetensors').exists()
    with torch.no_grad(): torch.testing.assert_close(pretrained(tmp_path/'pieces').body()(noise(3, 32)), nets['vit'][1](net, noise(3, 32)))
    net = TimmWrapperForImageClassification(TimmWrapperConfig(architecture='resnet10t', num_labels=7, pretrained_cfg=dict(mean=[.1]*3))).eval()
    net.save_pretrained(tmp_path/'wrapper')
    p = pretrained(tmp_path/'wrapper')
    assert (p.name, p.library, p.mean) == ('resnet10t', 'timm', (.1,)*3)
    with torch.no_grad(): torch.testing.assert_close(p.body()(noise(3, 64)), pretrained(net, size=64).body()(noise(3, 64)))

def test_a_folder_of_timm_for_grey_pictures(tmp_path):
    save_file(timm.create_model('resnet10t', in_chans=1).state_dict(), tmp_path/'model.safetensors')
    (tmp_path/'config.json').write_text(json.dumps(dict(architecture='resnet10t')))
    p = pretrained(tmp_path)
    assert p.channels == 1 == len(p.mean) and p.body()(noise(1, 64)).shape == (2, 512)

def test_another_size_is_made_room_for():
    assert pretrained(nets['vit'][0](), size=64).body()(noise(3, 64)).shape == (2, 32)


# channels

def test_a_grey_network_sees_grey_pictures(task, tmp_path):
    net = timm.create_model('resnet10t', in_chans=1)
    learn = learner(task, net, size=32)
    p = learn.pretrained
    assert p.channels == 1 and p.mean == pytest.approx((sum(net.pretrained_cfg['mean'])/3,)) and len(p.std) == 1
    x, _ = learn.dls.one_batch()
    assert x.shape[1:] == (1, 32, 32)
    with learn.no_bar(), learn.no_logging(): learn.transfer('last:1', 1) # from the boundary on
    result = learn.evaluate()
    with torch.no_grad(): slow = learn.model.eval()(torch.stack([learn.dls.valid.one_batch()[0][0]]))
    assert slow.shape == (1, 2)
    learn.save_transfer(tmp_path/'saved', result, check=False)
    there = load_transfer(tmp_path/'saved', body=net)
    assert there.frozen.p.channels == 1
    check_saved(tmp_path/'saved', there)

def test_frozen_pass_and_loader_see_the_same_grey(task):
    p = pretrained(timm.create_model('resnet10t', in_chans=1), size=32)
    frozen, dls = p.frozen(p.body()), task.dls(p, 2, 'none')
    files = task.part('valid').item.to_list()
    fast = frozen.ready(np.stack([pixels(o, frozen.prep) for o in files]))
    slow = torch.cat([o[0] for o in dls.valid])
    torch.testing.assert_close(fast.contiguous(), slow.contiguous().as_subclass(torch.Tensor), atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('channels', [2, 4, 12])
def test_other_channels_are_refused_in_a_line(task, channels):
    net = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    p = pretrained(net, size=32)
    assert p.channels == channels == len(p.mean) and p.body()(p.example(2)).shape == (2, 8)
    with pytest.raises(TransferError, match=f'{channels} channels'): learner(task, p)

def test_channels_are_found_where_the_head_is_registered_first():
    net = By(lambda s, x: s.fc(s.low(x)).mean((2, 3)), fc=nn.Conv2d(16, 10, 1), low=nn.Conv2d(1, 16, 3))
    assert pretrained(net, size=32).channels == 1
    assert pretrained(ViTForImageClassification(ViTConfig(**small, num_channels=1))).channels == 1

def test_a_named_network_for_other_channels():
    p = pretrained('resnet10t', 'random', channels=1, size=32)
    assert p.body()(p.example(2)).shape == (2, 512) and len(p.mean) == 1
    with pytest.raises(TransferError, match='makes resnet18 for 3 channels'): pretrained('torchvision/resnet18', 'random', channels=1).body()


# files and names

def test_files_are_not_unpickled_and_say_what_to_do(tmp_path):
    for kind in ('.pth', '.pt', '.bin', '.ckpt'):
        (tmp_path/f'w{kind}').write_bytes(b'not opened')
        for what in (tmp_path/f'w{kind}', str(tmp_path/f'w{kind}')):
            with pytest.raises(TransferError, match='load_state_dict'): pretrained(what)
    for what, words in ('w.pth', 'load_state_dict'), ('w.safetensors', 'weights="w.safetensors"'), ('./nowhere', 'no such folder'), ('a/b/c', 'no such folder'), ('~/nowhere-at-all', 'no such folder'), (3, 'no name, folder'), (None, 'no name, folder'):
        with pytest.raises(TransferError, match=words): pretrained(what)

def test_weights_of_a_file_go_into_a_named_network(task, tmp_path):
    for name, net in ('resnet10t', timm.create_model('resnet10t', num_classes=7)), ('torchvision/squeezenet1_1', torchvision.models.squeezenet1_1(num_classes=7)), ('torchvision/resnet18', torchvision.models.resnet18(num_classes=7)):
        state = {k: v.contiguous() for k, v in net.state_dict().items()}
        save_file({f'module.{k}': v for k, v in state.items()}, tmp_path/'w.safetensors')
        p = pretrained(name, weights=tmp_path/'w.safetensors', size=64)
        with torch.no_grad(): torch.testing.assert_close(p.body()(noise(3, 64)), headless(net, noise(3, 64)).eval()(noise(3, 64)))
    assert p.source == 'file' and p.name == 'resnet18'
    with pytest.raises(TransferError, match='of another network than resnet10t'): pretrained('resnet10t', weights=tmp_path/'w.safetensors').body()
    state.pop('layer1.0.conv1.weight')
    save_file(state, tmp_path/'w.safetensors')
    with pytest.raises(TransferError, match='1 differ, such as layer1.0.conv1.weight'): pretrained('torchvision/resnet18', weights=tmp_path/'w.safetensors').body()
    with pytest.raises(TransferError, match='load_state_dict'): pretrained('resnet18', weights=tmp_path/'w.pth')
    with pytest.raises(TransferError, match='no such file'): pretrained('resnet18', weights=tmp_path/'gone.safetensors')
    with pytest.raises(TransferError, match='name the network'): pretrained(net, weights=tmp_path/'w.safetensors')

def test_names_of_timm_however_they_are_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'cache'))
    want = pretrained('resnet18.a1_in1k')
    for what in ('timm/resnet18.a1_in1k', 'hf-hub:timm/resnet18.a1_in1k', 'hf_hub:timm/resnet18.a1_in1k'): assert pretrained(what) == want
    for what in ('google/vit-base-patch16-224', 'hf-hub:somebody/net.v2', 'facebook/convnext-tiny-224'):
        with pytest.raises(TransferError, match='download its files into a folder elsewhere'): pretrained(what)
    with pytest.raises(TransferError, match='near it: resnet18'): pretrained('timm/resnet18x')

@pytest.fixture
def no_socket(monkeypatch):
    def opened(*args, **kwargs): raise AssertionError('a socket was opened')
    for name in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, name, opened)
    monkeypatch.setattr(socket, 'getaddrinfo', opened)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)

bad = [('timm', 'hf-hub:somebody/net'), ('timm', 'local-dir:/elsewhere'), ('timm', '/elsewhere'), ('timm', 'somebody/net'), ('torchvision', 'fcn_resnet50'),
       ('torchvision', 'hf-hub:somebody/net'), ('transformers', 'AutoModel'), ('transformers', 'hf-hub:somebody/net'), ('elsewhere', 'resnet18'), ('timm', None), ('timm', ['resnet18'])]

@pytest.mark.parametrize('library,name', bad)
def test_a_doctored_folder_asks_nobody(library, name, tmp_path, no_socket, saved):
    for o in saved.iterdir(): (tmp_path/o.name).write_bytes(o.read_bytes())
    edited(tmp_path, lambda o: o | dict(pretrained=o['pretrained'] | dict(library=library, name=name)))
    if library == 'transformers': ViTConfig(**small).save_pretrained(tmp_path)
    for use in (load_transfer, lambda folder: pretrained(folder).body()):
        with pytest.raises(TransferError) as e: use(tmp_path)
        assert '\n' not in str(e.value)

@pytest.fixture(scope='module')
def saved(task, tmp_path_factory):
    "A saved model of a network that timm makes by name"
    to = tmp_path_factory.mktemp('saved')/'model'
    learn = learner(task, 'resnet10t', source='random', size=32)
    learn.save_transfer(to, learn.evaluate(), check=False)
    return to

def test_a_saved_model_of_a_name_is_loaded(saved): check_saved(saved)

@pytest.mark.parametrize('said', [dict(architecture='hf-hub:somebody/net'), dict(architecture='local-dir:/elsewhere'), dict(architecture='hf-hub:somebody/net', model_type='timm_wrapper'),
                                  dict(architecture='resnet10t', library='elsewhere'), dict(model_type='dpt', backbone='hf-hub:somebody/net', use_timm_backbone=True),
                                  dict(model_type='vit', auto_map={'AutoModel': 'somebody/net--code.Net'}, hidden_size=32)])
def test_a_doctored_config_asks_nobody(said, tmp_path, no_socket):
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path/'model.safetensors')
    (tmp_path/'config.json').write_text(json.dumps(said))
    with pytest.raises(TransferError): pretrained(tmp_path).body()


# stages

def test_stages_of_a_wrapped_network_and_of_a_head_registered_first():
    net = By(lambda s, x: s.fc(pooled(s.low(x))), fc=head(), low=low())
    assert partition(net)[-1].name == 'fc' and [s.n for s in partition(nn.DataParallel(net))] == [s.n for s in partition(net)]
    net.stage_cut = [[n for n, _ in net.named_parameters() if n.startswith('low')], ['fc.weight', 'fc.bias']]
    assert len(partition(net)) == 2

def test_stages_stand_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self): super().__init__(); self.head, self.c, self.b, self.a = head(), nn.Conv2d(8, 16, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(3, 8, 3)
        def forward(self, x): return self.head(pooled(self.c(self.b(self.a(x)))))
    assert [s.name for s in stages(headless(Backwards(), noise(3, 32)))] == ['net.a', 'net.b', 'net.c']

def test_a_parameter_without_a_dimension_is_of_a_stage_too():
    class Scale(nn.Module):
        def __init__(self): super().__init__(); self.by = nn.Parameter(torch.tensor(1.))
    inner = nn.Sequential(nn.Conv2d(8, 8, 3), Scale())
    assert len(partition(nn.Sequential(low(), inner, head()))) >= 3 and len(partition(nn.Sequential(low(), head(), Scale()))) >= 3
