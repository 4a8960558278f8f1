"A saved model behind an address: what is asked is answered, what can't be is refused in a line, and nobody holds the others up."
import base64, io, json, os, re, shlex, signal, socket, subprocess, sys, threading, time, zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
httpx = pytest.importorskip('httpx')
pytest.importorskip('fastapi')
from conftest import photo, photos, scenes
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
import browser
from starlette.testclient import TestClient
from tl_nbdev.apps.serve import tl_serve
from tl_nbdev.base.settings import TransferError
from tl_nbdev.base.processes import child_command, child_env
from tl_nbdev.sharing.serve_page import docker_folder, pages
from tl_nbdev.sharing.server import Limits, Service, serving
from tl_nbdev.training.saved import load_transfer

patience = 300 # seconds until what must come is said not to come

def texts_saved(to, **columns):
    "A model of texts or pairs, trained for a moment"
    import pandas as pd
    from tl_nbdev.text.texts import TextTask
    from tl_nbdev.training.learner import transfer_learner, watched
    dry, wet = 'dust sand heat desert sun'.split(), 'rain sea river storm flood'.split()
    rows = [dict(text=' '.join(np.random.default_rng(i).permutation(words)), second=f'number {i}', label=label)
            for i in range(20) for label, words in (('dry', dry), ('<wet & "odd">', wet))]
    task = TextTask.from_df(pd.DataFrame(rows), text='text', label='label', name='weather', **columns)
    learn = transfer_learner(task, 'bert-tiny', size=32, seed=0, bs=8)
    with watched(learn): learn.transfer('feature', 3)
    return learn.save_transfer(to, check=False)

@pytest.fixture(scope='session')
def text_model(tmp_path_factory): return texts_saved(tmp_path_factory.mktemp('texts')/'model')

@pytest.fixture(scope='session')
def predictor(model): return load_transfer(model.folder)

@contextmanager
def asked(predictor, **limits):
    "A client of an application in this process"
    app = serving(predictor, Limits(**{'seconds': patience, **limits}), [pages])
    with TestClient(app, raise_server_exceptions=False) as client: yield client

@pytest.fixture(scope='module')
def client(predictor):
    with asked(predictor, mb=1, items=8) as client: yield client

