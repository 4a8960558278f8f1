"What users of other libraries reported: an answer that was wrong without a word, or a line that led astray; tried here with data of the same kind."
import json, shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import transformers
from conftest import photo, photos, refused, tl
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from safetensors.torch import load_file, save_file
from tl_nbdev.text.encoders import text_pretrained
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.data.labels import as_numbers
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.vision.pixels import open_image
from tl_nbdev.training.saved import Predictor, load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.data.tables import read_table
from tl_nbdev.text.texts import TextTask
from tl_nbdev.vision.zoo import pretrained
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.nn import functional as F

words = 'goal match team coach oven flour sauce garlic court judge clause appeal the a and'.split()
topics = dict(cooking=words[4:8], law=words[8:12], sport=words[:4])

def rows(n=30, classes=('cooking', 'law', 'sport')):
    "A table of texts that differ, told apart by their words"
    rng, topic = np.random.default_rng(0), list(topics.values())
    return pd.DataFrame(dict(text=[f'no. {i} the {" and ".join(rng.choice(topic[i % len(classes)], 4))}' for i in range(n)],
                             label=[classes[i % len(classes)] for i in range(n)]))

def labelled(*labels): return rows().assign(label=[labels[i % len(labels)] for i in range(30)])

def written(path, text, encoding='utf-8'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path

def noted(task, *said): return all(any(o in note for note in task.notes) for o in said)

def found(task): return {o['found']: o['count'] for o in task.audit()}

def refuses(words, make, *args, **kwargs):
    with pytest.raises(TransferError) as e: make(*args, **kwargs)
    assert words in str(e.value) and '\n' not in str(e.value), e.value


# numbers

@pytest.mark.parametrize('written, read', [
    (['53,2', '1,401', '7,04'], [53.2, 1.401, 7.04]), (['1.401,40', '532', '1.234'], [1401.4, 532., 1234.]),
    (['1,401.40', '532', '1,234'], [1401.4, 532., 1234.]), (['1,234,567', '1,000'], [1234567., 1000.]),
    (['0,125', '3,141'], [.125, 3.141]), (['1 234', '1\u202f500', '12'], [1234., 1500., 12.]),
    (['\u22125', '+3', '1e3'], [-5., 3., 1000.]), ([1.234, '900', 1.011], [1.234, 900., 1.011]),
    (['0.125', '900', '1.011'], [.125, 900., 1.011]), (['12,34,567', '1,00,000'], [1234567., 100000.]),
    (['1.2.2020', '1.234.56', '10.0.0.1', '1,5'], ['1.2.2020', '1.234.56', '10.0.0.1', 1.5])])
def test_commas_and_points(written, read):
    "A value of 53,2 was read as 532: pandas-dev/pandas#25218"
    assert as_numbers(written) == read

@pytest.mark.parametrize('numbers', [[f'{900 + 10*i:,}' for i in range(30)], [f'{900 + 10*i:,}'.replace(',', '.') for i in range(30)]])
def test_numbers_that_may_be_either_are_refused(numbers):
    "Of 1,20 and 1.234,56 the wrong one was blamed: pandas-dev/pandas#59299"
    refuses('may be 1.', TextTask.from_df, rows().assign(label=numbers), regression=True)
    refuses('stands for two things', TextTask.from_df, labelled('1,5', '1,234,567'), regression=True)

def test_a_number_that_stands_for_none(tmp_path):
    "The missing values of a weather service are -999, and were taken for temperatures: ropensci/nasapower#36"
    task = TextTask.from_df(rows().assign(label=[-999 if i % 7 == 0 else i for i in range(30)]), regression=True)
    assert noted(task, '5 of 30 items have the number -999')
    assert not TextTask.from_df(rows().assign(label=[-99 + i for i in range(30)]), regression=True).notes


# labels

@pytest.mark.parametrize('how', ['table', 'csv', 'dataset'])
def test_minus_one_for_no_label(tmp_path, how):
    "All labels of a test split are -1, a class like the others: huggingface/datasets#5624"
    df = labelled(-1, 0, 1, 2)
    df.to_csv(tmp_path/'t.csv', index=False)
    make = dict(table=lambda: TextTask.from_df(df), csv=lambda: TextTask.from_csv(tmp_path/'t.csv'),
                dataset=lambda: TextTask.from_dataset(Dataset.from_pandas(df)))
    assert noted(make[how](), 'class "-1" (8 items)')
    assert not noted(TextTask.from_df(labelled(-1, 1)), 'class "-1"')

def test_minus_one_where_classes_are_named():
    "The same, where the type of the column knows its classes: huggingface/datasets#183"
    features = Features(dict(text=Value('string'), label=ClassLabel(names=['no', 'yes'])))
    task = TextTask.from_dataset(Dataset.from_dict(labelled(-1, 0, 1).to_dict('list'), features=features))
    assert task.vocab == ['no', 'yes'] and [why for _, why in task.skipped] == ['no label']*10

def test_a_country_called_na(tmp_path):
    "NA, null and N/A are read as missing, and their rows go: pandas-dev/pandas#55032"
    names = ['NA', 'null', 'None', 'N/A', 'nan']
    labelled(*names).to_csv(tmp_path/'t.csv', index=False)
    task = TextTask.from_csv(tmp_path/'t.csv')
    assert task.vocab == sorted(names) and len(task.df) == 30 and noted(task, 'class "NA" (6 items) is read as a name')

def test_codes_keep_their_zeros(tmp_path):
    "Codes lose their leading zeros, so that 02360 and 2360 are one: catalyst-cooperative/pudl#404"
    labelled('02360', '2360', '1E5', '100000').to_csv(tmp_path/'t.csv', index=False)
    assert TextTask.from_csv(tmp_path/'t.csv').vocab == ['02360', '100000', '1E5', '2360']

def test_numbers_in_the_order_of_numbers(tmp_path):
    "Classes 1 to 100 are ordered as 1, 10, 100, 11: pytorch/vision#714"
    for i in range(11): photos(tmp_path/'d'/str(i), 3, ('round',))
    assert ImageTask.from_folder(tmp_path/'d').vocab == list(map(str, range(11)))

@pytest.mark.parametrize('odd', ['cat ', ' cat', 'cat\u200b', '\ufeffcat', 'cat\u2060', 'cat\xa0', '\u200ecat'])
def test_what_is_not_seen_makes_no_class(odd):
    "A label with a blank behind it was another class: apple/turicreate#1531"
    task = TextTask.from_df(labelled('cat', odd, 'dog'))
    assert task.vocab == ['cat', 'dog'] and noted(task, 'labels that look the same are one class: cat')

@pytest.mark.parametrize('names', [('non-toxic', 'non–toxic', 'toxic'), ('non_toxic', 'non toxic', 'x'), ('Ａ', 'A', 'b'), ('YES.', 'yes', 'no'), ('"a"', 'a', 'b')])
def test_names_that_look_alike_are_found(names):
    "Classes of one thing in several spellings, unnoticed: apple/turicreate#1531"
    assert any('look much the same' in o or 'white space alone' in o for o in found(TextTask.from_df(labelled(*names))))
    assert not any('look much the same' in o for o in found(TextTask.from_df(labelled('C++', 'C#', 'C', '-1', '1', '1-2', '12'))))

def test_several_labels_in_one_cell():
    "Six diseases with blanks between them became eleven classes: Lightning-Universe/lightning-flash#728"
    assert noted(TextTask.from_df(labelled('scab', 'rust', 'scab|rust')), '1 of 3 classes, such as "scab|rust"', 'delim="|"')
    assert noted(TextTask.from_df(labelled('a, b', 'b, a', 'c')), 'delim=","')
    assert noted(TextTask.from_df(labelled('a;b', 'b;c', 'c;a')), 'delim=";"')
    for others in (('Lyon, France', 'Leeds, UK'), ('and/or', 'neither')): assert not noted(TextTask.from_df(labelled(*others)), 'delim')
    assert TextTask.from_df(labelled('scab', 'rust', 'scab|rust'), delim='|').vocab == ['rust', 'scab']

def test_a_sign_between_labels_that_is_in_none():
    "label1#label2 came back as one label, as another sign was expected: doccano/doccano#1821"
    assert noted(TextTask.from_df(labelled('a#b', 'a', 'b'), delim=';'), 'no label holds ";"')
    assert not TextTask.from_df(labelled('a#b', 'a', 'b'), delim='#').notes

def test_labels_stay_with_their_rows():
    "Labels were joined by the index of a table that was shuffled: alanarazi7/TabSTAR#25"
    df = rows()
    of = dict(zip(df.text, df.label))
    for other in (df.sample(frac=1, random_state=0), df.set_index(pd.Index([0]*30)), df[df.index % 2 == 0], df.assign(label=df.label.astype('category')).iloc[::-1]):
        task = TextTask.from_df(other)
        assert len(task.df) == len(other) and all(of[o.item] == o.label for o in task.df.itertuples())

@pytest.mark.parametrize('room', ['texts', 'images'])
def test_a_column_is_not_its_own_label(room, tmp_path):
    "The column that was chosen as label could be chosen as input once more: apache/texera#8012"
    df = labelled('good', 'bad')
    if room == 'texts': refuses('can\'t be what is looked at and its label', TextTask.from_df, df, 'label', 'label')
    else: refuses('can\'t be what is looked at and its label', ImageTask.from_df, df, 'text', 'text')
    refuses('can\'t be what is looked at', TextTask.from_df, df.assign(a=1, b=0), 'text', ['a', 'text'])


# tables

def csv(lines, head='text,label'): return '\n'.join([head, *(f'{t},{label}' for t, label in lines), ''])

@pytest.mark.parametrize('end', [',', ',,'])
def test_a_comma_at_the_end_of_each_row(tmp_path, end):
    "Columns move by one where rows end in a comma: pandas-dev/pandas#14124"
    lines = [(t, label + end) for t, label in rows().itertuples(index=False)]
    assert TextTask.from_csv(written(tmp_path/'t.csv', csv(lines))).vocab == ['cooking', 'law', 'sport']

def test_a_row_of_more_values_than_names(tmp_path):
    "One comma more in the first row, and all columns move without a word: pandas-dev/pandas#9295"
    lines = [*rows().itertuples(index=False)]
    refuses('line 2 has 3 values', TextTask.from_csv, written(tmp_path/'t.csv', csv([(lines[0][0], 'x,y'), *lines[1:]])))

def test_numbers_of_rows_are_no_texts(tmp_path):
    "The first column that to_csv writes is the index, and comes back as data: pandas-dev/pandas#13017"
    rows().sample(frac=1, random_state=0).to_csv(tmp_path/'t.csv')
    task = TextTask.from_csv(tmp_path/'t.csv')
    assert set(task.df.item) == set(rows().text)

def test_names_once_more_in_the_middle(tmp_path):
    "Tables that were merged hold their names several times: whitfin/s3-concat#3"
    lines = [*rows().itertuples(index=False)]
    task = TextTask.from_csv(written(tmp_path/'t.csv', csv([*lines[:9], ('text', 'label'), *lines[9:20], ('text', 'label'), *lines[20:]])))
    assert task.vocab == ['cooking', 'law', 'sport'] and len(task.df) == 30 and noted(task, '2 rows repeat the names')
    same = read_table(written(tmp_path/'same.csv', 'text\ntext\ntext\n'))
    assert len(same) == 2

@pytest.mark.parametrize('text', ["it's", 'café', 'a "b"', 'two\nlines', 'back\\slash'])
def test_bytes_as_python_prints_them(tmp_path, text):
    "Bytes were written into a table as b'…', and came back as such: pandas-dev/pandas#9712"
    df = pd.DataFrame(dict(text=[f'{text} {i}'.encode() for i in range(20)], label=[o.encode() for o in ['yes', 'no']*10]))
    df.to_csv(tmp_path/'t.csv', index=False)
    task = TextTask.from_csv(tmp_path/'t.csv')
    assert task.vocab == ['no', 'yes'] and set(task.df.item) == {f'{text} {i}' for i in range(20)} and noted(task, 'as Python prints them')
    plain = read_table(written(tmp_path/'p.csv', "text,label\nb'a',x\nb'b,x\n"))
    assert plain.text.to_list() == ["b'a'", "b'b"]


# texts

@pytest.mark.parametrize('of', [list, tuple, np.array, lambda o: dict(words=o)], ids=['list', 'tuple', 'array', 'dict'])
def test_lists_of_words_are_no_text(of):
    "Tokens that were parted already were parted again, brackets and all: huggingface/transformers#8217"
    refuses('column "text" holds', TextTask.from_df, rows().assign(text=[of(o.split()) for o in rows().text]))

def test_a_path_is_read(tmp_path):
    "Paths of text files were given to the tokenizer: ohmeow/blurr#6"
    df = rows()
    files = [written(tmp_path/f'{i}.txt', o) for i, o in enumerate(df.text)]
    assert set(TextTask.from_df(df.assign(text=files)).df.item) == set(df.text)
    assert noted(TextTask.from_df(df.assign(text=list(map(str, files)))), 'the texts are names of files')
    task = TextTask.from_df(df.assign(text=[*files[:-1], tmp_path/'gone.txt']))
    assert task.skipped == [('row 29', 'no such file')]

def test_a_column_of_numbers_is_hardly_the_one():
    "A column that was named as text held none: Giskard-AI/giskard-oss#1637"
    assert noted(TextTask.from_df(rows().assign(number=range(30)), 'number'), 'all texts are numbers')
    assert not TextTask.from_df(rows()).notes

@pytest.mark.parametrize('name', ['{}', '{:05}', '{}.7c53336b37003a9286aba55d2945844c', '{}.', 'cv{}_29416', '{}.TXT'])
def test_texts_without_a_suffix(tmp_path, name):
    "Clinical notes without a suffix were passed over, and an empty table came of it: fastai/fastai#1045"
    for i, (text, label) in enumerate(rows().itertuples(index=False)): written(tmp_path/'d'/label/name.format(i), text)
    assert len(TextTask.from_folder(tmp_path/'d').df) == 30
    got = tl('audit', tmp_path/'d', '--json', tmp_path/'a.json')
    assert got.status == 0 and got.json['classes'] == dict(cooking=10, law=10, sport=10)

def test_what_is_left_in_a_folder_of_texts_is_named(tmp_path):
    ".DS_Store and pictures were read as texts: scikit-learn/scikit-learn#19269"
    for i, (text, label) in enumerate(rows().itertuples(index=False)): written(tmp_path/'d'/label/f'{i}.txt', text)
    for name in ('.DS_Store', 'README', 'labels.csv', 'a.docx', 'b.html', 'c.zip', 'd.pdf', 'e'): written(tmp_path/'d'/'law'/name, b'\0\1\2\3'*9 if name == 'e' else 'x')
    task = TextTask.from_folder(tmp_path/'d')
    assert len(task.df) == 30
    assert {f.name: why for f, why in task.skipped} == {f: f'"{Path(f).suffix}" files are not read' for f in ('a.docx', 'b.html', 'c.zip', 'd.pdf')}

def test_a_text_of_which_nothing_is_seen():
    "A sign of no width became an unknown token: languagetool-org/languagetool#1986"
    df = rows()
    df.loc[:3, 'text'] = ['\u200b', '\ufeff ', '\u2060\xa0', '']
    assert [why for _, why in TextTask.from_df(df).skipped] == ['an empty text']*4


# networks of texts

@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    "A folder of a small BERT, as save_pretrained writes it"
    to = tmp_path_factory.mktemp('networks')/'bert'
    vocab = {o: i for i, o in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'no', '.', *words, *'0123456789'])}
    tok = Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]',
                                         sep_token='[SEP]', mask_token='[MASK]').save_pretrained(to)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64)
    transformers.BertModel(config).save_pretrained(to)
    return to

