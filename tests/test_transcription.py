"The laws of the house for networks that write down speech: five classes and four strategies, made small and with random weights that stand for pretrained ones."
import json
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings, strategies as st
from tl_nbdev.audio.letters import Letters, letters_of
from tl_nbdev.audio.long import Window, cut_sound, joined_texts
from tl_nbdev.audio.start import speech_pretrained
from tl_nbdev.audio.task import AudioTask
from tl_nbdev.audio.texts import longest_text, text_rows, texts_of
from tl_nbdev.audio.transcription import SpeechTask
from tl_nbdev.audio.words import aligned, error_counts
from tl_nbdev.networks.stages import stages
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer

_wave = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8), conv_stride=(5, 64), conv_kernel=(10, 64),
             num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0, mask_time_length=4, mask_feature_length=4)
_whisper = dict(d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
                max_source_positions=50, max_target_positions=40)
classes = {'wav2vec2': ('Wav2Vec2', _wave), 'wav2vec2-large': ('Wav2Vec2', dict(_wave, feat_extract_norm='layer', do_stable_layer_norm=True)),
           'hubert': ('Hubert', _wave), 'wavlm': ('WavLM', _wave), 'whisper': ('Whisper', _whisper)}
strategies = 'feature', 'last:1', 'full', 'lora:2'
letters = Letters(['<pad>', '<unk>', '|', *'acehilnorstuvw'])
_ends = '<|endoftext|>', '<|startoftranscript|>', '<|notimestamps|>'

def _pieces():
    "A tokenizer of bytes, with the tokens that Whisper begins and ends with"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.add_special_tokens(list(_ends))
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=_ends[0], unk_token=_ends[0], pad_token=_ends[0])

def _save(name, to):
    "A folder of transformers"
    import transformers
    from tl_nbdev.networks.bodies import quiet_transformers
    cls, config = classes[name]
    torch.manual_seed(0)
    if cls == 'Whisper':
        tok = _pieces()
        end, begin, none = tok.convert_tokens_to_ids(list(_ends))
        config = dict(config, vocab_size=len(tok), pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=begin)
        net = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**config))
        tok.save_pretrained(to)
    else: net = getattr(transformers, f'{cls}ForCTC')(getattr(transformers, f'{cls}Config')(**config, vocab_size=len(letters)))
    with quiet_transformers(): net.save_pretrained(to)
    if cls == 'Whisper': return
    for file, content in letters.files().items(): (to/file).write_text(content, encoding='utf-8')

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('nets')
    for name in classes: _save(name, root/name)
    return root

