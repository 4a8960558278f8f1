"Pictures as they really are: more than 8 bits, more than three bands, other formats; what is decided is said, saved and used everywhere."
import io, json, shutil, struct, subprocess, sys, types, zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import edited
from PIL import Image, ImageFile, features
from tl_nbdev.vision.features import Frozen
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.apps.jobs import load_task, save_task
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.vision.pixels import Prep, open_image, pixels, scan
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.vision.zoo import pretrained

rng = np.random.default_rng(0)
y, x = np.mgrid[:40, :48]
ramp = (x + y)/86 # 0 to 1, in a way that no turn or mirror leaves as it is
ramp[:10, :10], ramp[20, 20] = 1, 0

def tiff(file, a, extra=0, photometric=None, apart=False, **more):
    "Write a plain TIFF of any number of bands and bits; `more`: further tags, by number"
    h, w, n = a.shape if a.ndim == 3 else (*a.shape, 1)
    kind = dict(u=1, i=2, f=3)[a.dtype.kind]
    data = (np.moveaxis(a, -1, 0) if apart else a).astype(a.dtype.newbyteorder('<')).tobytes()
    tags = {256: [w], 257: [h], 258: [8*a.itemsize]*n, 259: [1], 262: [(2 if n >= 3 else 1) if photometric is None else photometric],
            273: [0], 277: [n], 278: [h], 279: [len(data)], 284: [2 if apart else 1], 339: [kind]*n}
    if n > 3: tags[338] = [extra]*(n - 3)
    if apart: tags[273], tags[279] = [0]*n, [len(data)//n]*n
    tags |= {int(k[1:]): v for k, v in more.items()}
    at = 10 + 12*len(tags)
    start, beside, rows = at + 4, b'', []
    packed = {k: v if isinstance(v, bytes) else struct.pack(f'<{len(v)}I', *v) for k, v in tags.items()}
    size = sum(len(v) for v in packed.values() if len(v) > 4)
    first = start + size
    packed[273] = struct.pack(f'<{len(tags[273])}I', *(first + i*len(data)//len(tags[273]) for i in range(len(tags[273]))))
    for k in sorted(tags):
        v, kind = packed[k], 2 if isinstance(tags[k], bytes) else 4
        n = len(v) if kind == 2 else len(v)//4
        rows.append(struct.pack('<HHI', k, kind, n) + (v.ljust(4, b'\0') if len(v) <= 4 else struct.pack('<I', start + len(beside))))
        if len(v) > 4: beside += v
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(rows) + bytes(4) + beside + data)
    return file

def png16(file, a, orientation=None):
    "Write a PNG of 16 bits a channel: grey, with alpha, in colour, with alpha"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in a)
    head = struct.pack('>IIBBBBB', a.shape[1], a.shape[0], 16, {2: 0}.get(a.ndim, {2: 4, 3: 2, 4: 6}.get(a.shape[-1])), 0, 0, 0)
    exif = Image.Exif()
    exif[0x112] = orientation or 1
    more = chunk(b'eXIf', exif.tobytes()[6:]) if orientation else b''
    Path(file).write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + more + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))
    return file

def shown(file, **kwargs): return np.asarray(open_image(file, **kwargs)).astype(int)

def in_16_bits(to, of=lambda i: (ramp*3000 + i).astype('u2'), n=6, write=tiff, ext='tif'):
    "A folder of two classes, which lie one way and the other"
    for i in range(n):
        for kind, turn in (('up', lambda a: a), ('down', np.flipud)):
            (to/kind).mkdir(parents=True, exist_ok=True)
            write(to/kind/f'{i}.{ext}', np.ascontiguousarray(turn(of(i))))
    return to

def eight(file, a): Image.fromarray(a).save(file)


# one picture alone

@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('write', [tiff, png16, lambda f, a: np.save(f.open('wb'), a)], ids=['tiff', 'png', 'npy'])
def test_all_bits_in_use_are_shown(tmp_path, bits, write):
    f = tmp_path/'a.png'
    write(f, (ramp*(2**bits - 1)).round().astype('u2'))
    assert np.abs(shown(f) - 255*ramp).max() <= 1

