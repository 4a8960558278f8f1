"Networks of texts by their names on a hub, in the folders that people have, and as pickles that are made safetensors: what comes, and the one line where it doesn't."
import json, os, pickle, shutil, time, traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from hub import good_token, other_token
from safetensors.torch import load_file, save_file
from test_text_networks import bytepairs, sizes, texts, words, wordpieces
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.convert import _rewritten as rewritten, convert_weights, converted
from tl_nbdev.networks.stages import stages
from tl_nbdev.text.encoders import text_pretrained
from tl_nbdev.text.texts import TextTask
from tl_nbdev.text.tokens import Tokens, collate
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()
real_sleep = time.sleep


# tiny networks of the classes that people ask for

def pieces():
    "A tokenizer as SentencePiece's unigrams, which has a sign for the beginning of a word"
    tok = Tokenizer(models.Unigram())
    tok.normalizer, tok.pre_tokenizer, tok.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ['<pad>', '<unk>', '<s>', '</s>', '<mask>']
    tok.train_from_iterator([' '.join(words)]*9 + list('abcdefghijklmnopqrstuvwxyz0123456789'), trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token='<unk>', show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single='<s> $A </s>', pair='<s> $A </s> $B </s>', special_tokens=[('<s>', 2), ('</s>', 3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, pad_token='<pad>', unk_token='<unk>', bos_token='<s>', eos_token='</s>', cls_token='<s>', sep_token='</s>', mask_token='<mask>')

few = {**sizes, 'hidden_size': 16, 'intermediate_size': 24}
decoder = dict(vocab_size=320, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, pad_token_id=None, **few)
kinds = {
    'google-bert/bert-base-uncased': (lambda: tf.BertConfig(vocab_size=320, **few), 'AutoModelForMaskedLM', wordpieces),
    'FacebookAI/roberta-base': (lambda: tf.RobertaConfig(vocab_size=320, pad_token_id=1, **{**few, 'max_position_embeddings': 66}), 'AutoModelForMaskedLM', pieces),
    'microsoft/codebert-base': (lambda: tf.RobertaConfig(vocab_size=320, pad_token_id=1, **{**few, 'max_position_embeddings': 66}), 'AutoModel', bytepairs),
    'microsoft/deberta-v3-base': (lambda: tf.DebertaV2Config(vocab_size=320, relative_attention=True, position_buckets=8, pos_att_type=['p2c', 'c2p'], position_biased_input=False, type_vocab_size=0, **few), 'AutoModel', pieces),
    'answerdotai/ModernBERT-base': (lambda: tf.ModernBertConfig(vocab_size=320, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, local_attention=8, **few), 'AutoModelForMaskedLM', wordpieces),
    'openai-community/gpt2': (lambda: tf.GPT2Config(vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0), 'AutoModelForCausalLM', bytepairs),
    'meta-llama/Llama-3.2-1B': (lambda: tf.LlamaConfig(**decoder), 'AutoModelForCausalLM', bytepairs),
    'codellama/CodeLlama-7b-hf': (lambda: tf.LlamaConfig(**decoder), 'AutoModelForCausalLM', pieces),
    'mistralai/Mistral-7B-v0.3': (lambda: tf.MistralConfig(sliding_window=None, **decoder), 'AutoModelForCausalLM', pieces),
    'Qwen/Qwen2.5-0.5B': (lambda: tf.Qwen2Config(**decoder), 'AutoModelForCausalLM', bytepairs),
    'bigcode/starcoder2-3b': (lambda: tf.Starcoder2Config(**decoder), 'AutoModelForCausalLM', bytepairs)}

def written(to, kind, cls=None, seed=0, **changes):
    "A folder as save_pretrained writes it"
    config, usual, tokens = kinds[kind]
    config = config()
    for key, value in changes.items(): setattr(config, key, value)
    torch.manual_seed(seed)
    net = getattr(tf, cls or usual).from_config(config)
    with torch.no_grad():
        for p in net.parameters(): p.add_(.05*torch.randn_like(p))
    net.save_pretrained(to)
    tokens().save_pretrained(to)
    return to

bert, causal = 'google-bert/bert-base-uncased', 'Qwen/Qwen2.5-0.5B'

@pytest.fixture(scope='session')
def folder(tmp_path_factory): return written(tmp_path_factory.mktemp('hub')/'bert', bert)

@pytest.fixture(scope='session')
def task(): return TextTask.from_df(texts(18), name='topics')

@pytest.fixture
def hasty(monkeypatch):
    "Nobody waits long"
    from huggingface_hub import constants
    monkeypatch.setattr(time, 'sleep', lambda seconds: real_sleep(min(seconds, .01)))
    for name in ('HF_HUB_ETAG_TIMEOUT', 'HF_HUB_DOWNLOAD_TIMEOUT'): monkeypatch.setattr(constants, name, 1)

def learner(task, what, head='linear', **kwargs): return transfer_learner(task, what, head, size=16, bs=8, seed=0, **kwargs)

def refused(f, *said):
    "In one line that holds `said`, and in which, and behind which, no token stands"
    with pytest.raises(TransferError) as e: f()
    line, behind = str(e.value), ''.join(traceback.format_exception(e.value))
    assert '\n' not in line and len(line) < 900, line
    for each in said: assert each in line, line
    assert 'hf_' not in line and 'hf_' not in behind.replace('hf_hub', ''), behind
    return line

def probabilities(predictor, items): return np.stack(list(predictor.probs(items).values()))

def left(hub_home): return [o.name for o in Path(hub_home).rglob('*.incomplete')]

def vectors(p, items):
    with torch.no_grad(): return p.body()(collate(Tokens(p)(items)))


# from a hub to a saved model

@pytest.mark.parametrize('name', [bert, causal, 'microsoft/deberta-v3-base']) # a tokenizer of each kind; `test_hub_names` has all
def test_from_a_name_to_a_saved_model(hub, task, tmp_path, name):
    sha = hub.add(name, written(tmp_path/'made', name), licence='mit')
    learn = learner(task, name)
    p, cut = learn.pretrained, stages(learn.model)
    assert (p.revision, p.source, p.name, p.licence) == (sha, 'hub', name, 'mit')
    assert len(cut) >= 4 and sum(o.n for o in cut) == sum(o.numel() for o in learn.model.parameters())
    plain = getattr(tf, 'AutoModel').from_pretrained(tmp_path/'made').state_dict()
    same = [k for k, v in learn.model.body.net.state_dict().items() if torch.equal(v, plain[k])]
    assert len(same) == len(learn.model.body.net.state_dict())
    with learn.no_bar(), learn.no_logging():
        for how in ('feature', 'last:1', 'full'): learn.transfer(how, 1)
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    assert json.loads((saved/'transfer.json').read_text('utf-8'))['pretrained']['revision'] == sha
    hub.close()
    asked = len(hub.asked)
    shutil.rmtree(tmp_path/'hub_home')
    assert np.allclose(probabilities(load_transfer(saved), result.items), result.probs, atol=1e-5)
    assert learner(task, saved, 'own').pretrained.revision == sha and len(hub.asked) == asked

@pytest.mark.parametrize('written_as', ['{}', 'hf-hub:{}', '{}@v1', 'hf-hub:{}@v1'])
def test_ways_to_write_a_name(hub, folder, written_as):
    first = hub.add(bert, folder, ref='v1')
    sha = hub.add(bert, {'config.json': (folder/'config.json').read_bytes(), **{o.name: o.read_bytes() for o in folder.iterdir()}, 'more.txt': b''})
    p = text_pretrained(written_as.format(bert))
    assert p.revision == (first if '@' in written_as else sha) and first != sha and p.name == bert
    assert text_pretrained(bert, revision='v1').revision == text_pretrained(bert, revision=first).revision == first
    refused(lambda: text_pretrained(f'{bert}@v1', revision='main'), 'name one of them')

def test_a_name_from_before_there_were_owners(hub, folder):
    sha = hub.add(bert, folder)
    hub.alias('bert-base-uncased', bert)
    p = text_pretrained('bert-base-uncased')
    assert p.revision == sha and p.body()
    hub.close()
    assert text_pretrained('bert-base-uncased').body() # and it is found in the cache by the same name

def test_what_is_in_the_cache_is_not_asked_for(hub, folder, monkeypatch):
    sha = hub.add(bert, folder)
    was = text_pretrained(bert).body().state_dict()
    assert {o.split()[1].rpartition('/')[2] for o in hub.asked if 'resolve' in o} >= {'config.json', 'model.safetensors', 'tokenizer.json'}
    asked = len(hub.asked)
    assert text_pretrained(bert, revision=sha).body() and len(hub.asked) == asked # a commit is what it is
    hub.add(bert, written(folder.parent/'other', bert, seed=1))
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    p = text_pretrained(bert)
    assert p.revision == sha and all(torch.equal(v, was[k]) for k, v in p.body().state_dict().items()) and len(hub.asked) == asked
    monkeypatch.setenv('TL_OFFLINE', 'no')
    assert text_pretrained(bert).revision != sha
    hub.close()
    assert text_pretrained(bert, revision='main').revision != sha and text_pretrained(bert, revision=sha).body()

def test_a_start_that_was_named_before_there_was_a_network(hub, folder, monkeypatch):
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    p = text_pretrained(bert)
    refused(p.body, f'"{bert}"', 'could not be fetched', 'tl_offline is yes')
    monkeypatch.setenv('TL_OFFLINE', 'no')
    hub.add(bert, folder)
    assert p.body() and Tokens(p)(['the oven'])

def test_weights_come_when_they_are_needed_and_at_the_same_commit(hub, folder, tmp_path):
    hub.add(bert, folder)
    p = text_pretrained(bert)
    assert not any('safetensors' in o for o in hub.asked)
    hub.add(bert, written(tmp_path/'other', bert, seed=1)) # somebody pushes meanwhile
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in p.body().net.state_dict().items())

def test_a_random_network_needs_no_weights(hub, folder):
    hub.add(bert, folder)
    assert text_pretrained(bert, source='random').body() and not any('safetensors' in o for o in hub.asked)

def test_our_own_saved_model_from_a_hub(hub, task, folder, tmp_path):
    learn = learner(task, folder)
    result = learn.evaluate()
    hub.add('me/topics', learn.save_transfer(tmp_path/'saved', result, check=False))
    again = learner(task, 'me/topics', 'own')
    assert np.allclose(again.evaluate().probs, result.probs, atol=1e-5)


# a hub that says no

def without(folder, *names, **more):
    "The files of a folder, but for some, and with others"
    return {**{o.name: o.read_bytes() for o in folder.iterdir() if o.is_file() and o.name not in names}, **more}

def test_who_may_not_come_in(hub, folder, monkeypatch, hasty):
    hub.add('meta-llama/Llama-3.2-1B', folder, gated=True)
    hub.add('me/secret', folder, private=True)
    ask = lambda name='meta-llama/Llama-3.2-1B': text_pretrained(name).body()
    refused(ask, 'gated: its owner wants terms to be accepted', 'Accept them on its page', 'HF_TOKEN')
    refused(lambda: ask('me/secret'), 'no such repository', 'if it is private, give a token')
    refused(lambda: ask('me/nowhere'), 'no such repository')
    for token, said in ((other_token, 'your token may not read it'), ('hf_' + 'x'*34, 'refuses the token')):
        monkeypatch.setenv('HF_TOKEN', token)
        refused(ask, said)
    assert not left(os.environ['HF_HOME'])
    monkeypatch.setenv('HF_TOKEN', good_token)
    assert ask() and ask('me/secret')

def test_a_token_that_a_hub_repeats_is_not_shown(hub, folder, monkeypatch, capfd):
    from hub import Answers
    hub.add(bert, folder)
    token = 'hf_' + 'x'*34
    def echo(self, *args): return self.say(403, dict(error=f'no {token}'), X_Error_Message=f'bad token {token}', X_HF_Warning=f'auth; {token}')
    monkeypatch.setattr(Answers, 'answer', lambda self: echo(self))
    monkeypatch.setenv('HF_TOKEN', token)
    refused(lambda: text_pretrained(bert), 'the hub refuses (403)')
    out, err = capfd.readouterr()
    assert token not in out + err

def test_what_is_not_there(hub, folder, hasty):
    hub.add(bert, folder)
    refused(lambda: text_pretrained(bert, revision='v9'), f'"{bert}@v9"', 'no revision "v9"', 'lists what there is')
    hub.add('a/empty', without(folder, 'model.safetensors'))
    hub.add('a/flax', without(folder, 'model.safetensors', **{'flax_model.msgpack': b'.'}))
    hub.add('a/mute', without(folder, 'tokenizer.json', 'vocab.txt', 'tokenizer_config.json'))
    hub.add('a/nothing', {'README.md': b'# soon'})
    refused(lambda: text_pretrained('a/empty'), '"a/empty": no model.safetensors in it', 'save_pretrained')
    refused(lambda: text_pretrained('a/flax'), 'only flax_model.msgpack, which is of Flax')
    refused(lambda: text_pretrained('a/mute'), '"a/mute": weights but no tokenizer', 'AutoTokenizer')
    refused(lambda: text_pretrained('a/nothing'), '"a/nothing": no config.json in it')
    hub.add('a/mute', folder)
    assert text_pretrained('a/mute').body() # the next try succeeds

@pytest.mark.parametrize('said, what', [(dict(model_type='vit'), 'images (vit)'), (dict(architecture='resnet18', num_classes=3), 'images (resnet18, of timm)'), (dict(model_type='wav2vec2'), 'sound (wav2vec2)')])
def test_another_kind_of_network(hub, folder, said, what):
    hub.add('google/other', without(folder, **{'config.json': json.dumps(said).encode()}))
    refused(lambda: text_pretrained('google/other'), f'"google/other": a network of {what}, and the task is of texts')

def test_code_that_comes_with_a_network(hub, folder, tmp_path, capsys):
    config = json.loads((folder/'config.json').read_text())
    config = {**config, 'model_type': 'mine', 'auto_map': dict(AutoConfig='mine.C', AutoModel='mine.M')}
    code = f'import pathlib\npathlib.Path({str(tmp_path/"ran")!r}).touch()\nfrom transformers import BertConfig, BertModel\nclass C(BertConfig): model_type = "mine"\nclass M(BertModel): config_class = C\n'
    hub.add('org/mine', without(folder, **{'config.json': json.dumps(config).encode(), 'mine.py': code.encode()}))
    refused(lambda: text_pretrained('org/mine').body(), 'needs code of its own, which was not run (mine.C, mine.M)', 'trust_remote_code=True', '"org/mine"')
    assert not (tmp_path/'ran').exists() and not any(o.endswith('mine.py') for o in hub.asked)
    assert text_pretrained('org/mine', trust_remote_code=True).body() and (tmp_path/'ran').exists()
    assert 'running code that comes with "org/mine"' in capsys.readouterr().out

faults = [('(info)', '429', 'asks to wait'), ('(info)', '500', 'trouble of its own (500)'), ('(info)', 'hang', 'no answer within'), ('config.json', '503', 'trouble of its own (503)'),
          ('config.json', 'short', 'came only in part'), ('model.safetensors', '429', 'asks to wait'), ('model.safetensors', 'short', 'came only in part'),
          ('model.safetensors', 'hang', 'no answer within')]

@pytest.mark.parametrize('file, fault, said', faults, ids=[f'{a} {b}' for a, b, _ in faults])
def test_a_hub_that_fails(hub, folder, hasty, file, fault, said):
    hub.add(bert, folder)
    hub.fault(bert, file, fault)
    start = time.monotonic()
    refused(lambda: text_pretrained(bert).body(), f'"{bert}"', 'could not be fetched', said)
    assert time.monotonic() - start < 60 # of a hub that would have been silent for minutes
    assert not left(os.environ['HF_HOME']) and not [o for o in Path(os.environ['HF_HOME']).rglob('model.safetensors')]
    hub.mend()
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in text_pretrained(bert).body().net.state_dict().items())

