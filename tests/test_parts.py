"Parts of a split: their names, and which folders of a tree are parts and which are classes. No test here asks what kind a file is, but for those at the end."
import os, sys, unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import photo, photos, tl
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import assume, given, settings as hypothesis_settings, strategies as st
from PIL import Image
from tl_nbdev.vision.images import ImageTask, image_files
from tl_nbdev.data.parts import dataset_table, given_parts, parts_of
from tl_nbdev.data.tree import Tree, find_layout, read_folder
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text.texts import TextTask

law = hypothesis_settings(deadline=None, derandomize=True, max_examples=150)

def tree(*folders, n=12):
    "The folders of `n` files in each of the folders, or of as many as stand behind a colon"
    counts = [(tuple(filter(None, o.partition(':')[0].split('/'))), int(o.partition(':')[2] or n)) for o in folders]
    return [o for o, k in counts for _ in range(k)]

def seen(*folders, **kwargs):
    "Folder → its label and part, as strings such as `cat of train`"
    layout = find_layout(tree(*folders), name='data', **kwargs)
    return {'/'.join(o): ' of '.join(v for v in layout.place(o)[:2] if v) for o in dict.fromkeys(tree(*folders))}

def notes(*folders, **kwargs): return ' | '.join(find_layout(tree(*folders), name='data', **kwargs).notes)

def refused(*folders, words=(), **kwargs):
    with pytest.raises(TransferError) as e: find_layout(tree(*folders), name='data', **kwargs)
    assert '\n' not in str(e.value) and str(e.value).startswith('data')
    for w in words: assert w in str(e.value), str(e.value)

def split(*parts, classes=('cat', 'dog')): return [f'{p}/{c}' for p in parts for c in classes]


# names

@pytest.mark.parametrize('train, other, part', [
    ('train', 'test', 'test'), ('train', 'val', 'valid'), ('training', 'validation', 'valid'), ('train', 'dev', 'valid'), ('train', 'testing', 'test'), ('seg_train', 'seg_test', 'test'),
    ('training_set', 'test_set', 'test'), ('Train_data', 'Test_data', 'test'), ('train_images', 'test_images', 'test'), ('trainset', 'valset', 'valid'), ('train1', 'test1', 'test'),
    ('train2017', 'val2017', 'valid'), ('train', 'evaluation', 'test'), ('train', 'eval', 'test'), ('train', 'holdout', 'test'), ('train', 'hold-out', 'test'), ('train', 'held_out', 'test'),
    ('train', 'validate', 'valid'), ('train', 'tst', 'test'), ('TRAIN', 'TEST', 'test'), ('TrainData', 'TestData', 'test'), ('my-train', 'my-dev', 'valid'), ('traindata', 'testdata', 'test'),
    ('train.2', 'valid.2', 'valid'), ('imgs_train', 'imgs_val', 'valid'), ('trainval', 'test', 'test'), ('train_val', 'test', 'test'), ('train-clean-100', 'test-clean', 'test'),
    ('2_train', '1_test', 'test'), ('ImagesTraining', 'ImagesValidation', 'valid')])
def test_parts_are_known_by_their_names_and_what_they_hold(train, other, part):
    assert seen(*split(train, other)) == {f'{train}/cat': 'cat of train', f'{train}/dog': 'dog of train', f'{other}/cat': f'cat of {part}', f'{other}/dog': f'dog of {part}'}
    assert parts_of([train, other]) == {train: 'train', other: part}
    plain = {'train', 'training', 'val', 'validation', 'dev', 'test', 'testing', 'valid'}
    assert bool(notes(*split(train, other))) == (not {train.lower(), other.lower()} <= plain) # what had to be understood is said

def test_eval_is_what_is_lacking():
    assert parts_of(['train', 'eval', 'test'])['eval'] == 'valid' and parts_of(['train', 'eval', 'val'])['eval'] == 'test' and parts_of(['train', 'eval'])['eval'] == 'test'

