"A detector from a shell: scores, tiles, pictures and files of what was found, and one line for what makes no sense."
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import refused, tl
from PIL import Image
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.coco import write_coco
from tl_nbdev.boxes.detection import DetectionTask
from tl_nbdev.boxes.sources import read_boxes
from tl_nbdev.boxes.table import box_table, corners
from tl_nbdev.data.metrics import Result
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.pictures import picture_names
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.training.saving import evaluate_saved
from tl_nbdev.vision.modality import Images

def scenes(to, n=12):
    "Photos with a red square or a blue bar, and their COCO JSON"
    rng, images, boxes = np.random.default_rng(0), [], []
    to.mkdir(parents=True)
    for i in range(n):
        name, (w, h), colour = (('square', (30, 30), (220, 20, 20)), ('bar', (50, 16), (20, 20, 220)))[i % 2]
        pixels = rng.integers(120, 255, (90, 120, 3), dtype=np.uint8)
        x, y = int(rng.integers(0, 120 - w)), int(rng.integers(0, 90 - h))
        pixels[y:y + h, x:x + w] = colour
        Image.fromarray(pixels).save(to/f'{i}.png')
        images.append(dict(item=to/f'{i}.png', width=120, height=90))
        boxes.append(dict(image=i, label=name, x0=x, y0=y, x1=x + w, y1=y + h))
    return write_coco(box_table(images, boxes), to/'annotations.json')

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A detector that has learned nothing, a learner and saved, with its photos: at a score of 0 it finds a hundred boxes"
    to = tmp_path_factory.mktemp('boxes')
    file = scenes(to/'photos')
    learn = transfer_learner(DetectionTask.from_coco(file), size=64, seed=0, bs=4)
    folder = learn.save_transfer(to/'model', check=False)
    return SimpleNamespace(learn=learn, folder=folder, saved=load_transfer(folder), photos=to/'photos', file=file)


# classes that a model doesn't know

@pytest.mark.parametrize('strangers', [dict(disc=[0]), dict(disc=[0], ring=[0, 0, 3]), dict(disc=range(12))], ids=['one', 'two classes', 'in all'])
def test_boxes_of_a_class_that_a_model_lacks_are_left_out_and_their_photos_judged(made, tmp_path, strangers):
    table = read_boxes(made.file)
    more = [dict(image=i, label=name, x0=1 + 30*(k % 3), y0=1, x1=20 + 30*(k % 3), y1=20) for name, photos in strangers.items() for k, i in enumerate(photos)]
    file = write_coco(box_table(table.images, [*table.boxes.to_dict('records'), *more]), tmp_path/'more.json')
    got = tl('eval', made.folder, made.photos, '--boxes', file, '--json', tmp_path/'e.json')
    plain, _ = evaluate_saved(made.saved, DetectionTask.from_coco(made.file, learn=False))
    want = {name: len(photos) for name, photos in strangers.items()}
    assert got.status == 0 and got.json['lacking'] == want and got.json['n'] == plain.n == 12
    assert got.json['value'] == pytest.approx(plain.value, abs=1e-4) # as COCO's catIds: they are not looked for
    for name, n in want.items(): assert f'{n} boxes of class "{name}", which the model does not know, are left out' in got.out

def test_a_photo_that_holds_nothing_known_is_judged_as_one_in_which_there_is_nothing(made, tmp_path):
    table = read_boxes(made.file)
    table.boxes.loc[table.boxes.image == 0, 'label'] = 'disc'
    result, lacks = evaluate_saved(made.saved, DetectionTask.from_boxes(box_table(table.images, table.boxes), learn=False))
    assert lacks == dict(disc=1) and result.n == 12 and (result.targets[0, :, 0] < 0).all()

def test_none_of_the_classes_is_known(made, tmp_path):
    table = read_boxes(made.file)
    file = write_coco(box_table(table.images, table.boxes.assign(label='disc')), tmp_path/'other.json')
    refused(tl('eval', made.folder, made.photos, '--boxes', file), 'none of its classes (disc)', '(bar, square)')


# scores

def test_a_lower_score_lists_more(made):
    photos = sorted(made.photos.glob('*.png'))[:2]
    every = made.saved.predict(photos, score=0)
    middle = float(np.median([row['score'] for row in every]))
    some = made.saved.predict(photos, score=middle)
    assert 0 < len(some) < len(every) and all(row in every for row in some if row['label'])
    assert all(row['label'] for row in every) # rows that stand for nothing are never listed
    assert made.saved.answer.least == .3 # the model itself is as it was