@contextmanager
def spawner(folder):
    "A process that has loaded what a server imports, of which each server is a fork: `ask(request)` gives what it says"
    code = """import json, os, signal, sys
from pathlib import Path
import tl_nbdev.text.modality, tl_nbdev.vision.modality, tl_nbdev.sharing.serve_page, tl_nbdev.training.saved, uvicorn
from tl_nbdev.apps.serve import tl_serve
for line in sys.stdin:
    asked = json.loads(line)
    if 'argv' not in asked: said = os.waitstatus_to_exitcode(os.waitpid(asked['wait'], 0)[1])
    elif not (said := os.fork()):
        for name, at in (('out', 1), ('err', 2)): os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), at)
        status = 70
        try: status = tl_serve(asked['argv'])
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(said, flush=True)
"""
    process = subprocess.Popen(child_command(code), env=child_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    def ask(**asked):
        process.stdin.write(json.dumps(asked) + '\n')
        process.stdin.flush()
        return int(process.stdout.readline())
    try: yield SimpleNamespace(ask=ask, folder=folder, served=0)
    finally:
        process.stdin.close()
        process.wait(patience)

@pytest.fixture(scope='module')
def forks(tmp_path_factory):
    with spawner(tmp_path_factory.mktemp('forks')) as found: yield found

def until(holds):
    "Wait for what must come"
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, 'it did not come'
        time.sleep(.02)

class Server:
    "`tl-serve` in a process of its own"
    def __init__(self, forks, folder, *options):
        forks.served += 1
        self.forks, self.files, self.status = forks, [forks.folder/f'{forks.served}.{end}' for end in ('out', 'err')], None
        self.pid = forks.ask(argv=[str(folder), '--port', '0', *map(str, options)], out=str(self.files[0]), err=str(self.files[1]))
        until(lambda: all(file.exists() for file in self.files) and ('http://' in self.said(0) or '\n' in self.said(1) and not options))
        self.url = re.search(r'http://\S+', self.said(0))[0]
        self.port = int(self.url.rpartition(':')[2])

    def said(self, where): return self.files[where].read_text('utf-8')

    def end(self, number=signal.SIGTERM):
        "Exit status"
        if self.status is None:
            os.kill(self.pid, number)
            self.status = self.forks.ask(wait=self.pid)
        return self.status

@contextmanager
def started(forks, folder, *options):
    server = Server(forks, folder, *options)
    try: yield server
    finally: server.end()

@pytest.fixture(scope='module')
def running(forks, model):
    with started(forks, model.folder, '--timeout', 3, '--max-mb', 1) as server: yield server

def png(im=None):
    data = io.BytesIO()
    (im or photo('round')).save(data, 'PNG')
    return data.getvalue()

def b64(data): return base64.b64encode(data).decode()

def refused(answer, status, *words):
    "Was it refused by this status and one line that holds the words, and nothing of this machine?"
    assert answer.status_code == status, (answer.status_code, answer.text[:300])
    said = answer.json()
    assert list(said) == ['error'] and '\n' not in said['error'] and 0 < len(said['error']) < 300, said
    for word in words: assert word in said['error'], said
    assert 'Traceback' not in answer.text and not re.search(r'(?<!\w)/(?:tmp|home|root|usr|work)/', answer.text), answer.text

def image(client, data, kind='image/png', query=''): return client.post(f'/predict{query}', content=data, headers={'Content-Type': kind})

def works(client):
    answer = image(client, png())
    assert answer.status_code == 200, answer.text
    return answer.json()['answers'][0]


# what is asked is answered

def test_three_ways_to_ask_give_what_the_predictor_gives(client, predictor):
    data = [png(photo(kind, seed)) for kind in ('round', 'square') for seed in range(2)]
    want = [predictor.predict(each, proba=True) for each in data]
    ways = [client.post('/predict?proba=true', files=[('file', (f'{i}.png', each)) for i, each in enumerate(data)]).json()['answers'],
            client.post('/predict?proba=true', json=dict(images=[b64(each) for each in data])).json()['answers'],
            [client.post('/predict?proba=true', json=dict(image='data:image/png;base64,' + b64(each))).json()['answers'][0] for each in data],
            [image(client, each, query='?proba=true').json()['answers'][0] for each in data]]
    for rows in ways:
        for row, all in zip(rows, want, strict=True):
            assert row['probabilities'].keys() == all.keys() and row['label'] == max(all, key=all.get)
            assert all == pytest.approx(row['probabilities'], abs=1e-5)
    assert [row['name'] for row in ways[0]] == ['0.png', '1.png', '2.png', '3.png']
    one = image(client, data[0], query='?top=1').json()['answers'][0]
    assert list(one['probabilities']) == [one['label']]

def test_texts_and_pairs(text_model, tmp_path):
    model = load_transfer(text_model)
    said = ['sand and sun', 'a storm at sea', 'ein Fluß 河 🌧']
    with asked(model) as client:
        want = [row['label'] for row in model.predict(said)]
        for got in (client.post('/predict', json=dict(texts=said)), client.post('/predict', files=[('file', ('a.txt', each.encode())) for each in said])):
            assert [row['label'] for row in got.json()['answers']] == want
        assert client.post('/predict', content=said[2].encode(), headers={'Content-Type': 'text/plain; charset=utf-8'}).json()['answers'][0]['label'] == want[2]
        assert 'note' in client.post('/predict', json=dict(text='rain '*200)).json()['answers'][0]
        refused(client.post('/predict', json=dict(texts=[['a', 'b']])), 422, 'one text is wanted')
    pairs = load_transfer(texts_saved(tmp_path/'pairs', second='second'))
    with asked(pairs) as client:
        got = client.post('/predict', json=dict(texts=[['rain', 'number 1'], ['sand', 'number 2']])).json()['answers']
        assert [row['label'] for row in got] == [row['label'] for row in pairs.predict([('rain', 'number 1'), ('sand', 'number 2')])]
        assert client.post('/predict', json=dict(text='rain', second='number 1')).json()['answers'][0] == got[0]
        refused(client.post('/predict', json=dict(text='rain')), 422, 'two texts are wanted')
        assert client.get('/').text.count('<textarea') == 2

@pytest.mark.parametrize('kind', ['numbers', 'several'])
def test_numbers_and_several_labels(kind, tmp_path):
    import pandas as pd
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner, watched
    photos(tmp_path/'photos', 12)
    files = sorted((tmp_path/'photos').rglob('*.png'))
    labels = [float(i) for i in range(24)] if kind == 'numbers' else [['a', 'b'] if i % 3 else ['a'] for i in range(24)]
    task = ImageTask.from_df(pd.DataFrame(dict(file=[str(f) for f in files], label=labels)), label='label', name=kind, **(dict(regression=True) if kind == 'numbers' else {}))
    learn = transfer_learner(task, 'squeezenet1_1', size=48, seed=0, bs=8)
    with watched(learn): learn.transfer('feature', 2)
    model = load_transfer(learn.save_transfer(tmp_path/'model', check=False))
    data = png()
    with asked(model) as client:
        row, want = works(client), model.predict([data])[0]
        assert all(row[name] == pytest.approx(want[name], abs=1e-5) for name in ('value',) if name in want) and row.get('label') == want.get('label')
        if kind == 'numbers': refused(image(client, data, query='?top=1'), 422, 'predicts a number')
        else: assert set(image(client, data, query='?proba=1').json()['answers'][0]['probabilities']) == {'a', 'b'}
        assert client.get('/').status_code == 200

def test_health_card_openapi_and_pages(client):
    health = client.get('/health').json()
    assert health['ready'] and health['waiting'] == 0 and health['uptime_seconds'] >= 0 and 'squeezenet1_1' in health['model']
    card = client.get('/card', headers={'Accept': 'application/json'}).json()
    assert card['classes'] == ['round', 'square'] and card['result']['metric'] == 'accuracy' and card['reads'] == 'images'
    assert client.get('/card').text.startswith('---\nlicense') and '<h1>' in client.get('/card', headers={'Accept': 'text/html,*/*'}).text
    known = client.get('/openapi.json').json()
    assert {'/predict', '/health', '/card'} == known['paths'].keys() and '413' in known['paths']['/predict']['post']['responses']
    docs = client.get('/docs')
    assert 'POST /predict' in docs.text and '<script' not in docs.text
    for page in ('/', '/docs', '/page.css', '/page.js', '/card'):
        got = client.get(page, headers={'Accept': 'text/html'})
        assert got.status_code == 200 and not re.search(r'(?:src|href)="(?:https?:)?//|url\(|@import', got.text), page
        assert 'access-control-allow-origin' not in got.headers and got.headers['x-content-type-options'] == 'nosniff'
    assert "default-src 'none'" in docs.headers['content-security-policy']


# what can't be answered is refused in a line, and then it goes on answering

def bomb(side=20_000):
    "A PNG of 400 million pixels in half a megabyte"
    def chunk(kind, data): return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    header = side.to_bytes(4, 'big')*2 + bytes([8, 0, 0, 0, 0])
    packed = zlib.compressobj(9)
    data = b''.join(packed.compress(bytes(side + 1)) for _ in range(side)) + packed.flush()
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')

JSON, form = 'application/json', 'multipart/form-data; boundary=b'
bad = {
    'nothing': (b'', 'image/png', 400, 'empty file'), 'no image': (b'hello', 'image/png', 422, 'not an image'), 'a page': (b'<!DOCTYPE html>', 'image/png', 422, 'a web page'),
    'torn': (png()[:200], 'image/png', 422, 'decoded'), 'bomb': (bomb, 'image/png', 422, 'pixels'), 'too long': (bytes(1_100_000), 'image/png', 413, '1 MB'),
    'no type': (png(), '', 415, 'is not read here'), 'another type': (b'<a/>', 'text/xml', 415, '"text/xml"'), 'text for images': (b'hello', 'text/plain', 415, 'image/'),
    'broken JSON': (b'{"images": [', JSON, 400, 'not JSON'), 'a list': (b'[]', JSON, 400, 'no object'), 'NaN': (b'{"images": [NaN]}', JSON, 400, 'base64'),
    'another key': (b'{"texts": ["a"]}', JSON, 400, '"texts"'), 'no list': (b'{"images": "a"}', JSON, 400, 'is no list'), 'none': (b'{"images": []}', JSON, 400, 'no image in it'),
    'an empty object': (b'{}', JSON, 400, 'nothing'), 'a number': (b'{"images": [3]}', JSON, 400, 'base64'), 'a path': (b'{"images": ["/etc/passwd"]}', JSON, 400, 'base64'),
    'deep': (b'['*200_000, JSON, 400, ''), 'a long number': (b'{"images": ' + b'9'*100_000 + b'}', JSON, 400, ''), 'Latin-1': ('{"images": ["é"]}'.encode('latin-1'), JSON, 400, 'UTF-8'),
    'null bytes': (b'\0'*50, JSON, 400, ''), 'too many': (json.dumps(dict(images=['YQ==']*9)).encode(), JSON, 413, 'at most 8'),
    'no boundary': (b'--b--', 'multipart/form-data', 400, 'form'), 'a torn form': (b'--b\r\nContent-Disp', form, 400, ''), 'an empty form': (b'--b--\r\n', form, 400, 'no image'),
    'another field': (b'--b\r\nContent-Disposition: form-data; name="x"; filename="a"\r\n\r\na\r\n--b--\r\n', form, 400, 'call it file'),
    'no form at all': (b'\xff\xfe\0'*99, form, 400, ''), 'an empty file': (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--b--\r\n', form, 400, 'empty'),
}

@pytest.mark.parametrize('name', bad)
def test_a_bad_body_is_refused_in_a_line(client, name):
    data, kind, status, words = bad[name]
    refused(image(client, data() if callable(data) else data, kind), status, words)
    works(client)

def test_texts_that_are_none(text_model):
    with asked(load_transfer(text_model), characters=100) as client:
        def sent(data, kind='text/plain'): return client.post('/predict', content=data, headers={'Content-Type': kind})
        refused(sent('café'.encode('latin-1')), 400, 'UTF-8')
        refused(sent(b'a\0b'), 400, 'null bytes')
        refused(sent(b'{"text": "a\\u0000b"}', JSON), 400, 'null bytes')
        refused(sent(b'{"text": "\\ud83d"}', JSON), 400, 'surrogate')
        refused(sent(b'a'*101), 400, 'at most 100')
        refused(sent(b'{"text": 3}', JSON), 400, 'no text')
        refused(sent(b'{"text": "a", "third": "b"}', JSON), 400, '"third"')
        refused(sent(b'  '), 422, 'no text')
        refused(sent(png(), 'image/png'), 415)
        assert sent(b'rain').status_code == 200

def test_other_refusals(client):
    refused(client.get('/nowhere/../../etc/passwd'), 404)
    refused(client.get('/predict'), 405)
    refused(client.post('/health'), 405)
    for query in ('?top=0', '?top=many', '?proba=perhaps', '?top=-1'): refused(image(client, png(), query=query), 422)
    assert len(image(client, png(), query='?top=99999999999999999999999').json()['answers'][0]['probabilities']) == 2
    refused(client.post('/predict', content=png(), headers={'Content-Type': 'image/png', 'Content-Encoding': 'gzip'}), 415, 'packed')

def test_an_item_that_cannot_be_read_does_not_spoil_the_others(client):
    rows = client.post('/predict', json=dict(images=[b64(png()), 'not base64', b64(b'no image'), b64(png(photo('square')))])).json()['answers']
    assert ['error' in row for row in rows] == [False, True, True, False] and 'not an image' in rows[2]['error']

def test_pictures_of_other_kinds(client):
    "A moving picture is its first frame; what no decoder here reads says what does"
    moving = io.BytesIO()
    photo('round').save(moving, 'GIF', save_all=True, append_images=[photo('square')])
    assert 'label' in image(client, moving.getvalue(), 'image/gif').json()['answers'][0]
    answer = image(client, b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'image/heic')
    refused(answer, 422)
    works(client)

def test_a_model_that_fails_says_so_and_keeps_why_to_itself(predictor, monkeypatch):
    with asked(predictor) as client:
        real = client.app.state.service.batcher.answer
        def breaks(items):
            if len(items) == 2 or items == [png(photo('square'))]: raise RuntimeError('CUDA error at /home/somebody/secret')
            return real(items)
        monkeypatch.setattr(client.app.state.service.batcher, 'answer', breaks)
        rows = client.post('/predict', json=dict(images=[b64(png()), b64(png(photo('square')))])).json()['answers']
        assert 'label' in rows[0] and rows[1] == dict(error='the model failed at this image')
        refused(image(client, png(photo('square'))), 422, 'the model failed')
        monkeypatch.setattr(Service, 'predicted', lambda *args, **kwargs: 1/0)
        refused(image(client, png()), 500, 'in the log')

def test_what_does_not_fit_into_the_queue_is_told_when_to_come_again(predictor):
    with asked(predictor, waiting=2, items=8) as client:
        answer = client.post('/predict', json=dict(images=[b64(png())]*3))
        refused(answer, 503, 'at most 2 may')
        assert answer.headers['retry-after'] == '1'
        works(client)

def test_an_answer_that_takes_too_long_is_not_waited_for(predictor, monkeypatch):
    with asked(predictor, seconds=.2) as client:
        free, real = threading.Event(), client.app.state.service.batcher.answer
        def slow(items): free.wait(patience); return real(items)
        monkeypatch.setattr(client.app.state.service.batcher, 'answer', slow)
        refused(image(client, png()), 503, 'within 0.2 s')
        free.set()

def test_only_a_saved_model_and_sane_limits(tmp_path, capsys):
    for wrong in (dict(mb=0), dict(items=0), dict(seconds=float('inf')), dict(mb=float('nan')), dict(waiting=-1)):
        with pytest.raises(TransferError, match='use a number above 0'): Limits(**wrong)
    assert tl_serve([str(tmp_path/'none')]) == 1
    said = capsys.readouterr().err
    assert said.startswith('tl-serve: ') and said.count('\n') == 1

def test_without_the_extra_one_line_says_what_to_install(model):
    code = 'import sys\nsys.modules["fastapi"] = None\nfrom tl_nbdev.apps.serve import tl_serve\nsys.exit(tl_serve())'
    said = subprocess.run(child_command(code, model.folder), env=child_env(), capture_output=True, text=True)
    assert said.returncode == 1 and said.stderr.count('\n') == 1 and 'pip install "tl_nbdev[serve]"' in said.stderr, said.stderr
    code = 'import sys\nfrom tl_nbdev.apps.serve import tl_serve\ntry: tl_serve(["--help"])\nfinally: print("torch" in sys.modules, "fastapi" in sys.modules)'
    said = subprocess.run(child_command(code), env=child_env(), capture_output=True, text=True)
    assert said.stdout.splitlines()[-1] == 'False False' and '--max-mb' in said.stdout


# over a real connection

def knock(running, *pieces, close=False, seconds=patience):
    "What a server says to these bytes, until it closes or the first answer is whole"
    with socket.create_connection(('127.0.0.1', running.port), timeout=seconds) as sock:
        for piece in pieces: sock.sendall(piece)
        if close: sock.shutdown(socket.SHUT_WR)
        said = b''
        while b'\r\n\r\n' not in said or len(said.partition(b'\r\n\r\n')[2]) < int((re.search(rb'content-length: (\d+)', said) or [0, 0])[1]):
            try: got = sock.recv(65536)
            except ConnectionResetError: break
            if not got: break
            said += got
        return said

def post(*headers, length=None):
    "The beginning of a request"
    said = ['POST /predict HTTP/1.1', 'Host: a', 'Content-Type: image/png', *headers]
    return '\r\n'.join([*said, *([] if length is None else [f'Content-Length: {length}']), '', '']).encode()

def alive(running): assert httpx.post(f'{running.url}/predict', content=png(), headers={'Content-Type': 'image/png'}, timeout=patience).status_code == 200

def test_many_ask_at_once_and_each_gets_their_answer(running, predictor):
    kinds = [(kind, seed) for seed in range(10) for kind in ('round', 'square')]
    data = [png(photo(*kind)) for kind in kinds]
    want = [predictor.predict(each, proba=True) for each in data]
    def person(who):
        with httpx.Client(timeout=patience) as client:
            for i in range(who, 200, 16):
                got = client.post(f'{running.url}/predict?proba=1', content=data[i % 20], headers={'Content-Type': 'image/png'})
                yield i, got.status_code, got.json()['answers'][0]['probabilities']
    with ThreadPoolExecutor(16) as pool: answers = [one for person in pool.map(lambda who: list(person(who)), range(16)) for one in person]
    assert sorted(i for i, _, _ in answers) == list(range(200)) and {status for _, status, _ in answers} == {200}
    for i, _, found in answers: assert found == pytest.approx(want[i % 20], abs=1e-5)
    health = httpx.get(f'{running.url}/health').json()
    assert health['waiting'] == 0 and health['batches'] < health['answered'], 'none was answered together with others'

def test_lengths_that_are_missing_or_lie(running):
    assert b' 400 ' in knock(running, post()) # no length, no body
    assert b' 413 ' in knock(running, post(length=10**12)) # not a byte of it is sent
    assert b' 413 ' in knock(running, post('Transfer-Encoding: chunked'), *[b'20000\r\n' + bytes(0x20000) + b'\r\n']*9)
    for wrong in ('-5', 'many', '9'*40): assert b' 4' in knock(running, post(length=wrong))[:20]
    assert b' 422 ' in knock(running, post(length=5), b'a'*50)[:20] # five bytes are no image, and the rest is no request
    data = png()
    assert b' 200 ' in knock(running, post('Transfer-Encoding: chunked'), f'{len(data):x}\r\n'.encode() + data + b'\r\n0\r\n\r\n')
    assert b' 408 ' in knock(running, post(length=500), b'a') # promises more than it sends
    knock(running, post(length=500), b'a', close=True) # whatever it hears
    alive(running)

def test_what_is_no_http_gets_a_line_too(running):
    said = knock(running, b'\x16\x03\x01\0\xa5hello\r\n\r\n')
    assert b' 400 ' in said and json.loads(said.partition(b'\r\n\r\n')[2])['error'].startswith('not a request')
    knock(running, b'GET /health HTTP/1.1\r\nHost: a\r\nX: ' + b'a'*200_000 + b'\r\n\r\n')
    knock(running, post('Transfer-Encoding: chunked'), b'no number\r\n')
    alive(running)

def test_a_hundred_megabytes_are_refused_while_they_come(running):
    def much():
        for _ in range(1000): yield bytes(100_000)
    try: refused(httpx.post(f'{running.url}/predict', content=much(), headers={'Content-Type': 'image/png'}, timeout=patience), 413, '1 MB')
    except httpx.TransportError: pass # cut off before it could listen
    refused(httpx.post(f'{running.url}/predict', content=bytes(5_000_000), headers={'Content-Type': 'image/png'}, timeout=patience), 413)
    alive(running)

def test_slow_clients_hold_nobody_up(running):
    "Fifty that never finish their request, in its head or in its body: others are answered meanwhile, and those are cut off"
    slow = [socket.create_connection(('127.0.0.1', running.port), timeout=patience) for _ in range(50)]
    for i, sock in enumerate(slow): sock.sendall(post(length=500)[:-2] if i % 2 else post(length=500) + b'a')
    alive(running)
    for i, sock in enumerate(slow):
        try: said = sock.recv(1000)
        except ConnectionResetError: said = b''
        assert said == b'' if i % 2 else b' 408 ' in said
        sock.close()
    alive(running)

def test_a_client_that_is_killed_leaves_nothing(running):
    code = f'''import socket, sys, time
sock = socket.create_connection(("127.0.0.1", {running.port}))
sock.sendall({post(length=len(png())) + png()!r})
print("asked", flush=True)
time.sleep(600)'''
    children = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) for _ in range(3)]
    for child in children: child.stdout.readline(), child.kill(), child.wait()
    alive(running)
    assert httpx.get(f'{running.url}/health').json()['waiting'] == 0

