"Texts: every family of transformers through one door, bad texts, folders that lack something, the shell."
import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from tl_nbdev.text.encoders import TextBody, text_body, text_pretrained
from tl_nbdev.text.tokens import collate
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.text.texts import TextTask
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from conftest import edited, refused, tl
from tl_nbdev.base.disk import listed

words = 'a the good bad film was is very not at all fine poor dull bright story with end and of plot'.split()
small = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)
families = dict(
    bert=tf.BertConfig(**small), roberta=tf.RobertaConfig(**small, pad_token_id=1), electra=tf.ElectraConfig(**small, embedding_size=16), albert=tf.AlbertConfig(**small, embedding_size=8),
    distilbert=tf.DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40), mpnet=tf.MPNetConfig(**small),
    deberta=tf.DebertaV2Config(**small, relative_attention=True, pos_att_type=['c2p', 'p2c']), modernbert=tf.ModernBertConfig(**small, global_attn_every_n_layers=2, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
    gpt2=tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=40), llama=tf.LlamaConfig(**small, num_key_value_heads=1, pad_token_id=0, bos_token_id=2, eos_token_id=3))
packs = {'bert', 'roberta', 'electra', 'albert', 'distilbert', 'modernbert', 'gpt2', 'llama'} # the others compute attention in ways of their own

def tokenizer(decoder=False):
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words])}, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder: return tf.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='[UNK]', eos_token='[SEP]', model_max_length=36) # no pad token, as GPT-2
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]', model_max_length=36, model_input_names=['input_ids', 'token_type_ids', 'attention_mask'])

@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "A folder of each family, as save_pretrained writes it"
    root = tmp_path_factory.mktemp('families')
    for name, config in families.items():
        torch.manual_seed(0)
        tf.AutoModel.from_config(config).save_pretrained(root/name)
        tokenizer(name in ('gpt2', 'llama')).save_pretrained(root/name)
    return root

