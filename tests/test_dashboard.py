"The dashboard in a real browser: what a person does, and what they see."
import json, os, re, shutil, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
import browser
from children import python
from conftest import photos, scenes
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.apps.jobs import Experiment

needs_browser = pytest.mark.skipif(bool(browser.missing), reason=browser.missing or '')
cells = ['from tl_nbdev.vision.images import *\nfrom tl_nbdev.apps.dashboard import *', "StrategyDashboard(ImageTask.from_sample('mnist', limit=240), 'runs', 'squeezenet1_1', size=64)"]

@pytest.fixture(scope='module')
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp('room')
    browser.write_notebook(folder/'dash.ipynb', *cells)
    browser.write_notebook(folder/'news.ipynb', 'from tl_nbdev.text.texts import *\nfrom tl_nbdev.apps.dashboard import *', "StrategyDashboard(TextTask.from_sample('r8', limit=150), 'news', 'bert-tiny', size=48)")
    return folder

def src(page, name): return page.locator(f'.t-{name}').get_attribute('src')
def changed(page, name, was): page.wait_for_function(f'was => document.querySelector(".t-{name}").src !== was', arg=was)
def tab(page, name): page.locator('.lm-TabBar-tab', has_text=name).click()
def text(page, name): return page.locator(f'.t-{name}').inner_text()
def see(page, name, words, seconds=browser.patience):
    page.wait_for_function('([name, words]) => (document.querySelector(`.t-${name}`)?.innerText || "").includes(words)', arg=[name, words], timeout=1000*seconds)

def look_at(page, url):
    "Open a page of Voilà; where its widgets stay away, which is seldom, it is loaded again, as a person would (voila-dashboards/voila#534)"
    from playwright.sync_api import TimeoutError as Late
    for seconds in 60, 120, browser.patience:
        page.goto(url)
        try: return see(page, 'audit', 'train', seconds)
        except Late: page.faults.clear() # of the page that is left
    raise AssertionError(f'no audit on {url}')

# not ours: a font of the network; Voilà's farewell to the kernel of a page that was loaded again (voila-dashboards/voila#1458);
# and a word to a widget that was replaced while it was on its way
_not_ours = 'font-awesome', '/voila/api/shutdown/', 'Comm not found for comm id'

def faults(page):
    "What a page complained of, without what is not ours"
    return [o for o in page.faults if not any(each in o for each in _not_ours)]

def drawn(page, where, wide): # an image's bytes are decoded after it is in the page: wait for them
    page.wait_for_function('([where, wide]) => (document.querySelector(where)?.naturalWidth || 0) > wide', arg=[where, wide])

def set_number(page, name, value):
    box = page.locator(f'.t-{name} input')
    while box.input_value() != str(value): # what is measured meanwhile is shown there, too
        box.fill(str(value))
        box.press('Enter')

def lay_down(page, name, folder): # a photo for the page of the site, where it is wanted
    if (to := os.environ.get('TL_SCREENSHOTS')): page.locator('.tl-dash').screenshot(path=str(Path(to)/f'{name}.png'))