@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_is_answered(forks, model, number):
    with started(forks, model.folder, '--wait-ms', 1500, '--batch', 64) as server: # so long that the signal comes before the answers
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(httpx.post, f'{server.url}/predict', content=png(), headers={'Content-Type': 'image/png'}, timeout=patience) for _ in range(8)]
            until(lambda: sum(httpx.get(f'{server.url}/health').json()[name] for name in ('waiting', 'answered')) == 8)
            status = server.end(number)
            assert [answer.result().status_code for answer in answers] == [200]*8
        assert status == 0 and 'ended, 8 answered' in server.said(0) and 'Traceback' not in server.said(1), server.said(1)
        with pytest.raises(httpx.ConnectError): httpx.get(f'{server.url}/health')

def test_a_port_that_is_taken_and_an_address_for_others(forks, running, model, capsys):
    assert tl_serve([str(model.folder), '--port', str(running.port)]) == 1
    said = capsys.readouterr().err
    assert 'is taken: use --port 0' in said and said.count('\n') == 1
    with started(forks, model.folder, '--host', '0.0.0.0') as server:
        assert httpx.get(f'http://127.0.0.1:{server.port}/health').status_code == 200
        assert 'can be reached by others' in server.said(1)
    told = [line for line in running.said(1).splitlines() if 'Invalid HTTP request' not in line]
    assert not told, 'of all that was sent here, nothing else is worth a line in the log'