@pytest.mark.parametrize('file, fault', [('(info)', '503'), ('config.json', '429'), ('model.safetensors', 'cut')])
def test_a_fault_that_passes_is_not_even_seen(hub, folder, hasty, file, fault):
    hub.add(bert, folder)
    hub.fault(bert, file, fault, times=1)
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in text_pretrained(bert).body().net.state_dict().items())

def test_a_hub_that_is_gone(hub, folder, hasty):
    sha = hub.add(bert, folder)
    p = text_pretrained(bert)
    hub.close()
    refused(p.body, f'"{bert}', 'weights are not in the hub\'s cache', 'can\'t be reached')
    refused(text_pretrained('org/another').body, '"org/another"', 'can\'t be reached')
    assert text_pretrained(bert).revision == sha # of which the small files are here

def test_what_lies_torn_in_the_cache_is_fetched_again(hub, folder):
    hub.add(bert, folder)
    p = text_pretrained(bert)
    p.body()
    file = next(Path(os.environ['HF_HOME']).rglob('snapshots/*/model.safetensors')).resolve()
    file.write_bytes(file.read_bytes()[:1000])
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in p.body().net.state_dict().items())

def test_a_password_in_the_address_of_a_hub_is_not_shown(hub, folder, monkeypatch):
    from huggingface_hub import constants
    from tl_nbdev.vision.zoo import pretrained
    hub.add(bert, folder)
    monkeypatch.setattr(constants, 'ENDPOINT', constants.ENDPOINT.replace('//', '//me:pass-word@'))
    asks = (lambda: text_pretrained('org/nowhere').body()), (lambda: pretrained('org/nowhere').body())
    for ask in asks: assert 'pass-word' not in refused(ask, 'could not be fetched', 'hub wants a token') # that of the address is none
    hub.close()
    for ask in asks: assert 'pass-word' not in refused(ask, 'can\'t be reached')