@pytest.mark.parametrize('name', ['cat', 'restrained', 'latest', 'contest', 'devil', 'value', 'invalid', 'evaluator', 'strain', 'protest', 'test_or_train', 'attest', '', '1', 'valet'])
def test_words_that_only_hold_such_letters_are_no_parts(name): assert parts_of([name]) == {name: None}


# which are which

def test_classes_are_what_holds_files_whatever_they_are_called():
    assert seen('train', 'car', 'bus') == dict(train='train', car='car', bus='bus') and 'train: no part of a split but a class' in notes('train', 'car', 'bus')
    for names in ('test', 'control'), ('dev', 'ops', 'sales'), ('steam_train', 'freight_train'), ('train', 'test', 'car'), ('blood_test', 'urine_test', 'x-ray'), ('val', 'tina'):
        assert seen(*names) == {o: o for o in names}
    assert seen('train station/train', 'train station/test', 'bus/train', 'bus/test')['train station/train'] == 'train station of train'
    assert set(seen('train:5', 'train/more:7', 'test:5', 'test/more:7', 'car').values()) == {'train', 'test', 'car'} # one folder inside is no class folder yet
    refused(*split('steam_train', 'crash_test', 'car', classes=('left', 'right')), words=['crash_test, steam_train', 'car'])
    assert set(seen('steam_train/front', 'steam_train/side', 'freight_train/left', 'freight_train/right').values()) == {'steam_train', 'freight_train'}

def test_parts_that_hold_files_themselves_may_be_classes():
    for names in ('train', 'test'), ('train', 'val', 'test'), ('test', 'dev'), ('seg_train', 'seg_test'), ('train1', 'train2'):
        refused(*names, words=[*names, 'a CSV', 'parts=False'])
        assert seen(*names, parts=False) == {o: o for o in names}

def test_folders_of_one_kind_in_all_of_the_others_may_be_the_classes():
    for tops, names in (('color', 'grayscale'), ('cat', 'dog')), (('patient1', 'patient2', 'patient3'), ('0', '1')), (('cat', 'dog'), ('2019', '2020', '2021')), (('train1', 'train2'), ('cat', 'dog')):
        refused(*split(*tops, classes=names), words=[*tops[:2], *names[:2], 'parts=False', f'data/{tops[0]}', 'parts={'])
        assert set(seen(*split(*tops, classes=names), parts=False).values()) == set(tops)
    told = seen(*split('color', 'grayscale'), parts=dict(color='train', grayscale='test'))
    assert told == {'color/cat': 'cat of train', 'color/dog': 'dog of train', 'grayscale/cat': 'cat of test', 'grayscale/dog': 'dog of test'}

def test_folders_in_class_folders():
    for folders in ('animals/cat', 'animals/dog', 'plants/rose', 'plants/oak'), ('cat/young', 'cat/old', 'dog'), ('cat/images', 'dog/images'), ('cat', 'cat/more', 'dog', 'dog/more'):
        assert seen(*folders) == {o: o.partition('/')[0] for o in folders} and 'folders in class folders' in notes(*folders)
    assert seen('train/animals/cat', 'train/plants/rose', 'test/animals/dog', 'test/plants/oak')['test/plants/oak'] == 'plants of test'

def test_parts_below_the_classes():
    assert seen('cat/train', 'cat/test', 'dog/train', 'dog/test') == {'cat/train': 'cat of train', 'cat/test': 'cat of test', 'dog/train': 'dog of train', 'dog/test': 'dog of test'}
    assert 'below the classes' in notes('cat/train', 'cat/val', 'dog/train')
    assert seen('cat/train/a', 'cat/val/b', 'dog/train/c', 'dog/val')['cat/val/b'] == 'cat of valid'
    refused('cat/train', 'cat/val', 'dog/train', 'dog/val', 'bird', words=['cat, dog hold the parts train, val, not so bird'])
    refused('cat/val', 'cat/test', 'dog/val', 'dog/test', words=['none that is called train'])
    refused(*[f'{a}/{p}/{c}' for a in ('color', 'gray') for p in ('train', 'test') for c in ('cat', 'dog')], words=['color', 'cat, dog'])

