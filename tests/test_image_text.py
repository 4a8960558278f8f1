"Images with texts: five classes of transformers and towers of one's own, against transformers' own numbers, under every strategy, saved, by name, and after a kill."
import json, os, signal, sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from children import python
from conftest import tl
from test_text_networks import bytepairs, wordpieces
from tl_nbdev.base.captions import shapes_with_captions
from tl_nbdev.base.settings import TransferError
from tl_nbdev.data.tasks import task_from_dict
from tl_nbdev.multimodal.class_names import captioned, class_names, zero_shot
from tl_nbdev.multimodal.duals import dual_net
from tl_nbdev.multimodal.reading import read_captions
from tl_nbdev.multimodal.start import image_text_pretrained
from tl_nbdev.multimodal.task import ImageTextTask
from tl_nbdev.multimodal.towers import SigmoidMatchLoss, packed
from tl_nbdev.networks.heads import Network
from tl_nbdev.networks.stages import stages
from tl_nbdev.pairs.answer import MatchLoss, halves
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import check_saved, load_transfer
from tl_nbdev.vision.images import ImageTask
from tokenizers import processors

tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()


# five classes at a tiny size

_seen = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16)
_read = dict(hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=320, max_position_embeddings=40)

def _joined():
    seen, read = tf.ViTConfig(**_seen), tf.BertConfig(**_read)
    return tf.VisionTextDualEncoderModel(tf.VisionTextDualEncoderConfig.from_vision_text_configs(seen, read, projection_dim=16))

classes = dict(
    clip=lambda: tf.CLIPModel(tf.CLIPConfig(text_config=dict(_read, bos_token_id=1, eos_token_id=0, pad_token_id=2), vision_config=_seen, projection_dim=16)),
    siglip=lambda: tf.SiglipModel(tf.SiglipConfig(text_config=dict(_read, hidden_size=32, projection_size=32, bos_token_id=1, eos_token_id=0, pad_token_id=2), vision_config=_seen)),
    chinese_clip=lambda: tf.ChineseCLIPModel(tf.ChineseCLIPConfig(text_config=_read, vision_config=_seen, projection_dim=16)),
    altclip=lambda: tf.AltCLIPModel(tf.AltCLIPConfig(text_config=dict(_read, project_dim=16, pad_token_id=1), vision_config=_seen, projection_dim=16)),
    joined=_joined)

def ending():
    "A tokenizer that ends each text, as CLIP's does"
    tok = bytepairs()
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(single='$A <end>', special_tokens=[('<end>', 0)])
    tok.pad_token = '<end>'
    return tok

@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "Class → a folder as save_pretrained writes it"
    root, found = tmp_path_factory.mktemp('duals'), {}
    for name, make in classes.items():
        torch.manual_seed(0)
        net = make().eval()
        with torch.no_grad():
            for weight in net.parameters(): weight.add_(.05*torch.randn_like(weight))
            net.logit_scale.fill_(2.)
        net.save_pretrained(root/name)
        (ending() if name in ('clip', 'siglip') else wordpieces()).save_pretrained(root/name)
        found[name] = root/name
    return found

@pytest.fixture(scope='session')
def table(tmp_path_factory): return shapes_with_captions(tmp_path_factory.mktemp('shapes'), 40, side=32)

def pairs(table, **kwargs): return ImageTextTask.from_csv(table, **{'valid': .2, 'test': .2, **kwargs})
def quiet(learn, how, epochs=1, **kwargs):
    with watched(learn): return learn.transfer(how, epochs, **kwargs)

def start_of(name, folders):
    if name == 'own': return image_text_pretrained('squeezenet1_1+bert-tiny', size=32, tokens=16, dim=16)
    if name == 'side by side': return image_text_pretrained('squeezenet1_1&mobilenet_v2+bert-tiny', size=32, tokens=16, dim=16)
    return image_text_pretrained(folders[name], tokens=16)

every = [*classes, 'own', 'side by side']


# the same as transformers

def whole(p): return Network(p.body(), p.head('linear', p.body()(p.example(1)).shape[1], 1)).eval()

