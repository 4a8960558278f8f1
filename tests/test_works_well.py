"What people bring and do, and what comes of it: folders, tables, checkpoints, fastai's own ways, kinds of pictures and of texts, the commands."
import copy, csv, datetime, decimal, gzip, json, os, pickle, shutil, subprocess, sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import datasets
import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import timm
import torch
import transformers as tf
from children import python
from conftest import photo, photos, tl
from datasets import ClassLabel, Dataset, Features, List, Sequence, Value
from fastai.vision.all import (ClassificationInterpretation, CSVLogger, CutMix, EarlyStoppingCallback, GradientClip, MixUp, ProgressCallback, SaveModelCallback,
                               load_learner)
from PIL import Image, features
from safetensors.torch import save_file
from tl_nbdev.vision.zoo import pretrained
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.vision.pixels import open_image
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text.texts import TextTask
from tokenizers import Tokenizer, models, pre_tokenizers, processors

matplotlib.use('Agg')
tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()

def one_line(f, *words):
    "Is it refused in one line that holds `words`?"
    with pytest.raises(TransferError) as e: f()
    said = str(e.value)
    assert '\n' not in said and len(said) < 600, said
    for o in words: assert o in said
    return said


# folders

stray = ['README', 'README.md', '.DS_Store', 'Thumbs.db', 'desktop.ini', 'data.zip', 'round/._round0.png', 'round/.DS_Store', 'square/Thumbs.db',
         'round/desktop.ini', 'round/notes.txt', '.ipynb_checkpoints/a.png', '__MACOSX/round/._round0.png', 'labels.csv']

def test_stray_files_are_no_items(tmp_path):
    photos(tmp_path, 4)
    for name in stray:
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_bytes(b'stray')
    (tmp_path/'round/.ipynb_checkpoints').mkdir()
    photo('round', 99).save(tmp_path/'round/.ipynb_checkpoints/round9-checkpoint.png')
    (tmp_path/'empty').mkdir()
    task = ImageTask.from_folder(tmp_path)
    assert task.vocab == ['round', 'square'] and len(task.df) == 8
    assert [f.name for f, _ in task.skipped] == ['empty'] and 'empty' in task.notes[0]

names = ['a b.PNG', 'ä ü ß.Jpg', '😀.JPEG', '#1.png', '100%.png', '%20.png', 'a[1].png', "it's.png", 'a;b,c.png', 'a&b.png', '漢字.WEBP', 'u\u0308.png',
         '~t.png', '$HOME.png', '-dash.png', ' lead.png', '{x}.png', '!.png', '(1).png', 'a=b+c@d.png', 'x'*240 + '.png']
if os.name == 'posix': names += ['*.png', '?.png', 'a"b.png', 'back\\slash.png', 'new\nline.png', '<a>|b.png', 'c:d.png']
kinds_of = dict(jpg='JPEG', jpeg='JPEG', webp='WEBP')

@pytest.fixture(scope='module')
def named(tmp_path_factory):
    "Photos with all kinds of names in folders with all kinds of names"
    to = tmp_path_factory.mktemp('my photos [1] #2 %20 ü')
    for kind, shape in {'round [1] ä': 'round', 'sq#uare %20 😀': 'square'}.items():
        (to/kind).mkdir()
        for i, name in enumerate(names): photo(shape, i).save(to/kind/name, kinds_of.get(name.rpartition('.')[2].lower(), 'PNG'))
    return to

def test_names_of_all_kinds_are_found(named):
    classes = ['round [1] ä', 'sq#uare %20 😀']
    table = pd.DataFrame([(f'{k}/{n}', k) for k in classes for n in names], columns=['file', 'label'])
    table.to_csv(named/'t.csv', index=False)
    for task in ImageTask.from_folder(named), ImageTask.from_df(table, root=named), ImageTask.from_csv(named/'t.csv'):
        assert len(task.df) == 2*len(names) and task.vocab == classes and not task.skipped
        assert {o.name for o in task.df.item} == set(names)


# tables

n = 24
texts = [f'text number {i} of {"ab"[i % 2]}' for i in range(n)]
words, numbers = ['ab'[i % 2] for i in range(n)], [i % 3 for i in range(n)]
days = [datetime.datetime(2020, 1, 1 + o) for o in numbers]

def arrow(values, kind=None):
    values = pa.array(values, type=kind) if kind != 'dictionary' else pa.array(values).dictionary_encode()
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([values])))

def gap(values): return [None, *values[1:]]