def altered(folder, to, change):
    "A copy of a folder whose weights are changed"
    shutil.copytree(folder, to)
    save_file(change(load_file(to/'model.safetensors')), to/'model.safetensors', metadata=dict(format='pt'))
    return to

def text_learner(folder): return transfer_learner(TextTask.from_df(rows()), folder, size=16, seed=0)

@pytest.fixture(scope='module')
def reader(bert): return text_learner(bert)

@pytest.mark.parametrize('prefix', ['module.', 'model.', '_orig_mod.', 'module.bert.'])
def test_a_wrapper_s_word_before_all_names(bert, tmp_path, prefix):
    "Names began with model., strict=False loaded nothing, and the answers were nonsense: pytorch/examples#1029"
    folder = altered(bert, tmp_path/'m', lambda state: {prefix + k: v for k, v in state.items()})
    refuses('tensors are not among its weights', text_learner, folder)

@pytest.mark.parametrize('dtype, scale', [(torch.int8, False), (torch.int8, True), (torch.float8_e4m3fn, True)])
def test_quantised_weights_without_a_word_in_the_configuration(bert, tmp_path, dtype, scale):
    "Weights of 8 bits were loaded without their scale, a thousand times too large: huggingface/transformers#47145"
    def change(state):
        whole = {k: (v*100).to(dtype) if v.dim() == 2 else v for k, v in state.items()}
        return whole | {f'{k}_scale': torch.tensor(.01) for k, v in state.items() if scale and v.dim() == 2}
    refuses('its weights are quantised', text_learner, altered(bert, tmp_path/'m', change))