def test_sixteen_bits_used_in_full_are_shown_as_ever(tmp_path):
    a = rng.integers(0, 65536, (40, 48)).astype('u2')
    assert np.abs(shown(tiff(tmp_path/'a.tif', a)) - a/257).max() <= 1

@pytest.mark.parametrize('a,low,high', [
    ((ramp*2000 - 1000).astype('i2'), -1024, 1023), ((ramp*1e5).astype('i4'), 0, 131071), ((ramp*4e9).astype('u4'), 0, 2**32 - 1),
    ((ramp*250).astype('i4'), 0, 255), (ramp.astype('f4'), 0, 1), ((ramp*255).astype('f4'), 0, 255), ((ramp*9 - 4).astype('f4'), -4, 5),
    (ramp.astype('f8'), 0, 1), (np.stack([ramp, ramp[::-1], ramp*.5], -1).astype('f4'), 0, 1),
    ((np.stack([ramp, ramp[::-1], ramp*.5], -1)*3000).astype('u2'), 0, 4095)],
    ids=['signed', '32 bits', 'unsigned 32 bits', '8 in 32 bits', '0 to 1', '0 to 255', 'other floats', 'double', 'float colours', 'reflectances'])
def test_other_numbers_are_shown_by_their_range(tmp_path, a, low, high):
    got = shown(tiff(tmp_path/'a.tif', a))
    assert got.shape == a.shape and np.abs(got - 255*(a.astype(float) - low)/(high - low)).max() <= 1

def test_nothing_there_is_black(tmp_path):
    holes = np.where(ramp < .3, np.nan, ramp).astype('f4')
    assert (shown(tiff(tmp_path/'a.tif', holes))[ramp < .3] == 0).all()
    scene = np.where(ramp < .3, -9999, 100 + 900*ramp).astype('i2')
    assert 'why' not in (seen := scan([tiff(tmp_path/'b.tif', scene, t42113=b'-9999\0')])[0])
    assert seen['deep']['values'][0] > 0
    assert shown(tmp_path/'b.tif').max() > 200

def test_white_is_zero_where_the_file_says_so(tmp_path):
    up, down = (shown(tiff(tmp_path/f'{i}.tif', (ramp*4095).astype('u2'), photometric=i)) for i in (1, 0))
    assert (up + down == 255).all()


# a data set

def test_one_range_for_a_data_set_is_decided_said_and_used(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path))
    assert task.reading.integers == (0, 4095)
    assert any('0 to 4,095' in o for o in task.notes)
    found = [o for o in task.audit() if 'more than 8 bits' in o['found']]
    assert len(found) == 1 and '0 to 4,095' in found[0]['found'] and found[0]['count'] == 12 and '% lie outside' in found[0]['found']
    p = pretrained('tf_efficientnet_lite0', size=32)
    prep = Prep(32, reading=task.pretrained(p).reading)
    file = tmp_path/'up'/'0.tif'
    alone = pixels(file, prep)
    assert 170 < alone.max() < 200 # of 4,095 values 3,000 are used

def test_the_same_file_gives_the_same_picture_whatever_lies_beside_it(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path))
    read = Prep(32, reading=task.reading)
    before = pixels(tmp_path/'up'/'0.tif', read)
    tiff(tmp_path/'up'/'bright.tif', (ramp*65535).astype('u2'))
    dark = tiff(tmp_path/'up'/'dark.tif', (ramp*300).astype('u2'))
    assert np.array_equal(pixels(tmp_path/'up'/'0.tif', read), before)
    assert pixels(dark, read).max() < 20 # and not by its own range

