"Whatever is wrong with photos and their boxes is said in a line, loses nothing else, and trains or is refused before training."
import copy, json, shutil, warnings

import numpy as np
import pytest
import torch
from conftest import photos, refused, tl
from PIL import Image
from scenes import scenes, start_of, written
from tl_nbdev.adaptation.adapt import adapt
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.modality import detector_pretrained
from tl_nbdev.boxes.table import corners
from tl_nbdev.data.tasks import task_from_dict
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.vision.images import ImageTask

@pytest.fixture(autouse=True)
def quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A dozen photos, and what COCO says of them"
    to = tmp_path_factory.mktemp('whole')
    return to, scenes(to, 12)

@pytest.fixture
def data(whole, tmp_path):
    "A copy of them that may be spoiled"
    shutil.copytree(whole[0], tmp_path/'data')
    return tmp_path/'data', copy.deepcopy(whole[1])

def made(folder, said, **kwargs):
    return DetectionTask.from_coco(written(folder, said), **{**dict(valid=.2, test=.2, name='bad'), **kwargs})

def learned(task, to=None, name='yolov3-tiny', **kwargs):
    "What is left of it after a short training"
    learn = transfer_learner(task, **{**dict(size=64, bs=4, seed=0), **start_of(name), **kwargs})
    with watched(learn): learn.transfer('last:1', 1)
    assert all(torch.isfinite(param).all() for param in learn.model.parameters())
    assert all(np.isfinite(row).all() for row in learn.recorder.losses)
    return learn

def one_line(f, *words):
    with pytest.raises(TransferError) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value)) < 600, str(e.value)
    for word in words: assert word in str(e.value), str(e.value)

def box(said, **about): said['annotations'].append({**dict(id=999, image_id=7, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0), **about})
def each(said, **about): said['annotations'] = [{**row, **about} for row in said['annotations']]
def at(row): return row['bbox'][0], row['bbox'][1], row['bbox'][0] + row['bbox'][2], row['bbox'][1] + row['bbox'][3]


# boxes and classes that are wrong: what is left out, what is said, and how many boxes remain of sixteen

def outside(said): box(said, bbox=[500, 500, 20, 20])
def partly(said): box(said, bbox=[-10, -10, 30, 30])
def flat(said): box(said, bbox=[5, 5, 0, 10])
def turned(said): box(said, bbox=[30, 30, -10, -10])
def tiny(said): box(said, bbox=[9, 9, 1, 1])
def hairline(said): box(said, bbox=[9, 9, .01, .01])
def no_number(said): box(said, bbox=[float('nan'), 1, 2, 3])
def unknown(said): box(said, category_id=77)
def homeless(said): box(said, image_id=4242)
def crowd(said): box(said, iscrowd=1)
def corners_said(said): said['annotations'] = [{**row, 'bbox': at(row)} for row in said['annotations']]
def shares(said):
    sizes = {row['id']: (row['width'], row['height']) for row in said['images']}
    said['annotations'] = [{**row, 'bbox': (np.array(row['bbox'])/np.tile(sizes[row['image_id']], 2)).tolist()} for row in said['annotations']]
def thrice(said): said['annotations'] = [{**row, 'id': i} for i, row in enumerate(said['annotations']*3)]
def again(said, n=1, **changes): said['annotations'].append({**said['annotations'][0], 'id': 900 + n, **changes})
def moved_by(said, far): return [said['annotations'][0]['bbox'][0] + far, *said['annotations'][0]['bbox'][1:]]
def nearly(said): again(said, bbox=moved_by(said, .05))
def shifted(said): again(said, bbox=moved_by(said, .5))
def over_the_edge(said): # the same, once they are cut to the photo
    for n in (1, 2): again(said, n, bbox=[-10*n, -10, 20 + 10*n, 30])
