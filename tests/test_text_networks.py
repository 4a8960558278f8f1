"Networks of texts as people have them: in 16 bits, with heads of their own, from sentence-transformers, beside adapters; and what others make of ours."
import json, shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from conftest import edited
from safetensors.torch import load_file, save_file
from tl_nbdev.text.encoders import configured, from_config, load_transformer, masked_language_model, text_pretrained
from tl_nbdev.networks.heads import go_on, make_head, matched, class_tensors, TrainedHead
from tl_nbdev.base.keep import load_folder, save_folder
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.adaptation.pretraining import blocks_of, continue_pretraining, masked
from tl_nbdev.data.answers import Regression
from tl_nbdev.training.saved import check_saved, load_transfer
from tl_nbdev.training.saving import saved_head
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text import packing
from tl_nbdev.text.texts import TextTask
from tl_nbdev.text.tokens import Tokens, collate
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

words = 'oven flour sauce garlic goal match team coach court judge clause appeal the a of and with number'.split()
topics = dict(cooking=words[:4], law=words[8:12], sport=words[4:8])
tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()

def texts(n=36, seed=0, names=('cooking', 'law', 'sport')):
    "A table of texts, told apart by their words"
    rng = np.random.default_rng(seed)
    rows = [(f'number {i} the {" and ".join(rng.choice(topics[list(topics)[i % len(names)]], 5))}', names[i % len(names)]) for i in range(n)]
    return pd.DataFrame(rows, columns=['text', 'label'])

def wordpieces():
    "A tokenizer as BERT's, trained on the spot"
    tok = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    tok.train_from_iterator([' '.join(words)]*9 + list('abcdefghijklmnopqrstuvwxyz<>') + [f'{i:03} n{i}' for i in range(999)], trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]',
                                      model_input_names=['input_ids', 'token_type_ids', 'attention_mask'])

def bytepairs():
    "A tokenizer as GPT-2's, which knows all bytes and has no token for padding"
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator([' '.join(words)]*9, trainers.BpeTrainer(vocab_size=300, special_tokens=['<end>'], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, eos_token='<end>', bos_token='<end>')

sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
configs = dict(bert=lambda: tf.BertConfig(vocab_size=320, **sizes),
    llama=lambda: tf.LlamaConfig(vocab_size=300, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, **sizes),
    gpt2=lambda: tf.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0))

@pytest.fixture(scope='session')
def tokenizers():
    return dict(bert=wordpieces(), llama=bytepairs(), gpt2=bytepairs())

@pytest.fixture(scope='session')
def make(tokenizers, tmp_path_factory):
    "`make('bert', AutoModelForSequenceClassification, num_labels=3)`: a folder as save_pretrained writes it"
    root = tmp_path_factory.mktemp('networks')
    def made(family, cls=tf.AutoModel, to=None, dtype=torch.float32, **changes):
        to = to or root/f'{family}{len(list(root.iterdir()))}'
        config = configs[family]()
        for k, v in changes.items(): setattr(config, k, v)
        torch.manual_seed(0)
        net = cls.from_config(config)
        with torch.no_grad():
            for p in net.parameters(): p.add_(.05*torch.randn_like(p))
        net.to(dtype).save_pretrained(to)
        tokenizers[family].save_pretrained(to)
        return to
    return made

@pytest.fixture(scope='session')
def task(): return TextTask.from_df(texts(), name='topics')

def learner(task, folder, head='linear', **kwargs): return transfer_learner(task, folder, head, size=32, bs=8, seed=0, **kwargs)

def shaken(learn):
    "As if it were trained: every weight is another, in all of its 32 bits"
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(.01*torch.randn_like(p))
    return learn

def probabilities(predictor, task): return np.stack(list(predictor.probs(task.part('test').item.to_list()).values()))

def outcome(f):
    "What `transformers` makes of it: an error's first words, or `None`"
    try: f()
    except (OSError, ValueError) as e: return str(e)


# in 32 bits

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('family', configs)
def test_weights_are_kept_bit_by_bit(make, task, tmp_path, family, dtype):
    learn = shaken(learner(task, make(family, dtype=dtype)))
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    folder = learn.save_transfer(tmp_path/'saved', check=False)
    check_saved(folder)
    there, again = load_transfer(folder), learner(task, folder)
    for k, v in learn.model.body.state_dict().items():
        assert torch.equal(v, there.frozen.net.state_dict()[k]) and torch.equal(v, again.model.body.state_dict()[k]), k
    assert json.loads((folder/'transformer'/'config.json').read_text())['dtype'] == 'float32'

@pytest.mark.parametrize('how', ['lora:4', 'contrastive'])
def test_a_decoder_of_16_bits_is_trained_and_kept(make, task, tmp_path, how):
    learn = learner(task, make('llama', dtype=torch.float16))
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, 1)
    folder = learn.save_transfer(tmp_path/'saved', check=False)
    check_saved(folder)
    assert all(torch.equal(v, load_folder(folder)[0][k]) for k, v in learn.model.state_dict().items())