def test_folders_around_everything():
    for above in 'data', 'archive/data', 'a/b/c':
        assert set(seen(*(f'{above}/{o}' for o in split('train', 'test'))).values()) == {'cat of train', 'dog of train', 'cat of test', 'dog of test'}
        assert set(seen(f'{above}/cat', f'{above}/dog').values()) == {'cat', 'dog'} and f'all files are in {above}' in notes(f'{above}/cat', f'{above}/dog')
    assert seen('data/cat', 'data/dog', 'data:1', ':2') == {'data/cat': 'cat', 'data/dog': 'dog', 'data': '', '': ''}
    refused('data/cat', 'data/dog', 'assets:1', words=['nearly all files are in data', 'name data/data'])
    assert set(seen(*(f'{p}/images/{c}' for p in ('train', 'val') for c in ('cat', 'dog'))).values()) == {'cat of train', 'dog of train', 'cat of valid', 'dog of valid'}

def test_layouts_of_other_tools():
    for folders in ('train/images', 'val/images'), ('images', 'masks'), ('train/images', 'train/masks', 'val/images', 'val/masks'), ('images', 'labels'), ('JPEGImages', 'Annotations'), ('images/train', 'images/val', 'masks/train', 'masks/val'):
        refused(*folders, words=['as for detection or segmentation', 'a CSV'])
    refused('images/train', 'images/val', words=['hold files themselves', 'a CSV'])
    assert set(seen('images', 'texts').values()) == {'images', 'texts'} and set(seen('mask', 'no_mask').values()) == {'mask', 'no_mask'}

def test_a_split_with_gaps():
    assert seen('train/cat', 'train/dog', 'val/cat') == {'train/cat': 'cat of train', 'train/dog': 'dog of train', 'val/cat': 'cat of valid'}
    assert seen('train/cat', 'train/dog', 'test') == {'train/cat': 'cat of train', 'train/dog': 'dog of train', 'test': ''} and 'test holds no class folders' in notes('train/cat', 'train/dog', 'test')
    assert seen('train/cat', 'train/dog', 'val:9', 'val/cat:3')['val/cat'] == 'cat of valid'
    assert seen('train/cat', 'train/dog', 'test/unknown')['test/unknown'] == 'unknown of test'
    assert seen('train/cat', 'train/dog') == {'train/cat': 'cat of train', 'train/dog': 'dog of train'}
    refused('train/cat', 'train/dog', 'test/a', 'test/b', words=['no class in common', 'parts=True'])
    assert seen('train/cat', 'train/dog', 'test/a', 'test/b', parts=True)['test/b'] == 'b of test'

def test_folders_beside_a_split():
    assert seen(*split('train', 'test'), 'extra/cat', 'docs')['extra/cat'] == '' and 'beside the parts, left out: docs, extra' in notes(*split('train', 'test'), 'extra/cat', 'docs')
    assert seen(*split('train'), 'logo:1')['logo'] == ''
    for other in (['extra/cat', 'extra/dog'], ['car', 'bus'], ['car/sedan', 'car/suv']): refused(*split('train'), *other, words=['train', other[0].partition('/')[0], 'parts=True', 'parts=False'])
    assert seen('train/steam', 'train/diesel', 'car', 'bus', parts=False) == {'train/steam': 'train', 'train/diesel': 'train', 'car': 'car', 'bus': 'bus'}
    refused('steam_train/front', 'steam_train/side', 'car/left', 'car/right', words=['steam_train', 'parts=False'])
    refused(*split('train', 'test', classes=('train', 'test')), words=['all called as parts'])
    refused('cat', 'dog', *split('test'), words=['test holds folders that are called as those beside it'])

def test_no_train():
    for folders in split('test'), split('val', 'test'), ['train', *split('test')]: refused(*folders, words=['train'])
    for folders in split('test'), split('val', 'test'): assert {o.partition(' ')[0] for o in seen(*folders, learn=False).values()} == {'cat', 'dog'}

