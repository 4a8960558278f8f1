"Labels: what stands in a table, a folder or a dataset becomes the same classes everywhere, whoever reads it."
import json, unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import photo, photos, refused, tl
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image as Picture, LargeList, List, Sequence, Value
from hypothesis import example, given, settings as hypothesis_settings, strategies as st
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.data.labels import as_number, class_names, gathered, in_order, is_missing, label_columns, read_labels, tidy, without_labels, written_list
from tl_nbdev.base.settings import TransferError
from tl_nbdev.text.texts import TextTask

law = hypothesis_settings(deadline=None, derandomize=True, max_examples=80)

def values(column, label='label', **kwargs): return read_labels(column if isinstance(column, dict) else dict(label=column), label, **kwargs).values

def notes(column, label='label', **kwargs): return ' | '.join(read_labels(column if isinstance(column, dict) else dict(label=column), label, **kwargs).notes)

def texts(labels, **more): return pd.DataFrame(dict(text=[f'text number {i} of many' for i in range(len(labels))], label=pd.Series(labels, dtype=object), **more))

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Two dozen different photos"
    return sorted(photos(tmp_path_factory.mktemp('files'), 12).rglob('*.png'))

def tasks(labels, files, label='label', **kwargs):
    "The same labels in a task of images and in one of texts"
    more = labels if isinstance(labels, dict) else dict(label=pd.Series(labels, dtype=object))
    n = len(next(iter(more.values())))
    assert n <= len(files)
    return (ImageTask.from_df(pd.DataFrame(dict(file=files[:n], **more)), label=label, **kwargs),
            TextTask.from_df(pd.DataFrame(dict(text=[f'text number {i} of many' for i in range(n)], **more)), label=label, **kwargs))


# vectors of 0 and 1

vectors = [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]]*6
sets = [['0'], ['1', '2'], ['0', '1'], ['2']]*6
forms = dict(ints=list, floats=lambda v: [*map(float, v)], bools=lambda v: [*map(bool, v)], tuples=tuple, numpy=np.array, numpy_float=lambda v: np.array(v, np.float32), series=pd.Series,
             strings=lambda v: [*map(str, v)], spelled=str, numpy_spelled=lambda v: str(np.array(v)), bool_spelled=lambda v: str(np.array(v, bool)), json=json.dumps, commas=lambda v: ','.join(map(str, v)),
             semicolons=lambda v: '; '.join(map(str, v)), spaces=lambda v: ' '.join(map(str, v)), point_zero=lambda v: ','.join(f'{o:.1f}' for o in v))

@pytest.mark.parametrize('form', forms)
def test_vectors_are_several_labels_in_any_form(form):
    column = [*map(forms[form], vectors)]
    assert values(column) == sets
    assert values(column, classes=['sport', 'cooking', 'law'])[1] == ['cooking', 'law']
    assert 'vectors of 3 zeros and ones' in notes(column) and 'vectors' not in notes(column, classes=['a', 'b', 'c'])

def test_vectors_in_tasks(files):
    for form in 'ints', 'numpy', 'tuples', 'commas':
        for task in tasks([*map(forms[form], vectors)], files, classes=['sport', 'cooking', 'law']):
            assert task.answer.several and task.metric == 'f1' and task.vocab == ['cooking', 'law', 'sport']
            assert task.df.label[1] == ['cooking', 'law']
            assert task.targets('train').shape[1] == 3

def test_vectors_with_and_without_a_delimiter():
    for delim in None, ',': assert values(['1,0,0', '0,1,1'], delim=delim) == values(['[1, 0, 0]', '[0, 1, 1]'], delim=delim) == [['0'], ['1', '2']]
    assert values(['1;0;0', '0;1;1'], delim=';') == [['0'], ['1', '2']]