@pytest.mark.parametrize('name', classes)
def test_scores_and_loss_are_those_of_transformers(name, folders):
    p, theirs = image_text_pretrained(folders[name]), dual_net(folders[name])
    net, pixels = whole(p), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 9, 17, 0], [7, 21, 8, 0], [30, 31, 0, -1], [40, 0, -1, -1]])
    with torch.no_grad():
        out = net(packed(pixels, ids))
        first, second = halves(out)
        if name == 'siglip': given = dict(input_ids=torch.nn.functional.pad(ids.masked_fill(ids < 0, 2), (0, 36), value=2))
        else: given = dict(input_ids=ids.masked_fill(ids < 0, net.body.text.pad), attention_mask=(ids >= 0).long())
        want = theirs(**given, pixel_values=pixels, return_loss=True)
        bias = net.head.bias if name == 'siglip' else 0
        torch.testing.assert_close(first@second.T + bias, want.logits_per_image, rtol=1e-3, atol=1e-3)
        loss = p.loss_for(net, MatchLoss())
        assert isinstance(loss, SigmoidMatchLoss) == (name == 'siglip')
        assert loss(out, torch.arange(8).reshape(4, 2)).item() == pytest.approx(want.loss.item(), rel=1e-3)

def test_what_shares_a_side_is_left_out_of_the_sigmoid_loss():
    class Head: bias = torch.tensor(-1.)
    loss, out = SigmoidMatchLoss(Head()), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 1], [2, 1], [3, 3], [4, 4]]) # two captions are the same
    apart = loss(out, torch.arange(8).reshape(4, 2), reduction='none')
    shared = loss(out, ids, reduction='none')
    assert (shared[:2] < apart[:2]).all() and torch.equal(shared[2:], apart[2:])


# under every strategy

@pytest.mark.parametrize('name', every)
def test_stages_belong_to_one_tower_each_and_hold_everything(name, folders):
    net = whole(start_of(name, folders))
    cut = stages(net)
    assert sorted(key for stage in cut for key in stage.params) == sorted(key for key, _ in net.named_parameters())
    for stage in cut[:-1]: assert len({key.split('.')[1] for key in stage.params}) == 1
    assert all(key.startswith('body.image') for key in cut[0].params) and all(key.startswith('head') for key in cut[-1].params)

@pytest.mark.parametrize('how', ['feature', 'lit', 'last:2', 'full', 'lora:2'])
@pytest.mark.parametrize('name', ['clip', 'siglip', 'joined', 'own', 'side by side'])
def test_what_is_frozen_stays_and_what_trains_learns(name, how, folders, table):
    learn = transfer_learner(pairs(table), start_of(name, folders), seed=0, bs=12)
    before = {key: value.clone() for key, value in learn.model.state_dict().items()}
    quiet(learn, how, 1)
    after = learn.model.state_dict()
    changed = {key for key in before if before[key].is_floating_point() and not torch.equal(before[key], after[key])}
    image, text, head = ({key for key in changed if key.startswith(begin)} for begin in ('body.image', 'body.text', 'head'))
    assert head
    assert bool(image) == (how in ('full', 'lora:2') or how == 'last:2')
    assert bool(text) == (how != 'feature')
    fast, slow = (learn.evaluate(fast=fast) for fast in (True, False))
    assert fast.value == pytest.approx(slow.value, abs=2e-2)

@pytest.mark.parametrize('name', ['clip', 'own'])
@pytest.mark.parametrize('how', ['lit', 'surgical:late'])
def test_the_locked_tower_is_run_once_and_nothing_is_lost_by_it(name, how, folders, table, monkeypatch):
    from tl_nbdev.multimodal.start import ImageTextPretrained
    ends = []
    for cuts in (True, False):
        monkeypatch.setattr(ImageTextPretrained, 'cuts', cuts)
        learn = transfer_learner(pairs(table), start_of(name, folders), seed=0, bs=12, augment='none')
        quiet(learn, how, 2)
        ends.append(learn.evaluate(fast=False))
    np.testing.assert_allclose(ends[0].probs[:, 0], ends[1].probs[:, 0], atol=2)
    assert ends[0].value == pytest.approx(ends[1].value, abs=.1)