def test_two_folders_of_one_part():
    refused(*split('train', 'val', 'valid'), words=['val and valid both are called as valid', 'parts={"val": "valid"}'])
    refused(*split('train-clean', 'train-other', 'test'), words=['train-clean and train-other'])
    told = seen(*split('train1', 'train2', 'test', 'more'), parts=dict(train1='train', train2='train', test='test'))
    assert told['train2/cat'] == 'cat of train' and told['more/cat'] == ''

def test_what_is_told():
    assert seen('d/cat/a', 'd/cat/b', 'd/dog/a', 'd/dog/b', parts=dict(a='train', b='val'))['d/dog/b'] == 'dog of valid'
    refused(*split('a', 'b'), parts=dict(c='train'), words=['no folder c', 'there are a, b'])
    refused(*split('a', 'b'), parts=True, words=['no folder is called as a part'])
    with pytest.raises(TransferError, match='use train, valid or test'): find_layout(tree('a/cat'), dict(a='probe'))
    for odd in 'train', ['a'], {}, 3:
        with pytest.raises(TransferError, match='use False, True, or a dict'): find_layout(tree('a/cat'), odd)
    years = [f'{c}/{p}/{year}' for c in ('cat', 'dog') for p in ('train', 'val') for year in (2019, 2020)]
    refused(*years, words=['in the parts, cat, dog hold folders of the same names (2019, 2020)', "parts={'train': 'train', 'val': 'valid'}"])
    assert seen(*years, parts=dict(train='train', val='valid'))['cat/val/2019'] == 'cat of valid'

def test_folders_of_items_without_labels():
    imdb = [*split('train', 'test', classes=('pos', 'neg')), 'train/unsup']
    assert seen(*imdb)['train/unsup'] == '' and 'unsup is in train alone' in notes(*imdb)
    assert seen(*split('train', 'test'), 'unlabeled')['unlabeled'] == ''
    assert seen(*split('train', 'test'), 'train/rare')['train/rare'] == 'rare of train' # no reason to drop it
    assert seen(*split('train', 'test'), 'train/unsup', 'test/unsup')['train/unsup'] == 'unsup of train'
    assert seen('pos', 'neg', 'unsup')['unsup'] == 'unsup' and 'as if its items had no label' in notes('pos', 'neg', 'unsup')


# any tree

class_names = ['cat', 'dog', 'Äpfel', 'New York', '0', '1', 'b.c', 'train station', '.net', '__background__', 'nan']
spellings = [str, str.upper, str.capitalize, 'seg_{}'.format, '{}_set'.format, '{}1'.format, '{}2017'.format, '{}-clean'.format, '{}data'.format, lambda o: f'My{o.capitalize()}']

@st.composite
def trees(draw):
    "A tree of which the right reading is known: folders, what each says, and the parts"
    classes = draw(st.lists(st.sampled_from(class_names), min_size=2, max_size=5, unique=True))
    parts = draw(st.sampled_from([[], ['train', 'test'], ['train', 'val'], ['train', 'val', 'test'], ['training', 'validation', 'testing'], ['train', 'dev']]))
    spell = draw(st.sampled_from(spellings))
    above, inner, below = draw(st.sampled_from([(), ('data',), ('a', 'b')])), draw(st.sampled_from([(), ('images',)])), draw(st.booleans())
    means = parts_of(parts)
    out = {}
    for part in parts or [None]:
        lacking = draw(st.sets(st.sampled_from(classes), max_size=1)) if part and part != parts[0] and len(classes) > 2 else set()
        for c in classes:
            if c in lacking: continue
            name = () if part is None else (spell(part),)
            path = (*above, c, *name) if below else (*above, *name, *(inner if part else ()), c)
            out[path] = c, means.get(part)
            if draw(st.integers(0, 5)) == 0: out[(*path, f'more of {c}')] = c, means.get(part)
    return out

