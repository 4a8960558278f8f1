"Models for the tools of others: each is read again by its own library, in a process without this package, and answers the same from raw photos and texts."
import errno, importlib.util, json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from torch import nn
from conftest import photo
from hub import good_token

for library in ('transformers', 'sentence_transformers', 'onnxruntime', 'onnxscript', 'peft'): pytest.importorskip(library)
import transformers as T
from tl_nbdev.all import ImageTask, TextTask, TransferError, load_transfer, transfer_learner, watched
from tl_nbdev.apps.export import tl_export
from tl_nbdev.base.samples import sample
from tl_nbdev.sharing.export import targets
from tl_nbdev.text.found import Pair

T.logging.set_verbosity_error()
record = Path(__file__).with_name('exported.json') # what the how-to page shows; TL_RECORD=1 writes it


# data and networks, all of them small

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Three kinds of photos, of many shapes and formats, of which some lie on their sides"
    to = tmp_path_factory.mktemp('photos')
    for kind in ('round', 'square', 'line'):
        (to/kind).mkdir()
        for i in range(7):
            exif = Image.Exif()
            exif[0x112] = 6 if i == 3 else 1
            im = photo(kind, i, 60).resize((60 + 11*i, 75 - 5*i), Image.BICUBIC)
            im.save(to/kind/f'{i}.{"jpg" if i % 2 else "png"}', exif=exif)
    return to

_said = dict(good=('fine', 'lovely', 'a joy', 'warm and clever'), bad=('dull', 'a bore', 'too long', 'cold and slow'))
_odd = ['The film was fine.', 'Ünïcode 👋 and 1,234.5 numbers', 'dull ' * 90]

def sentences():
    rows = [(f'{opening} {word}, said {i}', label) for i, opening in enumerate(('It was', 'All in all', 'I found it', 'Simply'))
            for label, words in _said.items() for word in words]
    return pd.DataFrame(rows, columns=['text', 'label'])

def tiny(cls, seed=0, **config):
    torch.manual_seed(seed)
    return cls(cls.config_class(**config)).eval()

_small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)

def text_network(to, cls, words='bert-tiny', **config):
    "A folder of a small network with a tokenizer"
    tok = T.AutoTokenizer.from_pretrained(sample(words))
    tiny(cls, vocab_size=len(tok), **config).save_pretrained(to)
    tok.save_pretrained(to)
    return to

class Own(nn.Module):
    "A network that no library knows"
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2), nn.Linear(16, 3)
    def forward(self, x): return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))

def decided(learn):
    "A head that tells items apart, as if it were trained"
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in learn.model.head.modules():
            if isinstance(layer, nn.Linear): layer.weight.normal_(std=1/layer.in_features**.5)
            if isinstance(layer, nn.Linear) and layer.bias is not None: layer.bias.normal_(std=.5)
    return learn

