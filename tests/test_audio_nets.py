"The laws of the house for networks of sound: six classes and four strategies, made small and with random weights that stand for pretrained ones."
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from tl_nbdev.audio.decoding import content_key, read_sound
from tl_nbdev.audio.modality import Audio
from tl_nbdev.audio.starts import audio_pretrained
from tl_nbdev.audio.task import AudioTask
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer

_wave = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8), conv_stride=(5, 64),
             conv_kernel=(10, 64), num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
_whisper = dict(d_model=16, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
                decoder_ffn_dim=24, vocab_size=60, max_source_positions=50, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
_ast = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, max_length=128, num_mel_bins=32)
classes = {'wav2vec2': ('Wav2Vec2', _wave), 'wav2vec2-large': ('Wav2Vec2', dict(_wave, feat_extract_norm='layer', do_stable_layer_norm=True)),
           'hubert': ('Hubert', _wave), 'wavlm': ('WavLM', _wave), 'data2vec': ('Data2VecAudio', _wave), 'whisper': ('Whisper', _whisper),
           'ast': ('AST', _ast)}
strategies = 'feature', 'last:1', 'full', 'lora:2'

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A folder of transformers for each class"
    import transformers
    from tl_nbdev.networks.bodies import quiet_transformers
    root = tmp_path_factory.mktemp('nets')
    for name, (cls, config) in classes.items():
        torch.manual_seed(0)
        net = getattr(transformers, f'{cls}Model')(getattr(transformers, f'{cls}Config')(**config))
        with quiet_transformers(): net.save_pretrained(root/name)
    return root

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    "Tones of two kinds"
    root, rng, rows = tmp_path_factory.mktemp('tones'), np.random.default_rng(0), []
    for i in range(30):
        t = np.arange(int(16000*rng.uniform(.2, .4)))/16000
        tone = .3*np.sin(2*np.pi*(300, 1500)[i % 2]*rng.uniform(.8, 1.2)*t) + rng.normal(0, .02, len(t))
        soundfile.write(root/f'{i}.wav', tone, 16000)
        rows.append(dict(audio=root/f'{i}.wav', label=('low', 'high')[i % 2], part=('train', 'train', 'train', 'valid', 'test')[i//2 % 5]))
    return AudioTask.from_df(pd.DataFrame(rows), part='part', name='tones')

def trained(task, folder, how, epochs=2, augment='none', **kwargs):
    learn = transfer_learner(task, folder, seed=0, bs=8, augment=augment, **kwargs)
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs)
    return learn, before

def changed(learn, before):
    now = learn.model.state_dict()
    return {name for name in before if name in now and not torch.equal(before[name], now[name])}


@pytest.mark.parametrize('how', strategies)
@pytest.mark.parametrize('name', classes)
def test_what_is_frozen_stays_and_what_trains_changes(name, how, folders, task, tmp_path):
    learn, before = trained(task, folders/name, how)
    moved, body = changed(learn, before), {n for n, _ in learn.model.named_parameters() if n.startswith('body.')}
    ss = stages(learn.model)
    fixed = {n for stage in ss for n in stage.fixed}
    assert not moved & fixed
    assert moved - body, 'the head trains'
    if how == 'feature': assert not moved & body
    if how == 'last:1': assert moved & body and moved & body <= set(ss[-2].params)
    if how == 'full': assert {n for n in body - fixed if n not in moved and not n.endswith('k_proj.bias')} <= unused(learn)
    if how == 'lora:2': assert {n for n in moved & body if not n.endswith('.weight')} == set()
    folder = learn.save_transfer(tmp_path/'model', check=False)
    items = task.part('test').item.to_list()
    saved = np.stack([*load_transfer(folder).probs(items).values()])
    np.testing.assert_allclose(saved, learn.evaluate(fast=False).probs, atol=2e-4)
    np.testing.assert_allclose(learn.evaluate().probs, saved, atol=2e-4)

def unused(learn):
    "Parameters that get no gradient, as what normalises what a softmax takes no notice of"
    learn.model.train()
    x, y = learn.dls.train.one_batch()
    for p in learn.model.parameters(): p.requires_grad_(True)
    learn.loss_func(learn.model(x), y).backward()
    return {n for n, p in learn.model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}

@pytest.mark.parametrize('name', ['wav2vec2', 'wavlm'])
def test_a_front_rests_unless_one_asks(name, folders, task):
    learn, before = trained(task, folders/name, 'full')
    assert not [n for n in changed(learn, before) if 'feature_extractor' in n]
    learn, before = trained(task, folders/name, 'full', front='trains')
    assert [n for n in changed(learn, before) if 'feature_extractor' in n]

def test_sines_never_train(folders, task):
    learn, before = trained(task, folders/'whisper', 'full')
    assert not [n for n in changed(learn, before) if 'embed_positions' in n]

@pytest.mark.parametrize('name, how, augment', [('wav2vec2', 'full', 'none'), ('whisper', 'full', 'strong'), ('hubert', 'feature', 'none'),
                                                ('wav2vec2-large', 'last:1', 'light'), ('whisper', 'last:1', 'none'), ('wavlm', 'lora:2', 'light')])
def test_a_resumed_training_is_the_same_to_the_bit(name, how, augment, folders, task, tmp_path):
    from fastai.basics import Callback
    class Stop(Callback):
        order = 90
        def after_step(self):
            if self.learn.train_iter >= 2: raise KeyboardInterrupt
    whole, _ = trained(task, folders/name, how, 3, augment)
    learn = transfer_learner(task, folders/name, seed=0, bs=8, augment=augment)
    with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt), learn.added_cbs([Stop()]):
        learn.transfer(how, 3, folder=tmp_path/'c', every=0)
    again = transfer_learner(task, folders/name, seed=0, bs=8, augment=augment)
    with again.no_bar(), again.no_logging(): again.transfer(how, 3, folder=tmp_path/'c', every=0)
    assert again.resumed
    ours = again.model.state_dict()
    assert all(torch.equal(value, ours[n]) for n, value in whole.model.state_dict().items())

def test_varied_sounds_are_drawn_by_the_seed(folders, task):
    one, two = (transfer_learner(task, folders/'wav2vec2', seed=0, bs=8, augment='strong') for _ in range(2))
    one.dls.train.rng.seed(1), two.dls.train.rng.seed(1)
    (a, _), (b, _) = one.dls.train.one_batch(), two.dls.train.one_batch()
    assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))