# boxes

@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    "A saved detector that has learned nothing, and so is asked for boxes of low scores; its folder, and a photo"
    import torch
    from tl_nbdev.boxes.detection import DetectionTask
    from tl_nbdev.training.learner import transfer_learner
    task = DetectionTask.from_coco(scenes(tmp_path_factory.mktemp('scenes'))/'annotations.json', name='scenes')
    task.answer.least = .05
    torch.manual_seed(0)
    learn = transfer_learner(task, 'faster_rcnn:mobilenetv3_small_050', source='random', size=64, bs=4, seed=0)
    return learn.save_transfer(tmp_path_factory.mktemp('boxes')/'model', check=False), task.part('test').item.iloc[0]

def test_boxes_come_in_pixels_of_the_photo_that_was_sent(detector):
    folder, file = detector
    model, turned = load_transfer(folder), io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(file).save(turned, 'JPEG', exif=exif)
    with asked(model) as client:
        data = [('file', ('a.png', file.read_bytes())), ('file', ('b.jpg', turned.getvalue()))]
        rows = client.post('/predict', files=data).json()['answers']
        wide, high = Image.open(file).size
        assert [(row['width'], row['height']) for row in rows] == [(wide, high), (high, wide)] and client.app.state.service.batcher.batches == 1
        boxes = rows[0]['boxes']
        assert boxes == [{name: box[name] for name in boxes[0]} for box in model.predict(file)] and len(boxes) > 1
        assert all(0 <= box['x0'] <= box['x1'] <= wide and 0 <= box['y0'] <= box['y1'] <= high for box in boxes)
        said = client.get('/openapi.json').json()['paths']['/predict']['post']['responses']['200']['content']['application/json']['schema']
        row = said['properties']['answers']['items']['properties']
        assert row['boxes']['items']['properties']['label']['enum'] == ['bar', 'square'] and 'pixels' in row['boxes']['items']['properties']['x0']['description']
        assert set(rows[0]) <= set(row) and 'probabilities' not in row
        refused(client.post('/predict?top=2', files=data), 422, 'leave proba and top out')