@pytest.fixture(scope='module')
def learners(photos, tmp_path_factory):
    "Networks that are made when they are asked for: name → learner"
    to, seen, texts = tmp_path_factory.mktemp('networks'), ImageTask.from_folder(photos), sentences()
    kinds = TextTask.from_df(texts)
    several = TextTask.from_df(texts.assign(label=[[label] if i % 3 else ['good', 'bad'] for i, label in enumerate(texts.label)]))
    numbers = TextTask.from_df(texts.assign(label=20. + 7*np.sin(np.arange(len(texts)))), regression=True)
    pairs = TextTask.from_df(texts.assign(other=texts.text[::-1].to_list()), second='other')
    def image(net, **kwargs): return decided(transfer_learner(seen, net, seed=0, bs=4, **kwargs))
    def text(net, task=kinds, **kwargs): return decided(transfer_learner(task, net, seed=0, bs=4, size=64, **kwargs))
    def lora():
        learn = transfer_learner(kinds, 'bert-tiny', seed=0, bs=8, size=32)
        with watched(learn): return learn.transfer('lora:2', 1)
    bert = lambda: text_network(to/'bert', T.BertModel, **_small, intermediate_size=64)
    llama = lambda: text_network(to/'llama', T.LlamaModel, 'SmolLM2-135M-Instruct', **_small, intermediate_size=64, num_key_value_heads=1)
    makers = dict(
        resnet=lambda: image('timm/resnet10t', source='random', size=48),
        timm_vit=lambda: image('timm/test_vit', source='random', size=96),
        mobilenet=lambda: image('timm/mobilenetv3_small_050', source='random', size=64),
        vit=lambda: image(tiny(T.ViTForImageClassification, **_small, intermediate_size=64, image_size=48, patch_size=8)),
        dino=lambda: image(tiny(T.Dinov2ForImageClassification, **_small, image_size=56, patch_size=14)),
        convnext=lambda: image(tiny(T.ConvNextForImageClassification, hidden_sizes=[8, 8, 16, 16], depths=[1]*4), size=64),
        squeezenet=lambda: image('squeezenet1_1', source='random', size=64),
        own=lambda: image(Own(), size=48), textbook=lambda: image('timm/resnet10t', source='random', size=48, head='textbook'),
        cropped=lambda: image('timm/resnet10t', source='random', size=48, fit='crop'),
        bert_cls=lambda: text(bert(), pooling='cls'), bert_mean=lambda: text(to/'bert', pooling='mean'),
        bert_both=lambda: text(to/'bert', pooling='cls+mean', head='textbook'),
        bert_several=lambda: text(to/'bert', several, head='own'), bert_number=lambda: text(to/'bert', numbers, pooling='cls'),
        bert_pairs=lambda: text(to/'bert', pairs, head='own'),
        bert_attention=lambda: text(to/'bert', pooling='attention'),
        decoder=lambda: text(llama(), head='own'), decoder_linear=lambda: text(to/'llama', pooling='last'), lora=lora)
    made = {}
    def get(name):
        if name.startswith('bert') and not (to/'bert').exists(): bert()
        if name == 'decoder_linear' and not (to/'llama').exists(): llama()
        if name not in made: made[name] = makers[name]()
        return made[name]
    return get

def see_through(photos):
    "Photos with transparent parts, of four kinds: under them, no two colours are alike"
    to, made = photos.with_name('see-through'), []
    to.mkdir(exist_ok=True)
    for mode in ('RGBA', 'LA', 'PA', 'P'):
        im = Image.open(photos/'round/2.png').convert('RGB')
        alpha = Image.linear_gradient('L').resize(im.size)
        whole = im.convert('L') if mode == 'LA' else im
        whole.putalpha(alpha)
        made.append(to/f'{mode}.png')
        if mode == 'PA': whole.quantize(64).save(made[-1]) # a palette of colours, each more or less transparent
        elif mode == 'P': im.quantize(64).save(made[-1], transparency=0)
        else: whole.save(made[-1])
    return list(map(str, made))

def asked(learn, photos, way='card'):
    "Items as a stranger has them"
    more = see_through(photos) if way == 'card' else [] # transformers opens files by itself
    if learn.task.modality.name == 'image': return [*more, *(str(photos/name) for name in ('round/2.png', 'square/3.jpg', 'line/5.jpg'))]
    return [[text, 'As for the other'] for text in _odd] if learn.task.modality.pairs else _odd

def ours(learn, items):
    items = [Pair(item) if isinstance(item, list) else item for item in items]
    found = learn.predictor().probs(items)
    return np.stack([found[i] for i in range(len(items))])


# read again by their own libraries

class Stranger:
    "A process without this package, asked about many exports at once"
    def __init__(self, to): self.to, self.jobs, self.wanted = to, [], {}

    def add(self, name, learn, to, way, photos, kind=None):
        "Export, and remember what is to be asked"
        folder, items = learn.export(self.to/name.replace(' ', '-'), to), asked(learn, photos, way)
        self.wanted[name] = ours(learn, items)/learn.task.answer.tolerance, learn.task.answer.tolerance
        self.jobs.append(dict(name=name, folder=str(folder), items=items, way=way))
        return folder

    def ask(self):
        "The largest difference of each"
        file, found = self.to/'jobs.json', self.to/'found.json'
        file.write_text(json.dumps(self.jobs), encoding='utf-8')
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': '', 'HF_HUB_OFFLINE': '1'}
        done = subprocess.run([sys.executable, Path(__file__).with_name('stranger.py'), file, found], env=env, capture_output=True, text=True, cwd=self.to)
        assert not done.returncode, done.stderr[-3000:]
        answers = json.loads(found.read_text('utf-8'))
        return {name: float(np.abs(np.array(answers[name])/unit - want).max()) for name, (want, unit) in self.wanted.items()}