@pytest.mark.parametrize('family', configs)
def test_every_way_to_a_network_is_in_32_bits(make, task, tmp_path, family):
    cls = tf.AutoModelForMaskedLM if family == 'bert' else tf.AutoModelForCausalLM
    folder = make(family, cls, dtype=torch.bfloat16)
    p = text_pretrained(folder)
    made = [p.body(), p.body(weights=False), text_pretrained(folder, source='random').body(), load_transformer(p, cls.__name__), learner(task, folder, 'own').model]
    if family == 'bert': made.append(masked_language_model(p)[0])
    assert {o.dtype for net in made for o in net.parameters()} == {torch.float32}
    done = continue_pretraining(texts(60).text, folder, tmp_path/'out', steps=4, rounds=2, block=16)
    assert {o.dtype for o in load_file(tmp_path/'out'/'model.safetensors').values()} == {torch.float32}
    assert {o.dtype for o in done.pretrained.body().parameters()} == {torch.float32}

def test_the_parts_of_a_configuration_too(tmp_path):
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = tf.CLIPConfig(text_config=dict(vocab_size=50, dtype='bfloat16', **small), vision_config=dict(image_size=8, patch_size=4, dtype='float16', **small), dtype='bfloat16')
    config.save_pretrained(tmp_path)
    p = SimpleNamespace(**{**text_pretrained('bert-tiny').__dict__, 'where': tmp_path, 'source': 'folder'})
    config = configured(p)
    assert {config.dtype, config.text_config.dtype, config.vision_config.dtype} == {torch.float32}
    assert {o.dtype for o in from_config(p, config=config).parameters()} == {torch.float32}


# heads

def classifier(make, names, family='bert', **changes):
    "A folder that was trained to tell `names` apart, as far as anybody can see"
    return make(family, tf.AutoModelForSequenceClassification, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, **changes)

def logits(folder, items, dtype=torch.float32):
    "What the class of transformers says"
    net, tok = tf.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval(), tf.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad(): return torch.cat([net(**tok(o, return_tensors='pt')).logits for o in items]).numpy()

def ours(learn, items):
    net = learn.model.eval()
    with torch.no_grad(): return net(collate(learn.frozen_now.tokens(items))).numpy()

@pytest.mark.parametrize('family', configs)
@pytest.mark.parametrize('names', [('sport', 'cooking', 'law'), ('Law', 'SPORT', 'Cooking')])
def test_rows_of_a_head_are_found_by_name(make, task, family, names, capsys):
    folder = classifier(make, names, family)
    learn, items = learner(task, folder, 'own'), task.part('test').item.to_list()
    low = [o.lower() for o in names]
    assert np.allclose(ours(learn, items), logits(folder, items)[:, [low.index(c) for c in task.vocab]], atol=1e-4)
    assert ('upper and lower case aside' in capsys.readouterr().out) == (names[0] == 'Law')

def test_rows_without_names_go_by_number_or_not_at_all(make, task, capsys):
    numbers = TextTask.from_df(texts(names=('2', '0', '1')), name='numbers')
    folder, items = make('bert', tf.AutoModelForSequenceClassification, num_labels=3), task.part('test').item.to_list()
    assert np.allclose(ours(learner(numbers, folder, 'own'), items), logits(folder, items), atol=1e-4)
    assert 'LABEL_0 is class 0' in capsys.readouterr().out
    for other in (task, TextTask.from_df(texts(names=('3', '1', '2')), name='from one')): # which row is which is not known
        head = learner(other, folder, 'own').model.head.state_dict()
        assert not head['net.classifier.bias'].any()
        assert 'have no names (LABEL_0, LABEL_1, LABEL_2), so it gets a new head' in capsys.readouterr().out

def test_a_head_that_knows_some_of_the_classes(make, task, capsys):
    folder, items = classifier(make, ('poetry', 'sport', 'law', 'music')), task.part('test').item.to_list()
    got, theirs = ours(learner(task, folder, 'own'), items), logits(folder, items)
    assert np.allclose(got[:, 1], theirs[:, 2], atol=1e-4) and np.allclose(got[:, 2], theirs[:, 1], atol=1e-4)
    said = capsys.readouterr().out
    assert 'tell 4 classes apart, the task has 3: its head goes on with law, sport; cooking anew; poetry, music left out' in said
    learner(task, classifier(make, ('x', 'y', 'z')), 'own')
    assert 'none of its own (x, y, z) is one of these (cooking, law, sport), so it gets a new head' in capsys.readouterr().out
    learner(task, folder)
    assert 'head="own" goes on with its own' in capsys.readouterr().out

def test_several_labels_and_numbers(make, capsys):
    rows = texts()
    several = TextTask.from_df(rows.assign(label=[[l, 'short'] if i % 2 else [l] for i, l in enumerate(rows.label)]), name='several')
    names, items = ('sport', 'short', 'law', 'cooking'), rows.text[:4].to_list()
    folder = classifier(make, names, problem_type='multi_label_classification')
    assert np.allclose(ours(learner(several, folder, 'own'), items), logits(folder, items)[:, [names.index(c) for c in several.vocab]], atol=1e-4)
    learner(TextTask.from_df(rows.assign(label=[names[i % 4] for i in range(36)])), folder, 'own')
    assert 'another kind of label (multi-label, here single-label)' in capsys.readouterr().out
    stars = TextTask.from_df(rows.assign(label=[10. + i % 5 for i in range(36)]), name='stars', regression=True)
    folder = make('bert', tf.AutoModelForSequenceClassification, num_labels=1, problem_type='regression')
    mean, std = stars.answer.mean, stars.answer.std
    assert np.allclose(ours(learner(stars, folder, 'own'), items)*std + mean, logits(folder, items), atol=1e-3)