@pytest.mark.parametrize('name', ['wav2vec2', 'ast', 'whisper'])
def test_long_recordings_are_the_mean_of_their_windows(name, folders, tmp_path):
    p = audio_pretrained(folders/name, size=1)
    frozen, sound = p.frozen(p.body()), np.random.default_rng(0).normal(0, .1, 40000).astype(np.float32)
    soundfile.write(tmp_path/'long.wav', sound, 16000, subtype='FLOAT')
    starts = 0, 12000, 24000
    for i, at in enumerate(starts): soundfile.write(tmp_path/f'{i}.wav', sound[at:at + 16000], 16000, subtype='FLOAT')
    parts = frozen.all([tmp_path/f'{i}.wav' for i in range(3)])
    torch.testing.assert_close(frozen.all([tmp_path/'long.wav'])[0], parts.mean(0), atol=1e-4, rtol=1e-3)

def test_by_name_on_a_hub(hub, folders, task, tmp_path):
    hub.add('someone/tiny-hubert', folders/'hubert', licence='mit')
    p = audio_pretrained('someone/tiny-hubert')
    assert (p.source, p.licence, p.architecture, len(p.revision)) == ('hub', 'mit', 'hubert', 40)
    learn, _ = trained(task, 'someone/tiny-hubert', 'feature')
    folder = learn.save_transfer(tmp_path/'model') # which checks in a process of its own that it answers the same
    assert json.loads((folder/'transfer.json').read_text('utf-8'))['pretrained']['repository'] == 'someone/tiny-hubert'
    assert len(load_transfer(folder).predict(task.df.item.to_list()[:3])) == 3