_matrix = { # format, as users count them → its word, how a stranger reads it, networks
    'transformers, photos': ('transformers', 'image', ('vit', 'dino', 'convnext')),
    'transformers, texts': ('transformers', 'text', ('bert_cls', 'bert_several', 'decoder')),
    'timm': ('timm', 'card', ('resnet', 'timm_vit', 'mobilenet')),
    'timm, wrapped by transformers': ('transformers', 'plain', ('resnet', 'timm_vit', 'mobilenet')),
    'sentence-transformers': ('sentence-transformers', 'card', ('bert_mean', 'bert_both', 'lora')),
    'ONNX, photos': ('onnx', 'card', ('resnet', 'vit', 'own')),
    'ONNX, texts': ('onnx', 'card', ('bert_mean', 'bert_pairs', 'decoder')),
    'program of torch': ('program', 'card', ('squeezenet', 'dino', 'lora'))}
_further = dict(number=('bert_number', 'transformers', 'text'), pairs=('bert_pairs', 'transformers', 'text'),
                number_in_a_program=('bert_number', 'program', 'card'), attention=('bert_attention', 'program', 'card'))

@pytest.fixture(scope='module')
def differences(learners, photos, tmp_path_factory):
    "Of everything in the matrix, and beside it"
    stranger = Stranger(tmp_path_factory.mktemp('exports'))
    for format, (to, way, names) in _matrix.items():
        for name in names: stranger.add(f'{format}: {name}', learners(name), to, way, photos)
    for name, (learner, to, way) in _further.items(): stranger.add(name, learners(learner), to, way, photos)
    return stranger.ask()

def noted(rows):
    "Write rows to the record, where that is asked for; else formats and networks are those on record"
    known, own = json.loads(record.read_text('utf-8')), {row['format'] for row in rows}
    if os.environ.get('TL_RECORD'):
        kept = [row for row in known if row['format'] not in own]
        record.write_text(json.dumps(kept + rows, indent=1) + '\n', encoding='utf-8')
        return
    of_these = [(row['format'], row['network']) for row in known if row['format'] in own]
    assert of_these == [(row['format'], row['network']) for row in rows]
    assert max(row['difference'] for row in known) <= 1e-4

def test_read_by_its_own_library_in_a_process_without_this_one(differences):
    assert len(differences) == 24 + len(_further)
    assert not {name: off for name, off in differences.items() if off > 1e-4}
    rows = [dict(format=format, network=name, difference=float(f'{differences[f"{format}: {name}"]:.1g}'))
            for format, (_, _, names) in _matrix.items() for name in names]
    noted(rows)

def test_a_saved_model_goes_out_as_its_learner_does(learners, photos, tmp_path):
    for name, to in (('resnet', 'timm'), ('bert_cls', 'transformers')):
        learn = learners(name)
        saved = load_transfer(learn.save_transfer(tmp_path/name, check=False))
        one, other = saved.export(tmp_path/f'{name}-saved', to), learn.export(tmp_path/f'{name}-learner', to)
        assert (one/'model.safetensors').read_bytes() == (other/'model.safetensors').read_bytes()
        assert name == 'bert_cls' or (one/'config.json').read_bytes() == (other/'config.json').read_bytes()

def test_where_photos_are_cropped_it_is_said_how_far_off(learners, tmp_path, capsys):
    made = learners('cropped').export(tmp_path/'cropped', 'timm')
    found = json.loads((made/'export.json').read_text('utf-8'))
    assert found['largest_difference'] < .2
    if found['largest_difference'] > 1e-4: assert 'prepares photos a little otherwise' in capsys.readouterr().out