# pickles

class Evil:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)

def as_pickle(folder, to, pieces=False, **more):
    "The same folder with its weights as pickles"
    shutil.copytree(folder, to)
    state = load_file(to/'model.safetensors')
    (to/'model.safetensors').unlink()
    if not pieces: torch.save({**state, **more}, to/'pytorch_model.bin')
    else:
        names = sorted(state)
        files = {f'pytorch_model-0000{i + 1}-of-00002.bin': names[i::2] for i in range(2)}
        for file, inside in files.items(): torch.save({k: state[k] for k in inside}, to/file)
        index = dict(metadata={}, weight_map={k: file for file, inside in files.items() for k in inside})
        (to/'pytorch_model.bin.index.json').write_text(json.dumps(index))
    return to

@pytest.mark.parametrize('pieces', [False, True])
def test_a_pickle_in_a_folder(folder, task, tmp_path, pieces):
    old = as_pickle(folder, tmp_path/'old', pieces)
    before = {o.name: o.read_bytes() for o in old.iterdir()}
    line = refused(lambda: text_pretrained(old), str(old), 'only pytorch_model.bin', 'pickled weights are never opened', 'convert_weights(')
    want, near = load_file(folder/'model.safetensors'), text_pretrained(old, convert=True) # in the cache: the folder stays as it is
    assert {o.name: o.read_bytes() for o in old.iterdir()} == before and near.body()
    call = line[line.index('from tl_nbdev'):]
    exec(call, {}) # what the line says to do
    assert {o.name: o.read_bytes() for o in old.iterdir() if o.name in before} == before # the pickle stays
    got = {k: v for file in old.glob('*.safetensors') for k, v in load_file(file).items()}
    assert got.keys() == want.keys() and all(torch.equal(v, want[k]) for k, v in got.items())
    theirs = tf.AutoModelForMaskedLM.from_pretrained(old, use_safetensors=True).state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in want.items())
    assert learner(task, old) and converted(old) == old