def test_vectors_with_one_1_each_have_several_labels_by_their_form():
    one = [[1, 0], [0, 1]]*4
    assert values(one, classes=['a', 'b']) == [['a'], ['b']]*4
    assert read_labels(dict(label=one), 'label').several and 'exactly one of the classes' in notes(one)
    assert 'exactly one' not in notes(vectors)

def test_zeros_alone_are_an_item_of_no_class():
    assert values([[1, 0], [0, 0], None, [1, 1]], classes=['a', 'b']) == [['a'], [], None, ['a', 'b']]
    with pytest.raises(TransferError, match='no item has a label'): TextTask.from_df(texts([[0, 0]]*12))
    assert 'no item has the label b' in notes([[1, 0], [0, 0]], classes=['a', 'b'])

@pytest.mark.parametrize('column, words', [
    ([[1, 1, 0], [1, 1]], 'lists of 2 or 3 zeros and ones'), ([[1, -1, 0], [0, 0, 1]], 'hold -1'), ([[.2, .8], [.5, .5]], 'hold 0.2'), ([[1, 0, None], [0, 1, 0]], 'hold None'),
    ([[2, 0, 0], [0, 1, 1]], 'hold 2'), (['[0 0 ... 1]']*2, 'shortened'), ([[['a']], ['b']], 'no single value'), ([dict(a=1)]*2, 'no single value'), ([np.eye(2)]*2, 'no single value')])
def test_what_is_neither_a_vector_nor_a_list_of_classes_is_refused(column, words):
    with pytest.raises(TransferError, match=words) as e: values(column)
    assert '\n' not in str(e.value) and 'label' in str(e.value)

def test_lists_of_class_numbers_are_no_vectors():
    assert values([[0, 1], [1]]) == [['0', '1'], ['1']]
    assert values([[3, 17], [5]]) == [['17', '3'], ['5']]
    assert values([[0], [1], [1]]) == [['0'], ['1'], ['1']]
    assert values([[0, 1], [0, 1]], classes=['a', 'b', 'c']) == [['a', 'b']]*2 # three classes have vectors of three

def test_a_single_class_that_is_named_has_vectors_of_one(): assert values([[0], [1]], classes=['toxic']) == [[], ['toxic']]

@pytest.mark.parametrize('classes, words', [(['a', 'b'], 'lists of 3 zeros and ones'), (['a', 'a', 'b'], '"a" is there twice')])
def test_names_must_fit_the_vectors(classes, words):
    with pytest.raises(TransferError, match=words): values(vectors, classes=classes)


# lists of names

names = ['cat', 'New York', "d'or", 'Äpfel', '[x]', 'say "so"', 'nan', '7']

@law
@given(st.lists(st.sets(st.sampled_from(names), max_size=3), min_size=1, max_size=8))
@example([{'cat'}, {'cat', 'New York'}])
def test_lists_of_names_are_the_same_in_any_form(rows):
    want = [sorted(o) for o in rows]
    columns = dict(lists=want, tuples=[*map(tuple, want)], arrays=[np.array(o, dtype=object) for o in want], frozen=[*map(frozenset, rows)], objects=[np.array(o) for o in want])
    for form, column in columns.items(): assert values(dict(label=pd.Series(column, dtype=object))) == want, form
    known = [json.dumps, str, lambda o: json.dumps(o, ensure_ascii=False), lambda o: str(tuple(o)) if len(o) > 1 else str(o)]
    if rows != [set()]*len(rows):
        for spell in known: assert values([*map(spell, want)]) == want
    vocab = sorted({*names})
    hot = [[int(c in o) for c in vocab] for o in rows]
    assert values(hot, classes=vocab) == want
    assert values({c: [row[i] for row in hot] for i, c in enumerate(vocab)}, vocab) == want

def test_lists_that_numpy_wrote():
    column = [str(np.array(o)) for o in (['cat', 'New York'], ['dog'], [])]
    assert column[0] == "['cat' 'New York']" # which Python would read as one word
    assert values(column) == [['New York', 'cat'], ['dog'], []]
    assert 'written as strings' in notes(column)