def test_training_sees_what_prediction_sees(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path))
    p = task.pretrained('tf_efficientnet_lite0', size=32)
    loaders = task.dls(p, bs=4, augment='none')
    x, _ = next(iter(loaders.valid))
    rows = task.part('valid')
    want = Frozen(small(), p).ready(np.stack([pixels(f, Prep(32, p.interpolation, reading=task.reading)) for f in rows.item]))
    assert np.allclose(x.cpu().numpy(), want.cpu().numpy(), atol=1e-5)

def small():
    import torch
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

def test_low_contrast_keeps_its_shades(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path, lambda i: (1000 + 200*ramp + i).astype('u2')))
    low, high = task.reading.integers
    assert 1000 <= low <= 1030 and 1170 <= high <= 1210
    assert len(np.unique(shown(tmp_path/'up'/'0.tif', reading=task.reading))) > 70

def test_a_hot_pixel_changes_nothing(tmp_path):
    def hot(i):
        a = (ramp*4000 + i).astype('u2')
        a[0, 0] = 65535
        return a
    assert ImageTask.from_folder(in_16_bits(tmp_path, hot)).reading.integers == (0, 4095)

def test_a_window_is_obeyed_and_a_wrong_one_refused(tmp_path):
    folder = in_16_bits(tmp_path, lambda i: (ramp*2000 - 1000 + i).astype('i2'))
    task = ImageTask.from_folder(folder, window=(40, 400))
    assert task.reading.integers == (-160, 240)
    got = shown(folder/'up'/'0.tif', reading=task.reading)
    a = (ramp*2000 - 1000).astype('i2')
    assert (got[a <= -160] == 0).all() and (got[a >= 240] == 255).all() and 0 < np.abs(got[np.abs(a - 40) < 50] - 127).max() < 40
    assert any('-160 to 240' in o for o in task.notes)
    assert task.fingerprint != ImageTask.from_folder(folder).fingerprint
    for wrong in ((40,), (40, 0), (40, -1), 'soft', (1, 2, 3), (float('nan'), 1), 7):
        with pytest.raises(TransferError, match='level, width'): ImageTask.from_folder(folder, window=wrong)

def test_a_window_for_eight_bits_has_no_use_and_says_so(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path, lambda i: (ramp*200 + i).astype('u1'), write=eight, ext='png'), window=(40, 400))
    assert any('has no use' in o for o in task.notes)

def test_floats_beside_whole_numbers_have_a_range_of_their_own(tmp_path):
    in_16_bits(tmp_path, lambda i: (ramp*3000 + i).astype('u2'))
    in_16_bits(tmp_path, lambda i: (ramp*.9 + i/100).astype('f4'), ext='tiff')
    reading = ImageTask.from_folder(tmp_path).reading
    assert reading.integers == (0, 4095) and reading.floats == (0, 1)

def test_eight_bits_beside_more_are_taken_as_they_are(tmp_path):
    grain = lambda i: np.random.default_rng(i).integers(0, 200, ramp.shape)
    in_16_bits(tmp_path, lambda i: (15*grain(i + 6)).astype('u2'))
    in_16_bits(tmp_path, lambda i: grain(i).astype('u1'), write=eight, ext='png')
    task = ImageTask.from_folder(tmp_path)
    assert np.array_equal(shown(tmp_path/'up'/'0.png', reading=task.reading), grain(0))
    assert any('8 bits' in o and 'as they are' in o for o in task.notes)
    assert any(o['found'] == 'pictures of 8 bits beside deeper ones' and o['count'] == 12 for o in task.audit())

def test_eight_bits_are_as_ever(tmp_path):
    folder = in_16_bits(tmp_path, lambda i: (ramp*200 + i).astype('u1'), write=eight, ext='png')
    task = ImageTask.from_folder(folder)
    assert task.reading is None and task.notes == []
    assert repr(Prep(64)) == "Prep(size=64, interpolation='bilinear', fit='squeeze')"
    assert [o['found'] for o in task.audit() if 'pictures' in o['found']] == []

