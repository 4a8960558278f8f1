"""Stubs for editors and type checkers, made of the sources: `python tools/stubs.py [FOLDER]` writes a .pyi beside each module of tl_nbdev, or into a folder.
A method that is patched into a class stands in that class there, and a learner from `transfer_learner` has the methods of this package."""
import ast, copy, io, sys, tokenize
from pathlib import Path

root = Path(__file__).resolve().parent.parent
source = root/'tl_nbdev'
kept = {'property', 'classmethod', 'staticmethod', 'contextmanager', 'dataclass', 'cached_property', 'setter'} # what changes a type
comments = {} # line of the module at hand → what is said at its end

def _name(node):
    "The last word of a decorator or of a type"
    if isinstance(node, ast.Call): node = node.func
    if isinstance(node, ast.Attribute): return node.attr
    return node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else ''

_functions = ast.FunctionDef, ast.AsyncFunctionDef

def _is_patch(node): return isinstance(node, _functions) and any(_name(o) in ('patch', 'patch_to') for o in node.decorator_list)

def _told(node):
    "The docstring, and what is said beside each argument"
    args = [*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
    beside = [(o.arg, comments.get(o.lineno)) for o in args if o is not None and o.lineno != node.lineno]
    text = '\n'.join(f'    {name}: {comment}' for name, comment in beside if comment)
    return '\n\n'.join(filter(None, [ast.get_docstring(node, clean=False), text]))

def _short(node):
    "A function without what it does"
    node = copy.deepcopy(node)
    text = _told(node)
    if node.args.args: node.args.args[0].annotation = None if node.args.args[0].arg == 'self' else node.args.args[0].annotation
    body = ([ast.Expr(ast.Constant(text))] if text else []) + [ast.Expr(ast.Constant(...))]
    as_property = any(k.arg == 'as_prop' for o in node.decorator_list if isinstance(o, ast.Call) for k in o.keywords)
    decorators = [o for o in node.decorator_list if _name(o) in kept] + ([ast.Name('property')] if as_property else [])
    defaults = [None]*(len(node.args.args) - len(node.args.defaults)) + node.args.defaults
    for arg, default in zip(node.args.args, defaults):
        if arg.annotation is not None and isinstance(default, ast.Constant) and default.value is None: arg.annotation = ast.BinOp(arg.annotation, ast.BitOr(), ast.Constant(None))
    return type(node)(node.name, node.args, body, decorators, node.returns, type_params=[])

def _as_method(function, name):
    "A function that was assigned to a class, as a method of it"
    made = _short(function)
    made.name = name
    if made.args.args: made.args.args[0] = ast.arg(made.args.args[0].arg)
    return made

def _constant(node, of_class=False):
    "A value, by its type"
    known = isinstance(node.value, ast.Constant) and node.value.value is not None
    kind = ast.Name(type(node.value.value).__name__ if known else '_Any')
    names = [t for o in node.targets for t in (o.elts if isinstance(o, ast.Tuple) else [o])]
    if of_class: kind = ast.Subscript(ast.Name('_ClassVar'), kind)
    if len(names) > 1: kind = ast.Name('_Any')
    return [ast.AnnAssign(ast.Name(o.id), kind, simple=1) for o in names if isinstance(o, ast.Name)]

def _field(node):
    "A field, with `...` for its default"
    may_be_none = isinstance(node.value, ast.Constant) and node.value.value is None
    kind = ast.BinOp(node.annotation, ast.BitOr(), ast.Constant(None)) if may_be_none else node.annotation
    return ast.AnnAssign(node.target, kind, node.value and ast.Constant(...), node.simple)

def _class(node, more):
    "A class, with the methods that are patched into it"
    body = []
    for o in node.body:
        if isinstance(o, _functions): body.append(_short(o))
        elif isinstance(o, ast.AnnAssign): body.append(_field(o))
        elif isinstance(o, ast.Assign): body += _constant(o, True)
    text = ast.get_docstring(node, clean=False)
    body = ([ast.Expr(ast.Constant(text))] if text else []) + body + more
    decorators = [o for o in node.decorator_list if _name(o) in kept]
    return ast.ClassDef(node.name, node.bases, node.keywords, body or [ast.Expr(ast.Constant(...))], decorators, type_params=[])

def _pairs(target, value):
    "What is assigned to what, also where several stand on a line"
    both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
    return list(zip(target.elts, value.elts)) if both else [(target, value)]

def _unsaid(function):
    "A function of another module, without what is said beside its arguments there"
    function = copy.deepcopy(function)
    for o in ast.walk(function.args):
        if isinstance(o, ast.arg): o.lineno = function.lineno
    return function

def _patched(tree, others):
    "Class → methods that are patched into it, or assigned to it; `others`: functions of all modules, by name"
    functions = {o.name: o for o in tree.body if isinstance(o, _functions)}
    found = {}
    for o in tree.body:
        if _is_patch(o) and o.args.args and o.args.args[0].annotation is not None: found.setdefault(_name(o.args.args[0].annotation), []).append(_short(o))
        if not isinstance(o, ast.Assign): continue
        for target, value in [pair for t in o.targets for pair in _pairs(t, o.value)]:
            if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and isinstance(value, ast.Name)): continue
            if value.id in functions: method = _as_method(functions[value.id], target.attr)
            elif value.id in others: method = _as_method(_unsaid(others[value.id]), target.attr)
            else: continue
            found.setdefault(target.value.id, []).append(method)
    return found