def test_lists_in_a_csv(tmp_path, files):
    lists = [['cat'], ['cat', 'night'], ['dog'], ['dog', 'night']]*6
    pd.DataFrame(dict(file=files, label=lists)).to_csv(tmp_path/'l.csv', index=False)
    for delim in None, ',', ';':
        task = ImageTask.from_csv(tmp_path/'l.csv', delim=delim)
        assert task.answer.several and task.vocab == ['cat', 'dog', 'night'] and any('written as strings' in o for o in task.notes)
    texts(lists).to_csv(tmp_path/'t.csv', index=False)
    assert TextTask.from_csv(tmp_path/'t.csv').vocab == ['cat', 'dog', 'night']

def test_brackets_without_quotes():
    assert values(['[cat, night]', '[dog]']) == [['cat', 'night'], ['dog']]
    assert values(['[cat; night]', '[dog]'], delim=';') == [['cat', 'night'], ['dog']]
    assert values(['[CLS]', '[SEP]']) == ['[CLS]', '[SEP]'] # names, as nothing in them is separated
    assert values(['(left)', '{x}', 'cat']) == ['(left)', '{x}', 'cat']

def test_a_few_lists_among_names_are_names_and_said():
    column = ['cat', "['a', 'b']", 'dog', 'x']
    assert values(column) == column and 'look like lists (1 of 4' in notes(column)
    mostly = ["['a', 'b']", "['a']", 'b', '[]']
    assert values(mostly) == [['a', 'b'], ['a'], ['b'], []] and '1 that are no lists' in notes(mostly)

def test_nothing_in_a_string_is_run(tmp_path):
    evil = f'[__import__("pathlib").Path({str(tmp_path/"ran")!r}).touch()]'
    assert values([evil, evil])[0] == evil and not (tmp_path/'ran').exists()
    assert written_list('['*5000 + ']'*5000) is None

def test_lists_in_image_tables(files):
    for make in list, tuple, np.array, set:
        for task in tasks([make(o) for o in [['cat'], ['cat', 'night'], ['dog'], ['dog', 'night']]*6], files):
            assert task.answer.several and task.vocab == ['cat', 'dog', 'night'] and task.df.label[1] == ['cat', 'night']

def test_a_delimiter_as_before():
    assert values(['a; b', 'b', '', None, ' b ;a'], delim=';') == [['a', 'b'], ['b'], [], None, ['a', 'b']]
    assert without_labels(pd.DataFrame(dict(label=['a', None])), 'label').label.to_list() == ['a', '']
    assert without_labels(pd.DataFrame(dict(a=[1], b=[0])), ['a', 'b']).columns.to_list() == ['a', 'b']


# datasets

def test_names_of_a_dataset(files):
    names, ids = ['cat', 'dog', 'night'], [[0], [0, 2], [1], [1, 2]]*6
    hot = [[int(i in o) for i in range(3)] for o in ids]
    for kind in List, LargeList, Sequence:
        for given_as in ids, hot:
            rows = dict(text=[f'text {i}' for i in range(24)], image=[dict(path=str(f), bytes=f.read_bytes()) for f in files], label=given_as)
            ds = Dataset.from_dict(rows, features=Features(dict(text=Value('string'), image=Picture(), label=kind(ClassLabel(names=names)))))
            for task in ImageTask.from_dataset(ds), TextTask.from_dataset(ds), TextTask.from_dataset(ds, delim=','), TextTask.from_dataset(ds.with_format('numpy')):
                assert task.answer.several and task.vocab == names and task.df.label[1] == ['cat', 'night']

def text_set(label, feature, **more): return Dataset.from_dict(dict(text=[f'text {i} {len(more)}' for i in range(len(label))], label=label), features=Features(dict(text=Value('string'), label=feature)))