def test_the_range_is_part_of_the_key_of_the_cache_and_eight_bits_keep_theirs():
    import hashlib
    from dataclasses import replace
    from tl_nbdev.vision.features import Mode
    from tl_nbdev.vision.pixels import Reading
    p, net = pretrained('tf_efficientnet_lite0', size=32), small()
    plain, deep, other = (Frozen(net, replace(p, reading=r), mode=Mode()) for r in (None, Reading((0, 4095)), Reading((0, 1023))))
    said = f'2 {plain.weights} {p.mean} {p.std} {plain.prep} {plain.mode}'
    assert plain.key == hashlib.blake2b(said.encode(), digest_size=12).hexdigest() # so that what was cached is found
    assert len({plain.key, deep.key, other.key}) == 3

def test_the_range_is_saved_with_the_model_and_used(tmp_path):
    folder = in_16_bits(tmp_path/'data')
    learn = transfer_learner(ImageTask.from_folder(folder), 'timm/resnet10t', source='random', size=32, seed=0)
    saved = learn.save_transfer(tmp_path/'model', check=False)
    info = json.loads((saved/'transfer.json').read_text('utf-8'))
    assert info['modality']['reading']['integers'] == [0, 4095]
    there = load_transfer(saved)
    assert there.frozen.prep.reading == learn.task.reading
    file = folder/'up'/'0.tif'
    here = learn.predict(file)[2].numpy()
    assert np.allclose([there.predict(file, proba=True)[c] for c in there.classes], here, atol=1e-5)
    assert not there.predict(file).about # nothing had to be guessed
    as_before = lambda o: {k: v for k, v in o.items() if k not in ('modality', 'answer')} | dict(format=1, multi=False, scale=None)
    edited(saved, as_before) # from before there were ranges: read as it was trained
    assert load_transfer(saved).frozen.prep.reading.integers == (0, 65535)

def test_what_a_model_of_eight_bits_guesses_is_said(tmp_path, capsys):
    folder = in_16_bits(tmp_path/'data', lambda i: (ramp*200 + i).astype('u1'), write=eight, ext='png')
    learn = transfer_learner(ImageTask.from_folder(folder), 'timm/resnet10t', source='random', size=32, seed=0)
    there = load_transfer(learn.save_transfer(tmp_path/'model', check=False))
    deep = tiff(tmp_path/'deep.tif', (ramp*200*16).astype('u2'))
    rows = there.predict([folder/'up'/'0.png', deep])
    assert '1 of 2 pictures have more than 8 bits' in rows.about and 'probability' in rows[1]
    assert abs(rows[0]['probability'] - rows[1]['probability']) < .05 # 12 bits of the same
    assert not there.predict([folder/'up'/'0.png']).about
    capsys.readouterr()
    learn.predict(deep)
    assert 'more than 8 bits' in capsys.readouterr().out

def test_a_task_that_is_written_down_keeps_its_range(tmp_path):
    task = ImageTask.from_folder(in_16_bits(tmp_path/'data'), window=(1000, 500))
    again = load_task(save_task(task, tmp_path/'task.json'))
    assert again.reading == task.reading and again.fingerprint == task.fingerprint
    assert task.fewer(2).reading == task.reading


# bands

scene = rng.integers(0, 3000, (24, 20, 13)).astype('u2')

@pytest.mark.parametrize('n', [2, 5, 7, 13])
@pytest.mark.parametrize('apart', [False, True])
def test_many_bands_are_asked_about_and_chosen(tmp_path, n, apart):
    from tl_nbdev.vision.pixels import Reading
    f = tiff(tmp_path/'a.tif', scene[..., :n], apart=apart, photometric=1)
    with pytest.raises(TransferError, match=f'{n} bands: say which are red, green and blue, such as bands=') as e: open_image(f)
    assert '\n' not in str(e.value)
    got = shown(f, reading=Reading((0, 4095), bands=(2, 1, 2)))
    assert np.abs(got - scene[..., [1, 0, 1]]/4095*255).max() <= 1
    assert shown(f, reading=Reading((0, 4095), bands=(2,))).ndim == 2

