"Functions cut out of sources are the same programs as there; planted bugs are one change each, the same each time; odd files are named."
import ast, json, os, random, re, sys, tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tl_nbdev.base.settings import TransferError
from tl_nbdev.code.functions import (Function, bug_pairs, functions_in, functions_of, language_of, nameless, plant_bug, python_files, python_source, search_pairs,
                                           standard_functions)

parts = 'json', 'asyncio', 'email', 'logging', 'unittest'

@pytest.fixture(scope='module')
def found(): return {part: standard_functions(1, None, part) for part in parts}


# functions

def bare(node):
    node.decorator_list = []
    if ast.get_docstring(node, clean=False) is not None: node.body = node.body[1:]
    return ast.dump(node)

@pytest.mark.parametrize('part', parts)
def test_each_is_the_same_program_as_in_its_file(part, found):
    folder, trees = Path(json.__file__).parent.parent/part, {}
    for each in found[part]:
        if each.file not in trees:
            tree = ast.parse(python_source(folder/each.file))
            trees[each.file] = {node.lineno: node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        node = trees[each.file][each.line]
        assert node.name == each.name and (ast.get_docstring(node) or '') == each.doc
        (alone,) = ast.parse(each.code).body
        assert ast.dump(alone) == bare(node) and each.qualified.split('.')[-1] == each.name and not each.code.endswith('\n')
    assert len(found[part]) > 10 and found[part].files == len(python_files(folder, ('test', 'tests')))

def test_comments_and_the_way_of_writing_stay(found):
    sources = [each.code for part in parts for each in found[part]]
    assert sum('#' in code for code in sources) > .05*len(sources) and sum(ast.unparse(ast.parse(code)) != code for code in sources) > .3*len(sources)

def test_it_says_which_python(found):
    assert sys.version.split()[0] in repr(found['json']) and 'PSF' in found['json'].about

cases = {
    'def f(): "only"': [], 'def f(): ...': ['def f(): ...'], 'def f():\n    "doc"\n    # why\n    return 1': ['def f():\n    # why\n    return 1'],
    'def f(): "doc"; return 1': ['def f():\n    return 1'], '@a\n@b(1)\ndef f(): return 1': ['def f(): return 1'], 'f = lambda: 1': [], '': [], '# only': [],
    'class A:\n  class B:\n    async def f(self):\n      """d\n      e"""\n      return 1': ['async def f(self):\n  return 1'],
    'def f():\n\t"doc"\n\tif 1:\n\t\treturn 1': ['def f():\n\tif 1:\n\t\treturn 1'], 'try:\n    def f(): return 1\nexcept E:\n    def f(): return 2\nfinally:\n    def g(): return 3': ['def f(): return 1', 'def g(): return 3', 'def f(): return 2'],
    'def f():\n    """doc""" ; x = 1': ['def f():\n    x = 1'], 'def f():\n    f"not {1} doc"\n    return 1': ['def f():\n    f"not {1} doc"\n    return 1'],
    'def f():\n    b"no doc"\n    return 1': ['def f():\n    b"no doc"\n    return 1'], 'class A:\n    def f(self): return """\n    x"""': ['def f(self):\n    return \'\\n    x\''],
    'with a:\n    def f():\n        return 1': ['def f():\n    return 1'], 'def é(ü): return "😀"': ['def é(ü): return "😀"'], 'def f(\n  a, # the first\n): return a': ['def f(\n  a, # the first\n): return a'],
    'def f():\n    return 1\x0c\n\ndef g(): return 2': ['def f():\n    return 1', 'def g(): return 2']}

@pytest.mark.parametrize('text', cases, ids=range(len(cases)))
def test_cuts(text): assert [each.code for each in functions_of(text)] == cases[text]

def test_where_a_function_is_called_what():
    text = 'class A:\n  class B:\n    def f(self):\n      def g(): pass\n      return g\ndef h():\n  return 1'
    assert [(each.qualified, each.line) for each in functions_of(text)] == [('A.B.f', 3), ('h', 6)]

def test_a_summary_is_the_first_paragraph(): assert Function('f', '  One\n  two.\n\n  Three.', '', 'f', '', 1).summary == 'One two.' and Function('f', '', '', 'f', '', 1).summary == ''


# files

odd = {'broken.py': b'def f(:\n', 'binary.py': b'\x89PNG\r\n\0\0', 'utf16.py': 'def f(): return 1'.encode('utf-16'), 'latin.py': b'x = "\xe4"\n', 'lies.py': b'# coding: utf-9\nx = 1\n',
       'minified.py': b'a=1;'*3000, 'long.py': b'x = [' + b'1,'*9000 + b']\n', 'old.py': b'print "hello"\n', 'tabs.py': b'if 1:\n\tx = 1\n        y = 2\n', 'deep.py': b'x = ' + b'('*500 + b')'*500,
       'large.py': b'# comment\n'*300_000, 'both.py': b'\xef\xbb\xbf# coding: latin-1\nx = 1\n'}
good = {'good.py': b'def f(): return 1\n', 'mac.py': b'def f():\r    return 1\r', 'windows.py': b'\xef\xbb\xbfdef f():\r\n    return 1\r\n', 'latin_1.py': '# coding: latin-1\ndef f(): return "ä"\n'.encode('latin-1'),
        'empty.py': b'', 'space.py': b'\n\n', 'window.pyw': b'def f(): return 1', 'sub/é.py': b'def f(): return 1'}

def test_odd_files_are_named_and_the_others_are_read(tmp_path):
    for name, raw in {**odd, **good, 'site-packages/x.py': good['good.py'], 'node_modules/x.py': good['good.py'], 'skipped/x.py': good['good.py'], 'readme.txt': b'def f(): return 1'}.items():
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(raw)
    found = functions_in(tmp_path, skip=('skipped',))
    assert {row['file'] for row in found.left} == set(odd) and found.files == len(good)
    assert sorted(each.file for each in found) == sorted(name for name, raw in good.items() if b'def' in raw)
    for row in found.left: assert row['why'] and '\n' not in row['why'] and str(tmp_path) not in row['why'], row
    for each in found: assert each.code in ('def f(): return 1', 'def f():\n    return 1', 'def f(): return "ä"')

@pytest.mark.parametrize('name', odd)
def test_one_odd_file_is_one_line(name, tmp_path):
    (tmp_path/name).write_bytes(odd[name])
    with pytest.raises(TransferError, match=re.escape(name)) as e: functions_of(python_source(tmp_path/name), name)
    assert '\n' not in str(e.value)

def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    for file in (tmp_path/'no.py', tmp_path):
        with pytest.raises(TransferError, match='can\'t be read'): python_source(file)
    for folder in (tmp_path/'no', tmp_path/'no.py', ''):
        with pytest.raises(TransferError, match='no such folder'): functions_in(folder)

def test_a_link_to_nowhere_and_a_ring_of_links(tmp_path):
    (tmp_path/'a.py').write_text('def f(): return 1', encoding='utf-8')
    try: os.symlink(tmp_path/'no', tmp_path/'link.py'), os.symlink(tmp_path, tmp_path/'ring')
    except OSError: pytest.skip('no links here')
    found = functions_in(tmp_path)
    assert len(found) == 1 and [row['file'] for row in found.left] == ['link.py']

def test_lines_decide(tmp_path):
    (tmp_path/'a.py').write_text('\n'.join('def f%d():\n' % n + '    x = 1\n'*n for n in range(1, 9)), encoding='utf-8')
    assert [each.lines for each in functions_in(tmp_path, 3, 5)] == [3, 4, 5] and len(functions_in(tmp_path)) == 8


# pairs

def test_a_name_is_hidden_wherever_it_stands(found):
    for each in found['asyncio']:
        hidden = nameless(each)
        assert not re.search(rf'(?<!\w){re.escape(each.name)}(?!\w)', hidden) and len(ast.parse(hidden).body) == 1

@pytest.mark.parametrize('code, hidden', [('def go(): return go()', 'def f(): return f()'), ('def go(f): return go(f)', 'def func(f): return func(f)'), ('def go(): return "go gone"', 'def f(): return "f gone"'),
                                          ('def __init__(self): super().__init__()', 'def f(self): super().f()'), ('def a(a_b, _a): return a_b', 'def f(a_b, _a): return a_b'), ('def é(): return é', 'def f(): return f')])
def test_nameless(code, hidden): assert nameless(functions_of(code)[0]) == hidden

def test_pairs_are_there_once(found):
    every = [each for part in parts for each in found[part]]
    pairs = search_pairs(every + every)
    assert len({row['question'] for row in pairs}) == len({row['code'] for row in pairs}) == len(pairs) > 300
    assert all(len(row['question'].split()) >= 4 for row in pairs) and not any(row['question'] in row['code'] for row in pairs)
    assert pairs == search_pairs(every) and search_pairs([]) == []


# bugs

@pytest.mark.parametrize('seed', [0, 1])
def test_a_bug_is_one_change_and_the_same_each_time(seed, found):
    every = [each for part in parts for each in found[part]][::2]
    bugs = bug_pairs(every, seed)
    kinds = {row['kind'] for row in bugs}
    assert kinds == {'comparison', 'operator', 'and or or', 'not', 'off by one', 'exchanged arguments'}
    for row in bugs[::5]:
        clean, bug = (ast.parse(row[name]) for name in ('clean', 'bug'))
        assert ast.unparse(clean) == row['clean'] != row['bug'] and compile(bug, 'bug', 'exec')
        one, other = (sum(1 for _ in ast.walk(tree)) for tree in (clean, bug))
        assert one - other == (2 if row['kind'] == 'not' else 0), row
    random.Random(3).shuffle(every)
    again = {row['clean']: row['bug'] for row in bug_pairs(every, seed)}
    same = [again[row['clean']] == row['bug'] for row in bugs if row['clean'] in again]
    assert all(same) and len(same) > .99*len(bugs)

def test_another_seed_is_another_bug(found):
    one, other = ({row['clean']: row['bug'] for row in bug_pairs(found['email'], seed)} for seed in (0, 1))
    assert sum(one[clean] != other[clean] for clean in one.keys() & other.keys()) > .4*len(one)

@pytest.mark.parametrize('code, bug', [('def f(x): return x < 1 and', None), ('def f(a): return a', None), ('def f(a): return g(a, a)', None), ('def f(a): return g(*a, b)', None), ('def f(a): return g(a, b)', 'g(b, a)'),
                                       ('def f(a): return a + b', 'a - b'), ('def f(a): return a or b', 'a and b'), ('def f(a): return not a', 'return a'), ('def f(a): return a in b', 'a not in b'),
                                       ('def f(a): return True', None), ('def f(a): a += b', 'a -= b'), ('def f(a): return 3', 'return 4'), ('def f(a): return f"{a:3}"', None), ('def f(a): return "3"', None)])
def test_bugs(code, bug):
    if code.endswith('and'):
        with pytest.raises(TransferError, match='code: no Python'): plant_bug(code)
        return
    made = plant_bug(code)
    assert made is None if bug is None else bug in made[1] and made[1] != made[0]

names = st.sampled_from('abc')
expressions = st.recursive(names | st.integers(0, 9).map(str), lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from(['+', '-', '*', '<', '==', 'is not', 'and', 'or', 'in', '//', '%']), inner).map(lambda o: f'({" ".join(o)})'), inner.map('(not {})'.format),
    st.tuples(names, inner, inner).map(lambda o: f'{o[0]}({o[1]}, {o[2]})')), max_leaves=12)