@law
@given(trees(), st.randoms(use_true_random=False))
def test_the_right_reading(tree, random):
    files = [path for path in tree for _ in range(random.randint(2, 6))]
    files += [()]*random.randint(0, 2) # loose ones
    random.shuffle(files)
    layout = find_layout(files, name='data')
    for path, want in tree.items(): assert layout.place(path)[:2] == want, layout
    assert layout.place(())[2]

pool = st.sampled_from(['train', 'test', 'val', 'seg_train', 'cat', 'dog', 'images', 'unsup', 'car', 'color'])
any_tree = st.lists(st.tuples(st.lists(pool, max_size=4).map(tuple), st.integers(1, 9)), min_size=1, max_size=9)

@law
@given(any_tree, st.randoms(use_true_random=False))
def test_any_tree_is_read_or_refused_in_one_line(folders, random):
    files = [path for path, n in folders for _ in range(n)]
    try: layout = find_layout(files, name='data')
    except TransferError as e:
        assert '\n' not in str(e) and str(e).startswith('data')
        return
    for path in files:
        label, part, why = layout.place(path)
        assert (label is None) == bool(why) and (part is not None) == (label is not None and layout.parts is not None) # nothing vanishes without a word
        assert label is None or label in path and part in (None, 'train', 'valid', 'test')
    labels = {layout.place(o)[0] for o in files} - {None}
    if len(labels) > 1 and layout.parts is None: assert not all(o in ('train', 'test', 'val') for o in labels) # parts never are the classes
    again = files[:]
    random.shuffle(again)
    assert find_layout(again, name='data') == layout # the order of files decides nothing

@law
@given(any_tree)
def test_a_folder_around_it_changes_nothing(folders):
    files = [path for path, n in folders for _ in range(n)]
    assume(all(files) and len({o[0] for o in files}) > 1)
    def read(files):
        try: layout = find_layout(files, name='data')
        except TransferError: return 'refused'
        return [layout.place(o) for o in files]
    assert read([('all', *o) for o in files]) == read(files)

@law
@given(st.lists(st.sampled_from(['color', 'gray', 'big', 'small', 'a', 'b']), min_size=2, max_size=4, unique=True), st.lists(st.sampled_from(['cat', 'dog', '0', '1', 'x']), min_size=2, max_size=4, unique=True))
def test_what_could_be_either_is_refused(tops, names): refused(*split(*tops, classes=names), words=[*tops[:1], 'parts='])


# a column

def test_parts_in_a_column():
    assert given_parts(['Train', 'train ', 'val', 'TEST'], 'split') == (['train', 'train', 'valid', 'test'], [])
    got, said = given_parts(['train2017', 'val2017', 'holdout'], 'split')
    assert got == ['train', 'valid', 'test'] and 'train2017 is train' in said[0]
    for column, words in ((['train', 'probe'], 'has "probe": use train, valid or test'), (['train', None, ' '], 'is empty in 2 of 3 rows: use train, valid or test'), (['train', 'dev', 'val'], 'dev and val, which both are valid'),
                          (['train', 'test_a', 'test_b'], 'test_a and test_b'), ([0, 1], 'has "0"'), ([True, False], 'has "True"')):
        with pytest.raises(TransferError, match=words): given_parts(column, 'split', 'table')

def test_parts_in_a_task():
    df = pd.DataFrame(dict(text=[f'number {i} of all' for i in range(30)], label=['a', 'b']*15, split=['train2017']*20 + ['val2017']*5 + ['test2017']*5))
    task = TextTask.from_df(df, part='split')
    assert task.given and (task.n('train'), task.n('valid'), task.n('test')) == (20, 5, 5) and any('train2017 is train' in o for o in task.notes)
    with pytest.raises(TransferError, match='is empty in 3 of 30 rows'): TextTask.from_df(df.assign(split=[None]*3 + ['train']*27), part='split')


# splits of a dataset

def of(label, n=0): return Dataset.from_dict(dict(text=[f'text {i} of {n}' for i in range(len(label))], label=label), features=Features(dict(text=Value('string'), label=ClassLabel(names=['bad', 'good']))))