def test_bands_are_chosen_for_a_task(tmp_path):
    folder = in_16_bits(tmp_path, lambda i: np.concatenate([scene, scene[..., :1]*0 + i], 2))
    with pytest.raises(TransferError, match='14 bands'): ImageTask.from_folder(folder)
    task = ImageTask.from_folder(folder, bands=(4, 3, 2))
    assert task.reading.bands == (4, 3, 2) and task.reading.integers == (0, 4095) and not task.skipped
    assert task.pretrained('tf_efficientnet_lite0').reading == task.reading
    assert [why for _, why in ImageTask.from_folder(in_16_bits(folder, lambda i: scene[..., :3] + np.uint16(i), ext='png'), bands=(4, 3, 2)).skipped] == \
        ['3 bands, but band 4 is asked for']*12
    for wrong in ((1, 2), (0, 1, 2), (), 0, (1, 2, 3, 4), 'rgb'):
        with pytest.raises(TransferError, match='bands='): ImageTask.from_folder(folder, bands=wrong)

def test_bands_of_eight_bits(tmp_path):
    from tl_nbdev.vision.pixels import Reading
    a = rng.integers(0, 256, (24, 20, 9)).astype('u1')
    assert np.array_equal(shown(tiff(tmp_path/'a.tif', a), reading=Reading(bands=(9, 1, 5))), a[..., [8, 0, 4]])
    Image.fromarray(a[..., :3]).save(tmp_path/'b.png')
    assert np.array_equal(shown(tmp_path/'b.png', reading=Reading(bands=(3, 2, 1))), a[..., 2::-1])

@pytest.mark.parametrize('kind', ['u1', 'u2'])
def test_a_fourth_band_without_a_name_is_left_out_and_said(tmp_path, kind):
    most = np.iinfo(kind).max
    def of(i): return np.stack([ramp, ramp[::-1], ramp*0, ramp*0 + i/20], -1)*most
    task = ImageTask.from_folder(in_16_bits(tmp_path, lambda i: of(i).astype(kind)))
    got = shown(tmp_path/'up'/'0.tif', reading=task.reading)
    assert np.abs(got - of(0)[..., :3]*255/most).max() <= 1
    assert any('4 bands' in o for o in task.notes) and any('bands that are not shown' in o['found'] for o in task.audit())

@pytest.mark.parametrize('write', ['png', 'tif'])
def test_alpha_of_sixteen_bits_is_on_white(tmp_path, write):
    a = (np.stack([ramp, ramp*.5, ramp*0, x >= 24], -1)*65535).astype('u2')
    f = tmp_path/f'a.{write}'
    png16(f, a) if write == 'png' else tiff(f, a, extra=2)
    got = shown(f)
    assert (got[:, :24] == 255).all() and np.abs(got[:, 24:] - a[:, 24:, :3]/257).max() <= 1

@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'])
@pytest.mark.parametrize('a', [(ramp*65535).astype('u2'), ramp.astype('f4'), (np.stack([ramp]*3, -1)*255).astype('u1')], ids=['16 bits', 'float', 'colour'])
def test_compressed_pages_are_read_as_they_stand(tmp_path, compression, a):
    from tl_nbdev.vision.formats import tiff_bands
    differs = 3 if a.dtype.kind == 'f' else 2 # neighbours are subtracted
    Image.fromarray(a).save(tmp_path/'a.tif', compression=compression, tiffinfo={317: differs} if 'raw' != compression else {})
    assert np.array_equal(tiff_bands((tmp_path/'a.tif').read_bytes())[0].squeeze(), a)

def test_a_torn_scene_is_refused(tmp_path):
    f = tiff(tmp_path/'a.tif', scene)
    f.write_bytes(f.read_bytes()[:3000])
    with pytest.raises(TransferError): open_image(f)
    f.write_bytes(b'II*\0\x08\0\0\0\0\0\0\0\0\0')
    with pytest.raises(TransferError, match='cannot be decoded'): open_image(f)

