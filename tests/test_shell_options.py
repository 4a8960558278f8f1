"What Python can be told of data, a shell can be told too; where an option has no use it says so; a saved model keeps what it was told."
import inspect, json, struct

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import photo, photos, refused, small, tl
from PIL import Image
from tl_nbdev import __version__
from tl_nbdev.apps import cli
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.training.saving import evaluate_saved
from tl_nbdev.apps.shell import as_parts, as_shown_bands, as_window
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text.texts import TextTask

commands = 'models samples cache audit train compare advise gap adapt eval predict demo'.split()

@pytest.mark.parametrize('name', commands)
def test_each_command_says_its_version_once(name, capsys):
    with pytest.raises(SystemExit) as e: getattr(cli, f'tl_{name}')(['--version'])
    assert e.value.code == 0 and capsys.readouterr() == (f'tl-{name} {__version__}\n', '')

@pytest.mark.parametrize('name', ['audit', 'train', 'compare', 'advise', 'demo'])
def test_options_are_those_of_python(name):
    options = getattr(cli, f'tl_{name}').parser._option_string_actions
    python = {*inspect.signature(ImageTask.from_df).parameters, *inspect.signature(ImageTask.from_folder).parameters}
    for o in 'window bands parts classes gather'.split(): assert f'--{o}' in options and o in python

def bands(file, a):
    "Write a TIFF of 8 bits with any number of bands"
    h, w, n = a.shape
    tags = {256: (4, [w]), 257: (4, [h]), 258: (3, [8]*n), 259: (3, [1]), 262: (3, [1]), 273: (4, [0]), 277: (3, [n]), 278: (4, [h]), 279: (4, [a.size])}
    start, beside, rows = 8 + 2 + 12*len(tags) + 4, b'', b''
    size = sum(len(v)*(2 if kind == 3 else 4) for kind, v in tags.values() if len(v)*(2 if kind == 3 else 4) > 4)
    tags[273] = 4, [start + size]
    for tag, (kind, values) in tags.items():
        data = struct.pack(f'<{len(values)}{"H" if kind == 3 else "I"}', *values)
        rows += struct.pack('<HHI', tag, kind, len(values)) + (data.ljust(4, b'\0') if len(data) <= 4 else struct.pack('<I', start + len(beside)))
        beside += data if len(data) > 4 else b''
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b'II*\0' + struct.pack('<IH', 8, len(tags)) + rows + bytes(4) + beside + a.astype('u1').tobytes())

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    "Pictures of five bands, of which the last tells the classes apart"
    to, rng = tmp_path_factory.mktemp('scenes'), np.random.default_rng(0)
    for kind in 'dry', 'wet':
        for i in range(8):
            a = rng.integers(0, 90, (40, 40, 5))
            a[..., 4] += 150*(kind == 'wet')
            bands(to/kind/f'{i}.tif', a)
    return to

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Pictures of 16 bits that use few of them"
    to, rng = tmp_path_factory.mktemp('scans'), np.random.default_rng(0)
    for kind in 'dark', 'light':
        for i in range(8):
            (to/kind).mkdir(exist_ok=True)
            Image.fromarray((rng.integers(0, 500, (40, 40)) + 900*(kind == 'light')).astype('u2')).save(to/kind/f'{i}.png')
    return to

def audited(*argv):
    got = tl('audit', *argv, '--json', '-')
    assert got.status == 0, got.err
    return json.loads(got.out)


# images

@pytest.mark.parametrize('said, window', [('600,1200', (600, 1200)), ('-600,1500', (-600, 1500)), ('450.5 900', (450.5, 900)), ('(600, 1200)', (600, 1200))], ids=str)
def test_a_window(scans, said, window):
    want = ImageTask.from_folder(scans, window=window)
    assert want.reading.asked
    for argv in ['--window', said], [f'--window={said}']: assert audited(scans, *argv)['notes'] == want.notes

def test_bands(scenes):
    refused(tl('audit', scenes), '5 bands', '--bands 3,2,1')
    assert audited(scenes, '--bands', '5,2,1')['notes'] == ImageTask.from_folder(scenes, bands=(5, 2, 1)).notes
    assert audited(scenes, '--bands', 5)['n_train']
    refused(tl('audit', scenes, '--bands', '7'), '5 bands, but band 7 is asked for')