def test_splits_that_number_their_classes_differently():
    ds = DatasetDict(train=text_set([0, 1]*10, ClassLabel(names=['bad', 'good'])), test=text_set([0, 1]*3, ClassLabel(names=['good', 'bad'])))
    task = TextTask.from_dataset(ds)
    assert task.part('test').label.to_list() == ['good', 'bad']*3 and task.part('train').label.value_counts().to_dict() == dict(bad=9, good=9)

def test_a_dataset_keeps_its_other_columns(files):
    rows = dict(image=[dict(path=str(f), bytes=f.read_bytes()) for f in files], label=[o.parent.name for o in files], who=[f'p{i//4}' for i in range(24)])
    ds = Dataset.from_dict(rows, features=Features(dict(image=Picture(), label=Value('string'), who=Value('string'))))
    assert ImageTask.from_dataset(ds, group='who').df.group.nunique() == 6
    with pytest.raises(TransferError, match='no column "kind" in the dataset: its columns are image'): ImageTask.from_dataset(ds, label='kind')


# a column for each class

def test_columns_of_0_and_1(files):
    hot = dict(sport=[1, 0, 0, 1]*6, cooking=['0', '1', '0', '0']*6, law=[False, True, True, False]*6, film=[0., 1., 0., 0.]*6)
    for label in ['sport', 'cooking', 'law', 'film'], ('sport', 'cooking', 'law', 'film'), 'sport,cooking,law,film', 'sport, cooking, law, film', np.array(['sport', 'cooking', 'law', 'film']):
        for task in tasks(hot, files, label): assert task.answer.several and task.vocab == ['cooking', 'film', 'law', 'sport'] and task.df.label[1] == ['cooking', 'film', 'law']

@pytest.mark.parametrize('several', [['cat', 'night'], ('cat', 'night'), 'cat,night', np.array(['cat', 'night']), pd.Index(['cat', 'night'])], ids=lambda o: type(o).__name__)
def test_columns_of_a_file_are_named_as_those_of_a_table(several, tmp_path, files):
    bits = dict(cat=[1, 0]*12, night=[1, 1, 0]*8)
    pd.DataFrame(dict(file=list(map(str, files)), text=[f'text number {i} of many' for i in range(24)], **bits)).to_csv(tmp_path/'hot.csv', index=False)
    for task in (ImageTask.from_csv(tmp_path/'hot.csv', 'file', several), TextTask.from_csv(tmp_path/'hot.csv', 'text', several), TextTask.from_csv(tmp_path/'hot.csv', label=several)):
        assert task.answer.several and task.vocab == ['cat', 'night']
    for cls, item in ((ImageTask, 'file'), (TextTask, 'text')):
        with pytest.raises(TransferError, match='no column "dog"'): cls.from_csv(tmp_path/'hot.csv', item, ['cat', 'dog'])

def test_columns_in_a_shell(tmp_path, files):
    pd.DataFrame(dict(file=files, sport=[1, 0]*12, law=[1, 1, 0, 0]*6)).to_csv(tmp_path/'hot.csv', index=False)
    got = tl('audit', tmp_path/'hot.csv', '--label', 'sport,law', '--json', tmp_path/'a.json')
    assert got.status == 0 and got.json['classes'] == dict(law=12, sport=12), got
    refused(tl('audit', tmp_path/'hot.csv', '--label', 'sport,lwa'), 'no column "lwa": its columns are file, sport, law')

@pytest.mark.parametrize('columns, words', [
    (dict(a=[1, 0], b=[2, 0]), 'column "b" holds "2" in row 0'), (dict(a=[1, 0], b=['x', '']), 'column "b" holds "x" in row 0'), (dict(a=[1, None], b=[1, 0]), 'column "a" is empty in row 1'),
    (dict(a=[1, 0], b=[-1, 0]), 'holds "-1"'), (dict(a=['sport', 'law'], b=['x', 'y']), 'holds "sport" in row 0')])