@pytest.mark.parametrize('orientation', range(1, 9))
def test_deep_colours_are_upright(tmp_path, orientation):
    a = (np.stack([ramp, ramp*.5, 1 - ramp], -1)*65535).astype('u2')
    lie = {2: lambda o: o[:, ::-1], 3: lambda o: o[::-1, ::-1], 4: lambda o: o[::-1], 5: lambda o: o.swapaxes(0, 1), 6: np.rot90,
           7: lambda o: o[::-1, ::-1].swapaxes(0, 1), 8: lambda o: np.rot90(o, -1)}.get(orientation, lambda o: o)
    for f in (png16(tmp_path/'a.png', lie(a), orientation), tiff(tmp_path/'a.tif', np.ascontiguousarray(lie(a)), t274=[orientation])):
        got = shown(f)
        assert got.shape == a.shape and np.abs(got - a/257).max() <= 1


# formats

def test_postscript_under_another_name_is_refused_and_nothing_is_started(tmp_path, monkeypatch):
    for k in ('Popen', 'run', 'check_call', 'check_output'): monkeypatch.setattr(subprocess, k, lambda *a, **k: pytest.fail('something was started'))
    (tmp_path/'a.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n')
    with pytest.raises(TransferError, match='not an image, but PostScript'): open_image(tmp_path/'a.png')
    assert 'PostScript' in scan([tmp_path/'a.png'])[0]['why']

@pytest.mark.parametrize('name', ['a.tga', 'a.pbm', 'a.jp2', 'a.pgm', 'a.dib'])
def test_more_of_what_pillow_reads_is_found_in_folders(tmp_path, name):
    if name == 'a.jp2' and not features.check('jpg_2000'): pytest.skip('Pillow without JPEG 2000')
    ext = name.split('.')[1]
    def write(f, a): Image.fromarray(a).convert('1' if ext == 'pbm' else 'L').save(f)
    task = ImageTask.from_folder(in_16_bits(tmp_path, lambda i: (ramp*(200 + 9*i)).astype('u1'), write=write, ext=ext))
    assert len(task.df) == 12 and task.reading is None

def test_arrays_are_pictures(tmp_path):
    for i, a in enumerate(((ramp*255).astype('u1'), (np.stack([ramp]*3, -1)*255).astype('u1'), ramp > .5, ramp[..., None])):
        np.save(tmp_path/f'{i}.npy', a)
        assert shown(tmp_path/f'{i}.npy').max() == 255
    for a, words in ((np.zeros((3, 40, 40)), 'channels come first'), (np.zeros((40, 40, 2)), '2 channels'), (np.zeros((40, 40, 8)), '8 bands'),
                     (np.zeros((2, 40, 40, 3)), 'a batch of'), (np.zeros(9), 'an array of 9'), (np.array(['a']), 'made of numbers')):
        np.save(tmp_path/'wrong.npy', a)
        with pytest.raises(TransferError, match=words): open_image(tmp_path/'wrong.npy')
    np.save(tmp_path/'object.npy', np.array([dict(a=1)]), allow_pickle=True)
    with pytest.raises(TransferError, match='cannot be decoded'): open_image(tmp_path/'object.npy')
    mixed = in_16_bits(tmp_path/'mixed', lambda i: (ramp*200 + i).astype('u1'), write=lambda f, a: np.save(f, a), ext='npy')
    assert len(ImageTask.from_folder(mixed).df) == 12

def test_numbers_above_255_in_netpbm(tmp_path):
    for a, kind in (((ramp*4095).astype('u2'), 'P5'), ((np.stack([ramp]*3, -1)*4095).astype('u2'), 'P6')):
        for most in (4095, 65535):
            (tmp_path/'a.ppm').write_bytes(f'{kind} 48 40 {most}\n'.encode() + a.astype('>u2').tobytes())
            assert np.abs(shown(tmp_path/'a.ppm') - a/4095*255).max() <= 1

heic = b'\0\0\0\x18ftypheic' + bytes(20)
dicom = bytes(128) + b'DICM' + bytes(20)