def test_names_of_rows():
    assert matched(['US', 'us', 'De'], ['us', 'US', 'de']) == {'us': 1, 'US': 0, 'de': 2}
    assert matched(['A', 'a'], ['Á', 'α']) == matched(['no', 'NO'], ['No']) == matched(['LABEL_0', 'LABEL_1'], ['1', '2']) == {}
    assert matched(['cafe\u0301'], ['caf\u00e9']) == {'caf\u00e9': 0}
    assert matched(['0', '1'], ['1', '0']) == {'1': 1, '0': 0} and matched(['LABEL_1', 'LABEL_0'], ['LABEL_0']) == {'LABEL_0': 1}

@pytest.mark.parametrize('head', ['linear', 'textbook', 'own'])
def test_a_saved_head_goes_on(make, task, tmp_path, head, capsys):
    learn = shaken(learner(task, make('bert'), head))
    result = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'saved', result, check=False)
    again = learner(task, folder, 'own')
    assert again.head_kind == head and np.allclose(again.evaluate().probs, result.probs, atol=1e-5)
    check_saved(again.save_transfer(tmp_path/'again', check=False))
    capsys.readouterr()
    swapped = TextTask.from_df(texts(names=('cooking', 'law', 'art')), name='other')
    rows = ours(learner(swapped, folder, 'own'), result.items)
    assert 'its head goes on with cooking, law; art anew; sport left out' in capsys.readouterr().out
    assert np.allclose(rows[:, 1:], ours(learn, result.items)[:, :2], atol=1e-5) # art, cooking, law
    learner(task, folder)
    assert 'has a head for cooking, law, sport already, which is left behind for a new one: head="own" goes on with it' in capsys.readouterr().out
    assert saved_head(folder).names == ['cooking', 'law', 'sport']

def test_a_saved_head_of_images_goes_on(tmp_path):
    from conftest import photos
    from tl_nbdev.vision.images import ImageTask
    images = ImageTask.from_folder(photos(tmp_path/'photos', 6))
    learn = shaken(transfer_learner(images, 'resnet10t', source='random', size=32, seed=0))
    result = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'saved', result, check=False)
    again = transfer_learner(images, folder, 'own', seed=1)
    assert again.head_kind == 'linear' and np.allclose(again.evaluate().probs, result.probs, atol=1e-5)

def test_a_number_that_is_learned_on_another_scale():
    head, new, x = make_head('linear', 8, 1).eval(), make_head('linear', 8, 1).eval(), torch.randn(5, 8)
    torch.nn.init.normal_(head[1].weight)
    had = TrainedHead('it', 'linear', head.state_dict(), [], Regression(3., 5.))
    assert go_on(new, had, class_tensors(lambda n: make_head('linear', 8, n)), SimpleNamespace(vocab=[], answer=Regression(10., 2.))) == ''
    assert torch.allclose(new(x)*2 + 10, head(x)*5 + 3, atol=1e-4)


# sentence-transformers

def sentence_transformer(make, to, inside='', pooling=None, length=None, prompts=None, default=None, dense=False, normalize=False, family='bert', **more):
    "A folder as sentence-transformers writes it"
    to.mkdir()
    net = make(family, to=to/inside)
    modules = [('Transformer', inside)] + ([('Pooling', '1_Pooling')] if pooling is not None else []) + ([('Dense', '2_Dense')] if dense else []) + ([('Normalize', '3_Normalize')] if normalize else [])
    write = lambda file, said: (file.parent.mkdir(exist_ok=True), file.write_text(json.dumps(said)))
    write(to/'modules.json', [dict(idx=i, name=str(i), path=path, type=f'sentence_transformers.models.{kind}') for i, (kind, path) in enumerate(modules)])
    if pooling is not None: write(to/'1_Pooling'/'config.json', dict(word_embedding_dimension=32, **pooling))
    if length: write(net/'sentence_bert_config.json', dict(max_seq_length=length, **more))
    if prompts: write(to/'config_sentence_transformers.json', dict(prompts=prompts, default_prompt_name=default))
    if dense:
        write(to/'2_Dense'/'config.json', dict(in_features=32, out_features=8, bias=True, activation_function='torch.nn.modules.activation.Tanh'))
        save_file({'linear.weight': torch.randn(8, 32), 'linear.bias': torch.randn(8)}, to/'2_Dense'/'model.safetensors')
    return to

@pytest.mark.parametrize('inside', ['', '0_Transformer'])
@pytest.mark.parametrize('said, pooling', [(dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False), 'cls'), (dict(pooling_mode_lasttoken=True), 'last'),
    (dict(pooling_mode='cls'), 'cls'), (dict(pooling_mode=['cls', 'max']), 'cls+max'), (dict(pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True), 'max+mean'), ({}, 'mean')])
