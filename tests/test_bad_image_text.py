"Pictures with captions as they come: empty, broken, mixed up, of many pictures, longer than is read. A line for each, and nothing lost."
import io, json, sys

import numpy as np
import pandas as pd
import pytest
from conftest import photo, refused, tl
from PIL import Image
from tl_nbdev.base.captions import points_of
from tl_nbdev.base.samples import sample
from tl_nbdev.base.settings import TransferError
from tl_nbdev.multimodal.class_names import captioned, templates_called
from tl_nbdev.multimodal.modality import ImageText, searched_among
from tl_nbdev.multimodal.reading import captions_of, coco_captions, read_captions
from tl_nbdev.multimodal.start import image_text_pretrained
from tl_nbdev.multimodal.task import ImageTextTask
from tl_nbdev.vision.images import ImageTask

@pytest.fixture
def folder(tmp_path):
    "Eight different photos, 0.png to 7.png"
    for i in range(8): photo(('round', 'square', 'line')[i % 3], i).save(tmp_path/f'{i}.png')
    return tmp_path

def beside(folder, captions):
    for name, text in captions.items(): (folder/f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder

def csv(folder, rows, name='pairs.csv', columns=('image', 'caption')):
    pd.DataFrame(rows, columns=list(columns)).to_csv(folder/name, index=False)
    return folder/name

def lines(made): return {str(what): why for what, why in made.skipped}


# what can't be used is named, and the rest is there

empty = '', ' ', '\n\n', '\t', '\ufeff'

@pytest.mark.parametrize('text', empty)
def test_an_empty_caption_beside_a_picture(folder, text):
    made = read_captions(beside(folder, {str(i): text if i == 3 else f'photo {i}' for i in range(8)}))
    assert len(made) == 7 and any('3.png' in what and 'empty' in why for what, why in made.skipped)

@pytest.mark.parametrize('value', [None, '', '  ', np.nan, []])
def test_an_empty_caption_in_a_table(folder, value):
    made = read_captions([dict(image=folder/f'{i}.png', caption=value if i == 3 else f'photo {i}') for i in range(8)])
    assert len(made) == 7 and len(made.skipped) == 1 and '3.png' in made.skipped[0][0]

@pytest.mark.parametrize('broken', [b'', b'no picture', b'\x89PNG\r\n\x1a\n', 'cut', 'text'])
def test_a_broken_picture(folder, broken):
    data = (folder/'3.png').read_bytes()
    (folder/'3.png').write_bytes(data[:len(data)//2] if broken == 'cut' else b'a caption by mistake' if broken == 'text' else broken)
    made = read_captions(beside(folder, {str(i): f'photo {i}' for i in range(8)}))
    assert len(made) == 7 and [what for what, _ in made.skipped] == ['3.png']

def test_a_picture_without_caption_and_a_caption_without_picture(folder):
    made = read_captions(beside(folder, {**{str(i): f'photo {i}' for i in range(7)}, 'gone': 'of nothing', 'README': 'about this folder'}))
    assert lines(made) == {'7.png': 'a picture without caption', 'gone.txt': 'no picture beside it, its text is "of nothing"'}

@pytest.mark.parametrize('name', ['gone.png', 'sub/gone.png', 'http://somewhere/1.png', '3.jpg.png', '33.png'])
def test_a_table_that_names_a_file_which_is_not_there(folder, name):
    made = read_captions(csv(folder, [(name if i == 3 else f'{i}.png', f'photo {i}') for i in range(8)]))
    assert len(made) == 7 and len(made.skipped) == 1

def test_one_caption_for_two_pictures_and_two_captions_of_one(folder):
    rows = [(f'{i}.png', 'a shape' if i < 3 else f'photo {i}') for i in range(8)] + [('7.png', 'once more'), ('7.png', 'photo 7')]
    made = read_captions(csv(folder, rows))
    assert len(made) == 9 and [why for _, why in made.skipped] == ['the same picture with the same text is there before']
    found = {row['found'] for row in ImageTextTask.from_csv(folder/'pairs.csv', valid=.2, test=.2).audit()}
    assert {'pictures that share their caption with others', 'pictures with several captions'} <= found

def test_the_same_picture_under_two_names_is_one(folder):
    (folder/'copy.png').write_bytes((folder/'0.png').read_bytes())
    made = read_captions(csv(folder, [*((f'{i}.png', f'photo {i}') for i in range(8)), ('copy.png', 'another caption')]))
    assert made.rows.group.nunique() == 8

def test_captions_longer_than_is_read(folder):
    long = ' '.join(f'word{i}' for i in range(200))
    task = ImageTextTask.from_csv(csv(folder, [(f'{i}.png', f'{i} {long}') for i in range(8)]), valid=.2, test=.2)
    assert any(row['found'].startswith('captions longer than') and row['count'] == 8 for row in task.audit())

@pytest.mark.parametrize('text', ['IMG_0001', 'photo.jpg', '1234', '...', '🐸'])
def test_captions_that_say_nothing(folder, text):
    task = ImageTextTask.from_csv(csv(folder, [(f'{i}.png', text if i == 3 else f'photo {i}') for i in range(8)]), valid=.2, test=.2)
    assert any(row['found'].startswith('captions that are numbers') for row in task.audit())

@pytest.mark.parametrize('text', ['ворона', 'カラス', 'نسر', 'κόρακας', 'אורב'])
def test_captions_in_another_alphabet(folder, text):
    task = ImageTextTask.from_csv(csv(folder, [(f'{i}.png', text if i == 3 else f'photo {i}') for i in range(8)]), valid=.2, test=.2)
    assert any('not in Latin letters' in row['found'] for row in task.audit())


# where they stand

@pytest.mark.parametrize('data', ['utf-8', 'utf-8-sig', 'utf-16', 'cp1252', 'latin-1'])
def test_texts_of_any_encoding(folder, data):
    made = read_captions(beside(folder, {str(i): f'Krähe {i}'.encode(data) for i in range(8)}))
    assert made.rows.text[0] == 'Krähe 0'

@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'parquet'])
def test_metadata_beside_pictures(folder, kind):
    df = pd.DataFrame(dict(file_name=[f'{i}.png' for i in range(7)], text=[f'photo {i}' for i in range(7)]))
    file = folder/f'metadata.{kind}'
    dict(jsonl=lambda: df.to_json(file, orient='records', lines=True), csv=lambda: df.to_csv(file, index=False), parquet=lambda: df.to_parquet(file))[kind]()
    made = read_captions(folder)
    assert len(made) == 7 and lines(made) == {'7.png': 'a picture without caption'}

def test_metadata_in_each_part(folder):
    for part, some in dict(train=range(5), validation=(5, 6), test=(7,)).items():
        (folder/part).mkdir()
        for i in some: (folder/f'{i}.png').rename(folder/part/f'{i}.png')
        (folder/part/'metadata.jsonl').write_text(''.join(json.dumps(dict(file_name=f'{i}.png', text=f'photo {i}')) + '\n' for i in some), 'utf-8')
    assert read_captions(folder).rows.part.value_counts().to_dict() == dict(train=5, valid=2, test=1)

def test_flickrs_numbers_and_cocos_json(folder):
    made = read_captions(csv(folder, [(f'{i//2}.png#{i % 2}', f'photo {i}') for i in range(16)]))
    assert len(made) == 16 and made.rows.image.nunique() == 8
    said = dict(images=[dict(id=i, file_name=f'{i}.png') for i in range(8)], annotations=[dict(image_id=i, caption=f'photo {i}') for i in range(7)])
    (folder/'captions.json').write_text(json.dumps(said), 'utf-8')
    made = read_captions(folder/'captions.json')
    assert len(made) == 7 and len(made.skipped) == 1
    for odd in ('[]', '{}', 'no json', '{"images": [], "annotations": []}'):
        (folder/'other.json').write_text(odd, 'utf-8')
        assert coco_captions(folder/'other.json') is None

def test_a_dataset_of_pictures_with_lists_of_captions(folder):
    datasets = pytest.importorskip('datasets')
    rows = dict(image=[str(folder/f'{i}.png') for i in range(8)], captions=[[f'photo {i}', f'again {i}'] for i in range(8)])
    made = read_captions(datasets.Dataset.from_dict(rows).cast_column('image', datasets.Image()))
    assert len(made) == 16 and made.rows.group.nunique() == 8
    both = datasets.DatasetDict(train=datasets.Dataset.from_dict({k: v[:6] for k, v in rows.items()}), test=datasets.Dataset.from_dict({k: v[6:] for k, v in rows.items()}))
    assert set(read_captions(both).rows.part) == {'train', 'test'}

def test_pictures_in_memory(folder):
    data = (folder/'0.png').read_bytes()
    for picture in (Image.open(folder/'1.png'), data, np.zeros((20, 30, 3), np.uint8) + 9):
        assert len(read_captions([(picture, 'one'), (folder/'2.png', 'two')])) == 2

def test_captions_written_as_lists():
    assert captions_of('["a", "b"]') == captions_of("['a', 'b']") == captions_of(np.array(['a', 'b'])) == captions_of(dict(raw=['a', 'b'])) == ['a', 'b']
    assert captions_of('[not a list') == ['[not a list'] and captions_of(3) == ['3']
    for odd in (object(), b'\xff\x00'[:0] and None or {1, 2}):
        with pytest.raises(TransferError, match='no text'): captions_of(odd)


# one line, and what to do

nothing = [[], [()], ['a'], [3], [('gone.png', 'a')], [('a', 'b', 'c', 'd')], [dict(image=None, caption='a')], [dict(text='a')], {}, 'nowhere', 'nowhere.csv']

@pytest.mark.parametrize('records', nothing)
def test_what_is_no_pairs_is_refused_in_a_line(records):
    with pytest.raises(TransferError) as e: read_captions(records)
    assert '\n' not in str(e.value)

def test_a_folder_of_pictures_alone_says_what_is_missing(folder):
    with pytest.raises(TransferError, match='8 pictures and no captions: put a text beside each'): read_captions(folder)
    with pytest.raises(TransferError, match='one picture'): read_captions(folder/'0.png')

@pytest.mark.parametrize('what', ['', '+', 'a+', 'tf_efficientnet_lite0', 'all-MiniLM-L6-v2', 'tf_efficientnet_lite0+nothing here', 'all-MiniLM-L6-v2+all-MiniLM-L6-v2', 'a+b+c', 3, None, ('a',), {}])
def test_what_is_no_network_is_refused_in_a_line(what):
    with pytest.raises(TransferError) as e: image_text_pretrained(what)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('how', [dict(dim=0), dict(dim=1.5), dict(hidden='many'), dict(dropout=2), dict(temperature=-1), dict(loss='l2'), dict(tokens=0), dict(long='windows'), dict(pooling='attention')])
def test_settings_that_make_no_sense(how):
    with pytest.raises(TransferError): image_text_pretrained('squeezenet1_1+bert-tiny', **how)

@pytest.mark.parametrize('among', [[], ['a', 3], ['gone.png'], 'nowhere', dict(other=['a']), [None]])
def test_what_can_not_be_searched(among):
    with pytest.raises(TransferError) as e: searched_among(among, True)
    assert '\n' not in str(e.value)

def test_templates_and_tasks_without_classes(folder):
    for odd in ('a photo', '', (), ('a {} and a {}',), 3, None):
        with pytest.raises(TransferError): templates_called(odd)
    task = ImageTask.from_df(dict(file=[folder/f'{i}.png' for i in range(8)], label=[float(i) for i in range(8)]), regression=True, valid=.2, test=.2)
    with pytest.raises(TransferError, match='captions are made of'): captioned(task)

def test_in_a_shell(folder):
    refused(tl('train', folder, '--caption', 'text'), 'captions')
    refused(tl('audit', csv(folder, [('0.png', 'a')]), '--image', 'file'), 'no column "file"')
    refused(tl('train', csv(folder, [(f'{i}.png', f'photo {i}') for i in range(8)]), '--caption', 'caption', '--label', 'caption'), '--label')
    got = tl('audit', csv(folder, [(f'{i}.png', '' if i == 3 else f'photo {i}') for i in range(8)]))
    assert got.status in (0, None) and 'an empty caption' in got.out


# drawings of lines

@pytest.mark.parametrize('drawing', [b'', b'no drawing', b'<svg', bytes(9), b'<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0"/>'])
def test_what_is_no_drawing(drawing):
    pytest.importorskip('resvg_py')
    with pytest.raises(TransferError, match='can.t be drawn'): points_of(drawing)

def test_drawings_where_nothing_draws_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'resvg_py', None)
    monkeypatch.setenv('TL_CACHE', str(tmp_path))
    with pytest.raises(TransferError, match=r'tl_nbdev\[drawings\]'): points_of(b'<svg/>')
    with pytest.raises(TransferError, match='Nothing was fetched'): sample('stamps-drawn')
