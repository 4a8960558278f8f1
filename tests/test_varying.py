"Photos with boxes, varied: a box is where its thing is, whatever was done to the picture; nothing is drawn from a generator that isn't handed in."
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pytest, torch
from hypothesis import given, settings as laws, strategies as st
from PIL import Image, ImageDraw
from tl_nbdev.base.settings import TransferError
from tl_nbdev.boxes.varying import Frame, box_augmentations, cut_boxes, mosaic, seen_boxes, vary_boxes
from tl_nbdev.vision.pixels import Prep, squared

law = laws(deadline=None, derandomize=True, max_examples=150)
kinds, seeds = st.sampled_from(box_augmentations), st.integers(0, 2**32)
share = st.floats(0, 1)

@st.composite
def scenes(draw, least=24, most=200):
    "A black picture with a white thing in it, at least 8 pixels wide, and the corners of that"
    width, height = draw(st.integers(least, most)), draw(st.integers(least, most))
    x0, y0 = int(draw(share)*(width - 8)), int(draw(share)*(height - 8))
    x1, y1 = x0 + 8 + int(draw(share)*(width - x0 - 8)), y0 + 8 + int(draw(share)*(height - y0 - 8))
    im = Image.new('RGB', (width, height))
    im.paste('white', (x0, y0, x1, y1))
    return im, np.array([[x0, y0, x1, y1]], dtype=float)

def white(im):
    "Where it is white, and not the ground that is beside a picture: `(height, width)`"
    return np.asarray(im.convert('L')).astype(int) > 165

def ends(mask):
    "Corners of what is true"
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])

def rng_of(seed): return np.random.default_rng(seed)


# a box and its thing

@law
@given(scenes(), st.sampled_from(['none', 'flip', 'crop']), seeds)
def test_a_thing_is_where_its_box_is(scene, kind, seed):
    im, boxes, kept = vary_boxes(*scene, kind, rng_of(seed))
    assert kept.tolist() == [0] # one that is large enough is never lost, whatever is drawn
    assert np.abs(ends(white(im)) - boxes[0]).max() <= 2

@law
@given(scenes(), seeds)
def test_a_thing_is_where_its_box_is_in_other_light(scene, seed):
    im, boxes, kept = vary_boxes(*scene, 'strong', rng_of(seed))
    grey = np.asarray(im.convert('L')).astype(int)
    x0, y0, x1, y1 = np.round(boxes[0]).astype(int)
    assert kept.tolist() == [0] and grey[y0:y1, x0:x1].mean() > 120 # the light may be half of what it was
    if y1 - y0 > 4 and x1 - x0 > 4: assert np.ptp(grey[y0 + 2:y1 - 2, x0 + 2:x1 - 2]) <= 3 # of one colour, border to border

@law
@given(st.lists(scenes(), min_size=4, max_size=4), st.integers(60, 200), st.integers(60, 200), seeds)
def test_things_of_a_mosaic_are_where_their_boxes_are(four, width, height, seed):
    im, boxes, which = mosaic(four, (width, height), rng_of(seed))
    mask = white(im)
    assert im.size == (width, height) and len(boxes) == len(which) == len(set(which[:, 0]))
    for x0, y0, x1, y1 in boxes:
        inner = mask[int(np.ceil(y0)) + 2:int(y1) - 2, int(np.ceil(x0)) + 2:int(x1) - 2]
        assert inner.all() # and all that is white is in a box, unless its box was too small to be kept
    if len(boxes) < 4: return
    for x0, y0, x1, y1 in boxes: mask[max(0, int(y0) - 2):int(np.ceil(y1)) + 2, max(0, int(x0) - 2):int(np.ceil(x1)) + 2] = False
    assert not mask.any()

some_boxes = st.lists(st.tuples(*[st.floats(-40, 240, allow_nan=False)]*4), max_size=12)

@law
@given(some_boxes, kinds, seeds, st.integers(1, 200), st.integers(1, 200), st.floats(0, 1), st.floats(0, 9))
def test_boxes_that_remain_have_an_area_inside_the_picture(boxes, kind, seed, width, height, share, side):
    im, left, kept = vary_boxes(Image.new('RGB', (width, height)), boxes, kind, rng_of(seed), share, side)
    assert left.shape == (len(kept), 4) and kept.dtype.kind == 'i' and im.mode == 'RGB'
    assert ((0 <= kept) & (kept < max(1, len(boxes)))).all() and (kind == 'mosaic' or len(set(kept)) == len(kept))
    assert (left >= 0).all() and (left <= np.tile(im.size, 2)).all()
    assert (left[:, 2:] - left[:, :2] >= max(side, 1e-6) - 1e-6).all()
    if kind in ('none', 'flip'): assert im.size == (width, height)