def test_a_pickle_on_a_hub(hub, folder, tmp_path):
    old = as_pickle(folder, tmp_path/'old')
    shutil.copy(old/'pytorch_model.bin', old/'training_args.bin')
    sha = hub.add('org/old', old)
    refused(lambda: text_pretrained('org/old'), '"org/old"', 'only pytorch_model.bin', 'text_pretrained("org/old", convert=True)')
    assert not any('.bin' in o for o in hub.asked)
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    p = text_pretrained('org/old', convert=True)
    assert p.revision == sha and all(torch.equal(v, want[k]) for k, v in p.body().net.state_dict().items())
    asked = [o for o in hub.asked if '.bin' in o]
    assert asked and text_pretrained('org/old', convert=True).body() and [o for o in hub.asked if '.bin' in o] == asked
    assert not any('training_args' in o for o in hub.asked)

def test_tables_that_are_one(tmp_path):
    old = written(tmp_path/'tied', causal, tie_word_embeddings=True)
    net = tf.AutoModelForCausalLM.from_pretrained(old)
    torch.save(net.state_dict(), old/'pytorch_model.bin')
    (old/'model.safetensors').unlink()
    assert 'lm_head.weight' in net.state_dict()
    convert_weights(old)
    assert 'lm_head.weight' not in load_file(old/'model.safetensors')
    again, x = tf.AutoModelForCausalLM.from_pretrained(old), torch.tensor([[1, 2, 3]])
    with torch.no_grad(): assert torch.equal(again(x).logits, net(x).logits)
    both = tmp_path/'both.bin'
    torch.save(net.state_dict(), both)
    assert len({v.data_ptr() for v in load_file(convert_weights(both)).values()}) == len(net.state_dict()) # a file says nothing of ties

def bad_pickles(to):
    "Name → bytes of a file that is no weights, and what is said of it"
    made = {}
    for old_form in (False, True):
        torch.save(dict(w=Evil(to/'ran')), to/'x', _use_new_zipfile_serialization=not old_form)
        made[f'code {old_form}'] = (to/'x').read_bytes(), 'asks for posix.mkdir when it is opened, which is code, and was not run'
    made['plain pickle'] = pickle.dumps(Evil(to/'ran')), 'can not be read'
    torch.save(dict(w=torch.randn(999)), to/'x')
    made['half a zip'] = (to/'x').read_bytes()[:2500], 'is torn'
    torch.save(dict(w=torch.randn(9), epoch=3), to/'x')
    made['a number'] = (to/'x').read_bytes(), 'holds more than weights: "epoch" is a int'
    torch.save([torch.randn(9)], to/'x')
    made['a list'] = (to/'x').read_bytes(), 'holds a list'
    torch.save(dict(w=torch.zeros(1).expand(10**10)), to/'x')
    made['a bomb'] = (to/'x').read_bytes(), 'would become 40.0 GB'
    made['nothing'] = b'', 'can not be read'
    return made

