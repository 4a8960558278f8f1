"The site in a real browser: every page, in light and dark, on a wide screen and on a phone."
import re, subprocess, sys
from pathlib import Path

import pytest
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

@needs_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_every_page(site, tmp_path, scheme):
    wrong, seen = [], set()
    with browser.files(site) as address:
        for phone in (False, True) if scheme == 'light' else (False,):
            how = dict(viewport=dict(width=390, height=844), device_scale_factor=3, is_mobile=True, has_touch=True) if phone else dict(viewport=dict(width=1280, height=900))
            with browser.browser(tmp_path/f'{phone}', color_scheme=scheme, **how) as page:
                for f in sorted(site.rglob('*.html')):
                    page.faults.clear()
                    page.goto(f'{address}/{f.relative_to(site)}', wait_until='load')
                    name = f'{f.relative_to(site)}{", phone" if phone else ""}'
                    wrong += [f'{name}: {o}' for o in page.faults]
                    if phone:
                        if (over := page.evaluate(wide)): wrong.append(f'{name}: sideways scroll, {over}')
                        continue
                    wrong += [f'{name}: image {o}' for o in page.evaluate(images)]
                    wrong += [f'{name}: contrast {o}' for o in page.evaluate(contrast)]
                    for link in page.evaluate(links): seen.add(link)
        for link in sorted({o.partition('#')[0] for o in seen}):
            try: browser.get(link)
            except OSError as e: wrong.append(f'broken link {link}: {e}')
        ids = {}
        for link in sorted(o for o in seen if '#' in o and not o.endswith('#')):
            url, _, at = link.partition('#')
            if url not in ids: ids[url] = browser.get(url).decode()
            if f'id="{at}"' not in ids[url] and f"id='{at}'" not in ids[url] and f'name="{at}"' not in ids[url] and f'id={at}' not in ids[url]: wrong.append(f'no place {link}')
    assert not wrong, f'{len(wrong)} faults:\n' + '\n'.join(sorted(wrong, key=lambda o: (o.partition(': ')[2], o))[:60])
