"Build the site in _docs: with Quarto where it is installed, else with smalldocs. A broken link or a path of this machine fails."
import gc, json, re, shutil, subprocess, sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.quarto import nbdev_docs, refresh_quarto_yml
from nbdev.serve import proc_nbs
sys.path.insert(0, str(Path(__file__).parent)) # such processes import this file, from elsewhere
import apidocs
from wings import wings
from tl_nbdev.base.disk import listed, remove, written
from tl_nbdev.base.settings import TransferError

cfg = get_config(Path(__file__).parent)
root, nbs, site = cfg.config_path, cfg.nbs_path, cfg.doc_path
made = site, root/'_proc' # folders that are made anew each time

apidocs.install() # here, at module level, so that processes which Quarto's way spawns have it too

# Without a repository address in pyproject.toml, nbdev's [source] links lead nowhere.
if not cfg.git_url: NbdevLookup.code = lambda self, sym: None

def edit(file, *subs):
    "Apply `(pattern, replacement)` pairs to a text file"
    text = file.read_text(encoding='utf-8')
    for pat, repl in subs: text = re.sub(pat, repl, text, flags=re.M)
    file.write_text(text, encoding='utf-8')

# What older builds left, which kept no list.
older = [f'*.{o}' for o in 'html css js json txt md xml svg png gif woff woff2 map ipynb yml yaml'.split()] + ['.nojekyll', '*/.nojekyll']

def clear():
    "Remove what an earlier build made; what it did not make is named, and stays"
    for folder in made:
        try: remove(folder, None if written(folder) else older)
        except TransferError as e: sys.exit(str(e).replace('not a model folder, and holds', 'holds').replace('holds a model, but also', 'holds').replace(', or name a new or an empty folder', ''))

@contextmanager
def remembered():
    "Keep a list of what a build made, however it ends"
    try: yield
    finally:
        for folder in filter(Path.is_dir, made):
            (folder/'.tl_nbdev.json').write_text(json.dumps(dict(files=listed(folder))), encoding='utf-8')

def as_quarto_names(proc):
    "Give processed notebooks, and links to them, the page names that Quarto gives: 00_core.ipynb is core.html"
    new = {p: nbpath2html(p).with_suffix('.ipynb') for p in proc.rglob('*.ipynb')}
    if len({*new.values()}) < len(new): sys.exit('two notebooks would be one page: ' + ', '.join(sorted(p.name for p in new)))
    for old, name in new.items(): old.rename(name)
    number = r'\d+[a-zA-Z0-9]*_(?=[\w.-]+\.ipynb)'
    for p in new.values(): edit(p, (r'^ *"output-file: .*\n', ''), (rf'(\]\(|\]: |href=\\?["\'])([^\s)"\']*/)?{number}', r'\1\2'))
    for p in proc.glob('*.yml'): edit(p, (rf'(?<![\w.-]){number}', ''))

def label_pictures(proc):
    "Say what a picture is that has no `fig-alt` of its own: where it stands, and what made it"
    for p in proc.rglob('*.ipynb'):
        nb, above = json.loads(p.read_text('utf-8')), ''
        for c in nb['cells']:
            source = ''.join(c['source'])
            if c['cell_type'] == 'markdown': above = (re.findall(r'^#+ (.+)$', source, re.M) or [above])[-1]
            elif any('image/png' in o.get('data', {}) for o in c.get('outputs', [])) and '#| fig-alt' not in source:
                made = [l for l in source.strip().splitlines() if l.strip() and not l.startswith('#|')] or ['a cell that is not shown']
                c['source'] = '#| fig-alt: ' + json.dumps(re.sub(r'[{}"`]', '', f'{above}: the picture made by {made[-1].strip()[:80]}'), ensure_ascii=False) + '\n' + source
        p.write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')

# What stands above a group of pages in the sidebar: folder of nbs/ → title; a subfolder is a group within it.
groups = {'tutorials': 'Learn, step by step', 'howto': 'Do one thing', 'evidence': 'What was measured',
          'api': 'Every function (API)'}

