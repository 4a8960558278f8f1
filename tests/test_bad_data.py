"Tables, folders and labels that are not as they should be: one clear line and exit status 1, or training that goes on and says what it left out."
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import photo, photos, refused, small, tl
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.base.settings import TransferError

@pytest.fixture
def data(tmp_path, monkeypatch):
    "Photos of round and square, 6 each, in the folder `photos` of the current folder"
    monkeypatch.chdir(tmp_path)
    return photos(Path('photos'))

def rows(*more, label=lambda f: f.parent.name, sep=','):
    "The lines of a table of the photos, and `more` lines"
    return [sep.join((str(f), label(f))) for f in sorted(Path('photos').rglob('*.png'))] + list(more)

def table(*lines, head='file,label', encoding='utf-8', file='table.csv'):
    Path(file).write_bytes('\n'.join([*([head] if head else []), *lines, '']).encode(encoding))
    return file

def audited(*argv): return tl('audit', *argv, '--json', 'audit.json')

def findings(got): return {o['found']: o['count'] for o in got.json['findings']}


# refused: what is made in the current folder and given to tl-train, and words of the line

def empty(): Path('empty').mkdir(); return ['empty']
def loose(): shutil.copytree('photos/round', 'loose'); return ['loose']
def one_class(): shutil.rmtree('photos/square'); return ['photos']
def one_each(n): return lambda: [photos(Path('few'), n)]
def csv(*args, more=(), **kwargs): return lambda: [table(*(args or rows()), **kwargs), *more]

refusals = {
    'empty folder':            (empty, ['empty: no image files in it', 'a folder of its own']),
    'no such data':            (lambda: ['nowhere'], ['nowhere: no such folder', 'tl-samples']),
    'a name of two lines':     (lambda: ['no\nsuch'], ['no such folder']),
    'no class folder':         (loose, ['6 images lie in no class folder']),
    'one class':               (one_class, ['only one class, "round"', 'add items']),
    'one image a class':       (one_each(1), ['valid', 'at least 3']),
    'two images a class':      (one_each(2), ['valid', 'at least 3']),
    'weights for data':        (lambda: ['squeezenet1_1'], ['a sample of weights, not of labelled images']),
    'a photo for data':        (lambda: ['photos/round/round0.png'], ['round0.png']),
    'empty file':              (lambda: [table(head='')], ['table.csv: no rows in it']),
    'no rows':                 (lambda: [table()], ['table.csv: no rows in it']),
    'not a table':             (lambda: [table('"never closed', head='')], ['table.csv']),
    'no label column':         (csv(head='file,kind'), ['no column "label"', 'its columns are file, kind']),
    'no such label column':    (csv(more=['--label', 'kind']), ['no column "kind"', 'file, label']),
    'no such group column':    (csv(more=['--group', 'patient']), ['no column "patient"', 'file, label']),
    'no such file column':     (csv(more=['--file', 'photo']), ['no column "photo"', 'file, label']),
    'one column':              (lambda: [table('a.png', 'b.png', head='file')], ['no column "label"', 'its columns are file\n']),
    'no image files':          (csv('no-a,x', 'no-b,y'), ['no column holds names of image files', 'file, label']),
    'no file is there':        (csv('gone1.png,x', 'gone2.png,y'), ['nothing to learn from', 'gone1.png', 'no such file']),
    'one class is there':      (lambda: [table(*rows(label=lambda f: 'x'), 'gone.png,y')], ['only one class, "x"', 'gone.png', 'no such file']),
    'no labels':               (lambda: [table(*rows(label=lambda f: ''))], ['nothing to learn from', 'no label']),
    'label for a folder':      (lambda: ['photos', '--label', 'kind'], ['--label needs a table', '0 CSV files']),
    'accuracy of many labels': (csv(more=['--delim', ';', '--metric', 'accuracy']), ['accuracy needs one label an item', 'f1']),
    'limit 0':                 (lambda: ['photos', '--limit', 0], ['limit', '1 or more']),
    'limit below 0':           (lambda: ['photos', '--limit', -3], ['limit', '1 or more'])}