@pytest.mark.parametrize('score', [-1, 1.5, 'nan'])
def test_a_score_is_a_share(score, made):
    refused(tl('predict', made.folder, made.photos/'0.png', '--score', score), 'use a share from 0')

def as_found(learn, part, of=lambda answer, rows: rows):
    "A result on a part in which each thing is found, and one thing too many in each photo, less surely"
    task = learn.task
    targets, probs = task.targets(part), np.zeros((task.n(part), 100, 6))
    probs[..., 0] = -1
    for i, each in enumerate(targets):
        probs[i, 0] = [each[0, 0], .9, *each[0, 1:5]/np.tile(each[0, 6:8], 2)]
        probs[i, 1] = [each[0, 0], .4, 0, 0, .05, .05]
    return Result('mAP', targets, probs.reshape(len(probs), -1), task.vocab, part, list(map(str, task.part(part).item)), answer=task.answer)

def test_a_score_is_chosen_on_valid_and_saved(made, tmp_path):
    before = made.learn.task.answer
    try:
        with pytest.raises(TransferError, match='is on test'): made.learn.choose_score(.9, as_found(made.learn, 'test'))
        assert made.learn.task.answer is before
        found = made.learn.choose_score(.95, as_found(made.learn, 'valid'))
        assert found['score'] == pytest.approx(.9) and found['precision'][0] == 1
        assert made.learn.choose_score(.5, as_found(made.learn, 'valid'))['score'] == pytest.approx(.4)
        with pytest.raises(TransferError, match='use a share above 0'): made.learn.choose_score(0, as_found(made.learn, 'valid'))
        saved = load_transfer(made.learn.save_transfer(tmp_path/'model', check=False))
        assert saved.answer.least == pytest.approx(.4)
    finally: made.learn.task.answer = before


# tiles

