"Tables as people have them: separators, quotes, encodings, kinds of files, files by other names; read as they are meant, or refused in one line."
import csv, gzip, json, os, pickle, random, time, unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from conftest import photos, refused, tl
from hypothesis import given, settings as hypothesis_settings, strategies as st
from tl_nbdev.data.files import Finder, file_column, found_files
from tl_nbdev.vision.images import ImageTask, files_of_table
from tl_nbdev.data.parts import told_parts
from tl_nbdev.data.rows import rows_of
from tl_nbdev.base.settings import TransferError
from tl_nbdev.data.tables import decoded, file_bytes, from_table, read_table, what_is
from tl_nbdev.text.texts import TextTask

law = hypothesis_settings(deadline=None, derandomize=True, max_examples=200)
signs = st.text(st.one_of(st.sampled_from(',;\t| "\n\\\'a0'), st.characters(exclude_categories=['Cc', 'Cs'])), max_size=12)

@law
@given(st.lists(st.tuples(signs, st.sampled_from(['good', 'bad', '']), signs), min_size=1, max_size=6), st.sampled_from(',;\t|'),
       st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(['utf-8', 'utf-16']), st.permutations(['text', 'label', 'more']), st.integers(1, 3))
def test_what_pandas_writes_comes_back(rows, sep, quoting, encoding, names, n):
    df = pd.DataFrame(rows, columns=['text', 'label', 'more'])[names[:n]]
    with TemporaryDirectory() as d:
        df.to_csv(Path(d)/'t.csv', sep=sep, quoting=quoting, encoding=encoding, index=False)
        assert read_table(Path(d)/'t.csv').fillna('').to_dict('list') == df.to_dict('list')

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path

def written(name, data, encoding='utf-8'):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
    return name

def sentences(n=60):
    r = random.Random(0)
    words = 'the goal and a match with garlic in court about flour'.split()
    return [(f'Number {i}: ' + ' '.join(r.choices(words, k=8)), ('sport', 'cooking', 'law')[i % 3]) for i in range(n)]

def lines(rows, sep='\t', head=('text', 'label')): return ''.join(sep.join(o) + '\n' for o in [head, *rows])

def stray(rows, starts=(), ends=()):
    "Rows whose texts begin or end with a quote here and there"
    return [('"'*(i in starts) + text + '"'*(i in ends), label) for i, (text, label) in enumerate(rows)]


# quotes

@pytest.mark.parametrize('sep', '\t,;|')
@pytest.mark.parametrize('starts, ends', [((1,), ()), ((1, 58), ()), (range(3, 60, 10), ()), ((5,), (30,)), ((0, 20), (10, 59)), ((), (7,))])
def test_stray_quotes_swallow_no_row(sep, starts, ends):
    rows = stray(sentences(), starts, ends)
    for order in (1, -1):
        df = read_table(written('t.csv', lines([o[::order] for o in rows], sep, ('text', 'label')[::order])))
        assert list(zip(df.text, df.label)) == rows, df.attrs['notes']

@pytest.mark.parametrize('ends', [(6,), (7,)])
def test_a_pair_that_may_be_either_is_refused(ends):
    rows = stray(sentences(), (5,), ends)
    with pytest.raises(TransferError, match=f'begins on line 7 .* one row of {ends[0] - 4} lines.*quotes="none".*--quotes'):
        read_table(written('t.csv', lines(rows, ',')))
    assert len(read_table('t.csv', quotes='none')) == 60 and len(read_table('t.csv', quotes='doubled')) == 60 - (ends[0] - 5)
    assert len(read_table(written('t.tsv', lines(rows)))) == 60 # a tab and a label inside a text: never

@pytest.mark.parametrize('sep', '\t,;')
@pytest.mark.parametrize('letter', ['"Dear Sir,\nI said no.\nYours"', '"a list\n\nof three\nthings"'])
def test_a_stray_pair_beside_values_of_several_lines_is_refused(sep, letter):
    rows = stray(sentences(), (20,), (21,))
    rows[5], rows[40] = (letter, 'law'), (letter.replace('a list', 'another'), 'sport')
    with pytest.raises(TransferError, match='a quote that begins on line .* would make one row of 2 lines'):
        read_table(written('t.csv', lines(rows, sep)))
    rows[20:22] = sentences()[20:22]
    assert len(read_table(written('t.csv', lines(rows, sep)))) == 60

def test_a_quote_that_begins_among_quoted_values_is_refused_where_it_begins():
    rows = [(f'"{text}, and more"', label) for text, label in sentences()]
    rows[40] = ('"torn, here', rows[40][1])
    with pytest.raises(TransferError, match='t.csv: a quote that begins on line 42 '): read_table(written('t.csv', lines(rows, ',')))
    refused(tl('audit', 't.csv', '--text', 'text'), 'line 42')