@pytest.mark.parametrize('module,package,ext,data', [('pillow_heif', 'pillow-heif', '.heic', heic), ('pydicom', 'pydicom', '.dcm', dicom)])
def test_what_needs_a_package_is_named_with_it(tmp_path, monkeypatch, module, package, ext, data):
    monkeypatch.setitem(sys.modules, module, None)
    for kind in 'ab':
        for i in range(3): (tmp_path/kind).mkdir(exist_ok=True); (tmp_path/kind/f'{i}{ext}').write_bytes(data + bytes([i]))
    with pytest.raises(TransferError, match=f'6 left out.*"{ext}" files are not read here .pip install {package} reads them') as e: ImageTask.from_folder(tmp_path)
    assert '\n' not in str(e.value)
    in_16_bits(tmp_path, lambda i: (ramp*200 + i).astype('u1'), write=eight, ext='png')
    left = next(o for o in ImageTask.from_folder(tmp_path).audit() if o['found'].startswith('left out'))
    assert left['count'] == 6 and f'pip install {package}' in left['found']
    with pytest.raises(TransferError, match=package): open_image(data)

class Photo(ImageFile.ImageFile):
    "Stands in for what pillow-heif adds to Pillow"
    format = 'HEIF'
    def _open(self):
        self._size, self._mode, self.tile = (48, 40), 'L', []
        self.data = self.fp.read()[-48*40:]
    def load(self):
        if self.data: self.load_prepare(); self.frombytes(self.data); self.data = b''
        return Image.Image.load(self)

def test_what_is_installed_later_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    f = tmp_path/'a.heic'
    f.write_bytes(heic + (ramp*255).astype('u1').tobytes())
    assert 'pip install pillow-heif' in scan([f])[0]['why']
    there = types.ModuleType('pillow_heif')
    there.register_heif_opener = lambda: Image.register_open('HEIF', Photo, lambda b: b[4:12] == b'ftypheic')
    monkeypatch.setitem(sys.modules, 'pillow_heif', there)
    monkeypatch.setitem(Image.OPEN, 'HEIF', None)
    assert scan([f])[0]['size'] == [48, 40]
    assert np.array_equal(shown(f), (ramp*255).astype('u1'))

class Slice(dict):
    "Stands in for a `pydicom.Dataset`"
    def __init__(self, a, **tags): super().__init__(tags, Rows=a.shape[0], Columns=a.shape[1]); self.pixel_array = a

@pytest.fixture
def ct(tmp_path, monkeypatch):
    "A function that makes a DICOM file of an array and tags"
    kept, there = {}, types.ModuleType('pydicom')
    there.dcmread = lambda f: kept[f.read()]
    monkeypatch.setitem(sys.modules, 'pydicom', there)
    def make(name, a, **tags):
        f = tmp_path/name
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(dicom + name.encode())
        kept[f.read_bytes()] = Slice(a, **tags)
        return f
    return make

stored = (ramp*2000).astype('u2') # -1000 to 1000 Hounsfield units, with the usual intercept

def test_dicom_is_shown_in_its_own_units_by_its_own_window(ct):
    from tl_nbdev.vision.pixels import Reading
    units = dict(RescaleSlope='1', RescaleIntercept='-1000', WindowCenter=[40.5, 500], WindowWidth=[401, 2000])
    f = ct('a.dcm', stored, **units)
    want = ((stored.astype(float) - 1000 + 160)/400*255).clip(0, 255) # the first of two windows
    assert np.abs(shown(f) - want).max() <= 1
    asked = Reading((-1000, 1000), asked=True)
    assert np.abs(shown(f, reading=asked) - stored/2000*255).max() <= 1
    assert np.abs(shown(f, reading=Reading((-1000, 1000))) - want).max() <= 1 # measured on others: the file's own goes before
    assert (shown(f) + shown(ct('b.dcm', stored, PhotometricInterpretation='MONOCHROME1', **units)) == 255).all()
    assert np.abs(shown(ct('c.dcm', stored, RescaleSlope=1, RescaleIntercept=-1000)) - (stored.astype(float) - 1000 + 1024)/2047*255).max() <= 1
    assert np.array_equal(shown(ct('d.dcm', (ramp*255).astype('u1'))), (ramp*255).astype('u1'))
    colour = (np.stack([ramp, ramp*.5, ramp*0], -1)*255).astype('u1')
    assert np.array_equal(shown(ct('e.dcm', colour, PhotometricInterpretation='RGB')), colour)