@needs_browser
def test_voila_from_a_choice_to_the_code(room, tmp_path):
    with browser.voila(room) as address, browser.browser(tmp_path, viewport=dict(width=1150, height=1500), permissions=['clipboard-read', 'clipboard-write']) as page:
        look_at(page, f'{address}/dash.ipynb')
        drawn(page, '.t-sizes', 100)
        drawn(page, '.t-some', 100)
        lay_down(page, 'data', tmp_path)
        tab(page, 'Start from')
        see(page, 'table', 'tf_efficientnet_lite0')
        page.locator('.t-most select').select_option(label='up to 2 million')
        page.wait_for_function('() => !document.querySelector(".t-table").innerText.includes("lite0")')
        assert 'squeezenet1_1' in text(page, 'table')
        lay_down(page, 'start', tmp_path)
        # how much: the drawing and the code follow
        tab(page, 'How much')
        was = src(page, 'drawing')
        page.locator('.t-strategy select').select_option(index=1)
        changed(page, 'drawing', was)
        was = src(page, 'drawing')
        page.locator('.t-last .noUi-handle').focus()
        page.keyboard.press('ArrowRight')
        changed(page, 'drawing', was)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("last=3")')
        see(page, 'cost', 'from measured steps')
        assert 'Rule of thumb' in text(page, 'rule')
        set_number(page, 'epochs', 24)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("epochs=24")')
        lay_down(page, 'much', tmp_path)
        # train, watch, stop, resume
        tab(page, 'Train')
        page.locator('.t-go').click()
        see(page, 'state', 'epoch')
        was = src(page, 'curves')
        changed(page, 'curves', was)
        was = src(page, 'curves')
        changed(page, 'curves', was)
        page.locator('.t-stop').click()
        see(page, 'state', 'stopped')
        lay_down(page, 'train', tmp_path)
        page.locator('.t-resume').click()
        see(page, 'state', 'done', 3*browser.patience)
        # compare, and try
        tab(page, 'Compare')
        see(page, 'runs', 'FineTune(last=3, epochs=24)')
        drawn(page, '.t-versus', 100)
        digit = ImageTask.from_sample('mnist', limit=240).part('test').item.iloc[0]
        page.locator('.t-drop input').set_input_files(str(digit))
        see(page, 'answers', digit.name)
        drawn(page, '.tl-seen img', 10)
        assert '%' in text(page, 'answers')
        (tmp_path/'note.png').write_text('no photo')
        page.locator('.t-drop input').set_input_files(str(tmp_path/'note.png'))
        page.wait_for_function('() => document.querySelector(".tl-wrong")?.innerText.includes("note.png")')
        lay_down(page, 'compare', tmp_path)
        # the code, in a fresh process, gives the same figure
        page.locator('.tl-copy').click()
        page.wait_for_function('() => document.querySelector(".tl-copy").nextSibling.textContent.includes("copied")')
        code = page.evaluate('() => navigator.clipboard.readText()')
        assert page.locator('.tl-code').inner_text().strip() == code.strip()
        assert faults(page) == []
        assert all('font-awesome' in o.lower() or 'fontawesome' in o.lower() for o in page.faults.elsewhere), page.faults.elsewhere
    record = json.loads(next((room/'runs').glob('runs*/*.json')).read_text())
    got = python(code.replace('learn.evaluate()', 'print(learn.evaluate().value)'), cwd=room)
    assert got.returncode == 0, got.stderr
    assert float(got.stdout.split()[-1]) == record['report']['value']

@needs_browser
def test_a_sentence_is_tried(room, tmp_path):
    with browser.voila(room) as address, browser.browser(tmp_path, viewport=dict(width=390, height=1200), color_scheme='dark') as page:
        look_at(page, f'{address}/news.ipynb')
        assert 'earn' in text(page, 'some')
        tab(page, 'Train')
        page.locator('.t-go').click()
        see(page, 'state', 'done', 3*browser.patience)
        tab(page, 'Compare')
        see(page, 'runs', 'FeatureExtraction')
        page.locator('.t-text textarea').fill('the company said net profit rose in the quarter')
        page.locator('.t-ask_text').click()
        see(page, 'answers', '%')
        page.locator('.t-text textarea').fill(' ')
        page.locator('.t-ask_text').click()
        page.locator('.tl-wrong').wait_for()
        assert faults(page) == []