def test_weights_that_are_no_numbers(bert, tmp_path):
    "All answers were black: a file of weights held nan: ICTMCG/Make-Your-Anchor#9"
    key = 'encoder.layer.0.output.dense.weight'
    refuses(f'32 of the 1,024 weights in {key}', text_learner, altered(bert, tmp_path/'m', lambda s: s | {key: s[key].index_fill(0, torch.tensor([3]), torch.nan)}))

def test_a_long_text_is_not_read_to_its_end(reader, bert, tmp_path, capsys):
    "A text is cut, and the answer looks like any other: urchade/GLiNER#378"
    saved = load_transfer(reader.save_transfer(tmp_path/'m', check=False))
    long = 'goal match team '*30
    assert '1 of 2 texts go beyond the 16 tokens' in saved.predict([long, 'goal match']).about and not saved.predict(['goal match']).about
    capsys.readouterr()
    saved.predict(long, proba=True)
    assert 'its beginning alone was read' in capsys.readouterr().out
    written(tmp_path/'long.txt', long)
    assert 'goes beyond the 16 tokens' in tl('predict', tmp_path/'m', tmp_path/'long.txt').err

def test_a_mark_of_the_tokenizer_in_a_text(bert):
    "What users write can be read as a mark that ends a text: huggingface/transformers#25081"
    df = rows()
    df.loc[:4, 'text'] += ' [SEP] oven'
    df.loc[2:3, 'text'] += ' [CLS] [UNK]'
    said = {o['found']: o for o in TextTask.from_df(df).audit(bert)}['texts that hold what is a mark to the tokenizer of bert']
    assert said['count'] == 5 and said['examples'] == '[CLS] (2), [SEP] (5)'
    assert not any('is a mark' in o['found'] for o in TextTask.from_df(rows()).audit(bert))