@pytest.mark.parametrize('name, said', [('squeezenet1_1&+bert-tiny', 'different networks'), ('squeezenet1_1&squeezenet1_1+bert-tiny', 'different networks'),
                                        ('squeezenet1_1&nobody+bert-tiny', 'nobody'), ('&+bert-tiny', 'different networks'), ('&squeezenet1_1+bert-tiny', 'different networks')])
def test_what_can_not_stand_side_by_side(name, said):
    with pytest.raises(TransferError, match=said): image_text_pretrained(name)

def test_each_side_is_computed_once(folders, tmp_path, monkeypatch):
    from tl_nbdev.vision.features import Frozen
    seen, usual = [], Frozen.passes
    def counted(self, files, *args, **kwargs):
        seen.append(len(files))
        return usual(self, files, *args, **kwargs)
    monkeypatch.setattr(Frozen, 'passes', counted)
    rows = read_captions(shapes_with_captions(tmp_path, 40, seed=7, side=32)).rows # which nobody has seen yet
    twice = [(file, f'{text}{more}') for file, text in zip(rows.image, rows.text) for more in ('', ', as drawn')]
    learn = transfer_learner(ImageTextTask.from_records(twice, valid=.2, test=.2), start_of('clip', folders), seed=0)
    quiet(learn, 'feature', 2)
    learn.evaluate()
    assert sum(seen) == 40 # forty pictures with eighty captions


# a split that can be believed

def test_no_picture_and_no_caption_is_in_two_parts(table):
    rows = read_captions(table).rows
    same = [(file, text if i % 5 else 'a shape') for i, (file, text) in enumerate(zip(rows.image, rows.text))]
    task = ImageTextTask.from_records([*same, *((file, f'again {i}') for i, file in enumerate(rows.image))])
    for side in (lambda item: item[0], lambda item: item[1]): assert task.df.part.groupby(task.df.item.map(side)).nunique().max() == 1
    assert task_from_dict(json.loads(json.dumps(task.as_dict()))).fingerprint == task.fingerprint

def test_five_captions_of_a_picture_are_all_right(folders, table):
    rows = read_captions(table).rows
    many = [(file, f'{text}, {i}') for file, text in zip(rows.image, rows.text) for i in range(3)]
    task = ImageTextTask.from_records(many, valid=.2, test=.2)
    learn = transfer_learner(task, start_of('clip', folders), seed=0)
    result = learn.evaluate()
    assert result.n == 24 and result.probs[:, 0].max() <= 21 # of 24 texts, two others are of the same picture


# saved, by name, and after a kill

@pytest.mark.parametrize('name', ['clip', 'siglip', 'altclip', 'own', 'side by side'])
def test_saved_and_loaded_it_answers_the_same(name, folders, table, tmp_path):
    task = pairs(table)
    learn = transfer_learner(task, start_of(name, folders), seed=0)
    quiet(learn, 'feature', 2)
    learn.save_transfer(tmp_path/'model', check=name == 'clip')
    again, items = load_transfer(tmp_path/'model'), task.part('test').item.to_list()
    check_saved(tmp_path/'model', again)
    assert [row['similarity'] for row in again.predict(items)] == pytest.approx([row['similarity'] for row in learn.predictor().predict(items)], abs=1e-4)
    further = transfer_learner(task, tmp_path/'model', seed=1)
    assert further.evaluate().value == pytest.approx(learn.evaluate().value, abs=1e-3) # projections go on

def test_by_its_name_on_a_hub(folders, hub):
    hub.add('openai/clip-tiny', folders['clip'], licence='mit')
    p = image_text_pretrained('openai/clip-tiny')
    assert (p.name, p.source, p.licence) == ('openai/clip-tiny', 'hub', 'mit')
    ours, theirs, x = whole(p), whole(image_text_pretrained(folders['clip'])), p.example(3)
    torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(TransferError, match='name two'): image_text_pretrained('squeezenet1_1')