@pytest.mark.parametrize('case', refusals)
def test_refused(data, case):
    make, words = refusals[case]
    argv = make()
    refused(tl('train', *argv, *small), *words)
    with pytest.raises(TransferError): tl('train', *argv, *small, '--debug')

def test_parts_of_nonsense(data):
    df = pd.DataFrame([o.split(',') for o in rows()], columns=['file', 'label'])
    for part, words in (['train', 'probe']*6, 'has "probe": use train, valid or test'), (['train', None]*6, 'use train, valid or test'), (['test']*12, 'nothing to learn from'):
        with pytest.raises(TransferError, match=words): ImageTask.from_df(df.assign(part=part), part='part')
    for shares in dict(valid=.5, test=.5), dict(valid=-.1), dict(test=1):
        with pytest.raises(TransferError, match='some for train'): ImageTask.from_df(df, **shares)


# read all the same

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'latin-1', 'cp1252', 'utf-16'])
@pytest.mark.parametrize('sep', [',', ';', '\t'], ids=['comma', 'semicolon', 'tab'])
def test_tables_as_programs_write_them(data, encoding, sep):
    lines = rows(label=lambda f: dict(round='Größe, rund', square='None')[f.parent.name], sep=sep)
    lines = [o.replace('Größe, rund', '"Größe, rund"') for o in lines]
    task = ImageTask.from_csv(table(*lines, head=f'file{sep}label', encoding=encoding))
    assert task.sizes() == {'Größe, rund': 6, 'None': 6} and task.skipped == []

def test_rows_without_a_label_or_a_file_are_left_out_and_said(data):
    got = audited(table(*rows('photos/round/round0.png,', 'photos/round/round2.png,  ', 'gone.png,round')))
    assert got.status == 0 and got.json['classes'] == {'round': 6, 'square': 6}
    assert sorted(why for _, why in got.json['skipped']) == ['no label']*2 + ['no such file']
    assert findings(got)['left out: no label'] == 2

def test_words_that_pandas_takes_for_missing_are_labels(data):
    got = audited(table(*rows(label=lambda f: dict(round='N/A', square='null')[f.parent.name])))
    assert got.json['classes'] == {'N/A': 6, 'null': 6} and got.json['skipped'] == []
    assert 'N/A (6)' in got.out

@pytest.mark.parametrize('n', [1, 2])
def test_a_class_of_few_images_is_trained_and_noted(data, n):
    photos(data, n, ['line'])
    got = tl('train', data, *small, '--json', 'report.json')
    assert got.status == 0 and got.json['classes'] == ['line', 'round', 'square'] and got.json['skipped'] == []
    assert [o for o in got.json['notes'] if f'"line" has {n} item' in o and 'at least 3' in o]
    assert f'line ({n})' in str(audited(data).json['findings'])
    assert tl('train', data, *small, '--metric', 'auroc').status == 0 # a class that test lacks has no AUROC, the others have

def test_the_same_image_under_two_labels(data):
    shutil.copy('photos/round/round0.png', 'photos/square/also.png')
    got = audited(data)
    assert got.status == 0 and findings(got)['the same content under two labels'] == 2
    task = ImageTask.from_folder(data)
    assert task.df[task.df.duplicated('hash', keep=False)].part.nunique() == 1 # never torn apart

def test_the_same_image_in_train_and_valid(data):
    for part in ('train', 'valid'): shutil.copytree(data, f'parted/{part}')
    assert findings(audited('parted'))['the same content in two parts of the split'] == 24
    task = ImageTask.from_folder('parted')
    assert task.given and (task.n('train'), task.n('valid'), task.reported) == (12, 12, 'valid')

