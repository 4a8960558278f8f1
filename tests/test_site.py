"The site: each page has all that its notebook has; and in a real browser, every page, in light and dark, on a wide screen and on a phone."
import ast, html, io, json, re, subprocess, sys, tokenize
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbdev.config import nbpath2html
root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import browser

needs_browser = pytest.mark.skipif(bool(browser.missing), reason=browser.missing or '')

contrast = '''() => {
  const rgb = s => { const m = s.match(/[\\d.]+/g); return m ? m.map(Number) : [0, 0, 0, 0]; };
  const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4; }); return .2126*r + .7152*g + .0722*b; };
  const over = (a, b) => { const t = a.length > 3 ? a[3] : 1; return [0, 1, 2].map(i => a[i]*t + b[i]*(1 - t)); };
  const ground = e => { const up = []; for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) up.push(c); if (c.length < 4 || c[3] === 1) break; }
                        return up.reduceRight((b, a) => over(a, b), [255, 255, 255]); };
  const out = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    const e = n.parentElement; if (!n.data.trim() || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || ['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    const s = getComputedStyle(e), b = ground(e), f = over(rgb(s.color), b), [hi, lo] = [lum(f), lum(b)].sort((x, y) => y - x);
    const size = parseFloat(s.fontSize), large = size >= 24 || size >= 18.66 && +s.fontWeight >= 700;
    if ((hi + .05)/(lo + .05) < (large ? 3 : 4.49)) out.add(`${e.tagName}.${e.className} "${n.data.trim().slice(0, 30)}" ${s.color} on ${b.map(Math.round)} ${((hi + .05)/(lo + .05)).toFixed(2)}`);
  }
  return [...out].slice(0, 12);
}'''
images = '''async () => { const bad = []; for (const i of document.images) { i.loading = 'eager'; try { await i.decode(); } catch {} if (!i.naturalWidth || !i.alt) bad.push(i.outerHTML.slice(0, 120)); } return bad; }'''
wide = '''() => { const d = document.documentElement; if (d.scrollWidth <= d.clientWidth) return ''; const w = d.clientWidth;
  return `${d.scrollWidth} > ${w}: ` + [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > w + 1).slice(0, 4).map(e => e.outerHTML.slice(0, 100)).join(' | '); }'''
links = '''() => [...document.querySelectorAll('a[href]')].map(a => a.href).filter(h => h.startsWith(location.origin))'''

@pytest.fixture(scope='module')
def site():
    "The site as `make docs` builds it"
    got = subprocess.run([sys.executable, 'tools/docs.py'], cwd=root, capture_output=True, text=True)
    assert got.returncode == 0, got.stdout + got.stderr
    return root/'_docs'

def test_llms_txt_names_every_page(site):
    said = (site/'llms.txt').read_text()
    named = re.findall(r'\]\(([^)]+)\)', said)
    pages = {str(o.relative_to(site).with_suffix('')) for o in site.rglob('*.html')}
    assert {re.sub(r'(\.llms)?\.(md|html)$', '', o.lstrip('/')) for o in named} >= pages
    assert all((site/o.lstrip('/')).exists() for o in named)


# what a page must have, read from its notebook without nbdev

notebooks = sorted(o for o in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)

def letters(text): return re.sub(r'[\W_]', '', text)

def of_markdown(text):
    "Letters that a reader sees of Markdown, line by line"
    text = re.sub(r'`[^`\n]+`', lambda o: o[0].replace('<', '').replace('>', ''), text)
    text = re.sub(r'<!--.*?-->|</?[a-zA-Z][^<>]*>|^\s*(?:```.*|:::.*)$|^\s*\d+\. ', '', text, flags=re.S | re.M)
    text = re.sub(r'!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|^\[[^\]]+\]: \S+|\{[.#][^}]*\}|&\w+;', '', text, flags=re.M)
    return [o for line in text.splitlines() if '$' not in line and (o := letters(line))]

def directives(source): return dict(re.findall(r'^#\|\s*([\w-]+):?[ ]*(.*)$', source, re.M))

def hidden(said): return bool({'hide', 'default_exp', 'export', 'exporti'} & set(said)) and said.get('hide') != 'false' or said.get('include') == 'false'

def defined(node, source):
    "Names, and comments of arguments and fields, of one public definition"
    comments = {o.start[0]: letters(o.string) for o in tokenize.generate_tokens(io.StringIO(source).readline) if o.type == tokenize.COMMENT}
    def arguments(f): return [comments[i] for i in range(f.lineno, f.body[0].lineno) if i in comments]
    if not isinstance(node, ast.ClassDef): return [(node.name, arguments(node))]
    declared = [comments[i] for o in node.body if isinstance(o, ast.AnnAssign) and o.target.id[0] != '_' for i in range(o.lineno, o.end_lineno + 1) if i in comments]
    functions = [o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]
    started = [] if declared else [o for f in functions if f.name == '__init__' for o in arguments(f)]
    return [(node.name, declared + started), *((f'{node.name}.{f.name}', arguments(f)) for f in functions if f.name[0] != '_')]

