'''Seeded mutants of everything that is read from outside, each tried in a child process that is watched: how it ends, how long it takes,
how much memory it asks for, what it writes, whether it opens a socket or a pickle.

    python tests/fuzz.py KIND CASE [SEED]     one case again, with its traceback; its files are left in the folder that is printed
'''
import copy, gzip, hashlib, io, json, os, pickle, select, shutil, socket, struct, subprocess, sys, tempfile, time, traceback, zipfile, zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tl_nbdev.base.schema import sealed
from tl_nbdev.base.settings import TransferError

try: import resource
except ImportError: resource = None # Windows has none, and no forks

seconds, memory = 10., 2 << 30 # a case may take no longer, and ask for no more than that


# mutants of values, of JSON, and of bytes

odd_values = [None, True, False, 0, -1, 1, 2**31, -2**63, 10**30, 10**400, .5, -1e9, 1e308, 5e-324, float('nan'), float('inf'), -float('inf'), '', ' ', 'a', '0', '../x',
              '/etc/passwd', '\0', 'a\0b', '\ud800', 'x'*100_000, '🦊'*50, "a\nb", 'null', [], {}, [[]], [None], {'a': 1}, {'': {}}, [0]*1000, list('ab'),
              {'__class__': 'os.system'}, 'hf-hub:some/body', 'file:///etc/passwd', '${HOME}', '%s%n', '{0.__class__}']

def deep(depth, as_dict=False):
    found = 1
    for _ in range(depth): found = {'a': found} if as_dict else [found]
    return found

def places(value, path=()):
    "Paths of all values in JSON"
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in list(inside)[:50]: yield from places(v, (*path, k))

def mutated_value(rng, value):
    "A value like another, but odd"
    how = rng.integers(8)
    if how == 0 and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300: return [value + 1, -value, value*1000, str(value), float(value) + .5, [value]][rng.integers(6)]
    if how == 1 and isinstance(value, str): return [value + 'x', value[:-1], value.upper(), value*500, [value], value.encode('utf-8', 'replace').hex()][rng.integers(6)]
    if how == 2 and isinstance(value, list): return [value[::-1], value*2, value[:-1], [*value, None], [*value, *odd_values[:3]], dict(enumerate(value))][rng.integers(6)]
    if how == 3 and isinstance(value, dict): return [list(value), list(value.values()), {}, {**value, 'x': 1}, dict(list(value.items())[1:]), str(value)][rng.integers(6)]
    if how == 4: return deep(int(rng.choice([3, 45, 300])), bool(rng.integers(2)))
    return copy.deepcopy(odd_values[rng.integers(len(odd_values))])

def mutated_json(rng, value, times=None):
    "JSON with something odd somewhere"
    value = json.loads(json.dumps(value))
    for _ in range(times or int(rng.choice([1, 1, 1, 2, 5]))):
        paths = [p for p in places(value) if p]
        if not paths: return mutated_value(rng, value)
        *above, last = paths[rng.integers(len(paths))]
        inside = value
        for k in above: inside = inside[k]
        how = rng.integers(6)
        if how == 0: del inside[last]
        elif how == 1 and isinstance(inside, dict): inside[f'{last}x'] = inside.pop(last)
        elif how == 2 and isinstance(inside, list) and len(inside) > 1: inside[0], inside[last] = inside[last], inside[0]
        else: inside[last] = mutated_value(rng, inside[last])
    return json.loads(json.dumps(value))

def as_text(value):
    "JSON as Python writes it, which takes NaN and lone surrogates too"
    return json.dumps(value).encode()

def mutated_text(rng, data):
    "Bytes of a JSON, mutated as text"
    how = rng.integers(9)
    if how == 0: return data[:rng.integers(len(data) + 1)]
    if how == 1: return b'['*int(rng.choice([999, 5000, 100_000])) + data
    if how == 2: return data.replace(b': ', b': {"a": '*int(rng.choice([50, 2000])), 1)
    if how == 3: return data.replace(b'1', [b'NaN', b'-Infinity', b'1e999', b'1'*5000, b'0x1', b'01'][rng.integers(6)], 1)
    if how == 4: return data.replace(b'{', b'{"a": 1, "a": 2, ', 1)
    if how == 5: return b'\xef\xbb\xbf' + data
    if how == 6: return data.decode('utf-8', 'replace').encode(['utf-16', 'utf-32', 'utf-7'][rng.integers(3)])
    if how == 7: return data + [b'{}', b'\0', b'garbage', data][rng.integers(4)]
    return mutated_bytes(rng, data)