def test_pooling_as_the_folder_says(make, tmp_path, inside, said, pooling):
    folder = sentence_transformer(make, tmp_path/'st', inside, said, length=20)
    p = text_pretrained(folder)
    assert (p.pooling, p.size) == (pooling, 20) and f'pooling {pooling}, 20 tokens' in p.notes[0]
    mine = text_pretrained(folder, pooling='mean', size=50) # what a user says comes first
    assert (mine.pooling, mine.size, mine.notes) == ('mean', 50, ())
    x = torch.tensor([[2, 30, 31, 3, -1], [2, 30, 31, 32, 3]])
    with torch.no_grad():
        got, h = p.body()(x), tf.AutoModel.from_pretrained(folder/inside)(input_ids=x[1:]).last_hidden_state[0]
    each = dict(cls=h[0], last=h[-1], max=h.amax(0), mean=h.mean(0))
    assert torch.allclose(got[1], torch.cat([each[o] for o in pooling.split('+')]), atol=1e-5)

def test_what_follows_the_pooling_and_what_precedes_a_text(make, task, tmp_path, capsys):
    folder = sentence_transformer(make, tmp_path/'st', '0_Transformer', dict(pooling_mode='mean'), 32, dict(query='judge: ', document=''), 'query', True, True, do_lower_case=True)
    learn = learner(task, folder)
    said = capsys.readouterr().out
    assert '"judge: " before each text' in said and 'vectors of length 1' in said and 'a dense layer' in said and 'texts in lower case' in said
    tokens, plain = learn.frozen_now.tokens, tf.AutoTokenizer.from_pretrained(folder/'0_Transformer')
    assert tokens(['The OVEN'])[0][0].tolist() == plain('judge: the oven')['input_ids']
    layer = load_file(folder/'2_Dense'/'model.safetensors')
    with torch.no_grad():
        h = tf.AutoModel.from_pretrained(folder/'0_Transformer')(**plain('judge: the oven', return_tensors='pt')).last_hidden_state[0].mean(0)
        want = torch.nn.functional.normalize((layer['linear.weight']@h + layer['linear.bias']).tanh(), dim=0)
        assert torch.allclose(learn.model.body.eval()(collate(tokens(['The OVEN'])))[0], want, atol=1e-5)
    shaken(learn)
    result = learn.evaluate()
    saved = learn.save_transfer(tmp_path/'saved', result, check=False)
    assert np.allclose(probabilities(load_transfer(saved), task), result.probs, atol=1e-5)
    assert np.allclose(learner(task, saved, 'own').evaluate().probs, result.probs, atol=1e-5)
    own = learner(task, folder, 'own').pretrained # the class has nothing of this behind its network
    assert (own.pooling, own.normalize, own.dense, own.prompt) == ('cls', False, (), 'judge: ')

def test_what_can_t_be_had_of_a_folder_is_said(make, tmp_path):
    st = lambda name, *args, **kwargs: sentence_transformer(make, tmp_path/name, *args, **kwargs)
    assert 'its pooling is router, which is not available: mean' in text_pretrained(st('a', '', dict(pooling_mode='router'))).notes[-1]
    assert 'up to 5000 tokens of a text, here 512' in text_pretrained(st('b', '', {}, 5000)).notes[-1]
    assert 'prompts (query) but puts none' in text_pretrained(st('c', '', {}, 16, dict(query='q: '))).notes[-1]
    folder = st('d', '', {}, 16, dense=True)
    (folder/'2_Dense'/'model.safetensors').rename(folder/'2_Dense'/'pytorch_model.bin')
    p = text_pretrained(folder)
    assert p.dense == () and 'never opened' in p.notes[-1]
    excluded = text_pretrained(st('e', '', dict(pooling_mode='mean', include_prompt=False), 16, dict(q='q: '), 'q'))
    assert excluded.prompt == 'q: ' and excluded.apart and 'a prompt left out of the pooling' in excluded.notes[0]
    for said, words in (([dict(type='sentence_transformers.models.StaticEmbedding', path='')], 'a StaticEmbedding'), ([dict(idx=0)], "can't be understood"), ('[', 'not JSON')):
        folder = st(f'f{len(words)}')
        (folder/'modules.json').write_text(said if isinstance(said, str) else json.dumps(said))
        with pytest.raises(TransferError, match=words): text_pretrained(folder)


# in the eyes of others

@pytest.mark.parametrize('family', configs)
def test_transformers_answers_as_we_do(make, task, tmp_path, family):
    learn = shaken(learner(task, make(family, dtype=torch.bfloat16), 'own'))
    result = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'saved', result, check=False)
    check_saved(folder)
    pipe = tf.pipeline('text-classification', model=str(folder), top_k=None)
    for batch in (1, 4):
        got = [{o['label']: o['score'] for o in row} for row in pipe(result.items, batch_size=batch)]
        assert np.allclose([[row[c] for c in task.vocab] for row in got], result.probs, atol=1e-4)
    assert np.allclose(probabilities(load_transfer(folder), task), result.probs, atol=1e-5)
    for k, v in learn.model.state_dict().items(): assert torch.equal(v, load_folder(folder)[0][k]), k

