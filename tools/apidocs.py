"""What a page of the API says of each public name, for Quarto and smalldocs alike.

nbdev's `show_doc` is extended: methods in a class have a heading of their own, fields of a dataclass keep
their comments, several definitions of one cell stand in their order, and comments are a table, which wraps,
instead of the ends of long lines of code. `install` puts it into nbdev's processors, in every process that
builds pages."""
import ast, html, inspect, io, re, tokenize
from functools import cache, cached_property
from pathlib import Path

from fastcore.docments import _type_str
from fastcore.nbio import mk_cell
from nbdev import doclinks, processors, showdoc
from nbdev.config import get_config
from nbdev.processors import _want_doc, add_show_docs, exec_show_docs
from nbdev.showdoc import BasicMarkdownRenderer, showdoc_nm

width = 82 # characters of a line of code that a page of 1280 pixels shows
functions = ast.FunctionDef, ast.AsyncFunctionDef
definitions = (*functions, ast.ClassDef)
sources = {} # of the page that is being made: name → (where it is defined, the code of that cell)


# what is in the source

def comments_of(
    source:str
) -> dict: # line → (comment, its column where it stands alone, else None)
    "Comments by line"
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line, column = token.start
        alone = column if not token.line[:column].strip() else None
        if token.type != tokenize.COMMENT or token.string.startswith('#|'): continue
        found[line] = token.string.lstrip('#').strip(), alone
    return found

def spoken(
    places:list, # (line, column, name), in their order
    first:int, last:int, # lines of what is documented
    source:str
) -> list: # of (names, comment): names of one line share it; one without names is of what comes back
    "Comments beside names, or on lines of their own: above them, or, further in than they are, below"
    comments, by_line, above, said = comments_of(source), {}, [], []
    for line, _, name in places: by_line.setdefault(line, []).append(name)
    left = min((column for _, column, _ in places), default=0)
    for line in range(first, last + 1):
        comment, alone = comments.get(line, ('', None))
        if alone is not None and alone > left and said: said[-1] = said[-1][0], f'{said[-1][1]} {comment}'
        elif alone is not None: above.append(comment)
        elif names := by_line.get(line): said, above = [*said, (names, comment or ' '.join(above))], []
        elif comment: said.append(([], comment))
    return said

def arguments_of(
    node # of a function
) -> list: # of `ast.arg`
    "Arguments in the order in which they are written"
    every = node.args
    in_order = [*every.posonlyargs, *every.args, every.vararg, *every.kwonlyargs, every.kwarg]
    return [o for o in in_order if o]

def said_of_arguments(
    node, # of a function
    source:str
) -> list: # as `spoken` tells
    "Comments of arguments, and of what comes back"
    shown = [o for o in arguments_of(node) if o.lineno > node.lineno and o.arg not in ('self', 'cls')]
    places = [(o.lineno, o.col_offset, o.arg) for o in shown]
    return [o for o in spoken(places, node.lineno, node.body[0].lineno - 1, source) if o[1]]

def declared(
    node:ast.ClassDef
) -> list: # of `ast.AnnAssign`
    "Fields of a dataclass, keys of a TypedDict"
    named = [o for o in node.body if isinstance(o, ast.AnnAssign) and isinstance(o.target, ast.Name)]
    return [o for o in named if public(o.target.id)]

def said_of_fields(
    node:ast.ClassDef,
    source:str
) -> list: # of ([field], comment); where nothing is said, its type
    "Every field, with its comment"
    def said(o):
        beside = spoken([(o.lineno, o.col_offset, o.target.id)], o.lineno, o.end_lineno, source)
        return ' '.join(comment for _, comment in beside if comment) or f'`{ast.unparse(o.annotation)}`'
    return [([o.target.id], said(o)) for o in declared(node)]

def public(name): return name[0] != '_'


# what a page shows

def plain_text(
    comment:str
) -> str:
    "A comment in a cell of a Markdown table: what is in backticks is code, all else means nothing but itself"
    parts = re.split(r'(`[^`]+`)', ' '.join(comment.split()))
    parts[::2] = [re.sub(r'([\\*_~$<\[\]#])', r'\\\1', o) for o in parts[::2]]
    return ''.join(parts).replace('|', '\\|')

def code(name:str) -> str:
    "A name as code that nbdev doesn't take for one of its symbols, and link"
    return f'<code>{html.escape(name).replace("|", "&#124;")}</code>'

