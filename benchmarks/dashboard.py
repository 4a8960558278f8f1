"From a click to the changed picture, in the dashboard, in Chromium; quiet, and while a training runs"
import sys, tempfile
from pathlib import Path

from fastcore.script import call_parse
from .common import Records, goal, root

quick = dict(picks=4)
pick = '''async i => {
  const box = document.querySelector('.t-strategy select'), image = document.querySelector('.t-drawing'), was = image.src, start = performance.now();
  box.selectedIndex = i; box.dispatchEvent(new Event('change', {bubbles: true}));
  while (image.src === was || !image.complete) { await new Promise(requestAnimationFrame); if (performance.now() - start > 20000) throw new Error('no change'); }
  await image.decode(); return performance.now() - start;
}'''

def ours(training, picks):
    "Milliseconds of each of many choices of a strategy"
    sys.path.insert(0, str(root/'tools'))
    import browser
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.apps.jobs import Experiment
    if browser.missing: raise SystemExit(browser.missing)
    task = "ImageTask.from_sample('mnist', limit=400)"
    with tempfile.TemporaryDirectory() as d:
        room, job = Path(d)/'room', None
        room.mkdir()
        browser.write_notebook(room/'dash.ipynb', 'from tl_nbdev.vision.images import *\nfrom tl_nbdev.apps.dashboard import *', f"StrategyDashboard({task}, 'runs', 'tf_efficientnet_lite0', size=96)")
        if training: job = Experiment(eval(task), room/'runs', size=96).start('tf_efficientnet_lite0', 'full', 500)
        try:
            with browser.voila(room) as address, browser.browser(Path(d), viewport=dict(width=1150, height=1500)) as page:
                page.goto(f'{address}/dash.ipynb', timeout=120000)
                page.locator('.lm-TabBar-tab', has_text='How much').click(timeout=120000)
                page.locator('.t-drawing').wait_for()
                page.wait_for_timeout(5000)
                for i in range(1, 7): # steps of each are measured first: what comes of that changes the picture, too
                    page.evaluate(pick, i)
                    if not training: page.wait_for_function('() => document.querySelector(".t-cost").innerText.includes("measured steps")', timeout=60000)
                page.wait_for_timeout(2000)
                took = [page.evaluate(pick, 1 + i % 6) for i in range(picks)] # six whose pictures differ
            return dict(milliseconds=[round(o, 1) for o in took], running=job.state if job else None)
        finally:
            if job: job.kill()

@call_parse
def bench(
    picks:int=60, # of strategies, one after another
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "How quickly the dashboard answers"
    import numpy as np
    records, reached, table, runs = Records('dashboard', again, out), [], [], []
    for training in (False, True):
        runs.append(records.measure('ours', training=training, picks=picks))
        ms, when = runs[-1]['found']['milliseconds'], 'while training runs' if training else 'quiet'
        reached += [goal(f'{when}: milliseconds from a click to the changed picture, median', float(np.median(ms)), most=300, show='{:.0f}'), goal(f'{when}: 95th percentile', float(np.percentile(ms, 95)), most=800, show='{:.0f}')]
        table.append({'when': when, 'choices': len(ms), 'median ms': f'{np.median(ms):.0f}', '95 % ms': f'{np.percentile(ms, 95):.0f}', 'most ms': f'{max(ms):.0f}'})
    records.write(reached=reached, table=table, measurements=runs, arguments=dict(picks=picks), remarks=['Voilà and Chromium on the same machine; a choice of another strategy, until the new picture is decoded in the page. The training is full fine-tuning in a child process.'])
