"What a page of the API says of a name: shapes of definitions that a page of today may not have."
import subprocess, sys
from pathlib import Path

import pytest
from fastcore.nbio import mk_cell, new_nb, read_nb, write_nb
root = Path(__file__).resolve().parent.parent

defined = '''#| export
def above(
    # the first,
    # on two lines
    first,
    *rest, # all others | and a pipe
    key:int=3, # a <tag>, a * and a _line_
    **kwargs # for somebody else
): # nothing
    "What it does"

def below(
    one, # goes on
        # in the next line
    low, high, # ends of an interval
) -> list: # both
    "Another"

def plain(a, b=1): return a

def _hidden(): pass'''

classes = '''#| export
@dataclass
class Point:
    "A place"
    x:float # to the right
    y:float = 0. # up
    tags:list = field(default_factory=list)
    _own:int = 0
    @property
    def length(self) -> float: # from zero
        "How far"
        return 1.
    @cached_property
    def slow(self): return 2
    @classmethod
    def of(cls,
        text:str # such as `1,2`
    ): "Read"
    @staticmethod
    def zero(): return 0
    def _inner(self): pass

class Keys(TypedDict):
    name: str
    size: int # in bytes

class Fault(Exception): "What went wrong"

class Made:
    def __init__(self,
        start, # of it
        /, *, end=2 # of it, too
    ): "Made by hand"
    async def wait(self): return 3'''

patched = '''#| export
@patch
def moved(self:Point,
    by # so much
) -> Point: # a new one
    "Elsewhere"

@patch(as_prop=True)
def half(self:Point): return .5'''

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "Name → what the page says, in its order; and the other cells"
    d = tmp_path_factory.mktemp('page')
    cells = [('markdown', '# page\n\n> of names'), ('code', '#| default_exp page'),
             ('code', 'from dataclasses import dataclass, field\nfrom functools import cached_property\nfrom typing import TypedDict\nfrom fastcore.basics import patch'),
             ('code', defined), ('markdown', 'See [`above`](other.ipynb) and `plainly`.'), ('code', classes), ('code', patched),
             ('code', 'import math\nmath.nowhere'), ('code', 'raise SystemExit')]
    nb = new_nb([mk_cell(s, t, id=f'{i:08}') for i, (t, s) in enumerate(cells)])
    nb.cells[7].outputs = [dict(output_type='stream', name='stdout', text='as it was stored')]
    write_nb(nb, d/'page.ipynb')
    run = ("import sys; sys.path.insert(0, 'tools'); import apidocs; apidocs.install(); from pathlib import Path; from nbdev.processors import FilterDefaults; "
           "from nbdev.serve_drv import exec_nb; exec_nb(*map(Path, sys.argv[1:]), FilterDefaults)")
    got = subprocess.run([sys.executable, '-c', run, str(d/'page.ipynb'), str(d/'out.ipynb')], cwd=root, capture_output=True, text=True)
    assert not got.returncode, got.stderr
    said = [''.join(o.data['text/markdown']) for c in read_nb(d/'out.ipynb').cells for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    return {o.split('\n\n')[1].lstrip('#').strip(): o for o in said}, read_nb(d/'out.ipynb')

def test_names_stand_in_their_order(page):
    assert [*page[0]] == ['above', 'below', 'plain', 'Point', 'Point.length', 'Point.slow', 'Point.of', 'Point.zero', 'Keys', 'Fault', 'Made', 'Made.wait', 'Point.moved', 'Point.half']
    assert page[0]['Point'].startswith('---\n\n### Point') and page[0]['Point.of'].startswith('---\n\n#### Point.of')

def test_comments_stand_beside_their_arguments(page):
    above, below = page[0]['above'], page[0]['below']
    for row in ('<code>first</code> | the first, on two lines', '<code>rest</code> | all others \\| and a pipe', '<code>key</code> | a \\<tag>, a \\* and a \\_line\\_',
                '<code>kwargs</code> | for somebody else', '*returns* | nothing'): assert f'| {row} |' in above, above
    for row in ('<code>one</code> | goes on in the next line', '<code>low</code>, <code>high</code> | ends of an interval', '*returns* | both'): assert f'| {row} |' in below, below
    assert 'def above(first, *rest, key:int=3, **kwargs)' in above and 'def below(one, low, high) -> list' in below
    assert '|' not in page[0]['plain'] and 'def plain(a, b=1)' in page[0]['plain']

def test_classes(page):
    said = page[0]
    for row in ('<code>x</code> | to the right', '<code>y</code> | up', '<code>tags</code> | `list`'): assert f'| {row} |' in said['Point'], said['Point']
    assert '_own</code>' not in said['Point'] and '*A place*' in said['Point']
    assert 'Point.length -> float' in said['Point.length'] and '| *returns* | from zero |' in said['Point.length']
    assert 'def of(text:str)' in said['Point.of'] and '| <code>text</code> | such as `1,2` |' in said['Point.of']
    assert '| <code>name</code> | `str` |' in said['Keys'] and '| <code>size</code> | in bytes |' in said['Keys']
    assert '*What went wrong*' in said['Fault']
    assert 'class Made(start, /, *, end=2)' in said['Made'] and '| <code>end</code> | of it, too |' in said['Made'] and '*Made by hand*' in said['Made']
    assert 'def moved(by) -> Point' in said['Point.moved'] and '| *returns* | a new one |' in said['Point.moved']
    assert 'Point.half' in said['Point.half'] and 'def half' not in said['Point.half']

def test_a_page_runs_imports_alone_and_keeps_what_was_stored(page):
    text = ''.join(o.get('text', '') for c in page[1].cells for o in c.get('outputs', []))
    assert 'as it was stored' in text
    assert any('[`above`](other.ipynb) and `plainly`' in c.source for c in page[1].cells), 'a link within a link'