def test_the_description_of_labels(client):
    row = client.get('/openapi.json').json()['paths']['/predict']['post']['responses']['200']['content']['application/json']['schema']['properties']['answers']['items']['properties']
    assert row['label']['enum'] == ['round', 'square'] and row['probability']['maximum'] == 1

@pytest.mark.skipif(bool(browser.missing), reason=browser.missing or '')
def test_boxes_are_drawn_over_the_photo(forks, detector, tmp_path):
    folder, file = detector
    with started(forks, folder) as server, browser.browser(tmp_path, viewport=dict(width=390, height=800), color_scheme='dark') as page:
        page.goto(server.url)
        page.locator('input[type=file]').set_input_files(file)
        page.wait_for_function('() => document.querySelector(".photo img")?.naturalWidth && document.querySelector(".frame")')
        boxes = httpx.post(f'{server.url}/predict', content=file.read_bytes(), headers={'Content-Type': 'image/png'}).json()['answers'][0]['boxes']
        assert page.locator('.frame').count() == page.locator('.rank').count() == len(boxes)
        shown, last = page.locator('.photo').bounding_box(), page.locator('.frame').last.bounding_box() # the surest, on top
        scale = shown['width']/Image.open(file).width
        assert last['x'] - shown['x'] == pytest.approx(scale*boxes[0]['x0'], abs=3) and last['width'] == pytest.approx(scale*(boxes[0]['x1'] - boxes[0]['x0']), abs=5)
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth') and not browser.unnamed(page) and not page.faults