@needs_browser
def test_boxes_are_shown_learned_and_found_on_a_phone(tmp_path):
    room = tmp_path/'room'
    scenes(room/'photos')
    browser.write_notebook(room/'dash.ipynb', 'from tl_nbdev.boxes.detection import *\nfrom tl_nbdev.apps.dashboard import *',
                           "StrategyDashboard(DetectionTask.from_coco('photos/annotations.json'), 'runs', 'faster_rcnn:mobilenetv3_small_050', source='random', size=64, bs=4)")
    with browser.voila(room) as address, browser.browser(tmp_path, viewport=dict(width=390, height=1200), color_scheme='dark') as page:
        look_at(page, f'{address}/dash.ipynb')
        drawn(page, '.t-some', 100)
        page.wait_for_function('() => (document.querySelector("img.t-sizes")?.alt || "").includes("Boxes of each class: ")') # words follow their picture
        tab(page, 'Start from')
        see(page, 'table', 'retinanet')
        tab(page, 'How much')
        see(page, 'cost', 'from measured steps')
        assert 'photos per class' in text(page, 'labels') and 'photos per class' in text(page, 'rule')
        set_number(page, 'epochs', 1)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("epochs=1")')
        code = page.locator('.tl-code').inner_text()
        tab(page, 'Train')
        page.locator('.t-go').click()
        see(page, 'state', 'done', 3*browser.patience)
        tab(page, 'Compare')
        see(page, 'runs', 'mAP')
        page.locator('.t-drop input').set_input_files(str(room/'photos'/'03.png'))
        see(page, 'answers', '03.png')
        drawn(page, '.tl-seen img', 300) # as wide as a photo with its boxes
        for name in ('04.png', '05.png'): # what was asked before stays whole
            page.locator('.t-drop input').set_input_files(str(room/'photos'/name))
            see(page, 'answers', name)
        page.wait_for_function('() => [...document.querySelectorAll(".tl-seen img")].filter(o => Math.max(o.naturalWidth, o.naturalHeight) === 320).length === 3')
        assert faults(page) == []
    record = json.loads(next((room/'runs').glob('runs*/*.json')).read_text())
    got = python(code.replace('learn.evaluate()', 'print(learn.evaluate().value)'), cwd=room)
    assert got.returncode == 0, got.stderr
    assert float(got.stdout.split()[-1]) == record['report']['value']

@needs_browser
def test_lab_again_in_the_middle_of_a_training(tmp_path):
    room = tmp_path/'room'
    room.mkdir()
    browser.write_notebook(room/'dash.ipynb', *cells)
    exp = Experiment(ImageTask.from_sample('mnist', limit=240), room/'runs', size=64)
    job = exp.start('squeezenet1_1', 'full', 400) # as if an earlier kernel had begun it
    try:
        with browser.lab(room) as address, browser.browser(tmp_path, viewport=dict(width=1300, height=1500), color_scheme='dark') as page:
            browser.run_all(page, address, 'dash.ipynb')
            page.locator('.lm-TabBar-tab', has_text='How much').wait_for()
            tab(page, 'Train')
            see(page, 'state', 'running')
            was = src(page, 'curves')
            changed(page, 'curves', was)
            page.locator('.t-pause').click()
            see(page, 'state', 'paused')
            tab(page, 'How much') # while it waits, another choice can be looked at, but not begun
            was = src(page, 'drawing')
            page.locator('.t-strategy select').select_option(index=2)
            changed(page, 'drawing', was)
            tab(page, 'Train')
            assert page.locator('.t-go').is_disabled()
            page.locator('.t-resume').click()
            see(page, 'state', 'running')
            page.locator('.t-stop').click()
            see(page, 'state', 'stopped')
            lay_down(page, 'lab', tmp_path)
        assert job.state == 'stopped' and 'stopped' in repr(exp)
    finally: job.kill()

def walk(page, until, key='Tab', most=40):
    "Press a key until the place in focus fits"
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate(f'() => {{ const o = document.activeElement; return !!({until}); }}'): return
    raise AssertionError(f'{key} does not lead to {until}')

