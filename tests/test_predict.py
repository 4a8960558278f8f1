"Prediction of what is in memory: the same picture gets the same answer, whichever way it comes; what can't be read says why."
import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.vision.all import PILImage
from PIL import Image, ImageOps
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.data.answers import MultiLabel, Regression, SingleLabel
from tl_nbdev.training.saved import Predictor, load_transfer
from tl_nbdev.text.modality import Texts
from tl_nbdev.base.settings import TransferError

y, x = np.mgrid[:48, :64]
colours = np.stack([2*x, 5*y, 255*((x + y) % 16 < 5)], -1).clip(0, 255).astype('u1')
grey = colours.max(-1)

def photos(to, of=lambda i: np.roll(colours, 5*i, 0)):
    "Two classes, which lie one way and the other"
    for i in range(6):
        for kind, turn in (('up', 1), ('down', -1), ('left', 1)):
            (to/kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(of(i)[::turn] if kind != 'left' else of(i)[:, ::-1])).save(to/kind/f'{i}.png')
    return to

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A learner that was not trained, the same as it is saved, and its photos"
    to = tmp_path_factory.mktemp('predict')
    return untrained(ImageTask.from_folder(photos(to/'photos')), to)

@pytest.fixture(scope='module')
def deep(tmp_path_factory):
    "The same of pictures of 12 bits"
    to = tmp_path_factory.mktemp('deep')
    return untrained(ImageTask.from_folder(photos(to/'photos', lambda i: np.roll(grey, 5*i, 0).astype('u2')*16)), to)

def probs(model, item):
    got = model.predict(item, proba=True)
    return np.array([got[c] for c in ('down', 'left', 'up')])