def test_splits_of_a_dataset():
    for name, part in dict(validation='valid', val='valid', dev='valid', validation_matched='valid', eval='test', test='test', testing='test', holdout='test').items():
        task = TextTask.from_dataset(DatasetDict(train=of([0, 1]*15), **{name: of([0, 1]*4, 1)}))
        assert task.n(part) == 8 and task.n('train') + task.n('valid') + task.n('test') == 38
    clean = TextTask.from_dataset(DatasetDict({'train.100': of([0, 1]*15), 'test.clean': of([0, 1]*4, 1)}))
    assert clean.n('test') == 8 and any('train.100 is train' in o for o in clean.notes)

@pytest.mark.parametrize('names, words', [(('train', 'validation_matched', 'validation_mismatched'), 'validation_matched and validation_mismatched both are called as valid: pass a dict'),
                                          (('train', 'probe'), 'the split "probe" is none of train, validation, test: pass a dict'), (('train', 'dev', 'val'), 'pass a dict of those meant')])
def test_splits_that_could_be_either(names, words):
    with pytest.raises(TransferError, match=words): TextTask.from_dataset(DatasetDict({o: of([0, 1]*9, i) for i, o in enumerate(names)}))

def test_splits_without_labels_are_passed_over_and_said():
    task = TextTask.from_dataset(DatasetDict(train=of([0, 1]*15), test=of([0, 1]*4, 1), unsupervised=of([-1]*9, 2), validation=of([-1]*9, 3)))
    assert len(task.df) == 38 and {o for o in task.notes if 'has no labels' in o} == {f'the split {o} has no labels: passed over' for o in ('unsupervised', 'validation')}

def test_a_stream_is_no_dataset():
    with pytest.raises(TransferError, match='without streaming'): TextTask.from_dataset(of([0, 1]).to_iterable_dataset())

def test_one_split_is_split_here():
    task = TextTask.from_dataset(DatasetDict(whatever=of([0, 1]*15)))
    assert not task.given and task.n('test')


# on disk: the same for images and texts