def test_what_stands_beside_a_graph(learners, tmp_path):
    import onnx
    made = learners('bert_mean').export(tmp_path/'graph', 'onnx')
    said = json.loads((made/'preprocessing.json').read_text('utf-8'))
    assert said['classes'] == ['bad', 'good'] and said['most_tokens'] == 64 and (made/'tokenizer.json').is_file()
    model = onnx.load(made/'model.onnx')
    inside = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert inside['classes'] == ['bad', 'good'] and inside['preprocessing']['most_tokens'] == 64
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    dims = [[dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert dims == [['batch', 'tokens']]*2


# what can't be

_refused = [ # learner, format, words of the line
    ('own', 'timm', ['module of your own', 'timm can\'t make']), ('own', 'transformers', ['module of your own', '"onnx" or "program"']),
    ('squeezenet', 'timm', ['of torchvision']), ('squeezenet', 'transformers', ['of torchvision']),
    ('textbook', 'timm', ['head "textbook"', 'head="linear"']), ('textbook', 'transformers', ['head "textbook"']),
    ('bert_mean', 'transformers', ['reads a text by "cls"', 'head="own"', 'sentence-transformers']),
    ('bert_attention', 'sentence-transformers', ['no pooling "attention"']), ('bert_pairs', 'sentence-transformers', ['pairs']),
    ('decoder_linear', 'transformers', ['can\'t be made to have a linear head', 'head="own"']),
    ('resnet', 'sentence-transformers', ['encoders of texts']), ('bert_mean', 'timm', ['timm can\'t make'])]

@pytest.mark.parametrize('name, to, words', _refused, ids=[f'{name}-{to}' for name, to, _ in _refused])
def test_refused_in_a_line_and_nothing_is_written(learners, tmp_path, name, to, words):
    with pytest.raises(TransferError) as e: learners(name).export(tmp_path/'new', to)
    assert '\n' not in str(e.value) and all(word in str(e.value) for word in words), e.value
    assert not list(tmp_path.iterdir())

def test_an_unknown_format_lists_those_there_are(learners, tmp_path):
    with pytest.raises(TransferError) as e: learners('resnet').export(tmp_path/'new', 'tflite')
    assert all(name in str(e.value) for name in targets)
    with pytest.raises(TransferError, match='"program" is what came after it'): learners('resnet').export(tmp_path/'new', 'torchscript')

def test_nothing_is_replaced(learners, tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'notes.txt').write_text('mine', encoding='utf-8')
    (tmp_path/'file').write_text('mine', encoding='utf-8')
    for place in (tmp_path/'mine', tmp_path/'file'):
        with pytest.raises(TransferError, match='replaces nothing'): learners('resnet').export(place, 'timm')
    with pytest.raises(TransferError, match='nothing can be written there'): learners('resnet').export(tmp_path/'file'/'new', 'timm')
    assert sorted(file.name for file in tmp_path.rglob('*')) == ['file', 'mine', 'notes.txt']

def test_a_library_that_is_not_installed(learners, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    for to, module in (('onnx', 'onnxruntime'), ('sentence-transformers', 'sentence_transformers'), ('transformers', 'transformers')):
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: None if name == module else there(name, *args))
        with pytest.raises(TransferError, match=f'{to} needs {module}.*pip install'): learners('resnet').export(tmp_path/'new', to)

class Undecided(Own):
    "Goes one way or the other, by its numbers"
    def forward(self, x): return super().forward(x if x.mean() > 0 else x/2)

@pytest.mark.parametrize('to', ['onnx', 'program'])
def test_a_network_that_can_not_be_followed(learners, tmp_path, to):
    learn = transfer_learner(learners('own').task, Undecided(), size=48, seed=0, bs=4)
    with pytest.raises(TransferError, match=f'^{to} can\'t express this network') as e: learn.export(tmp_path/'new', to)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())

def test_a_full_disk(learners, tmp_path, monkeypatch):
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for to, owner, name in (('program', Path, 'write_bytes'), ('timm', Path, 'write_text'), ('timm', Path, 'mkdir')):
        with monkeypatch.context() as mp:
            mp.setattr(owner, name, full)
            with pytest.raises(TransferError, match=os.strerror(errno.ENOSPC)): learners('resnet').export(tmp_path/'new', to)
        assert not list(tmp_path.iterdir())

def test_without_a_format_it_is_fastais_own(learners, tmp_path):
    learn = learners('own')
    before, learn.path = learn.path, tmp_path
    try: learn.export('learner.pkl')
    finally: learn.path = before
    assert (tmp_path/'learner.pkl').stat().st_size > 1000


# by a command

def test_by_a_command(learners, photos, tmp_path, capsys):
    learners('resnet').save_transfer(tmp_path/'model', check=False)
    words = [str(tmp_path/'model'), '--to', 'timm', '--out', str(tmp_path/'timm'), '--json', str(tmp_path/'export.json')]
    assert tl_export(words) == 0 and 'model.safetensors' in capsys.readouterr().out
    found = json.loads((tmp_path/'export.json').read_text('utf-8'))
    assert found['format'] == 'timm' and found['largest_difference'] <= 1e-4 and 'config.json' in found['files']
    for more, word in (([], 'not a model folder'), (['--to', 'jpeg', '--out', str(tmp_path/'new')], 'no format "jpeg"')):
        assert tl_export([*words, *more]) == 1
        said = capsys.readouterr().err
        assert said.startswith('tl-export: ') and said.count('\n') == 1 and word in said


# on a hub

def test_to_a_hub_and_back(hub, learners, photos, tmp_path):
    rows = []
    for name in ('resnet', 'bert_pairs', 'squeezenet'):
        learn = learners(name)
        learn.save_transfer(tmp_path/name, check=False)
        load_transfer(tmp_path/name).push_to_hub(f'me/{name}', private=True, token=good_token)
        with pytest.raises(TransferError) as e: load_transfer(f'me/{name}') # without a token, where nothing was fetched before
        assert '\n' not in str(e.value) and hub.repos[f'me/{name}'].private
        items = [Pair(item) if isinstance(item, list) else item for item in asked(learn, photos)]
        got = load_transfer(f'me/{name}', token=good_token).probs(items)
        off = np.abs(np.stack([got[i] for i in range(len(items))]) - ours(learn, asked(learn, photos))).max()
        assert off <= 1e-4
        rows.append(dict(format='a hub, as this package saves it', network=name, difference=float(f'{off:.1g}')))
    noted(rows)

def test_revisions_of_a_model(hub, learners, tmp_path):
    learners('resnet').save_transfer(tmp_path/'one', check=False)
    first = hub.add('me/net', tmp_path/'one')
    learners('squeezenet').save_transfer(tmp_path/'two', check=False)
    load_transfer(tmp_path/'two').push_to_hub('me/net', token=good_token)
    assert load_transfer(f'me/net@{first}').info['pretrained']['name'] == 'resnet10t'
    assert load_transfer('me/net').info['pretrained']['name'] == 'squeezenet1_1'
    with pytest.raises(TransferError, match='no such revision'): load_transfer('me/net@v9')

def test_no_pickle_is_fetched_and_no_token_is_told(hub, learners, tmp_path):
    learners('resnet').save_transfer(tmp_path/'one', check=False)
    files = {file.relative_to(tmp_path/'one').as_posix(): file.read_bytes() for file in (tmp_path/'one').rglob('*') if file.is_file()}
    hub.add('me/both', {**files, 'model.pkl': b'no', 'pytorch_model.bin': b'no', 'code.py': b'no'})
    load_transfer('me/both')
    asked_for = '\n'.join(hub.asked)
    assert 'model.safetensors' in asked_for and not any(name in asked_for for name in ('pkl', 'pytorch_model', 'code.py'))
    hub.add('me/other', {'config.json': '{}'})
    with pytest.raises(TransferError, match='no transfer.json'): load_transfer('me/other')
    saved = load_transfer(tmp_path/'one')
    for name, token, words in (('me/new', 'hf_' + 'x'*34, 'could not be sent'), ('me/new', None, 'could not be sent'), ('new', good_token, 'is no name on a hub')):
        with pytest.raises(TransferError) as e: saved.push_to_hub(name, token=token)
        assert '\n' not in str(e.value) and words in str(e.value) and 'hf_x' not in str(e.value) and good_token not in str(e.value)

def test_a_changed_file_on_a_hub_is_refused(hub, learners, tmp_path):
    learners('resnet').save_transfer(tmp_path/'one', check=False)
    files = {file.name: file.read_bytes() for file in (tmp_path/'one').iterdir()}
    weights = bytearray(files['model.safetensors'])
    weights[-5] ^= 1
    hub.add('me/torn', {**files, 'model.safetensors': bytes(weights)})
    with pytest.raises(TransferError, match='sha256 differs'): load_transfer('me/torn')

def test_an_export_on_a_hub(hub, learners):
    learners('resnet').push_to_hub('me/timm', token=good_token, format='timm')
    repo = hub.repos['me/timm']
    files = repo.commits[repo.refs['main']]
    assert {'config.json', 'model.safetensors', 'README.md', 'export.json'} <= files.keys() and b'timm.create_model' in files['README.md']
