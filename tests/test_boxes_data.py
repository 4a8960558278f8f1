"Files of boxes: what is written is read again, in every format; what is wrong with files is said in one line; nothing is lost, replaced or run."
import json, os
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest
from conftest import photo, refused, tl
from hypothesis import HealthCheck, given, settings as laws, strategies as st
from PIL import Image
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.audit import findings_of_boxes
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.modality import Scenes
from tl_nbdev.boxes.coco import box_of_mask, read_coco, write_coco
from tl_nbdev.boxes.folders import read_voc, read_yolo, write_yolo, xml_of
from tl_nbdev.boxes.gathering import head_of
from tl_nbdev.boxes.sources import box_formats, form_of, read_box_dataset, read_box_table, read_boxes
from tl_nbdev.boxes.table import as_corners, box_table, corners, noticed, orders, overlaps, same_box, twin_boxes, units


def save(file, size=(96, 64), kind='round', seed=0, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    photo(kind, seed).resize(size).save(file, **how)
    return file

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Six photos of different sizes, two of them of one name, one held on its side"
    to = tmp_path_factory.mktemp('pictures')
    names = 'a.png', 'b c.jpg', 'é.png', 'sub/a.png', 'sub/d.jpeg'
    files = [save(to/name, (90 + 13*i, 60 + 7*i), seed=i) for i, name in enumerate(names)]
    exif = Image.Exif()
    exif[0x112] = 6
    return [*files, save(to/'phone.jpg', (120, 80), exif=exif)]

def seen_size(file):
    found = head_of(file)
    return found['size'][::-1] if found['orientation'] > 4 else found['size']

share = st.floats(0, 1, allow_nan=False)
some_boxes = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(['cat', 'dog', 'a b', 'no', '猫']), share, share, share, share), max_size=25)

def made(pictures, rows, part=''):
    "A table of boxes inside of photos, at least 3 pixels wide and none beginning at 0"
    sizes, boxes = [seen_size(file) for file in pictures], []
    for image, label, *numbers in rows:
        (w, h), (a, b, c, d) = sizes[image], numbers
        x0, y0 = 1 + a*(w - 6), 1 + b*(h - 6)
        boxes.append(dict(image=image, label=label, x0=x0, y0=y0, x1=x0 + 3 + c*(w - x0 - 3), y1=y0 + 3 + d*(h - y0 - 3)))
    images = [dict(item=file, width=w, height=h, part=part) for file, (w, h) in zip(pictures, sizes)]
    return box_table(images, boxes, ['cat', 'dog', 'a b', 'no', '猫'])

def rows_of(table):
    "What must be the same again: by photo, class and place"
    sizes = table.images[['width', 'height']].to_numpy().tolist()
    kept = [(tuple(sizes[image]), label) for image, label in zip(table.boxes.image, table.boxes.label)]
    order = sorted(range(len(kept)), key=lambda i: (kept[i], table.boxes[corners].iloc[i].round(2).tolist()))
    return [kept[i] for i in order], table.boxes[corners].to_numpy(float)[order].reshape(-1, 4)

def assert_same(table, again):
    (names, boxes), (names_again, boxes_again) = rows_of(table), rows_of(again)
    assert names == names_again and len(table) == len(again)
    order, order_again = np.lexsort(boxes.round(1).T), np.lexsort(boxes_again.round(1).T)
    gap = np.abs(boxes - boxes_again).max(initial=0) if len(boxes) else 0
    assert gap < 1e-3 or np.abs(boxes[order] - boxes_again[order_again]).max() < 1e-3, gap

def as_voc(table, to):
    "Pascal VOC, as others write it: pixels from 1"
    (to/'Annotations').mkdir(parents=True)
    for i, file in enumerate(table.images.item):
        things = ''.join(f'<object><name>{b.label}</name><bndbox><xmin>{b.x0 + 1!r}</xmin><ymin>{b.y0 + 1!r}</ymin><xmax>{b.x1!r}</xmax><ymax>{b.y1!r}</ymax></bndbox></object>'
                         for b in table.of(i).itertuples())
        (to/'Annotations'/f'{i}.xml').write_text(f'<annotation><filename>{i}{file.suffix}</filename>{things}</annotation>', encoding='utf-8')
        (to/'JPEGImages').mkdir(exist_ok=True)
        (to/'JPEGImages'/f'{i}{file.suffix}').write_bytes(file.read_bytes())
    return to

def as_csv(table, to):
    "A row a box, and a row for a photo without"
    root = Path(os.path.commonpath([file.parent for file in table.images.item]))
    rows = [dict(image_path=os.path.relpath(table.images.item[b.image], root), xmin=b.x0, ymin=b.y0, xmax=b.x1, ymax=b.y1, label=b.label) for b in table.boxes.itertuples()]
    rows += [dict(image_path=os.path.relpath(file, root)) for i, file in enumerate(table.images.item) if not len(table.of(i))]
    pd.DataFrame(rows, columns=['image_path', 'xmin', 'ymin', 'xmax', 'ymax', 'label']).to_csv(to, index=False)
    return to, root