def test_a_data_set_of_dicom(ct, tmp_path):
    for i in range(6):
        for kind, a in (('up', stored), ('down', stored[::-1])): ct(f'ct/{kind}/{i}.dcm', a + np.uint16(i), RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400)
    task = ImageTask.from_folder(tmp_path/'ct')
    assert len(task.df) == 12 and task.reading is None and any('say what is black and white' in o for o in task.notes)
    asked = ImageTask.from_folder(tmp_path/'ct', window=(0, 2000))
    assert asked.reading.integers == (-1000, 1000) and asked.reading.asked
    assert any('-1,000 to 1,000' in o for o in asked.notes)

def test_frames_of_dicom_are_told(ct):
    f = ct('a.dcm', np.stack([stored, stored*0]), NumberOfFrames='2')
    sys.modules['pydicom'].dcmread(io.BytesIO(f.read_bytes())).update(Rows=40, Columns=48)
    assert scan([f])[0]['frames'] and shown(f).max() > 0

def test_real_heic(tmp_path):
    there = pytest.importorskip('pillow_heif')
    there.register_heif_opener()
    im = Image.fromarray((np.stack([ramp, ramp*.5, 1 - ramp], -1)*255).astype('u1'))
    im.save(tmp_path/'a.heic', quality=95)
    assert np.abs(shown(tmp_path/'a.heic') - np.asarray(im)).mean() < 5

def test_real_dicom(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = CTImageStorage, generate_uid(), ExplicitVRLittleEndian
    ds = FileDataset(str(tmp_path/'a.dcm'), {}, file_meta=meta, preamble=bytes(128))
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 40, 48, 1, 'MONOCHROME1'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, -1000, 40.5, 401
    ds.PixelData = stored.tobytes()
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    want = 255 - ((stored.astype(float) - 1000 + 160)/400*255).clip(0, 255)
    assert np.abs(shown(tmp_path/'a.dcm') - want).max() <= 1
    del ds.WindowCenter, ds.WindowWidth
    ds.save_as(tmp_path/'b.dcm', enforce_file_format=True)
    assert scan([tmp_path/'b.dcm'])[0]['deep']['bits'] == 12


# what the audit tells

def test_the_audit_tells_what_is_not_seen(tmp_path):
    folder = in_16_bits(tmp_path, lambda i: (ramp*200 + i).astype('u1'), write=eight, ext='png')
    other = Image.fromarray((ramp*99).astype('u1'))
    other.save(folder/'up'/'pages.tif', save_all=True, append_images=[other])
    other.convert('P').save(folder/'up'/'film.gif', save_all=True, append_images=[Image.new('P', (48, 40), 3)])
    Image.new('L', (48, 40), 7).save(folder/'up'/'grey.png')
    Image.new('RGBA', (48, 40), (255, 255, 255, 0)).save(folder/'down'/'nothing.png')
    logo = Image.fromarray((np.stack([ramp]*4, -1)*255).astype('u1'))
    logo.save(folder/'down'/'logo.png')
    Image.fromarray((np.full((40, 48), 700, 'u2'))).save(folder/'down'/'flat.png')
    found = {o['found']: o for o in ImageTask.from_folder(folder).audit()}
    assert found['files of several frames or pages']['count'] == 2
    assert found['pictures of one colour']['count'] == 3
    assert found['pictures with transparent parts']['count'] == 2
    assert all(o['next'] and '\n' not in o['next'] for o in found.values())
