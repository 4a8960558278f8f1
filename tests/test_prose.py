"Figures that were measured are not typed: a page computes them, or reads them from a record. What a sentence may say by itself is named here, with the reason."
import json, re
from pathlib import Path

import pytest
root = Path(__file__).resolve().parent.parent
pages = sorted(o for o in [root/'nbs'/'index.ipynb', *(p for d in ('evidence', 'tutorials', 'howto') for p in (root/'nbs'/d).glob('[!.]*.ipynb'))])

figure = re.compile(r'''(?<![\w.])(?:[-+−]?\d[\d,]*(?:\.\d+)?)(?:\s*(?:to|or|and|–)\s*\d[\d.,]*)?\s*(?:%|per\ cent|points?\b|s\b|seconds?\b|minutes?\b|ms\b|milliseconds\b|×|times\b|(?:\w+\ )?steps?\b|Mi?B\b|Gi?B\b)
    | \b(?:one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|fifty|hundred|thousand)\s+(?:points?|per\ cent|seconds?|minutes?|milliseconds|times|steps)\b''', re.X | re.I)

method, exercise = 'how it was measured, not what came of it', 'what an exercise or an example supposes'
allowed = {
    '*': {'95 %': 'the level of every interval'},
    'index': {'7 GB': 'what pip installs'},
    'advice': {'three times': method},
    'texts': {'five times': method, '100 %': 'all of the matrix peak'},
    '03_killed': {'3 %': 'the rule by which checkpoints are written: one in thirty times their cost'},
    '06_rare_classes': {'ten times': exercise},
    '03_strategies': {'four times': 'the law of the square root', '85 %': exercise},
    '06_which_model': {'Four times': 'the law of the square root', 'one point': exercise, 'five minutes': 'a limit that the cell below sets'},
    '10_your_photos': {'three times': method},
    '11_handing_over': {'ten times': exercise},
}

def typed(text):
    "Figures in Markdown, code left out"
    return [' '.join(m[0].split()) for m in figure.finditer(re.sub(r'```.*?```|`[^`\n]*`|\]\([^)]*\)', ' ', text, flags=re.S))]

def cells(page): return [''.join(c['source']) for c in json.loads(page.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']

@pytest.mark.parametrize('page', pages, ids=lambda o: o.stem)
def test_no_figure_is_typed(page):
    may = {**allowed['*'], **allowed.get(page.stem, {})}
    found = [o for text in cells(page) for o in typed(text) if o not in may]
    assert not found, f'{page.name}: {found} in prose: compute it, read it from a record, or say in tests/test_prose.py why a sentence may'

def test_what_is_allowed_is_there():
    "An allowance that nobody needs would hide the next figure"
    for page in pages:
        said = {o for text in cells(page) for o in typed(text)}
        assert not (left := set(allowed.get(page.stem, {})) - said), f'{page.stem}: {left}'

def test_what_counts_as_a_figure():
    said = 'It lost 2.3 points in some 170 small steps, at about 90 % of the speed, 3.5 times as fast, 12 to 15 s, 4× and 1,200 MiB; `85 %` in code, [x](a_5%.html), 3 seeds and 2 classes are none.'
    assert typed(said) == ['2.3 points', '170 small steps', '90 %', '3.5 times', '12 to 15 s', '4×', '1,200 MiB']
    assert typed('two points, and five minutes') == ['two points', 'five minutes']