def lay(root, *folders, n=4):
    "An image and a text of their own, `n` times in each folder"
    for folder in folders:
        (root/folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            seed = sum(map(ord, folder))*100 + i
            Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(root/folder/f'{i}.png')
            (root/folder/f'{i}.txt').write_text(f'text {i} in {folder}, number {seed}', encoding='utf-8')
    return root

def both(root, **kwargs):
    "Both kinds of task, which must agree, and one of them"
    made = [kind.from_folder(root, **kwargs) for kind in (ImageTask, TextTask)]
    shown = [(o.vocab, o.sizes(), {p: o.n(p) for p in ('train', 'valid', 'test')}, o.notes) for o in made]
    assert shown[0] == shown[1]
    return made[0]

def test_a_split_on_disk(tmp_path):
    task = both(lay(tmp_path, *split('seg_train', 'seg_test'), n=6))
    assert task.vocab == ['cat', 'dog'] and task.given and task.n('test') == 12 and any('seg_train is train' in o for o in task.notes)
    with pytest.raises(TransferError, match='hold folders of the same names'): both(lay(tmp_path/'x', *split('color', 'gray')))
    assert both(tmp_path/'x', parts=False).vocab == ['color', 'gray']
    assert 'parts=False' in ImageTask.from_folder(tmp_path/'x', parts=False).call and "{'color': 'train'" in ImageTask.from_folder(tmp_path/'x', parts=dict(color='train', gray='test')).call

@pytest.mark.parametrize('kinds, words', [(['.zip'], '4 ".zip" files, none is read'), (['.zip', '.bin'], '4 ".bin" and 4 ".zip" files, none is read'), (['.'], '4 hidden files, none is read'), ([], 'an empty folder'), (['.pdf'], '4 ".pdf" files')])
def test_a_class_of_which_nothing_is_read_is_named(tmp_path, kinds, words):
    lay(tmp_path, 'cat', 'dog')
    (tmp_path/'bird').mkdir()
    for kind in kinds:
        for i in range(4): (tmp_path/'bird'/(f'.{i}' if kind == '.' else f'{i}{kind}')).write_bytes(b'\0\1\2')
    for kind in ImageTask, TextTask:
        task = kind.from_folder(tmp_path)
        assert task.vocab == ['cat', 'dog'] and [o for o in task.notes if o.startswith('class bird: ') and words in o], task.notes
        assert task.skipped[0][0] == tmp_path/'bird' and words in task.skipped[0][1]

def test_a_class_or_a_part_that_is_bare_in_a_split(tmp_path):
    lay(tmp_path, *split('train', 'val'))
    for folder in 'train/bird', 'test/cat', 'test/dog':
        (tmp_path/folder).mkdir(parents=True)
        for i in range(3): (tmp_path/folder/f'{i}.zip').touch()
    task = both(tmp_path)
    assert 'class train/bird: 3 ".zip" files, none is read' in task.notes and 'folder test: 6 ".zip" files, none is read' in task.notes

def test_one_class_left_says_why(tmp_path):
    lay(tmp_path, 'cat')
    (tmp_path/'dog').mkdir()
    for i in range(3): (tmp_path/'dog'/f'{i}.zip').touch()
    for kind in ImageTask, TextTask:
        with pytest.raises(TransferError, match='only one class, "cat".*dog .3 ".zip" files, none is read'): kind.from_folder(tmp_path)
    with pytest.raises(TransferError, match='no image files in it: 3 ".zip" files, none is read: put'): ImageTask.from_folder(tmp_path/'dog')

def test_folders_of_systems_and_of_people(tmp_path):
    lay(tmp_path, 'cat', 'dog', '__background__', '.net', '_noise_', '__pycache__', '__MACOSX', '.git', '.ipynb_checkpoints', '@eaDir', '.thumbnails', '.cache', '.Trash-1000')
    (tmp_path/'cat'/'._0.png').write_bytes(b'of macOS')
    task = both(tmp_path)
    assert task.vocab == ['.net', '__background__', '_noise_', 'cat', 'dog'] and '.net: a hidden folder, read as a class' in task.notes

def test_a_folder_of_hidden_files_alone(tmp_path):
    lay(tmp_path, '.net', 'java')
    for f in [*(tmp_path/'.net').iterdir()]: f.rename(f.with_name(f'.net{f.name}'))
    (tmp_path/'java'/'.hidden.png').write_bytes(b'')
    task = both(tmp_path)
    assert task.sizes() == {'.net': 4, 'java': 4} and '.net: all of its files are hidden, and read all the same' in task.notes

def test_folders_that_look_the_same(tmp_path):
    composed, decomposed = (unicodedata.normalize(o, 'Äpfel') for o in ('NFC', 'NFD'))
    task = both(lay(tmp_path, f'train/{decomposed}', 'train/Birnen', f'test/{composed}', 'test/Birnen'))
    assert task.vocab == ['Birnen', composed] and task.n('test') == 8 and not task.skipped

links = pytest.mark.skipif(sys.platform == 'win32', reason='links need rights there')

@links
def test_a_part_that_is_a_link_to_another(tmp_path):
    lay(tmp_path, *split('train', 'val'))
    (tmp_path/'test').symlink_to('val')
    task = both(tmp_path)
    assert (task.n('train'), task.n('valid'), task.n('test')) == (8, 8, 0) and 'test: a link to the folder that is read as val: left out' in task.notes

@links
def test_classes_that_are_links(tmp_path):
    lay(tmp_path, 'cat', 'dog')
    (tmp_path/'a kitten').symlink_to('cat')
    task = both(tmp_path)
    assert task.vocab == ['cat', 'dog'] and (tmp_path/'a kitten', 'a link to the folder that is read as cat') in task.skipped and task.sizes() == dict(cat=4, dog=4)

@links
def test_links_to_one_folder_elsewhere(tmp_path):
    lay(tmp_path/'photos', 'cat', 'dog')
    lay(tmp_path/'shared', 'blank')
    for part in 'test', 'train': # the first by its letters is not the one that counts
        (tmp_path/'a').mkdir(exist_ok=True)
        (tmp_path/'a'/part).symlink_to(tmp_path/'photos')
    task = both(tmp_path/'a')
    assert task.n('test') == 0 and task.n('train') + task.n('valid') == 8 and 'test: a link to the folder that is read as train: left out' in task.notes
    lay(tmp_path/'b', *split('train', 'val'))
    for part in 'train', 'val': (tmp_path/'b'/part/'blank').symlink_to(tmp_path/'shared/blank')
    task = both(tmp_path/'b')
    assert set(task.df[task.df.label == 'blank'].part) == {'train'} and 'val/blank: a link to the folder that is read as train/blank: left out' in task.notes
    lay(tmp_path/'c/train', 'cat', 'dog')
    (tmp_path/'c/val').symlink_to(tmp_path/'photos')
    assert both(tmp_path/'c').n('valid') == 8 and not both(tmp_path/'c').skipped # elsewhere, and once: fine

@links
def test_links_in_circles_and_to_nothing(tmp_path):
    lay(tmp_path/'d', 'cat', 'dog')
    for link, to in (('self', '.'), ('cat/up', '..'), ('dog/round', '../..'), ('gone', 'nowhere'), ('circle', 'circle')): (tmp_path/'d'/link).symlink_to(to)
    task = both(tmp_path/'d')
    assert task.sizes() == dict(cat=4, dog=4)
    assert Counter(why for _, why in task.skipped) == {'a link to a folder around it': 3, 'a broken link': 2}

@links
def test_a_file_is_found_once(tmp_path):
    lay(tmp_path/'all', 'cat', 'dog')
    (tmp_path/'d').mkdir()
    for link, to in (('one', 'all'), ('two', 'all/cat')): (tmp_path/'d'/link).symlink_to(tmp_path/to)
    files = [f.resolve() for f in Tree.of(tmp_path/'d').files]
    assert len(files) == len(set(files)) == 16

@pytest.mark.skipif(sys.platform == 'win32' or hasattr(os, 'geteuid') and os.geteuid() == 0, reason='whoever may read everything')
def test_a_folder_that_may_not_be_read(tmp_path):
    lay(tmp_path, 'cat', 'dog', 'bird')
    (tmp_path/'bird').chmod(0)
    try: assert (tmp_path/'bird', 'permission denied') in both(tmp_path).skipped
    finally: (tmp_path/'bird').chmod(0o700)

def test_loose_files_and_an_order(tmp_path):
    lay(tmp_path, 'cat', 'dog', 'cat/more', n=2)
    photo('line', 3).save(tmp_path/'loose.png')
    found = read_folder(tmp_path, lambda f: f.suffix == '.png' or (f.suffix == '.txt' and 'a reason'))
    assert found.loose == 1 and [str(f.relative_to(tmp_path)) for f in found.rows.item] == [str(Path(o)) for o in ('cat/0.png', 'cat/1.png', 'cat/more/0.png', 'cat/more/1.png', 'dog/0.png', 'dog/1.png')]
    assert Counter(why for _, why in found.skipped) == {'a reason': 6, 'in no class folder': 1}
    assert [f.name for f in image_files(tmp_path)[0]][0] == 'loose.png'

def test_in_a_shell(tmp_path):
    got = tl('audit', lay(tmp_path, *split('seg_train', 'seg_test'), n=6), '--json', tmp_path/'a.json')
    assert got.status == 0 and got.json['classes'] == dict(cat=12, dog=12) and any('seg_test is test' in o for o in got.json['notes'])
    got = tl('audit', lay(tmp_path/'x', *split('color', 'gray')))
    assert got.status == 1 and got.err.count('\n') == 1 and 'color, gray' in got.err and 'cat, dog' in got.err

def test_judged_alone(tmp_path):
    task = both(lay(tmp_path, *split('test')), learn=False)
    assert task.vocab == ['cat', 'dog'] and task.n('test') == 8
