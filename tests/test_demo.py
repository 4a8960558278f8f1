"The demo: a table of photos, whose classes somebody named as if to do harm, becomes a report, a page and a model."
import base64, csv, html, json, re, sys
import xml.etree.ElementTree as etree
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
import browser
from conftest import photo, tl
from tl_nbdev.apps import demo
from tl_nbdev.base.settings import TransferError
from tl_nbdev.strategies.strategy import strategy

HARM = {'round': '<script>alert(1)</script>', 'square': '"><img src=http://x.invalid/y.png onerror=alert(2)> & co'}

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A demo of a second, on a table of photos"
    root = tmp_path_factory.mktemp('demo')
    with open(root/'photos.csv', 'w', encoding='utf-8', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['file', 'kind'])
        for kind, label in HARM.items():
            for i in range(15):
                photo(kind, i).save(root/f'{kind}{i}.png')
                rows.writerow([f'{kind}{i}.png', label])
    argv = ['--label', 'kind', '--model', 'squeezenet1_1', '--size', 64, '--epochs', 2, '--strategies', 'feature,last:1']
    got = tl('demo', root/'photos.csv', *argv, '--out', root/'out')
    assert got.status == 0, got.err
    return SimpleNamespace(out=root/'out', said=got.out, page=(root/'out'/'report.html').read_text('utf-8'))

class _Page(HTMLParser):
    "Tags, attributes and text of a page"
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ''
        self.feed(text)
    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
    def handle_data(self, data): self.text += data

def addresses(page): return [value for name, value in _Page(page).attributes if name in ('src', 'srcset', 'href')]

def test_the_main_job_on_photos_of_ones_own(made):
    page = (made.out/'report.md').read_text('utf-8')
    assert '## The data' in page and '![Confusion matrix' in page
    assert 'FeatureExtraction()' in page and 'FineTune(last=1)' in page
    assert len(json.loads((made.out/'report.json').read_text())) == 2
    assert (made.out/'model'/'model.safetensors').is_file()

def test_its_page_is_what_is_said_last(made):
    assert made.said.splitlines()[-1] == str(made.out/'report.html')

def test_the_page_holds_all_that_it_shows(made):
    found = addresses(made.page)
    assert len(found) > 10 and all(address.startswith('data:') for address in found)
    assert not re.search(r'@import|url\(', made.page)
    assert "default-src 'none'" in made.page

def test_names_of_others_are_text_in_the_page_and_in_its_figures(made):
    page = _Page(made.page)
    assert not {'script', 'iframe', 'object'} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith('on')]
    for label in HARM.values(): assert label[:40] in page.text
    figures = [base64.b64decode(address.partition(',')[2]) for address in addresses(made.page) if 'svg' in address[:20]]
    for figure in figures: assert not [each for each in etree.fromstring(figure).iter() if each.tag.endswith('script')]
    assert len(figures) >= 7 # an icon, and three figures in light and dark

def test_a_table_of_ways_with_verdicts(made):
    text = _Page(made.page).text
    assert text.count('chosen') >= 2 and re.search("better|worse|can't tell", text)
    assert 'a new head' in text and 'the last stage' in text and 'Always giving the commonest answer' in text

def test_the_command_of_the_page_is_the_one_that_was_typed(made):
    typed = re.search(r'<code>(tl-demo .*?)</code>', made.page)[1]
    assert html.unescape(typed).split()[2:-2] == ('--model squeezenet1_1 --strategies feature,last:1 --epochs 2 --size 64 '
                                                  '--out').split() + [str(made.out)]
    assert html.unescape(typed).endswith('--label kind')

def test_the_three_lines_run(made):
    lines = html.unescape(re.search(r'<code>(from tl_nbdev.*?)</code>', made.page, re.S)[1]).splitlines()
    assert len(lines) == 3
    space = {}
    exec('\n'.join(lines[:2]), space)
    assert eval(lines[2], space)[0]['label'] in HARM.values()