def patched(node):
    "A method that is patched into a class: its full names, else its own"
    if not any('patch' in ast.unparse(o) for o in getattr(node, 'decorator_list', [])): return None
    return [f'{o.strip()}.{node.name}' for o in ast.unparse(node.args.args[0].annotation).split('|')]

def wanted(cells):
    "What a notebook shows: text, pictures, and (name, comments) of what it defines"
    text, pictures, names = [], 0, []
    for c in cells:
        source, said = ''.join(c['source']), directives(''.join(c['source']))
        if c['cell_type'] == 'markdown':
            text += of_markdown(source)
            pictures += len(re.findall(r'!\[[^\]]*\]\([^)]+\)', source))
        if c['cell_type'] != 'code': continue
        if {'export', 'exports'} & set(said) and 'hide' not in said:
            for node in ast.parse(source).body:
                if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name[0] == '_': continue
                made = defined(node, source)
                names += [(name, made[0][1]) for name in patched(node) or () if name[0] != '_'] or ([] if patched(node) else made)
        if hidden(said): continue
        if said.get('echo') != 'false': text += [o for line in source.splitlines() if not line.startswith(('#|', '%')) and 'hide_line' not in line and (o := letters(line))]
        for o in c.get('outputs', []) if said.get('output') != 'false' else ():
            data = o.get('data', {})
            if 'image/png' in data: pictures += 1
            elif 'text/markdown' in data: text += of_markdown(''.join(data['text/markdown']))
            elif 'text/html' not in data: text += [s for line in ''.join(o.get('text') or data.get('text/plain', '')).splitlines() if (s := letters(line))]
    return text, pictures, names

@pytest.mark.parametrize('notebook', notebooks, ids=lambda o: str(o.relative_to(root/'nbs')))
def test_a_page_has_all_that_its_notebook_has(site, notebook):
    page = (site/nbpath2html(notebook.relative_to(root/'nbs'))).read_text(encoding='utf-8')
    page = page[page.index('<main'):page.index('</main>')]
    seen = letters(html.unescape(re.sub(r'<[^>]*>', '', re.sub(r'<(style|script)\b.*?</\1>', '', page, flags=re.S))))
    text, pictures, names = wanted(json.loads(notebook.read_text(encoding='utf-8'))['cells'])
    assert text, 'an empty notebook'
    lost = [o for o in text if o not in seen]
    assert page.count('<img') >= pictures, f'{page.count("<img")} of {pictures} pictures'
    headings = [html.unescape(re.sub(r'<[^>]*>', '', o)).strip().rstrip('#').strip() for o in re.findall(r'<h[2-6][^>]*>(.*?)</h[2-6]>', page, re.S)]
    lost += [f'no heading {name}' for name, _ in names if name not in headings]
    lost += [f'{name}: {o}' for name, comments in names for o in comments if o not in seen]
    assert not lost, f'{len(lost)} not on the page: ' + '; '.join(lost[:8])
    symbols = [html.unescape(re.sub(r'<[^>]*>', '', o)).strip() for o in re.findall(r'<h[34][^>]*>(.*?)</h[34]>', page, re.S)]
    at = [symbols.index(name) for name, _ in names]
    assert at == sorted(at), 'definitions are not in the order of the notebook'

def test_the_first_cell_is_title_and_subtitle():
    "nbdev makes the title of a page of the cell that holds it, and drops what else is in it"
    for o in notebooks:
        first = ''.join(json.loads(o.read_text(encoding='utf-8'))['cells'][0]['source']).strip()
        assert re.fullmatch(r'# .+(\n+> .+)?', first), f'{o.name}: {first[:80]}'


# in a browser

darker = '''async () => {
  document.head.append(Object.assign(document.createElement('style'), {textContent: '*, *::before, *::after {transition: none !important}'}));
  const paper = () => getComputedStyle(document.body).backgroundColor, before = paper();
  const done = () => paper() !== before && document.documentElement.classList.contains('quarto-dark');
  window.smalldocsToggleScheme();
  for (let i = 0; i < 200 && !done(); i++) await new Promise(next => setTimeout(next, 50));
  return done();
}'''
cut_off = '''() => [...document.querySelectorAll('main pre, main .cell-output, main table')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => `${e.tagName} ${e.innerText.slice(0, 60)}`)'''

def pages(site): return sorted(site.rglob('*.html'))