labels = { # dtype → values, names of the classes, how many items are left out
    **{o: (lambda o=o: pd.Series(gap(words), dtype=o), 'a b', 1) for o in ('object', 'string[python]', 'string[pyarrow]', 'category', 'str')},
    'Int64': (lambda: pd.Series(gap(numbers), dtype='Int64'), '0 1 2', 1),
    'int8': (lambda: pd.Series(numbers, dtype='int8'), '0 1 2', 0),
    'float with nan': (lambda: pd.Series(gap(numbers), dtype=float), '0 1 2', 1),
    'Float64': (lambda: pd.Series(gap(numbers), dtype='Float64'), '0 1 2', 1),
    'bool': (lambda: pd.Series(numbers).astype(bool), 'False True', 0),
    'boolean': (lambda: pd.Series(gap([o > 0 for o in numbers]), dtype='boolean'), 'False True', 1),
    'category of int': (lambda: pd.Series(numbers).astype('category'), '0 1 2', 0),
    'period': (lambda: pd.Series([pd.Period('2020-01') + o for o in numbers]), '2020-01 2020-02 2020-03', 0),
    'sparse': (lambda: pd.Series(numbers, dtype='Sparse[int]'), '0 1 2', 0),
    'bytes': (lambda: pd.Series([o.encode() for o in words]), 'a b', 0),
    'arrow int8': (lambda: arrow(gap(numbers), pa.int8()), '0 1 2', 1),
    'arrow uint64': (lambda: arrow(numbers, pa.uint64()), '0 1 2', 0),
    'arrow double': (lambda: arrow(gap([float(o) for o in numbers]), pa.float64()), '0 1 2', 1),
    'arrow decimal': (lambda: arrow([decimal.Decimal(o) for o in numbers], pa.decimal128(5, 2)), '0 1 2', 0),
    'arrow string': (lambda: arrow(gap(words), pa.string()), 'a b', 1),
    'arrow large_string': (lambda: arrow(gap(words), pa.large_string()), 'a b', 1),
    'arrow string_view': (lambda: arrow(words, pa.string_view()), 'a b', 0),
    'arrow dictionary': (lambda: arrow(gap(words), 'dictionary'), 'a b', 1),
    'arrow bool': (lambda: arrow(gap([o > 0 for o in numbers]), pa.bool_()), 'False True', 1),
    'arrow date': (lambda: arrow([o.date() for o in days], pa.date32()), '2020-01-01 2020-01-02 2020-01-03', 0),
    'arrow list': (lambda: arrow(gap([[w] if i % 3 else [w, 'z'] for i, w in enumerate(words)]), pa.list_(pa.string())), 'a b z', 1)}

@pytest.mark.parametrize('kind', labels)
def test_labels_of_each_dtype(kind):
    values, classes, left = labels[kind]
    task = TextTask.from_df(pd.DataFrame(dict(text=texts, label=values())))
    assert task.vocab == classes.split() and len(task.df) == n - left
    assert task.skipped == ([('row 0', 'no label')] if left else [])
    assert task.answer.several == (kind == 'arrow list')

def test_days_are_classes_of_their_own():
    for values in pd.Series(days), arrow(days, pa.timestamp('us')):
        assert TextTask.from_df(pd.DataFrame(dict(text=texts, label=values))).vocab == [f'2020-01-0{i} 00:00:00' for i in (1, 2, 3)]

columns = {**{o: lambda v, o=o: pd.Series(v, dtype=o) for o in ('object', 'string[python]', 'string[pyarrow]', 'category', 'str')},
           **{f'arrow {k}': lambda v, t=t: arrow(v, t) for k, t in dict(string=pa.string(), large=pa.large_string(), view=pa.string_view(), dict='dictionary').items()}}

@pytest.mark.parametrize('kind', columns)
def test_texts_and_files_of_each_dtype(kind, photographs):
    task = TextTask.from_df(pd.DataFrame(dict(text=columns[kind](gap(texts)), label=words)))
    assert sorted(task.df.item) == sorted(texts[1:]) and task.skipped == [('row 0', 'no text')]
    files, classes = photographs
    task = ImageTask.from_df(pd.DataFrame(dict(file=columns[kind](gap(list(map(str, files)))), label=classes)))
    assert sorted(task.df.item) == files[1:] and task.skipped == [('row 0', 'no file is named')]

@pytest.mark.parametrize('value', [None, float('nan'), np.float32('nan'), pd.NA, pd.NaT, np.datetime64('NaT'), decimal.Decimal('nan')], ids=lambda o: f'{type(o).__name__} {o}')
def test_what_is_missing_is_missing(value):
    "An item of no group stands alone, and a missing text is none"
    table = pd.DataFrame(dict(text=texts, label=words, group=pd.Series([value]*6 + list('abcdef'*3), dtype=object)))
    assert TextTask.from_df(table, group='group').df.group.nunique() == 12
    table = pd.DataFrame(dict(text=pd.Series([value, *texts[1:]], dtype=object), label=words))
    assert TextTask.from_df(table).skipped == [('row 0', 'no text')]

def test_numbers_of_each_dtype():
    kinds = pd.Series(numbers, dtype='Int64'), pd.Series(numbers, dtype='float32'), arrow(numbers, pa.int8()), arrow([decimal.Decimal(o) for o in numbers])
    for values in kinds: assert sorted(TextTask.from_df(pd.DataFrame(dict(text=texts, label=values)), regression=True).df.label) == sorted(map(float, numbers))

def test_a_column_of_lists_is_no_column_of_texts():
    for values in [o.split() for o in texts], arrow([o.split() for o in texts]), [[dict(role='user', content=o)] for o in texts]:
        one_line(lambda: TextTask.from_df(pd.DataFrame(dict(text=values, label=words))), 'column "text"', 'list')

@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    "Files of photos and their classes"
    files = sorted(photos(tmp_path_factory.mktemp('photographs'), 6).rglob('*.png'))
    return files, [f.parent.name for f in files]

def same(task, items=None):
    "The labels of items, whatever their order"
    return dict(zip(task.df.item, task.df.label)) if items is None else dict(zip(items, task.df.label))