def test_pickles_that_are_refused(folder, tmp_path):
    "Here as the child reads them, some of them by the child: it takes seconds to begin"
    for name, (data, said) in bad_pickles(tmp_path).items():
        here = tmp_path/name
        here.mkdir()
        file = here/'pytorch_model.bin'
        file.write_bytes(data)
        if name not in ('code False', 'a bomb', 'half a zip'):
            why = rewritten(file, here/'model.safetensors', False)['why']
            assert said in why or name in ('nothing', 'plain pickle') and any(o in why for o in ('read', 'torn', 'asks for')), why
        elif name == 'half a zip': refused(lambda: converted(here), str(file), said)
        else: refused(lambda: convert_weights(here), str(file), said, 'Nothing was written')
        assert [o.name for o in here.iterdir()] == ['pytorch_model.bin'] and not (tmp_path/'ran').exists()

def test_a_conversion_loses_nothing(folder, tmp_path):
    old = as_pickle(folder, tmp_path/'old')
    new = convert_weights(old, tmp_path/'new')
    assert new == tmp_path/'new' and not (new/'pytorch_model.bin').exists() and (old/'pytorch_model.bin').exists() and not (old/'model.safetensors').exists()
    assert text_pretrained(new).body()
    refused(lambda: convert_weights(old, tmp_path/'new'), 'is there already, and is not written over')
    convert_weights(old)
    refused(lambda: convert_weights(old), 'has its weights as safetensors already')
    refused(lambda: convert_weights(tmp_path/'nowhere'), 'no such folder')
    refused(lambda: convert_weights(old/'config.json'), 'no pickle of weights by its name')
    torn = as_pickle(folder, tmp_path/'torn', True)
    min(torn.glob('*-of-*')).unlink()
    refused(lambda: convert_weights(torn), 'pytorch_model-00001-of-00002.bin: is not there')
    assert not list(torn.glob('*.safetensors*'))
    index = torn/'pytorch_model.bin.index.json'
    index.write_text(json.dumps(dict(weight_map=dict(w='../old/pytorch_model.bin'))))
    refused(lambda: convert_weights(torn), 'names no files of weights in its folder')


# folders of a training

def trainers_folder(to, folder, steps=(2, 4, 6), best=None, tokenizer='in'):
    "As the Trainer leaves it, with pickles that nobody should open"
    to.mkdir()
    for step in steps:
        one = written(to/f'checkpoint-{step}', bert, seed=step)
        for name in ('optimizer.pt', 'rng_state.pth', 'scheduler.pt', 'training_args.bin'): (one/name).write_bytes(pickle.dumps(Evil(to/'ran')))
        (one/'trainer_state.json').write_text(json.dumps(dict(global_step=step, best_model_checkpoint=best and f'/somewhere/else/out/checkpoint-{best}')))
        if tokenizer != 'in':
            for name in ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.txt'): (one/name).unlink(missing_ok=True)
    if tokenizer == 'above': wordpieces().save_pretrained(to)
    return to

def of_step(p, step, tmp_path):
    want = tf.AutoModel.from_pretrained(written(tmp_path/f'want{step}', bert, seed=step)).state_dict()
    return all(torch.equal(v, want[k]) for k, v in p.body().net.state_dict().items())

@pytest.mark.parametrize('best', [None, 4, 99])
def test_the_output_folder_of_a_training(folder, tmp_path, best):
    out = trainers_folder(tmp_path/'out', folder, best=best)
    p = text_pretrained(out)
    which, why = ('4', 'the best by its trainer_state.json') if best == 4 else ('6', 'the last')
    assert p.name == f'out/checkpoint-{which}' and of_step(p, int(which), tmp_path)
    assert p.notes[0] == f'out: checkpoint-{which} is taken, {why} (there are checkpoint-2, checkpoint-4, checkpoint-6: name another, as out/checkpoint-2)'
    (out/'checkpoint-6'/'model.safetensors').unlink() # as if it was being written
    p = text_pretrained(out)
    assert p.name == 'out/checkpoint-4' and not (out/'ran').exists()
    assert of_step(text_pretrained(out/'checkpoint-2'), 2, tmp_path) and text_pretrained(out/'checkpoint-2').notes == ()
    written(out, bert, seed=2) # save_model: from now on the folder itself is meant
    assert text_pretrained(out).name == 'out' and text_pretrained(out).notes == ()

def test_the_tokenizer_of_a_checkpoint(folder, task, tmp_path):
    out = trainers_folder(tmp_path/'out', folder, (2,), tokenizer='above')
    p = text_pretrained(out/'checkpoint-2')
    assert p.notes == ('checkpoint-2: its tokenizer is that of the folder above, out',)
    learn = learner(task, out/'checkpoint-2')
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    shutil.rmtree(out)
    assert np.allclose(probabilities(load_transfer(saved), result.items), result.probs, atol=1e-5)
    old = trainers_folder(tmp_path/'old', folder, (2,), tokenizer='above') # of a time when it wrote pickles
    torch.save(load_file(old/'checkpoint-2'/'model.safetensors'), old/'checkpoint-2'/'pytorch_model.bin')
    (old/'checkpoint-2'/'model.safetensors').unlink()
    assert Tokens(text_pretrained(old, convert=True))(['goal']) and text_pretrained(old, convert=True).body()
    none = trainers_folder(tmp_path/'none', folder, (2,), tokenizer='nowhere')
    refused(lambda: text_pretrained(none), str(none/'checkpoint-2'), 'weights but no tokenizer', 'AutoTokenizer.from_pretrained')