def test_transformers_answers_as_we_do_with_several_labels_and_pairs(make, tmp_path):
    rows = texts()
    several = TextTask.from_df(rows.assign(label=[[l, 'short'] if i % 2 else [l] for i, l in enumerate(rows.label)], more='a goal'), second='more', name='several')
    learn = shaken(learner(several, make('bert'), 'own'))
    result = learn.evaluate()
    pipe = tf.pipeline('text-classification', model=str(learn.save_transfer(tmp_path/'saved', result, check=False)), top_k=None)
    pairs = several.part('test').item
    got = [{o['label']: o['score'] for o in pipe(dict(text=a, text_pair=b))} for a, b in pairs]
    assert np.allclose([[row[c] for c in several.vocab] for row in got], result.probs, atol=1e-4)

@pytest.mark.parametrize('kwargs', [dict(head='linear'), dict(head='textbook', pooling='max'), dict(head='own', long='windows')])
def test_transformers_refuses_what_it_can_t_express(make, task, tmp_path, kwargs):
    folder = learner(task, make('bert'), **kwargs).save_transfer(tmp_path/'my-bert', check=False)
    for cls in ('AutoConfig', 'AutoModel', 'AutoModelForSequenceClassification', 'BertModel', 'BertForSequenceClassification'):
        for place in (folder, folder/'transformer')[:1 if cls == 'AutoConfig' else 2]: assert outcome(lambda: getattr(tf, cls).from_pretrained(place)), (cls, place)
    assert 'config.json' in outcome(lambda: tf.pipeline('text-classification', model=str(folder)))
    check_saved(folder)

def test_folders_of_before_are_read(make, task, tmp_path):
    learn = shaken(learner(task, make('bert', dtype=torch.bfloat16)))
    result = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'saved', result, check=False)
    later = ('sha256', 'weights', 'seal', 'modality', 'answer')
    info = {k: v for k, v in json.loads((folder/'transfer.json').read_text()).items() if k not in later}
    info |= dict(multi=False, scale=None, pairs=False)
    for k in ('subfolder', 'prompt', 'lower', 'normalize', 'dense', 'notes'): del info['pretrained'][k] # as they were not known then
    beside = {o.name: o.read_text() for o in (folder/'transformer').iterdir()}
    old = save_folder(tmp_path/'old', load_folder(folder)[0], {**info, 'format': 1}, beside)
    assert (old/'config.json').is_file() and (old/'model.safetensors').is_file()
    check_saved(old)
    assert np.allclose(probabilities(load_transfer(old), task), result.probs, atol=1e-5)
    assert np.allclose(learner(task, old, 'own').evaluate().probs, result.probs, atol=1e-5)
    edited(old, lambda o: o | dict(format=4))
    with pytest.raises(TransferError, match='format 4.*this version reads formats 1 to 3'): load_transfer(old)

def test_pretraining_goes_on_around_a_saved_network(make, task, tmp_path):
    learn = shaken(learner(task, make('bert')))
    folder = learn.save_transfer(tmp_path/'saved', check=False)
    with pytest.raises(TransferError, match='no masked-language head'): continue_pretraining(texts().text, folder, tmp_path/'out', steps=2)
    net = load_transformer(text_pretrained(folder), 'AutoModelForMaskedLM')
    assert all(torch.equal(v, learn.model.body.net.state_dict()[k]) for k, v in net.base_model.state_dict().items())
    decoder = shaken(learner(task, make('llama'))).save_transfer(tmp_path/'decoder', check=False)
    with pytest.raises(TransferError, match='no head that predicts words'): continue_pretraining(texts().text, decoder, tmp_path/'out', steps=2)


# tokens

def test_tokens_without_an_embedding(make, tokenizers, task, tmp_path):
    folder = make('bert', tf.AutoModelForMaskedLM)
    tok = tf.AutoTokenizer.from_pretrained(folder)
    tok.add_tokens([f'<t{i}>' for i in range(500)])
    tok.save_pretrained(folder)
    learner(task, folder) # no text holds one
    odd = TextTask.from_df(texts().assign(text=lambda d: '<t400> ' + d.text), name='odd')
    with pytest.raises(TransferError, match=rf'knows {len(tok)} tokens, its network 320: "<t400>" has no embedding'): learner(odd, folder)
    done = continue_pretraining(texts(60).text, folder, tmp_path/'out', steps=8, rounds=2, block=16) # draws tokens by chance
    assert done.after > 0
    with pytest.raises(TransferError, match='"<t400>" has no embedding'): continue_pretraining(odd.df.item, folder, tmp_path/'out2', steps=8, block=16)
    ids, of = blocks_of(texts(60).text, tok, 16)
    drawn = np.concatenate([masked(a, b, np.random.default_rng(i), tok, .9, embedded=320)[0] for i, (a, b) in enumerate(zip(ids, of))])
    assert drawn.max() < 320