def test_asked_about_a_path_or_nothing(reader, tmp_path):
    "A path was classified instead of what stands in its file: ohmeow/blurr#6"
    saved = Predictor.of(reader.frozen_now, reader.model.head.eval(), reader.task)
    text, file = 'goal match and team', written(tmp_path/'x.txt', 'goal match and team')
    (of_file,), (of_text,) = saved.predict(file), saved.predict(text)
    assert of_file['probability'] == of_text['probability'] and of_file['label'] == of_text['label'] and of_file['text'].endswith('x.txt')
    assert [o.get('error') for o in saved.predict([tmp_path/'gone.txt', '\u200b', None, text])] == ['no such file', 'no text', 'no text', None]


# folders of images

def split(to, **classes):
    "A folder of parts, each with its classes"
    for i, (part, names) in enumerate(classes.items()):
        for j, name in enumerate(names):
            (to/part/name).mkdir(parents=True)
            for k in range(4): photo('round', 100*i + 10*j + k).save(to/part/name/f'{k}.png')
    return to

def test_a_class_that_a_part_lacks(tmp_path):
    "Of classes 0, 90, 180 and 270 test lacked 180, and 90 was scored as 180: ultralytics/ultralytics#13936"
    task = ImageTask.from_folder(split(tmp_path/'d', train=['0', '90', '180', '270'], val=['0', '90', '180', '270'], test=['0', '90', '270']))
    assert task.vocab == ['0', '90', '180', '270']
    assert {task.vocab[y] for y in task.targets('test')} == {'0', '90', '270'}
    assert all(task.vocab[y] == f.parent.name for y, f in zip(task.targets('test'), task.part('test').item))