def test_rows_in_any_order_and_with_any_index():
    table = pd.DataFrame(dict(text=texts, label=words))
    want = dict(zip(texts, words))
    kinds = [table.sample(frac=1, random_state=0), table.iloc[::-1], table.set_index(pd.Index(map(str, range(n)))), table.set_index(pd.Index([0]*n)),
             table.set_index(pd.MultiIndex.from_product([range(4), range(6)])), table.set_index(pd.date_range('2020', periods=n))]
    for o in kinds: assert same(TextTask.from_df(o)) == want
    some = table[table.text.str.contains('1')]
    assert same(TextTask.from_df(some)) == dict(zip(some.text, some.label))
    bits = pd.DataFrame(dict(text=texts, a=[i % 2 for i in range(n)], b=[i//2 % 2 for i in range(n)])).sample(frac=1, random_state=1)
    assert same(TextTask.from_df(bits, label=['a', 'b'])) == {t: [c for c in 'ab' if r[c]] for t, r in zip(bits.text, bits.to_dict('records'))}

def test_tables_of_other_libraries():
    want, plain = dict(zip(texts, words)), dict(text=texts, label=words)
    table = pa.table(plain)
    kinds = [plain, [dict(text=t, label=l) for t, l in want.items()], table, table.to_batches()[0], Dataset.from_dict(plain),
             pa.table(dict(text=pa.array(texts, pa.large_string()), label=pa.array(words).dictionary_encode())),
             pa.Table.from_pandas(pd.DataFrame(plain).sample(frac=1, random_state=0))]
    for o in kinds: assert same(TextTask.from_df(o)) == want, type(o)
    rows = list(want.items())
    for o in rows, np.array(rows): assert same(TextTask.from_df(o, text=0, label=1)) == want
    gaps = pa.table(dict(text=texts, label=pa.array(gap(numbers), pa.int32())))
    assert TextTask.from_df(gaps).vocab == ['0', '1', '2']

def test_a_frame_of_polars(photographs):
    polars = pytest.importorskip('polars')
    assert same(TextTask.from_df(polars.DataFrame(dict(text=texts, label=words)))) == dict(zip(texts, words))

class Frame:
    "What knows how to become a DataFrame, as tables of many libraries do"
    def __init__(self, df): self.df = df
    def to_pandas(self): return self.df

def test_what_becomes_a_frame(photographs):
    files, classes = photographs
    assert same(TextTask.from_df(Frame(pd.DataFrame(dict(text=texts, label=words))))) == dict(zip(texts, words))
    assert same(ImageTask.from_df(pa.table(dict(file=list(map(str, files)), label=classes)))) == dict(zip(files, classes))


# datasets

@pytest.fixture(scope='module')
def reviews():
    said = Features(dict(text=Value('string'), label=ClassLabel(names=['neg', 'pos'])))
    return Dataset.from_dict(dict(text=texts, label=[i % 2 for i in range(n)]), features=said)

def test_names_of_a_class_label(reviews):
    want = {t: ['neg', 'pos'][i % 2] for i, t in enumerate(texts)}
    kinds = [reviews, reviews.shuffle(seed=0), reviews.with_format('torch'), reviews.with_format('pandas'), reviews.train_test_split(.25, seed=0)]
    for o in kinds: assert same(TextTask.from_dataset(o)) == want
    few = reviews.shuffle(seed=1).filter(lambda o: ' 1' in o['text']).select(range(9))
    assert same(TextTask.from_dataset(few)) == {t: want[t] for t in few['text']}
    assert same(TextTask.from_df(reviews)) == same(TextTask.from_df(reviews.shuffle(seed=0))) == want

@pytest.mark.parametrize('many', [List, Sequence], ids=['List', 'Sequence'])
def test_names_of_lists_of_class_labels(many):
    said = Features(dict(text=Value('string'), label=many(ClassLabel(names=['x', 'y', 'z']))))
    data = Dataset.from_dict(dict(text=texts, label=[[i % 3] if i % 2 else [0, 2] for i in range(n)]), features=said)
    want = {t: [['x', 'y', 'z'][i % 3]] if i % 2 else ['x', 'z'] for i, t in enumerate(texts)}
    assert same(TextTask.from_dataset(data)) == same(TextTask.from_df(data)) == want

def test_pictures_of_a_dataset(photographs):
    files, classes = photographs
    said = Features(dict(image=datasets.Image(), label=ClassLabel(names=['round', 'square'])))
    data = Dataset.from_dict(dict(image=[str(f) for f in files], label=[int(o == 'square') for o in classes]), features=said)
    pictures = Dataset.from_dict(dict(image=[Image.open(f) for f in files], label=classes))
    kinds = [data, data.shuffle(seed=1), data.cast_column('image', datasets.Image(decode=False)), data.train_test_split(.25, seed=1), pictures]
    for o in kinds:
        task = ImageTask.from_dataset(o)
        assert task.vocab == ['round', 'square'] and len(task.df) == 12
        assert all(np.array_equal(open_image(f), open_image(p)) for f, p in zip(sorted_by_pixels(task.df.item), sorted_by_pixels(files)))
    one_line(lambda: ImageTask.from_dataset(data.rename_column('image', 'img')), 'no column "image"', 'img, label')

def sorted_by_pixels(files): return sorted(files, key=lambda f: np.asarray(open_image(f)).tobytes())

inside = dict(pil=Image.open, array=lambda f: np.asarray(Image.open(f)), bytes=lambda f: f.read_bytes(), dataset=lambda f: dict(bytes=f.read_bytes(), path=None),
              named=lambda f: dict(bytes=None, path=str(f)), tensor=lambda f: torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1))

@pytest.mark.parametrize('kind', inside)
def test_pictures_that_stand_in_a_table(kind, photographs):
    files, classes = photographs
    task = ImageTask.from_df(pd.DataFrame(dict(image=[*map(inside[kind], files), None], label=[*classes, 'round'])), file='image')
    assert task.vocab == ['round', 'square'] and task.skipped == [('row 12', 'no file is named')]
    want = {np.asarray(open_image(f)).tobytes(): c for f, c in zip(files, classes)}
    assert {np.asarray(open_image(f)).tobytes(): c for f, c in zip(task.df.item, task.df.label)} == want

def test_an_empty_cell_names_no_file(photographs):
    files, classes = photographs
    folder = files[0].parent.parent
    pd.DataFrame(dict(file=gap([f.relative_to(folder) for f in files]), label=classes)).to_csv(folder/'gap.csv', index=False)
    task = ImageTask.from_csv(folder/'gap.csv')
    assert len(task.df) == 11 and task.skipped == [('row 1', 'no file is named')] # as of texts, that of names is none
    for odd in [dict(a=1)], [[1, 2]], [object()], [np.zeros((9, 9, 3))]:
        one_line(lambda: ImageTask.from_df(pd.DataFrame(dict(file=[*files, *odd], label=[*classes, 'round']))), 'column "file"', 'row 12')

def test_a_picture_without_a_file_is_called_by_its_row(photographs):
    data = [f.read_bytes() for f in photographs[0]]
    task = ImageTask.from_df(pd.DataFrame(dict(file=[data[0][:99], *data[1:], data[0]], label=[*photographs[1], None])))
    assert task.skipped[0][0] == 'row 0' and task.skipped[1] == ('row 12', 'no label')


# checkpoints

vocabulary = 'a the good bad film was is very not at all fine poor dull bright story with end and of plot'.split()

def a_tokenizer():
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', *vocabulary])}, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', model_max_length=36)

def of_texts():
    torch.manual_seed(0)
    return tf.BertForSequenceClassification(tf.BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                                          max_position_embeddings=40)).eval()