_said = 'one', 'two', 'three', 'a nine', 'oh oh'

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    "Tones that stand for words"
    root, rng, rows = tmp_path_factory.mktemp('tones'), np.random.default_rng(0), []
    for i in range(20):
        t = np.arange(int(16000*rng.uniform(.3, .5)))/16000
        soundfile.write(root/f'{i}.wav', .3*np.sin(2*np.pi*(300 + 200*(i % 5))*rng.uniform(.9, 1.1)*t) + rng.normal(0, .02, len(t)), 16000)
        rows.append(dict(file=str(root/f'{i}.wav'), text=_said[i % 5], speaker=f's{i//5}', part=('train', 'train', 'valid', 'test')[i//5]))
    pd.DataFrame(rows).to_csv(root/'said.csv', index=False)
    return SpeechTask.from_csv(root/'said.csv', part='part', group='speaker')

def trained(task, folder, how, epochs=1, **kwargs):
    learn = transfer_learner(task, folder, seed=0, bs=5, **kwargs)
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs)
    return learn, before

def changed(learn, before):
    now = learn.model.state_dict()
    return {name for name in before if name in now and not torch.equal(before[name], now[name])}


@pytest.mark.parametrize('how', strategies)
@pytest.mark.parametrize('name', classes)
def test_what_is_frozen_stays_and_what_was_saved_answers_the_same(name, how, folders, task, tmp_path):
    learn, before = trained(task, folders/name, how)
    moved, ss = changed(learn, before), stages(learn.model)
    assert moved
    assert not [n for n in moved if 'feature_extractor' in n or 'encoder.embed_positions' in n], 'the front rests, and sines are constants'
    if how == 'feature': assert moved <= set(ss[-1].params)
    if how == 'last:1': assert moved <= {*ss[-1].params, *ss[-2].params} and moved & set(ss[-2].params)
    items = task.part('test').item.to_list()
    folder = learn.save_transfer(tmp_path/'model', check=how == 'full' and name in ('hubert', 'whisper')) # a fresh process takes its time
    kept = load_transfer(folder)
    want = learn.evaluate(closer=False).probs
    np.testing.assert_array_equal(np.stack([*kept.probs(items).values()])[:, 1:], want[:, 1:])
    texts = [row.get('transcript') for row in kept.predict(items)]
    assert texts == [text.strip() and ' '.join(text.split()) for text in texts_of(want[:, 1:])]
    slow = learn.evaluate(fast=False, closer=False).probs # through the learner's own loop
    np.testing.assert_array_equal(slow[:, 1:], want[:, 1:])

@pytest.mark.parametrize('name', ['wav2vec2', 'whisper'])
def test_training_at_a_boundary_is_training_of_the_whole(name, folders, task, monkeypatch):
    losses = []
    for cuts in (True, False):
        monkeypatch.setattr('tl_nbdev.audio.start.SpeechPretrained.cuts', cuts)
        learn, _ = trained(task, folders/name, 'last:1', 2)
        losses.append([row[:2] for row in learn.recorder.values])
    if name == 'whisper': np.testing.assert_allclose(*losses, rtol=1e-3) # SpecAugment and dropout are drawn otherwise elsewhere
    else: np.testing.assert_allclose(*losses, rtol=.2)

@pytest.mark.parametrize('name, how', [('hubert', 'full'), ('whisper', 'full'), ('whisper', 'feature'), ('wav2vec2', 'last:1'), ('whisper', 'last:2'), ('whisper', 'lora:2')])
def test_a_resumed_training_is_the_same_to_the_bit(name, how, folders, task, tmp_path):
    from fastai.basics import Callback
    class Stop(Callback):
        order = 90
        def after_step(self):
            if self.learn.train_iter >= 2: raise KeyboardInterrupt
    whole, _ = trained(task, folders/name, how, 3)
    learn = transfer_learner(task, folders/name, seed=0, bs=5)
    with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt), learn.added_cbs([Stop()]): learn.transfer(how, 3, folder=tmp_path/'c', every=0)
    again = transfer_learner(task, folders/name, seed=0, bs=5)
    with again.no_bar(), again.no_logging(): again.transfer(how, 3, folder=tmp_path/'c', every=0)
    assert again.resumed
    ours = again.model.state_dict()
    assert all(torch.equal(value, ours[n]) for n, value in whole.model.state_dict().items())

@pytest.mark.parametrize('name', classes)
def test_the_loss_is_that_of_transformers(name, folders):
    body = speech_pretrained(folders/name).body()
    x = speech_pretrained(folders/name).example(1)
    ours = body(x, text_rows(['a one'])).loss
    if name == 'whisper':
        given, wanted = body.labels(['a one'])
        theirs = body.net(input_features=body.mel(x), decoder_input_ids=given, labels=wanted).loss
    else:
        body.net.config.ctc_loss_reduction = 'mean'
        theirs = body.net(body._ready(x[0])[None], labels=torch.tensor([letters.encoded('a one')])).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

def test_a_saved_model_is_a_start(folders, task, tmp_path):
    learn, _ = trained(task, folders/'hubert', 'full')
    learn.save_transfer(tmp_path/'model', check=False)
    again = transfer_learner(task, tmp_path/'model', seed=1)
    ours = again.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in learn.model.state_dict().items())

def test_an_alphabet_of_ones_own(folders, task, tmp_path):
    swedish = SpeechTask.from_df(task.df.assign(text=task.df.label.replace('one', 'ått'), file=task.df.item.map(str)), part='part')
    learn = transfer_learner(swedish, folders/'wav2vec2', vocabulary='mine', seed=0)
    assert 'å' in learn.pretrained.signs and learn.model.body.net.lm_head.out_features == len(learn.pretrained.signs)
    with learn.no_bar(), learn.no_logging(): learn.transfer('last:1', 1)
    kept = load_transfer(learn.save_transfer(tmp_path/'model', check=False))
    assert kept.frozen.net.letters.signs == learn.pretrained.signs

def test_signs_that_are_not_in_an_alphabet_are_named(folders, task, capsys):
    odd = SpeechTask.from_df(task.df.assign(text=task.df.label.replace('two', '2ü'), file=task.df.item.map(str)), part='part')
    transfer_learner(odd, folders/'wav2vec2')
    said = capsys.readouterr().out
    assert '"2"' in said and '"ü"' in said and 'vocabulary="mine"' in said
    assert any('signs that wav2vec2 doesn\'t have' in row['found'] for row in odd.audit(folders/'wav2vec2'))

def test_by_name_on_a_hub(hub, folders, task):
    hub.add('someone/tiny-ctc', folders/'hubert', licence='mit')
    p = speech_pretrained('someone/tiny-ctc')
    assert (p.source, p.kind) == ('hub', 'ctc')
    assert p.body().letters.signs == letters.signs