def mutated_bytes(rng, data):
    "Bytes with some flipped, cut, doubled or put in"
    data, how = bytearray(data), rng.integers(8)
    if how == 0: return bytes(data[:rng.integers(len(data) + 1)])
    if how == 1: return b''
    if how == 2: return rng.bytes(int(rng.choice([1, 100, 10_000])))
    if how == 3 and data:
        at = rng.integers(len(data))
        return bytes(data[:at] + data[at + rng.integers(1, 100):])
    if how == 4:
        at = rng.integers(len(data) + 1)
        return bytes(data[:at] + rng.bytes(int(rng.integers(1, 50))) + data[at:])
    if how == 5 and data:
        at, n = rng.integers(len(data)), int(rng.integers(1, 60))
        data[at:at + n] = [b'\0', b'\xff', b'\x80', b'9'][rng.integers(4)]*len(data[at:at + n])
        return bytes(data)
    near = min(len(data), int(rng.choice([16, 64, 1 << 30]))) # of most files the beginning says what they are
    for _ in range(int(rng.choice([1, 3, 20]))):
        if near: data[rng.integers(near)] = rng.integers(256)
    return bytes(data)

def replaced(rng, file, others=()):
    "Put something else in the place of a file; a word for what"
    how = ['gone', 'empty', 'folder', 'fifo', 'link to nothing', 'link to itself', 'swapped', 'device', 'unreadable', 'socket'][rng.integers(10)]
    data = file.read_bytes()
    file.unlink()
    if how == 'empty': file.touch()
    elif how == 'folder': file.mkdir()
    elif how == 'fifo': os.mkfifo(file)
    elif how == 'link to nothing': file.symlink_to(file.parent/'nowhere')
    elif how == 'link to itself': file.symlink_to(file)
    elif how == 'device': file.symlink_to('/dev/zero')
    elif how == 'swapped' and others: shutil.copy(others[rng.integers(len(others))], file)
    elif how == 'socket' and len(str(file)) < 100:
        with socket.socket(socket.AF_UNIX) as s: s.bind(str(file))
    elif how == 'unreadable':
        file.write_bytes(data)
        file.chmod(0)
    return how

class Trap:
    "Opening its pickle makes a file"
    def __init__(self, file): self.file = file
    def __reduce__(self): return Path.touch, (self.file,)


# one case, watched

@dataclass
class Kind:
    "What is fuzzed, and how"
    name: str
    cases: int        # of the whole
    few: int          # in an ordinary run
    prepare: object   # a folder → what all cases share
    case: object      # shared, rng, the case's folder → function that is tried, and what may come out besides a refusal

def _vm():
    said = Path('/proc/self/status')
    if not said.exists(): return 0
    return int(next(l.split()[1] for l in said.read_text().splitlines() if l.startswith('VmSize')))*1024

def _watch(folder, found):
    "Note what must not happen: a pickle that is opened, a process, a socket, a file written elsewhere"
    inside = os.path.realpath(folder)
    def hook(event, args):
        if event in ('pickle.find_class', 'socket.connect', 'socket.getaddrinfo', 'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn'): found.append(f'{event} {args[:2]}')
        if event != 'open' or not isinstance(args[0], (str, bytes)) or not isinstance(args[2], int): return
        if not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC): return
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith((inside, '/dev/', '/proc/')): found.append(f'writes {path}')
    sys.addaudithook(hook)

def ending(make, rng, folder, found):
    "How one case ends: right, refused, or wrong and why"
    try: act = make(rng, folder)
    except Exception as e: return f'wrong: the case can\'t be made ({type(e).__name__}: {e})'
    found.clear()
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out): verdict = act() or 'right'
    except TransferError as e: verdict = 'refused' if '\n' not in str(e) and str(e).strip() else f'wrong: more than one line: {e}'
    except BaseException as e: verdict = f'wrong: {type(e).__name__}: {str(e)[:300]} at {" < ".join(f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(e.__traceback__)[-4:]))}'
    return f'wrong: {found[0]}' if found else verdict

def _child(kind, shared, seed, cases, root, to):
    "Try cases, in a child: each is announced, then its ending told"
    found = []
    os.environ.update(TMPDIR=str(root), TL_CACHE=str(root/'cache'))
    tempfile.tempdir = str(root)
    _watch(root, found)
    resource.setrlimit(resource.RLIMIT_AS, (_vm() + memory,)*2)
    for case in cases:
        folder = root/f'case{case}'
        folder.mkdir()
        os.write(to, f'{case}\n'.encode())
        verdict = ending(lambda rng, d: kind.case(shared, rng, d), np.random.default_rng([seed, case]), folder, found)
        os.write(to, (' '.join(verdict.split())[:600].encode('utf-8', 'replace')) + b'\n')
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)

