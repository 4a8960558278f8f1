"The laws of strategies: every strategy on every family of networks, and any sequence of phases, does what its table says and nothing else."
import copy
from collections import Counter

import pytest
import timm
import torch
import torchvision
import transformers as tf
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from tl_nbdev.base.keep import load_folder, save_folder
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import BitFit, FeatureExtraction, FineTune, FullFineTune, GradualUnfreeze, L2SP, LPFT, LayerDecay, LoRA, Phase, Strategy, Surgical, WiSE
from tl_nbdev.data.tasks import Loader
from tl_nbdev.training.loop import FusedAdam
import tl_nbdev.training.learner  # noqa: the verb
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

class Says(nn.Module):
    "A network whose output is made logits of two classes"
    def __init__(self, net, say): super().__init__(); self.net, self.say = net, say
    def forward(self, x): return self.say(self.net, x)

def text(kind, config, **kwargs):
    "A small transformer that classifies"
    return lambda: Says(kind(config(vocab_size=50, pad_token_id=0, **{**dict(num_labels=2), **kwargs})), lambda net, x: net(input_ids=x).logits)

sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, max_position_embeddings=40)

def tied_llama():
    net = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=50, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, **sizes))
    return Says(net, lambda net, x: net(input_ids=x).logits[:, -1, :2])

def clip():
    small = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=3)
    net = tf.CLIPModel(tf.CLIPConfig(text_config=dict(vocab_size=50, max_position_embeddings=8, eos_token_id=49, **small), vision_config=dict(image_size=32, patch_size=8, **small), projection_dim=8))
    texts = torch.tensor([[1, 5, 7, 49], [1, 8, 9, 49]])
    return Says(net, lambda net, x: net(pixel_values=x, input_ids=texts).logits_per_image)

def image(name, **kwargs): return lambda: timm.create_model(name, num_classes=2, **kwargs)
def vision(f, **kwargs): return lambda: f(num_classes=2, **kwargs)