def of_images():
    torch.manual_seed(0)
    return tf.ViTForImageClassification(tf.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
                                                     patch_size=8)).eval()

def trained(net, beside, data, to):
    "A folder of checkpoints as transformers' Trainer leaves it"
    how = tf.TrainingArguments(str(to), max_steps=2, save_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy='no',
                               learning_rate=.01, remove_unused_columns=False)
    tf.Trainer(net, how, train_dataset=data, processing_class=beside).train()
    return to/'checkpoint-2'

@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    "Networks of texts and of images in the forms in which they are found"
    to, net, tok, look = tmp_path_factory.mktemp('checkpoints'), of_texts(), a_tokenizer(), tf.ViTImageProcessor(size=dict(height=32, width=32))
    row = dict(tok('the good film', padding='max_length', max_length=8, return_tensors='pt')) | dict(labels=torch.tensor(1))
    rows = [{k: v.squeeze(0) for k, v in row.items()}]*4
    vit = of_images()
    trained(net, tok, rows, to/'texts')
    trained(vit, look, [dict(pixel_values=torch.zeros(3, 32, 32), labels=0)]*4, to/'images')
    for kind, o, beside in ('texts', net, tok), ('images', vit, look):
        o.save_pretrained(to/f'{kind}-pieces', max_shard_size='10KB')
        beside.save_pretrained(to/f'{kind}-pieces')
        shutil.copytree(to/f'{kind}-pieces', to/f'{kind}-bin', ignore=shutil.ignore_patterns('*.safetensors*'))
        torch.save(o.state_dict(), to/f'{kind}-bin/pytorch_model.bin')
    return SimpleNamespace(folder=to, texts=net, images=vit)

@pytest.fixture(scope='module')
def text_task():
    rng = np.random.default_rng(0)
    table = [(f'{" ".join(rng.choice(vocabulary[4:], 5))} {o} {o}', o) for o in ('good', 'bad')*12]
    return TextTask.from_df(pd.DataFrame(table, columns=['text', 'label']))

@pytest.fixture(scope='module')
def image_task(photographs): return ImageTask.from_df(pd.DataFrame(dict(file=photographs[0], label=photographs[1])))

def check_weights(learn, net):
    "Does the learner's body hold every matrix of `net`, but those of heads?"
    has = {v.numpy().tobytes() for v in learn.model.body.state_dict().values()}
    matrices = {k: v for k, v in net.state_dict().items() if v.dim() > 1 and not any(o in k for o in ('classifier', 'pooler', 'fc.'))}
    assert len(matrices) > 8 and all(v.numpy().tobytes() in has for v in matrices.values())

@pytest.mark.parametrize('form', ['texts/checkpoint-2', 'texts-pieces', 'images/checkpoint-2', 'images-pieces'])
def test_checkpoints_of_the_trainer(checkpoints, form, text_task, image_task):
    kind, folder = form.partition('/')[0].partition('-')[0], checkpoints.folder/form
    assert len(list(folder.glob('*.index.json'))) == ('pieces' in form)
    assert (folder/'optimizer.pt').exists() == ('checkpoint' in form)
    task, size = (text_task, 12) if kind == 'texts' else (image_task, 32)
    check_weights(transfer_learner(task, folder, size=size, bs=4, seed=0), getattr(checkpoints, kind))

def test_what_no_weights_can_be_taken_from_says_what_to_do(checkpoints, text_task, image_task):
    for kind, task in dict(texts=text_task, images=image_task).items():
        start = lambda what: transfer_learner(task, what, size=32)
        one_line(lambda: start(checkpoints.folder/f'{kind}-bin'), 'pickled weights are never opened', 'safetensors')
        if kind == 'images': one_line(lambda: start(checkpoints.folder/kind), 'checkpoint-2')
        else: assert start(checkpoints.folder/kind).pretrained.name == 'texts/checkpoint-2'
        one_line(lambda: start(getattr(checkpoints, kind).state_dict()), 'weights', 'save_pretrained' if kind == 'texts' else 'load_state_dict')
        torn = shutil.copytree(checkpoints.folder/f'{kind}-pieces', checkpoints.folder/f'{kind}-torn')
        min(torn.glob('*-of-*')).unlink()
        one_line(lambda: start(torn), str(torn), 'copy')
    one_line(lambda: transfer_learner(text_task, checkpoints.texts), 'save_pretrained')