@law
@given(scenes(), kinds, seeds, st.integers(2, 40))
def test_kept_says_which_box_it_is(scene, kind, seed, n):
    "Boxes that are told apart by what is in them: the thing, and others elsewhere"
    (im, thing), rng = scene, rng_of(seed)
    low = rng.uniform(0, np.array(im.size) - 8, (n, 2))
    boxes, at = np.concatenate([low, low + 8], 1), int(rng.integers(n))
    boxes[at] = thing[0]
    made, left, kept = vary_boxes(im, boxes, kind, rng_of(seed))
    alone = vary_boxes(im, boxes, kind, rng_of(seed))[1][kept == at]
    assert np.array_equal(left[kept == at], alone)
    for box in alone if kind != 'strong' else []:
        x0, y0, x1, y1 = np.round(box).astype(int)
        inner = white(made)[y0 + 2:y1 - 2, x0 + 2:x1 - 2]
        assert inner.all()

@given(kinds, seeds)
@law
def test_three_hundred_boxes_and_boxes_of_a_pixel(kind, seed):
    rng = rng_of(seed)
    low = rng.uniform(0, 180, (300, 2))
    im, left, kept = vary_boxes(Image.new('RGB', (200, 200)), np.concatenate([low, low + 15], 1), kind, rng)
    assert len(left) == len(kept) > 0
    dots = np.concatenate([low, low + 1], 1)
    assert len(vary_boxes(im, np.clip(dots, 0, 20), 'none', rng)[2]) == 0 # too small to be seen
    made, left, kept = vary_boxes(Image.new('RGB', (200, 200)), dots, kind, rng, side=.2)
    assert len(kept) > 0 and (left[:, 2:] > left[:, :2]).all()

@given(kinds, seeds, st.integers(1, 60), st.integers(1, 60))
@law
def test_a_picture_without_boxes_is_varied_as_well(kind, seed, width, height):
    for none in ([], np.zeros((0, 4)), np.zeros((0, 4), int)):
        im, left, kept = vary_boxes(Image.new('RGB', (width, height), 'red'), none, kind, rng_of(seed))
        assert (left.shape, kept.shape) == ((0, 4), (0,)) and min(im.size) >= 1

@pytest.mark.parametrize('size', [(1, 1), (1, 900), (900, 1), (2, 3), (3000, 40)])
@pytest.mark.parametrize('kind', box_augmentations)
def test_odd_shapes(size, kind):
    for seed in range(8):
        im, boxes, kept = vary_boxes(Image.new('RGB', size), [[0, 0, *size]], kind, rng_of(seed), side=0)
        assert min(im.size) >= 1 and (kind == 'mosaic' or kept.tolist() == [0])


# what is drawn, and from what

@law
@given(scenes(), kinds, seeds)
def test_the_same_generator_does_the_same(scene, kind, seed):
    torch.manual_seed(seed % 1000)
    im, boxes, kept = vary_boxes(*scene, kind, rng_of(seed))
    torch.rand(3)
    again, same, still = vary_boxes(*scene, kind, rng_of(seed))
    assert im.tobytes() == again.tobytes() and np.array_equal(boxes, same) and np.array_equal(kept, still)

def test_no_other_generator_is_touched():
    im, boxes = Image.effect_noise((120, 90), 60).convert('RGB'), [[10, 10, 60, 60]]
    torch.manual_seed(5)
    before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    for kind in box_augmentations:
        for seed in range(20): vary_boxes(im, boxes, kind, rng_of(seed))
    assert torch.equal(before, torch.random.get_rng_state()) and np.array_equal(numpys, np.random.get_state()[1])

@pytest.mark.parametrize('kind', box_augmentations)
def test_threads_see_what_one_would(kind):
    im, boxes = Image.effect_noise((120, 90), 60).convert('RGB'), [[10, 10, 60, 60], [50, 20, 90, 80]]
    def made(seed):
        out, left, kept = vary_boxes(im, boxes, kind, rng_of(seed))
        return out.tobytes(), left.tolist(), kept.tolist()
    alone = [made(seed) for seed in range(60)]
    with ThreadPoolExecutor(8) as pool: assert list(pool.map(made, range(60))) == alone

@pytest.mark.parametrize('kind', box_augmentations)
def test_what_is_handed_in_stays_as_it_was(kind):
    im, boxes = Image.effect_noise((120, 90), 60).convert('RGB'), np.array([[-10., 10, 60, 60]])
    pixels, numbers = im.tobytes(), boxes.copy()
    for seed in range(10):
        _, left, _ = vary_boxes(im, boxes, kind, rng_of(seed))
        left += 1
    assert im.tobytes() == pixels and np.array_equal(boxes, numbers)


# pictures and boxes of other kinds

@pytest.mark.parametrize('mode', ['RGBA', 'CMYK', 'P', '1', 'LA', 'I;16', 'F', 'YCbCr'])
@pytest.mark.parametrize('kind', box_augmentations)
def test_other_modes_are_refused(mode, kind):
    with pytest.raises(TransferError, match=f'mode {mode}'): vary_boxes(Image.new(mode, (8, 8)), [], kind, rng_of(0))