@needs_browser
def test_by_keys_alone_and_with_a_name_for_everything(room, tmp_path):
    with browser.voila(room) as address, browser.browser(tmp_path, viewport=dict(width=1150, height=1500), permissions=['clipboard-read', 'clipboard-write']) as page:
        look_at(page, f'{address}/dash.ipynb')
        def to_tab(name):
            walk(page, 'o.matches(".lm-TabBar-tab")')
            walk(page, f'o.matches(".lm-TabBar-tab") && o.innerText.includes("{name}")', 'ArrowRight', 8)
            page.keyboard.press('Enter')
            page.wait_for_function(f'() => document.querySelector(".lm-mod-current.lm-TabBar-tab").innerText.includes("{name}")')
            assert browser.unnamed(page) == []
        to_tab('Start from')
        to_tab('How much')
        was = src(page, 'drawing')
        walk(page, 'o.closest(".t-strategy")')
        page.keyboard.press('ArrowDown')
        changed(page, 'drawing', was)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("FineTune")')
        page.wait_for_function('() => document.querySelector("img.t-drawing").alt.includes("frozen")')
        page.keyboard.press('ArrowUp')
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("FeatureExtraction")')
        walk(page, 'o.closest(".t-seed")')
        page.keyboard.press('ArrowUp')
        page.keyboard.press('Enter')
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("seed=1")')
        to_tab('Train')
        walk(page, 'o.matches(".t-go")')
        page.keyboard.press('Enter')
        see(page, 'state', 'done', 3*browser.patience)
        to_tab('Compare')
        see(page, 'runs', 'FeatureExtraction')
        walk(page, 'o.matches(".tl-copy")')
        page.keyboard.press('Enter')
        page.wait_for_function('() => document.querySelector(".tl-copy").nextSibling.textContent.includes("copied")')
        assert 'seed=1' in page.evaluate('() => navigator.clipboard.readText()')

@needs_browser
def test_notebook_7_and_a_kernel_restarted_in_the_middle_of_a_training(tmp_path):
    room = tmp_path/'room'
    room.mkdir()
    browser.write_notebook(room/'dash.ipynb', *cells)
    with browser.lab(room, 'notebook') as address, browser.browser(tmp_path, viewport=dict(width=1300, height=1500)) as page:
        browser.run_all(page, address, 'dash.ipynb', 'notebooks')
        page.locator('.lm-TabBar-tab', has_text='How much').wait_for()
        tab(page, 'How much')
        page.locator('.t-strategy select').select_option(index=2)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("FullFineTune")')
        set_number(page, 'epochs', 400)
        page.wait_for_function('() => document.querySelector(".tl-code").textContent.includes("epochs=400")')
        tab(page, 'Train')
        page.locator('.t-go').click()
        see(page, 'state', 'epoch')
        job, = Experiment(ImageTask.from_sample('mnist', limit=240), room/'runs', size=64).jobs
        try:
            page.get_by_role('menuitem', name='Kernel', exact=True).click()
            page.get_by_role('menuitem', name='Restart Kernel and Run All Cells…').click()
            page.get_by_role('button', name='Confirm Kernel Restart').click()
            page.locator('.tl-dash').wait_for(state='detached')
            assert job.state == 'running'
            page.locator('.lm-TabBar-tab', has_text='How much').wait_for()
            tab(page, 'Train')
            see(page, 'state', 'running')
            was = src(page, 'curves')
            changed(page, 'curves', was)
            page.locator('.t-stop').click()
            see(page, 'state', 'stopped')
            assert [o for o in faults(page) if "(reading 'schema')" not in o] == [] # the second is Notebook 7.6's own, on any notebook
        finally: job.kill()