def as_dataset(table):
    from datasets import ClassLabel, Dataset, Features, Image as Picture, Sequence, Value
    features = Features(dict(image=Picture(), objects=Sequence(dict(bbox=Sequence(Value('float64'), 4), category=ClassLabel(names=table.classes)))))
    cells = [dict(bbox=table.of(i)[corners].to_numpy().tolist(), category=table.of(i).label.to_list()) for i in range(len(table))]
    return Dataset.from_dict(dict(image=list(map(str, table.images.item)), objects=cells), features)


# laws

few = laws(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

@few
@given(some_boxes)
def test_whatever_format_it_was_what_is_written_is_read_again(pictures, tmp_path_factory, rows):
    table, to = made(pictures, rows), tmp_path_factory.mktemp('round')
    root = Path(os.path.commonpath([file.parent for file in pictures]))
    assert_same(table, read_coco(write_coco(table, to/'a.json'), root))
    told = dict(order='xyxy', unit='pixels') # a box or two prove nothing
    csv, root = as_csv(table, to/'a.csv')
    again = [read_box_table(csv, root, **told)]
    if len(table.boxes): again += [read_yolo(write_yolo(table, to/'yolo')), read_voc(as_voc(table, to/'voc')), read_box_dataset(as_dataset(table), **told)]
    for i, other in enumerate(again): # and from each of them to both that are written
        assert_same(table, other)
        root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in other.images.item]))
        assert_same(table, read_coco(write_coco(other, to/f'{i}.json'), root))
        if len(table.boxes): assert_same(table, read_yolo(write_yolo(other, to/f'yolo{i}')))

@few
@given(some_boxes)
def test_usable_boxes_are_inside_and_stay_as_they_are_where_nothing_is_wrong(pictures, rows):
    table = made(pictures, rows)
    kept, twice = table.usable(), set(twin_boxes(table, same_box).other)
    assert_same(replace(table, boxes=table.boxes.drop(index=sorted(twice)).reset_index(drop=True)), kept)
    assert len(kept.notes) == bool(twice) and kept.usable().notes == kept.notes and not [row for row in findings_of_boxes(table, 640, copies=False) if 'outside' in row['found'] or 'beyond' in row['found']]
    moved = table.boxes.assign(x0=table.boxes.x1 + 500, x1=table.boxes.x0 - 500)
    cut = box_table(table.images, moved, table.classes).usable()
    size = cut.images[['width', 'height']].to_numpy()[cut.boxes.image]
    assert (cut.boxes[['x0', 'y0']] >= 0).all(axis=None) and (cut.boxes[['x1', 'y1']].to_numpy() <= size).all()

@few
@given(st.sampled_from(orders), st.sampled_from(units), st.integers(0, 10**6))
def test_order_and_unit_are_noticed_whatever_they_are(order, unit, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 4000, (150, 2))
    side = rng.uniform(.05, .6, (150, 2))
    low = rng.uniform(0, 1, (150, 2))*(1 - side)
    shares = dict(xyxy=[low, low + side], xywh=[low, side], cxcywh=[low + side/2, side])[order]
    values = np.hstack(shares)*(np.tile(sizes, 2) if unit == 'pixels' else 1)
    assert str(noticed(values, sizes)) == str(noticed(values, sizes, order=order, unit=unit))
    for usual in (('xywh', 'pixels'), ('xyxy', 'pixels'), ('cxcywh', 'normalised')): # what a format says is believed where it is right, not where it is wrong
        found = noticed(values, sizes, usual=usual, says='it has')
        assert (found.order, found.unit) == (order, unit) and ('but' in found.note) == (usual != (order, unit))
    back = as_corners(values, order, unit, sizes)
    assert np.allclose(back, np.hstack([low, low + side])*np.tile(sizes, 2))

def test_columns_that_say_one_order_and_hold_another_are_told():
    rng = np.random.default_rng(2)
    xywh = np.hstack([rng.uniform(0, 50, (60, 2)), rng.uniform(5, 50, (60, 2))])
    for values, unit in ((xywh, 'pixels'), (xywh/100, 'normalised')):
        found = noticed(values, np.full((60, 2), 100), usual=('xyxy', None), says='its columns say')
        assert (found.order, found.unit) == ('xywh', unit) and 'its columns say' in found.note and 'but' in found.note