@pytest.fixture(scope='module')
def large(made, tmp_path_factory):
    "A photo of many, as it is, and turned with an EXIF that says so"
    to, whole = tmp_path_factory.mktemp('large'), Image.new('RGB', (600, 360), 'grey')
    for k in range(20): whole.paste(Image.open(made.photos/f'{k % 12}.png'), (120*(k % 5), 90*(k//5)))
    whole.save(to/'upright.png')
    exif = Image.Exif()
    exif[0x112] = 6
    whole.transpose(Image.ROTATE_90).save(to/'turned.png', exif=exif)
    return to

def test_tiles_are_of_the_photo_as_it_is_seen(made, large):
    one, other = (made.saved.predict(large/name, score=.02, tiles=200, overlap=.3) for name in ('upright.png', 'turned.png'))
    plain = [[{key: value for key, value in row.items() if key != 'file'} for row in rows] for rows in (one, other)]
    assert plain[0] == plain[1] and plain[0][0]['label']
    boxes = np.array([[row[corner] for corner in corners] for row in one])
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 600).all() and (boxes[:, [1, 3]] <= 360).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()

def test_a_learner_looks_at_tiles_too(made, large):
    assert made.learn.predict(large/'upright.png', tiles=200, score=.02) == made.saved.predict(large/'upright.png', tiles=200, score=.02)
    assert made.saved.predict(large/'upright.png', tiles=200, overlap=0, score=.02) # no overlap is an overlap

def test_a_photo_that_cannot_be_read_is_no_end(made, large):
    rows = made.saved.predict([large/'upright.png', large/'none.png'], tiles=300)
    assert rows[-1]['error'] == 'no such file' and rows.whose[-1] == 1

@pytest.mark.parametrize('argv, words', [
    (['--tiles', 0], 'whole pixels of a side'), (['--tiles', -640], 'whole pixels of a side'), (['--overlap', .2], 'overlap is of tiles'),
    (['--tiles', 64, '--overlap', 1], 'a share from 0 to 0.9'), (['--tiles', 64, '--overlap', 'nan'], 'a share from 0 to 0.9')])
def test_tiles_that_make_no_sense(argv, words, made, large): refused(tl('predict', made.folder, large, *argv), words)

def test_small_things_in_a_large_photo_are_remarked(made, large):
    got = tl('predict', made.folder, large/'upright.png', '--score', 1)
    assert got.status == 0 and '(nothing)' in got.out and 'tiles=128 (--tiles 128)' in got.err
    assert 'tiles' not in tl('predict', made.folder, made.photos/'0.png', '--score', 1).err
    assert 'tiles' not in tl('predict', made.folder, large/'upright.png', '--score', 1, '--tiles', 128).err


# pictures

def test_pictures_of_two_folders(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('left', 'right'):
        (tmp_path/folder).mkdir()
        for name in ('a.png', 'b.png'): (tmp_path/folder/name).write_bytes((made.photos/'0.png').read_bytes())
    before = {file: file.read_bytes() for file in tmp_path.rglob('*.png')}
    argv = 'predict', made.folder, 'left', 'right', 'nowhere.png', '--score', .02, '--draw', 'out', '--json', 'said.json'
    assert tl(*argv).status == 0
    drawn = {'a.png', 'b.png', 'right-a.png', 'right-b.png'}
    assert {file.name for file in (tmp_path/'out').glob('*.png')} == drawn
    assert tl(*argv).status == 0 # its own pictures are replaced
    assert {file.name for file in (tmp_path/'out').glob('*.png')} == drawn
    assert all(file.read_bytes() == held for file, held in before.items())
    assert Image.open('out/a.png').size == (120, 90) and (tmp_path/'out'/'a.png').read_bytes() != before[tmp_path/'left'/'a.png']

@pytest.mark.parametrize('to', ['mine', 'photos', 'photos/drawn', 'note.txt'])
def test_pictures_replace_nothing_of_mine(to, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('photos', 'mine'): (tmp_path/folder).mkdir()
    (tmp_path/'photos'/'0.png').write_bytes((made.photos/'0.png').read_bytes())
    for name in ('mine/0.png', 'note.txt'): (tmp_path/name).write_text('mine')
    before = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    got = tl('predict', made.folder, 'photos', '--draw', to)
    assert got.status == 1 and got.out == '' and got.err.count('\n') == 1
    assert {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()} == before

def test_names_of_pictures_differ():
    files = [f'{a}/{b}/x.{kind}' for a in 'abc' for b in 'de' for kind in ('jpg', 'JPEG', 'png', 'tif')]
    names = picture_names([*files, None, np.zeros(3)])
    assert len({name.lower() for name in names}) == len(names)


# files

def test_results_that_pycocotools_reads(made, tmp_path, monkeypatch):
    from pycocotools.coco import COCO
    monkeypatch.chdir(tmp_path)
    said = json.loads(made.file.read_text())
    ids = {each['file_name']: 100 + each['id'] for each in said['images']}
    for each in said['images']: each['id'] += 100
    for each in said['annotations']: each['image_id'] += 100
    for each in said['categories']: each['id'] += 50
    for each in said['annotations']: each['category_id'] += 50
    (tmp_path/'mine.json').write_text(json.dumps(said))
    got = tl('predict', made.folder, made.photos, '--score', .02, '--coco', 'found.json', '--boxes', 'mine.json', '--json', 'said.json')
    assert got.status == 0, got.err
    read = COCO('mine.json').loadRes('found.json')
    rows = [row for row in got.json if row['label']]
    assert len(read.anns) == len(rows) > 0
    first, box = read.anns[1], [rows[0][corner] for corner in corners]
    assert first['image_id'] == ids[rows[0]['file'].rpartition('/')[2]] and first['category_id'] > 50
    assert first['bbox'] == pytest.approx([*box[:2], box[2] - box[0], box[3] - box[1]], abs=1e-3)
    ours = read_boxes('found.json', root=made.photos)
    assert len(ours.boxes) == len(rows) and set(ours.boxes.label) <= {'square', 'bar'}

def test_results_without_annotations_and_for_yolo(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = tl('predict', made.folder, made.photos, '--score', .02, '--coco', 'found.json', '--yolo', 'yolo', '--json', 'said.json')
    assert got.status == 0, got.err
    rows = [row for row in got.json if row['label']]
    assert len(read_boxes('found.json', root=made.photos).boxes) == len(rows)
    ours = read_boxes('yolo')
    assert len(ours) == 12 and len(ours.boxes) == len(rows)
    assert sorted(map(tuple, ours.boxes[corners].round(1).to_numpy())) == sorted(tuple(row[corner] for corner in corners) for row in rows)
    refused(tl('predict', made.folder, made.photos, '--coco', 'found.json'), 'is there already')
    refused(tl('predict', made.folder, made.photos, '--yolo', 'yolo'), 'is there already')

def test_results_of_other_photos(made, tmp_path):
    (tmp_path/'other.png').write_bytes((made.photos/'0.png').read_bytes())
    to = tmp_path/'found.json'
    refused(tl('predict', made.folder, tmp_path/'other.png', '--score', .02, '--coco', to, '--boxes', made.file), 'no image is called so')
    assert not to.exists()
    refused(tl('predict', made.folder, made.photos, '--boxes', made.file), '--boxes says which numbers --coco uses')


# models of something else, and the other commands

@pytest.mark.parametrize('argv, words', [
    (['--score', .5], 'a score is for models that find things'), (['--tiles', 640], 'tiles are for photos in which things are found'),
    (['--draw', 'out'], 'nothing can be drawn of one label'), (['--coco', 'found.json'], 'coco is no format for one label'),
    (['--yolo', 'found'], 'yolo is no format for one label'), (['--boxes', 'a.json'], '--boxes says which numbers')])
def test_of_labels_there_is_no_such_thing(argv, words, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tl('predict', model.folder, model.data, *argv), words)
    assert not list(tmp_path.iterdir())

def test_of_labels_nobody_asks_how_large_a_photo_is(model, monkeypatch):
    monkeypatch.setattr(Images, 'extent', lambda *_: pytest.fail('asked'))
    assert len(load_transfer(model.folder).predict(sorted(model.data.rglob('*.png'))[:2])) == 2

def test_detectors_are_listed_by_any_name():
    listed = {name: tl('models', '--task', name).out for name in ('boxes', 'scene', 'object-detection')}
    assert len(set(listed.values())) == 1 and 'faster_rcnn:tf_efficientnet_lite0' in listed['boxes']
    assert tl('models', '--task', 'images').out == tl('models', '--task', 'image').out
    refused(tl('models', '--task', 'smell'), 'there are audio, boxes, code, generation, image, text')

def test_an_audit_speaks_of_boxes(made, tmp_path):
    (tmp_path/'photos').mkdir()
    said = json.loads(made.file.read_text())
    for each in said['images']: (tmp_path/'photos'/each['file_name']).write_bytes((made.photos/each['file_name']).read_bytes())
    (tmp_path/'photos'/'again.png').write_bytes((made.photos/'0.png').read_bytes())
    said['images'].append(dict(id=99, file_name='again.png', width=120, height=90))
    (tmp_path/'photos'/'annotations.json').write_text(json.dumps(said))
    got = tl('audit', tmp_path/'photos', '--boxes', tmp_path/'photos'/'annotations.json', '--json', tmp_path/'said.json')
    assert got.status == 0, got.err
    found = [row['found'] for row in got.json['findings']]
    assert 'the same content with other things' in found and 'classes of fewer than 10 boxes' in found
    assert len(found) == len(set(found)) and '±' not in got.out and 'two labels' not in got.out.split('were looked')[0]

def test_help_names_detectors():
    from tl_nbdev.apps import cli
    text = ' '.join(cli.tl_train.parser.format_help().split())
    assert all(word in text for word in ('mAP, AP50, AP75 or AR100', 'none, flip, crop, strong or mosaic', 'faster_rcnn:tf_efficientnet_lite0'))


# how a table of boxes is read

def test_a_table_of_boxes_is_read_as_is_said(tmp_path):
    said = read_boxes(scenes(tmp_path/'photos'))
    rows = said.boxes.assign(file=[said.images.item[i] for i in said.boxes.image])[['file', 'label', *corners]]
    names = ['file', 'Größe', 'xmin', 'ymin', 'xmax', 'ymax']
    rows.to_csv(tmp_path/'bars.csv', sep='|', index=False, header=names, encoding='utf-16')
    told = dict(sep='|', encoding='utf-16', columns=dict(label='Größe'))
    assert len(DetectionTask.from_csv(tmp_path/'bars.csv', **told).df) == 12
    rows.to_csv(tmp_path/'bare.csv', sep=';', index=False, header=False)
    plain = DetectionTask.from_csv(tmp_path/'bare.csv', sep=';', header=False, columns=dict(image=0, label=1, box=[2, 3, 4, 5]))
    assert len(plain.df) == 12 and plain.vocab == ['bar', 'square']

def test_how_a_table_is_read_is_not_ignored(tmp_path):
    file = scenes(tmp_path/'photos')
    said = read_boxes(file)
    rows = said.boxes.assign(file=[said.images.item[i] for i in said.boxes.image])[['file', 'label', *corners]]
    rows.to_csv(tmp_path/'boxes.csv', sep=';', index=False, header=['file', 'class', 'xmin', 'ymin', 'xmax', 'ymax'])
    assert '12 items of 12 boxes' in tl('audit', tmp_path/'photos', '--boxes', tmp_path/'boxes.csv', '--sep', 'semicolon').out
    for option, words in ((('--sep', ','), 'no column of the image'), (('--encoding', 'utf-16'), 'no rows'), (('--no-header',), 'no box of four numbers')):
        refused(tl('audit', tmp_path/'photos', '--boxes', tmp_path/'boxes.csv', *option), words)
    for option in (('--sep', ';'), ('--encoding', 'utf-8'), ('--no-header',), ('--quotes', 'none')):
        refused(tl('audit', tmp_path/'photos', '--boxes', file, *option), 'is for boxes in a table')