def test_weights_in_pieces(folder, tmp_path, hub):
    many = tmp_path/'many'
    tf.AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(many, max_shard_size='20KB')
    for file in folder.glob('*token*'): shutil.copy(file, many)
    assert len(list(many.glob('*.safetensors'))) > 2
    want = tf.AutoModel.from_pretrained(folder).state_dict()
    sha = hub.add('org/many', many)
    for what in (many, 'org/many'):
        assert all(torch.equal(v, want[k]) for k, v in text_pretrained(what).body().net.state_dict().items())
    index = json.loads((many/'model.safetensors.index.json').read_text())
    gone = sorted(set(index['weight_map'].values()))[1]
    (many/gone).unlink()
    refused(lambda: text_pretrained(many).body(), str(many), gone, 'copy the folder again')
    (many/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=dict(w='../../bert/model.safetensors'))))
    refused(lambda: text_pretrained(many).body(), 'names no files of weights in its folder')


# sentence-transformers

def sentences(to, kind, pooling, dense=(), normalize=False, length=None, lower=False, prompts=None, default=None, pickled=False):
    "A folder as sentence-transformers writes it"
    written(to/'0_Transformer', kind, 'AutoModel')
    parts = [('Transformer', '0_Transformer'), ('Pooling', '1_Pooling')] + [('Dense', f'{i + 2}_Dense') for i in range(len(dense))] + ([('Normalize', '9_Normalize')] if normalize else [])
    said = {'1_Pooling/config.json': dict(word_embedding_dimension=16, **pooling), 'config_sentence_transformers.json': dict(prompts=prompts or {}, default_prompt_name=default),
            '0_Transformer/sentence_bert_config.json': dict(do_lower_case=lower, **(dict(max_seq_length=length) if length else {})),
            'modules.json': [dict(idx=i, name=str(i), path=path, type=f'sentence_transformers.models.{name}') for i, (name, path) in enumerate(parts)]}
    width = 16*max(1, sum(v is True for v in pooling.values()))
    for i, (out, activation) in enumerate(dense):
        layer = {'linear.weight': torch.randn(out, width, generator=torch.Generator().manual_seed(i)), 'linear.bias': torch.randn(out, generator=torch.Generator().manual_seed(i))}
        said[f'{i + 2}_Dense/config.json'] = dict(in_features=width, out_features=out, bias=True, activation_function=activation)
        (to/f'{i + 2}_Dense').mkdir()
        if pickled: torch.save(layer, to/f'{i + 2}_Dense'/'pytorch_model.bin')
        else: save_file(layer, to/f'{i + 2}_Dense'/'model.safetensors')
        width = out
    for name, what in said.items():
        (to/name).parent.mkdir(exist_ok=True)
        (to/name).write_text(json.dumps(what))
    return to

def by_hand(folder, text, pooling, dense=(), normalize=False):
    "The vector of one text, written down from what the library says of its parts"
    with torch.no_grad(): h = tf.AutoModel.from_pretrained(folder/'0_Transformer')(**tf.AutoTokenizer.from_pretrained(folder/'0_Transformer')(text, return_tensors='pt')).last_hidden_state[0]
    n, place = len(h), torch.arange(1, len(h) + 1.)[:, None]
    each = dict(mean=h.mean(0), cls=h[0], max=h.max(0)[0], last=h[-1], weightedmean=(h*place).sum(0)/place.sum(), mean_sqrt_len=h.sum(0)/n**.5)
    v = torch.cat([each[o] for o in pooling.split('+')])
    for i, (_, activation) in enumerate(dense):
        layer = load_file(folder/f'{i + 2}_Dense'/'model.safetensors')
        v = layer['linear.weight']@v + layer['linear.bias']
        if activation.endswith('Tanh'): v = v.tanh()
    return v/v.norm() if normalize else v

tanh, same = 'torch.nn.modules.activation.Tanh', 'torch.nn.modules.linear.Identity'
asked = [('mean', dict(pooling_mode_mean_tokens=True), (), False), ('cls', dict(pooling_mode_cls_token=True), ((8, tanh),), True), ('max', dict(pooling_mode_max_tokens=True), (), True),
         ('last', dict(pooling_mode_lasttoken=True), (), True), ('weightedmean', dict(pooling_mode_weightedmean_tokens=True), ((8, same), (4, tanh)), False),
         ('mean_sqrt_len', dict(pooling_mode_mean_sqrt_len_tokens=True), (), False), ('max+mean', dict(pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True), ((8, tanh),), True)]

@pytest.mark.parametrize('pooling, said, dense, normalize', asked, ids=[o[0] for o in asked])
@pytest.mark.parametrize('kind', [bert, causal])
def test_vectors_of_sentence_transformers(tmp_path, kind, pooling, said, dense, normalize):
    folder = sentences(tmp_path/'st', kind, said, dense, normalize)
    p, some = text_pretrained(folder), ['the oven and the flour', 'goal', 'judge and court and clause and appeal']
    got = vectors(p, some)
    assert p.pooling == pooling and not [o for o in p.notes if 'not' in o]
    for v, text in zip(got, some): assert torch.allclose(v, by_hand(folder, text, pooling, dense, normalize), atol=1e-5), text