def reviews(n=40, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.permutation(['good', 'bad']*(n//2))
    return pd.DataFrame(dict(text=[' '.join(rng.permutation([*rng.choice(words, rng.integers(2, 9)), l, l])) for l in label], label=label, more=[' '.join(rng.choice(words, 4)) for _ in label]))

@pytest.mark.parametrize('name', families)
def test_a_family(folders, name, tmp_path):
    task = TextTask.from_df(reviews())
    learn = transfer_learner(task, folders/name, size=12, bs=8, seed=0)
    net = learn.model.body
    assert (net.offset is not None) == (name in packs)
    x = collate([learn.dls.train_ds[i][0] for i in range(6)])
    net.eval()
    with torch.no_grad(): # packed or not, alone or not, a text has the same features
        together, alone = net(x), torch.cat([net(x[i:i + 1, x[i] >= 0]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with watched(learn): learn.transfer('last:1', 2)
    after, ss = learn.model.state_dict(), stages(learn.model)
    frozen = [k for s in ss[:-2] for k in s.params]
    assert frozen and all(torch.equal(before[k], after[k]) for k in frozen)
    assert all(not torch.equal(before[k], after[k]) for k in ss[-1].params)
    with watched(learn): learn.transfer('full', 1)
    result = learn.evaluate()
    folder = learn.save_transfer(tmp_path/'model', result, check=name == 'bert')
    again = load_transfer(folder)
    assert np.allclose(np.stack(list(again.probs(task.part('test').item.to_list()).values())), result.probs, atol=1e-4)
    assert {'transformer/config.json', 'transformer/tokenizer.json', 'network.safetensors', 'transfer.json'} <= {o.relative_to(folder).as_posix() for o in folder.rglob('*')}
    other = transfer_learner(task, folder, seed=1) # a saved model is a start like any other
    assert all(torch.equal(a, b) for a, b in zip(other.model.body.parameters(), learn.model.body.parameters()))

@pytest.mark.parametrize('pooling', ['mean', 'cls', 'last', 'max'])
@pytest.mark.parametrize('name', ['bert', 'deberta'])
def test_pooling(folders, name, pooling):
    net = text_body(text_pretrained(folders/name, pooling=pooling))
    x = torch.tensor([[2, 5, 6, 3, -1], [2, 7, 8, 9, 3]])
    with torch.no_grad():
        h = net.net(input_ids=x[1:], **net._types(x[1:], x[1:] == 2)).last_hidden_state[0] if net.offset is None else net.packed(x[1:], x[1:] >= 0)
        want = dict(mean=h.mean(0), cls=h[0], last=h[-1], max=h.amax(0))[pooling]
        assert torch.allclose(net(x)[1], want, atol=1e-5)

def test_gradients_are_those_of_padding(folders):
    "The packed network learns what the padded one would"
    net = text_body(text_pretrained(folders/'bert')).eval()
    x = torch.tensor([[2, 5, 6, 3, -1, -1], [2, 7, 8, 9, 10, 3], [2, 11, 3, -1, -1, -1]])
    def grads():
        net.zero_grad()
        net(x).square().sum().backward()
        return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    packed, offset = grads(), net.offset
    net.net.set_attn_implementation(net._usual); net.offset = None
    padded = grads()
    assert offset is not None and packed.keys() == padded.keys()
    assert all(torch.allclose(packed[k], padded[k], atol=1e-5) for k in packed)

def test_pairs_have_types(folders):
    task = TextTask.from_df(reviews(), second='more')
    learn = transfer_learner(task, folders/'bert', bs=4)
    x = learn.dls.train.one_batch()[0]
    tok = tokenizer()
    real, at = x >= 0, torch.arange(x.shape[1]).expand_as(x)
    types = learn.model.body._types(x[real][None], (at == 0)[real][None])['token_type_ids'][0]
    ends = (x == 3).cumsum(1) - (x == 3).long()
    assert types.tolist() == ends[real].tolist() and set(types.tolist()) == {0, 1}

def test_windows_are_pooled(folders):
    task = TextTask.from_df(reviews().assign(text=lambda d: d.text*4))
    learn = transfer_learner(task, text_pretrained(folders/'bert', long='windows', size=10), bs=8, seed=0)
    x = learn.dls.train.one_batch()[0]
    assert x.dim() == 3 and x.shape[2] == 10
    with watched(learn): learn.transfer('feature', 3)
    assert learn.evaluate().n == task.n('test')

def test_folders_that_lack_something(folders, tmp_path):
    import shutil
    for lack, words in (('tokenizer.json', 'no tokenizer'), ('model.safetensors', 'no model.safetensors'), ('config.json', 'no config.json')):
        to = tmp_path/lack
        shutil.copytree(folders/'bert', to)
        (to/lack).unlink()
        with pytest.raises(TransferError, match=words): text_pretrained(to)
    torn = shutil.copytree(folders/'bert', tmp_path/'torn')
    (torn/'model.safetensors').write_bytes((torn/'model.safetensors').read_bytes()[:500])
    with pytest.raises(TransferError, match='copy the folder again'): text_pretrained(torn).body()
    with pytest.raises(TransferError, match='use one of mean'): text_pretrained(folders/'bert', pooling='sum')

def test_no_hub_is_one_line(monkeypatch):
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    with pytest.raises(TransferError, match='These need none: all-MiniLM-L6-v2'): text_pretrained('bert-base-uncased').body()

def test_odd_texts(folders):
    odd = reviews().assign(text=lambda d: d.text.astype(object))
    for i, o in enumerate([None, '', '\u200b', '\ud83d', b'\xff\xfe', 'good '*200_000, 'שלום 👋', '\x00\x01']): odd.at[i, 'text'] = o
    task = TextTask.from_df(odd)
    assert {w for _, w in task.skipped} == {'no text', 'an empty text'}
    learn = transfer_learner(task, folders/'bert', size=12, bs=8)
    with watched(learn): learn.transfer('feature', 2)
    assert learn.evaluate().n
    assert any('binary' in o['found'] for o in task.audit())

def test_labels():
    r = reviews()
    assert TextTask.from_df(r.assign(label=(r.label == 'good')*1.)).vocab == ['0', '1']
    many = TextTask.from_df(r.assign(label=[f'{l};long' if len(t) > 30 else l for l, t in zip(r.label, r.text)]), delim=';')
    assert many.answer.several and many.metric == 'f1'
    with pytest.raises(TransferError, match='only one class'): TextTask.from_df(r.assign(label='x'))
    unseen = r.assign(part=['train']*30 + ['valid']*5 + ['test']*5, label=[*r.label[:32], 'new', *r.label[33:]])
    assert any('only in valid' in why for _, why in TextTask.from_df(unseen, part='part').skipped)

def test_the_shell(folders, tmp_path):
    reviews().to_csv(tmp_path/'r.csv', index=False)
    args = ['--text', 'text', '--label', 'label', '--size', 12]
    got = tl('train', tmp_path/'r.csv', *args, '--model', folders/'bert', '--strategy', 'last:1', '--epochs', 1, '--out', tmp_path/'m', '--json', tmp_path/'t.json')
    assert got.status == 0 and got.json['n_test'] and set(got.json['classes']) == {'good', 'bad'}, got
    said = tl('predict', tmp_path/'m', '--text', 'a very good film', '--json', tmp_path/'p.json')
    assert said.status == 0 and said.json[0]['label'] in ('good', 'bad')
    table = tl('predict', tmp_path/'m', tmp_path/'r.csv', '--text', 'text', '--json', tmp_path/'p.json')
    assert len(table.json) == 40 and all('label' in o for o in table.json)
    assert tl('eval', tmp_path/'m', tmp_path/'r.csv', '--text', 'text', '--json', tmp_path/'e.json').json['n'] == 40
    assert tl('audit', tmp_path/'r.csv', '--text', 'text').status == 0
    refused(tl('train', tmp_path/'r.csv', '--text', 'body'), 'no column "body"')
    refused(tl('predict', tmp_path/'m', tmp_path/'r.csv'), '--text')
    for i, r in enumerate(reviews().itertuples()):
        f = tmp_path/'files'/r.label/f'{i}.txt'
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(r.text)
    assert tl('compare', tmp_path/'files', '--models', folders/'bert', '--strategies', 'feature', '--epochs', 1, '--size', 12).status == 0
    assert len(tl('predict', tmp_path/'m', tmp_path/'files', '--json', tmp_path/'p.json').json) == 40

@pytest.fixture(scope='session')
def classifiers(tmp_path_factory):
    "A folder of each family with a classification head"
    root = tmp_path_factory.mktemp('classifiers')
    for name, config in families.items():
        torch.manual_seed(1)
        config = type(config)(**{**config.to_dict(), 'id2label': {0: 'bad', 1: 'good'}, 'label2id': dict(bad=0, good=1), 'pad_token_id': config.pad_token_id or 0})
        tf.AutoModelForSequenceClassification.from_config(config).save_pretrained(root/name)
        tokenizer(name in ('gpt2', 'llama')).save_pretrained(root/name)
    return root

@pytest.mark.parametrize('name', families)
def test_own_head_is_that_of_the_class(classifiers, name, tmp_path):
    learn = transfer_learner(TextTask.from_df(reviews()), classifiers/name, 'own', size=12, bs=8)
    whole = tf.AutoModelForSequenceClassification.from_pretrained(classifiers/name, dtype=torch.float32).eval()
    x = learn.dls.train.one_batch()[0]
    learn.model.eval()
    with torch.no_grad(): got, want = learn.model(x), whole(input_ids=x.clamp(0), attention_mask=(x >= 0).long()).logits
    assert torch.allclose(got, want, atol=1e-5)
    with watched(learn): learn.transfer('last:1', 1)
    result = learn.evaluate()
    again = load_transfer(learn.save_transfer(tmp_path/'m', result, check=name == 'bert'))
    assert np.allclose(np.stack(list(again.probs(learn.task.part('test').item.to_list()).values())), result.probs, atol=1e-4)

def test_another_number_of_classes_is_a_new_head(classifiers, capsys):
    three = reviews().assign(label=lambda d: [l if i % 3 else 'so-so' for i, l in enumerate(d.label)])
    learn = transfer_learner(TextTask.from_df(three), classifiers/'bert', 'own', size=12)
    assert 'tell 2 classes apart, the task has 3' in capsys.readouterr().out
    assert learn.model.eval()(learn.dls.train.one_batch()[0]).shape[1] == 3

def test_the_textbook_recipe_is_the_trainers(classifiers, tmp_path):
    "Weights after five steps on the whole of train are those that transformers' Trainer ends with"
    import shutil
    from tl_nbdev.vision.features import Mode
    from tl_nbdev.training.learner import textbook
    folder = shutil.copytree(classifiers/'bert', tmp_path/'bert')
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps(config | dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.))) # chance is not what is compared
    task = TextTask.from_df(reviews())
    learn = textbook(task, folder, lr=1e-3, bs=10_000, epochs=5, mode=Mode(), size=12)
    whole, tok = tf.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32), tokenizer()
    rows = [dict(**tok(t, truncation=True, max_length=12), labels=int(y)) for t, y in zip(task.part('train').item, task.targets('train'))]
    args = tf.TrainingArguments(str(tmp_path/'out'), learning_rate=1e-3, per_device_train_batch_size=10_000, num_train_epochs=5, warmup_steps=.1, use_cpu=True, report_to='none', save_strategy='no', disable_tqdm=True)
    tf.Trainer(whole, args, train_dataset=rows, data_collator=tf.DataCollatorWithPadding(tok)).train()
    ours = {k.removeprefix('body.net.'): v for k, v in learn.model.state_dict().items() if k.startswith('body.net.')}
    theirs = whole.bert.state_dict()
    assert ours.keys() == {k for k in theirs if not k.startswith('pooler.')}
    assert all(torch.allclose(ours[k], theirs[k], atol=2e-5) for k in ours)
    moved = tf.AutoModelForSequenceClassification.from_pretrained(folder).bert.state_dict()
    assert max((moved[k] - theirs[k]).abs().max() for k in ours) > 1e-3

def test_tables_as_people_have_them():
    r = reviews()
    assert TextTask.from_df(r.rename(columns=dict(text=0, label=1)), 0, 1).vocab == ['bad', 'good']
    assert TextTask.from_df(r.to_dict('list')).vocab == ['bad', 'good']
    groups = TextTask.from_df(r.assign(who=range(40)).rename(columns=dict(who=0)), group=0)
    assert 'group' in groups.df and groups.df.group.nunique() == len(groups.df)
    for bad, words in ((pd.concat([r, r.text], axis=1), '2 columns are named "text"'), (r[:0], 'no rows'), (3, 'no table')):
        with pytest.raises(TransferError, match=words): TextTask.from_df(bad)
    many = TextTask.from_df(r.assign(label=[['x', 'y'] if i % 3 else ['x'] if i % 2 else [] for i in range(40)]))
    assert many.answer.several and many.vocab == ['x', 'y'] and len(many.df) == 40
    left = TextTask.from_df(r.assign(label=['', None, *r.label[2:]]))
    assert left.skipped == [('row 0', 'no label'), ('row 1', 'no label')]
    half = TextTask.from_df(r.assign(label=pd.Series([f'{l}\ud83d' for l in r.label], dtype=object), who=pd.Series(['a\ud83d']*20 + [f'{i}' for i in range(20)], dtype=object)), group='who')
    assert all(o.isprintable() for o in half.vocab) and half.df.group.nunique() == 21
    assert len({o for o in TextTask.from_df(pd.DataFrame(dict(text=['की', 'का', 'great 😀', 'great 😡', 'C++', 'C', *map(str, range(14))], label=list('ab')*10))).df.same}) == 20

def test_datasets_with_odd_splits():
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
    r = reviews()
    of = lambda labels, f=ClassLabel(names=['bad', 'good']): Dataset.from_dict(dict(text=r.text, label=labels, part=[f'p{i % 10}' for i in range(40)]), features=Features(dict(text=Value('string'), label=f, part=Value('string'))))
    imdb = DatasetDict(train=of([0, 1]*20), test=of([0, 1]*20), unsupervised=of([-1]*40))
    task = TextTask.from_dataset(imdb, group='part')
    assert set(task.df.part) == {'train', 'valid', 'test'} and task.df.group.nunique() == 10
    assert set(TextTask.from_dataset(DatasetDict(train=of([0, 1]*20), validation_matched=of([0, 1]*20))).df.part) == {'train', 'valid'}
    with pytest.raises(TransferError, match='validation_matched and validation_mismatched'): TextTask.from_dataset(DatasetDict({o: of([0, 1]*20) for o in ('train', 'validation_matched', 'validation_mismatched')}))
    with pytest.raises(TransferError, match='load it first'): TextTask.from_dataset('imdb')
    several = TextTask.from_dataset(of([[0, 1], [1]]*20, Sequence(ClassLabel(names=['bad', 'good']))))
    assert several.answer.several and several.vocab == ['bad', 'good']

def test_a_folder_is_not_believed_when_it_asks_for_trust(folders, tmp_path):
    import shutil
    learn = transfer_learner(TextTask.from_df(reviews()), folders/'bert', size=12, bs=8)
    with watched(learn): learn.transfer('feature', 1)
    folder = learn.save_transfer(tmp_path/'m', check=False)
    assert text_pretrained(folder).trust_remote_code is False
    inner = folder/'transformer'
    config = json.loads((inner/'config.json').read_text())
    (inner/'code.py').write_text(f'import pathlib; pathlib.Path({str(tmp_path/"ran")!r}).touch()\nfrom transformers import BertConfig as C, BertModel as M')
    (inner/'config.json').write_text(json.dumps({**config, 'model_type': 'mine', 'auto_map': dict(AutoConfig='code.C', AutoModel='code.M')}))
    edited(folder, lambda o: o | dict(pretrained=o['pretrained'] | dict(trust_remote_code=True), files={k: v for k, v in listed(folder).items() if k != 'transfer.json'}))
    with pytest.raises(TransferError): load_transfer(folder)
    assert not (tmp_path/'ran').exists()
    plain = shutil.copytree(folders/'bert', tmp_path/'plain')
    shutil.copy(inner/'code.py', plain)
    (plain/'config.json').write_text((inner/'config.json').read_text())
    with pytest.raises(TransferError, match='needs code of its own, which was not run'): text_pretrained(plain).body()
    assert not (tmp_path/'ran').exists()

def test_windows_of_pairs_don_t_multiply(folders):
    from tl_nbdev.text.tokens import Tokens
    from tl_nbdev.text.texts import Pair
    tokens = Tokens(text_pretrained(folders/'bert', long='windows', size=24))
    assert tokens.most == 24
    a, b = ' '.join(['good']*300), ' '.join(['bad']*400)
    for pair in (Pair((a, b)), Pair((b, a)), Pair(('fine', b)), Pair((b, 'fine'))):
        (windows,) = tokens([pair])
        assert 15 < len(windows) < 60 and all(len(o) <= 24 for o in windows)
        named = tokens.tok.convert_ids_to_tokens(np.concatenate(windows).tolist())
        assert named.count('bad') >= 400 # all of the longer text is there
    with pytest.raises(TransferError, match='16 or more'): Tokens(text_pretrained(folders/'bert', long='windows', size=12))([Pair((a, b))])

def test_white_space_before_a_text_and_a_network_with_few_positions(folders, tmp_path):
    import shutil
    from tl_nbdev.text.tokens import Tokens
    (ids,), = Tokens(text_pretrained(folders/'bert', size=12))([' '*4000 + 'a good film'])
    assert len(ids) == 5
    folder = shutil.copytree(folders/'bert', tmp_path/'b')
    config = json.loads((folder/'tokenizer_config.json').read_text())
    (folder/'tokenizer_config.json').write_text(json.dumps({k: v for k, v in config.items() if k != 'model_max_length'}))
    assert Tokens(text_pretrained(folder, size=1000)).most == 40
    task = TextTask.from_df(reviews().assign(text=lambda d: d.text*30))
    with watched(learn := transfer_learner(task, folder, size=1000, bs=8)): learn.transfer('feature', 1)
    assert learn.evaluate().n

def test_training_takes_some_windows_and_judging_all(folders):
    task = TextTask.from_df(reviews().assign(text=lambda d: d.text*30))
    learn = transfer_learner(task, folders/'bert', long='windows', size=10, bs=4)
    train, valid = (o.one_batch()[0].shape[1] for o in (learn.dls.train, learn.dls.valid))
    assert train == 4 < valid
    with pytest.raises(TransferError, match='long is for texts'):
        from tl_nbdev.vision.images import ImageTask
        transfer_learner(ImageTask.from_sample('mnist', limit=60), long='windows')

def test_what_is_odd_about_a_model_is_said(folders, classifiers, capsys):
    transfer_learner(TextTask.from_df(reviews()), folders/'gpt2', size=12)
    assert 'has no pad token: [SEP] takes its place' in capsys.readouterr().out
    three = reviews().assign(label=lambda d: [l if i % 3 else 'so-so' for i, l in enumerate(d.label)])
    transfer_learner(TextTask.from_df(three), classifiers/'bert', size=12)
    assert 'tell 2 classes apart, the task has 3: it gets a new head' in capsys.readouterr().out

def test_fastai_s_words(folders, tmp_path):
    learn = transfer_learner(TextTask.from_df(reviews()), folders/'bert', size=12, bs=8, seed=0)
    with watched(learn): learn.transfer('full', 1)
    label, i, probs = learn.predict('a very good film')
    assert label == learn.task.vocab[int(i)] and abs(float(probs.sum()) - 1) < 1e-4
    saved = load_transfer(learn.save_transfer(tmp_path/'m', check=False))
    assert saved.predict('a very good film')[0]['label'] == label
    assert len(learn.dls.show_batch(max_n=3)) == 3
    shown = learn.show_results(max_n=2)
    assert len(shown) == 2 and '<span' in shown._repr_html_() and '→' in repr(shown)
    got = saved.predict(['fine \ud800', ('a', None), None, b'caf\xe9', float('nan'), ('a', 'b'), '  '])
    assert [bool(o.get('error')) for o in got] == [False, True, True, False, True, True, True]
    for bad in (None, float('nan'), ''):
        with pytest.raises(TransferError): learn.predict(bad)
        with pytest.raises(TransferError, match='no text'): learn.explain(bad)
    assert learn.explain('bad \ud800 film')
    pairs = transfer_learner(TextTask.from_df(reviews(), second='more'), folders/'bert', size=12, bs=8, seed=0)
    both = load_transfer(pairs.save_transfer(tmp_path/'p', check=False))
    assert len(both.predict(('a film', 'a story'))) == 1 and 'two texts' in both.predict(['a film'])[0]['error']

def test_the_textbook_keeps_the_last_batch(classifiers):
    from tl_nbdev.training.learner import textbook
    task = TextTask.from_df(reviews(60))
    n = task.n('train')
    learn = textbook(task, classifiers/'bert', bs=16, epochs=2, size=12)
    assert n % 16 and len(learn.recorder.iters) == 2 and learn.recorder.iters[-1] == 2*-(-n//16)

def test_audit_of_texts_in_other_scripts_and_encodings(folders):
    r = reviews()
    odd = ['Ïðèâåò, êàê äåëà', 'Ø³Ø¹ÙŠØ¯ and x', 'cafÃ© au lait', 'bad � one', *(f'{w} {i}' for i, w in enumerate(r.text[4:]))]
    task = TextTask.from_df(r.assign(text=odd))
    found = {o['found'].split(' (')[0]: o['count'] for o in task.audit(folders/'bert')}
    assert found['texts that look wrongly decoded'] == 4
    long = TextTask.from_df(r.assign(text=[t + ' very'*60 if i < 5 else t for i, t in enumerate(r.text)])).audit(folders/'bert')
    assert any(o['found'].startswith('texts of more than 36 tokens of bert') and o['count'] == 5 for o in long)
    chinese = '中文文本很长的一段话我们要测试近似重复的检测功能是否有效果吗今天天气很好'
    from tl_nbdev.text.texts import near_duplicates
    assert near_duplicates([chinese, chinese.replace('今天', '明天'), '完全不同的另外一段文字内容在这里写着没有任何关系']) == [(0, 1)]

def test_the_shell_says_what_it_left_out(folders, tmp_path):
    reviews().assign(text=lambda d: ['', '  ', *d.text[2:]]).to_csv(tmp_path/'r.csv', index=False)
    got = tl('train', tmp_path/'r.csv', '--text', 'text', '--model', folders/'bert', '--size', 12, '--epochs', 1, '--long', 'windows')
    assert got.status == 0 and 'left out, no text: row 1' in got.out, got.out
    (tmp_path/'d'/'a').mkdir(parents=True); (tmp_path/'d'/'a'/'1.txt').write_text('x')
    refused(tl('train', tmp_path/'d', '--text', 'text', '--group', 'who'), '--group needs a table')

def test_an_empty_cell_of_several_labels(tmp_path):
    reviews().assign(label=['', 'x;y', 'x', 'y']*10).to_csv(tmp_path/'r.csv', index=False)
    task = TextTask.from_csv(tmp_path/'r.csv', 'text', delim=';')
    assert len(task.df) == 40 and sum(not o for o in task.df.label) == 10 and any('10 rows hold no label' in o for o in task.notes)


@pytest.mark.parametrize('mark, found', [('[{}] ', True), ('__label__{} ', True), ('Rating: {}. ', True), ('{}: ', True), ('{}ish ', False), ('', False)])
def test_texts_that_hold_their_label_are_found(mark, found):
    words = 'the a match oven court flour goal win judge dough'.split()
    draw = np.random.default_rng(0)
    rows = [(mark.format(c) + ' '.join(draw.choice(words, 8)) + f' {i + 100}', c) for i in range(20) for c in ('Sport', 'law', '1')]
    says = [o['found'] for o in TextTask.from_df(pd.DataFrame(rows, columns=['text', 'label'])).audit()]
    assert ('texts that hold their label' in says) == found

def test_a_topic_that_is_named_in_some_of_its_texts_is_none():
    rows = [(f'{"hockey" if i % 3 == 0 else "skating"} on ice, evening {i}', 'hockey') for i in range(30)] + [(f'the oven and the {"hockey" if i == 0 else "dough"}, evening {i}', 'cooking') for i in range(30)]
    assert 'texts that hold their label' not in [o['found'] for o in TextTask.from_df(pd.DataFrame(rows, columns=['text', 'label'])).audit()]
