"Large photos, tile by tile: what is in several tiles, or cut by them, is counted once."
import gc, weakref

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings as laws, strategies as st
from PIL import Image
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.table import corners, overlaps
from tl_nbdev.boxes.tiles import draw_found, found_in_tiles, merged, save_found, tile_columns, tiles_of

law = laws(deadline=None, derandomize=True, max_examples=150)


# tiles

@law
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.floats(0, .9))
def test_tiles_cover_all_are_alike_and_overlap(width, height, tile, overlap):
    if width*height/tile**2 > 1e4: return
    tiles = np.array(tiles_of(width, height, tile, overlap))
    assert (tiles[:, 2:] - tiles[:, :2] == [min(tile, width), min(tile, height)]).all()
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    for side, length in enumerate((width, height)):
        spans = np.unique(tiles[:, [side, side + 2]], axis=0)
        assert spans[0, 0] == 0 and spans[-1, 1] == length
        shared = spans[:-1, 1] - spans[1:, 0]
        assert (shared >= min(overlap*tile, tile - 1) - 1e-6).all()
        least = min(overlap*tile, tile - 1)
        if len(spans) > 2: assert (len(spans) - 1)*(tile - np.ceil(least)) + np.ceil(least) < length # and there is none too many


# an ideal network

class Ideal:
    "Finds what is there, as far as a tile shows it"
    def __init__(self, boxes, labels, scores): self.boxes, self.labels, self.scores = np.asarray(boxes, float).reshape(-1, 4), labels, scores
    def rows(self, tiles):
        rows = []
        for number, tile in enumerate(tiles):
            seen = np.clip(self.boxes, np.tile(tile[:2], 2), np.tile(tile[2:], 2))
            there = np.flatnonzero((seen[:, 2:] > seen[:, :2]).all(1))
            rows += [(self.labels[i], self.scores[number % len(self.scores)], *seen[i].tolist(), number) for i in there]
        return pd.DataFrame(rows, columns=list(tile_columns))

def as_set(rows): return sorted((row.label, *np.round([row.x0, row.y0, row.x1, row.y1], 6).tolist()) for row in rows.itertuples())

@st.composite
def small_things(draw, largest=60):
    "Boxes smaller than what tiles have in common, none of which covers another of its class by half"
    size, rng = (draw(st.integers(60, 900)), draw(st.integers(60, 900))), np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(0, 60))
    low = rng.uniform(0, np.array(size) - 3, (n, 2))
    high = np.minimum(low + rng.uniform(3, largest, (n, 2)), size)
    if draw(st.booleans()): low, high = np.floor(low), np.ceil(high)
    boxes, labels = np.concatenate([low, high], 1), rng.choice(['a', 'b', 'c'], n)
    kept = []
    for i in range(n):
        rivals = [k for k in kept if labels[k] == labels[i]]
        if not rivals or overlaps(boxes[[i]], boxes[rivals]).max() < .49: kept.append(i)
    return size, boxes[kept], labels[kept].tolist(), rng.uniform(.1, 1, 17).round(3).tolist()

@law
@given(small_things(), st.integers(250, 400), st.sampled_from(['nms', 'union']), st.booleans())
def test_what_is_smaller_than_the_overlap_comes_back_as_it_is(scene, tile, way, whole):
    size, boxes, labels, scores = scene
    tiles = tiles_of(*size, tile, (61 + .02*tile)/tile)
    if whole: tiles.append((0, 0, *size))
    found = merged(Ideal(boxes, labels, scores).rows(tiles), tiles, way=way)
    assert as_set(found) == as_set(pd.DataFrame(boxes, columns=corners).assign(label=labels))
    assert (np.diff(found.score) <= 0).all()

@law
@given(st.integers(0, 2**32), st.integers(90, 300), st.floats(.05, .5), st.sampled_from(['nms', 'union']))
def test_what_is_larger_comes_back_once_at_most(seed, tile, overlap, way):
    rng, size = np.random.default_rng(seed), (700, 500)
    low = rng.uniform(0, np.array(size) - 60, (12, 2))
    boxes, labels = np.concatenate([low, np.minimum(low + rng.uniform(10, 500, (12, 2)), size)], 1), rng.choice(['a', 'b'], 12).tolist()
    tiles = tiles_of(*size, tile, overlap)
    found = merged(Ideal(boxes, labels, [.5]).rows(tiles), tiles, way=way)
    for label in 'ab': assert (found.label == label).sum() <= labels.count(label)