def test_random_weights_are_other_ones(folders):
    one, two = audio_pretrained(folders/'hubert').body(), audio_pretrained(folders/'hubert', source='random').body()
    names = [n for n, value in one.state_dict().items() if value.dim() > 1]
    assert all(not torch.equal(one.state_dict()[n], two.state_dict()[n]) for n in names)
    assert all(p.requires_grad for p in two.parameters()) # nothing that learned nothing rests

def test_features_are_computed_once(folders, task, monkeypatch):
    learn, _ = trained(task, folders/'whisper', 'feature')
    frozen = learn.frozen_now
    frozen.cached(task.df.item.to_list(), task.df.hash.to_list())
    monkeypatch.setattr(type(frozen), 'run', lambda *_: pytest.fail('it listened again'))
    frozen.cached(task.df.item.to_list(), task.df.hash.to_list())

def without_dropout(net):
    "What isn't drawn can be compared"
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout): module.p = 0.
        for name in ('dropout', 'attention_dropout', 'activation_dropout', 'dropout_prob'):
            if isinstance(getattr(module, name, None), float): setattr(module, name, 0.)

class Heard:
    "How many recordings the frozen part listened to"
    def __init__(self, monkeypatch):
        from tl_nbdev.audio.below import SoundBelow
        listen, self.n = SoundBelow.forward, 0
        def forward(module, x):
            self.n += len(x)
            return listen(module, x)
        monkeypatch.setattr(SoundBelow, 'forward', forward)

@pytest.mark.parametrize('name, how', [*((name, 'last:1') for name in classes), ('wav2vec2', 'full'), ('whisper', 'full'), ('wav2vec2-large', 'lora:2'), ('whisper', 'lora:2')])
def test_training_above_a_boundary_is_training(name, how, folders, task, monkeypatch):
    from fastai.basics import Callback
    from tl_nbdev.audio.starts import AudioPretrained
    class Begins(Callback):
        order, at = 95, None
        def before_fit(self): Begins.at = getattr(self.learn, 'from_boundary', None)
    def run(cuts):
        monkeypatch.setattr(AudioPretrained, 'cuts', cuts)
        Begins.at = None
        learn = transfer_learner(task, folders/name, seed=0, bs=32, augment='none') # one batch, whose order says nothing
        without_dropout(learn.model)
        with learn.no_bar(), learn.no_logging(), learn.added_cbs([Begins()]): learn.transfer(how, 3)
        return learn.model.state_dict(), learn.evaluate('valid', fast=False).probs, Begins.at
    heard = Heard(monkeypatch)
    whole, wanted, at = run(False)
    assert at is None and heard.n == 0
    cut, found, at = run(True)
    begins_frozen = (name, how) != ('whisper', 'full') # whose first stage trains
    assert (at is not None) == begins_frozen
    moved = [weight for weight in whole if not weight.endswith('k_proj.bias')] # which says nothing, so that its gradient is noise
    for weight in moved: torch.testing.assert_close(cut[weight], whole[weight], atol=5e-4, rtol=1e-2, msg=lambda said: f'{weight}: {said}')
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    if not begins_frozen: return
    n, more = len(task.df) - task.n('test'), 60 # and what a boundary is tried with
    assert heard.n <= n + more
    once = heard.n
    again, *_ = run(True)
    assert heard.n - once <= more < n + more
    for weight in cut: assert torch.equal(cut[weight], again[weight])

@pytest.mark.parametrize('name', classes)
def test_a_recording_is_told_the_same_whatever_is_beside_it(name, folders):
    p = audio_pretrained(folders/name)
    body, x = p.body(), p.example(6)
    for i in range(6): x[i, 3000 + 700*i:] = torch.nan
    with torch.no_grad():
        alone = torch.cat([body(x[i:i + 1, :3000 + 700*i]) for i in range(6)])
        torch.testing.assert_close(body(x), alone, atol=1e-4, rtol=1e-3)