def test_an_empty_class_folder_moves_no_class(tmp_path):
    "Empty folders of validation moved the numbers of all classes behind them: huggingface/pytorch-image-models#957"
    split(tmp_path/'d', train='abc', val='ac', test='abc')
    (tmp_path/'d'/'val'/'b').mkdir()
    task = ImageTask.from_folder(tmp_path/'d')
    assert all(task.vocab[y] == f.parent.name for y, f in zip(task.targets('valid'), task.part('valid').item)) and noted(task, 'class val/b: an empty folder')

def test_a_class_in_other_letters(tmp_path):
    "Folders of validation that are called otherwise are scored as something else: ultralytics/ultralytics#26192"
    task = ImageTask.from_folder(split(tmp_path/'d', train=['cat', 'dog'], val=['Cat', 'dog'], test=['cat', 'dog']))
    assert {why for _, why in task.skipped} == {'its class "Cat" is only in valid, not in train (train has "cat")'}
    other = ImageTask.from_folder(split(tmp_path/'e', train=['cat', 'dog'], val=['Cat', 'Dog'], test=['cat', 'dog']))
    refuses('(train has "cat")', transfer_learner, other, 'timm/resnet10t', source='random', size=32)

def test_folders_of_programs_are_no_class(tmp_path):
    "A hidden folder of Jupyter became class 0: open-mmlab/mmpretrain#507"
    photos(tmp_path/'d')
    shutil.copytree(tmp_path/'d'/'round', tmp_path/'d'/'.ipynb_checkpoints')
    shutil.copytree(tmp_path/'d'/'round', tmp_path/'d'/'round'/'.ipynb_checkpoints')
    task = ImageTask.from_folder(tmp_path/'d')
    assert task.vocab == ['round', 'square'] and len(task.df) == 12