def test_a_few_wrong_boxes_don_t_change_the_reading():
    rng = np.random.default_rng(1)
    values = np.hstack([rng.uniform(0, 50, (200, 2)), rng.uniform(5, 50, (200, 2))])
    values[:5, 2] += 300
    found = noticed(values, np.full((200, 2), 100), usual=('xywh', 'pixels'), says='COCO has')
    assert found.order == 'xywh' and 'but' not in found.note

@pytest.mark.parametrize('seed', range(4))
def test_masks_are_framed_as_pycocotools_does(seed):
    tools = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((37, 53)) < [.001, .02, .3, .9][seed], dtype=np.uint8)
    if not mask.any(): mask[5, 5] = 1
    rle = tools.encode(mask)
    x, y, w, h = tools.toBbox(rle)
    assert box_of_mask(dict(size=rle['size'], counts=rle['counts'].decode())) == (x, y, x + w, y + h)

def test_overlaps_are_torchvisions():
    import torch
    from torchvision.ops import box_iou
    low = np.random.default_rng(0).uniform(0, 50, (40, 2))
    box = np.hstack([low, low + np.random.default_rng(1).uniform(1, 40, (40, 2))])
    assert np.allclose(overlaps(box, box[:9]), box_iou(torch.tensor(box), torch.tensor(box[:9])).numpy())


# bad input, one line each

def coco(to, images=None, annotations=None, categories=None, **more):
    "A COCO file of two photos"
    for i, name in enumerate('ab'): save(to/f'{name}.png', seed=i)
    data = dict(images=[dict(id=i, file_name=f'{name}.png', width=96, height=64) for i, name in enumerate('ab')] if images is None else images,
                annotations=[dict(id=1, image_id=0, category_id=1, bbox=[5, 6, 20, 30])] if annotations is None else annotations,
                categories=[dict(id=1, name='cat')] if categories is None else categories, **more)
    (to/'all.json').write_text(json.dumps(data), encoding='utf-8')
    return to/'all.json'

def one_line(f, *words):
    with pytest.raises(TransferError) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value)) < 500, str(e.value)
    for word in words: assert word in str(e.value), str(e.value)