def test_a_table_of_images(scenes, scans, tmp_path):
    for folder, argv in (scenes, ['--bands', '5']), (scans, ['--window', '600,1200']):
        rows = [(str(f), f.parent.name) for f in sorted(folder.rglob('*.*'))]
        pd.DataFrame(rows, columns=['file', 'label']).to_csv(tmp_path/'t.csv', index=False)
        assert audited(tmp_path/'t.csv', *argv)['n_train'] == 12 - 2

@pytest.mark.parametrize('option, words', {
    '--window 40': '40,400', '--window wide': 'two numbers', '--window 1,2,3': 'two numbers', '--window 5,0': 'window', '--bands red': 'from 1', '--bands 1,2': '3,2,1', '--bands 0,1,2': 'from 1',
    '--bands 1.5': 'from 1', '--parts maybe': 'no (the outermost folders are classes)', '--parts a': 'a=train,b=test', '--parts a=': 'a=train,b=test', '--parts a=train,a=test': 'twice', '--parts round=garden': 'use train, valid or test'}.items(), ids=str)
def test_a_wrong_value_is_one_line(scans, option, words): refused(tl('audit', scans, *option.split(maxsplit=1)), words)

def test_the_words_for_it():
    assert [as_parts(o) for o in ('no', 'YES', 'false', 'a=train,b=test', 'a=b=test')] == [False, True, False, dict(a='train', b='test'), {'a=b': 'test'}]
    assert as_window('40, 400') == as_window('40 400') == (40, 400) and as_shown_bands('(3, 2, 1)') == (3, 2, 1) and as_shown_bands('2') == (2,)
    for wrong in '', '1,,', '-1', '3,2,1,0':
        with pytest.raises(TransferError, match='--bands'): as_shown_bands(wrong)

@pytest.fixture(scope='module')
def days(tmp_path_factory):
    "Folders that may be classes, and may be parts"
    to = tmp_path_factory.mktemp('days')
    for day in 'monday', 'friday': photos(to/day, 6)
    return to

def test_parts_of_folders(days, tmp_path):
    got = tl('audit', days)
    refused(got, '--parts no reads friday, monday as classes', '--parts friday=train,monday=test')
    assert 'parts=' not in got.err
    assert audited(days, '--parts', 'no')['classes'] == dict(friday=12, monday=12)
    found = audited(days, '--parts', 'monday=train,friday=test')
    assert found['n_test'] == 12 and found['classes'] == dict(round=12, square=12)
    refused(tl('audit', days, '--parts', 'yes'), 'no folder is called as a part')
    for part in 'train', 'test': photos(tmp_path/part, 6)
    assert audited(tmp_path, '--parts', 'yes')['n_test'] == 12

def test_parts_of_texts(tmp_path):
    for day in 'monday', 'friday':
        for kind in 'good', 'bad':
            (tmp_path/day/kind).mkdir(parents=True)
            for i in range(6): (tmp_path/day/kind/f'{i}.txt').write_text(f'{day} {kind} {i}')
    refused(tl('audit', tmp_path), '--parts no')
    assert audited(tmp_path, '--parts', 'friday=train,monday=test')['n_test'] == 12


# labels

@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    "Tables of texts: labels as numbers, and a row for each label of a text"
    to = tmp_path_factory.mktemp('tables')
    pd.DataFrame([(f'a text of number {i}', i % 2, 'test' if i < 6 else 'train', i % 3 == 0) for i in range(24)], columns=['text', 'label', 'split', 'is_valid']).to_csv(to/'numbers.csv', index=False)
    pd.DataFrame([(f'a text of number {i}', o) for i in range(24) for o in ('abc'[i % 3], 'abc'[i % 2])], columns=['text', 'label']).to_csv(to/'rows.csv', index=False)
    return to

def test_names_of_classes(tables, tmp_path):
    assert audited(tables/'numbers.csv', '--text', 'text', '--classes', 'neg, pos')['classes'] == dict(neg=12, pos=12)
    refused(tl('audit', tables/'numbers.csv', '--text', 'text', '--classes', 'only'), 'is none of the 1 classes')
    photos(tmp_path, 6)
    for i, o in enumerate(('round', 'square')): (tmp_path/o).rename(tmp_path/str(i))
    assert audited(tmp_path, '--classes', 'ball,box')['classes'] == dict(ball=6, box=6)

def test_labels_are_gathered(tables):
    found = audited(tables/'rows.csv', '--text', 'text', '--gather')
    assert found['classes'] == TextTask.from_csv(tables/'rows.csv', gather=True).sizes()
    note = next(o for o in tl('audit', tables/'rows.csv', '--text', 'text').out.splitlines() if 'several rows' in o)
    assert '--gather makes them several labels' in note