# a container

def test_the_folder_of_a_container_has_all_that_it_needs(predictor, model, tmp_path):
    folder = docker_folder(predictor, model.folder, tmp_path/'container')
    lines = [line for line in (folder/'Dockerfile').read_text('utf-8').splitlines() if line and line[0] != '#']
    words = [line.partition(' ')[::2] for line in lines]
    assert words[0][0] == 'FROM' and {'USER', 'HEALTHCHECK', 'EXPOSE', 'CMD'} <= {word for word, _ in words}
    assert dict(words)['USER'] != 'root' and [word for word, _ in words].index('USER') < [word for word, _ in words].index('CMD')
    for word, rest in words:
        if word == 'COPY': assert all((folder/source).exists() for source in shlex.split(rest)[:-1]), rest
    from packaging.requirements import Requirement
    pins = {r.name: str(r.specifier) for r in map(Requirement, (folder/'requirements.txt').read_text('utf-8').splitlines())}
    assert {'torch', 'fastapi', 'uvicorn', 'timm', 'safetensors'} <= pins.keys() and all(spec.startswith('==') for spec in pins.values())
    assert all(pins[name] == '==' + version.partition('+')[0] for name, version in predictor.info['versions'].items() if name in pins)
    argv = json.loads(dict(words)['CMD'])
    argv[argv.index('--port') + 1], argv[argv.index('--host') + 1] = '0', '127.0.0.1'
    process = subprocess.Popen([sys.executable, *argv[1:]], cwd=folder, env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    try: assert httpx.get(re.search(r'http://\S+', line)[0] + '/health').json()['ready'], process.stderr.read()
    finally: process.terminate(), process.communicate()
    (folder/'mine.txt').write_text('mine')
    with pytest.raises(TransferError, match='nothing is overwritten'): docker_folder(predictor, model.folder, folder)


# the page in a browser

@pytest.mark.skipif(bool(browser.missing), reason=browser.missing or '')
def test_a_photo_is_dropped_and_its_label_read(forks, running, text_model, tmp_path):
    odd = tmp_path/'<img src=x onerror=alert(1)>.png'
    odd.write_bytes(png())
    label = httpx.post(f'{running.url}/predict', content=png(), headers={'Content-Type': 'image/png'}).json()['answers'][0]['label']
    with browser.browser(tmp_path, viewport=dict(width=390, height=800)) as page:
        page.goto(running.url)
        page.locator('input[type=file]').set_input_files(odd)
        page.wait_for_function('label => document.querySelector(".said")?.textContent === label', arg=label)
        assert page.locator('.answer').inner_text().startswith(odd.name) and page.locator('.rank').count() == 2
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
        drop = '''async data => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), all = new DataTransfer();
            all.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));
            document.querySelector('.drop').dispatchEvent(new DragEvent('drop', {dataTransfer: all, bubbles: true, cancelable: true}));
        }'''
        page.evaluate(drop, b64(png(photo('square'))))
        page.wait_for_function('() => document.querySelectorAll(".said").length === 2 && document.querySelector(".answer").textContent.startsWith("dropped.png")')
        page.locator('input[type=file]').set_input_files([dict(name='no.png', mimeType='image/png', buffer=b'no image')])
        page.wait_for_function('() => document.querySelector(".wrong")?.textContent === "not an image"')
        assert not browser.unnamed(page) and not page.faults.elsewhere
        assert not [fault for fault in page.faults if '422' not in fault], page.faults
        with started(forks, text_model) as server:
            page.goto(server.url)
            page.keyboard.press('Tab')
            page.keyboard.type('a flood of rain')
            page.keyboard.press('Control+Enter')
            page.wait_for_function('() => document.querySelector(".said")')
            shares = [float(share.split()[0]) for share in page.locator('.rank i').all_text_contents()]
            assert shares == sorted(shares, reverse=True)
            words = page.locator('.rank b').all_text_contents()
            assert sorted(words) == ['<wet & "odd">', 'dry'], words