several = {'a letter': 'Dear Sir,\nthis is it, friend\nyours, Ann', 'an address': '1 High St,\nLondon,\nUK', 'a poem': 'one\n\ntwo\n', 'said': 'he said "no",\nand "yes"',
           'a table': 'x,1\ny,2\nz,3', 'one line end': 'fine,\nthank you', 'Windows': 'one\r\ntwo'}

@pytest.mark.parametrize('name', several)
@pytest.mark.parametrize('n', [1, 20])
def test_values_of_several_lines_stay_whole(name, n):
    rows = [(several[name], 'ab'[i % 2]) for i in range(n)] + [('plain', 'a'), ('plain, too', 'b')]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        for sep in ',;\t':
            pd.DataFrame(rows, columns=['text', 'label']).to_csv('t.csv', sep=sep, quoting=quoting, index=False)
            assert list(read_table('t.csv').itertuples(index=False, name=None)) == rows

def test_backslashes_before_quotes():
    df = pd.DataFrame(dict(text=['he said "hi", ok', 'plain', 'a "b"', 'C:\\new'], label=list('abab')))
    df.to_csv('t.csv', index=False, escapechar='\\', doublequote=False)
    assert read_table('t.csv').to_dict('list') == df.to_dict('list')
    written('t.csv', '"text","label"\n"say \\"no\\" now","a"\n"C:\\temp","b"\n')
    assert read_table('t.csv').text.to_list() == ['say "no" now', 'C:\\temp'] and 'backslash' in read_table('t.csv').attrs['notes'][0]

def test_quotes_inside_quotes_that_are_not_doubled():
    df = read_table(written('t.csv', '"text","label"\n"he said "hi" there, twice","a"\n"two\nlines","b"\n'))
    assert df.text.to_list() == ['he said "hi" there, twice', 'two\nlines'] and 'some inside' in df.attrs['notes'][0]

def test_one_column():
    assert read_table(written('t.csv', 'text\n"Hello" he said\nyes, no\n')).text.to_list() == ['"Hello" he said', 'yes, no']
    assert read_table(written('t.csv', 'text\n"Hello,\nyou"\nno\n')).text.to_list() == ['Hello,\nyou', 'no']
    with pytest.raises(TransferError, match='line 3'): read_table(written('t.csv', 'text\n"Hello, ""you"""\n"torn\nno\n'))


# separators, rows

@pytest.mark.parametrize('name, text', [
    ('t.tsv', 'text, as sent, with more, commas\tlabel\nfine\ta\nso, so\tb\n'), ('t.csv', 'sep=;\ntext, as sent, with more, commas;label\nfine;a\nso, so;b\n'),
    ('t.txt', 'text, as sent, with more, commas|label\nfine|a\nso, so|b\n'), ('t.csv', 'text, as sent, with more, commas\tlabel\r\nfine\ta\r\nso, so\tb\r\n')])
def test_more_commas_than_separators(name, text): assert read_table(written(name, text)).to_numpy().tolist() == [['fine', 'a'], ['so, so', 'b']]

def test_separators_that_are_told():
    for sep, sign in dict(tab='\t', semicolon=';', blank=' ', **{'\\t': '\t', ':': ':'}).items():
        assert read_table(written('t.csv', f'a{sign}b\n1{sign}2\n'), sep).to_dict('list') == dict(a=['1'], b=['2'])
    with pytest.raises(TransferError, match='one sign'): read_table('t.csv', '::')
    with pytest.raises(TransferError, match='quotes="single": use one of doubled'): read_table('t.csv', quotes='single')

def test_rows_that_are_uneven():
    with pytest.raises(TransferError, match='line 3 has 3 values, and the first row 2'): read_table(written('t.csv', 'a,b\n1,2\n1,2,3\n'))
    short = read_table(written('t.csv', 'a,b,c\n1,2,3\n1,2\n1\n'))
    assert short.fillna('').to_numpy().tolist() == [['1', '2', '3'], ['1', '2', ''], ['1', '', '']] and '2 rows have fewer values than the first, such as line 3' in short.attrs['notes'][1]
    assert read_table(written('t.csv', 'a,b\n1,2,\n3,4,\n')).to_dict('list') == dict(a=['1', '3'], b=['2', '4'])
    assert read_table(written('t.csv', '"text","label"\n"1","fine","a"\n"2","bad","b"\n')).label.to_list() == ['a', 'b'] # as R writes them
    with pytest.raises(TransferError, match='line 2 has 3 values'): read_table(written('t.csv', 'text,label\nWell, ok,a\nNow, no,b\n'))

