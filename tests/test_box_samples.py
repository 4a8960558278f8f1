"Photos with boxes: parts share no pixel and no piece, counts are those that are told, and what apt does wrong is said in one line."
import hashlib, json, os, re, shutil, stat, subprocess
from collections import Counter
from pathlib import Path

import numpy as np, pytest
from conftest import tl
from hypothesis import given, strategies as st
from PIL import Image
from tl_nbdev.base import samples
from tl_nbdev.base.settings import TransferError
from tl_nbdev.base.composites import composites, covered
from tl_nbdev.base.tiles import Scene, boxes_inside, tile_starts, tiled
from tl_nbdev.boxes.sources import read_boxes
from tl_nbdev.boxes.table import corners

parts = 'train', 'valid', 'test'
has_apt = all(map(shutil.which, ('apt-get', 'dpkg-deb')))


# tiles

@given(st.integers(1, 4000), st.integers(1, 600), st.data())
def test_tiles_cover_a_side_and_overlap_as_told(side, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    starts, long = tile_starts(side, size, overlap), min(side, size)
    assert starts[0] == 0 and starts[-1] + long == side
    assert all(one < other <= one + long - overlap for one, other in zip(starts, starts[1:]))

@given(st.lists(st.tuples(*[st.integers(0, 60)]*4), max_size=8), st.integers(4, 40), st.floats(0, 1))
def test_a_box_in_a_tile_lies_in_it_and_shows_enough(drawn, size, least):
    boxes = [dict(label='a', box=(x, y, x + wide + 1, y + high + 1)) for x, y, wide, high in drawn]
    for window in ((0, 0, size, size), (7, 3, 7 + size, 3 + size)):
        for each in boxes_inside(boxes, window, least):
            x0, y0, x1, y1 = each['box']
            assert 0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size
        if least == 0: continue
        assert len(boxes_inside(boxes, window, least)) <= len(boxes_inside(boxes, window, least/2))

def test_tiles_put_together_are_the_photograph():
    pixels = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    again = np.zeros_like(pixels)
    for tile in tiled(Scene(Image.fromarray(pixels), [], 'a'), 40, 10):
        x, y = map(int, re.findall(r'-[xy](\d+)', tile.name))
        again[y:y + 40, x:x + 40] = np.array(tile.picture)
    assert (again == pixels).all()


# trees

@pytest.fixture(scope='module')
def trees(): return samples.sample('trees', quiet=True)

def place(file): return re.match(r'(\w+)-x(\d+)-y(\d+)', Path(file).stem).groups()

def test_trees_are_as_told(trees):
    table = read_boxes(trees)
    assert [len(table.part(part)) for part in parts] == [120, 18, 25]
    assert [len(table.part(part).boxes) for part in parts] == [799, 132, 344]
    assert table.classes == ['tree'] and not table.left and set(zip(table.images.width, table.images.height)) == {(256, 256)}
    assert (table.part('train').boxes.image.nunique(), *(len(read_boxes(trees/name).boxes) for name in ('whole', 'elsewhere'))) == (103, 279, 98)
    assert sorted(set(zip(table.images.part, table.images.group))) == [('test', '541000'), ('train', '528000, train'), ('valid', '528000, valid')]
    box = table.boxes[corners].to_numpy()
    assert box.min() >= 0 and box.max() <= 256 and (box[:, 2:] > box[:, :2]).all()

def test_trees_share_no_pixel_between_parts(trees):
    masks = {part: {} for part in parts}
    for item, part in read_boxes(trees).images[['item', 'part']].itertuples(index=False):
        photo, x, y = place(item)
        mask = masks[part].setdefault(photo, np.zeros((2600, 2600), bool))
        mask[int(y):int(y) + 256, int(x):int(x) + 256] = True
    assert {part: list(mask) for part, mask in masks.items()} == dict(train=['528000'], valid=['528000'], test=['541000'])
    train, valid = masks['train']['528000'], masks['valid']['528000']
    assert not (train & valid).any() and train.sum() + valid.sum() == 2299*2472 and masks['test']['541000'].sum() == 1249*1035

def test_tiles_of_the_test_are_cut_from_the_photograph_that_is_there_whole(trees):
    photograph = np.array(Image.open(trees/'whole/541000.png'))
    for file in (trees/'images/test').iterdir():
        _, x, y = place(file)
        assert (np.array(Image.open(file)) == photograph[int(y):int(y) + 256, int(x):int(x) + 256]).all()


# composites

@pytest.fixture(scope='module')
def things():
    if not has_apt: pytest.skip('no apt')
    return samples.sample('things', quiet=True)

def told(folder, part): return json.loads((folder/f'{part}.json').read_text('utf-8'))

def test_things_are_as_told(things):
    table = read_boxes(things)
    assert [len(table.part(part)) for part in parts] == [300, 100, 100] and len(table.classes) == 10 and not table.left
    counts = [Counter(table.part(part).boxes.label) for part in parts]
    assert all(len(count) == 10 and min(count.values()) >= 20 for count in counts)
    box = table.boxes[corners].to_numpy()
    longer = (box[:, 2:] - box[:, :2]).max(1)
    assert box.min() >= 0 and box.max() <= 416 and longer.min() >= 41 and longer.max() <= 250
    for part in parts:
        for rows in table.part(part).boxes.groupby('image').indices.values():
            of = table.part(part).boxes[corners].to_numpy()[rows]
            assert all(covered(one, other) <= .2 for i, one in enumerate(of) for other in of[:i])

def test_no_piece_is_in_two_parts(things):
    pieces = things/'pieces'
    digests = {part: {hashlib.sha256(file.read_bytes()).hexdigest() for file in (pieces/part).rglob('*.png')} for part in parts}
    assert not digests['train'] & digests['valid'] and not digests['train'] & digests['test'] and not digests['valid'] & digests['test']
    for part in parts:
        there = {file.relative_to(pieces/part/'cut-outs').as_posix() for file in (pieces/part/'cut-outs').rglob('*.png')}
        names = {row['id']: row['name'] for row in told(things, part)['categories']}
        assert {f'{names[row["category_id"]]}/{row["source"]}' for row in told(things, part)['annotations']} <= there
    grounds = {part: [np.array(Image.open(file)) for file in sorted((pieces/part/'backgrounds').iterdir())] for part in parts}
    whole = np.vstack([grounds['train'][0], grounds['valid'][0]]) # the large photograph is cut in two
    assert whole.shape == (2472, 2299, 3) and (grounds['train'][0][-512:] != grounds['valid'][0]).any()

def test_the_same_seed_makes_the_same_boxes_and_another_one_others(things, tmp_path):
    made = [composites(things/'pieces', tmp_path/f'{i}', dict(test=n), seed=seed) for i, (n, seed) in enumerate([(4, 0), (4, 0), (4, 1)])]
    boxes = [told(folder, 'test')['annotations'] for folder in made]
    assert boxes[0] == boxes[1] != boxes[2] and boxes[0] == told(things, 'test')['annotations'][:len(boxes[0])]
    pictures = [[file.read_bytes() for file in sorted((folder/'images/test').iterdir())] for folder in made]
    assert pictures[0] == pictures[1] != pictures[2]

def test_composites_that_fail_leave_nothing(things, tmp_path, monkeypatch):
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(TransferError, match='No space left'): composites(things/'pieces', tmp_path/'some', dict(test=2))
    assert not list(tmp_path.iterdir())


# a package of Debian

@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A sample in a package of Debian, and an apt-get that brings it; a function that lets apt-get do something else"
    if not has_apt: pytest.skip('no apt')
    (tmp_path/'root/DEBIAN').mkdir(parents=True)
    (tmp_path/'root/DEBIAN/control').write_text('Package: tiny\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <no@body>\nDescription: a file\n')
    (tmp_path/'root/usr').mkdir()
    (tmp_path/'root/usr/data.txt').write_text('hello')
    deb = tmp_path/'tiny_1.0_all.deb'
    subprocess.run(['dpkg-deb', '--build', tmp_path/'root', deb], check=True, capture_output=True)
    (tmp_path/'bin').mkdir()
    def does(script):
        (tmp_path/'bin/apt-get').write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path/'bin/apt-get').chmod(stat.S_IRWXU)
    does(f'[ "$*" = "download --quiet tiny=1.0" ] && cp {deb} .')
    monkeypatch.setenv('PATH', f'{tmp_path/"bin"}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('TL_CACHE', str(tmp_path/'cache'))
    def unpack(archive, to): (to/'data.txt').write_bytes(archive.read('usr/data.txt'))
    offered = samples.Sample('tiny', 'boxes', 'tiny==1.0', hashlib.sha256(deb.read_bytes()).hexdigest(), .1, 'one file', 'CC0', 'Nobody', unpack, debian=True)
    monkeypatch.setitem(samples._samples, 'tiny', offered)
    return does

def failed(tmp_path, *words):
    got = tl('samples', '--fetch', 'tiny')
    line = got.err.splitlines()[-1]
    assert got.status == 1 and '--debug shows where' not in line
    for word in words: assert word in line
    assert not [file for file in (tmp_path/'cache').rglob('*') if file.is_file() and not file.name.endswith('.lock')]

def test_a_package_of_debian_is_fetched_and_not_installed(tiny):
    got = tl('samples', '--fetch', 'tiny')
    assert got.status == 0 and 'with apt' in got.err and (Path(got.out.strip())/'data.txt').read_text() == 'hello'

def test_another_package_is_refused(tiny, tmp_path):
    tiny('echo other > tiny_1.0_all.deb')
    failed(tmp_path, 'tiny==1.0', 'another sha256', 'removed unread')

def test_what_apt_does_not_find_is_said(tiny, tmp_path):
    tiny('echo "W: a word" >&2; echo "E: Unable to locate package tiny" >&2; exit 100')
    failed(tmp_path, 'apt could not fetch it', 'Unable to locate package', 'apt-get update')
    tiny('exit 0')
    failed(tmp_path, 'apt said nothing')

def test_where_there_is_no_apt_one_line_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(samples.shutil, 'which', lambda name: None)
    failed(tmp_path, 'no apt on this machine', 'tiny==1.0', 'copy its folder from the cache')


# asked for as something else

@pytest.mark.parametrize('name', ['trees', 'things', 'squeezenet1_1'])
def test_a_sample_of_another_kind_is_refused_before_it_is_fetched(name, monkeypatch):
    from tl_nbdev.vision import images
    monkeypatch.setattr(images, 'sample', lambda name: pytest.fail('fetched'))
    with pytest.raises(TransferError, match='images are elpv, mnist'): images.ImageTask.from_sample(name)