def test_weights_of_a_network_of_timm(image_task, tmp_path):
    net = timm.create_model('resnet10t', num_classes=5)
    torch.save(net.state_dict(), tmp_path/'net.pth')
    save_file(net.state_dict(), tmp_path/'net.safetensors')
    there = timm.create_model('resnet10t', num_classes=7)
    there.load_state_dict({k: v for k, v in torch.load(tmp_path/'net.pth', weights_only=True).items() if 'fc' not in k}, strict=False)
    for start in net, there, pretrained('resnet10t', weights=tmp_path/'net.safetensors'), timm_without_head(net):
        check_weights(transfer_learner(image_task, start, size=32, bs=4), net)
    one_line(lambda: transfer_learner(image_task, tmp_path/'net.pth'), 'weights_only=True', 'load_state_dict')
    one_line(lambda: transfer_learner(image_task, tmp_path/'net.safetensors'), 'weights=')
    one_line(lambda: transfer_learner(image_task, net.state_dict()), 'load_state_dict')

def timm_without_head(net):
    bare = timm.create_model('resnet10t', num_classes=0)
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if 'fc' not in k})
    return bare

def test_a_module_that_is_given_is_left_as_it_was(image_task, checkpoints):
    net = of_images()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn = transfer_learner(image_task, net, size=32, bs=4, seed=0)
    check_weights(learn, net)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# fastai's own ways

@pytest.fixture(scope='module')
def learner(image_task, tmp_path_factory):
    learn = transfer_learner(image_task, 'timm/resnet10t', source='random', size=64, seed=0, bs=4, path=tmp_path_factory.mktemp('learner'))
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn

def test_fastai_trains(learner):
    learner.lr_find(num_it=4, show_plot=False)
    learner.freeze()
    frozen = [p.requires_grad for p in learner.model.parameters()].count(False)
    learner.freeze_to(-2)
    assert 0 < [p.requires_grad for p in learner.model.parameters()].count(False) < frozen
    learner.unfreeze()
    before = {k: v.clone() for k, v in learner.model.named_parameters()}
    learner.fit_one_cycle(1, slice(1e-4, 1e-2))
    assert all(not torch.equal(v, before[k]) for k, v in learner.model.named_parameters() if v.dim() > 1)
    learner.fine_tune(1)
    learner.fit_flat_cos(1)
    assert len(learner.recorder.values) == 1

@pytest.mark.parametrize('cbs', [[EarlyStoppingCallback, SaveModelCallback, MixUp], [CutMix], [CSVLogger, GradientClip]], ids=lambda o: '+'.join(c.__name__ for c in o))
def test_fastai_s_callbacks(learner, cbs):
    learner.fit(1, 1e-3, cbs=[o() for o in cbs])
    assert np.isfinite(learner.recorder.values[-1]).all()

def test_fastai_predicts(learner, image_task):
    learner.model.eval()
    items = image_task.part('valid').item.to_list()
    probs, y = learner.get_preds()
    assert probs.shape == (len(items), 2) and torch.allclose(probs.sum(1), torch.ones(len(items)))
    assert np.allclose([learner.predict(o)[2].tolist() for o in items], probs, atol=1e-4)
    assert torch.allclose(learner.get_preds(dl=learner.dls.test_dl(items))[0], probs, atol=1e-5)
    assert [len(o) for o in learner.get_preds(ds_idx=1, with_loss=True, with_decoded=True)] == [len(items)]*4
    assert [o.shape[0] for o in learner.tta(n=2)] == [len(items)]*2
    assert len(learner.validate()) == 2

def test_fastai_shows(learner, capsys):
    learner.dls.show_batch()
    learner.show_results()
    learner.recorder.plot_loss()
    assert '3 x 64 x 64' in repr(learner.summary())
    seen = ClassificationInterpretation.from_learner(learner)
    assert seen.confusion_matrix().sum() == len(learner.dls.valid_ds) and len(seen.top_losses(2)[0]) == 2
    seen.plot_confusion_matrix()
    seen.plot_top_losses(2)
    matplotlib.pyplot.close('all')

def test_fastai_keeps(learner, image_task):
    one = image_task.df.item.iloc[0]
    want = learner.predict(one)[2]
    learner.save('kept')
    with torch.no_grad(): [o.mul_(-3) for o in learner.model.head.parameters()]
    assert not torch.allclose(learner.predict(one)[2], want)
    learner.load('kept')
    assert torch.allclose(learner.predict(one)[2], want)
    learner.export('exported.pkl')
    again = load_learner(learner.path/'exported.pkl')
    assert torch.allclose(again.predict(one)[2], want) and list(again.dls.vocab) == ['round', 'square']
    assert torch.allclose(again.get_preds(dl=again.dls.test_dl([one]))[0][0].double(), want, atol=1e-4)

def test_tasks_and_networks_are_copied_and_pickled(learner, image_task, text_task):
    for task in image_task, text_task:
        for o in copy.deepcopy(task), pickle.loads(pickle.dumps(task)): assert repr(o) == repr(task) and o.df.equals(task.df) and o.fingerprint == task.fingerprint
    x, net = torch.randn(2, 3, 64, 64), learner.model.eval()
    for o in copy.deepcopy(net), pickle.loads(pickle.dumps(net)): assert torch.equal(o(x), net(x))
    other = copy.deepcopy(net)
    with torch.no_grad(): next(other.parameters()).add_(1)
    assert not torch.equal(next(other.parameters()), next(net.parameters()))

def test_networks_are_exported(learner, tmp_path):
    net, x = copy.deepcopy(learner.model).cpu().eval(), torch.randn(2, 3, 64, 64)
    want = net(x).detach()
    assert torch.allclose(torch.jit.trace(net, x)(x), want, atol=1e-5)
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), want, atol=1e-5)
    torch.onnx.export(net, (x,), str(tmp_path/'net.onnx'), dynamo=False, input_names=['x'])
    assert np.allclose(run_onnx(tmp_path/'net.onnx', x.numpy()), want, atol=1e-4)