_killed = '''
import os, signal, sys, json
sys.path[:0] = [os.environ['HERE']]
import test_image_text as t
from pathlib import Path
from fastai.callback.core import Callback
from tl_nbdev.networks.passes import weights_hash
from tl_nbdev.training.loop import KeepState
t.torch.set_num_threads(1)
KeepState.often = 0.
table, folder, how, stop = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3], int(sys.argv[4])

class Die(Callback):
    order, n = 90, 0
    def after_batch(self):
        if self.training: self.n += 1
        if self.n == stop: os.kill(os.getpid(), signal.SIGKILL)

learn = t.transfer_learner(t.pairs(table), 'squeezenet1_1+bert-tiny', size=32, tokens=16, dim=16, bs=8, seed=0, augment='flip')
with t.watched(learn), learn.added_cbs(Die()): learn.transfer(how, 2, resume=folder is not None, folder=folder)
print(json.dumps([weights_hash(learn.model), len(learn.recorder.losses), learn.evaluate().value]))
'''

@pytest.mark.parametrize('how, stop', [('lit', 4)])
def test_killed_and_resumed_it_ends_the_same(how, stop, table, tmp_path):
    env = dict(os.environ, HERE=os.path.dirname(__file__), PYTHONPATH=os.pathsep.join(filter(None, [os.getcwd(), os.environ.get('PYTHONPATH')])))
    def run(folder, stop):
        done = python(_killed, table, folder, how, stop, env=env)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else None
    whole = run('', 0)
    assert run(str(tmp_path/'run'), stop) is None
    assert run(str(tmp_path/'run'), 0) == whole


# class names

def test_zero_shot_is_what_the_whole_network_says(folders, table):
    df = pd.read_csv(table).assign(file=lambda df: [str(table.parent/file) for file in df.file])
    task = ImageTask.from_df(df, label='shape', valid=.2, test=.2)
    for name in ('clip', 'siglip', 'joined'):
        p = image_text_pretrained(folders[name])
        result = zero_shot(task, p, ('a {}', 'the {} here'))
        net, frozen = whole(p), p.frozen(p.body())
        rows = task.part('test')
        with torch.no_grad():
            seen = torch.nn.functional.normalize(net.head.side(frozen.image.all(rows.item.to_list()), 0), dim=1)
            vectors = []
            for label in task.vocab:
                said = torch.nn.functional.normalize(net.head.side(frozen.text.all([f'a {label}', f'the {label} here']), 1), dim=1)
                vectors.append(torch.nn.functional.normalize(said.mean(0), dim=0))
            want = (seen@torch.stack(vectors).T/net.head.temperature).softmax(1)
        np.testing.assert_allclose(result.probs, want.numpy(), atol=1e-3)

def test_a_head_of_class_names_begins_as_zero_shot_and_goes_on(folders, table):
    df = pd.read_csv(table).assign(file=lambda df: [str(table.parent/file) for file in df.file])
    task = ImageTask.from_df(df, label='shape', valid=.2, test=.2)
    learn = transfer_learner(task, folders['clip'], head='class names', seed=0)
    assert learn.evaluate().value == pytest.approx(zero_shot(task, folders['clip']).value)
    quiet(learn, 'lpft', 1)
    assert len(captioned(task).df) == len(task.df)
    with pytest.raises(TransferError, match='reads no words'): transfer_learner(task, 'squeezenet1_1', head='class names')
    assert class_names(folders['clip']).reads == 'images'


# from a shell

def test_from_a_table_to_a_search_in_a_shell(table, tmp_path):
    model = str(tmp_path/'model')
    out = tl('train', table, '--image', 'file', '--caption', 'caption', '--model', 'squeezenet1_1+bert-tiny', '--size', 32, '--epochs', 3, '--out', model)
    assert 'MRR' in out.out, out.err
    found = tl('predict', model, 'a red circle', '--among', table.parent/'pictures', '--top', 3, '--json', tmp_path/'found.json')
    assert [row['place'] for row in json.loads((tmp_path/'found.json').read_text('utf-8'))] == [1, 2, 3], found.err
    assert '.png' in found.out
    picture = next((table.parent/'pictures').iterdir())
    assert 'on' in tl('predict', model, picture, '--among', table, '--top', 1).out