@pytest.mark.parametrize('text, word', [
    ('{"images": [', 'no JSON'), ('', 'no JSON'), ('['*200_000, 'nested too deep'), ('{"a": '*50_000, 'nested too deep'), ('[1, 2]', 'no COCO'), ('{"images": 3, "annotations": []}', 'no list of records'),
    ('{"annotations": []}', 'no "images"'), ('{"images": [], "annotations": [3]}', 'no list of records'), ('[{"image_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}]', 'results of a detector'),
    ('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}], "annotations": []}', 'the id 1'),
    ('{"images": [], "annotations": [{"segments_info": []}]}', 'panoptic'), ('{"images": [{"id": 1, "file_name": "../../a.png"}], "annotations": []}', 'lies outside'),
    ('{"images": [{"id": 1, "file_name": "..\\\\..\\\\a.png"}], "annotations": []}', 'lies outside'), ('{"images": [{"id": 1, "file_name": "gone.png"}], "annotations": []}', 'gone.png'),
    ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', 'id 1')])
def test_a_json_that_is_wrong_is_refused_in_one_line(tmp_path, text, word):
    save(tmp_path/'a.png'), save(tmp_path/'b.png', seed=1)
    (tmp_path/'x.json').write_text(text, encoding='utf-8')
    one_line(lambda: read_coco(tmp_path/'x.json'), word)
    assert (tmp_path/'x.json').read_text('utf-8') == text

def test_a_json_of_two_gigabytes_is_not_read(tmp_path):
    file = coco(tmp_path)
    os.truncate(file, 2*10**9) # sparse
    one_line(lambda: read_coco(file), '2,000,000,000 bytes', 'cut it')

@pytest.mark.parametrize('box', [[1, 2, 3], [1, 2, 3, None], [1, 2, 3, 'x'], [1, 2, 3, float('nan')], [1, float('inf'), 3, 4], [10**30, 2, 3, 4], 'abcd', None, {}, [[1], 2, 3, 4], [True, 1, 2, 3]])
def test_a_box_that_is_none_is_set_aside_and_told(tmp_path, box):
    found = read_coco(coco(tmp_path, annotations=[dict(id=7, image_id=0, category_id=1, bbox=box), dict(id=8, image_id=0, category_id=1, bbox=[5, 6, 20, 30])]))
    assert len(found.boxes) == 1 and found.left == [dict(what='box', where='annotation 7', why='no box of four numbers, nor a mask')]
    assert any('no box of four numbers' in row['found'] for row in found.audit(copies=False))

def test_ids_of_any_kind_find_each_other(tmp_path):
    images = [dict(id='0', file_name='a.png'), dict(id=1.0, file_name='b.png')]
    boxes = [dict(id='x', image_id=0, category_id='3', bbox=[1, 2, 3, 4]), dict(image_id='1', category_id=3.0, bbox=[1, 2, 3, 4], iscrowd=True)]
    found = read_coco(coco(tmp_path, images, boxes, [dict(id=3, name='cat'), dict(id=90, name='cat')]))
    assert found.boxes.image.tolist() == [0, 1] and found.boxes.crowd.tolist() == [False, True] and found.classes == ['cat']
    said = {row['found'] for row in findings_of_boxes(found, copies=False)}
    assert {'classes whose name is there twice', 'numbers of classes with gaps'} <= said

@pytest.mark.parametrize('name', ['C:\\Users\\me\\photos\\a.png', '/mnt/other/photos/a.png', '.\\a.png', './a.png', 'A.PNG', '  a.png'])
def test_names_from_other_machines_are_found(tmp_path, name):
    found = read_coco(coco(tmp_path, [dict(id=0, file_name=name)]))
    assert found.images.item[0].name == 'a.png' and len(found.boxes) == 1

def test_numbers_in_another_order_than_coco_has_are_followed_and_said(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.uniform(2, 40, (60, 2))
    xyxy = np.hstack([low, low + rng.uniform(8, 20, (60, 2))])
    def rows(values): return [dict(id=i, image_id=i % 2, category_id=1, bbox=row) for i, row in enumerate(values.tolist())]
    found = read_coco(coco(tmp_path, annotations=rows(xyxy)))
    assert np.allclose(found.boxes[corners], xyxy) and 'COCO has xywh in pixels, but' in found.notes[-1]
    found = read_coco(coco(tmp_path, annotations=rows(as_corners(xyxy, 'xyxy')/np.array([96, 64, 96, 64]))))
    assert np.allclose(found.boxes[corners], xyxy) and 'normalised' in found.notes[-1]
    told = read_coco(coco(tmp_path, annotations=rows(xyxy)), order='xywh', unit='pixels')
    assert 'as told' in told.notes[-1] and any('beyond' in row['found'] for row in told.audit(copies=False))

def test_photos_of_all_kinds_are_measured_by_their_heads(tmp_path, monkeypatch):
    "CMYK, sixteen bits, far too many pixels, torn, none"
    Image.new('CMYK', (50, 40)).save(tmp_path/'cmyk.jpg')
    Image.fromarray(np.zeros((40, 50), np.uint16)).save(tmp_path/'deep.png')
    Image.new('1', (12_000, 12_000)).save(tmp_path/'large.png')
    whole = save(tmp_path/'torn.png').read_bytes()
    (tmp_path/'torn.png').write_bytes(whole[:len(whole)//2])
    (tmp_path/'no.png').write_text('no picture', encoding='utf-8')
    (tmp_path/'empty.png').touch()
    names = 'cmyk.jpg', 'deep.png', 'large.png', 'torn.png', 'no.png', 'empty.png'
    pd.DataFrame(dict(image=names, xmin=1, ymin=1, xmax=30, ymax=20, label='x')).to_csv(tmp_path/'a.csv', index=False)
    monkeypatch.setattr(Image.Image, 'load', lambda im: pytest.fail('decoded'))
    found = read_box_table(tmp_path/'a.csv', order='xyxy', unit='pixels')
    monkeypatch.undo()
    assert found.images.width.tolist() == [50, 50, 12_000, 96] and [row['where'] for row in found.left] == ['no.png', 'empty.png']
    said = [row['found'] for row in found.audit()]
    assert 'images with more pixels than tl_max_pixels allows' in said and found.draw(0).size == (50, 40)

def test_a_png_may_have_its_exif_behind_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 8
    Image.new('RGB', (60, 40)).save(tmp_path/'early.png', exif=exif)
    data = (tmp_path/'early.png').read_bytes()
    at = data.index(b'eXIf') - 4
    chunk = data[at:at + 12 + int.from_bytes(data[at:at + 4], 'big')]
    end = data.index(b'IEND') - 4
    (tmp_path/'late.png').write_bytes(data[:at] + data[at + len(chunk):end] + chunk + data[end:])
    for name in ('early.png', 'late.png'): assert head_of(tmp_path/name) == dict(size=(60, 40), orientation=8)

@pytest.mark.parametrize('told', [(120, 80), None])
def test_boxes_of_a_picture_before_it_was_turned_are_turned_with_it(tmp_path, told):
    exif = Image.Exif()
    exif[0x112] = 6
    stored = Image.new('RGB', (120, 80), 'black')
    stored.paste('white', (90, 10, 110, 30))
    stored.save(tmp_path/'phone.png', exif=exif)
    size = dict(width=told[0], height=told[1]) if told else {}
    found = read_coco(coco(tmp_path, [dict(id=0, file_name='phone.png', **size)], [dict(id=1, image_id=0, category_id=1, bbox=[90, 10, 20, 20])]))
    assert (found.images.width[0], found.images.height[0]) == (80, 120) and 'before it was turned' in ' '.join(found.notes)
    from tl_nbdev.vision.pixels import open_image
    seen = open_image(tmp_path/'phone.png').convert('L').point(lambda v: 255*(v > 128))
    assert seen.getbbox() == tuple(found.boxes[corners].iloc[0]) # the mark is where its box is
    assert any('turned images' in row['found'] for row in found.audit(copies=False))

def test_a_scaled_photo_has_scaled_boxes(tmp_path):
    found = read_coco(coco(tmp_path, [dict(id=0, file_name='a.png', width=192, height=128)], [dict(id=1, image_id=0, category_id=1, bbox=[10, 20, 100, 60])]))
    assert found.boxes[corners].iloc[0].tolist() == [5, 10, 55, 40] and 'scaled' in ' '.join(found.notes)


# Pascal VOC

def voc(to, **xmls):
    for name, text in xmls.items():
        save(to/'JPEGImages'/f'{name}.jpg')
        (to/'Annotations').mkdir(exist_ok=True)
        (to/'Annotations'/f'{name}.xml').write_text(text, encoding='utf-8')
    return to

def thing(x0=1, y0=1, x1=20, y1=30, name='cat'): return f'<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>'

def test_a_photo_whose_xml_is_wrong_is_no_negative(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>'
    outside = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'
    found = read_voc(voc(tmp_path, a=f'<annotation>{thing()}</annotation>', b='<annotation/>', c='<annotation>', d=bomb, e='<other/>', f=outside))
    assert [file.stem for file in found.images.item] == ['a', 'b', 'f'] and found.boxes[corners].iloc[0].tolist() == [0, 0, 20, 30]
    assert [row['where'] for row in found.left] == ['c.xml', 'd.xml', 'e.xml'] and 'entities' in found.left[1]['why']
    more = [row for row in found.audit(copies=False) if 'not listed' in row['found']]
    assert more and more[0]['count'] == 3

def test_pixels_counted_from_0_are_noticed(tmp_path):
    found = read_voc(voc(tmp_path, a=f'<annotation>{thing(0, 3)}</annotation>', b=f'<annotation>{thing(5, 7)}</annotation>'))
    assert found.boxes.x0.tolist() == [0, 5] and 'counted from 0' in ' '.join(found.notes)

def test_lists_of_image_sets_are_parts(tmp_path):
    voc(tmp_path, a=f'<annotation>{thing()}</annotation>', b='<annotation/>', c='<annotation/>')
    (tmp_path/'ImageSets/Main').mkdir(parents=True)
    for part, names in dict(train='a\n', val='b\n', trainval='a\nb\n', cat_train='a 1\n').items(): (tmp_path/f'ImageSets/Main/{part}.txt').write_text(names, encoding='utf-8')
    found = read_voc(tmp_path)
    assert found.images.part.tolist() == ['train', 'valid', ''] and '1 images are in no list' in ' '.join(found.notes)
    one_line(found.split, 'are in no part')

def test_xml_deep_or_large_is_not_read(tmp_path):
    (tmp_path/'a.xml').write_text('<a>'*100_000, encoding='utf-8')
    one_line(lambda: xml_of(tmp_path/'a.xml'), 'deep')
    with open(tmp_path/'b.xml', 'wb') as f: f.truncate(2**31)
    one_line(lambda: xml_of(tmp_path/'b.xml'), 'bytes')
    (tmp_path/'c.xml').write_bytes('<?xml version="1.0" encoding="utf-16"?><annotation/>'.encode('utf-16'))
    assert xml_of(tmp_path/'c.xml').tag == 'annotation'


# YOLO

def yolo(to, yaml, labels, places=('images/train', 'images/val')):
    for place in places:
        for i, name in enumerate('ab'): save(to/place/f'{name}.jpg', seed=i)
    if yaml is not None: (to/'data.yaml').write_text(yaml, encoding='utf-8')
    for name, text in labels.items():
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        (to/name).write_text(text, encoding='utf-8')
    return to

line = '0 .5 .5 .2 .3\n'

@pytest.mark.parametrize('paths', ['train: images/train\nval: images/val', 'train: ./images/train\nval: ./images/val', 'path: .\ntrain: images/train/\nval: [images/val]', 'path: /content/data\ntrain: images/train\nval: images/val',
                                   'train: ../images/train\nval: ../images/val', 'train: C:\\data\\images\\train\nval: D:/x/images/val', 'path: ../datasets/mine\ntrain: train.txt\nval: images/val'])
def test_a_yaml_written_for_another_place_is_understood(tmp_path, paths):
    to = yolo(tmp_path/'mine', f'{paths}\nnames:\n  - cat\n', {'labels/train/a.txt': line, 'labels/val/b.txt': line, 'train.txt': 'images/train/a.jpg\n./images/train/b.jpg\n'})
    found = read_yolo(to)
    assert found.images.part.value_counts().to_dict() == dict(train=2, valid=2) and len(found.boxes) == 2 and 'no text file' in ' '.join(found.notes)

@pytest.mark.parametrize('yaml, word', [
    ('names: [cat\n', 'no YAML'), ('- 1\n', 'no names and values'), ('train: images/train\n', 'no "names"'), ('train: gone\nnames: [a]\n', 'is not there'), ('train: ../../../gone\nnames: [a]\n', 'lies outside'),
    ('train: images/train\nnames: [yes, no]\n', 'in quotes'), ('train: images/train\nnames: [[a]]\n', 'use words'), ('train: images/train\nnames: {a: b}\n', 'no "names"'), ('names: !!python/object/apply:os.system [echo]\n', 'no YAML'),
    ('a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\nnames: [*f]\n', 'use words'),
    ('names: [a]\n', 'no photo'), ('train: images/train\nnames: [a]\n', 'none of 2 photos has a text file')])
def test_a_yaml_that_is_wrong_is_refused_in_one_line(tmp_path, yaml, word):
    one_line(lambda: read_yolo(yolo(tmp_path, yaml, {})/'data.yaml'), word)

def test_lines_of_yolo(tmp_path):
    text = '0 .5 .5 .2 .3\n1 .1 .1 .5 .1 .5 .6\n9 .5 .5 .1 .1\n0 .5 .5 .2\n0 nan .5 .1 .1\n0 .5 .5 .2 .2 .87\nc .1 .1 .1 .1\n\n'
    found = read_yolo(yolo(tmp_path, 'train: images/train\nval: images/val\nnc: 3\nnames: {0: cat, 1: dog}', {'labels/train/a.txt': text, 'labels/train/b.txt': '\n'}))
    assert found.sizes() == dict(cat=2, dog=1) and np.allclose(found.boxes[corners].iloc[1], [9.6, 6.4, 48, 38.4])
    assert [row['why'] for row in found.left] == ['unknown class', 'a line of 4 values', 'a line that is not made of numbers', 'a line that is not made of numbers']
    said = ' '.join(found.notes)
    assert 'nc is 3' in said and 'sixth number' in said and any('unknown classes' in row['found'] for row in found.audit(copies=False))

@pytest.mark.parametrize('places, labels', [(('train/images', 'valid/images'), 'train/labels'), (('images/train', 'images/val'), 'labels/train'), (('train', 'valid'), 'train')])
def test_folders_without_a_yaml_are_parts_by_their_names(tmp_path, places, labels):
    found = read_boxes(yolo(tmp_path, None, {f'{labels}/a.txt': line, 'classes.txt': 'cat\n'}, places))
    assert found.images.part.tolist() == ['train', 'train', 'valid', 'valid'] and found.sizes() == dict(cat=1)

def test_pixels_in_a_file_of_yolo_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.uniform((20, 15), (76, 50), (40, 2)), rng.uniform(4, 26, (40, 2))])
    text = ''.join(f'0 {" ".join(map(str, row))}\n' for row in rows.round(2))
    found = read_yolo(yolo(tmp_path, 'train: images/train\nnames: [cat]', {'labels/train/a.txt': text}, ['images/train']))
    assert found.facts['unit'] == 'pixels' and 'YOLO has cxcywh, normalised, but' in ' '.join(found.notes)


# tables

@pytest.mark.parametrize('names, order', [('xmin ymin xmax ymax', 'xyxy'), ('x1 y1 x2 y2', 'xyxy'), ('XMin YMin XMax YMax', 'xyxy'), ('left top right bottom', 'xyxy'), ('x y w h', 'xywh'), ('bbox_x bbox_y bbox_width bbox_height', 'xywh'),
                                          ('x_center y_center width height', 'cxcywh'), ('cx cy w h', 'cxcywh')])
@pytest.mark.parametrize('unit', units)
def test_columns_of_boxes_by_their_names(tmp_path, names, order, unit):
    save(tmp_path/'a.png', (100, 80))
    rng = np.random.default_rng(3)
    low, side = rng.uniform(1, 50, (30, 2)), rng.uniform(5, 28, (30, 2))
    values = np.hstack(dict(xyxy=[low, low + side], xywh=[low, side], cxcywh=[low + side/2, side])[order])/(1 if unit == 'pixels' else np.array([100, 80, 100, 80]))
    pd.DataFrame(values, columns=names.split()).assign(filename='a.png', Class='x').sample(frac=1, axis=1, random_state=0).to_csv(tmp_path/'a.csv', index=False)
    found = read_boxes(tmp_path/'a.csv')
    assert np.allclose(found.boxes[corners], np.hstack([low, low + side])) and found.classes == ['x'] and found.facts['unit'] == unit

def test_a_column_of_parts_and_one_of_sizes(tmp_path):
    for i, name in enumerate('abc'): save(tmp_path/f'{name}.png', seed=i)
    df = pd.DataFrame(dict(filename=['a.png', 'b.png', 'c.png'], width=96, height=64, xmin=[10, 20, 30], ymin=5, xmax=[80, 70, 95], ymax=60, set=['train', 'val', 'test'], label=[3, 3, 4]))
    found = read_box_table(df, tmp_path, unit='pixels')
    assert found.images.part.tolist() == ['train', 'valid', 'test'] and found.classes == ['3', '4'] and any('train does not have' in row['found'] for row in found.audit(copies=False))
    one_line(lambda: read_box_table(df.drop(columns='filename'), tmp_path), 'no column of the image')
    one_line(lambda: read_box_table(df, tmp_path, columns=dict(image='nope')), 'no column "nope"')
    one_line(lambda: read_box_table(df, tmp_path/'gone'), 'no such folder')


# recognised, refused, kept

def test_formats_are_recognised_and_others_than_told_are_refused(tmp_path):
    yolo(tmp_path/'y', 'train: images/train\nnames: [cat]', {'labels/train/a.txt': line})
    voc(tmp_path/'v', a=f'<annotation>{thing()}</annotation>')
    (tmp_path/'c').mkdir()
    coco(tmp_path/'c')
    assert {name: form_of(tmp_path/name) for name in 'yvc'} == dict(y=['yolo'], v=['voc'], c=['coco'])
    for name, form in dict(y='yolo', v='voc', c='coco').items():
        assert len(read_boxes(tmp_path/name, form=form).boxes) == 1
        for other in {*box_formats} - {form}: one_line(lambda: read_boxes(tmp_path/name, form=other), 'told to be', f'form="{form}"')
    one_line(lambda: read_boxes(tmp_path/'c', form='kitti'), 'use one of')
    one_line(lambda: read_boxes(tmp_path/'gone'), 'no such file or folder')
    (tmp_path/'c'/'classes.txt').write_text('cat\n', encoding='utf-8')
    one_line(lambda: read_boxes(tmp_path/'c'), 'COCO JSON and YOLO', 'say which')

def test_coco_of_several_parts_by_the_names_of_files_and_folders(tmp_path):
    for part in ('train2017', 'val2017'): save(tmp_path/part/'1.jpg', seed=len(part))
    for part in ('train2017', 'val2017'):
        data = dict(images=[dict(id=1, file_name='1.jpg')], annotations=[dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20])], categories=[dict(id=1, name='cat')])
        (tmp_path/'annotations').mkdir(exist_ok=True)
        (tmp_path/f'annotations/instances_{part}.json').write_text(json.dumps(data), encoding='utf-8')
    (tmp_path/'annotations/captions_val2017.json').write_text('{"images": [], "annotations": []}', encoding='utf-8')
    found = read_boxes(tmp_path)
    assert [(file.parent.name, part) for file, part in zip(found.images.item, found.images.part)] == [('train2017', 'train'), ('val2017', 'valid')]
    assert read_coco(tmp_path/'annotations/instances_val2017.json').images.part.tolist() == ['']
    written = write_coco(found, tmp_path/'written')
    again = read_coco(dict(train=written/'train.json', valid=written/'valid.json'), tmp_path)
    assert again.images.item.tolist() == found.images.item.tolist() and again.images.part.tolist() == ['train', 'valid']

def test_nothing_is_replaced_and_nothing_is_left_half_written(tmp_path, pictures):
    table = made(pictures, [(0, 'cat', .1, .1, .5, .5)])
    (tmp_path/'work.json').write_text('months', encoding='utf-8')
    (tmp_path/'work').mkdir()
    one_line(lambda: write_coco(table, tmp_path/'work.json'), 'is there already')
    one_line(lambda: write_yolo(table, tmp_path/'work'), 'is there already')
    gone = box_table(table.images.assign(item=[*pictures[:-1], tmp_path/'gone.png']), table.boxes, table.classes)
    one_line(lambda: write_yolo(gone, tmp_path/'new'), 'could not be written', 'gone.png')
    one_line(lambda: write_coco(table, tmp_path/'new.json', tmp_path), 'not below')
    one_line(lambda: write_coco(table, tmp_path/'new'), 'no part')
    assert sorted(file.name for file in tmp_path.iterdir()) == ['work', 'work.json'] and (tmp_path/'work.json').read_text('utf-8') == 'months'

def test_nothing_to_learn_from_is_refused_and_copies_stay_together(tmp_path):
    files = [save(tmp_path/f'{i}.png', seed=i) for i in range(30)]
    Image.open(files[0]).save(tmp_path/'again.png')
    files.append(tmp_path/'again.png')
    images = [dict(item=file, width=96, height=64) for file in files]
    boxes = [dict(image=i, label='rare' if i % 10 == 0 else 'common', x0=5, y0=5, x1=40, y1=40) for i in range(31) if i % 5]
    boxes += [dict(image=i, label='rare', x0=50, y0=5, x1=90, y1=40) for i in range(1, 31, 6)]
    for seed in range(3):
        parted = box_table(images, boxes).split(.2, .2, seed)
        part = parted.images.part
        assert part[0] == part[30] and set(part) == {'train', 'valid', 'test'}
        assert all('rare' in set(parted.part(name).boxes.label) for name in ('train', 'valid', 'test')) # the rare class reaches all parts
    one_line(lambda: box_table(images, []).split(), 'no box in the')
    one_line(lambda: box_table([dict(row, part='test') for row in images], boxes).split(), 'no image is in train')

def test_a_crowd_and_what_is_difficult_are_kept_by_coco_and_a_crowd_is_left_out_by_yolo(tmp_path, pictures):
    table = made(pictures, [(0, 'cat', .1, .1, .5, .5), (1, 'dog', .1, .1, .5, .5), (2, 'dog', .1, .1, .5, .5)])
    table.boxes['crowd'], table.boxes['difficult'] = [True, False, False], [False, True, False]
    again = read_coco(write_coco(table, tmp_path/'a.json'), Path(os.path.commonpath([file.parent for file in pictures])))
    assert again.boxes.crowd.tolist() == [True, False, False] and again.boxes.difficult.tolist() == [False, True, False]
    assert len(read_yolo(write_yolo(table, tmp_path/'y')).boxes) == 2

def table_of(pictures, **columns):
    "Six photos, two boxes each, as a table"
    rows = [dict(file=str(file), xmin=10, ymin=10, xmax=40 + 10*k, ymax=50, label='cat') for file in pictures for k in range(2)]
    return pd.DataFrame(rows).assign(**columns)

of_photo = dict(words=[*'aabbccaabbcc'], numbers=[1, 1, 2, 2, 3, 3]*2, halves=[1., None, 2, 2, 3, 3]*2, gaps=['a', 'a', None, None, None, None]*2)
@pytest.mark.parametrize('name', ['group', 'Group', 'group_id', 'GROUP ID'])
@pytest.mark.parametrize('values', of_photo.values(), ids=of_photo)
def test_a_column_of_groups_is_found_by_its_name(pictures, name, values):
    df = table_of(pictures, **{name: values})
    found, told = (read_box_table(df, columns=columns) for columns in (None, dict(group=name)))
    assert found.images.group.tolist() == told.images.group.tolist() and found.images.group.nunique() == len({v for v in values if v == v and v is not None})
    assert [note for note in found.notes if name in note] == [f'table: photos of one "{name}" stay in one part, where a split is made'] and not [note for note in told.notes if name in note]
    assert 'group' not in read_box_table(df, columns=dict(group=None)).images

@pytest.mark.parametrize('values, why', [([*'abcdefghijkl'], 'is in several of them'), (['a']*12, 'they are all in one'), ([None]*12, ''), ([*'abababababab'], 'is in several of them')], ids=['boxes', 'one', 'empty', 'two'])
def test_a_column_of_groups_that_are_none_of_photos_is_said_and_left(pictures, values, why):
    df = table_of(pictures, group=values)
    found = read_box_table(df)
    assert 'group' not in found.images and len(found.boxes) == 12
    assert [why in note for note in found.notes if '"group"' in note] == [True]*bool(why)
    if 'several' in why:
        with pytest.raises(TransferError, match='is in several of them'): read_box_table(df, columns=dict(group='group'))

def test_groups_of_a_table_stay_together_in_a_task(tmp_path):
    files = [save(tmp_path/f'{i}.png', seed=i) for i in range(12)]
    task = DetectionTask.from_csv(table_of(files, group=[name for name in 'abcdef' for _ in range(4)]))
    assert (task.df.groupby('group').part.nunique() == 1).all() and task.df.group.nunique() == 6 and any('"group"' in note for note in task.notes)
    table_of(files, place=[name for name in 'abcdef' for _ in range(4)]).to_csv(tmp_path/'boxes.csv', index=False)
    told = tl('audit', tmp_path, '--boxes', tmp_path/'boxes.csv', '--group', 'place', '--json', tmp_path/'a.json')
    assert told.status == 0
    asked = Scenes.named(tmp_path, dict(boxes=tmp_path/'boxes.csv', group='place'))
    assert (asked.df.groupby('group').part.nunique() == 1).all() and asked.df.group.nunique() == 6
    refused(tl('audit', tmp_path, '--boxes', tmp_path/'boxes.csv', '--group', 'nowhere'), 'no column "nowhere"')