def test_odd_files():
    for empty in ('', '\n\n', '  \n ', 'text,label\n'):
        with pytest.raises(TransferError, match='t.csv: no rows in it'): read_table(written('t.csv', empty))
    nul = read_table(written('t.csv', b'text,label\nab\0c,x\nfine,y\n'))
    assert nul.text[0] == 'abc' and '1 NUL sign' in nul.attrs['notes'][1] and 'line 2' in nul.attrs['notes'][1]
    assert len(read_table(written('t.csv', 'text,label\n' + 'x'*5_000_000 + ',a\nfine,b\n')).text[0]) == 5_000_000
    with pytest.raises(TransferError, match='2 columns are named "label"'): TextTask.from_csv(written('t.csv', lines(sentences(), ',', ('label', 'label'))))
    assert len(TextTask.from_csv(written('t.csv', lines([(*o, 'x', 'y') for o in sentences()], ',', ('text', 'label', 'more', 'more')))).df) == 60
    assert read_table(written('t.csv', 'text,label\rfine,a\rbad,b\r')).label.to_list() == ['a', 'b']
    assert read_table(written('t.tsv', 'text\tlabel\nfine\rreally\ta\nbad\tb\n')).text[0] == 'fine\rreally'
    Path('folder').mkdir()
    with pytest.raises(TransferError, match='a folder, not a file'): read_table('folder')

@pytest.mark.parametrize('text', [lines(sentences(100_000), ','), lines(stray(sentences(100_000), range(0, 100_000, 97), range(50, 100_000, 97))),
                                  pd.DataFrame([(f'{t},\n"{t}"', l) for t, l in sentences(50_000)], columns=['text', 'label']).to_csv(index=False)], ids=['plain', 'stray', 'several lines'])
def test_ten_megabytes_take_seconds(text):
    written('t.csv', text)
    start = time.process_time()
    assert len(read_table('t.csv')) >= 50_000 and time.process_time() - start < 90 # two, but for hours where each row looks at all


# encodings

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('words', ['text label good', 'текст метка добро', 'نص تصنيف جيد', '文本 标签 好', 'κείμενο ετικέτα καλό', 'ข้อความ ป้าย ดี'])
def test_unicode_with_and_without_a_mark(words, encoding):
    head, label, value = words.split()
    df = read_table(written('t.csv', f'{head},{label}\n' + f'{value},{value}\n'*20, encoding))
    assert list(df.columns) == [head, label] and set(df[label]) == {value} and len(df) == 20

def test_an_encoding_that_is_told():
    written('t.csv', 'текст,метка\nда,нет\n', 'cp1251')
    assert 'encoding=' in read_table('t.csv').attrs['notes'][1]
    assert list(read_table('t.csv', encoding='cp1251').columns) == ['текст', 'метка']
    for encoding, words in dict(klingon='use one that Python knows', hex='use one that Python knows', ascii='it is not ascii, as line 1 shows').items():
        with pytest.raises(TransferError, match=f't.csv: .*{words}'): read_table('t.csv', encoding=encoding)
    assert decoded('xa\0c,b'.encode()) == ('xa\0c,b', '')

def test_one_stray_byte_spoils_one_line():
    rows = ['text,label', *(f'كلمة رقم {i},{"سعيد" if i % 2 else "حزين"}' for i in range(60))]
    written('a.csv', '\n'.join(rows).encode() + b'\ncaf\xe9,' + 'سعيد'.encode() + b'\n\xed\xa0\xbd,' + 'حزين'.encode() + b'\n')
    task = TextTask.from_csv('a.csv', 'text')
    assert task.vocab == ['حزين', 'سعيد'] and len(task.df) == 62 and any('UTF-8, but for 2 lines, the first line 62' in o for o in task.notes)
    windows = read_table(written('b.csv', 'text,label\ncafé,très\nthé,bon\n'*9, 'cp1252'))
    assert windows.text[0] == 'café' and any('Windows-1252' in o for o in windows.attrs['notes'])


# kinds of files

table = pd.DataFrame(dict(text=['fine, this', 'a "b"', 'two\nlines', 'Grüße'], label=['good', 'None', 'bad', 'good']))