def test_what_a_mac_writes_beside_files(tmp_path):
    "Beside each picture of an archive lay one whose name began with ._: alinlab/CSI#31"
    photos(tmp_path/'d')
    for f in sorted((tmp_path/'d').rglob('*.png')): written(f.with_name(f'._{f.name}'), b'\0\5\26\7')
    (tmp_path/'d'/'line').mkdir()
    written(tmp_path/'d'/'line'/'._a.png', b'\0\5\26\7')
    task = ImageTask.from_folder(tmp_path/'d')
    assert task.vocab == ['round', 'square'] and len(task.df) == 12 and noted(task, 'class line: 1 hidden file')

def test_a_file_that_tells_its_class(tmp_path):
    "All true pictures were JPEG and all false ones PNG, and a detector learned that: ZhendongWang6/DIRE#11"
    photos(tmp_path/'d', 12)
    assert not any('alone tells' in o for o in found(ImageTask.from_folder(tmp_path/'d')))
    for f in sorted((tmp_path/'d'/'round').iterdir()):
        Image.open(f).convert('L').resize((40, 40)).save(f.with_suffix('.jpg'))
        f.unlink()
    said = ' '.join(found(ImageTask.from_folder(tmp_path/'d')))
    for what in ('the suffix of a file', 'being grey or in colour', 'the size of a picture'): assert f'{what} alone tells the class (100 %)' in said

def test_one_group_leaves_nothing_to_judge_on(tmp_path):
    "A split that leaves one side empty was handed on: scikit-learn/scikit-learn#12861"
    df = pd.DataFrame(dict(file=sorted(photos(tmp_path/'d').rglob('*.png')), label=['round', 'square']*6, who='a'))
    refuses('of its groups, 1, none is torn apart', transfer_learner, ImageTask.from_df(df, group='who'), 'timm/resnet10t', source='random', size=32)


# tables of images

def test_cells_without_a_file(tmp_path):
    "A cell without a path was asked whether it exists, and all ended: awslabs/datawig#4"
    files = sorted(photos(tmp_path/'d').rglob('*.png'))
    df = pd.DataFrame(dict(file=[str(f) for f in files] + [None, ' ', float('nan')], label=[f.parent.name for f in files] + ['round', 'square', 'round']))
    df.to_csv(tmp_path/'t.csv', index=False)
    for task, first in ((ImageTask.from_df(df), 0), (ImageTask.from_csv(tmp_path/'t.csv'), 1)): # the rows of a file are counted from 1
        assert len(task.df) == 12 and not noted(task, 'gather')
        assert [(str(o), why) for o, why in task.skipped] == [(f'row {first + i}', 'no file is named') for i in (12, 13, 14)]

@pytest.mark.parametrize('of', [Image.open, lambda f: np.asarray(Image.open(f)), lambda f: f.read_bytes(), lambda f: dict(bytes=f.read_bytes(), path=None)], ids=['image', 'array', 'bytes', 'dict'])
def test_pictures_where_paths_are_wanted(tmp_path, of):
    "'numpy.ndarray' object has no attribute 'read': fastai/fastai#1172"
    files = sorted(photos(tmp_path/'d', 3).rglob('*.png'))
    task = ImageTask.from_df(pd.DataFrame(dict(file=[of(f) for f in files], label=['a', 'b']*3)))
    assert len(task.df) == 6 and all(np.array_equal(Image.open(o), Image.open(f)) for o, f in zip(task.df.item, files))


# pictures

def test_a_photo_that_lies_on_its_side(tmp_path):
    "Photos were trained on as they lay, whatever EXIF said: kohya-ss/sd-scripts#1316"
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (40, 20), 'red').save(tmp_path/'a.jpg', exif=exif)
    assert open_image(tmp_path/'a.jpg').size == (20, 40)