# where an option has no use

def test_an_option_without_a_use_is_one_line(tables, days, scans, tmp_path):
    of_texts = [tables/'numbers.csv', '--text', 'text']
    refused(tl('audit', *of_texts, '--window', '40,400'), '--window is for images')
    refused(tl('audit', *of_texts, '--bands', '1'), '--bands is for images')
    refused(tl('audit', *of_texts, '--parts', 'no'), '--parts is for folders', '--part COLUMN')
    refused(tl('audit', days, '--gather'), '--gather needs a table')
    pd.DataFrame([(str(f), f.parent.name) for f in sorted(scans.rglob('*.png'))], columns=['file', 'label']).to_csv(tmp_path/'t.csv', index=False)
    refused(tl('audit', tmp_path/'t.csv', '--parts', 'no'), '--parts is for folders')
    for i in range(4): (tmp_path/'texts'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True), (tmp_path/'texts'/'ab'[i % 2]/f'{i}.txt').write_text(f'text {i}')
    refused(tl('audit', tmp_path/'texts', '--gather'), '--gather needs a table')
    refused(tl('audit', tmp_path/'texts', '--bands', '1'), '--bands is for images')


# a saved model keeps what it was told

def saved(task, to):
    "A model that was not trained"
    learn = transfer_learner(task, 'timm/resnet10t', source='random', size=32, seed=0, bs=4)
    with torch.no_grad(): [o.normal_() for o in learn.model.head.parameters()]
    return learn.save_transfer(to/'model', check=False)

def test_a_saved_model_keeps_its_bands(scenes, tmp_path):
    task = ImageTask.from_folder(scenes, bands=(5, 2, 1))
    folder = saved(task, tmp_path)
    got = tl('eval', folder, scenes, '--json', tmp_path/'eval.json')
    assert got.status == 0, got.err
    want, _ = evaluate_saved(load_transfer(folder), ImageTask.from_folder(scenes, bands=(5, 2, 1), learn=False))
    assert (got.json['value'], got.json['n']) == (want.value, 16)
    assert all(o.split('\t')[1] in ('dry', 'wet') for o in tl('predict', folder, scenes).out.splitlines())
    with pytest.raises(SystemExit): tl('eval', folder, scenes, '--bands', '1') # it knows

def test_a_saved_model_keeps_its_window(scans, tmp_path):
    folder = saved(ImageTask.from_folder(scans, window=(300, 600)), tmp_path)
    got = tl('eval', folder, scans, '--json', tmp_path/'eval.json')
    assert got.status == 0 and got.json['n'] == 16
    assert not [o for o in got.json['notes'] if 'become black' in o] # as those of another window would
    task = ImageTask.from_folder(scans, learn=False, reading=load_transfer(folder).frozen.prep.reading)
    assert task.reading.integers == (0, 600)
    with pytest.raises(TransferError, match='leave both out'): ImageTask.from_folder(scans, reading=task.reading, window=(1, 2))

def test_training_takes_them(scenes, days, tmp_path):
    got = tl('train', scenes, *small, '--bands', '5,2,1', '--epochs', 1, '--out', tmp_path/'model', '--json', tmp_path/'report.json')
    assert got.status == 0, got.err
    assert json.loads((tmp_path/'model'/'transfer.json').read_text('utf-8'))['modality']['reading']['bands'] == [5, 2, 1]
    assert tl('eval', tmp_path/'model', scenes).status == 0
    got = tl('train', days, *small, '--parts', 'monday=train,friday=test', '--dry-run')
    assert got.status == 0 and 'test 12' in got.out.splitlines()[0], got.err

def test_only_test_is_judged_and_without_it_is_said_what_to_do(tables, days, tmp_path):
    folder = saved(ImageTask.from_folder(days/'monday'), tmp_path)
    rows = [(str(f), f.parent.name, i % 2) for i, f in enumerate(sorted((days/'friday').rglob('*.png')))]
    pd.DataFrame(rows, columns=['file', 'label', 'is_valid']).to_csv(tmp_path/'t.csv', index=False)
    refused(tl('eval', folder, tmp_path/'t.csv', '--part', 'is_valid'), 'train and valid', 'without --part is_valid all 12 rows are')
    assert '(n=12)' in tl('eval', folder, tmp_path/'t.csv').out