def test_kinds_of_files():
    table.to_csv('a.csv.gz', index=False)
    table.to_csv('a.tsv', sep='\t', index=False)
    table.to_json('a.jsonl', orient='records', lines=True)
    table.to_json('b.jsonl.gz', orient='records', lines=True)
    table.to_parquet('a.parquet')
    table.astype('category').set_index('label').to_parquet('b.pq')
    written('c.parquet.gz', gzip.compress(Path('a.parquet').read_bytes()))
    for orient in ('records', 'columns', 'split', 'table', 'index'): table.to_json(f'{orient}.json', orient=orient)
    json.dump(dict(version=1, data=table.to_dict('records')), open('under.json', 'w'))
    json.dump(dict(version=1, data=table.to_dict('list')), open('under2.json', 'w'))
    json.dump(table.to_dict('list'), open('list.json', 'w'))
    json.dump([list(table), *table.to_numpy().tolist()], open('rows.json', 'w'))
    names = sorted(o.name for o in Path().iterdir())
    assert len(names) == 16
    for name in names:
        df = read_table(name, columns=['text', 'label'])
        assert df[['text', 'label']].to_dict('list') == table.to_dict('list'), name
        assert df.attrs['notes'][0].startswith(f'{name}: read as '), df.attrs['notes']

def test_types_are_kept_where_a_file_has_them():
    df = pd.DataFrame(dict(text=[f'number {i}' for i in range(30)], label=[['x'], ['x', 'y'], []]*10))
    df.to_parquet('t.parquet')
    df.to_json('t.jsonl', orient='records', lines=True)
    for o in ('t.parquet', 't.jsonl'): assert TextTask.from_csv(o).answer.several and TextTask.from_csv(o).vocab == ['x', 'y']
    df.assign(label=[1., 2., None]*10).to_json('t.jsonl', orient='records', lines=True)
    assert TextTask.from_csv('t.jsonl').sizes() == {'1': 10, '2': 10}

refusals = {
    'a pickle by name':     ('t.pkl', b'(dp0\n.', 'a pickle, which could run any code and is never opened'),
    'a pickle by content':  ('t.csv', pickle.dumps(dict(text=['a'])), 'a pickle'),
    'weights':              ('t.csv', (300).to_bytes(8, 'little') + b'{"a":{"dtype":"F32"}}', 'weights in safetensors'),
    'an image':             ('t.csv', b'\x89PNG\r\n\x1a\n' + bytes(99), 'a PNG image'),
    'an archive':           ('t.zip', b'PK\3\4' + bytes(99), 'a zip archive'),
    'bytes':                ('t.csv', bytes(range(256))*9, 'binary data'),
    'packed twice':         ('t.csv.gz', gzip.compress(gzip.compress(b'a,b\n1,2\n')), 'packed by gzip twice'),
    'a bomb':               ('t.csv.gz', gzip.compress(bytes(10**8)), 'unpack it first'),
    'torn gzip':            ('t.csv.gz', gzip.compress(os.urandom(999))[:-20], 'copy it again'),
    'torn Parquet':         ('t.parquet', b'PAR1' + bytes(99), 'Parquet that could not be read'),
    'torn JSON lines':      ('t.jsonl', b'{"text": "a"}\n{"text":\n', 'line 2 is no JSON'),
    'no records':           ('t.jsonl', b'{"text": "a"}\n[1]\n', 'line 2 is no record'),
    'several tables':       ('t.json', b'{"train": [{"a": 1}], "test": [{"a": 2}]}', 'tables called train, test'),
    'no table':             ('t.json', b'"text"', 'JSON, but no table'),
    'columns of two sizes': ('t.json', b'{"a": [1, 2], "b": [1]}', 'JSON, but no table'),
    'deep JSON':            ('t.json', b'['*10**6, 'no JSON')}

@pytest.mark.parametrize('case', refusals)
def test_what_is_no_table_is_one_line(case):
    name, data, words = refusals[case]
    written(name, data)
    with pytest.raises(TransferError, match=f'{name}: .*{words}'): read_table(name)
    refused(tl('train', name, '--text', 'text'), words)

def test_a_text_may_begin_like_another_file():
    for start in ('ORC', 'RIFF', 'ID3', 'GIF8', 'BZh', 'PAR1'): assert what_is(f'{start},b\n1,2\n'.encode()) == '', start

def test_excel():
    try: import openpyxl # noqa
    except ImportError:
        with pytest.raises(TransferError, match=r'tl_nbdev\[excel\]'): read_table(written('t.xlsx', b'PK\3\4xl/workbook' + bytes(99)))
        return
    with pd.ExcelWriter('t.xlsx') as book:
        pd.DataFrame().to_excel(book, sheet_name='empty')
        table.assign(n=[1, 2, None, 4]).to_excel(book, sheet_name='data', index=False)
    df = read_table('t.xlsx')
    assert df[['text', 'label']].to_dict('list') == table.to_dict('list') and 'sheet "data"' in df.attrs['notes'][0]
    with pytest.raises(TransferError, match='Excel that could not be read'): read_table(written('u.xlsx', Path('t.xlsx').read_bytes()[:900]))


# names