def test_four_colours_of_print(tmp_path):
    "Twenty photos in CMYK among a million spoiled the training: vlfeat/matconvnet#91"
    red = Image.new('RGB', (32, 32), (200, 30, 30))
    red.convert('CMYK').save(tmp_path/'a.jpg')
    assert np.abs(np.asarray(open_image(tmp_path/'a.jpg')).mean((0, 1)) - (200, 30, 30)).max() < 12

def test_what_is_transparent_is_on_white(tmp_path):
    "A digit on a transparent ground was tested on black: NVIDIA/DIGITS#85"
    im = Image.new('RGBA', (20, 20), (0, 0, 0, 0))
    im.paste((255, 0, 0, 255), (5, 5, 15, 15))
    im.save(tmp_path/'a.png')
    a = np.asarray(open_image(tmp_path/'a.png'))
    assert a[0, 0].tolist() == [255]*3 and a[10, 10].tolist() == [255, 0, 0]

def test_sixteen_bits_are_no_white_sheet(tmp_path):
    "A grey PNG of 16 bits came out white but for its blackest pixels: python-pillow/Pillow#2574"
    Image.fromarray((np.arange(64*64).reshape(64, 64)*16).astype('u2')).save(tmp_path/'a.png')
    a = np.asarray(open_image(tmp_path/'a.png').convert('L'))
    assert len(np.unique(a)) > 200 and (a == 255).mean() < .01

def test_pictures_that_are_in_two_parts(tmp_path):
    "All pictures of test were in train as well, byte by byte: stefyste/RIAWELC#2"
    split(tmp_path/'d', train='ab', val='ab', test='ab')
    for f in sorted((tmp_path/'d'/'train').rglob('*.png')): shutil.copy(f, tmp_path/'d'/'test'/f.relative_to(tmp_path/'d'/'train'))
    assert found(ImageTask.from_folder(tmp_path/'d'))['the same content in two parts of the split'] == 16

def test_a_file_that_cannot_be_read_has_a_name(tmp_path):
    "'image file is truncated', in the middle of training, and of which file is not said: pytorch/vision#138"
    photos(tmp_path/'d')
    for i, data in enumerate((b'', b'<html>404</html>', (tmp_path/'d'/'round'/'round0.png').read_bytes()[:900])): written(tmp_path/'d'/'round'/f'x{i}.png', data)
    assert {f.name for f, _ in ImageTask.from_folder(tmp_path/'d').skipped} == {'x0.png', 'x1.png', 'x2.png'}


# networks

class Small(nn.Module):
    def __init__(self, norm=None):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, 2), norm or nn.BatchNorm2d(8), nn.Linear(8, 5)
    def forward(self, x): return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

class Mixing(nn.Module):
    def __init__(self, kind): super().__init__(); self.kind = kind
    def forward(self, x):
        if self.kind == 'mean of the batch': return x - x.mean(0)
        if self.kind == 'a transposed batch': return x.permute(1, 0, 2, 3).reshape(x.shape)
        return x/x.abs().max()

def norms(norm=None, kind=None):
    torch.manual_seed(0)
    return Small(Mixing(kind) if kind else norm)

@pytest.mark.parametrize('kind', ['mean of the batch', 'a transposed batch', 'the largest of the batch', None])
def test_answers_that_depend_on_the_neighbours(kind):
    "An image gets another answer alone than in a batch: keras-team/keras#12400"
    net = norms(nn.BatchNorm2d(8, track_running_stats=False), kind)
    refuses('it mixes the images of a batch' if kind else 'norm is a BatchNorm without statistics', pretrained(net, size=32).body)
    for fine in (nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.Identity()): pretrained(norms(fine), size=32).body()

def test_dropout_that_never_rests():
    "With F.dropout each call gives another answer, in eval mode too: Coderx7/SimpleNet#2"
    class Drops(Small):
        def forward(self, x): return self.fc(F.dropout(self.conv(x).mean((2, 3))))
    refuses('other features for the same images each time', pretrained(Drops(), size=32).body)

@pytest.mark.parametrize('where', ['conv.weight', 'norm.running_var', 'norm.bias'])
def test_a_network_of_nan(where):
    "Weights of nan or infinity were loaded and answered: vllm-project/vllm#53537"
    net = norms()
    with torch.no_grad(): net.state_dict()[where].flatten()[0] = torch.inf if where == 'norm.bias' else torch.nan
    refuses(f'weights in {where} are no numbers', pretrained(net, size=32).body)