def test_a_label_that_only_valid_has(data):
    photos(Path('parted/train'))
    photos(Path('parted/valid'), 2, ['round', 'square', 'line'])
    got = tl('train', 'parted', *small, '--json', 'report.json')
    assert got.status == 0 and got.json['classes'] == ['round', 'square'] and (got.json['part'], got.json['n_valid']) == ('valid', 4)
    assert [o['reason'] for o in got.json['skipped']] == ['its class "line" is only in valid, not in train']*2
    assert 'selected on this split' in got.out

def test_train_and_test_without_valid(data):
    photos(Path('parted/training'), 10)
    photos(Path('parted/Test'), 3, ['round', 'square'])
    for f in Path('parted/Test').rglob('*.png'): photo(f.parent.name, 100 + int(f.stem[-1])).save(f)
    photo('round').save('parted/loose.png')
    task = ImageTask.from_folder('parted')
    assert (task.n('train'), task.n('valid'), task.n('test')) == (18, 2, 6)
    assert [why for _, why in task.skipped] == ['outside the train, valid and test folders']

def test_limit(data):
    assert audited(data, '--limit', 1000).json['classes'] == {'round': 6, 'square': 6}
    assert audited(data, '--limit', 8).json['classes'] == {'round': 4, 'square': 4}

def test_groups_are_never_torn_apart(data):
    groups = lambda f: '' if f.stem == 'round5' else f'g{int(f.stem[-1])//2}' # one photo is in no group
    task = ImageTask.from_csv(table(*rows(label=lambda f: f'{f.parent.name},{groups(f)}'), head='file,label,patient'), group='patient')
    assert len(task.df) == 12 and task.df.group.nunique() == 4
    assert task.df.groupby('group').part.nunique().max() == 1
    given = ImageTask.from_df(task.df.assign(part=['train', 'valid', 'test']*4), 'item', part='part', group='group')
    assert [o['found'] for o in given.audit() if 'group' in o['found']] == ['a group in two parts of the split']


# several labels, from the table to the prediction

def test_several_labels(data):
    big = dict(round=';big', square=';')
    lines = rows(label=lambda f: f.parent.name + big[f.parent.name])
    got = tl('train', table(*lines), '--delim', ';', *small, '--epochs', 30, '--out', 'saved', '--json', 'report.json')
    assert got.status == 0 and got.json['classes'] == ['big', 'round', 'square'] and got.json['metric'] == 'f1'
    got = tl('predict', 'saved', 'photos/round/round0.png', 'photos/square/square0.png', 'gone.png', '--json', 'said.json')
    assert [o.get('label') for o in got.json] == [['big', 'round'], ['square'], None]
    assert all(len(o['label']) == len(o['probability']) and min(o['probability']) > .5 for o in got.json[:2])
    got = tl('eval', 'saved', table(*lines, 'photos/round/round0.png,round;tall'), '--delim', ';', '--json', 'again.json')
    assert got.status == 0 and got.json['value'] > .9 and got.json['lacking'] == {'tall': 1}
    refused(tl('eval', 'saved', 'photos'), 'the model gives several labels an item, the data one')


# a saved model on other data

def test_classes_that_the_model_lacks_are_counted_and_named(model, data):
    photos(data, 3, ['line'])
    got = tl('eval', model.folder, data, '--json', 'eval.json')
    assert got.status == 0 and got.json['lacking'] == {'line': 3} and got.json['n'] == got.json['n_test'] == 12
    assert '3 items of class "line", which the model does not know' in got.out

def test_none_of_the_classes_is_known(model, data):
    photos(Path('others'), 3, ['line'])
    shutil.copytree(data/'round', 'others/circle')
    refused(tl('eval', model.folder, 'others'), 'none of its classes (circle, line)', '(round, square)')

def test_one_known_class_is_enough_to_evaluate(model, data):
    shutil.rmtree(data/'square')
    got = tl('eval', model.folder, data, '--json', 'eval.json')
    assert got.status == 0 and got.json['n'] == 6