def test_no_names_in_the_first_row():
    rows = [(label, text) for text, label in sentences()]
    written('t.tsv', lines(rows[1:], head=rows[0]))
    for columns in ((), (1, 0), ('1', '0')):
        task = TextTask.from_csv('t.tsv', *columns)
        assert len(task.df) == 60 and task.sizes() == dict(cooking=20, law=20, sport=20) and 'no names in the first row' in task.notes[0]
    written('n.csv', lines([(text, f'{i}.5') for i, (text, _) in enumerate(sentences())], ',', ('text zero', '-1.5')))
    assert len(TextTask.from_csv('n.csv', regression=True).df) == 61
    assert len(TextTask.from_csv(written('h.csv', lines(sentences(), ',')), 0, 1).df) == 60
    assert len(TextTask.from_csv('h.csv', 0, 1, header=False, valid=0).df) == 61
    with pytest.raises(TransferError, match=r'no column "label": its columns are 0, 1, 2 \(numbers'): TextTask.from_csv(written('w.csv', lines([(*o, 'x') for o in sentences()], ',', ('hello', 'law', 'x'))))
    assert tl('audit', 't.tsv', '--text', '1', '--label', '0').status == 0
    assert tl('audit', 'h.csv', '--text', 'text', '--no-header').status == 1

def test_what_was_guessed_is_said():
    rows = [(f'{i}', text, label, ('train', 'val', 'test')[i % 3]) for i, (text, label) in enumerate(sentences())]
    task = TextTask.from_csv(written('t.csv', lines(rows, ';', ('id', 'review', 'label', 'split'))))
    assert task.notes[0] == 't.csv: read as values between semicolons; UTF-8; 60 rows of id, review, label, split'
    assert task.notes[1] == 'texts are taken from column "review", the longest'
    assert 'column "split" (train 20, val 20, test 20) looks like a split and is not used: part="split" (--part split in a shell)' in task.notes[2]
    got = tl('audit', 't.csv', '--text', 'review', '--json', 'a.json')
    assert got.out.count('read as values between semicolons') == 1 and got.json['notes'][0] == task.notes[0]


# the split

