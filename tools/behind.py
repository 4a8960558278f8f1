"""What is behind a page: the code of the package that it imports, and of what that imports, as one hash. Sources are read, never run. A comment,
a docstring, a blank line, or another name of a module changes nothing; a changed function body does, and so does a module that is new behind a page.
The benchmarks are code of ours as well."""
import ast, hashlib, json, re, tomllib
from functools import cache
from pathlib import Path

root = Path(__file__).resolve().parent.parent
package = 'tl_nbdev'
ours = (package, 'benchmarks')
_mention = re.compile(rf'\b{package}(?:\.\w+)+') # in a text: code for another process, or a module that is imported by its name
_command = re.compile(r'\btl-\w+')
_exports = re.compile(r'^#\|\s*default_exp\s+([\w.]+)', re.M)
_no_python = re.compile(r'^\s*[%!].*$', re.M)

def digest(value):
    "A short hash of what JSON can hold"
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


# the modules

@cache
def modules():
    "Name → file, of all modules of ours"
    found = {}
    for file in sorted(file for name in ours for file in (root/name).rglob('*.py')):
        parts = file.relative_to(root).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    found.pop(f'{package}._modidx', None) # links of the site
    return found

@cache
def commands():
    "Name of a command → its module"
    scripts = tomllib.loads((root/'pyproject.toml').read_text('utf-8')).get('project', {}).get('scripts', {})
    return {name: target.partition(':')[0] for name, target in scripts.items()}

def _base(node, home):
    "The module of `from … import`; `home`: the package in which it stands"
    if not node.level: return node.module or ''
    up = home.split('.')[:len(home.split('.')) + 1 - node.level]
    return '.'.join([*up, *filter(None, [node.module])])

def _names(tree, home):
    "All that may be a module, in code"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from (part.name for part in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, home)
            yield from (base, *(f'{base}.{part.name}' for part in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str): yield from _mention.findall(node.value)

def _mentioned(text):
    "Modules and commands in a text, such as a line of a shell; in the package itself a command is only ever spoken of"
    yield from _mention.findall(text)
    yield from (commands()[name] for name in _command.findall(text) if name in commands())

def _there(names):
    "Those that are modules, with the packages around them, which are imported first"
    found = set()
    for name in names:
        parts = name.split('.')
        around = ['.'.join(parts[:n]) for n in range(1, len(parts) + 1)]
        found |= {part for part in around if part in modules()}
    return found


# their code

def _without_docstrings(tree):
    "The same tree, whose docstrings are gone"
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)): continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str): del node.body[0]
    return tree

def _is_version(node): return isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__version__'

def _is_empty(node): return isinstance(node, ast.Constant) and node.value == ''

def _told(value, home):
    "Code as lists, the same in each version of Python; where a name of ours comes from is told by what is there"
    if isinstance(value, list): return [_told(part, home) for part in value]
    if not isinstance(value, ast.AST): return repr(value)
    if isinstance(value, ast.JoinedStr): value.values = [part for part in value.values if not _is_empty(part)] # some versions add them
    if isinstance(value, ast.ImportFrom) and _base(value, home).split('.')[0] in ours:
        return ['of ours', *sorted([part.name, part.asname or ''] for part in value.names)]
    fields = [(name, part) for name, part in ast.iter_fields(value) if name not in ('ctx', 'kind', 'type_comment', 'type_ignores')]
    return [type(value).__name__, *([name, _told(part, home)] for name, part in fields if part is not None and part != [])]

@cache
def _module(name):
    "`(hash of its code, modules that it names)`"
    file = modules()[name]
    home = name if file.name == '__init__.py' else name.rpartition('.')[0]
    tree = _without_docstrings(ast.parse(file.read_text('utf-8')))
    tree.body = [node for node in tree.body if not _is_version(node)] # a release is no other code
    return digest(_told(tree, home)), _there(_names(tree, home))


# pages

def _named_by(cell):
    "Modules that a cell names; what isn't Python is read as a text"
    try: tree = _without_docstrings(ast.parse(_no_python.sub('', cell)))
    except SyntaxError: return {*_mentioned(cell)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {*_names(tree, ''), *_mentioned('\n'.join(_no_python.findall(cell) + texts))}

def cells_of(page):
    "The code of a page, cell by cell"
    return [''.join(cell['source']).strip() for cell in json.loads(page.read_text('utf-8'))['cells'] if cell['cell_type'] == 'code']

def modules_behind(page):
    "The module that a page exports, those that it imports, and those that they import"
    cells = cells_of(page)
    exported = [f'{package}.{name}' for cell in cells for name in _exports.findall(cell)]
    found, new = set(), _there(exported + [name for cell in cells for name in _named_by(cell)])
    while new:
        found |= new
        new = set().union(*(_module(name)[1] for name in new)) - found
    return found

def behind(page):
    "The hash of the package's code behind a page; empty where there is none"
    found = modules_behind(page)
    return digest(sorted(_module(name)[0] for name in found)) if found else ''