def test_columns_of_anything_else_are_refused(columns, words):
    with pytest.raises(TransferError, match=words): values(columns, ['a', 'b'])

def test_a_row_that_is_empty_in_all_columns_has_no_label():
    assert values(dict(a=[1, None, 0], b=[0, None, 1]), ['a', 'b']) == [['a'], None, ['b']]

def test_which_columns_are_meant():
    assert label_columns(['a', 'a,b', 'b'], 'a,b') == ['a,b']
    assert label_columns(['a', 'b'], 'x,y') == ['x,y'] and label_columns(['a', 0], 0) == [0] and label_columns(['a'], ['a']) == ['a'] and label_columns([('a', 'b')], ('a', 'b')) == [('a', 'b')]
    for label, words in (([], 'no column of labels is named'), (['a', 'c'], 'no column "c"'), ('a,c', 'no column "c"')):
        with pytest.raises(TransferError, match=words): values(dict(a=[1, 0], b=[0, 1]), label)
    with pytest.raises(TransferError, match='one number is predicted'): values(dict(a=[1, 0], b=[0, 1]), ['a', 'b'], regression=True)


# one row for each pair of item and label

def test_a_row_for_each_pair(files):
    lists = [['cat'], ['cat', 'night'], ['dog'], ['dog', 'night']]*6
    items, labels = zip(*((i, l) for i, some in enumerate(lists) for l in some))
    by_image, by_text = pd.DataFrame(dict(file=[files[i] for i in items], label=labels)), pd.DataFrame(dict(text=[f'text number {i}' for i in items], label=labels))
    for make, df in (ImageTask.from_df, by_image), (TextTask.from_df, by_text):
        task = make(df)
        found = {o['found']: o for o in task.audit()}
        assert found['the same item in rows of different labels']['count'] == 24 and 'gather=True' in found['the same item in rows of different labels']['next']
        assert 'the same content under two labels' not in found
        assert any('12 items stand in several rows' in o and 'gather=True' in o for o in task.notes)
        task = make(df, gather=True)
        assert task.answer.several and len(task.df) == 24 and task.vocab == ['cat', 'dog', 'night'] and sorted(map(str, task.df.label)) == sorted(map(str, lists)) and not task.notes

def test_rows_of_an_item_must_agree_in_all_else():
    df = pd.DataFrame(dict(item=['a', 'a', 'b'], label=['x', None, None], part=['train', 'train', 'test']))
    assert gathered(df).label.to_list() == [['x'], None] and gathered(df).part.to_list() == ['train', 'test']
    with pytest.raises(TransferError, match='"a" is in several rows, with several values of part'): gathered(df.assign(part=['train', 'test', 'test']))
    assert gathered(pd.DataFrame(dict(item=['a', 'a'], label=[['x', 'y'], ['z']]))).label.to_list() == [['x', 'y', 'z']]


# 1.0, missing values, names of nothing

numbers = dict(ints=int, floats=float, strings=str, point_zero=lambda o: f'{o}.0', int64=np.int64, float32=np.float32, padded=lambda o: f' {o} ')

@law
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 12)), st.sampled_from([*numbers])), min_size=1, max_size=12))
def test_a_number_is_one_class_however_it_is_written(rows):
    column = [None if n is None else numbers[form](n) for n, form in rows]
    assert values(column) == [None if n is None else str(n) for n, _ in rows]
    assert values([np.nan if o is None else o for o in column]) == values(column)

@pytest.mark.parametrize('column', [[0., 1., None]*8, pd.array([0, 1, None]*8, dtype='Int64'), pd.array([0, 1, None]*8, dtype='Float64'), pd.Categorical([0, 1, None]*8), ['0', '1', None]*8, ['0.0', '1.0', '']*8])
def test_0_and_1_with_a_gap(column, files):
    for task in tasks(dict(label=column), files): assert task.vocab == ['0', '1'] and [why for _, why in task.skipped] == ['no label']*8