def pages_of(folder): return sorted(str(o.relative_to(nbs).as_posix()) for o in folder.glob('[!._]*.ipynb'))

def subfolders(folder):
    "Those with pages, in the order of `wings`; those that it doesn't name come last"
    found = [o for o in folder.glob('[!._]*') if o.is_dir() and pages_of(o)]
    return sorted(found, key=lambda o: ([*wings].index(o.name) if o.name in wings else len(wings), o.name))

def group_lines(title, folder, indent=6):
    "A group of the sidebar as lines of YAML, and the groups within it"
    title_of = lambda o: wings.get(o.name, o.name.capitalize())
    within = [line for o in subfolders(folder) for line in group_lines(title_of(o), o, indent + 4)]
    own = [f'{" "*(indent + 4)}- {o}' for o in pages_of(folder)]
    return [f'{" "*indent}- section: "{title}"', f'{" "*indent}  contents:', *own, *within]

def sidebar():
    "Write the sidebar: what one reads first stands first"
    top = 'index.ipynb', 'dashboard.ipynb', 'licences.ipynb'
    lines = ['website:', '  sidebar:', '    contents:', *(f'      - {o}' for o in top)]
    for folder, title in groups.items(): lines += group_lines(title, nbs/folder)
    every = {o.relative_to(nbs).as_posix() for o in nbs.rglob('[!._]*.ipynb') if '.ipynb_checkpoints' not in o.parts}
    lost = sorted(every - {o.strip().removeprefix('- ') for o in lines})
    if lost: sys.exit(f'pages that the sidebar has no place for: {", ".join(lost)}')
    (nbs/'sidebar.yml').write_text('\n'.join(lines) + '\n', encoding='utf-8')

def smalldocs():
    "Build with smalldocs"
    refresh_quarto_yml()
    proc = proc_nbs(nbs, n_workers=0) # each process would import all of it anew, which takes longer than the pages
    as_quarto_names(proc)
    label_pictures(proc)
    # Markdown copies of the pages, and widths by option, are Quarto's alone: nbs/styles.css says the widths, too.
    edit(proc/'_quarto.yml', (r'^ *commonmark:.*\n', ''), (r'^ *grid:\n(?: {6,}.*\n)*', ''))
    edit(proc/'nbdev.yml', (r'^format-links:\n(?: .*\n)*', ''))
    if subprocess.run([sys.executable, '-P', '-m', 'smalldocs.cli', 'render', '--strict', proc]).returncode: sys.exit('the site is not built: see above')
    shutil.move(proc/site.name, site)

def faults():
    "Broken links, and paths of this machine, in the site"
    link = re.compile(r'<[^<>]*?\s(?:href|src)="(?![a-z][a-z+.-]*:|//|#|\?|")([^"#?]+)')
    for page in site.rglob('*.html'):
        for href in link.findall(page.read_text(encoding='utf-8')):
            if not ((site if href[0] == '/' else page.parent)/unquote(href).lstrip('/')).exists(): yield f'{page.relative_to(site)}: broken link {href}'
    for f in site.rglob('*'):
        if f.suffix in ('.html', '.json', '.md', '.txt', '.xml'):
            text = f.read_text(encoding='utf-8')
            yield from (f'{f.relative_to(site)}: has a path of this machine, {d}' for d in {str(root), sys.prefix, f'{Path.home()}/'} if d in text)

if __name__ == '__main__':
    quarto = shutil.which('quarto')
    clear()
    if sys.argv[1:] == ['--clear']: sys.exit()
    print('with', 'Quarto' if quarto else 'smalldocs, as Quarto is not installed')
    sidebar()
    with remembered(): (nbdev_docs.__wrapped__ if quarto else smalldocs)()
    found = '\n'.join(faults())
    gc.freeze() # at the end IPython collects garbage once for each page, and would look at everything each time
    sys.exit(found or 0)