@law
@given(st.integers(0, 2**32), st.integers(90, 300), st.floats(.05, .5), st.booleans())
def test_one_large_thing_comes_back_whole(seed, tile, overlap, whole):
    rng, size = np.random.default_rng(seed), (700, 500)
    low = rng.uniform(0, np.array(size) - 60)
    box = np.concatenate([low, np.minimum(low + rng.uniform(30, 600, 2), size)])
    tiles = tiles_of(*size, tile, overlap) + ([(0, 0, *size)] if whole else [])
    rows = Ideal([box], ['a'], [.5]).rows(tiles)
    found = merged(rows, tiles)
    assert len(found) == len(merged(rows, tiles, way='nms')) == 1 and np.allclose(found[corners], [box])

@law
@given(st.integers(0, 2**32), st.sampled_from(['nms', 'union']))
def test_order_doesnt_matter(seed, way):
    rng, tiles = np.random.default_rng(seed), tiles_of(400, 300, 150, .3)
    low = rng.uniform(0, [360, 260], (20, 2))
    rows = Ideal(np.concatenate([low, low + rng.uniform(5, 40, (20, 2))], 1), ['a']*20, rng.permutation(17)/17).rows(tiles)
    rows['score'] = rng.permutation(len(rows))/len(rows)
    one, other = merged(rows, tiles, way=way), merged(rows.sample(frac=1, random_state=seed % 1000), tiles, way=way)
    assert as_set(one) == as_set(other)

def jittered(rows, rng, by):
    boxes = rows[corners].to_numpy(float) + rng.normal(0, by, (len(rows), 4))
    return rows.assign(**dict(zip(corners, boxes.T)), score=rng.uniform(.3, 1, len(rows)))

@pytest.mark.parametrize('seed', range(20))
def test_a_network_that_isnt_sure_to_the_pixel(seed):
    "Far-apart things, borders off by a pixel, in any tile: each once, and near to where it is"
    rng = np.random.default_rng(seed)
    low = np.stack(np.meshgrid(np.arange(10, 900, 130), np.arange(10, 600, 130)), -1).reshape(-1, 2) + rng.uniform(0, 40, (35, 2))
    boxes = np.concatenate([low, low + rng.uniform(20, 60, (35, 2))], 1)
    tiles = tiles_of(1000, 700, 320, .25)
    rows = jittered(Ideal(boxes, ['a']*35, [.5]).rows(tiles), rng, 1)
    at = np.array(tiles)[rows.tile]
    for side in (0, 1): # what is cut ends at the border, as networks draw it
        for c, end in ((corners[side], side), (corners[side + 2], side + 2)): rows[c] = np.clip(rows[c], at[:, side], at[:, side + 2])
    rows = rows[(rows.x1 - rows.x0 > 4) & (rows.y1 - rows.y0 > 4)]
    found = merged(rows, tiles)
    best = overlaps(boxes, found[corners].to_numpy(float))
    assert len(found) == 35 and (best.max(1) > .7).all()

def test_rows_of_one_tile_stay_apart_and_classes_too():
    tiles = tiles_of(200, 100, 120, .2)
    rows = pd.DataFrame([('a', .9, 10, 10, 50, 50, 0), ('a', .8, 11, 11, 50, 50, 0), ('b', .7, 10, 10, 50, 50, 0)], columns=tile_columns)
    assert len(merged(rows, tiles)) == 3
    both = pd.DataFrame([('a', .9, 84, 10, 110, 50, 0), ('b', .8, 84, 10, 110, 50, 1)], columns=tile_columns)
    assert len(merged(both, tiles)) == 2 and len(merged(both.assign(label='a'), tiles)) == 1

def test_a_piece_never_beats_a_whole():
    tiles = tiles_of(200, 100, 120, .5)
    rows = pd.DataFrame([('a', .99, 60, 10, 90, 50, 1), ('a', .2, 40, 10, 90, 50, 0)], columns=tile_columns)
    cut = rows.assign(x0=[tiles[1][0], 40])
    found = merged(cut, tiles)
    assert len(found) == 1 and found.x0[0] == 40 and found.score[0] == .2

def test_a_small_whole_thing_doesnt_hide_a_large_piece():
    tiles = tiles_of(200, 100, 120, .5)
    rows = pd.DataFrame([('a', .9, 70, 40, 78, 48, 0), ('a', .5, tiles[1][0], 5, 190, 95, 1)], columns=tile_columns)
    assert len(merged(rows, tiles)) == 2

def test_labels_may_be_numbers():
    rows = pd.DataFrame([(3, .9, 1, 1, 5, 5, 0), (7, .8, 1, 1, 5, 5, 0)], columns=tile_columns)
    assert merged(rows, [(0, 0, 9, 9)]).label.tolist() == [3, 7]


# a photo