nets = {
    'timm resnet50': image('resnet50', layers=(1, 1, 1, 1)),
    'timm efficientnetv2_s': image('efficientnetv2_s', channel_multiplier=.25, depth_multiplier=.3),
    'timm vit_base': image('vit_base_patch16_224', img_size=32, embed_dim=24, depth=4, num_heads=2),
    'timm convnext_tiny': image('convnext_tiny', depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
    'timm mobilenetv2': image('mobilenetv2_050'),
    'timm lite0': image('tf_efficientnet_lite0'),
    'torchvision resnet50': vision(torchvision.models.ResNet, block=torchvision.models.resnet.Bottleneck, layers=[1, 1, 1, 1], width_per_group=16),
    'torchvision efficientnet_v2_s': vision(torchvision.models.efficientnet_v2_s),
    'torchvision vit_b_16': vision(torchvision.models.VisionTransformer, image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=32),
    'torchvision convnext': vision(ConvNeXt, block_setting=[CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]),
    'torchvision mobilenet_v2': vision(torchvision.models.mobilenet_v2, width_mult=.35),
    'torchvision squeezenet1_1': vision(torchvision.models.squeezenet1_1),
    'bert': text(tf.BertForSequenceClassification, tf.BertConfig, **sizes),
    'roberta': text(tf.RobertaForSequenceClassification, tf.RobertaConfig, **sizes),
    'deberta-v3': text(tf.DebertaV2ForSequenceClassification, tf.DebertaV2Config, **sizes, relative_attention=True, pos_att_type=['p2c', 'c2p'], position_buckets=8, share_att_key=True, norm_rel_ebd='layer_norm'),
    'distilbert': text(tf.DistilBertForSequenceClassification, tf.DistilBertConfig, dim=16, n_layers=3, n_heads=2, hidden_dim=24, max_position_embeddings=40),
    'albert': text(tf.AlbertForSequenceClassification, tf.AlbertConfig, embedding_size=8, **sizes),
    'gpt2': text(tf.GPT2ForSequenceClassification, tf.GPT2Config, n_embd=16, n_layer=3, n_head=2, n_positions=40),
    'tied llama': tied_llama,
    'clip': clip,
}
of_text = {'bert', 'roberta', 'deberta-v3', 'distilbert', 'albert', 'gpt2', 'tied llama'}
hows = [FeatureExtraction(epochs=1), FineTune(1, epochs=1), FullFineTune(epochs=1), GradualUnfreeze(epochs=2), LPFT(probe=1, epochs=1), LayerDecay(epochs=1), Surgical('early', epochs=1),
        BitFit(epochs=1), LoRA(2, epochs=1), L2SP() + FullFineTune(epochs=1), LPFT(probe=1, epochs=1) + WiSE(.5)]

class Rates(Callback):
    "What the optimizer held at each step"
    order, run_valid = 80, False
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append([h['lr'] for h in self.opt.hypers])

def learner(net, x):
    data = [(o, i % 2) for i, o in enumerate(x)]
    return Learner(DataLoaders(Loader(data, bs=4, shuffle=True), Loader(data, bs=4)), net, CrossEntropyLossFlat(), opt_func=FusedAdam)

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return learn.transfer(*args, **kwargs)

def owners(names): return {n.rpartition('.')[0] for n in names}

def check(net, x, how):
    "Carry out `how` and check everything that its table says"
    ss = stages(net)
    assert Counter(id(p) for s in ss for p in s.params.values()) == Counter(id(p) for p in net.parameters())
    learn, before, spy = learner(net, x), {k: v.clone() for k, v in net.state_dict().items()}, Rates()
    lora = any(ph.only == 'adapter' for ph in how.phases)
    if lora: may = {n for s in ss[:-1] for n in s.params if n.endswith('weight')} | ss[-1].params.keys() # base weights of hosts, by merging
    else: may = {n for ph in how.resolved(ss) for n in ph.params(ss)}
    phases, same = how.resolved(ss), {id(p): n for n, p in net.named_parameters()}
    with learn.added_cbs(spy): quiet(learn, how)
    after, now = net.state_dict(), stages(net)
    assert [s.params.keys() for s in now] == [s.params.keys() for s in ss], 'the cut changed'
    # what may not change is bit-equal, and buffers of modules that are wholly frozen too
    params = dict(net.named_parameters(remove_duplicate=False))
    still = owners(n for n, p in params.items() if same.get(id(p), n) not in may) - owners(n for n, p in params.items() if same.get(id(p), n) in may)
    for k, v in before.items():
        frozen = same.get(id(params[k]), k) not in may if k in params else k.rpartition('.')[0] in still
        if frozen: assert torch.equal(v, after[k]), f'{k} changed'
    # what trains changed, in each stage that trains
    which = {i for ph in phases for i in ph.which(ss)}
    for i in which:
        if (not lora or i == len(ss) - 1) and ss[i].params.keys() & may: assert any(not torch.equal(before[k], after[k]) for k in ss[i].params if k in may), f'stage {ss[i].name} did not train'
    assert not lora or any(not torch.equal(before[k], after[k]) for s in ss[:-1] for k in s.params), 'no adapter trained'
    # the rates are the table's: in one ratio to them at each step, and zero below
    steps = iter(spy.seen)
    for ph in phases:
        want = ph.rates(ss)
        for _ in range(ph.epochs*len(learn.dls.train)):
            got = next(steps)
            ratio = got[-1]/want[-1]
            assert got == pytest.approx([o*ratio for o in want], rel=1e-6), (ph, got, want)
    assert next(steps, None) is None
    return after

@pytest.mark.parametrize('name', nets)
def test_every_strategy_on(name, tmp_path):
    torch.manual_seed(0)
    first = nets[name]()
    for p in first.parameters(): # a head of zeros gives nothing below it a gradient in the first step
        if p.dim() > 1 and not p.any(): nn.init.normal_(p, std=.1)
    x = torch.randint(2, 49, (4, 9)) if name in of_text else torch.randn(4, 3, 32, 32)
    for how in hows:
        net = copy.deepcopy(first)
        try: after = check(net, x, how)
        except TransferError as e: # a network without biases has none to train, and that is said
            assert how.name == 'bitfit' and name == 'tied llama' and 'no bias parameters' in str(e)
            continue
        save_folder(tmp_path/how.name.replace(':', '-'), after, {})
        again = copy.deepcopy(first)
        again.load_state_dict(load_folder(tmp_path/how.name.replace(':', '-'))[0])
        with torch.no_grad(): assert torch.equal(again.eval()(x), net.eval()(x)), how

def small():
    torch.manual_seed(0)
    block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(.2))
    return nn.Sequential(nn.Sequential(block(3, 4), block(4, 5), block(5, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(6, 2))

n = len(stages(small()))
selectors = st.one_of(st.sampled_from(['head', 'all', 'gradual']), st.integers(0, n - 1), st.lists(st.one_of(st.integers(0, n - 1), st.sampled_from(['early', 'middle', 'late'])), min_size=1, max_size=3).map(tuple))
phases = st.builds(Phase, selectors, st.one_of(st.floats(1e-4, 1e-2), st.just(slice(1e-4, 1e-3))), st.sampled_from([1., .5]), st.sampled_from([None, 'bias']), epochs=st.integers(1, 2))

@hypothesis_settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(phases, min_size=1, max_size=4))
def test_any_sequence_of_phases(phases): check(small(), torch.randn(8, 3, 8, 8), Strategy('any', tuple(phases)))


# what is refused, before anything is trained

@pytest.mark.parametrize('how, words', [
    (Surgical('neck'), 'no stage "neck": this network has'), (FineTune(9), 'the last 9 body stages'), (Surgical([7]), 'stage 7: this network has stages 0 to'),
    (FineTune(1, lr=[1e-3]), '1 rates for the 2 stages'), (FullFineTune(lr=float('nan')), 'must be a positive number'), (LoRA(2, targets='query'), 'no such layer in the body'), (LoRA(0), 'rank 0')])
def test_what_does_not_fit_is_refused(how, words):
    net = small()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(TransferError, match=words): quiet(learner(net, torch.randn(4, 3, 8, 8)), how)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.state_dict().keys() == before.keys()

def test_only_grouped_convolutions_take_no_adapter():
    net = nn.Sequential(nn.Sequential(*(nn.Conv2d(4, 4, 3, groups=4) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2))
    with pytest.raises(TransferError, match='no layer of the body takes an adapter'): quiet(learner(net, torch.randn(4, 4, 9, 9)), LoRA(2))

def test_a_network_without_a_head_or_a_body():
    x = torch.randn(4, 3, 32, 32)
    with pytest.raises(TransferError, match='has no head'): quiet(learner(timm.create_model('resnet18', num_classes=0), x), 'full')
    with pytest.raises(TransferError, match='has no head'): quiet(learner(tf.BertModel(tf.BertConfig(vocab_size=50, **sizes)), x), 'full')
    with pytest.raises(TransferError, match='one stage only'): quiet(learner(nn.Linear(4, 2), torch.randn(4, 4)), 'full')

def test_two_towers_share_depths():
    ss = stages(clip())
    assert len(ss) == 5 and all({k.split('.')[1] for k in s.params} >= {'text_model', 'vision_model'} for s in ss[:-1])
    assert 'net.logit_scale' in ss[0].params and ss[-1].params.keys() > {'net.visual_projection.weight', 'net.text_projection.weight'}

def test_shared_parameters_are_named():
    ss = stages(tied_llama())
    assert ss[-1].shared == ('net.model.embed_tokens.weight',) and not any(s.shared for s in ss[:-1])


# a loss that is no number

@pytest.mark.parametrize('ruin', ['batch', 'weights'])
def test_a_loss_that_is_no_number_stops_it(ruin):
    net, x = small(), torch.randn(8, 3, 8, 8)
    if ruin == 'batch': x[3] = float('nan')
    learn, how = learner(net, x), FullFineTune(epochs=2) if ruin == 'batch' else FullFineTune(lr=1e30, epochs=3)
    with pytest.raises(TransferError, match='the loss is (nan|inf)|had run away') as e: quiet(learn, how)
    if ruin == 'batch': assert ' 3' in str(e.value)
    assert all(torch.isfinite(p).all() for p in net.parameters())


# steps that meet

def test_adapters_and_interpolation_meet():
    "The start of an adapted layer is the layer without its adapter"
    net = small()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn = learner(net, torch.randn(8, 3, 8, 8))
    quiet(learn, LoRA(2, lr=.1, epochs=2))
    far = {k: (v - before[k]).abs().max() for k, v in net.state_dict().items() if k.endswith('weight') and v.dim() > 1}
    again = small()
    quiet(learner(again, torch.randn(8, 3, 8, 8)), LoRA(2, lr=.1, epochs=2) + WiSE(1e-6))
    assert all(far.values()) and all(torch.allclose(v, before[k], atol=1e-4) for k, v in again.state_dict().items() if k in far)

class Gradients(Callback):
    "What a step is made of"
    order = 80
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]))

def test_gradients_are_accumulated():
    "Two halves make the step that the whole makes"
    x, seen = torch.randn(8, 3, 8, 8), []
    for bs, times in (8, 1), (4, 2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2))
        data, spy = [(o, i % 2) for i, o in enumerate(x)], Gradients()
        learn = Learner(DataLoaders(Loader(data, bs=bs), Loader(data, bs=bs)), net, CrossEntropyLossFlat(), opt_func=FusedAdam)
        with learn.added_cbs(spy): quiet(learn, FullFineTune(), 1, accumulate=times)
        seen.append(spy.seen)
    assert [len(o) for o in seen] == [1, 1] and torch.allclose(seen[0][0], seen[1][0], atol=1e-6)