def run(kind, shared, seed, cases, root):
    "Ending of each case; a child that hangs or dies takes its case with it, and the others go on in another"
    endings, left = {}, list(cases)
    while left:
        read, write = os.pipe()
        if not (child := os.fork()):
            os.close(read)
            try: _child(kind, shared, seed, left, root, write)
            finally: os._exit(1)
        os.close(write)
        at, buffer, why = None, b'', 'the process ended'
        while True:
            ready, _, _ = select.select([read], [], [], 3*seconds if at is None else seconds)
            if not ready: why = f'hangs for {seconds:g} s'; break
            if not (data := os.read(read, 65536)): break
            buffer += data
            while b'\n' in buffer:
                line, _, buffer = buffer.partition(b'\n')
                if at is None: at = int(line)
                else: endings[at], at = line.decode(), None
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        if at is not None: endings[at] = f'wrong: {why}'
        elif len(endings) < len(list(cases)) and not set(left) - set(endings) == set(): at = left[0]
        left = [o for o in left if o not in endings]
        for o in root.glob('case*'): shutil.rmtree(o, ignore_errors=True)
    return endings

def told(kind, seed, endings):
    "How many ended how; then a line each for what went wrong, with what makes it again"
    wrong = {k: v for k, v in sorted(endings.items()) if v not in ('right', 'refused')}
    n = lambda word: sum(v == word for v in endings.values())
    lines = [f'{kind.name}: {len(endings)} cases of seed {seed}: {n("right")} right, {n("refused")} refused, {len(wrong)} wrong']
    return '\n'.join([*lines, *(f'  {v} (python tests/fuzz.py {kind.name} {k} {seed})' for k, v in wrong.items())])


# saved models

def _learners(root, keep=None):
    "An untrained learner of images, and one of texts"
    import torch, transformers as tf
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.text.texts import TextTask
    rng = np.random.default_rng(0)
    for i in range(12):
        (file := root/'photos'/['dark', 'light'][i % 2]/f'{i}.png').parent.mkdir(parents=True, exist_ok=True)
        if not file.exists(): Image.fromarray(rng.integers(0, 90, (32, 32, 3), np.uint8) + np.uint8(i % 2*120)).save(file)
    images = ImageTask.from_folder(root/'photos')
    yield 'images', transfer_learner(images, 'timm/test_efficientnet', source='random', size=32, seed=0, bs=4)
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'a the good bad film was very not a short text as sample'.split()]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    tok = tf.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]', model_max_length=36)
    torch.manual_seed(0)
    config = tf.BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)
    with tempfile.TemporaryDirectory() as d:
        d = keep or d
        tf.AutoModel.from_config(config).save_pretrained(d)
        tok.save_pretrained(d)
        task = TextTask.from_df(pd.DataFrame(dict(text=[f'a {w} film was {w} {i}' for i in range(10) for w in ('good', 'bad')], label=['good', 'bad']*10)))
        yield 'texts', transfer_learner(task, d, size=12, bs=8, seed=0)

def _asked(model):
    "What a model says of one item that is always the same"
    item = 'the film was not good' if model.modality.name == "text" else Image.fromarray(np.arange(20*30*3, dtype=np.uint8).reshape(20, 30, 3))
    return model.predict(item, proba=True)

def prepare_models(root):
    from tl_nbdev.training.saved import load_transfer
    import torch
    shared = {}
    for name, learn in _learners(root):
        with torch.no_grad():
            last = list(learn.model.head.modules())[-1]
            last.weight.copy_(torch.linspace(-1, 1, last.weight.numel()).view_as(last.weight))
        folder = learn.save_transfer(root/name, check=False)
        files = sorted(o for o in folder.rglob('*') if o.is_file())
        shared[name] = folder, files, _asked(load_transfer(folder))
    return shared

def _resealed(folder, info=None):
    "Make hashes and seal fit to what is there now"
    info = info or json.loads((folder/'transfer.json').read_text())
    if isinstance(info, dict):
        name = info.get('weights') or 'model.safetensors'
        for k in (info.get('files') if isinstance(info.get('files'), dict) else {}):
            if isinstance(k, str) and '\0' not in k and (folder/k).is_file(): info['files'][k] = hashlib.sha256((folder/k).read_bytes()).hexdigest()
        if isinstance(name, str) and '\0' not in name and len(name) < 200 and (folder/name).is_file(): info['sha256'] = hashlib.sha256((folder/name).read_bytes()).hexdigest()
        try: info = sealed({k: v for k, v in info.items() if k != 'seal'})
        except ValueError: pass
    (folder/'transfer.json').write_bytes(as_text(info))