def test_fastai_s_own_ways_with_texts(text_task, checkpoints, tmp_path):
    learn = transfer_learner(text_task, checkpoints.folder/'texts-pieces', size=12, bs=4, seed=0, path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.lr_find(num_it=24, show_plot=False)
    learn.fit_one_cycle(1, 1e-3)
    learn.fine_tune(1, cbs=[EarlyStoppingCallback(), SaveModelCallback()])
    items, one = text_task.part('valid').item.to_list(), 'a very good story'
    probs, _ = learn.get_preds()
    assert torch.allclose(learn.get_preds(dl=learn.dls.test_dl(items))[0], probs, atol=1e-5) and learn.tta(n=2)[0].shape == probs.shape
    want = learn.get_preds(dl=learn.dls.test_dl([one]))[0]
    assert torch.allclose(want[0].double(), learn.predict(one)[2], atol=1e-5)
    one_line(lambda: learn.dls.test_dl([one, None]), 'item 1', 'no text')
    one_line(lambda: learn.dls.test_dl([one], with_labels=True), 'with_labels')
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == len(items)
    assert '4 x' in repr(learn.summary())
    learn.save('kept')
    with torch.no_grad(): [o.mul_(-3) for o in learn.model.head.parameters()]
    learn.load('kept')
    learn.export('exported.pkl')
    again = load_learner(tmp_path/'exported.pkl')
    for o in learn, again: assert torch.allclose(o.get_preds(dl=o.dls.test_dl([one]))[0], want, atol=1e-5)
    x, net = learn.dls.one_batch()[0], copy.deepcopy(learn.model).eval()
    for o in pickle.loads(pickle.dumps(net)), torch.jit.trace(net, x, check_trace=False), torch.export.export(net, (x,)).module():
        assert torch.allclose(o(x), net(x), atol=1e-5)

def run_onnx(file, x):
    import onnx
    onnx.checker.check_model(str(file))
    try: import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator
        return ReferenceEvaluator(str(file)).run(None, dict(x=x))[0]
    return onnxruntime.InferenceSession(str(file)).run(None, dict(x=x))[0]


# kinds of pictures

y, x = np.mgrid[:48, :64]
colours = np.stack([2*x, 5*y, 255*((x + y) % 16 < 5)], -1).clip(0, 255).astype('u1')
colour, grey = Image.fromarray(colours), Image.fromarray(colours.max(-1))
clear = Image.fromarray(np.dstack([colours, colours.max(-1)]))
palette, one_bit = colour.quantize(32), grey.point(lambda v: 255*(v > 99)).convert('1')
others = [Image.fromarray(np.ascontiguousarray(o)) for o in (colours[::-1], colours[:, ::-1])]

def saved(im, kind, **kwargs):
    to = BytesIO()
    im.save(to, kind, **kwargs)
    return to.getvalue()

def decoded(data, mode='RGB'): return Image.open(BytesIO(data)).convert(mode)
def on_white(im): return Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im.convert('RGBA')).convert('RGB')

see_through = dict(transparency=bytes(range(0, 256, 8)))
pictures = { # name of a file → its bytes, and the same picture as RGB
    'cmyk.tif': lambda: (saved(colour.convert('CMYK'), 'TIFF'), colour.convert('CMYK').convert('RGB')),
    'cmyk.jpg': lambda: (d := saved(colour.convert('CMYK'), 'JPEG', quality=95), decoded(d)),
    'palette.png': lambda: (saved(palette, 'PNG'), palette.convert('RGB')),
    'palette clear.png': lambda: (d := saved(palette, 'PNG', **see_through), on_white(decoded(d, 'RGBA'))),
    'palette one clear.png': lambda: (d := saved(palette, 'PNG', transparency=3), on_white(decoded(d, 'RGBA'))),
    'colour clear.png': lambda: (d := saved(colour, 'PNG', transparency=tuple(colours[5, 5].tolist())), on_white(decoded(d, 'RGBA'))),
    'la.png': lambda: (saved(Image.merge('LA', (grey, one_bit.convert('L'))), 'PNG'), on_white(Image.merge('LA', (grey, one_bit.convert('L'))))),
    **{f'one bit.{e}': lambda e=e: (saved(one_bit, dict(tif='TIFF', pbm='PPM').get(e, e)), one_bit.convert('RGB')) for e in ('png', 'tif', 'bmp', 'pbm')},
    **{f'rgba.{e}': lambda e=e: (saved(clear, dict(tif='TIFF').get(e, e), lossless=True), on_white(clear)) for e in ('png', 'tif', 'webp')},
    **{f'grey16.{e}': lambda e=e: (saved(Image.fromarray(np.asarray(grey).astype('u2')*257), dict(tif='TIFF').get(e, e)), grey.convert('RGB')) for e in ('png', 'tif')},
    'animated.gif': lambda: (saved(palette, 'GIF', save_all=True, append_images=[o.quantize(32) for o in others]), palette.convert('RGB')),
    'animated.webp': lambda: (saved(colour, 'WEBP', save_all=True, append_images=others, lossless=True), colour),
    'animated.png': lambda: (saved(colour, 'PNG', save_all=True, append_images=others), colour),
    'pages.tif': lambda: (saved(colour, 'TIFF', save_all=True, append_images=others), colour),
    'packed.tif': lambda: (saved(colour, 'TIFF', compression='tiff_lzw'), colour),
    'lossless.webp': lambda: (saved(colour, 'WEBP', lossless=True), colour),
    'a.avif': lambda: (d := saved(colour, 'AVIF'), decoded(d)),
    'ycbcr.tif': lambda: (saved(colour.convert('YCbCr'), 'TIFF'), colour.convert('YCbCr').convert('RGB'))}

