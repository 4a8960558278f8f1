"The examples of CONTRIBUTING.md, run section by section; its picture of the rooms, and its links to them."
import ast, re, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import wings
page = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')

def blocks(text):
    "`(heading above, language, line of its first, code)` of each fenced block; what looks like a heading inside one is a comment"
    heading, language, code = '', None, []
    for n, line in enumerate(text.splitlines(), 1):
        if line.startswith('```'):
            if language is None: language, code, first = line[3:].strip(), [], n + 1
            else: yield heading, language, first, '\n'.join(code); language = None
        elif language is not None: code.append(line)
        elif line.startswith('#'): heading = line.lstrip('# ')
    assert language is None, f'the block after "{heading}" is not closed'

examples = {}
for heading, language, first, code in blocks(page):
    if language == 'python': examples.setdefault(heading, []).append((first, code))

def test_a_worked_example_for_each_of_the_four():
    assert {'Add a model', 'Add a strategy', 'Add a task', 'Add a sample'} <= set(examples)

@pytest.mark.parametrize('heading', examples)
def test_it_ends_with_a_check(heading):
    last = ast.parse(examples[heading][-1][1]).body[-1]
    if isinstance(last, ast.With): last = last.body[-1]
    called = last.value.func if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) else None
    assert isinstance(last, ast.Assert) or getattr(called, 'id', '').startswith('test_'), f'"{heading}" ends without an assert or a test_eq'

@pytest.mark.parametrize('heading', examples)
def test_it_runs(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {'__name__': 'contributing'}
    for first, code in examples[heading]: exec(compile('\n'*(first - 1) + code, str(root/'CONTRIBUTING.md'), 'exec'), space) # so that an error names the line of the page

def test_the_picture_has_every_room_in_order():
    picture = next(code for heading, language, _, code in blocks(page) if heading == 'The house')
    assert picture.rstrip('\n') == wings.picture(root/'nbs'/'api'), 'python tools/wings.py draws it'

def test_notebooks_and_files_that_it_names_are_there():
    text = re.sub(r'```.*?```', '', page, flags=re.S)
    for name in re.findall(r'`((?:nbs|tests|tools|benchmarks|tl_nbdev)/[\w./]*)`', text): assert (root/name).exists(), f'CONTRIBUTING.md names {name}, which is not there'