class Large:
    "A picture of 12,000 pixels that has no pixels, and counts its crops"
    mode, size = 'RGB', (12_000, 12_000)
    def __init__(self): self.alive, self.most, self.made = weakref.WeakSet(), 0, 0
    def crop(self, place):
        crop = Image.new('RGB', (4, 4))
        crop.place = place
        self.alive.add(crop)
        self.made, self.most = self.made + 1, max(self.most, len(self.alive))
        return crop

def test_of_a_large_photo_one_batch_is_held(monkeypatch):
    monkeypatch.setattr('tl_nbdev.boxes.tiles.open_image', lambda im: im)
    monkeypatch.setattr(Image.Image, '__hash__', object.__hash__)
    photo, boxes = Large(), np.random.default_rng(0).uniform(0, 11_900, (3000, 2))
    boxes = np.concatenate([boxes, boxes + 40], 1)
    def find(crops):
        gc.collect(0)
        for crop in crops:
            place = np.array(crop.place)
            seen = np.clip(boxes, np.tile(place[:2], 2), np.tile(place[2:], 2))
            seen = seen[(seen[:, 2:] > seen[:, :2]).all(1)] - np.tile(place[:2], 2)
            yield ['a']*len(seen), [.5]*len(seen), seen
    found = found_in_tiles(find, photo, 640, bs=8, whole=False)
    assert photo.made == len(tiles_of(12_000, 12_000, 640)) and photo.most <= 8
    rivals = np.triu(overlaps(boxes, boxes) >= .5, 1).any(1).sum()
    assert 3000 - 2*rivals <= len(found) <= 3000

@pytest.mark.parametrize('bs', [1, 3, 1000])
@pytest.mark.parametrize('whole', [True, False])
def test_the_batch_changes_nothing(bs, whole):
    im = Image.new('RGB', (300, 200))
    im.paste('white', (100, 60, 130, 80))
    sizes = []
    def find(crops):
        sizes.extend(crop.size for crop in crops)
        spots = [crop.convert('L').getbbox() for crop in crops]
        return [(['a'], [1.], [spot]) if spot else ([], [], []) for spot in spots]
    found = found_in_tiles(find, im, 120, bs=bs, whole=whole)
    assert found[corners].to_numpy().tolist() == [[100, 60, 130, 80]]
    assert sizes.count((120, 120)) == 6 and len(sizes) == 6 + whole

@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'P', 'CMYK'])
def test_crops_are_rgb(mode):
    seen = []
    def find(crops):
        seen.extend(crop.mode for crop in crops)
        return [([], [], []) for _ in crops]
    assert len(found_in_tiles(find, Image.new(mode, (90, 50)), 40)) == 0 and set(seen) == {'RGB'}

def test_boxes_beyond_a_tile_are_cut_to_it():
    found = found_in_tiles(lambda crops: [(['a'], [.9], [[-20, -20, 500, 500]])]*len(crops), Image.new('RGB', (60, 50)), 100)
    assert found[corners].to_numpy().tolist() == [[0, 0, 60, 50]]

def test_pictures_go_to_a_folder_and_replace_nothing(tmp_path):
    im, rows = Image.new('RGB', (90, 60)), pd.DataFrame([('猫', .5, 5, 5, 50, 50)], columns=['label', 'score', *corners])
    for name in ('a.png', 'a.jpg', 'sub/a.webp'):
        assert save_found(im, rows, tmp_path/name).is_file() and save_found(im, rows[:0], tmp_path/name).is_file()
    (tmp_path/'mine.png').write_bytes(b'mine')
    with pytest.raises(TransferError, match='not as this package wrote it'): save_found(im, rows, tmp_path/'mine.png')
    assert (tmp_path/'mine.png').read_bytes() == b'mine'
    (tmp_path/'a.png').write_bytes(b'changed')
    with pytest.raises(TransferError, match='not as this package wrote it'): save_found(im, rows, tmp_path/'a.png')

def test_a_photo_that_is_open_is_turned_as_it_is_seen_and_not_drawn_on():
    im = Image.new('RGB', (90, 60))
    exif = im.getexif()
    exif[0x112] = 6 # on its side
    sizes = []
    def find(crops):
        sizes.extend(crop.size for crop in crops)
        return [(['a'], [.9], [[1, 1, 9, 9]]) for _ in crops]
    rows = found_in_tiles(find, im, 100)
    assert sizes == [(60, 90)] and draw_found(im, rows).size == (60, 90)
    plain = Image.new('RGB', (90, 60))
    assert draw_found(plain, rows).tobytes() != plain.tobytes() == Image.new('RGB', (90, 60)).tobytes()