@pytest.fixture(scope='module')
def visited(site, tmp_path_factory):
    "What a visit of each page finds on a screen of 1280 pixels, in light and then in dark, and then on one as narrow as a phone's: what is wrong, boxes that are cut off, what scrolls sideways, and links"
    wrong, cut, over, seen = [], [], [], set()
    with browser.files(site) as address:
        with browser.browser(tmp_path_factory.mktemp('visit'), color_scheme='light') as page:
            for f in pages(site):
                page.faults.clear()
                page.set_viewport_size(dict(width=1280, height=900))
                page.goto(f'{address}/{f.relative_to(site)}', wait_until='load')
                name = f.relative_to(site)
                wrong += [f'{name}: image {o}' for o in page.evaluate(images)]
                wrong += [f'{name}: contrast {o}' for o in page.evaluate(contrast)]
                cut += [f'{name}: {o}' for o in page.evaluate(cut_off)]
                seen |= set(page.evaluate(links))
                if page.evaluate(darker): wrong += [f'{name}: dark, contrast {o}' for o in page.evaluate(contrast)]
                else: wrong.append(f'{name}: it does not become dark')
                page.evaluate('localStorage.clear()')
                page.set_viewport_size(dict(width=390, height=844))
                if found := page.evaluate(wide): over.append(f'{name}: {found}')
                wrong += [f'{name}: {o}' for o in page.faults]
        yield SimpleNamespace(wrong=wrong, cut=cut, over=over, links=seen)

def told(wrong): return f'{len(wrong)} faults:\n' + '\n'.join(sorted(wrong, key=lambda o: (o.partition(': ')[2], o))[:60])

@needs_browser
def test_every_page(visited): assert not visited.wrong, told(visited.wrong)

@needs_browser
def test_links_lead_somewhere(visited):
    wrong, bodies = [], {}
    for url in sorted({o.partition('#')[0] for o in visited.links}):
        try: bodies[url] = browser.get(url).decode('utf-8', 'replace')
        except OSError as e: wrong.append(f'broken link {url}: {e}')
    for link in sorted(o for o in visited.links if '#' in o and not o.endswith('#')):
        url, _, at = link.partition('#')
        if not any(how in bodies.get(url, '') for how in (f'id="{at}"', f"id='{at}'", f'name="{at}"', f'id={at}')): wrong.append(f'no place {link}')
    assert not wrong, told(wrong)

@needs_browser
def test_little_is_cut_off(visited):
    "Boxes of code, outputs and tables that one has to scroll sideways"
    assert len(visited.cut) <= 20, f'{len(visited.cut)}: ' + '\n'.join(visited.cut)

@needs_browser
def test_nothing_scrolls_sideways_where_it_is_narrow(visited): assert not visited.over, told(visited.over)

def one_of_each_folder(site): return [next(iter(sorted(folder.glob('*.html')))) for folder in sorted({o.parent for o in pages(site)})]

@needs_browser
def test_nothing_scrolls_sideways_on_a_phone(site, tmp_path):
    "A page of each folder, as a phone lays it out: it has a touch screen, three dots a pixel, and a viewport of its own"
    wrong = []
    with browser.files(site) as address, browser.browser(tmp_path, viewport=dict(width=390, height=844), device_scale_factor=3, is_mobile=True, has_touch=True) as page:
        for f in one_of_each_folder(site):
            page.faults.clear()
            page.goto(f'{address}/{f.relative_to(site)}', wait_until='load')
            if over := page.evaluate(wide): wrong.append(f'{f.relative_to(site)}: {over}')
            wrong += [f'{f.relative_to(site)}: {o}' for o in page.faults]
    assert not wrong, told(wrong)

@needs_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_what_search_finds_can_be_read(site, tmp_path, scheme):
    with browser.files(site) as address, browser.browser(tmp_path, color_scheme=scheme, viewport=dict(width=1280, height=900)) as page:
        page.goto(f'{address}/index.html', wait_until='load')
        for word in 'frozen', 'no such word anywhere':
            page.locator('.smalldocs-search input').first.fill(word)
            page.locator('.search-result, .search-none').first.wait_for()
            assert not page.evaluate(contrast), word

def test_a_folder_of_rooms_is_a_group_of_the_sidebar(tmp_path, monkeypatch):
    import docs
    for o in ('index.ipynb', 'dashboard.ipynb', 'licences.ipynb', 'api/00_a.ipynb', 'api/vision/20_pixels.ipynb', 'api/base/00_disk.ipynb', 'api/odd/01_x.ipynb', 'howto/01_b.ipynb'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).write_text('{}')
    monkeypatch.setattr(docs, 'nbs', tmp_path)
    docs.sidebar()
    lines = (tmp_path/'sidebar.yml').read_text(encoding='utf-8').splitlines()
    at = [next(i for i, line in enumerate(lines) if o in line) for o in (docs.groups['api'], 'api/00_a.ipynb', docs.wings['base'], 'api/base/00_disk', docs.wings['vision'], 'pixels', 'section: "Odd"')]
    assert at == sorted(at)
    depth = lambda o: next(len(line) - len(line.lstrip()) for line in lines if o in line)
    assert depth(docs.wings['base']) == depth('api/00_a.ipynb') < depth('api/base/00_disk')
    (tmp_path/'lost').mkdir()
    (tmp_path/'lost/x.ipynb').write_text('{}')
    with pytest.raises(SystemExit, match='lost/x.ipynb'): docs.sidebar()
