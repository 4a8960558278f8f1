"""The names that people start from where sound, transcripts, pictures with texts and captions are concerned, asked for by these
names on a hub on loopback: trained, saved, and loaded again with the hub and its cache gone. The networks are of the classes that
the names stand for, with the heads with which they lie on a hub, and small."""
import json, os, shutil

import numpy as np
import pandas as pd
import pytest
import torch
from looking import made, makers
from test_audio_nets import _ast, _wave, _whisper
from test_audio_nets import task as tones # noqa: F401 (fixture)
from test_captions import saved_pictures
from test_image_text import folders as duals # noqa: F401 (fixture)
from test_image_text import pairs, table # noqa: F401 (fixture)
from test_transcription import folders as speakers # noqa: F401 (fixture)
from test_transcription import task as sentences # noqa: F401 (fixture)
from tl_nbdev.multimodal.caption_task import CaptionTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer

_quantizer = dict(num_codevectors_per_group=4, codevector_dim=8, proj_codevector_dim=8)
heard = {'facebook/wav2vec2-base': ('Wav2Vec2', 'ForPreTraining', dict(_wave, **_quantizer)),
         'facebook/wav2vec2-large-xlsr-53': ('Wav2Vec2', 'ForPreTraining', dict(_wave, **_quantizer, feat_extract_norm='layer', do_stable_layer_norm=True)),
         'facebook/hubert-base-ls960': ('Hubert', 'Model', _wave), 'superb/hubert-base-superb-ks': ('Hubert', 'ForSequenceClassification', _wave),
         'microsoft/wavlm-base-plus': ('WavLM', 'Model', _wave), 'openai/whisper-tiny': ('Whisper', 'ForConditionalGeneration', _whisper),
         'MIT/ast-finetuned-audioset-10-10-0.4593': ('AST', 'ForAudioClassification', _ast)}
written = {'openai/whisper-tiny.en': 'whisper', 'openai/whisper-small': 'whisper', 'facebook/wav2vec2-base-960h': 'wav2vec2',
           'facebook/hubert-large-ls960-ft': 'hubert', 'patrickvonplaten/wavlm-libri-clean-100h-base-plus': 'wavlm'}
matched = {'openai/clip-vit-base-patch32': 'clip', 'google/siglip-base-patch16-224': 'siglip', 'OFA-Sys/chinese-clip-vit-base-patch16': 'chinese_clip',
           'BAAI/AltCLIP': 'altclip', 'clip-italian/clip-italian': 'joined'}
told = {'llava-hf/llava-1.5-7b-hf': 'llava', 'HuggingFaceM4/idefics-9b-instruct': 'idefics', 'HuggingFaceM4/Idefics3-8B-Llama3': 'idefics3',
        'HuggingFaceTB/SmolVLM-256M-Instruct': 'smolvlm', 'Salesforce/blip-image-captioning-base': 'blip'}

@pytest.fixture(scope='module')
def birds(tmp_path_factory):
    to = tmp_path_factory.mktemp('birds')
    pd.DataFrame(saved_pictures(to)).to_csv(to/'qa.csv', index=False)
    return CaptionTask.from_csv(to/'qa.csv', image='file', caption='caption', valid=4/18, test=4/18, name='birds')

def outputs(predictor, items): return np.stack(list(predictor.probs(items).values()))

def from_hub_and_back(task, name, hub, tmp_path, hows, bs=8):
    "Train what a name stands for, save it, and load it without the hub"
    learn = transfer_learner(task, name, bs=bs, seed=0)
    assert (learn.pretrained.source, learn.pretrained.licence) == ('hub', 'mit')
    with learn.no_bar(), learn.no_logging():
        for how in hows: learn.transfer(how, 1)
    items = task.part('test').item.to_list()
    wanted = outputs(learn.predictor(), items)
    saved = learn.save_transfer(tmp_path/'saved', check=False)
    assert name in json.dumps(json.loads((saved/'transfer.json').read_text('utf-8'))['pretrained'])
    hub.close()
    shutil.rmtree(tmp_path/'hub_home')
    assert np.abs(outputs(load_transfer(saved), items) - wanted).max() < 1e-4

@pytest.mark.parametrize('name', heard)
def test_for_labels_of_recordings(name, hub, tones, tmp_path): # noqa: F811
    import transformers
    kind, cls, config = heard[name]
    torch.manual_seed(0)
    getattr(transformers, kind + cls)(getattr(transformers, f'{kind}Config')(**config)).save_pretrained(tmp_path/'net')
    hub.add(name, tmp_path/'net', licence='mit')
    from_hub_and_back(tones, name, hub, tmp_path, ('feature', 'last:1'))

@pytest.mark.parametrize('name', written)
def test_for_transcripts(name, hub, speakers, sentences, tmp_path): # noqa: F811
    hub.add(name, speakers/written[name], licence='mit')
    from_hub_and_back(sentences, name, hub, tmp_path, ('last:1',), 5)

@pytest.mark.parametrize('name', matched)
def test_for_pictures_with_texts(name, hub, duals, table, tmp_path): # noqa: F811
    hub.add(name, duals[matched[name]], licence='mit')
    from_hub_and_back(pairs(table), name, hub, tmp_path, ('feature', 'last:1'))

@pytest.mark.parametrize('name', told)
def test_for_captions(name, hub, birds, tmp_path):
    net, processor = made(told[name])
    net.save_pretrained(tmp_path/'net')
    processor.save_pretrained(tmp_path/'net')
    hub.add(name, tmp_path/'net', licence='mit')
    from_hub_and_back(birds, name, hub, tmp_path, ('connector',) if told[name] != 'blip' else ('last:2',), 4)