def test_a_network_into_which_nothing_was_loaded(tmp_path, capsys):
    "load_state_dict(…, strict=False) passes over all names, and says nothing: pytorch/pytorch#141256"
    task = ImageTask.from_folder(photos(tmp_path/'d', 3))
    trained = norms()
    with torch.no_grad(): trained.norm.weight.uniform_()
    for prefix, said in (('module.', True), ('', False)):
        net = Small()
        net.load_state_dict({prefix + k: v for k, v in trained.state_dict().items()}, strict=False)
        transfer_learner(task, pretrained(net, size=32), bs=2)
        assert ('were its weights loaded' in capsys.readouterr().out) == said

@pytest.fixture(scope='module')
def resnet(): return timm.create_model('resnet10t').state_dict()

def kept(state, to): save_file({k: v.clone() for k, v in state.items()}, to/'w.safetensors'); return pretrained('resnet10t', weights=to/'w.safetensors', size=32)

@pytest.mark.parametrize('change', [lambda s: {f'module.{k}': v for k, v in s.items()}, lambda s: {f'_orig_mod.module.{k}': v for k, v in s.items()},
    lambda s: {k: v for k, v in s.items() if not k.startswith('fc.')}, lambda s: s | {'fc.weight': torch.ones(3, 512), 'fc.bias': torch.ones(3)}], ids=['module', 'compiled', 'headless', 'other head'])
def test_files_of_weights_as_people_have_them(resnet, tmp_path, change):
    "Weights of a network that was trained on two devices begin with module., and were refused: pytorch/pytorch#3805"
    torch.testing.assert_close(kept(change(resnet), tmp_path).body().conv1[0].weight, resnet['conv1.0.weight'])

def test_weights_without_counts_of_batches(resnet, tmp_path):
    "Weights of an older torch lack num_batches_tracked, and were refused: mapillary/inplace_abn#130"
    state = {k: v for k, v in resnet.items() if 'num_batches' not in k}
    torch.testing.assert_close(kept(state, tmp_path).body().conv1[0].weight, resnet['conv1.0.weight'])
    refuses('of another network', kept({k: v for k, v in resnet.items() if 'running' not in k}, tmp_path).body)

@pytest.mark.parametrize('change, words', [(lambda v: (v*100).to(torch.int8), 'its weights are quantised'), (lambda v: v*torch.nan, 'no numbers')], ids=['int8', 'nan'])
def test_a_file_of_whole_numbers_or_none(resnet, tmp_path, change, words):
    "Quantised weights were taken for plain ones: Comfy-Org/ComfyUI#15511"
    refuses(words, kept({k: change(v) if v.is_floating_point() else v for k, v in resnet.items()}, tmp_path).body)

def test_weights_are_no_network(resnet):
    "'OrderedDict' object has no attribute 'parameters': pytorch/vision#1452"
    refuses('net.load_state_dict(weights), and pass net', pretrained, resnet)
    refuses('net.load_state_dict(weights["state_dict"])', pretrained, dict(state_dict=resnet, epoch=3))
    refuses('a checkpoint with a network, its "model": pass that', pretrained, dict(model=nn.Linear(2, 2)))
    refuses('Small is a class: pass a network of it', pretrained, Small)


# predictions

@pytest.fixture(scope='module')
def seer(tmp_path_factory):
    to = tmp_path_factory.mktemp('seer')
    learn = transfer_learner(ImageTask.from_folder(photos(to/'photos', 4)), 'timm/resnet10t', source='random', size=32, seed=0)
    return learn, sorted((to/'photos').rglob('*.png'))

def test_answers_in_the_order_of_the_questions(seer):
    "Predictions came in the order of sorted names, not in that of the table: keras-team/keras#11841"
    learn, files = seer
    asked = [files[i] for i in (5, 0, 7, 0, 3)]
    got = learn.predictor().predict(asked)
    assert [o['file'] for o in got] == list(map(str, asked))

def test_answers_do_not_depend_on_the_mode_a_learner_was_left_in(seer):
    "Predicting left dropout on, and each call gave another answer: fastai/fastai#224"
    learn, files = seer
    was = learn.predict(files[0])[2]
    learn.model.train()
    torch.testing.assert_close(learn.predict(files[0])[2], was)
    assert learn.model.training