def lying_weights(rng, data):
    "safetensors whose header lies"
    n = struct.unpack('<Q', data[:8])[0]
    header, rest = json.loads(data[8:8 + n]), data[8 + n:]
    how = rng.integers(8)
    if how == 0: return struct.pack('<Q', [2**63, n*10, 0, n - 1, 2**40][rng.integers(5)]) + data[8:]
    if how == 1: return data[:8] + mutated_text(rng, data[8:8 + n]) + rest
    if how == 2:
        rest = bytearray(rest)
        at = int(rng.integers(len(rest)//4))*4
        rest[at:at + 4] = [b'\0\0\xc0\x7f', b'\0\0\x80\x7f', b'\xff\xff\x7f\x7f'][rng.integers(3)]
        return data[:8 + n] + bytes(rest)
    if how == 3: return pickle.dumps(Trap('sprung'))
    if how == 4: rest = rest[:rng.integers(len(rest))]
    else: header = mutated_json(rng, header)
    text = as_text(header)
    return struct.pack('<Q', len(text)) + text + rest

def model_case(shared, rng, root):
    "A model folder in which something is odd, with hashes and seal as they were, or made anew"
    from tl_nbdev.training.saved import load_transfer
    from tl_nbdev.training.saving import saved_head
    from tl_nbdev.vision.zoo import pretrained
    source, files, want = shared[['images', 'texts'][rng.integers(2)]]
    folder = root/'model'
    for f in files:
        (to := folder/f.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    record = folder/'transfer.json'
    how, anew = rng.integers(8), bool(rng.integers(2))
    file = folder/files[rng.integers(len(files))].relative_to(source)
    inner = [o for o in folder.rglob('*.json') if o != record] or [record]
    free = file.name == 'README.md' # a card changes no answer
    if how < 3: record.write_bytes(as_text(mutated_json(rng, json.loads(record.read_text())))); free = False
    elif how == 3: record.write_bytes(mutated_text(rng, record.read_bytes())); anew = free = False
    elif how == 4: file.write_bytes(mutated_bytes(rng, file.read_bytes())); anew = anew and file != record
    elif how == 5: replaced(rng, file, [o for o in folder.rglob('*') if o.is_file() and o != file]); anew = anew and file != record
    elif how == 6:
        weights = next(folder.glob('*.safetensors'))
        weights.write_bytes(lying_weights(rng, weights.read_bytes()))
        free = False
    else:
        file = inner[rng.integers(len(inner))]
        file.write_bytes(as_text(mutated_json(rng, json.loads(file.read_text()))) if rng.integers(2) else mutated_text(rng, file.read_bytes()))
        anew, free = anew and file != record, False
    if anew and record.is_file() and not record.is_symlink() and os.access(record, os.R_OK):
        try: _resealed(folder)
        except ValueError: anew = False
    same = rng.integers(3)
    def act():
        if same == 1: return saved_head(folder) and None
        if same == 2 and source.name == 'images': return pretrained(folder).body() and None
        got = _asked(load_transfer(folder))
        if anew or free or got.keys() == want.keys() and all(abs(got[k] - want[k]) < 1e-4 for k in want): return 'right'
        return f'wrong: it answers {got}, not {want}'
    return act


# what other libraries wrote

def prepare_starts(root):
    import timm, torch
    from safetensors.torch import save_file
    (root/'timm').mkdir()
    net = timm.create_model('test_efficientnet', num_classes=3)
    save_file(net.state_dict(), root/'timm'/'model.safetensors')
    (root/'timm'/'config.json').write_text(json.dumps(dict(architecture='test_efficientnet', num_classes=3, pretrained_cfg=dict(input_size=[3, 64, 64], mean=[.5]*3, std=[.5]*3, interpolation='bicubic', crop_pct=.9, license='mit'))))
    for name, learn in _learners(root, keep=root/'bert'): pass
    return root/'timm', root/'bert'

def start_case(shared, rng, root):
    "A folder of timm's or of transformers', in which something is odd"
    from tl_nbdev.text.encoders import text_pretrained, tokenizer
    from tl_nbdev.vision.zoo import pretrained
    source = shared[rng.integers(2)]
    folder = shutil.copytree(source, root/'start')
    files = sorted(o for o in folder.rglob('*') if o.is_file())
    records = [o for o in files if o.suffix == '.json']
    file, how = files[rng.integers(len(files))], rng.integers(5)
    if how == 0: file.write_bytes(mutated_bytes(rng, file.read_bytes()))
    elif how == 1: replaced(rng, file, [o for o in files if o != file])
    elif how == 2:
        weights = next(o for o in files if o.suffix == '.safetensors')
        weights.write_bytes(lying_weights(rng, weights.read_bytes()))
    else:
        file = records[rng.integers(len(records))]
        file.write_bytes(as_text(mutated_json(rng, json.loads(file.read_text()))) if how == 3 else mutated_text(rng, file.read_bytes()))
    def act():
        if source.name == 'timm':
            p = pretrained(folder)
            p.body()
        else:
            p = text_pretrained(folder)
            tokenizer(p)(['the film was good'])
            p.body()
    return act


# strategies

def prepare_strategies(root):
    from tl_nbdev.strategies.strategy import strategy
    words = ['feature', 'last:2', 'full', 'gradual', 'lpft', 'layerdecay:0.75', 'surgical:early,-1', 'bitfit', 'lora:8', 'textbook', 'contrastive', 'l2sp', 'wise:0.5', 'full+wise', 'lpft+l2sp']
    return words, [strategy(o).as_dict() for o in words]

def strategy_case(shared, rng, root):
    from tl_nbdev.strategies.strategy import strategy
    words, records = shared
    n = int(rng.integers(2, 9))
    if rng.integers(3) == 0:
        word = mutated_bytes(rng, words[rng.integers(len(words))].encode()).decode('utf-8', 'replace')
        if rng.integers(2): word = f'{words[rng.integers(len(words))].partition(":")[0]}:{odd_values[rng.integers(len(odd_values))]}'
        spelled = word
    else:
        record = mutated_json(rng, records[rng.integers(len(records))])
        spelled = record if rng.integers(2) and isinstance(record, dict) else root/'mine.json'
        if isinstance(spelled, Path): spelled.write_bytes(as_text(record) if rng.integers(3) else mutated_text(rng, as_text(record)))
        if isinstance(spelled, Path) and rng.integers(10) == 0: replaced(rng, spelled)
    epochs = [None, None, 1, 7, 10**30, -1, .5, '3', float('nan')][rng.integers(9)]
    def act():
        how = strategy(spelled)
        phases = how.resolved(n, epochs)
        assert phases and all(ph.epochs >= 1 for ph in phases) or not how.phases
        again = strategy(json.loads(json.dumps(how.as_dict())))
        assert again == how and repr(again) == repr(how), (again, how)
        assert len(repr(how)) < 1e6
    return act


# records of runs

def prepare_runs(root):
    from tl_nbdev.selection.compare import compare
    task = next(learn for name, learn in _learners(root) if name == 'images').task
    compare(task, 'timm/test_efficientnet', ['feature', 'last:1'], epochs=1, source='random', size=32, bs=4, out=root/'runs')
    return task, sorted((root/'runs').glob('*.json'))

def run_case(shared, rng, root):
    "A folder of two runs, one of which is odd, and a file of somebody else's"
    import warnings
    from tl_nbdev.selection.compare import kept_runs
    task, files = shared
    for f in files: shutil.copy(f, root)
    file = root/files[rng.integers(len(files))].name
    how = rng.integers(4)
    if how < 2:
        record = mutated_json(rng, {k: v for k, v in json.loads(file.read_text()).items() if k != 'seal'})
        file.write_bytes(as_text(sealed(record) if isinstance(record, dict) else record))
    elif how == 2: file.write_bytes(mutated_text(rng, file.read_bytes()))
    else: replaced(rng, file, files)
    (root/'zz.json').write_bytes(mutated_bytes(rng, b'{"mine": 1}'))
    def act():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            runs = kept_runs(task, root)
        assert all('\n' not in str(o.message) for o in caught)
        assert 1 <= len(runs) <= 2, 'the run beside it is lost'
        str(runs)
    return act


# checkpoints

def prepare_checkpoints(root):
    import torch
    from fastai.basics import Callback
    from tl_nbdev.training.learner import watched
    learn = next(learn for name, learn in _learners(root) if name == 'images')
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.iter == 1: raise KeyboardInterrupt
    from tl_nbdev.training.loop import KeepState
    KeepState.often = 0.
    try:
        with watched(learn), learn.added_cbs(Stop()): learn.transfer('last:1', 2, resume=True, folder=root/'kept')
    except KeyboardInterrupt: pass
    assert (root/'kept'/'1').is_dir()
    return root/'kept'

def checkpoint_case(shared, rng, root):
    "Two states of one run, of which one or both are odd; every tenth is gone on from"
    import warnings
    from tl_nbdev.training.learner import watched
    from tl_nbdev.training.checkpoint import Checkpoints
    shutil.copytree(shared, root/'kept')
    about = json.loads((root/'kept/1/checkpoint.json').read_text())['about']
    for place in [['0'], ['1'], ['0', '1']][rng.integers(3)]:
        folder = root/'kept'/place
        if not folder.is_dir(): continue
        record, weights = folder/'checkpoint.json', folder/'state.safetensors'
        how = rng.integers(6)
        if how < 2:
            said = {k: v for k, v in json.loads(record.read_text()).items() if k != 'seal'}
            said = said | dict(said=mutated_json(rng, said['said'])) if rng.integers(2) else mutated_json(rng, said)
            record.write_bytes(as_text(sealed(said) if isinstance(said, dict) else said))
        elif how == 2: record.write_bytes(mutated_text(rng, record.read_bytes()))
        elif how == 3: weights.write_bytes(lying_weights(rng, weights.read_bytes()))
        else: replaced(rng, *[(record, [weights]), (weights, [record])][rng.integers(2)])
        if how == 3 and rng.integers(2) and record.is_file():
            said = json.loads(record.read_text())
            said['hash'] = hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()
            record.write_bytes(as_text(sealed({k: v for k, v in said.items() if k != 'seal'})))
    goes_on = rng.integers(10) == 0
    def act():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            if goes_on:
                learn = next(learn for name, learn in _learners(shared.parent) if name == 'images')
                with watched(learn): learn.transfer('last:1', 2, resume=True, folder=root/'kept')
            else: Checkpoints(root/'kept', about).load()
        assert all('\n' not in str(o.message) for o in caught if issubclass(o.category, UserWarning) and 'checkpoint' in str(o.message))
    return act


# tables and texts

def _table(rng):
    "A table as somebody may write it, as bytes, and how its name ends"
    n, m, sep = int(rng.integers(0, 30)), int(rng.integers(1, 6)), [',', ';', '\t', '|', ' ', ', ', '::', ',\t'][rng.integers(8)]
    cells = ['fine', '', 'so, so', 'a "b" c', '"', "'", 'two\nlines', 'ü', '1', '1.5', '-', 'NA', ' x ', '\\', '\0', 'a;b', '=1+1', '🦊', '\ud800', '"quoted"', '\\"', 'x'*2000, '[1, 2]', '{"a": 1}', '\u202e', '\r']
    row = lambda: [cells[rng.integers(len(cells))] if rng.integers(3) == 0 else f'w{rng.integers(99)} is here' for _ in range(m)]
    quote = [lambda o: o, lambda o: '"' + o.replace('"', '""') + '"', lambda o: '"' + o.replace('"', '\\"') + '"', lambda o: f'"{o}"'][rng.integers(4)]
    rows = [[['text', 'label', 'file', 'id', 'part', 'text'][i % 6] for i in range(m)], *(row() for _ in range(n))]
    if rng.integers(6) == 0 and rows[1:]: rows[rng.integers(len(rows))] += ['more']*int(rng.integers(1, 9))
    how = rng.integers(10)
    if how < 6:
        text = ['\n', '\r\n', '\r'][rng.integers(3)].join(sep.join(map(quote, o)) for o in rows)
        encoding = ['utf-8', 'utf-8-sig', 'utf-16', 'cp1252', 'utf-16-le', 'utf-32', 'latin-1', 'cp1251'][rng.integers(8)]
        if encoding[:3] != 'utf': text = text.encode('utf-8', 'replace').decode()
        return text.encode(encoding, 'surrogatepass' if encoding[:3] == 'utf' else 'replace'), ['.csv', '.tsv', '.txt', '', '.json', '.jsonl'][rng.integers(6)]
    records = [dict(zip(rows[0], o)) for o in rows[1:]]
    if how == 6: return as_text(mutated_json(rng, records or [{}])), '.json'
    if how == 7: return b'\n'.join(as_text(mutated_json(rng, o) if rng.integers(5) == 0 else o) for o in records), '.jsonl'
    clean = [{k: v.encode('utf-8', 'replace').decode().replace('\0', '') for k, v in o.items()} for o in records]
    clean = pd.DataFrame(clean or [dict(text='a')])
    file = io.BytesIO()
    if how == 8: clean.to_parquet(file)
    else: clean.map(lambda o: ''.join(c for c in o if c.isprintable())).to_excel(file, index=False)
    return file.getvalue(), ['.parquet', '.xlsx'][how - 8]

def _huge(rng):
    "Tables that are large, or say that they are"
    how = rng.integers(12)
    if how == 0: return b'text,label\n' + b'x'*20_000_000 + b',a\nfine,b\n', '.csv'
    if how == 1: return b'a,'*1_000_000 + b'\n' + b'1,'*1_000_000, '.csv'
    if how == 2: return b'text,label\n"' + b'no end, of it\n'*30_000, '.csv'
    if how == 3: return b'"'*3_000_000, '.csv'
    if how == 4: return gzip.compress(bytes(300_000_000), 9), '.csv.gz'
    if how == 5: return gzip.compress(gzip.compress(b'a,b\n1,2\n')), '.csv.gz'
    if how == 6: return b'\n'*5_000_000, '.csv'
    if how == 7: return b'a,b\n' + b','.join([b'1']*300_000) + b'\n1,2', '.csv'
    if how == 8: return b'[' * 500_000, '.json'
    if how == 9: return b'{"text": ' * 100_000, '.jsonl'
    if how == 10: return b'",",";\t|' * 300_000, '.tsv'
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('[Content_Types].xml', '<a/>')
        z.writestr('xl/workbook.xml', '<!DOCTYPE a [<!ENTITY a "' + 'a'*1000 + '">' + '<!ENTITY b "' + '&a;'*1000 + '">]><a>&b;</a>')
        z.writestr('xl/worksheets/sheet1.xml', bytes(400_000_000))
    return file.getvalue(), '.xlsx'

def table_case(shared, rng, root):
    from tl_nbdev.data.tables import is_table, read_table, read_text
    from tl_nbdev.text.texts import TextTask
    huge = rng.integers(40) == 0
    data, suffix = _huge(rng) if huge else _table(rng)
    if not huge and rng.integers(2): data = mutated_bytes(rng, data)
    if not huge and rng.integers(12) == 0: data, suffix = gzip.compress(data), f'{suffix}.gz'
    if not huge and rng.integers(12) == 0: data = mutated_bytes(rng, data)
    file = root/f't{suffix}'
    file.write_bytes(data)
    if rng.integers(60) == 0: replaced(rng, file)
    how, odd = rng.integers(4), lambda among: among[rng.integers(len(among))]
    told = dict(sep=odd([None, None, None, ',', 'tab', 'x', '', '\0', ';;']), encoding=odd([None, None, None, 'utf-8', 'cp1251', 'utf-16', 'nonsense', 'rot13', 'idna', 'base64']),
                header=odd([None, None, True, False]), quotes=odd([None, None, None, 'doubled', 'none', 'loose', 'backslash', 'odd']))
    def act():
        if how == 0: return isinstance(read_text(file, told['encoding'])[0], str) and None
        if how == 1: task = TextTask.from_csv(file, 'text', 'label', **{k: v for k, v in told.items() if v is not None})
        df = read_table(file, columns=['text', 'label'], **told)
        assert len(df) and df.attrs['notes'] and all(isinstance(o, str) for o in df.attrs['notes'])
    return act


# images

def _picture(rng):
    "An image, as bytes, and how its name ends"
    w, h = (int(o) for o in rng.integers(1, 40, 2))
    mode = ['RGB', 'L', 'RGBA', 'P', '1', 'LA', 'CMYK', 'I;16', 'F', 'I', 'YCbCr'][rng.integers(11)]
    im = Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8))
    im = Image.fromarray(rng.integers(0, 2**16, (h, w)).astype(np.uint16)) if mode == 'I;16' else im.convert(mode)
    form, suffix = [('PNG', '.png'), ('JPEG', '.jpg'), ('TIFF', '.tif'), ('GIF', '.gif'), ('BMP', '.bmp'), ('WEBP', '.webp'), ('PPM', '.ppm'), ('TGA', '.tga'), ('JPEG2000', '.jp2'), ('ICO', '.ico'), ('PCX', '.pcx'), ('SGI', '.sgi'), ('npy', '.npy')][rng.integers(13)]
    file = io.BytesIO()
    if form == 'npy':
        np.save(file, np.asarray(im))
        return file.getvalue(), suffix
    more = dict(compression=['raw', 'tiff_lzw', 'tiff_deflate', 'packbits'][rng.integers(4)]) if form == 'TIFF' else {}
    try: im.save(file, form, **more)
    except (OSError, KeyError, ValueError): im.convert('RGB').save(file := io.BytesIO(), form)
    return file.getvalue(), suffix

def bombs(rng):
    "Images that say that they are huge"
    size = [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (1, 2**31 - 1), (9_000, 9_000), (10**6, 1)][rng.integers(5)]
    chunk = lambda name, data: struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    how = rng.integers(7)
    if how == 0: return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', *size, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(10**6))) + chunk(b'IEND', b''), '.png'
    if how == 1: return b'BM' + struct.pack('<IHHIIiiHHIIiiII', 100, 0, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(50), '.bmp'
    if how == 2: return b'P6\n%d %d\n255\n' % size + bytes(100), '.ppm'
    if how == 3: return b'GIF89a' + struct.pack('<HHBBB', 65535, 65535, 0xf7, 0, 0) + bytes(768) + b',' + struct.pack('<HHHHB', 0, 0, 65535, 65535, 0) + b'\x08\x01\0\0;', '.gif'
    if how == 4:
        entries = [(256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, 1, 16), (259, 3, 1, int(rng.choice([1, 5, 8]))), (262, 3, 1, 2), (273, 4, int(rng.choice([1, 2**31])), 8), (277, 3, 1, int(rng.choice([3, 60_000]))), (278, 4, 1, 2**31), (279, 4, 1, 2**31)]
        return b'II*\0\x08\0\0\0' + struct.pack('<H', len(entries)) + b''.join(struct.pack('<HHII', *o) for o in entries) + bytes(40), '.tif'
    if how == 5:
        head = str(dict(descr='<f8', fortran_order=False, shape=size)).encode() + b'\n'
        return b'\x93NUMPY\x01\0' + struct.pack('<H', len(head)) + head, '.npy'
    return b'\x93NUMPY\x01\0' + struct.pack('<H', 60) + b"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}     \n" + pickle.dumps([Trap('sprung')]*2), '.npy'

def image_case(shared, rng, root):
    from tl_nbdev.vision.pixels import Prep, open_image, pixels, scan
    from tl_nbdev.vision.formats import has_more_bits
    data, suffix = bombs(rng) if rng.integers(10) == 0 else _picture(rng)
    if rng.integers(8): data = mutated_bytes(rng, data)
    if rng.integers(20) == 0: suffix = ['.png', '.jpg', '.tif', '', '.txt', '.dcm', '.heic', '.avif'][rng.integers(8)]
    file = root/f'p{suffix}'
    file.write_bytes(data)
    if rng.integers(40) == 0: replaced(rng, file)
    how = rng.integers(4)
    def act():
        if how == 0:
            has_more_bits(file)
            return str(scan([file])) and None
        if how == 1: a = pixels(file, Prep(16))
        else: a = np.asarray(open_image(file if how == 2 or not file.is_file() else data))
        assert a.dtype == np.uint8 and a.size
    return act


# what is typed

def prepare_options(root):
    models = prepare_models(root)
    (root/'texts.csv').write_text('text,label\n' + ''.join(f'a {w} film {i},{w}\n' for i in range(12) for w in ('good', 'bad')))
    return models['images'][0], models['texts'][0], root/'photos', root/'texts.csv'

def options_case(shared, rng, root):
    "A command with an odd option, which trains nothing; or a number for one that would train, which must be refused"
    from tl_nbdev.apps import cli
    images, texts, photos, table = shared
    numbers = ['0', '-1', '1', '3', str(10**9), str(10**30), '1e3', '1.5', 'nan', 'inf', '', 'x', '\0', '٣', '-' + '9'*400]
    beyond = ['0', '-1', str(10**9), str(10**30), '1.5', 'nan', 'x']
    words = ['', ' ', 'x', '0', '-1', 'text', 'label', 'a,b', '\0', 'x'*3000, '\ud800', '/', '..', 'text,label', '[', '%s']
    odd = lambda among: among[rng.integers(len(among))]
    plain = [(['audit', photos], 'seed limit'), (['audit', table, '--text', 'text'], 'seed limit'), (['train', photos, '--model', images, '--dry-run'], 'seed limit epochs size bs accumulate'),
             (['train', table, '--text', 'text', '--model', texts, '--dry-run'], 'seed limit epochs size bs accumulate'), (['eval', images, photos], 'limit')]
    worded = [(['audit', table], 'text label second group part delim sep encoding quotes'), (['predict', texts, table], 'text second sep encoding quotes'), (['predict', images, photos], 'file root'),
              (['train', photos, '--model', images, '--dry-run'], 'strategy head metric augment fit'), (['train', table, '--model', texts, '--dry-run'], 'text long pooling strategy head metric revision')]
    trains = [(['compare', photos, '--models', images, '--size', '32'], 'epochs seeds limit bs'), (['advise', photos, '--models', images], 'epochs budget limit'), (['train', photos, '--model', images], 'epochs accumulate limit bs')]
    among, values = [(plain, numbers), (plain, numbers), (worded, words), (trains, beyond)][rng.integers(4)]
    argv, options = odd(among)
    name = odd(options.split())
    value = odd(values) if among is not trains or name not in ('limit', 'bs') else odd(['0', '-1', '1.5', 'x'])
    argv = [*map(str, argv), f'--{name}={value}']
    def act():
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err): status = getattr(cli, f'tl_{argv[0]}')(argv[1:])
        except SystemExit as e: status = e.code # argparse
        last = err.getvalue().strip().splitlines()[-1:]
        if status == 0: return
        if status not in (1, 2) or not last or '--debug shows where' in last[0]: return f'wrong: {" ".join(argv)[:300]} ends with {status}: {last}'
        raise TransferError(last[0])
    return act


kinds = {o.name: o for o in (
    Kind('models', 1000, 40, prepare_models, model_case),
    Kind('starts', 600, 20, prepare_starts, start_case),
    Kind('strategies', 1500, 150, prepare_strategies, strategy_case),
    Kind('runs', 600, 40, prepare_runs, run_case),
    Kind('checkpoints', 400, 20, prepare_checkpoints, checkpoint_case),
    Kind('tables', 3000, 60, lambda root: None, table_case),
    Kind('images', 1000, 100, lambda root: None, image_case),
    Kind('options', 500, 25, prepare_options, options_case))}

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    kind, case, seed = kinds[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    os.environ.update(TL_DEVICE='cpu', TL_PRECISION='fp32', TL_LAYOUT='contiguous', TL_OFFLINE='yes')
    root = Path(tempfile.mkdtemp())
    shared, folder = kind.prepare(root), root/f'case{case}'
    folder.mkdir()
    print(folder)
    print(kind.case(shared, np.random.default_rng([seed, case]), folder)() or 'right')
