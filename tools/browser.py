"A real browser for tests, benchmarks and pictures: Chromium by Playwright, and Voilà, JupyterLab or a plain server of files beside it"
import json, os, shutil, socket, subprocess, sys, tempfile, time, urllib.request
from contextlib import contextmanager
from pathlib import Path

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
missing = None if chromium else 'browser tests not run: install chromium'
arguments = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

patience = 300 # seconds until something that should come is said not to come; much longer than it takes on a slow machine that does other things

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def get(url, timeout=10):
    with urllib.request.urlopen(url, timeout=timeout) as r: return r.read()

@contextmanager
def server(command, url, folder, seconds=patience):
    "A server, with folders of its own for what Jupyter keeps; ended by its own process"
    env = {**os.environ, 'HOME': str(folder/'home'), **{f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}, 'IPYTHONDIR': str(folder/'ipython'), 'MPLCONFIGDIR': str(folder/'mpl')}
    for k in ('HOME', 'JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR'): Path(env[k]).mkdir(parents=True, exist_ok=True)
    (folder/'config'/'labconfig').mkdir(parents=True, exist_ok=True)
    (folder/'config'/'labconfig'/'page_config.json').write_text(json.dumps({'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}))
    with open(folder/'server.txt', 'wb') as log: p = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder, start_new_session=True)
    try:
        until = time.monotonic() + seconds
        while True:
            try: get(url); break
            except OSError:
                if p.poll() is not None or time.monotonic() > until: raise RuntimeError(f'{command[2]} did not start: {(folder/"server.txt").read_text()[-2000:]}') from None
                time.sleep(.1)
        yield p
    finally:
        p.terminate()
        try: p.wait(15)
        except subprocess.TimeoutExpired: p.kill()

def write_notebook(file, *cells):
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in cells], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nbformat.write(nb, file)

@contextmanager
def voila(folder):
    "Address of a Voilà that shows the notebooks of `folder`"
    port = free_port()
    with server([sys.executable, '-m', 'voila', str(folder), '--no-browser', f'--port={port}', '--Voila.ip=127.0.0.1', '--show_tracebacks=True',
                 '--VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension'], f'http://127.0.0.1:{port}/', folder): # Notebook 7's own, which asks for modules that Voilà hasn't
        yield f'http://127.0.0.1:{port}/voila/render'

@contextmanager
def lab(folder, program='jupyterlab'):
    "Address of a JupyterLab, or of the program `notebook` (Notebook 7), with `folder` as its root"
    port = free_port()
    with server([sys.executable, '-m', program, '--no-browser', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=', '--ServerApp.allow_root=True',
                 f'--ServerApp.root_dir={folder}', f'--LabServerApp.workspaces_dir={folder/"workspaces"}'], f'http://127.0.0.1:{port}/api', folder):
        yield f'http://127.0.0.1:{port}'

@contextmanager
def files(folder):
    "Address of a server of files"
    port = free_port()
    with tempfile.TemporaryDirectory() as d, server([sys.executable, '-m', 'http.server', str(port), '--bind', '127.0.0.1', '--directory', str(Path(folder).absolute())], f'http://127.0.0.1:{port}/', Path(d)): yield f'http://127.0.0.1:{port}'

class Faults(list):
    "What a page complains about; a request to elsewhere is answered with nothing, and noted"
    def __init__(self, page):
        super().__init__()
        self.elsewhere, where = [], lambda url: url.split('/')[2].split(':')[0] if '://' in url else ''
        def route(r):
            if where(r.request.url) in ('127.0.0.1', 'localhost', ''): r.continue_()
            else: self.elsewhere.append(r.request.url); r.fulfill(status=200, body='')
        page.route('**/*', route)
        page.on('console', lambda m: self.append(f"console: {m.text[:300]} {(m.location or {}).get('url', '')}".strip()) if m.type == 'error' else None)
        page.on('pageerror', lambda e: self.append(f'error: {str(e)[:300]}'))
        page.on('response', lambda r: self.append(f'{r.status}: {r.url}') if r.status >= 400 else None)

@contextmanager
def browser(folder, **kwargs):
    "A page of a new Chromium; its faults are `page.faults`"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as pw:
        context = pw.chromium.launch_persistent_context(str(folder/'profile'), executable_path=chromium, args=arguments, headless=True, **kwargs)
        page = context.pages[0]
        page.faults = Faults(page)
        page.set_default_timeout(1000*patience)
        try: yield page
        finally: context.close()

def run_all(page, address, name, view='lab/tree'):
    "Open a notebook in JupyterLab (or by `notebooks` in Notebook 7) and run its cells, once its kernel is there"
    page.goto(f'{address}/{view}/{name}' + ('?reset' if view == 'lab/tree' else ''))
    until = time.monotonic() + patience
    while not any(s['kernel']['execution_state'] == 'idle' and s['kernel']['connections'] for s in json.loads(get(f'{address}/api/sessions'))):
        if time.monotonic() > until: raise RuntimeError('no kernel')
        page.wait_for_timeout(200) # a sleep would keep the page from its answers
    page.locator('.jp-Notebook-ExecutionIndicator[data-status=idle]').wait_for()
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()

def unnamed(page):
    "What a screen reader would find without a name: buttons, fields, handles, tabs and pictures (Chromium's accessibility tree)"
    told = page.context.new_cdp_session(page)
    kinds = 'button', 'textbox', 'combobox', 'slider', 'checkbox', 'tab', 'image', 'listbox', 'spinbutton'
    found = [(o['role']['value'], o.get('name', {}).get('value', '')) for o in told.send('Accessibility.getFullAXTree')['nodes'] if not o.get('ignored') and o['role']['value'] in kinds]
    assert found
    return [role for role, name in found if not name.strip()]

if __name__ == '__main__' and missing: print(missing)