@pytest.mark.parametrize('pooling, said', [('mean', dict(pooling_mode_mean_tokens=True)), ('max', dict(pooling_mode_max_tokens=True)), ('weightedmean', dict(pooling_mode_weightedmean_tokens=True)),
                                           ('mean_sqrt_len', dict(pooling_mode_mean_sqrt_len_tokens=True)), ('cls', dict(pooling_mode_cls_token=True)), ('last', dict(pooling_mode_lasttoken=True))])
def test_a_prompt_that_is_left_out_of_the_pooling(task, tmp_path, pooling, said):
    folder = sentences(tmp_path/'st', bert, dict(include_prompt=False, **said), prompts=dict(q='judge and court '), default='q')
    p, tok = text_pretrained(folder), tf.AutoTokenizer.from_pretrained(folder/'0_Transformer')
    skip = len(tok('judge and court ')['input_ids']) - 1 # with the sign of the beginning, without that of the end
    some = ['goal', 'the oven and the flour']
    for v, text in zip(vectors(p, some), some):
        with torch.no_grad(): h = tf.AutoModel.from_pretrained(folder/'0_Transformer')(**tok('judge and court ' + text, return_tensors='pt')).last_hidden_state[0]
        counts, place = h[skip:], torch.arange(skip + 1, len(h) + 1.)[:, None]
        want = dict(mean=counts.mean(0), max=counts.max(0)[0], weightedmean=(counts*place).sum(0)/place.sum(), mean_sqrt_len=counts.sum(0)/len(counts)**.5, cls=h[skip], last=h[-1])
        assert torch.allclose(v, want[pooling], atol=1e-5)
    long = ' and '.join(words)
    whole, windows = vectors(p, [long])[0], vectors(text_pretrained(folder, size=16, long='windows'), [long])[0]
    assert torch.isfinite(windows).all() and not torch.allclose(whole, windows)
    if pooling != 'mean': return
    learn = learner(task, folder)
    saved = learn.save_transfer(tmp_path/'saved', learn.evaluate(), check=False)
    assert load_transfer(saved).frozen.net.skip == skip and learner(task, folder, 'own').model.body.skip == 0

def test_vectors_are_those_of_the_library(tmp_path):
    library = pytest.importorskip('sentence_transformers')
    for i, (pooling, said, dense, normalize) in enumerate(asked):
        for more in ({}, dict(include_prompt=False)):
            folder = sentences(tmp_path/f'{i}{len(more)}', bert, {**said, **more}, dense, normalize, 40, True, dict(q='judge and court '), 'q')
            some = ['The oven and the flour', 'goal', ' and '.join(words)]
            want = library.SentenceTransformer(str(folder), device='cpu').encode(some)
            assert np.allclose(vectors(text_pretrained(folder), some), want, atol=1e-5), (pooling, more)

def test_sentence_transformers_from_a_hub(hub, task, tmp_path):
    folder = sentences(tmp_path/'st', bert, dict(pooling_mode_cls_token=True), ((8, tanh),), True, 24, True, dict(query='judge: '), 'query')
    sha = hub.add('sentence-transformers/tiny', folder)
    p = text_pretrained('sentence-transformers/tiny')
    assert (p.size, p.lower, p.prompt, p.pooling, p.normalize, p.revision) == (24, True, 'judge: ', 'cls', True, sha)
    assert torch.allclose(vectors(p, ['The OVEN'])[0], by_hand(folder, 'judge: the oven', 'cls', ((8, tanh),), True), atol=1e-5)
    learn = learner(task, 'sentence-transformers/tiny')
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    hub.close()
    assert np.allclose(probabilities(load_transfer(saved), result.items), result.probs, atol=1e-5)

def test_lengths_that_only_the_tokenizer_knows(tmp_path):
    assert text_pretrained(sentences(tmp_path/'st', bert, dict(pooling_mode='mean'))).size == 64

def test_a_layer_that_is_a_pickle(tmp_path):
    dense = ((8, tanh),)
    folder = sentences(tmp_path/'st', bert, dict(pooling_mode_mean_tokens=True), dense, pickled=True)
    assert text_pretrained(folder).dense == () and 'convert=True' in text_pretrained(folder).notes[-1]
    p = text_pretrained(folder, convert=True)
    got = vectors(p, ['goal'])[0]
    convert_weights(folder)
    assert torch.allclose(got, by_hand(folder, 'goal', 'mean', dense), atol=1e-5) and torch.equal(vectors(text_pretrained(folder), ['goal'])[0], got)


# adapters

def adapter(base, to, cls, task_type, targets, said_base=None, **more):
    "As peft writes it, of a change that is large"
    import peft
    net = getattr(tf, cls).from_pretrained(base, **({'num_labels': 3} if task_type == 'SEQ_CLS' else {}))
    made = peft.get_peft_model(net, peft.LoraConfig(task_type=task_type, r=2, target_modules=targets))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if 'lora' in name or 'modules_to_save' in name: p.normal_()
    made.save_pretrained(to)
    config = json.loads((to/'adapter_config.json').read_text())
    (to/'adapter_config.json').write_text(json.dumps({**config, 'base_model_name_or_path': str(said_base or base), **more}))
    return made

def same_body(p, whole):
    net, want = p.body().net, whole.merge_and_unload().base_model.state_dict()
    return all(torch.allclose(v, want[k], atol=1e-5) for k, v in net.state_dict().items())

@pytest.mark.parametrize('kind, cls, task_type, targets', [(bert, 'AutoModelForSequenceClassification', 'SEQ_CLS', ['query', 'value']), (causal, 'AutoModelForCausalLM', 'CAUSAL_LM', ['q_proj', 'v_proj']),
                                                           (bert, 'AutoModel', 'FEATURE_EXTRACTION', ['query']), (causal, 'AutoModelForSequenceClassification', 'SEQ_CLS', ['q_proj'])])