def test_parts_that_are_told():
    assert told_parts([True, False], 'is_valid')[0] == ['valid', 'train'] and told_parts(['1', '0.0'], 'is_test')[0] == ['test', 'train']
    assert told_parts(['True', 'False'], 'is_train')[0] == ['train', 'test'] and told_parts(['0', '1', '2'], 'split') is None
    assert told_parts([0., 1., 2.], 'kfold')[0] == ['train', 'valid', 'test'] and told_parts(['train', 'test'], 'fold') is None
    rows = [(text, label, str(i//12), str(i % 4 == 1)) for i, (text, label) in enumerate(sentences())]
    written('t.csv', lines(rows, ',', ('text', 'label', 'fold', 'is_valid')))
    folds = TextTask.from_csv('t.csv', part='fold')
    assert [folds.n(o) for o in ('train', 'valid', 'test')] == [36, 12, 12] and any('fold 4 is test, fold 3 valid, 0, 1, 2 train' in o for o in folds.notes)
    assert TextTask.from_csv('t.csv', part='is_valid').n('valid') == 15
    got = tl('audit', 't.csv', '--text', 'text', '--part', 'fold', '--json', 'a.json')
    assert (got.json['n_train'], got.json['n_test']) == (36, 12)
    judged = TextTask.from_csv('t.csv', part='fold', learn=False)
    assert len(judged.df) == 12 and any('12 of 60 rows are test' in o for o in judged.notes)


# files of images

@pytest.fixture
def data(here):
    photos(Path('data/imgs'), 6)
    return sorted(Path('data/imgs').rglob('*.png'))

def listed(files, line, head='file,label', name='data/t.csv'):
    return written(name, ''.join(f'{o}\n' for o in [*([head] if head else []), *map(line, files)]))

ways = {
    'ids':                   lambda f: f'{f.stem},{f.parent.name}',
    'names alone':           lambda f: f'{f.name},{f.parent.name}',
    'from here':             lambda f: f'data/imgs/{f.parent.name}/{f.name},{f.parent.name}',
    'a blank behind':        lambda f: f'"imgs/{f.parent.name}/{f.name} ",{f.parent.name}',
    'from the root':         lambda f: f'/imgs/{f.parent.name}/{f.name},{f.parent.name}',
    'Windows':               lambda f: f'imgs\\{f.parent.name}\\{f.name},{f.parent.name}',
    'somebody else\'s disk': lambda f: f'D:\\data\\imgs\\{f.parent.name}\\{f.name},{f.parent.name}',
    'another machine':       lambda f: f'/home/ann/{f.parent.name}/{f.name},{f.parent.name}',
    'capitals':              lambda f: f'IMGS/{f.parent.name}/{f.stem.upper()}.PNG,{f.parent.name}',
    'as it is':              lambda f: f'./imgs/{f.parent.name}/{f.name},{f.parent.name}'}

@pytest.mark.parametrize('way', ways)
def test_files_by_another_name(data, way):
    listed(data, ways[way], 'photo,label')
    for task in (ImageTask.from_csv('data/t.csv'), ImageTask.from_csv('data/t.csv', 'photo', root='data'), ImageTask.from_csv(Path('data/t.csv').absolute(), 0)):
        assert task.sizes() == dict(round=6, square=6) and task.skipped == [] and {o.resolve() for o in task.df.item} == {o.resolve() for o in data}
    df = read_table('data/t.csv')
    assert len(ImageTask.from_df(df, 'photo', root='data').df) == 12
    assert tl('audit', 'data/t.csv', '--root', 'data/imgs').status == 0
    paths, _ = files_of_table('data/t.csv')
    assert [o.resolve() for o in paths] == [o.resolve() for o in data]

def test_accents_stored_in_two_ways(data):
    for f in data: f.rename(f.with_name(unicodedata.normalize('NFD', f'Ä{f.name}')))
    found = sorted(Path('data/imgs').rglob('*.png'))
    task = ImageTask.from_csv(listed(found, lambda f: f'imgs/{f.parent.name}/{unicodedata.normalize("NFC", f.name)},{f.parent.name}'))
    assert len(task.df) == 12 and task.skipped == []

def test_two_files_of_one_name(data):
    other = Path('data/more/round/round0.png')
    other.parent.mkdir(parents=True)
    other.write_bytes(data[0].read_bytes())
    listed(data, ways['ids'])
    assert len(ImageTask.from_csv('data/t.csv').df) == 12 # a copy
    other.write_bytes(data[1].read_bytes())
    task = ImageTask.from_csv('data/t.csv')
    assert len(task.df) == 11 and any('1 of 12 files are not there, the first "round0": 2 files are called that' in o and 'root=' in o for o in task.notes)
    assert len(ImageTask.from_csv('data/t.csv', root='data/imgs').df) == 12

def test_files_that_are_not_there(data):
    listed(data, lambda f: f'gone{f.name},{f.parent.name}')
    words = 'none of its 12 files is there, the first "goneround0.png": no such file in data', '--root in a shell'
    refused(tl('train', 'data/t.csv'), *words)
    refused(tl('train', 'data/t.csv', '--root', 'nowhere'), 'root=nowhere: no such folder')
    listed(data, lambda f: f'{"gone" if f.stem[-1] in "03" else ""}{f.name},{f.parent.name}')
    task = ImageTask.from_csv('data/t.csv')
    assert len(task.df) == 8 and {why for _, why in task.skipped} == {'no such file'} and any('4 of 12 files are not there, the first "goneround0.png"' in o for o in task.notes)

def test_the_column_of_files(data):
    listed(data, lambda f: f'https://x.org/{f.name},{f.stem[-1]},imgs/{f.parent.name}/{f.name},{f.parent.name}', 'url,n,where,label')
    assert 'files are taken from column "where"' in ImageTask.from_csv('data/t.csv').notes
    listed(data, lambda f: f'https://x.org/{f.name},{f.parent.name}', 'url,label')
    with pytest.raises(TransferError, match='"url" holds addresses'): ImageTask.from_csv('data/t.csv')
    listed(data, lambda f: f'imgs/{f.parent.name}/{f.name},imgs/{f.parent.name}/{f.name},{f.parent.name}', 'mask,image,label')
    assert 'files are taken from column "image", not from "mask"' in ImageTask.from_csv('data/t.csv').notes
    find = Finder(['data'], ('.png',))
    assert file_column(pd.DataFrame(dict(stars=['0', '1']*9, text=['round0']*18)), find) == (None, '') # words and numbers are no ids

def test_files_without_names_of_columns(data):
    for lines, columns in ((lambda f: f'imgs/{f.parent.name}/{f.name},{f.parent.name}', {}), (lambda f: f'imgs/{f.parent.name}/{f.name},{f.parent.name},7', dict(label=1)),
                           (lambda f: f'{f.stem},{f.parent.name}', {})):
        task = ImageTask.from_csv(listed(data, lines, None), **columns)
        assert len(task.df) == 12 and 'no names in the first row' in task.notes[0]
    task = ImageTask.from_csv(listed(data, lambda f: f'imgs/{f.parent.name}/{f.name} {int(f.parent.name == "round")}', None, 'data/list.txt'))
    assert task.sizes() == {'0': 6, '1': 6} and len(task.df) == 12

def test_is_valid_and_folds_of_images(data):
    listed(data, lambda f: f'{f.name},{f.parent.name},{f.stem[-1] in "05"},{f.stem[-1]}', 'file,label,is_valid,fold')
    assert ImageTask.from_csv('data/t.csv', part='is_valid').n('valid') == 4
    assert [ImageTask.from_csv('data/t.csv', part='fold').n(o) for o in ('train', 'valid', 'test')] == [8, 2, 2]

def test_many_files_are_found_in_seconds(here):
    for i in range(3000):
        f = Path(f'many/images_{i % 7}/{i:05}.png')
        f.parent.mkdir(parents=True, exist_ok=True)
        f.touch()
    start = time.process_time()
    paths, _ = found_files([f'{i:05}' for i in range(3000)]*10, Finder(['many'], ('.png',)))
    assert len(set(paths)) == 3000 and time.process_time() - start < 60


# commands and prediction

def test_a_finding_of_nothing_says_what_was_looked_at():
    rows = [(f'{text} {i} {os.urandom(40).hex(" ")}', label) for i, (text, label) in enumerate(sentences(600))]
    written('t.csv', lines([(t, l) for t, l in rows], ','))
    got = tl('audit', 't.csv', '--text', 'text', '--json', 'a.json')
    if 'nothing to worry about' in got.out: assert '600 items were looked through for' in got.out and 'copies' in got.out
    assert 'read as values between commas; UTF-8; 600 rows of text, label' in got.out and got.json['looked_for']

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A model of texts, and one of images, hardly trained"
    from tl_nbdev.training.learner import transfer_learner
    root = tmp_path_factory.mktemp('models')
    df = pd.DataFrame(sentences(), columns=['text', 'label'])
    learn = transfer_learner(TextTask.from_df(df), 'bert-tiny', seed=0, size=32)
    learn.save_transfer(root/'texts', check=False)
    photos(root/'photos')
    images = transfer_learner(ImageTask.from_folder(root/'photos'), 'squeezenet1_1', seed=0, size=64)
    images.save_transfer(root/'images', check=False)
    return root, learn, images

def test_tables_are_predicted_row_by_row(model):
    root, df = model[0], pd.DataFrame(sentences(6), columns=['body', 'label'])
    df.to_json('six.jsonl', orient='records', lines=True)
    df.to_parquet('six.parquet')
    df.to_csv('six.tsv.gz', sep='\t', index=False)
    df.to_csv('six.txt', sep='\t', index=False)
    for name in ('six.jsonl', 'six.parquet', 'six.tsv.gz', 'six.txt'):
        got = tl('predict', root/'texts', name, '--text', 'body', '--json', 'p.json')
        assert got.status == 0 and got.out.count('\n') == len(got.json) == 6 and f'{name}: read as' in got.err, name
        first = 1 if name.endswith(('.jsonl', '.parquet')) else 2
        assert [o['file'] for o in got.json] == [f'{name}:{i + first}' for i in range(6)]
    refused(tl('predict', root/'texts', 'six.parquet'), '--text', 'body, label')
    refused(tl('predict', root/'texts', 'six.jsonl', '--text', 'text'), 'no column "text"')
    assert len(tl('predict', root/'texts', written('a.md', 'one text\n\nof two paragraphs'), '--json', 'p.json').json) == 1

def test_what_is_no_text_is_not_predicted(model):
    root = model[0]
    weights = next((root/'texts').rglob('*.safetensors'))
    for argv in ([], ['--text', 'text']): refused(tl('predict', root/'texts', weights, *argv), 'weights in safetensors, no text')
    written('letter', 'the goal')
    written('x.zip', b'PK\3\4' + bytes(99))
    got = tl('predict', root/'texts', weights, 'letter', 'x.zip', 'gone.txt', next((root/'photos').rglob('*.png')), '--json', 'p.json')
    assert got.status == 0 and [o.get('error', 'fine') for o in got.json] == ['weights in safetensors, no text', 'fine', 'a zip archive, no text', 'no such file', 'a PNG image, no text']

def test_a_table_of_images_is_predicted(model):
    root = model[0]
    files = sorted((root/'photos').rglob('*.png'))
    written('t.csv', ''.join(f'{o}\n' for o in ['n,id', *(f'{i},{f.stem}' for i, f in enumerate(files))]))
    for argv in (['--root', root], ['--root', root/'photos', '--file', 'id']):
        got = tl('predict', root/'images', 't.csv', *argv, '--json', 'p.json')
        assert got.status == 0 and [Path(o['file']) for o in got.json] == files and all('label' in o for o in got.json)
    refused(tl('predict', root/'images', 't.csv', '--file', 'id'), 'none of its 12 files is there', '--root')

def test_predictors_are_asked_about_tables(model):
    from datasets import Dataset, DatasetDict
    from tl_nbdev.training.saved import load_transfer
    texts, df = load_transfer(model[0]/'texts'), pd.DataFrame(sentences(5), columns=['text', 'label'])
    ds = Dataset.from_pandas(df)
    for items in (df, df[['text']], df.to_dict('records'), df.to_dict('list'), ds, ds.to_iterable_dataset(), df.text, df.rename(columns=dict(text='review')), ds[:5]):
        assert [o['text'] for o in texts.predict(items)] == df.text.to_list(), type(items)
    for item in ({'text': 'the goal'}, [{'text': 'the goal'}], pd.Series(dict(text='the goal', label='x')), 'the goal', ['the goal']):
        assert [o['text'] for o in texts.predict(item)] == ['the goal']
    assert texts.predict(df.rename(columns=dict(text='a', label='b')), text='a')[0]['text'] == df.text[0]
    two = df.assign(title=df.text).rename(columns=dict(text='body'))
    for items, kwargs, words in ((two, {}, 'say which holds'), (df, dict(text='body'), 'no column "body"'), (df, dict(file='text'), 'model of texts'), (DatasetDict(train=ds), {}, 'ds\\["train"\\]'),
                                 ('the goal', dict(text='text'), 'no table'), (['a', {'text': 'b'}], {}, 'item 1 is a dict'), (df[['label']].assign(label=1), {}, 'say which holds')):
        with pytest.raises(TransferError, match=words): texts.predict(items, **kwargs)
    images, files = load_transfer(model[0]/'images'), sorted((model[0]/'photos').rglob('*.png'))
    for items in (pd.DataFrame(dict(file=map(str, files), label='x')), [dict(photo=str(o)) for o in files], Dataset.from_dict(dict(file=list(map(str, files))))):
        assert [Path(o['file']) for o in images.predict(items)] == files
    with pytest.raises(TransferError, match='model of images'): images.predict(df, text='text')

def test_learners_answer_about_tables_as_saved_models_do(model):
    df = pd.DataFrame(sentences(3), columns=['text', 'label'])
    for learn in model[1:]:
        for items in (df, df.text, df.to_dict('records'), df.to_dict('list'), df.text.to_list()) if learn is model[1] else ():
            assert [row['label'] for row in learn.predictor().predict(items)] == [learn.predict(text)[0] for text in df.text]
            with pytest.raises(TransferError, match='one item'): learn.predict(items)
    assert model[1].predict('the goal')[0] in ('cooking', 'law', 'sport')

@pytest.mark.parametrize('text, argv, n, words', [
    ('\n'.join(t for t, _ in sentences()), [], 60, 'each line a document, as no empty line stands between any'),
    ('\r\n'.join(t for t, _ in sentences()), [], 60, 'each line a document'),
    ('\n\n'.join(f'{t}\nand more' for t, _ in sentences()), [], 60, 'documents between empty lines'),
    ('\n\n'.join(f'{t}\nand more' for t, _ in sentences()), ['--line-by-line'], 61, 'each line a document')])
def test_documents_of_a_plain_text(text, argv, n, words):
    from tl_nbdev.apps.cli import _lines
    written('t.txt', text)
    from contextlib import redirect_stdout
    from io import StringIO
    with redirect_stdout(StringIO()) as out: found = _lines('t.txt', None, bool(argv))
    assert len(set(found)) == n and words in out.getvalue()

def test_texts_for_pretraining():
    from tl_nbdev.apps.cli import _lines
    pd.DataFrame(sentences(), columns=['text', 'label']).to_json('t.jsonl', orient='records', lines=True)
    written('t.txt.gz', gzip.compress('\n'.join(t for t, _ in sentences()).encode()))
    assert _lines('t.jsonl', 'text') == _lines('t.txt.gz', None) == [t for t, _ in sentences()]
    refused(tl('adapt', '--texts', written('m.bin', (300).to_bytes(8, 'little') + b'{"a": 1}')), 'weights in safetensors, no text')
    refused(tl('adapt', '--texts', 't.jsonl'), '--text')

def test_linked_folders_of_texts_are_predicted_too(model):
    root = model[0]
    Path('elsewhere').mkdir()
    written('elsewhere/a.txt', 'the goal')
    Path('asked').mkdir()
    Path('asked/more').symlink_to('../elsewhere')
    got = tl('predict', root/'texts', 'asked', '--json', 'p.json')
    assert got.status == 0 and [Path(row['file']).name for row in got.json] == ['a.txt']