@settings(max_examples=80, deadline=None, database=None, derandomize=True)
@given(expressions, st.integers(0, 5))
def test_whatever_a_function_returns_its_bug_is_another_program(expression, seed):
    made = plant_bug(f'def f(a, b, c): return {expression}', seed)
    if made is None: return
    assert made[0] != made[1] and len(ast.parse(made[1]).body) == 1 and made == plant_bug(made[0], seed)


# languages

@pytest.mark.parametrize('name, first, language', [('a.py', '', 'Python'), ('a.PY', '', 'Python'), ('a.b.js', '', 'JavaScript'), ('a.cs', '', 'C#'), ('run', '#!/usr/bin/env python3\n', 'Python'),
                                                   ('run', '#!/usr/bin/env -S A=1 bash', 'Shell'), ('run', '#! /bin/sh -e', 'Shell'), ('run', '#!/usr/bin/python3.12', 'Python'), ('run', 'no', None), ('', '', None),
                                                   ('.py', '', 'Python'), ('a.py', '#!/bin/sh', 'Python'), ('run', '#!', None), ('run', '#!/opt/zzz', None)])
def test_languages(name, first, language): assert language_of(name, first) == language

def test_a_first_line_is_read(tmp_path):
    for name, raw in {'tool': b'#!/usr/bin/env perl\n', 'binary': b'\x7fELF\0\xff\xfe'}.items(): (tmp_path/name).write_bytes(raw)
    assert language_of(tmp_path/'tool') == 'Perl' and language_of(tmp_path/'binary') is None and language_of(tmp_path) is None

def test_without_pygments(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pygments.lexers', None)
    assert language_of('a.py') == 'Python' and language_of('a.cobol') is None