def test_a_model_of_0_and_1_knows_the_table_again(tmp_path, files):
    pd.DataFrame(dict(file=files, label=[None, *([0, 1]*12)[1:]])).to_csv(tmp_path/'l.csv', index=False)
    one, other = ImageTask.from_df(pd.read_csv(tmp_path/'l.csv')), ImageTask.from_csv(tmp_path/'l.csv')
    assert one.vocab == other.vocab == ['0', '1'] and one.fingerprint == other.fingerprint

def test_other_values_keep_their_spelling():
    for column, want in (([1., 2.5], ['1.0', '2.5']), (['1.0', '1.5'], ['1.0', '1.5']), (['007', '7'], ['007', '7']), ([True, False, None], ['True', 'False', None]), ([np.bool_(True), 'True'], ['True', 'True']),
                         ([b'caf\xe9', 'x'], ['café', 'x']), (['a  b', 'A b'], ['a  b', 'A b']), ([1., 'other'], ['1', 'other']), ([float('inf'), 1.], ['inf', '1.0'])):
        assert values(column) == want
    assert '1.0 are called 1' in notes(['1.0', '2.0']) and not notes([1., 2.])

nothings = ['nan', 'NaN', 'null', 'None', 'NA', 'n/a', '<NA>']

@pytest.mark.parametrize('word', nothings)
def test_a_word_for_nothing_is_a_class(word, tmp_path):
    labels = [word, 'pita', 'lavash']*8
    (tmp_path/'t.csv').write_text('text,label\n' + ''.join(f'text number {i},{l}\n' for i, l in enumerate([*labels, ''])), encoding='utf-8')
    for task in TextTask.from_df(texts([*labels, None])), TextTask.from_csv(tmp_path/'t.csv'):
        assert task.sizes()[word] == 8 and [why for _, why in task.skipped] == ['no label']
        assert [o for o in task.notes if f'class "{word}" (8 items) is read as a name' in o]

def test_what_is_missing():
    assert all(map(is_missing, [None, np.nan, pd.NA, pd.NaT, '', ' \n', float('nan'), np.float32('nan')]))
    assert not any(map(is_missing, [*nothings, 0, False, [], [None], 'x', np.array([np.nan])]))

def test_the_order_of_classes(files):
    assert in_order(map(str, range(12))) == [*map(str, range(12))]
    assert in_order(['b', '10', '9']) == ['10', '9', 'b'] and in_order(['-1', '1', '0']) == ['-1', '0', '1'] and in_order(['01', '1']) == ['01', '1']
    task, _ = tasks([i % 12 for i in range(24)], files)
    assert task.vocab == [*task.sizes()] == [*map(str, range(12))]
    assert task.targets('train').max() == 11 and [task.vocab[i] for i in task.targets('train')] == task.part('train').label.to_list()

def test_an_order_of_numbers_is_another_task():
    "What was recorded when 10 stood before 2 is not read in another order"
    task = TextTask.from_df(texts([i % 12 for i in range(36)]))
    was = task.fingerprint
    task.answer.classes = sorted(task.vocab)
    assert task.fingerprint != was

def test_names_given_for_numbers():
    assert values([0, 2, -1, '1', 1.], classes='cat, dog, night') == ['cat', 'night', None, 'dog', 'dog']
    assert values(['cat', 'dog'], classes=['cat', 'dog', 'night']) == ['cat', 'dog'] and values([True, False], classes=['no', 'yes']) == ['yes', 'no']
    for column in ([3], ['bird'], [-2], [.5]):
        with pytest.raises(TransferError, match='is none of the 3 classes'): values(column, classes=['cat', 'dog', 'night'])


# letters

composed, decomposed = (unicodedata.normalize(o, 'Äpfel') for o in ('NFC', 'NFD'))

