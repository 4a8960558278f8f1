"Whatever lies in a folder of photos is read rightly, or refused with its reason, and loses nothing else."
import builtins, io, os, struct, zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import photo, photos, refused, small, tl
from PIL import Image, ImageFile
from tl_nbdev.vision.images import ImageTask, image_files
from tl_nbdev.vision.pixels import Prep, open_image, pixels, scan
from tl_nbdev.base.settings import TransferError

base, other = photo('round', 0, 64).crop((0, 0, 64, 48)), photo('square', 1, 64).crop((0, 0, 64, 48))
grey = base.convert('L')
nothing = Image.new('L', base.size, 0) # as transparency: all of it is
left = nothing.copy()
left.paste(255, (0, 0, 32, 48))       # only the left half is opaque
on_white = Image.composite(base, Image.new('RGB', base.size, 'white'), left)

def with_alpha(im):
    im = im.convert('LA' if im.mode == 'L' else 'RGBA')
    im.putalpha(left)
    return im

def sixteen(im): return Image.fromarray(np.asarray(im).astype(np.uint16)*257)

def differ(a, b): return np.abs(np.asarray(a.convert('RGB'), float) - np.asarray(b.convert('RGB'), float)).mean()


# what is read

best = dict(quality=100, subsampling=0)
readable = { # name → how it is written, what it must look like
    'plain.jpg':        (lambda f: base.save(f, **best), base),
    'cmyk.jpg':         (lambda f: base.convert('CMYK').save(f, **best), base),
    'grey.jpg':         (lambda f: grey.save(f, **best), grey),
    'grey.png':         (lambda f: grey.save(f), grey),
    'bits16.png':       (lambda f: sixteen(grey).save(f), grey),
    'palette.png':      (lambda f: base.quantize(256).save(f), base),
    'two_colours.png':  (lambda f: base.convert('1').save(f), base.convert('1')),
    'rgba.png':         (lambda f: with_alpha(base).save(f), on_white),
    'rgba.webp':        (lambda f: with_alpha(base).save(f, lossless=True), on_white),
    'la.png':           (lambda f: with_alpha(grey).save(f), Image.composite(grey, Image.new('L', grey.size, 255), left)),
    'clear_colour.png': (lambda f: Image.new('RGB', (64, 48), (9, 8, 7)).save(f, transparency=(9, 8, 7)), Image.new('RGB', (64, 48), 'white')),
    'clear_grey.png':   (lambda f: Image.new('L', (64, 48), 9).save(f, transparency=9), Image.new('L', (64, 48), 255)),
    'clear_index.gif':  (lambda f: Image.new('P', (64, 48), 3).save(f, transparency=3), Image.new('RGB', (64, 48), 'white')),
    'animated.gif':     (lambda f: base.save(f, save_all=True, append_images=[other, base]), base),
    'animated.webp':    (lambda f: base.save(f, save_all=True, append_images=[other, base], lossless=True), base),
    'animated.png':     (lambda f: base.save(f, save_all=True, append_images=[other, base]), base),
    'pages.tif':        (lambda f: base.save(f, save_all=True, append_images=[other, base]), base),
    'bad_exif.png':     (lambda f: base.save(f, exif=b'Exif\0\0garbage of some length'), base),
    'bad_exif.jpg':     (lambda f: base.save(f, exif=b'Exif\0\0garbage of some length', **best), base),
    'one_pixel.png':    (lambda f: Image.new('RGB', (1, 1), 'red').save(f), Image.new('RGB', (1, 1), 'red'))}

@pytest.mark.parametrize('name', readable)
def test_odd_image_is_read_as_it_looks(tmp_path, name):
    write, want = readable[name]
    write(tmp_path/name)
    got = open_image(tmp_path/name)
    assert got.mode in ('L', 'RGB') and got.size == want.size
    assert differ(got, want) < 8 < 20 < differ(base, other) # of 255
    assert 'why' not in scan([tmp_path/name])[0]
    for fit in ('squeeze', 'crop', 'pad'): assert pixels(tmp_path/name, Prep(32, fit=fit)).shape == (32, 32, 3)

_stored = {1: None, 2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
           6: Image.ROTATE_90, 7: Image.TRANSVERSE, 8: Image.ROTATE_270} # how an upright picture lies in a file of that orientation

@pytest.mark.parametrize('name,im,want', [('a.jpg', base, base), ('a.png', with_alpha(base), on_white), ('a.webp', with_alpha(base), on_white), ('b.png', sixteen(grey), grey)],
                         ids=['jpeg', 'transparent png', 'transparent webp', '16 bits'])