def table_of(
    head:str, # of the first column
    rows # pairs of Markdown
) -> str:
    "A table of two columns; empty without rows"
    lines = [f'| {head} | meaning |', '|---|---|', *(f'| {a} | {b} |' for a, b in rows)]
    return '\n'.join(lines) if rows else ''

def folded(
    start:str, # `def name`
    parts:list, # of the signature
    end:str # `) -> int`
) -> str:
    "A signature in lines that a page shows whole"
    line = f'{start}({", ".join(parts)}{end}'
    if len(line) <= width: return line
    lines, now = [], ''
    for part in parts:
        if now and len(now) + len(part) > width - 7: lines, now = [*lines, now], ''
        now += f'{part}, ' if part != parts[-1] else part
    return '\n'.join([f'{start}(', *(f'    {o.rstrip()}' for o in [*lines, now]), end])

def short(annotation:str) -> str:
    "A type, without the modules that it comes from"
    return re.sub(r'\b(?:\w+\.)+(?=[A-Z])|\b(?:__main__|tl_nbdev(?:\.\w+)*|builtins)\.', '', annotation)

def written_parts(
    node # of a function
) -> list: # of strings
    "Arguments as they are written, without comments"
    every = node.args
    plain = [*every.posonlyargs, *every.args]
    pairs = [*zip(plain[::-1], every.defaults[::-1]), *zip(every.kwonlyargs, every.kw_defaults)]
    defaults = {o.arg: ast.unparse(default) for o, default in pairs if default is not None}
    def one(o):
        kind = f':{ast.unparse(o.annotation)}' if o.annotation else ''
        return f'{o.arg}{kind}={defaults[o.arg]}' if o.arg in defaults else f'{o.arg}{kind}'
    parts = [one(o) for o in plain if o.arg not in ('self', 'cls')]
    if every.posonlyargs: parts.insert(len(every.posonlyargs), '/')
    if every.vararg: parts.append('*' + one(every.vararg))
    elif every.kwonlyargs: parts.append('*')
    return [*parts, *map(one, every.kwonlyargs), *([f'**{one(every.kwarg)}'] if every.kwarg else [])]

def called_parts(
    signature:inspect.Signature
) -> list: # of strings
    "Arguments as they are when it runs: of a dataclass, or of what takes over those of another"
    def default(o):
        shown = getattr(o, '__name__', None) or repr(o)
        return shown if len(shown) <= 40 and '\n' not in shown else '…'
    parts, star = [], False
    for o in signature.parameters.values():
        if o.name in ('self', 'cls'): continue
        if o.kind is o.KEYWORD_ONLY and not star: parts.append('*')
        star = star or o.kind in (o.KEYWORD_ONLY, o.VAR_POSITIONAL)
        kind = '' if o.annotation is o.empty else f':{short(_type_str(o.annotation))}'
        value = '' if o.default is o.empty else f'={default(o.default)}'
        parts.append({o.VAR_POSITIONAL: '*', o.VAR_KEYWORD: '**'}.get(o.kind, '') + o.name + kind + value)
    return parts

class Renderer(BasicMarkdownRenderer):
    "A name, its signature, what it is, and a table of its arguments or fields"
    def __init__(self, sym, name=None, title_level=3, **kwargs):
        self.is_property = isinstance(sym, (property, cached_property))
        if isinstance(sym, cached_property): sym = sym.func
        super().__init__(sym, name=name, title_level=title_level, **kwargs)
        self.node, self.source = sources.get(self.nm, (None, ''))
        started = self._started() if isinstance(self.node, ast.ClassDef) else None
        said = [ast.get_docstring(o) for o in (self.node, started) if o]
        if self.node: self.docs = next(filter(None, said), '')

    def _started(self):
        "A class's own `__init__`"
        return next((o for o in self.node.body if isinstance(o, functions) and o.name == '__init__'), None)

    def _parts(self):
        "Of the signature"
        node = self._started() if isinstance(self.node, ast.ClassDef) else self.node
        taken_over = hasattr(self.sym, '__delwrap__') or hasattr(self.sym, '__signature__')
        if node and not taken_over: return written_parts(node)
        return called_parts(self.sig) if self.sig is not None else []

    def _signature(self):
        "As code"
        last, back = self.nm.rpartition('.')[2], getattr(self.node, 'returns', None)
        back = f' -> {ast.unparse(back)}' if back else ''
        if self.is_property: return f'{self.nm}{back}'
        if not inspect.isclass(self.sym): return folded(f'def {last}', self._parts(), f'){back}')
        return f'class {last}' if issubclass(self.sym, dict) else folded(f'class {last}', self._parts(), ')')

    def _rows(self):
        "Of arguments that have a comment; of fields all"
        if isinstance(self.node, functions): said = said_of_arguments(self.node, self.source)
        elif fields := said_of_fields(self.node, self.source): said = fields
        else: said = said_of_arguments(started, self.source) if (started := self._started()) else []
        back = '*raises*' if inspect.isclass(self.sym) else '*returns*'
        return [(', '.join(map(code, names)) or back, plain_text(comment)) for names, comment in said]

    def _repr_markdown_(self):
        if not self.node: return super()._repr_markdown_()
        head = '---\n\n' + '#'*self.title_level + f' {self.nm}'
        if source := showdoc.NbdevLookup().code(self.fn):
            head += '\n\n' + showdoc._ext_link(source, 'source', 'style="float:right; font-size:smaller"')
        said = re.sub(r'^(\s*)(.+)', r'\1*\2*', self.docs, count=1) if self.docs else ''
        kind = 'field' if isinstance(self.node, ast.ClassDef) and declared(self.node) else 'argument'
        parts = head, f'```python\n{self._signature()}\n```', said, table_of(kind, self._rows())
        return '\n\n'.join(filter(None, parts))