def tells_apart(learn):
    "Give a network that was not trained a head whose answers differ from item to item"
    seen = learn.frozen_now.all(learn.task.df.item.tolist())
    last = [m for m in learn.model.head.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.manual_seed(0)
    with torch.no_grad():
        w = torch.randn_like(last.weight)
        w /= ((seen - seen.mean(0)) @ w.T.cpu()).std()
        last.weight.copy_(w)
        last.bias.copy_(-w @ seen.mean(0))

@pytest.fixture(scope='module')
def seer(image_task, tmp_path_factory):
    "A saved network that was not trained, whose answers differ from picture to picture"
    learn = transfer_learner(image_task, 'timm/resnet10t', source='random', size=32, seed=0)
    tells_apart(learn)
    assert np.ptp([learn.predict(o)[2][0] for o in image_task.df.item]) > .1
    folder = learn.save_transfer(tmp_path_factory.mktemp('seer')/'my model', check=False)
    return SimpleNamespace(learn=learn, folder=folder, saved=load_transfer(folder))

def check_as_png(seer, file, picture):
    "Is the file seen as the same picture stored as RGB in a PNG?"
    plain = file.with_name('plain picture.png')
    picture.convert('RGB').save(plain)
    assert np.array_equal(open_image(file).convert('RGB'), open_image(plain))
    want, got = (seer.saved.predict(o, proba=True) for o in (plain, file))
    assert got['round'] == pytest.approx(want['round'], abs=1e-5)
    assert float(seer.learn.predict(file)[2][0]) == pytest.approx(want['round'], abs=1e-5)

@pytest.mark.parametrize('name', pictures)
def test_a_kind_of_picture(name, seer, tmp_path):
    if name.endswith('.avif') and not features.check('avif'): pytest.skip('this Pillow reads no AVIF')
    data, picture = pictures[name]()
    (tmp_path/name).write_bytes(data)
    check_as_png(seer, tmp_path/name, picture)

turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
         7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: np.rot90}

@pytest.mark.parametrize('turn', turns)
def test_pictures_that_lie_are_upright(turn, seer, tmp_path):
    said = Image.Exif()
    said[0x112] = turn
    upright = lambda im: Image.fromarray(np.ascontiguousarray(turns[turn](np.asarray(im))))
    for kind, more in dict(png={}, webp=dict(lossless=True), tiff={}, jpeg=dict(quality=95)).items():
        file = tmp_path/f'lying.{kind}'
        file.write_bytes(saved(colour, kind, exif=said, **more))
        check_as_png(seer, file, upright(decoded(saved(colour, 'jpeg', **more)) if kind == 'jpeg' else colour))


# kinds of texts

files_of_texts = dict(zip(('bom', 'crlf', 'cr', 'utf16', 'utf16le', 'utf32', 'big', 'nul', 'emoji', 'rtl', 'latin'), (
    (b'\xef\xbb\xbfthe good film', 'the good film'), (b'good\r\nfilm\r\n', 'good\r\nfilm\r\n'), (b'good\rfilm\r', 'good\rfilm\r'),
    ('gööd film'.encode('utf-16'), 'gööd film'), ('the good film'.encode('utf-16-le'), 'the good film'), ('good film'.encode('utf-32'), 'good film'),
    (b'the good story '*70_000, 'the good story '*70_000), (b'good\0film', 'good\0film'), ('good 😀👨‍👩‍👧'.encode(), 'good 😀👨‍👩‍👧'),
    ('\u202bقصة جيدة\u202c שלום'.encode(), '\u202bقصة جيدة\u202c שלום'), ('für good Übung'.encode('latin-1'), 'für good Übung'))))
nothing = ['', '   ', ' \n\t\r\n ', '\0', '\0\0\0\0', '\ufeff', '\u200b', '\u00a0\u3000', '\u200e\u200f', '\u202b\u202c', '\u00ad']

@pytest.fixture(scope='module')
def folder_of_texts(tmp_path_factory):
    to = tmp_path_factory.mktemp('my texts')/'of two classes'
    for kind in 'good', 'bad':
        (to/kind).mkdir(parents=True)
        for i in range(4): (to/kind/f'{i} ü.txt').write_text(f'the {kind} story {i}', 'utf-8')
    for name, (data, _) in files_of_texts.items(): (to/'good'/f'{name}.TXT').write_bytes(data)
    for i, o in enumerate(nothing): (to/'bad'/f'nothing {i}.txt').write_bytes(o.encode())
    (to/'good'/'packed.txt.gz').write_bytes(gzip.compress('packed gööd'.encode()))
    for name in ('.hidden.txt', 'Thumbs.db', '._0.txt', 'all.zip'): (to/'good'/name).write_bytes(b'stray')
    return to

def test_texts_of_each_kind_are_read(folder_of_texts):
    task = TextTask.from_folder(folder_of_texts)
    there = [f'the {kind} story {i}' for kind in ('good', 'bad') for i in range(4)] + [o for _, o in files_of_texts.values()] + ['packed gööd']
    assert sorted(task.df.item) == sorted(there)
    reasons = {f.name: why for f, why in task.skipped}
    assert reasons == {**{f'nothing {i}.txt': 'an empty text' for i in range(len(nothing))}, 'all.zip': '".zip" files are not read'}

@pytest.fixture(scope='module')
def reader(text_task, checkpoints, tmp_path_factory):
    "A saved network of texts that was not trained"
    learn = transfer_learner(text_task, checkpoints.folder/'texts-pieces', size=12, bs=4, seed=0)
    tells_apart(learn)
    folder = learn.save_transfer(tmp_path_factory.mktemp('reader')/'my model', check=False)
    return SimpleNamespace(folder=folder, saved=load_transfer(folder), learn=learn)