def _comments(text):
    "What is said at the end of each line"
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {o.start[0]: o.string.lstrip('# ') for o in tokens if o.type == tokenize.COMMENT}

def stub(text, elsewhere, others, of_learner=()):
    "What an editor is told of a module, and of what other modules patch into its classes"
    tree = ast.parse(text)
    comments.clear()
    comments.update(_comments(text))
    patched, classes = _patched(tree, others), {o.name for o in tree.body if isinstance(o, ast.ClassDef)}
    out, seen = [ast.ImportFrom('typing', [ast.alias('Any', '_Any'), ast.alias('ClassVar', '_ClassVar')], 0)], set()
    for o in tree.body:
        if isinstance(o, (ast.Import, ast.ImportFrom)): out.append(o)
        elif isinstance(o, ast.Try): out += [p for p in ast.walk(o) if isinstance(p, (ast.Import, ast.ImportFrom))]
        elif isinstance(o, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '__all__' for t in o.targets): out.append(o)
        elif isinstance(o, ast.Assign): out += [c for c in _constant(o) if c.target.id not in seen and not seen.add(c.target.id)]
        elif isinstance(o, ast.AnnAssign): out.append(_field(o))
        elif isinstance(o, ast.ClassDef): out.append(_class(o, patched.get(o.name, []) + elsewhere.get(o.name, [])))
        elif isinstance(o, _functions) and not _is_patch(o) and not any(_name(d) == 'property' for d in o.decorator_list): out.append(_short(o))
    if 'Learner' in patched and 'Learner' not in classes:
        own = ast.ClassDef('_Learner', [ast.Name('Learner')], [], list(of_learner) or patched['Learner'], [], type_params=[])
        out.insert(1 + max(i for i, o in enumerate(out) if isinstance(o, (ast.Import, ast.ImportFrom))), own)
        for o in out:
            if isinstance(o, _functions) and _name(o.returns) == 'Learner': o.returns = ast.Name('_Learner')
        for o in own.body:
            if getattr(o, 'name', '') == 'transfer': o.returns = ast.Name('_Learner')
    return ast.unparse(ast.fix_missing_locations(ast.Module(out, []))) + '\n'

def write(to):
    "A stub of each module"
    files = [f for f in sorted(source.rglob('[!_]*.py')) if '__pycache__' not in f.parts]
    texts = {f.relative_to(source).with_suffix('').as_posix(): f.read_text(encoding='utf-8') for f in files}
    trees = {k: ast.parse(v) for k, v in texts.items()}
    home = {o.name: k for k, tree in trees.items() for o in tree.body if isinstance(o, ast.ClassDef)}
    others = {o.name: o for tree in trees.values() for o in tree.body if isinstance(o, _functions)}
    elsewhere, of_learner = {k: {} for k in texts}, []
    for k, tree in trees.items():
        comments.clear()
        comments.update(_comments(texts[k]))
        for name, methods in _patched(tree, others).items():
            if name == 'Learner': of_learner += methods # several rooms teach fastai's class
            if home.get(name, k) != k: elsewhere[home[name]].setdefault(name, []).extend(methods)
    for k, text in texts.items():
        (to/k).parent.mkdir(parents=True, exist_ok=True)
        (to/f'{k}.pyi').write_text(stub(text, elsewhere[k], others, of_learner), encoding='utf-8', newline='\n')

if __name__ == '__main__': write(Path(sys.argv[1]) if len(sys.argv) > 1 else source)