@pytest.mark.parametrize('kind', box_augmentations)
def test_grey_is_made_colour(kind):
    grey, boxes = Image.effect_noise((60, 50), 60), [[5, 5, 40, 40]]
    one, other = (vary_boxes(im, boxes, kind, rng_of(3)) for im in (grey, grey.convert('RGB')))
    assert one[0].mode == 'RGB' and one[0].tobytes() == other[0].tobytes()

@pytest.mark.parametrize('boxes', [[[0, 0, 5]], [1, 2, 3, 4], [[0, 0, float('nan'), 4]], [[0, 0, float('inf'), 4]], [['x']*4], [[1, 2, 3, 4], [1]],
                                   np.zeros((2, 2, 4))])
def test_what_are_no_boxes_is_refused(boxes):
    with pytest.raises(TransferError, match='box'): vary_boxes(Image.new('RGB', (8, 8)), boxes, 'flip', rng_of(0))


# the square

@st.composite
def frames(draw):
    size, im_size = draw(st.integers(32, 300)), (draw(st.integers(8, 400)), draw(st.integers(8, 400)))
    return Frame(size, im_size, draw(st.sampled_from(['squeeze', 'crop', 'pad'])), draw(st.sampled_from([1., .95, .875, .5])))

@law
@given(frames(), some_boxes)
def test_there_and_back(frame, boxes):
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    assert np.allclose(frame.from_square(frame.to_square(boxes)), boxes, atol=1e-6)
    clipped = frame.from_square(frame.to_square(boxes), clip=True)
    assert (clipped >= 0).all() and (clipped <= np.tile(frame.im_size, 2)).all()

@law
@given(scenes(40, 300), st.integers(40, 250), st.sampled_from(['squeeze', 'crop', 'pad']), st.sampled_from([1., .9, .7]))
def test_boxes_go_where_pixels_go(scene, size, fit, crop):
    im, boxes = scene
    prep = Prep(size, fit=fit, crop=crop)
    seen, kept = seen_boxes(boxes, size, im.size, fit, crop, share=0, side=3)
    mask = np.asarray(squared(im, prep))[..., 0] > 127
    if not len(kept): return
    assert np.abs(ends(mask) - seen[0]*size).max() <= 1.5
    assert np.allclose(seen[0], np.clip(Frame.of(prep, im.size).to_square(boxes)[0], 0, 1))

@pytest.mark.parametrize('size', [(2000, 1), (1, 2000), (1, 1)])
@pytest.mark.parametrize('fit', ['squeeze', 'crop', 'pad'])
def test_frames_of_odd_shapes(size, fit):
    frame = Frame(64, size, fit)
    assert np.isfinite(frame.to_square([[0, 0, *size]])).all()
    assert np.allclose(frame.from_square(frame.to_square([[0, 0, *size]])), [[0, 0, *size]], atol=1e-6)

def test_frames_that_hold_nothing():
    for args in ((64, (0, 5)), (0, (5, 5))):
        with pytest.raises(TransferError, match='nothing of it'): Frame(*args)
    with pytest.raises(TransferError, match='squeeze, crop, pad'): Frame(64, (5, 5), 'stretch')

@law
@given(some_boxes, st.floats(0, 1))
def test_cutting_twice_is_cutting_once(boxes, share):
    once, kept = cut_boxes(boxes, (100, 80), share)
    twice, all_of_them = cut_boxes(once, (100, 80), share)
    assert np.array_equal(once, twice) and all_of_them.tolist() == [*range(len(kept))]

@law
@given(some_boxes, st.floats(0, 1), st.floats(0, 9))
def test_what_is_left_out_is_what_the_rule_says(boxes, share, side):
    _, kept = cut_boxes(boxes, (100, 80), share, side)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        wide, high = min(x1, 100) - max(x0, 0), min(y1, 80) - max(y0, 0)
        area = (x1 - x0)*(y1 - y0)
        is_box = x1 > x0 and y1 > y0 and min(wide, high) > 0
        if is_box and (abs(wide*high - share*area) < 1e-3 or abs(min(wide, high) - side) < 1e-3 or min(wide, high) < 1e-3): continue # on the border
        assert (i in kept) == (is_box and min(wide, high) >= side and wide*high >= share*area)

@law
@given(scenes(), st.sampled_from(['flip', 'crop', 'mosaic']), seeds)
def test_a_thing_of_which_little_is_left_has_no_box(scene, kind, seed):
    "With a share of 1, each thing that has a box is whole; with none, each that is seen has one"
    (im, box), rng = scene, np.random.default_rng
    assert len(vary_boxes(im, box, kind, rng(seed), 1)[2]) <= len(vary_boxes(im, box, kind, rng(seed), .3)[2])
    made, left, _ = vary_boxes(im, box, kind, rng(seed), 0, 0)
    if (mask := white(made)).any() and kind != 'mosaic': assert np.abs(ends(mask) - left[0]).max() <= 2