def test_odd_texts_are_answered(reader):
    say = lambda o: reader.saved.predict(o, proba=True)
    want = say('good film')
    assert abs(want['good'] - say('bad film')['good']) > 1e-3
    for o in b'\xef\xbb\xbfgood film', 'good film'.encode('utf-16'), 'good\r\nfilm', 'good\rfilm', 'good\nfilm', '  good   film ':
        assert say(o) == want
    for o in '😀', '\u202bقصة', 'x'*1_000_000, 'good '*200_000, '\ud800 good': assert sum(say(o).values()) == pytest.approx(1, abs=1e-3)
    rows = reader.saved.predict([*nothing, None, float('nan'), np.float32('nan'), pd.NA, pd.NaT, b''])
    assert [o.get('error') for o in rows] == ['no text']*len(rows)

rows_of_csv = [(f'{t} {i}', l) for i, (t, l) in enumerate([
    ('plain', 'good'), ('with "quotes", commas; and\nnew\r\nlines', 'good'), ('"all quoted"', 'good'), ("it's; bad", 'bad'), ('tab\there', 'bad'), ('  blanks  ', 'bad'),
    ('ünï 😀 قصة', 'good'), ('x', 'bad'), ('=1+1', 'good')]*3)]

@pytest.mark.parametrize('encoding, sep, quotes', [('utf-8', ',', csv.QUOTE_MINIMAL), ('utf-8-sig', ';', csv.QUOTE_ALL), ('utf-16', '\t', csv.QUOTE_MINIMAL), ('utf-32', ',', csv.QUOTE_ALL)],
                         ids=['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_fields_of_a_table_as_they_were_written(encoding, sep, quotes, tmp_path):
    file = tmp_path/'my table.csv'
    with file.open('w', encoding=encoding, newline='') as f:
        out = csv.writer(f, delimiter=sep, quoting=quotes)
        out.writerows([('text', 'label'), *rows_of_csv])
    (tmp_path/'packed.csv.gz').write_bytes(gzip.compress(file.read_bytes()))
    for o in file, tmp_path/'packed.csv.gz':
        task = TextTask.from_csv(o, 'text')
        assert same(task) == dict(rows_of_csv)
        assert encoding.removesuffix('-sig').upper() in task.notes[0]

def test_a_table_of_old_macs(tmp_path):
    (tmp_path/'cr.csv').write_bytes(b'text,label\r' + b''.join(f'{t},{l}\r'.encode() for t, l in zip(texts, words)))
    assert same(TextTask.from_csv(tmp_path/'cr.csv')) == dict(zip(texts, words))


# the commands

def test_commands_on_texts_and_paths_with_blanks(reader, folder_of_texts):
    found = json.loads(tl('audit', folder_of_texts, '--json', '-').out)
    assert found['classes'] == dict(good=4 + len(files_of_texts) + 1, bad=4) and len(found['skipped']) == len(nothing) + 1
    table = tl('eval', reader.folder, folder_of_texts, '--json', '-')
    assert json.loads(table.out)['n'] == 9 + len(files_of_texts) and 'accuracy' in table.err
    rows = json.loads(tl('predict', reader.folder, folder_of_texts, '--json', '-').out)
    assert [Path(o['file']).name for o in rows if 'error' in o] == [f'nothing {i}.txt' for i in sorted(range(len(nothing)), key=str)]
    assert 'packed.txt.gz' in {Path(o['file']).name for o in rows if 'label' in o}

def test_commands_on_images_and_paths_with_blanks(seer, named):
    lines = tl('predict', seer.folder, named).out.splitlines()
    assert len(lines) == 2*len(names) and all(o.split('\t')[1] in ('round', 'square') for o in lines)
    rows = json.loads(tl('predict', seer.folder, named, '--json', '-').out)
    assert {Path(o['file']).name for o in rows} == set(names)
    assert 'nothing to worry about' in tl('audit', named).out or tl('audit', named).status == 0
    assert 'round [1] ä' in tl('eval', seer.folder, named).err # which the model does not know

@pytest.mark.skipif(os.name != 'posix', reason='a shell with pipes')
def test_a_pipe_that_closes_early_is_no_error(seer, named):
    command = f'"{Path(sys.executable).with_name("tl-predict")}" "{seer.folder}" "{named}" 2>&1 | head -1'
    out = subprocess.run(command, shell=True, capture_output=True, text=True, encoding='utf-8').stdout
    assert len(out.splitlines()) == 1 and out.split('\t')[1] in ('round', 'square')


# what is an extra

@pytest.mark.parametrize('lacks', ['ipywidgets', 'anywidget'])
def test_without_its_extra_the_dashboard_is_one_line(lacks):
    code = f"""
import sys
class Lacks:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == '{lacks}': raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Lacks())
from tl_nbdev.base.settings import TransferError
try: from tl_nbdev.apps.dashboard import *
except TransferError as e: print(e)
"""
    got = python(code)
    assert got.stdout == f'the dashboard needs {lacks}: pip install "tl_nbdev[dashboard]"\n', got.stderr

@pytest.mark.parametrize('column, said', [('group', True), ('patient_id', True), ('Subject', True), ('notes', False)])
def test_a_column_of_groups_that_is_not_used_is_said(column, said, tmp_path):
    pd.DataFrame({'text': [f'a {w} text, number {i}' for i, w in zip(range(30), ['good', 'bad']*15)], 'label': ['good', 'bad']*15, column: [f'x{i//3}' for i in range(30)]}).to_csv(tmp_path/'t.csv', index=False)
    assert any(f'group="{column}"' in o for o in TextTask.from_csv(tmp_path/'t.csv').notes) == said
    assert not any('looks like groups' in o for o in TextTask.from_csv(tmp_path/'t.csv', group=column).notes)
    assert (f'--group {column}' in tl('audit', tmp_path/'t.csv', '--text', 'text').out) == said