def test_padding_and_masks_without_an_embedding(make, task, tmp_path):
    folder = make('llama')
    tok = tf.AutoTokenizer.from_pretrained(folder)
    tok.add_special_tokens(dict(pad_token='[PAD]'))
    tok.save_pretrained(folder)
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps({**config, 'pad_token_id': tok.pad_token_id}))
    assert tok.pad_token_id >= config['vocab_size']
    for head in ('linear', 'own'):
        learn = shaken(learner(task, folder, head))
        check_saved(learn.save_transfer(tmp_path/head, check=False))
    assert Tokens(text_pretrained(folder))([' '])[0][0].max() < config['vocab_size']
    masks = make('bert', tf.AutoModelForMaskedLM)
    tok = tf.AutoTokenizer.from_pretrained(masks)
    tok.add_tokens([f'<t{i}>' for i in range(500)])
    tok.add_special_tokens(dict(mask_token='<hidden>'))
    tok.save_pretrained(masks)
    with pytest.raises(TransferError, match='"<hidden>" has no embedding'): continue_pretraining(texts(60).text, masks, tmp_path/'out', steps=2)

@pytest.mark.parametrize('side', ['left', 'right'])
def test_the_end_or_the_beginning_of_a_text(make, tmp_path, side):
    folder = make('bert')
    tok = tf.AutoTokenizer.from_pretrained(folder, truncation_side=side, padding_side=side)
    tok.save_pretrained(folder)
    p, long = text_pretrained(folder, size=12), ' '.join(f'n{i}' for i in range(900))
    want = lambda *o: tok(*o, truncation=True, max_length=12)['input_ids']
    tokens = Tokens(p)
    for item in (long, 'short', long + ' '*4000, ' '*4000 + long, 'x'*3000): assert tokens([item])[0][0].tolist() == want(item), item[:9]
    assert tokens([(long, 'the end')])[0][0].tolist() == want(long, 'the end')
    both = Tokens(text_pretrained(folder, size=24, long='windows'))
    (windows,), (pair,) = both([long]), both([('court judge '*9, long)])
    inside = lambda o: set(np.concatenate(o).tolist())
    assert inside(windows) >= set(tok(long)['input_ids']) and inside(pair) >= set(tok(long)['input_ids'])
    x = collate(tokens(['the court', 'the court and the judge']))
    assert x[0, -1] == -1 and x[0, 0] == 2 # padding is ours, and follows

# adapters

@pytest.fixture(scope='session')
def adapter(make, tmp_path_factory):
    "A network of three classes, and an adapter of it that changes much"
    import peft
    base, to = make('bert', tf.AutoModelForSequenceClassification, num_labels=3), tmp_path_factory.mktemp('adapter')/'adapter'
    net = peft.get_peft_model(tf.AutoModelForSequenceClassification.from_pretrained(base), peft.LoraConfig(task_type='SEQ_CLS', r=2, target_modules=['query']))
    with torch.no_grad():
        for k, v in net.named_parameters():
            if 'lora' in k: v.normal_()
    net.save_pretrained(to)
    return base, to

@pytest.mark.parametrize('files', [(), ('tokenizer.json', 'tokenizer_config.json'), ('config.json', 'tokenizer.json')])
def test_an_adapter_is_joined_with_its_network(adapter, task, tmp_path, files):
    base, folder = adapter
    to = shutil.copytree(folder, tmp_path/'adapter')
    for name in files: shutil.copy(base/name, to)
    learn = learner(task, to)
    assert learn.pretrained.notes[0] == f'adapter: an adapter, joined with {base.name}'
    import peft
    whole = peft.PeftModel.from_pretrained(tf.AutoModelForSequenceClassification.from_pretrained(base), folder).merge_and_unload().base_model
    plain = tf.AutoModel.from_pretrained(base)
    got, want, was = (net.state_dict() for net in (learn.model.body.net, whole, plain))
    changed = [k for k in got if 'query.weight' in k]
    assert len(changed) == 2 and all(torch.allclose(got[k], want[k], atol=1e-5) for k in got)
    assert not any(torch.allclose(got[k], was[k], atol=1e-3) for k in changed)

def test_a_network_beside_its_adapter_is_loaded_without_it(adapter, task, tmp_path, capsys):
    base, folder = adapter
    both = shutil.copytree(base, tmp_path/'both')
    for name in ('adapter_config.json', 'adapter_model.safetensors'): shutil.copy(folder/name, both)
    for head in ('linear', 'own'):
        learn = learner(TextTask.from_df(texts(), name=head), both, head)
        assert 'an adapter lies beside its network, which is loaded without it' in capsys.readouterr().out
        assert not any('lora' in k for k in learn.model.state_dict())
        plain = learner(task, base).model.body.state_dict()
        assert all(torch.equal(v, plain[k]) for k, v in learn.model.body.state_dict().items())
        check_saved(learn.save_transfer(tmp_path/head, check=False))

def test_quantised_weights_are_refused(make):
    folder = make('bert')
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps({**config, 'quantization_config': dict(quant_method='gptq', bits=4)}))
    with pytest.raises(TransferError, match='quantised'): text_pretrained(folder).body()


# looking at texts

def found(task, *model): return {o['found']: o for o in task.audit(*model)}