def _lightness(colour):
    shares = [int(colour[i:i + 2], 16)/255 for i in (1, 3, 5)]
    linear = [((share + .055)/1.055)**2.4 if share > .04045 else share/12.92 for share in shares]
    return sum(weight*share for weight, share in zip((.2126, .7152, .0722), linear))

@pytest.mark.parametrize('mode', [0, 1])
def test_words_stand_out_in_light_and_dark(made, mode):
    colours = dict(re.findall(r'--(\w+): (#\w{6})', re.findall(r':root \{.*?\}', made.page)[mode]))
    for word in ('ink', 'quiet', 'blue', 'good', 'bad'):
        for ground in ('paper', 'box', 'mark'):
            low, high = sorted(_lightness(colours[name]) for name in (word, ground))
            assert (high + .05)/(low + .05) >= 4.5, (word, ground)

@pytest.mark.skipif(bool(browser.missing), reason=browser.missing or '')
def test_a_browser_shows_it_on_a_phone_and_asks_nobody(made, tmp_path):
    asked = []
    with browser.browser(tmp_path, viewport=dict(width=390, height=844), color_scheme='dark') as page:
        page.on('request', lambda request: asked.append(request.url))
        page.goto((made.out/'report.html').as_uri())
        for width, mode, ground in ((390, 'dark', 'rgb(23, 26, 31)'), (1280, 'light', 'rgb(255, 255, 255)')):
            page.set_viewport_size(dict(width=width, height=844))
            page.emulate_media(color_scheme=mode)
            wide, there = page.evaluate('[document.documentElement.scrollWidth, document.documentElement.clientWidth]')
            assert wide <= there
            assert page.evaluate('[...document.images].filter(image => !image.naturalWidth).length') == 0
            assert page.evaluate('getComputedStyle(document.body).backgroundColor') == ground
    assert [address for address in asked if not address.startswith(('data:', 'file:'))] == []

@pytest.mark.parametrize('n, epochs', [(1, 5), (200, 5), (1837, 2), (4000, 1), (100_000, 1)])
def test_a_first_look_cuts_what_takes_long(n, epochs):
    assert demo.epochs_at_first(strategy('full'), n) == demo.epochs_at_first(strategy('last:2'), n) == epochs
    assert demo.epochs_at_first(strategy('feature'), n) == 30 # seconds, however many

def test_what_was_cut_is_said():
    run = SimpleNamespace(strategy=strategy('full'), epochs=2)
    assert 'FullFineTune() 2 of 5' in demo._cut_short([run])
    run.epochs = 5
    assert demo._cut_short([run]) == ''

@pytest.mark.parametrize('thorough, given, asked', [
    (False, {}, [dict(epochs=30), dict(epochs=2, bs=25)]), # as many steps as in all epochs
    (False, dict(bs=8), [dict(epochs=30, bs=8), dict(epochs=2, bs=8)]),
    (True, {}, [{}, {}]), (True, dict(epochs=3), [dict(epochs=3)]*2)])
def test_thorough_leaves_epochs_to_the_strategies(thorough, given, asked, monkeypatch):
    found = []
    def compare(task, start, ways, tell, **kwargs):
        found.append(kwargs)
        if len(found) == 2: raise TransferError('enough')
        return demo.Comparison()
    monkeypatch.setattr(demo, 'compare', compare)
    task = SimpleNamespace(n=lambda part: 1837, batch_size=lambda: 64)
    start = SimpleNamespace(name='', library='', source='', licence='')
    with pytest.raises(TransferError, match='enough'): demo._compared(task, start, ['feature', 'full'], thorough, given)
    assert found == asked

def test_verdicts():
    def of(low, high): return demo.verdict(dict(chosen=False, difference_interval=[low, high]))
    assert [of(.01, .2), of(-.2, -.01), of(-.1, .1), of(0, .1), of(-.1, 0), of(float('nan'), float('nan'))] == [
        'better', 'worse', "can't tell", "can't tell", "can't tell", "can't tell"]
    assert demo.verdict(dict(chosen=True)) == 'chosen'