def test_a_module_with_its_tokenizer(folders, task, tmp_path):
    net = speech_pretrained(folders/'whisper').body().net
    learn = transfer_learner(task, net, tokenizer=_pieces(), seed=0)
    folder = learn.save_transfer(tmp_path/'model', check=False)
    assert load_transfer(folder).frozen.net.pieces.prefix == learn.model.body.pieces.prefix

def test_beams_and_times(folders, task):
    learn = transfer_learner(task, folders/'hubert', seed=0)
    item = task.df.item[0]
    assert isinstance(learn.predict(item, beams=4)[0], str)
    assert learn.predictor().predict(item, times=True)[0]['transcript'].startswith('[0:00.0 – 0:00.')

def test_long_recordings_are_heard_in_windows(folders, tmp_path, task):
    p = speech_pretrained(folders/'whisper')
    frozen, sounds = p.frozen(p.body()), [soundfile.read(item)[0] for item in task.df.item[:6]]
    gap = np.zeros(4800)
    soundfile.write(tmp_path/'long.wav', np.concatenate([part for sound in sounds for part in (sound, gap)]), 16000)
    (texts, windows), = p.modality.heard_in(frozen, [p.modality.read(tmp_path/'long.wav')], 1, .5)
    assert len(windows) > 2 and windows[-1].end == int(16000*soundfile.info(tmp_path/'long.wav').duration)
    assert p.modality.answered(frozen, [tmp_path/'long.wav'], overlap=.5)[0] == joined_texts(texts, windows)

def test_evaluation_shows_the_network_as_it_came(folders, task):
    learn, _ = trained(task, folders/'hubert', 'full')
    result = learn.evaluate('test')
    assert {row[''] for row in result.answer.printed(result)} == {'as it came', 'now'}
    assert len(learn.before_after(2)) == 2

def test_from_the_usual_name_and_the_shell(task, tmp_path, folders):
    from tl_nbdev.apps.door import task_from
    file = task.df.item[0].parent/'said.csv'
    assert type(AudioTask.from_csv(file, transcript='text', part='part')) is SpeechTask
    assert type(task_from(file, audio='file', transcript='text')) is SpeechTask
    assert type(task_from(file, audio='file', label='speaker')) is AudioTask

def test_without_jiwer(monkeypatch):
    monkeypatch.setitem(sys.modules, 'jiwer', None)
    with pytest.raises(Exception, match=r'pip install "tl_nbdev\[audio\]"'): error_counts(['a'], ['b'])


_words = st.lists(st.sampled_from('nine two five oh no'.split()), max_size=12)

@settings(max_examples=60, deadline=None)
@given(_words, _words)
def test_errors_are_the_fewest(one, other):
    (right, wrong, lost, more), = error_counts([' '.join(one)], [' '.join(other)])
    assert right + wrong + lost == len(other) and right + wrong + more == len(one)
    assert max(len(one), len(other)) - right <= wrong + lost + more <= max(len(one), len(other))
    assert sum(len(wanted) for _, wanted, _ in aligned(' '.join(one), ' '.join(other)).runs) == len(other)

@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40).filter(lambda text: not any('\ud800' <= letter <= '\udfff' for letter in text)))
def test_texts_survive_as_numbers(text): assert texts_of(text_rows([text]))[0] == text

@settings(max_examples=60, deadline=None)
@given(st.integers(30, 200), st.integers(1, 9), st.randoms())
def test_no_word_is_lost_or_doubled(n, back, random):
    said, texts, windows, at = [f'w{i}' for i in range(n)], [], [], 0
    random.shuffle(said)
    while at < n:
        end = min(n, at + random.randint(2*back + 1, 3*back + 12))
        texts.append(' '.join(said[max(0, at - back):end]))
        windows.append(Window(max(0, at - back), end, at > 0))
        at = end
    assert joined_texts(texts, windows).split() == said

@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([0, .5, 1]))
def test_windows_cover_a_recording(loud, overlap):
    sound = np.concatenate([np.full(3200, .3*on, np.float32) for on in loud])
    cut = cut_sound(sound, 2, overlap)
    assert cut[0].start == 0 and cut[-1].end == len(sound)
    assert all(one.end >= other.start > one.start for one, other in zip(cut, cut[1:]))
    assert all(each.end - each.start <= 32000 for each in cut)

@settings(max_examples=40, deadline=None)
@given(st.lists(st.text('abcåäö AB', min_size=1, max_size=12), min_size=1, max_size=5).filter(lambda texts: any(text.strip() for text in texts)))
def test_an_alphabet_spells_what_it_was_made_of(texts):
    made = letters_of(texts)
    assert not made.foreign(texts)
    for text in texts: assert made.text(made.encoded(text)) == ' '.join(text.lower().split())