def test_an_adapter_and_its_network_from_a_hub(hub, task, tmp_path, kind, cls, task_type, targets):
    base = written(tmp_path/'base', kind)
    first = hub.add(kind, base)
    hub.add(kind, written(tmp_path/'later', kind, seed=5)) # the adapter is of the one before
    whole = adapter(base, tmp_path/'lora', cls, task_type, targets, kind, revision=first)
    sha = hub.add('me/lora', tmp_path/'lora')
    for what in ('me/lora', tmp_path/'lora'):
        p = text_pretrained(what)
        assert p.revision == (sha if what == 'me/lora' else first) and f'joined with {kind} at {first[:12]}' in p.notes[0]
    assert same_body(p, whole)
    learn = learner(task, 'me/lora', 'own' if task_type == 'SEQ_CLS' else 'linear')
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    hub.close()
    assert np.allclose(probabilities(load_transfer(saved), result.items), result.probs, atol=1e-5)

@pytest.mark.parametrize('kind', ['dora', 'ia3', 'norms', 'vocabulary'])
def test_other_kinds_of_adapters(tmp_path, kind):
    import peft
    base = written(tmp_path/'base', causal)
    net = tf.AutoModelForCausalLM.from_pretrained(base)
    if kind == 'vocabulary': net.resize_token_embeddings(330)
    how = dict(dora=lambda: peft.LoraConfig(task_type='CAUSAL_LM', target_modules=['q_proj'], use_dora=True), norms=lambda: peft.LNTuningConfig(target_modules=['input_layernorm']),
               ia3=lambda: peft.IA3Config(task_type='CAUSAL_LM', target_modules=['k_proj', 'down_proj'], feedforward_modules=['down_proj']),
               vocabulary=lambda: peft.LoraConfig(task_type='CAUSAL_LM', target_modules=['q_proj'], modules_to_save=['embed_tokens', 'lm_head']))
    made, x = peft.get_peft_model(net, how[kind]()), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad: p.add_(.3*torch.randn_like(p))
        made.save_pretrained(tmp_path/'adapter')
        want = made.eval()(input_ids=x, output_hidden_states=True).hidden_states[-1]
        got = tf.AutoModel.from_pretrained(text_pretrained(tmp_path/'adapter').where)(input_ids=x).last_hidden_state
    assert torch.allclose(got, want, atol=1e-5)

def test_adapters_that_can_t_be_joined(hub, folder, tmp_path, hasty):
    import peft
    hub.add(bert, folder)
    gone = tmp_path/'gone'
    adapter(folder, gone, 'AutoModel', 'FEATURE_EXTRACTION', ['query'], '/home/somebody/bert')
    refused(lambda: text_pretrained(gone), str(gone), 'an adapter (LORA) of /home/somebody/bert', 'base=')
    assert text_pretrained(gone, base=folder).body() and text_pretrained(gone, base=bert).body()
    refused(lambda: text_pretrained(gone, base='org/nowhere'), 'an adapter (LORA) of org/nowhere, which is not to be had')
    refused(lambda: text_pretrained(gone, base=gone), 'of itself')
    other = written(tmp_path/'other', causal)
    refused(lambda: text_pretrained(gone, base=other), 'could not be joined')
    wide = written(tmp_path/'wide', bert, hidden_size=32, num_attention_heads=2)
    refused(lambda: text_pretrained(gone, base=wide), 'could not be joined')
    deep = written(tmp_path/'deep', bert, num_hidden_layers=3)
    adapter(deep, tmp_path/'of_deep', 'AutoModel', 'FEATURE_EXTRACTION', ['query'], folder)
    refused(lambda: text_pretrained(tmp_path/'of_deep'), 'has no place in the network that it names')
    half = shutil.copytree(gone, tmp_path/'half')
    (half/'adapter_model.safetensors').unlink()
    refused(lambda: text_pretrained(half), 'an adapter with no adapter_model.safetensors')
    torch.save(load_file(gone/'adapter_model.safetensors'), half/'adapter_model.bin')
    refused(lambda: text_pretrained(half, base=folder), 'only a pickle', 'convert_weights(')
    assert text_pretrained(half, base=folder, convert=True).body()
    soft = tmp_path/'soft'
    peft.get_peft_model(tf.AutoModel.from_pretrained(folder), peft.PromptTuningConfig(task_type='FEATURE_EXTRACTION', num_virtual_tokens=2)).save_pretrained(soft)
    refused(lambda: text_pretrained(soft), 'PROMPT_TUNING', "can't be joined")

def test_an_adapter_imports_nothing(folder, tmp_path, monkeypatch):
    adapter(folder, tmp_path/'lora', 'AutoModel', 'FEATURE_EXTRACTION', ['query'], megatron_config=dict(a=1), megatron_core='imported_by_it',
            auto_mapping=dict(parent_library='imported_by_it', base_model_class='BertModel'))
    (tmp_path/'imported_by_it.py').write_text(f'import pathlib\npathlib.Path({str(tmp_path/"ran")!r}).touch()')
    monkeypatch.syspath_prepend(tmp_path)
    assert text_pretrained(tmp_path/'lora').body() and not (tmp_path/'ran').exists()

def test_a_checkpoint_of_an_adapter(folder, tmp_path):
    for step in (3, 5): whole = adapter(folder, tmp_path/'out'/f'checkpoint-{step}', 'AutoModelForSequenceClassification', 'SEQ_CLS', ['query'])
    p = text_pretrained(tmp_path/'out')
    assert p.name == 'out/checkpoint-5' and 'checkpoint-5 is taken, the last' in p.notes[0] and 'joined with bert' in p.notes[1] and same_body(p, whole)