def show_doc(sym, renderer=None, name=None, title_level=3):
    "In nbdev's place"
    return Renderer(sym, name=name, title_level=title_level)

class ShowDocs(add_show_docs):
    "After each exported cell: its definitions in their order, and after a class its public methods"
    def begin(self):
        sources.clear()
        notebook = self.nb
        exports = [o for o in notebook.cells if _want_doc(o)]
        trees = [t for o in notebook.cells for t in o.parsed_() or []]
        shown = {processors._get_nm(t) for t in processors._show_docs(trees)}
        for cell in reversed(exports):
            docs = [mk_cell(o) for o in self.documented(cell, shown)]
            for o in docs: o.has_sd = True
            notebook.cells[cell.idx_ + 1:cell.idx_ + 1] = docs
        notebook.has_docs_ = shown or exports

    def documented(self, cell, shown):
        "Code that shows what a cell defines"
        for node in cell.parsed_() or []:
            if not isinstance(node, definitions): continue
            names = showdoc_nm(node)
            names = names if isinstance(names, list) else [names]
            for name in names: yield from self.shows(name, node, cell, shown)
            if not isinstance(node, ast.ClassDef) or not public(node.name): continue
            for o in node.body:
                if isinstance(o, functions): yield from self.shows(f'{node.name}.{o.name}', o, cell, shown, 4)

    def shows(self, name, node, cell, shown, level=3):
        "Code that shows one name, unless it is private or shown elsewhere"
        if name in shown or not all(map(public, name.split('.'))): return
        sources[name] = node, cell.source
        yield f"show_doc({name}, name='{name}', title_level={level})"

class RunDocs(exec_show_docs):
    "Runs what `show_doc` needs: exports, and of others the imports; a page shows what its notebook stores"
    def __call__(self, cell):
        asked = processors._is_showdoc(cell) or 'exec_doc' in cell.directives_
        if cell.cell_type != 'code' or asked: return super().__call__(cell)
        stored, source, trees = cell.get('outputs', []), cell.source, cell.parsed_()
        if not {'export', 'exports', 'exporti'} & set(cell.directives_):
            cell._parsed_ = [o for o in trees or [] if isinstance(o, (ast.Import, ast.ImportFrom))]
            cell.source = '\n'.join(map(ast.unparse, cell._parsed_))
        super().__call__(cell)
        cell.source, cell['outputs'], cell._parsed_ = source, stored, trees

def link_line(self, line):
    "Names in backticks as links, but those that are in a link already"
    parts = re.split(r'(\[[^\]]*\]\([^)]*\))', line)
    parts[::2] = [doclinks._re_backticks.sub(self._link_sym, o) for o in parts[::2]]
    return ''.join(parts)

@cache
def config_of(folder, *args):
    "nbdev's settings, which it would read again for each cell"
    return get_config(*args)

def install():
    "Into nbdev, of this process"
    processors.get_config = lambda *args: config_of(Path.cwd(), *args)
    doclinks.NbdevLookup.link_line = link_line
    showdoc.BasicMarkdownRenderer, showdoc.show_doc = Renderer, show_doc
    processors.add_show_docs, processors.exec_show_docs = ShowDocs, RunDocs