def test_all_orientations_give_the_same_upright_picture(tmp_path, name, im, want):
    for tag, lie in _stored.items():
        exif = Image.Exif()
        exif[0x112] = tag
        (im if lie is None else im.transpose(lie)).save(tmp_path/name, exif=exif, **(best if name.endswith('jpg') else {'lossless': True} if name.endswith('webp') else {}))
        got = open_image(tmp_path/name)
        assert got.size == want.size and differ(got, want) < 8, f'orientation {tag}'


# what is refused, and why

def bomb(file, side=30_000):
    "A PNG of `side` x `side` black pixels, one bit each"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    data = zlib.compress(bytes(side*(1 + -(-side//8))), 1)
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)) + chunk(b'IDAT', data) + chunk(b'IEND', b''))

def cut(file, kind):
    base.save(file, kind)
    file.write_bytes(file.read_bytes()[:file.stat().st_size//2])

refusals = { # name → how it is made, words of the reason
    'cut.jpg':       (lambda f: cut(f, 'JPEG'), 'truncated'),
    'cut.png':       (lambda f: cut(f, 'PNG'), 'truncated'),
    'nothing.jpg':   (lambda f: f.write_bytes(b''), 'empty file (0 bytes)'),
    'letter.jpg':    (lambda f: f.write_text('dear diary'), 'not an image'),
    'bomb.png':      (bomb, '30000x30000 pixels are more than'),
    'broken.png':    (lambda f: f.symlink_to('nowhere.png'), 'a broken link'),
    'circle.png':    (lambda f: f.symlink_to(f.name), 'link'),
    'film.heic':     (lambda f: f.write_bytes(b'?'), '".heic" files are not read')}

@pytest.fixture(scope='module')
def messy(tmp_path_factory):
    "12 good photos, and one of each kind that is refused"
    folder = photos(tmp_path_factory.mktemp('messy')/'photos', 6)
    for name, (make, _) in refusals.items(): make(folder/'round'/name)
    return folder

def test_training_goes_on_without_and_the_report_says_which(messy, tmp_path):
    got = tl('train', messy, *small, '--json', tmp_path/'report.json')
    assert got.status == 0 and got.json['n_train'] + got.json['n_valid'] + got.json['n_test'] == 12
    said = {Path(o['file']).name: o['reason'] for o in got.json['skipped']}
    assert said.keys() == refusals.keys()
    for name, (_, words) in refusals.items(): assert words in said[name], name
    assert '8 skipped' in got.out

def test_audit_counts_each_reason(messy, tmp_path):
    got = tl('audit', messy, '--json', tmp_path/'audit.json')
    found = {o['found']: o['count'] for o in got.json['findings'] if o['found'].startswith('left out')}
    assert got.status == 0 and sum(found.values()) == len(refusals) and found['left out: a broken link'] == 1

def test_prediction_answers_in_order_for_the_good_ones(messy, model, tmp_path):
    bad = [messy/'round'/o for o in refusals if o != 'film.heic']
    good = [messy/'square/square0.png', messy/'round/round0.png', messy/'square/square1.png']
    asked = [bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2], messy/'nowhere.png']
    got = tl('predict', model.folder, *asked, '--json', tmp_path/'said.json')
    assert got.status == 0 and not got.err and [o['file'] for o in got.json] == [*map(str, asked)]
    assert [o['label'] for o in got.json if 'label' in o] == ['square', 'round', 'square']
    for o in got.json:
        assert o.keys() == ({'file', 'label', 'probability'} if Path(o['file']) in good else {'file', 'error'})
        assert refusals.get(Path(o['file']).name, (0, ''))[1] in o.get('error', '') or 'label' in o
    assert got.out.count('\n') == len(asked) and 'no such file' in got.out

def test_prediction_fails_if_nothing_can_be_read(messy, model, tmp_path):
    got = tl('predict', model.folder, messy/'round/letter.jpg', 'nowhere.png', '--json', tmp_path/'said.json')
    refused(got, 'none of the files could be read')
    assert [o['error'] for o in got.json] == ['not an image', 'no such file']

def test_a_folder_of_nothing_readable_is_refused_with_the_first_reason(tmp_path):
    for kind in ('a', 'b'):
        (tmp_path/kind).mkdir()
        for i in range(3): (tmp_path/kind/f'{i}.jpg').write_text('dear diary')
    refused(tl('train', tmp_path, *small), 'nothing to learn from', '0.jpg', 'not an image')

def test_a_bomb_is_not_decoded(messy, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(TransferError, match='30000x30000'): open_image(messy/'round/bomb.png')

def test_the_limit_of_pixels_is_a_setting(messy, monkeypatch):
    monkeypatch.setenv('TL_MAX_PIXELS', '1000')
    assert 'more than 1,000' in scan([messy/'square/square0.png'])[0]['why']
    monkeypatch.setenv('TL_MAX_PIXELS', '5000')
    assert 'why' not in scan([messy/'square/square0.png'])[0]


# no permission

@pytest.fixture
def secret(tmp_path, monkeypatch):
    "A photo that may not be read, whoever runs this; and a function that allows it"
    photos(tmp_path, 6)
    file = tmp_path/'round/secret.png'
    photo('round', 99).save(file)
    file.chmod(0)
    def guarded(real):
        def opened(f, *args, **kwargs):
            if str(f) == str(file): raise PermissionError(13, 'Permission denied', str(file))
            return real(f, *args, **kwargs)
        return opened
    with monkeypatch.context() as mp:
        for where in (builtins, io): mp.setattr(where, 'open', guarded(open)) # root reads every file
        yield file, lambda: (mp.undo(), file.chmod(0o600))

def test_a_file_without_permission_is_left_out_until_it_is_given(secret, model):
    file, allow = secret
    assert ImageTask.from_folder(file.parents[1]).skipped == [(file, 'no permission to read it')]
    assert 'no permission' in tl('predict', model.folder, file, file.with_name('round0.png')).out
    allow()
    assert ImageTask.from_folder(file.parents[1]).skipped == []

@pytest.mark.skipif(os.geteuid() == 0, reason='root reads every file')
def test_a_folder_without_permission(tmp_path):
    photos(tmp_path, 6)
    (tmp_path/'round/round0.png').chmod(0)
    assert [why for _, why in ImageTask.from_folder(tmp_path).skipped] == ['no permission to read it']


# names and links

names = ['two words.png', 'größe.png', '😀.png', 'new\nline.png', 'tab\t.png', '-dash.png', '--json.png', '%s%d%.png', 'quo"te\'s.png', 'x'*200 + '.png', '$HOME;rm.png',
         'back\\slash.png', 'a, b.png', '[a-z]*?.png', '#1.png', ' lead.png', 'LOUD.PNG', 'two..dots.png', os.fsdecode(b'latin\xe4.png')]

def test_odd_names(tmp_path, model):
    photos(tmp_path/'photos', 3)
    files = []
    for i, name in enumerate(names):
        files.append(tmp_path/'photos/round'/name)
        photo('round', 50 + i).save(files[-1], 'PNG')
    (tmp_path/'photos/round/.hidden.png').write_text('of the system')
    got = tl('train', tmp_path/'photos', *small, '--json', tmp_path/'report.json')
    assert got.status == 0 and got.json['skipped'] == [] and got.json['n_train'] + got.json['n_valid'] + got.json['n_test'] == 6 + len(names)
    got = tl('predict', model.folder, *files, '--json', tmp_path/'said.json')
    assert got.status == 0 and [o['file'] for o in got.json] == [*map(str, files)] and all('label' in o for o in got.json)
    assert got.out.count('\n') == len(files) # a line each

def test_a_name_with_a_dash_after_two_dashes(tmp_path, model, monkeypatch):
    photo('round').save(tmp_path/'-dash.png')
    monkeypatch.chdir(tmp_path)
    assert tl('predict', model.folder, '--', '-dash.png').out.startswith('-dash.png\tround')

def test_links_in_a_circle_count_each_photo_once(tmp_path):
    photos(tmp_path/'photos', 3)
    for link, to in (('photos/self', '.'), ('photos/round/up', '..'), ('photos/square/beside', '../round')): (tmp_path/link).symlink_to(to)
    found, _ = image_files(tmp_path/'photos')
    assert len({f.resolve() for f in found}) == len(found) == 6
    assert ImageTask.from_folder(tmp_path/'photos').sizes() == {'round': 3, 'square': 3}

def test_a_pipe_is_no_photo(tmp_path):
    os.mkfifo(tmp_path/'pipe.png')
    held = os.open(tmp_path/'pipe.png', os.O_RDWR | os.O_NONBLOCK) # so that whoever reads it does not wait for ever
    os.write(held, b'not a photo'*800)
    assert 'pipe' in scan([tmp_path/'pipe.png'])[0]['why']
    os.close(held)