def crowd_and_thing(said): again(said, iscrowd=1)
def many(said): said['annotations'] += [dict(id=1000 + i, image_id=7, category_id=1 + 3*(i % 2), bbox=[i % 40, i//10, 8, 8]) for i in range(300)]
def listed_not_there(said): said['images'].append(dict(id=5000, file_name='gone.png', width=50, height=50))
def listed_twice(said): said['images'].append(dict(said['images'][0], id=9999))
def twice_named(said): said['categories'].append(dict(id=9, name='bar'))
def nameless(said): said['categories'][0]['name'] = ''
def of_spaces(said): said['categories'][0]['name'] = '  '
def of_none(said): del said['categories'][0]['name']
def numbered(said): said['categories'] = [dict(id=1, name=0), dict(id=4, name=1)]
def punctuated(said): said['categories'] = [dict(id=1, name='a, "b"'), dict(id=4, name='x\ny|<b>')]
def unused(said): said['categories'] += [dict(id=100 + i, name=f'c{i}') for i in range(300)]
def text_ids(said):
    for row in said['images']: row['id'] = str(row['id'])
def twice_as_large(said):
    for row in said['images']: row['width'], row['height'] = 2*row['width'], 2*row['height']
    said['annotations'] = [{**row, 'bbox': [2*o for o in row['bbox']]} for row in said['annotations']]

wrong = [(outside, 16, '1 box was left out'), (partly, 17, ''), (flat, 16, 'of no area'), (turned, 17, 'wrong order'), (tiny, 17, ''), (hairline, 16, '1 box was left out'), (no_number, 16, 'no box of four numbers'),
         (unknown, 16, 'unknown class'), (homeless, 16, 'its image is not listed'), (crowd, 17, ''), (corners_said, 16, 'read as xyxy in pixels'), (shares, 16, 'normalised'),
         (thrice, 16, '32 boxes were left out: there twice'), (thrice, 16, 'boxes that are there twice'), (nearly, 16, '1 box was left out: there twice'), (shifted, 17, 'nearly there twice'), (over_the_edge, 17, '1 box was left out: there twice'), (crowd_and_thing, 17, ''), (many, 316, 'more than 300 boxes'), (listed_not_there, 16, 'gone.png'), (listed_twice, 16, 'listed twice'), (twice_named, 16, 'several ids'),
         (nameless, 16, 'no name'), (of_spaces, 16, 'no name'), (of_none, 16, 'no name'), (numbered, 16, ''), (punctuated, 16, ''), (unused, 16, 'classes without a box'), (text_ids, 16, ''), (twice_as_large, 16, 'scaled')]

@pytest.mark.parametrize('spoil, n, words', wrong, ids=[spoil.__name__ for spoil, *_ in wrong])
def test_what_is_wrong_is_said_and_the_rest_is_kept(data, spoil, n, words):
    folder, said = data
    spoil(said)
    task = made(folder, said)
    told = [*task.notes, *(f'{item} {why}' for item, why in task.skipped), *(f'{row["found"]}' for row in task.audit())]
    assert len(task.df) == 12 and len(task.boxes.boxes) == n and any(words in line for line in told), told
    assert all('\n' not in line for line in told)
    inside = task.boxes.boxes[corners].to_numpy()
    sizes = task.boxes.images[['width', 'height']].to_numpy()[task.boxes.boxes.image]
    assert (inside >= 0).all() and (inside[:, 2:] <= sizes).all() and (inside[:, 2:] > inside[:, :2]).all()

@pytest.mark.parametrize('spoil', [crowd, tiny, many, numbered, punctuated, nameless])
def test_it_is_learned_kept_and_asked(data, tmp_path, spoil):
    folder, said = data
    spoil(said)
    task = made(folder, said)
    learn = learned(task)
    learn.save_transfer(tmp_path/'saved', check=False)
    again = load_transfer(tmp_path/'saved')
    assert again.answer.classes == task.vocab
    rows = again.predict(task.part('test').item.to_list())
    assert {'file', 'label', 'score', *corners} <= set(rows[0]) and (tmp_path/'saved/README.md').is_file()
    assert 0 <= learn.evaluate().value <= 1

def test_class_names_are_kept_as_they_are(data):
    folder, said = data
    numbered(said)
    assert made(folder, said).vocab == ['0', '1'] # and not ids, of which one would be the other's name
    punctuated(said)
    assert set(made(folder, said).vocab) == {'a, "b"', 'x\ny|<b>'}
    said['categories'] = [dict(id=1, name='  '), dict(id=4, name='bar')]
    assert set(made(folder, said).vocab) == {'1', 'bar'}

def without(said): said['annotations'] = []
def all_flat(said): each(said, bbox=[5, 5, 0, 0])
def all_unknown(said): each(said, category_id=77)
def all_crowds(said): each(said, iscrowd=1)

@pytest.mark.parametrize('spoil, words', [(without, 'no box in'), (all_flat, 'no box in'), (all_unknown, 'unknown class'), (all_crowds, 'iscrowd')])
def test_nothing_to_learn_is_refused(data, spoil, words):
    folder, said = data
    spoil(said)
    one_line(lambda: made(folder, said), words, 'nothing to learn')
    assert len(made(folder, said, learn=False).df) == 12 # what is only to be looked at may be empty

@pytest.mark.parametrize('n', [1, 2, 3])
def test_too_few_photos_are_refused_before_training(data, n):
    folder, said = data
    said['images'] = said['images'][:n]
    one_line(lambda: learned(made(folder, said)), 'no item is left for valid')

def test_a_class_that_train_lacks(data):
    "One photo has it: it goes to train. Where parts are given, and only valid has it, that is said"
    folder, said = data
    said['categories'].append(dict(id=50, name='rare'))
    box(said, category_id=50)
    task = made(folder, said)
    assert 'rare' in set(task.answer.names(task.part('train').label)) and any('"rare"' in note for note in task.notes)
    halves = {}
    for part, rows in dict(train=said['images'][1:9], valid=[said['images'][0], *said['images'][9:]]).items():
        ids = {row['id'] for row in rows}
        halves[part] = written(folder, {**said, 'images': rows, 'annotations': [row for row in said['annotations'] if row['image_id'] in ids]}, f'{part}.json')
    task = DetectionTask.from_coco(halves, name='parts')
    assert 'rare' not in task.vocab and any('boxes of class "rare" are only in valid, not in train: 1 left out' in note for note in task.notes)
    assert len(task.df) == 12 and not task.skipped # the photo is kept, with what else is in it
    learned(task)

def test_a_part_without_boxes_is_told_before_it_is_judged(data):
    folder, said = data
    said['annotations'] = said['annotations'][:2]
    task = made(folder, said)
    found = {row['found'] for row in task.audit()}
    assert found & {'valid holds no box', 'test holds no box'}


# photos that are odd

def saved(folder, i, im, name=None, said=None, **how):
    im.save(folder/(name or f'{i:03}.png'), **how)
    if name: said['images'][i]['file_name'] = name

def opened(folder, i): return Image.open(folder/f'{i:03}.png').convert('RGB')

def test_photos_of_all_modes_are_learned_from(data):
    folder, said = data
    saved(folder, 0, opened(folder, 0).convert('CMYK'), '0.jpg', said)
    saved(folder, 1, opened(folder, 1).convert('L'), '1.jpg', said)
    saved(folder, 2, Image.fromarray(np.asarray(opened(folder, 2).convert('L')).astype(np.uint16)*257))
    saved(folder, 3, opened(folder, 3).quantize(64))
    saved(folder, 4, opened(folder, 4).convert('RGBA'))
    task = made(folder, said)
    assert len(task.df) == 12 and not task.skipped
    learned(task, augment='strong')

def test_photos_of_sixteen_bits_are_shown_one_way(data, tmp_path):
    folder, said = data
    for i in range(12): saved(folder, i, Image.fromarray(np.asarray(opened(folder, i).convert('L')).astype(np.uint16)*16))
    task = made(folder, said)
    learn = learned(task)
    learn.save_transfer(tmp_path/'saved', check=False)
    again = load_transfer(tmp_path/'saved')
    assert task.modality.reading and again.modality.reading == task.modality.reading

@pytest.mark.parametrize('name, spoil, words', [
    ('torn', lambda folder: (folder/'000.png').write_bytes((folder/'000.png').read_bytes()[:2000]), 'decoded'),
    ('text', lambda folder: (folder/'000.png').write_text('x'), 'not an image'), ('empty', lambda folder: (folder/'000.png').write_bytes(b''), 'image'),
    ('gone', lambda folder: (folder/'000.png').unlink(), 'no such file'),
    ('huge', lambda folder: Image.new('L', (12_000, 12_000), 200).save(folder/'000.png'), 'tl_max_pixels')])
def test_a_photo_that_cant_be_read_loses_itself_only(data, name, spoil, words):
    folder, said = data
    spoil(folder)
    if name == 'huge': said['images'][0].update(width=12_000, height=12_000)
    task = made(folder, said)
    assert len(task.df) == 11 and len(task.skipped) == 1 and words in task.skipped[0][1] and any('left out' in row['found'] for row in task.audit())

def test_a_turned_photo_has_its_boxes_where_they_are_seen(data):
    folder, said = data
    before = made(folder, said)
    learn = transfer_learner(before, size=64, bs=4, seed=0, **start_of('yolov3-tiny'))
    def asked(item): return learn.predictor().answers([item])[0][1]
    want, exif = asked(before.df.item[0]), Image.Exif()
    exif[0x112] = 6
    saved(folder, 0, opened(folder, 0).transpose(Image.ROTATE_90), exif=exif)
    task = made(folder, said)
    assert before.boxes.boxes[corners].equals(task.boxes.boxes[corners])
    assert task.modality.extent(task.df.item[0]) == before.modality.extent(before.df.item[0])
    assert want is not None and np.array_equal(want, asked(task.df.item[0]))

def test_photos_of_odd_shapes_are_learned_from(data):
    folder, said = data
    for i, size in enumerate([(1, 1), (900, 3), (3, 900)]):
        Image.new('RGB', size, (9, 200, 9)).save(folder/f'odd{i}.png')
        said['images'].append(dict(id=9000 + i, file_name=f'odd{i}.png', width=size[0], height=size[1]))
        box(said, id=9000 + i, image_id=9000 + i, bbox=[0, 0, *size])
    task = made(folder, said)
    assert len(task.df) == 15
    for augment in ('flip', 'crop', 'strong'): learned(task, augment=augment)

def test_a_photo_that_vanishes_after_the_audit_is_named(data):
    folder, said = data
    task = made(folder, said)
    task.audit()
    learn = transfer_learner(task, size=64, bs=4, seed=0, **start_of('yolov3-tiny'))
    gone = task.part('train').item.iloc[-1]
    gone.unlink()
    one_line(lambda: learn.predict(gone), 'no such file')
    with watched(learn), pytest.raises(TransferError, match=gone.name): learn.transfer('last:1', 1)


# what the verbs do with it

def test_a_task_is_read_again_from_its_dictionary(data):
    folder, said = data
    task = made(folder, said)
    again = task_from_dict(json.loads(json.dumps(task.as_dict())))
    assert type(again) is DetectionTask and again.df.label.to_list() == task.df.label.to_list() and again.vocab == task.vocab
    assert again.audit() and learned(again).evaluate().value >= 0

def test_fewer_labels_are_fewer_photos(data):
    task = made(*data)
    less = task.fewer(1)
    assert less.n('train') == 2 and less.n('test') == task.n('test') and less.vocab == task.vocab
    learned(less)

def test_another_domain_is_not_adapted_to(data):
    one_line(lambda: adapt(made(*data), made(*data), 'yolov3-tiny'), 'one label per item')

def test_the_shell_says_it_in_a_line(data, tmp_path):
    folder, said = data
    without(said)
    file = written(folder, said)
    refused(tl('train', folder, '--boxes', file), 'nothing to learn')
    refused(tl('train', folder, '--boxes', folder/'none.json'), 'none.json')
    (folder/'torn.json').write_text('{"images": [')
    refused(tl('train', folder, '--boxes', folder/'torn.json'), 'JSON')

def test_another_format_than_the_one_that_is_said(data, tmp_path):
    folder, said = data
    file = written(folder, said)
    one_line(lambda: DetectionTask.from_yolo(folder))
    one_line(lambda: DetectionTask.from_voc(folder))
    one_line(lambda: DetectionTask.from_csv(file))
    (folder/'boxes.csv').write_text('a,b\n1,2\n')
    one_line(lambda: DetectionTask.from_coco(folder/'boxes.csv'))
    one_line(lambda: DetectionTask.from_sample('digits'))

@pytest.mark.parametrize('said_of_it, words', [(dict(metric='accuracy'), 'mAP'), (dict(valid=1.5), 'shares'), (dict(limit=0), 'limit=0'), (dict(order='zyx'), 'order'), (dict(unit='miles'), 'unit')])
def test_what_is_said_wrongly_of_the_data(data, said_of_it, words): one_line(lambda: made(*data, **said_of_it), words)

def test_boxes_in_a_task_of_photos(tmp_path):
    "A detector in a task of classes, by the shell"
    data = photos(tmp_path/'photos', 4)
    refused(tl('train', data, '--model', 'yolov3-tiny'), 'DetectionTask')
    one_line(lambda: transfer_learner(ImageTask.from_folder(data), detector_pretrained('yolov3-tiny', 'random')), 'answers by itself')


# files of other programs, and no files

_heads = {'LabelMe': ('one.json', '{"version": "5.0", "flags": {}, "shapes": [], "imagePath": "one.jpg"}'),
          'VIA': ('via.json', '{"one.jpg1": {"filename": "one.jpg", "size": 1, "regions": [], "file_attributes": {}}}'),
          'Label Studio': ('tasks.json', '[{"id": 1, "annotations": [{"id": 1, "completed_by": 1, "result": []}], "data": {"image": "one.jpg"}}]'),
          'CVAT': ('all.xml', '<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="one.jpg" width="4" height="4"/></annotations>')}

@pytest.mark.parametrize('by', _heads)
@pytest.mark.parametrize('told', ['from_coco', 'from_voc', 'from_csv'])
@pytest.mark.parametrize('whole_folder', [True, False])
def test_the_format_of_another_program_is_named(tmp_path, by, told, whole_folder):
    name, text = _heads[by]
    (tmp_path/name).write_text(text, encoding='utf-8')
    photos(tmp_path, 1)
    one_line(lambda: getattr(DetectionTask, told)(tmp_path if whole_folder else tmp_path/name), f"{by}'s own format", 'COCO JSON')

@pytest.mark.parametrize('told', ['from_coco', 'from_voc', 'from_yolo', 'from_csv'])
def test_a_folder_without_annotations_and_nothing_at_all(tmp_path, told):
    one_line(lambda: getattr(DetectionTask, told)(tmp_path), str(tmp_path))
    photos(tmp_path, 2)
    one_line(lambda: getattr(DetectionTask, told)(tmp_path), str(tmp_path))
    for nothing in (None, [], {}, ''): one_line(lambda: getattr(DetectionTask, told)(nothing))

def test_two_tables_in_a_folder(tmp_path):
    for name in ('one.csv', 'other.csv'): (tmp_path/name).write_text('image,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n')
    one_line(lambda: DetectionTask.from_csv(tmp_path), 'none or several')
