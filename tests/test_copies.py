"Photos that were saved again: found, kept in one part of a split, and nothing else taken for them."
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tl
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter
from tl_nbdev.vision.copies import crops, joined, near_copies, whole_copies
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.vision.pixels import scan

def scene(seed, size=160):
    "A picture with structure of all sizes, as photographs have it"
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.normal(size=(size, size, 3)), (s, s, 1))*s for s in (1, 2, 4, 8, 16, 32)]
    a = sum(layers)
    return Image.fromarray((128 + 60*(a - a.mean())/a.std()).clip(0, 255).astype(np.uint8))

def jpeg(quality):
    def again(im):
        data = BytesIO()
        im.save(data, 'JPEG', quality=quality)
        return Image.open(data)
    return again

def cut(share, left, top): # shares of what is cut off
    def part(im):
        n = round(share*im.width)
        x, y = round(left*(im.width - n)), round(top*(im.height - n))
        return im.crop((x, y, x + n, y + n))
    return part

ways = {'a good JPEG': jpeg(90), 'a poor JPEG': jpeg(20), 'half as large': lambda im: im.resize((im.width//2, im.height//2)), 'twice as large': lambda im: im.resize((2*im.width, 2*im.height), Image.BICUBIC),
        'stretched': lambda im: im.resize((im.width, im.height//2)), 'brighter': lambda im: ImageEnhance.Brightness(im).enhance(1.2), 'flatter': lambda im: ImageEnhance.Contrast(im).enhance(.6),
        'grey': lambda im: im.convert('L'), 'gamma': lambda im: im.point(lambda v: int(255*(v/255)**.7)), 'small and poor': lambda im: jpeg(40)(im.resize((90, 90)))}
parts = {'a border cut off': cut(.95, .5, .5), 'a tenth cut off': cut(.9, 0, 1), 'a fifth cut off': cut(.8, .3, .6), 'cut and poor': lambda im: jpeg(40)(cut(.9, .7, .2)(im))}

def saved(to, images):
    to.mkdir(parents=True, exist_ok=True)
    for i, im in enumerate(images): im.save(to/f'{i:03}.png')
    return sorted(to.iterdir())

def found(files): return near_copies(files, [o['hash'] for o in scan(files)])

@pytest.fixture(scope='module')
def scenes(): return [scene(seed) for seed in range(40)]

@pytest.mark.parametrize('way', ways)
def test_whole_copies_are_found_and_no_others(way, scenes, tmp_path):
    files = saved(tmp_path, scenes + [ways[way](o) for o in scenes[:10]])
    assert found(files) == [(i, 40 + i) for i in range(10)]

@pytest.mark.parametrize('way', parts)
def test_parts_are_found_and_no_others(way, scenes, tmp_path):
    files = saved(tmp_path, scenes + [parts[way](o) for o in scenes[:10]])
    pairs = set(found(files))
    assert pairs <= {(i, 40 + i) for i in range(10)} and len(pairs) >= 8

def test_several_copies_of_one_photo_are_all_found(scenes, tmp_path):
    files = saved(tmp_path, scenes + [ways[o](scenes[3]) for o in ('a poor JPEG', 'brighter', 'half as large')])
    names = joined(list(range(43)), found(files))
    assert len({names[o] for o in (3, 40, 41, 42)}) == 1 and len(set(names)) == 40

def test_what_is_alike_but_no_copy(tmp_path):
    grain = np.random.default_rng(0)
    same_thing = [Image.fromarray((np.asarray(scene(0)).astype(int) + grain.normal(0, 40, (160, 160, 3))).clip(0, 255).astype(np.uint8)) for _ in range(30)]
    assert found(saved(tmp_path/'one thing, taken again and again', same_thing)) == []
    noise = [Image.fromarray(grain.integers(0, 255, (64, 64), dtype=np.uint8)) for _ in range(50)]
    assert found(saved(tmp_path/'noise', noise)) == []
    assert found(saved(tmp_path/'colours', [Image.new('RGB', (40, 40), (i, 2*i, 255 - i)) for i in range(30)])) == []
    waves = [Image.fromarray((128 + 90*np.sin(np.arange(64)*grain.uniform(.2, .6) + grain.uniform(0, 6)) + grain.normal(0, 25, (64, 64))).clip(0, 255).astype(np.uint8)) for _ in range(60)]
    assert len(found(saved(tmp_path/'waves', waves))) <= 1

def test_few_photos(scenes, tmp_path):
    assert found(saved(tmp_path/'one', scenes[:1])) == [] and near_copies([], []) == []
    assert found(saved(tmp_path/'two', scenes[:2])) == [] and found(saved(tmp_path/'three', scenes[:3])) == []
    assert found(saved(tmp_path/'a pair', [scenes[0], ways['a poor JPEG'](scenes[0])])) == [(0, 1)]

def test_what_was_found_is_known_again_whatever_the_order(scenes, tmp_path):
    files = saved(tmp_path, scenes[:20] + [jpeg(30)(o) for o in scenes[:4]])
    first = found(files)
    turned = [tuple(sorted((23 - i, 23 - j))) for i, j in found(files[::-1])]
    assert first == sorted(turned) == [(i, 20 + i) for i in range(4)]

def classes(to, scenes, again=12):
    "Two classes of 20 photos, a dozen of each saved again under another name"
    for c, own in (('cat', scenes[:20]), ('dog', scenes[20:])): saved(to/c, own + [ways[o](im) for o, im in zip([*ways]*2, own[:again])])
    return to

def test_copies_share_a_part_of_the_split(scenes, tmp_path):
    folder = classes(tmp_path, scenes)
    for seed in range(3):
        task = ImageTask.from_folder(folder, seed=seed)
        part = {(Path(o).parent.name, Path(o).stem): p for o, p in zip(task.df.item, task.df.part)}
        assert all(part[c, f'{i:03}'] == part[c, f'{20 + i:03}'] for c in ('cat', 'dog') for i in range(12))
        assert task.n('train') and task.n('valid') and task.n('test')
        assert 'nearly the same photo more than once' in [o['found'] for o in task.audit()]

def test_groups_are_joined_where_they_hold_copies(scenes, tmp_path):
    files = saved(tmp_path, scenes[:16] + [jpeg(30)(o) for o in scenes[:4]])
    df = pd.DataFrame(dict(file=files, label=['a', 'b']*10, group=[f'g{i//2}' for i in range(20)]))
    task = ImageTask.from_df(df, group='group')
    parts = task.df.set_index(task.df.item.map(lambda o: int(Path(o).stem))).part
    assert all(parts[i] == parts[i ^ 1] for i in range(20)) and all(parts[i] == parts[16 + i] for i in range(4))

def test_copies_that_a_given_split_tears_apart_are_found(scenes, tmp_path):
    for part, c, own in (('train', 'cat', scenes[:8]), ('train', 'dog', scenes[8:16]), ('test', 'cat', [jpeg(40)(scenes[2]), *scenes[16:20]]), ('test', 'dog', [scenes[9].resize((80, 80)), jpeg(40)(scenes[3]), *scenes[20:24]])): saved(tmp_path/part/c, own)
    rows = {o['found']: o for o in ImageTask.from_folder(tmp_path).audit()}
    torn = rows['nearly the same photo in two parts of the split']
    assert torn['count'] == 3 and 'cat/000.png and cat/002.png' in torn['examples']
    assert rows['nearly the same photo under two labels']['count'] == 1
    assert 'nearly the same photo in two parts' in tl('audit', tmp_path).out

def test_photos_that_are_all_alike_are_no_copies(tmp_path):
    folder = saved(tmp_path/'up', [Image.fromarray(np.full((40, 40), 90, np.uint8) + np.eye(40, k=3, dtype=np.uint8)*(40 + i)) for i in range(8)])[0].parent.parent
    saved(tmp_path/'down', [Image.fromarray(np.full((40, 40), 90, np.uint8) + np.eye(40, k=-9, dtype=np.uint8)*(40 + i)) for i in range(8)])
    task = ImageTask.from_folder(folder)
    assert task.n('train') >= 8 and task.n('valid') and task.n('test')


# names that tell of groups

def named(to, scenes, name, n=24):
    to.mkdir(parents=True, exist_ok=True)
    for i, im in enumerate(scenes[:n]):
        folder = to/('cat' if i < n//2 else 'dog')
        folder.mkdir(exist_ok=True)
        im.resize((48, 48)).save(folder/f'{name(i)}.png')
    return to

says = lambda task: [o for o in task.audit() if o['found'].startswith('files whose names begin alike')]

@pytest.mark.parametrize('name', [lambda i: f'patient{i//3:02}_view{i%3}', lambda i: f'{1000 + i//4}-{i%4}', lambda i: f'P{i//2} ({i%2})', lambda i: f'case_{i//3}_frame_{i%3:03}', lambda i: f'id{i//3}.img{i%3}'], ids=['view', 'dash', 'bracket', 'frame', 'dot'])
def test_names_that_tell_of_groups(name, scenes, tmp_path):
    task = ImageTask.from_folder(named(tmp_path, scenes, name))
    (found,) = says(task)
    assert 'group=' in found['next'] and found['count'] >= 3
    kept = ImageTask.from_folder(tmp_path, group=lambda file: file.stem[:-2].rstrip('_-. (viewframg0'))
    assert says(kept) == [] and kept.df.groupby('group').part.nunique().max() == 1

@pytest.mark.parametrize('name', [lambda i: f'cat_{i}', lambda i: f'IMG_{1000 + 7*i}', lambda i: f'photo ({i})', lambda i: 'abcdefghijklmnopqrstuvwxyz'[i], lambda i: f'2021-03-{i + 1:02} at noon'], ids=['class', 'camera', 'bracket', 'letters', 'date'])
def test_names_that_tell_of_none(name, scenes, tmp_path): assert says(ImageTask.from_folder(named(tmp_path, scenes, name))) == []

def test_groups_by_path_in_a_table(scenes, tmp_path):
    named(tmp_path, scenes, lambda i: f'patient{i//3:02}_view{i%3}')
    files = sorted(tmp_path.rglob('*.png'))
    pd.DataFrame(dict(file=[str(f.relative_to(tmp_path)) for f in files], label=[f.parent.name for f in files])).to_csv(tmp_path/'t.csv', index=False)
    by = lambda f: f.stem.partition('_')[0]
    for task in (ImageTask.from_csv(tmp_path/'t.csv', group=by), ImageTask.from_df(dict(file=files, label=[f.parent.name for f in files]), group=by)):
        assert task.df.groupby('group').part.nunique().max() == 1 and task.df.group.nunique() == 8