def untrained(task, to):
    "A learner that tells pictures apart, though nothing was learned, and the same as it is saved"
    learn = transfer_learner(task, 'timm/resnet10t', source='random', size=32, seed=0)
    seen = learn.frozen_now.all(task.df.item.tolist())
    last = [m for m in learn.model.head.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.manual_seed(0)
    with torch.no_grad():
        w = torch.randn_like(last.weight)
        w /= ((seen - seen.mean(0)) @ w.T.cpu()).std()
        last.weight.copy_(w)
        last.bias.copy_(-w @ seen.mean(0))
    return SimpleNamespace(learn=learn, saved=load_transfer(learn.save_transfer(to/'model', check=False)), photos=to/'photos')


# one picture, many ways

def lying(f):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(colours).save(f, exif=exif)

kinds = { # name of a file → how it is made
    'colour.png': lambda f: Image.fromarray(colours).save(f),
    'grey.png': lambda f: Image.fromarray(grey).save(f),
    'photo.jpg': lambda f: Image.fromarray(colours).save(f, quality=90),
    'palette.png': lambda f: Image.fromarray(colours).quantize(32).save(f),
    'cmyk.jpg': lambda f: Image.fromarray(colours).convert('CMYK').save(f),
    'clear.png': lambda f: Image.fromarray(np.dstack([colours, grey])).save(f),
    'clear_grey.png': lambda f: Image.fromarray(np.dstack([grey, 255 - grey])).save(f),
    'index.gif': lambda f: Image.fromarray(colours).quantize(8).save(f, transparency=2),
    'lying.jpg': lying, 'lying.png': lying, 'lying.tif': lying,
    'one_bit.png': lambda f: Image.fromarray(grey > 99).save(f)}

def same_with_alpha(im): return im if im.mode in ('L', 'RGB', 'RGBA') else im.convert('RGBA' if im.mode in ('LA', 'PA') or 'transparency' in im.info else 'RGB')

def loaded(f):
    im = Image.open(f)
    im.load()
    return im

ways = dict(
    text=str, bytes=lambda f: f.read_bytes(), bytearray=lambda f: bytearray(f.read_bytes()), pil=Image.open, pil_loaded=loaded, fastai=PILImage.create,
    file=lambda f: open(f, 'rb'), stream=lambda f: io.BytesIO(f.read_bytes()), dataset=lambda f: dict(bytes=f.read_bytes(), path=None),
    array=lambda f: np.asarray(same_with_alpha(ImageOps.exif_transpose(Image.open(f)))),
    floats=lambda f: np.asarray(same_with_alpha(ImageOps.exif_transpose(Image.open(f))))/255,
    tensor=lambda f: torch.from_numpy(np.array(ImageOps.exif_transpose(Image.open(f)).convert('RGB'))).permute(2, 0, 1))

def fits(way, name): # an image that somebody made without alpha is another one
    return not (way in ('tensor', 'fastai') and ('clear' in name or 'index' in name))

@pytest.mark.parametrize('name', kinds)
def test_the_same_picture_has_the_same_answer_whichever_way_it_comes(made, tmp_path, name):
    f = tmp_path/name
    kinds[name](f)
    want = made.learn.predict(f)[2].numpy()
    assert np.abs(want - made.learn.predict(np.flipud(np.asarray(Image.open(f).convert('RGB'))))[2].numpy()).max() > .01 # answers differ
    assert np.allclose(probs(made.saved, f), want, atol=1e-5)
    for way, of in ways.items():
        if not fits(way, name): continue
        assert np.allclose(made.learn.predict(of(f))[2].numpy(), want, atol=1e-5), way
        assert np.allclose(probs(made.saved, of(f)), want, atol=1e-5), way
    assert isinstance(made.learn.predict(f), tuple) and len(made.learn.predict(f)) == 3

def test_pictures_of_twelve_bits_too(deep, tmp_path):
    f = deep.photos/'up'/'3.png'
    want = deep.learn.predict(f)[2].numpy()
    assert want.std() > 0
    a = np.asarray(Image.open(f))
    for way in (str(f), f.read_bytes(), Image.open(f), loaded(f), a, a[..., None], torch.from_numpy(a.astype('i4')), a.astype('f4'), a/4095, np.repeat(a[..., None], 3, 2)):
        assert np.allclose(probs(deep.saved, way), want, atol=1e-5), type(way)
        assert np.allclose(deep.learn.predict(way)[2].numpy(), want, atol=1e-5)
    eight = (a//16).astype('u1') # is taken as it is
    assert np.allclose(probs(deep.saved, eight), want, atol=.05)

def test_what_pillow_cut_off_is_refused_when_it_can_be_seen(deep, tmp_path):
    from test_pixels import png16, tiff
    a = np.stack([grey.astype('u2')*16]*3, -1)
    for f in (png16(tmp_path/'a.png', a), tiff(tmp_path/'a.tif', a)):
        want = probs(deep.saved, f)
        assert np.allclose(probs(deep.saved, a), want, atol=1e-5)
        assert np.allclose(probs(deep.saved, Image.open(f)), want, atol=1e-5) # nobody has looked at it: all bits are read
        with pytest.raises(TransferError, match='kept 8 of its 16 bits'): deep.saved.predict(loaded(f), proba=True)

def test_an_image_of_the_user_stays_as_it_is(made):
    im = Image.open(made.photos/'up'/'0.png')
    at = im.fp.tell()
    made.saved.predict([im, im])
    assert im.fp.tell() == at and im.size == (64, 48) and np.array_equal(np.asarray(im), colours)
    stream = io.BytesIO((made.photos/'up'/'0.png').read_bytes())
    stream.seek(7)
    made.saved.predict(stream)
    assert stream.tell() == 7 and not stream.closed

def test_a_stream_that_can_only_be_read_once(made):
    class Once:
        def __init__(self, data): self.data = data
        def read(self): data, self.data = self.data, b''; return data
    f = made.photos/'up'/'0.png'
    assert np.allclose(probs(made.saved, Once(f.read_bytes())), probs(made.saved, f), atol=1e-6)
    assert 'an empty file' in made.saved.predict([Once(b'')])[0]['error']

@pytest.mark.parametrize('kind', ['f2', 'bf16', 'f4', 'f8', 'i8'])
def test_kinds_of_numbers(made, kind):
    want = probs(made.saved, colours)
    t = torch.from_numpy(colours).permute(2, 0, 1)
    t = t.to(dict(f2=torch.float16, bf16=torch.bfloat16, f4=torch.float32, f8=torch.float64, i8=torch.int64)[kind])
    t = t if kind == 'i8' else t/255
    assert np.allclose(probs(made.saved, t.requires_grad_() if kind == 'f4' else t), want, atol=2e-2 if kind == 'bf16' else 1e-3)
    if kind != 'bf16': assert np.allclose(probs(made.saved, t.permute(1, 2, 0).detach().numpy()), want, atol=1e-3)


# many

def test_many_of_all_kinds_give_a_table_in_order(made):
    f = sorted((made.photos/'up').iterdir())
    mixed = [f[0], str(f[1]), f[2].read_bytes(), Image.open(f[3]), np.asarray(Image.open(f[4])), torch.zeros(3, 8, 8, dtype=torch.uint8)]
    want = [made.saved.predict(o)[0]['probability'] for o in mixed]
    for many in (mixed, tuple(mixed), (o for o in mixed), iter(mixed), map(lambda o: o, mixed)):
        rows = made.saved.predict(many)
        assert [o['probability'] for o in rows] == pytest.approx(want, abs=1e-5)
        assert rows[0]['file'] == str(f[0]) and rows[1]['file'] == str(f[1]) and rows[4]['file'] == 'no. 5, array of 48x64x3'
    with pytest.raises(TransferError, match='one item'): made.learn.predict(mixed)
    rows = made.learn.predictor().predict(mixed)
    assert [o['probability'] for o in rows] == pytest.approx(want, abs=1e-5)
    import pandas as pd
    assert [o['file'] for o in made.saved.predict(pd.Series(map(str, f)))] == [*map(str, f)]
    assert [o['file'] for o in made.saved.predict(np.array([*map(str, f)]))] == [*map(str, f)]
    assert len(made.saved.predict(made.photos.rglob('*.png'))) == 18 and len(made.saved.predict([])) == 0

def test_a_long_generator_is_never_all_in_memory(made):
    alive = Counter()
    class Counted(np.ndarray):
        def __array_finalize__(self, o): alive['now'] += 1; alive['most'] = max(alive['most'], alive['now'])
        def __del__(self): alive['now'] -= 1
    rows = made.saved.predict(np.zeros((8, 8), 'u1').view(Counted) for _ in range(1200))
    assert len(rows) == 1200 and alive['most'] < 1000
    assert rows[-1]['file'] == 'no. 1200, array of 8x8'

wrong = [(np.zeros((2, 40, 40, 3)), 'a batch of 2x40x40x3'), (np.zeros((40, 40, 2)), '2 channels'), (np.zeros((3, 40, 40)), 'its channels come first'),
         (torch.zeros(40, 40, 3), 'its channels must come first'), (torch.zeros(1, 3, 40, 40), 'a batch of 1x3x40x40'), (np.zeros(7), 'an array of 7'),
         (np.zeros((0, 4)), 'an array of 0x4'), (torch.randn(3, 40, 40), 'floating point numbers from -'), (np.zeros((4, 4), complex), 'made of numbers'),
         ('https://example.org/a.jpg', 'a web address'), ('nowhere.png', 'no such file'), (b'', 'an empty file'), (b'dear diary', 'not an image'),
         (io.StringIO('text'), 'opened as text'), (None, 'no picture'), (7, 'no picture'), (object(), 'no picture'), (dict(a=1), 'no picture'),
         ('data:image/png;base64,iVBORw0', 'a web address'), (np.zeros((40, 40, 13), 'u1'), '13 bands')]

@pytest.mark.parametrize('item,words', wrong, ids=[w for _, w in wrong])
def test_what_is_wrong_is_said_in_a_line_with_its_place(made, item, words):
    good = made.photos/'up'/'0.png'
    rows = made.saved.predict([good, item, good])
    assert 'label' in rows[0] and 'label' in rows[2] and rows[1].keys() == {'file', 'error'}
    assert words in rows[1]['error'] and '\n' not in rows[1]['error']
    assert isinstance(item, str) or rows[1]['file'].startswith('no. 2, ')
    for ask in (made.learn.predict, lambda o: made.saved.predict(o, proba=True)):
        with pytest.raises(TransferError) as e: ask(item)
        assert words in str(e.value) and '\n' not in str(e.value)
    assert words in made.saved.predict(item)[0]['error']


# all classes

def test_all_probabilities_by_class(made):
    f = made.photos/'up'/'0.png'
    got = made.saved.predict(Image.open(f), proba=True)
    assert isinstance(got, dict) and set(got) == {'down', 'left', 'up'} and sum(got.values()) == pytest.approx(1, abs=1e-5)
    assert [*got.values()] == sorted(got.values(), reverse=True) and all(type(v) is float for v in got.values())
    assert made.learn.predict(f, proba=True) == pytest.approx(got, abs=1e-5)
    rows = made.saved.predict([f, 'nowhere.png'], proba=True)
    assert {k: rows[0][k] for k in got} == pytest.approx(got) and rows[0]['file'] == str(f) and rows[1]['error'] == 'no such file'
    best = made.saved.predict([f, f], top=2)
    assert {o['label']: o['probability'] for o in best[:2]} == pytest.approx(dict([*got.items()][:2]), abs=1e-5) and len(best) == 4
    assert [*made.saved.predict(f, proba=True, top=1)] == [*got][:1] and len(made.saved.predict(f, top=99)) == 3
    with pytest.raises(TransferError, match='top=0'): made.saved.predict(f, top=0)

def stub(answer=None, pairs=False):
    "A predictor of texts whose network says the same of everything"
    made = Predictor.__new__(Predictor)
    frozen = SimpleNamespace(why_not=lambda o: 'no text', tokens=None)
    made.__dict__ |= dict(modality=Texts(pairs), answer=answer or SingleLabel(['no', 'yes']), frozen=frozen)
    made.probs = lambda items: {i: np.array([.25, .75]) for i in range(len(items))}
    return made

def test_texts_are_asked_as_ever():
    assert stub().predict(float('nan'))[0]['error'] == stub().predict(None)[0]['error'] == 'no text'
    assert stub().predict('a text')[0] == dict(text='a text', label='yes', probability=.75)
    for many in (['a', 'b'], ('a', 'b'), (o for o in 'ab'), iter('ab')): assert [o['text'] for o in stub().predict(many)] == ['a', 'b']
    assert stub().predict(['a', None, ('a', 'b')])[1:] == [dict(text='None', error='no text'), dict(text="('a', 'b')", error='one text is wanted')]
    pairs = stub(pairs=True)
    assert len(pairs.predict(('a', 'b'))) == 1 and len(pairs.predict([('a', 'b'), ('c', 'd')])) == 2
    assert pairs.predict(['a'])[0]['error'] == 'two texts are wanted, as a tuple'
    assert stub().predict('a', proba=True) == dict(yes=.75, no=.25)
    assert stub(SingleLabel(['text', 'yes'])).predict(['a'], proba=True)[0] == dict(item='a', yes=.75, text=.25)

def test_numbers_and_several_labels():
    number = stub(Regression(0., 1.))
    assert number.predict('a')[0]['value'] == .25
    with pytest.raises(TransferError, match='predicts a number'): number.predict('a', proba=True)
    several = stub(MultiLabel(['no', 'yes']))
    assert several.predict('a')[0] == dict(text='a', label=['yes'], probability=[.75])
    assert several.predict('a', top=2)[1] == dict(text='a', label='no', probability=.25)
