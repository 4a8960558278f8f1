"Make README.md from nbs/index.ipynb; with --check, only say whether it is what the notebook makes."
import re, sys
from pathlib import Path
from posixpath import normpath
from fastcore.nbio import read_nb

root = Path(__file__).resolve().parent.parent
note = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->'

_code = re.compile(r'(^```.*?^```|`[^`\n]+`)', re.M | re.S)
_link = re.compile(r'''(\]\(|^\[[^\]]+\]: |\b(?:src|href)=["'])(?![a-z][a-z+.-]*:|[/#])([^)\s"']+)''', re.M)

def relink(text):
    "Links relative to nbs/ made relative to the root; code is left as it is"
    parts = _code.split(text)
    parts[::2] = [_link.sub(lambda m: m[1] + normpath(f'nbs/{m[2]}'), p) for p in parts[::2]]
    return ''.join(parts)

def fence(text, lang=''):
    "A code block"
    return f'```{lang}\n{text.rstrip()}\n```'

def output(o, cell):
    "Markdown of one stored output"
    data = o.get('data', {})
    if o.output_type == 'stream': return fence(o.text) if o.name == 'stdout' else ''
    if 'text/markdown' in data: return data['text/markdown'].strip()
    if o.output_type == 'error' or any(k.startswith('image/') for k in data):
        raise SystemExit(f'nbs/index.ipynb, cell {cell.id}: a README cannot show this output: save a picture to nbs/images and link to it, '
                         'return markdown, or put `#| output: false` at the top of the cell')
    return fence(data['text/plain']) if 'text/plain' in data else ''

def blocks(nb):
    "Markdown blocks of a notebook, top to bottom"
    for c in nb.cells:
        flags, outs = c.directives, c.get('outputs', [])
        c.remove_directives()
        if 'hide' in flags or flags.get('include') == 'false' or c.cell_type == 'raw': continue
        if c.cell_type == 'markdown': yield relink(c.source.strip())
        else:
            if flags.get('echo') != 'false': yield fence(c.source, 'python') if c.source.strip() else ''
            if flags.get('output') != 'false': yield from (relink(output(o, c)) for o in outs)

def readme():
    "The text of README.md"
    return '\n\n'.join([note, *filter(None, blocks(read_nb(root/'nbs/index.ipynb')))]) + '\n'

if __name__ == '__main__':
    file = root/'README.md'
    if '--check' not in sys.argv: file.write_text(readme(), encoding='utf-8')
    elif not file.exists() or file.read_text(encoding='utf-8') != readme(): sys.exit('README.md is older than nbs/index.ipynb: make readme')