def test_letters_that_look_the_same_are_the_same(tmp_path):
    labels = [composed, decomposed, 'Birnen']*8
    task = TextTask.from_df(texts(labels))
    assert task.sizes() == {'Birnen': 8, composed: 16} and any('look the same are one class: Äpfel' in o for o in task.notes)
    assert TextTask.from_df(texts([decomposed, 'Birnen']*8)).vocab == ['Birnen', composed] and not TextTask.from_df(texts([decomposed, 'Birnen']*8)).notes
    assert TextTask.from_df(texts([f'{decomposed};x', 'x']*8), delim=';').vocab == ['x', composed]
    for part, name in ('train', decomposed), ('val', composed):
        for c in name, 'Birnen':
            for i in range(5):
                file = tmp_path/'f'/part/c/f'{i}.txt'
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f'{part} {c} {i}', encoding='utf-8')
    found = TextTask.from_folder(tmp_path/'f')
    assert found.vocab == ['Birnen', composed] and found.n('valid') == 10 and not found.skipped
    assert any('folders that look the same are one class' in o for o in found.notes)

def test_ligatures_and_other_letters_stay_apart():
    assert class_names(['ﬁsh', 'fish', '①', '1', 'ſ', 's']) == ['ﬁsh', 'fish', '①', '1', 'ſ', 's'] and tidy('ﬁsh') != 'fish'

def test_classes_that_differ_in_capitals_or_white_space_are_found():
    audit = {o['found']: o for o in TextTask.from_df(texts(['Cat', 'cat', 'New York', 'NewYork', 'ﬁsh', 'fish']*5)).audit()}
    found = audit['classes that differ in capitals or white space alone']
    assert found['count'] == 2 and 'Cat / cat' in found['examples'] and 'ﬁsh' not in found['examples']
    assert not any('capitals' in o['found'] for o in TextTask.from_df(texts(['cat', 'dog']*8)).audit())


# the audit says what it looked at

def test_an_audit_without_findings_says_what_was_looked_at(files):
    rng = np.random.default_rng(0)
    df = texts(['x', 'y']*260).assign(text=[' '.join(rng.choice(list('abcdefghijklm'), 30)) for _ in range(520)], who=[f'p{i//2}' for i in range(520)])
    audit = TextTask.from_df(df, group='who').audit()
    shown = repr(audit)
    for words in '520 items', '2 classes', 'train, valid, test', '520 different contents', 'copies', '260 groups': assert words in shown, words
    assert audit.as_dict()['checked'] == audit.checked
    assert 'no column of groups was named' in repr(TextTask.from_df(df).audit())

def test_a_leak_of_an_item_under_two_labels_is_still_a_leak(files):
    df = pd.DataFrame(dict(file=[files[0], *files], label=['y', *['x', 'y']*12], part=['test', *['train', 'train', 'test']*8]))
    found = [o['found'] for o in ImageTask.from_df(df, part='part').audit()]
    assert 'the same content in two parts of the split' in found and 'the same item in rows of different labels' in found


# tables of any kind

def test_anything_pandas_makes_a_table_of():
    labels = ['x', 'y']*8
    for df in texts(labels).to_dict('list'), texts(labels).to_dict('records'), texts(labels).set_index('text').reset_index(), texts(labels).to_records(index=False):
        assert TextTask.from_df(df).vocab == ['x', 'y']
    assert TextTask.from_df(texts(labels).assign(label=pd.Categorical(labels, ['y', 'x', 'z']))).vocab == ['x', 'y']

def test_a_task_without_labels():
    task = TextTask.from_df(texts(['x', 'y']*8), label=None)
    assert not task.labelled and set(task.df.label) == {'?'}

def test_numbers_to_predict_are_left_to_the_task():
    assert values(['3,5', None, 'x'], regression=True)[0] == '3,5' and as_number('3,5') == 3.5
    task = TextTask.from_df(texts([i/2 for i in range(20)] + ['cheap', None]), regression=True)
    assert [why for _, why in task.skipped] == ['no label', 'its label is no number: "cheap"']