def test_what_a_tokenizer_does_not_know(make):
    folder, rows = make('bert'), texts(80)
    told = TextTask.from_df(rows.assign(text=[f'{t} {"ξ" if i % 2 else "ж"}' for i, t in enumerate(rows.text)], label=['good' if i % 2 else 'bad' for i in range(80)]), name='told')
    (said,) = [o for k, o in found(told, folder).items() if 'is unknown to the tokenizer of' in k or 'with what is unknown' in k]
    assert 'tells classes apart' in said['found'] and '100 % of the texts' in said['found'] and 'ξ (40, most in good)' in said['examples'] and said['count'] == 80
    chance = TextTask.from_df(rows.assign(text=[f'{t} {"ξ" if i % 5 else ""}' for i, t in enumerate(rows.text)]), name='chance')
    (said,) = [k for k in found(chance, folder) if 'unknown to the tokenizer' in k]
    assert 'tells' not in said and '80 % of the texts' in said
    assert not any('unknown' in k for k in found(TextTask.from_df(rows, name='plain'), folder))
    assert not any('unknown' in k for k in found(told, make('gpt2'))) # it knows all bytes
    same = TextTask.from_df(pd.DataFrame([dict(text=f'goal {i//2} {"ξ" if i % 2 else "ж"}', label=str(i % 2)) for i in range(60)]), name='same')
    assert any('under two labels that differ, but not to the tokenizer' in k for k in found(same, folder))
    pairs = TextTask.from_df(rows.assign(more=['ξ' if i % 2 else 'ж' for i in range(80)], label=[str(i % 2) for i in range(80)]), second='more', name='pairs')
    assert any('tells classes apart' in k for k in found(pairs, folder))

def test_an_audit_fetches_nothing(task, monkeypatch, tmp_path):
    def fetch(*args, **kwargs): raise AssertionError('fetched')
    monkeypatch.setattr('tl_nbdev.base.samples.fetch_wheel', fetch)
    monkeypatch.setenv('TL_CACHE', str(tmp_path))
    said = found(TextTask.from_df(texts().assign(text=lambda d: [t + ' goal'*300 if i == 3 else t for i, t in enumerate(d.text)]), name='long'))
    assert any(o.startswith('texts of more than 200 words') and v['count'] == 1 for o, v in said.items())
    (line,) = [o for o in said if o.startswith('lengths are in words')]
    assert 'all-MiniLM-L6-v2 is not here' in line and 'nothing to worry about' not in said

def test_a_book_is_measured_by_its_first_pages(make):
    rows = texts(60)
    rows.loc[3, 'text'] = 'the coach and the judge, '*60_000
    p, sizes = make('bert'), []
    from tl_nbdev.text import texts as room
    was = room.Tokens.__init__
    task = TextTask.from_df(rows, name='book')
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(tf.PreTrainedTokenizerFast, '__call__', lambda self, *args, _call=tf.PreTrainedTokenizerFast.__call__, **kwargs: (sizes.append(sum(len(t) for o in args for t in ([o] if isinstance(o, str) else o))), _call(self, *args, **kwargs))[1])
        (said,) = [k for k in found(task, p) if k.startswith('texts of more than')]
    assert sizes and sum(sizes) < 10**5
    longest = int(said.partition('longest ')[2].partition(', and')[0].replace(',', ''))
    assert abs(longest/len(tf.AutoTokenizer.from_pretrained(p)(rows.text[3])['input_ids']) - 1) < .05


# names

@pytest.mark.parametrize('name', ['meta-llama/Llama-3.2-1B', 'mistralai/Mistral-7B-v0.3', 'Qwen/Qwen2.5-0.5B', 'Qwen2.5-0.5B', 'org/model.v1.5', 'bert-base-uncased'])
def test_names_may_have_dots(name, monkeypatch):
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    assert text_pretrained(name).source == 'hub'
    with pytest.raises(TransferError, match='no folder of this name, and its .* could not be fetched from the model hub'): text_pretrained(name).body()

@pytest.mark.parametrize('name', ['./model', '/no/such', '~/no-such-model', 'C:/models/bert', r'models\bert', 'a/b/c', 'model.safetensors', 'nets/adapter.bin', ' ', '', 3, ['x']])
def test_what_is_neither_folder_nor_name(name):
    with pytest.raises(TransferError, match='no folder .*no name of a model on a hub|is no model'): text_pretrained(name)

def test_a_folder_is_a_folder_whatever_it_is_called(make, tmp_path, monkeypatch):
    folder = make('bert', to=tmp_path/'Qwen2.5-0.5B')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('Qwen2.5-0.5B', './Qwen2.5-0.5B', 'Qwen2.5-0.5B/', '~/Qwen2.5-0.5B', folder): assert text_pretrained(name).source == 'folder'
    with pytest.raises(TransferError, match='is a file: name the folder'): text_pretrained(folder/'model.safetensors')