def test_advice_is_shown_and_taken(tmp_path):
    from tl_nbdev.apps.dashboard import StrategyDashboard
    dash = StrategyDashboard(ImageTask.from_sample('mnist', limit=150), tmp_path/'runs', 'squeezenet1_1', size=64)
    try:
        dash.minutes.value = .5
        dash.ask.click()
        job, = dash.choice.exp.jobs
        assert job.wait(3*browser.patience) == 'done', job.log
        end = time.monotonic() + browser.patience
        while dash.take.disabled and time.monotonic() < end: time.sleep(.1)
        best = json.loads((job.folder/'advice.json').read_text())['best']
        assert best['model'] in dash.advice.value and 'Start from' in dash.advice.value
        dash.take.click()
        assert dash.choice.model == best['model'] and dash.choice.strategy.name == best['strategy'] and best['model'] in dash.code.code
    finally: dash.close()

def test_what_a_dead_child_said_is_shown(tmp_path):
    from tl_nbdev.apps.dashboard import StrategyDashboard
    data = photos(tmp_path/'data', 12)
    dash = StrategyDashboard(data, tmp_path/'runs', 'squeezenet1_1', size=32)
    try:
        for f in data.rglob('*.png'): f.unlink()
        dash.go.click()
        job, = dash.choice.exp.jobs
        assert job.wait(browser.patience) == 'failed'
        end = time.monotonic() + browser.patience
        while 'failed' not in dash.state.value and time.monotonic() < end: time.sleep(.1)
        assert 'failed' in dash.state.value and not dash.resume.disabled and not dash.go.disabled
    finally: dash.close()

def test_what_cannot_be_shown_is_said_in_the_panel(tmp_path):
    from tl_nbdev.apps.dashboard import StrategyDashboard
    said = lambda *args, **kwargs: StrategyDashboard(*args, **kwargs).message.value
    (tmp_path/'broken'/'cat').mkdir(parents=True)
    (tmp_path/'broken'/'cat'/'a.png').write_text('no photo')
    assert 'tl-wrong' in said(tmp_path/'broken', tmp_path/'runs')
    for f in (lone := photos(tmp_path/'one', 12)).iterdir():
        if f.name != min(o.name for o in lone.iterdir()): shutil.rmtree(f)
    line = said(lone, tmp_path/'runs')
    assert 'tl-wrong' in line and 'class' in line
    line = said(photos(tmp_path/'two', 12), tmp_path/'runs', 'squeezenet1_1', size=8) # images of which nothing is left after three poolings
    assert 'tl-wrong' in line and '8 pixels' in line

def test_two_dashboards_on_one_task(tmp_path):
    from tl_nbdev.apps.dashboard import StrategyDashboard
    task = ImageTask.from_sample('mnist', limit=240)
    one, two = (StrategyDashboard(task, tmp_path/'runs', 'squeezenet1_1', size=64) for _ in range(2))
    def until(f):
        end = time.monotonic() + browser.patience
        while not f() and time.monotonic() < end: time.sleep(.1)
        assert f()
    try:
        one.strategy.value, one.epochs.value = 'full', 300
        one.go.click()
        until(lambda: 'running' in two.state.value and two.go.disabled)
        two._guard(two._go)(None) # as if it had been pressed at the same moment
        assert 'tl-wrong' in two.message.value and len(two.choice.exp.jobs) == 1
        two.stop.click() # what one began, the other can stop
        until(lambda: 'stopped' in one.state.value and 'stopped' in two.state.value)
    finally:
        for o in one.choice.exp.jobs: o.kill()
        one.close(), two.close()

@pytest.mark.parametrize('seed', ['3', pytest.param('6', marks=pytest.mark.slow)]) # with these ipywidgets once began with none, as an option was `None`
def test_filters_begin_with_any(seed, tmp_path):
    code = f"""
from tl_nbdev.vision.images import *
from tl_nbdev.apps.dashboard import *
dash = StrategyDashboard(ImageTask.from_sample('mnist', limit=60), {str(tmp_path/'runs')!r}, 'squeezenet1_1', size=64)
print(dash.most.label, dash.licence.label)
dash.close()
"""
    got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': seed})
    assert 'any size any' in got.stdout, got.stderr