def test_no_folder_turns_on_its_own_code(make, tmp_path):
    folder = make('bert')
    (folder/'code.py').write_text(f'import pathlib; pathlib.Path({str(tmp_path/"ran")!r}).touch()\nfrom transformers import BertConfig as C, BertModel as M')
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps({**config, 'model_type': 'mine', 'trust_remote_code': True, 'auto_map': dict(AutoConfig='code.C', AutoModel='code.M')}))
    (folder/'modules.json').write_text(json.dumps([dict(type='code.Transformer', path='', kwargs=['trust_remote_code'])]))
    (folder/'sentence_bert_config.json').write_text(json.dumps(dict(max_seq_length=20, trust_remote_code=True, model_args=dict(trust_remote_code=True))))
    p = text_pretrained(folder)
    assert p.trust_remote_code is False
    with pytest.raises(TransferError, match=r'needs code of its own, which was not run \(code.C, code.M\)'): p.body()
    assert not (tmp_path/'ran').exists()


# attention of packed texts, written out

lengths = [1, 33, 64, 50, 300] # beside each other in memory by rows, or by columns

def by_texts(*states):
    texts = zip(*(each.split(lengths, 1) for each in states))
    return torch.cat([packing._attended(*text, None, 0., .25) for text in texts], 1)

def at_once(*states):
    packing._ends.lengths = lengths
    return packing._both_ways(*states, 0., .25)

def attention(attend, dtype, spread=1.):
    "What attention gives, and its gradients"
    torch.manual_seed(0)
    states = [torch.randn(2, sum(lengths), 16)*each for each in (spread, spread, 1.)]
    states = [each.bfloat16().to(dtype).requires_grad_() for each in states]
    out = attend(*states)
    return out, *torch.autograd.grad(out.double().pow(2).sum(), states)

def apart(found, exact): return [((a - b).norm()/b.norm()).item() for a, b in zip(found, exact)]

@pytest.mark.parametrize('spread', [1., 3., 30.]) # the last ones are beyond what sums of exponentials hold
def test_half_precision_at_once_is_as_near_as_text_by_text(spread):
    exact = attention(by_texts, torch.double, spread)
    plain, ours = (apart(attention(attend, torch.bfloat16, spread), exact) for attend in (by_texts, at_once))
    assert all(one < 1.4*other for one, other in zip(ours, plain))

def test_single_precision_attends_as_double_does():
    assert max(apart(attention(at_once, torch.float32), attention(by_texts, torch.double))) < 1e-6

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.double])
@pytest.mark.parametrize('n', [40, 64])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(dtype, n):
    packing._ends.lengths = [n]
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, n, 8).to(dtype)
    value = torch.eye(n, dtype=dtype).expand(4, n, n).clone().requires_grad_()
    shares = packing._both_ways(query, key, value, .3, .3) # since values are those of the unit matrix
    of_value, = torch.autograd.grad(shares, value, value.detach())
    assert torch.equal(of_value == 0, shares.mT == 0)
    assert torch.allclose(of_value, shares.mT, rtol=.02 if dtype == torch.bfloat16 else 1e-6)
    whole = packing._both_ways(query, key, value, 0., .3)
    kept = shares != 0
    assert abs(kept.float().mean() - .7) < .02
    assert torch.allclose(shares[kept], (whole/.7)[kept], rtol=.02 if dtype == torch.bfloat16 else 1e-4)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.double])
@pytest.mark.parametrize('p', [.01, .1, .5, .9, .99999])
def test_masks_have_their_share_of_zeros_wherever_numbers_lie(dtype, p):
    torch.manual_seed(0)
    for like in (torch.ones(301, 1001, dtype=dtype), torch.ones(1001, 301, dtype=dtype).T):
        drop = packing.FastDropout(p)(like.requires_grad_())
        spread = (p*(1 - p)/like.numel())**.5
        assert abs((drop == 0).double().mean() - p) < 5*spread + 1e-4
        assert abs(drop.double().mean() - 1) < 5*spread/(1 - p) + .005 or p > .99
        beside = (drop[:, 1:] == 0).double().flatten(), (drop[:, :-1] == 0).double().flatten()
        if p < .99: assert abs(torch.corrcoef(torch.stack(beside))[0, 1]) < .01

@pytest.mark.parametrize('windows', [False, True])
def test_texts_are_read_in_half_precision_as_in_single(windows):
    config = tf.BertConfig(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    torch.manual_seed(0)
    body, x = packing.TextBody(tf.BertModel(config)).eval(), torch.randint(5, 50, (4, 70))
    for i, n in enumerate((70, 64, 3, 33)): x[i, n:] = -1
    if windows: x = x.view(2, 2, 70)
    with torch.no_grad():
        exact = body(x)
        with torch.autocast('cpu', torch.bfloat16): half = body(x)
    assert body.offset is not None and (half - exact).norm() < .02*exact.norm()

@pytest.mark.parametrize('n', [40, 64])
def test_a_network_that_is_traced_attends_plainly(n):
    packing._ends.lengths = [n]
    torch.manual_seed(0)
    states = torch.randn(3, 1, 4, n, 8).bfloat16()
    def attend(*states): return packing._packed_attention(SimpleNamespace(), *states, None)[0]
    with torch.no_grad():
        traced = torch.jit.trace(attend, tuple(states), check_trace=False)
        assert 'scaled_dot_product_attention' in str(traced.graph) and 'aminmax' not in str(traced.graph)
        assert torch.allclose(traced(*states).float(), attend(*states).float(), atol=.03)
