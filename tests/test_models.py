"Frozen means frozen, and a model that was saved is the model that was trained, whatever happens to its folder."
import json, pickle, shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import die, edited, killed, photos, refused, run, tl
from fastai.vision.all import ImageDataLoaders, Resize, resnet18, vision_learner
from tl_nbdev.base import disk, keep
from tl_nbdev.selection.compare import compare
from tl_nbdev.vision.zoo import pretrained
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.base.keep import save_folder
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import check_saved, load_transfer
from tl_nbdev.training.saving import save_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import strategy
from tl_nbdev.vision.zoo import models

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    "Two images in each part: as many as in a trial pass, since kernels are compiled, for seconds, for each new size of a batch"
    return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 3))

def quiet(learn, f, *args):
    with learn.no_bar(), learn.no_logging(): f(*args)

def state(net): return {k: v.clone() for k, v in net.state_dict().items()}
def changed(before, net): return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}

def frozen_names(net, first):
    "Parameters of the stages before `first`, and the buffers of the modules that hold them"
    names = {n for s in stages(net)[:first] for n in s.params}
    owners = {n.rpartition('.')[0] for n in names}
    return names | {n for n, _ in net.named_buffers() if n.rpartition('.')[0] in owners}

def check_frozen(net, before, how):
    "Bit-equal below, weights and buffers; something new in every stage above"
    ss, now = stages(net), changed(before, net)
    first = strategy(how).phases[0].which(ss)[0]
    assert not (drifted := now & frozen_names(net, first)), f'{how} changed {sorted(drifted)[:3]}'
    for s in ss[first:]: assert now & s.params.keys(), f'{how} did not train {s.name}'
    if first == len(ss) - 1: assert all(k.startswith('head.') for k in now)


# each backbone of the wheels

@pytest.mark.parametrize('name', [o['name'] for o in models()])
def test_frozen_means_frozen_and_saved_means_kept(name, task, tmp_path):
    learn = transfer_learner(task, name, size=42 if name.startswith('vit') else 32, seed=0)
    for how in 'full', 'last:1', 'feature': # each frozen part has momentum and gradients of the one before to resist
        before = state(learn.model)
        quiet(learn, learn.transfer, how, 2)
        check_frozen(learn.model, before, how)
    result = learn.evaluate()
    there = load_transfer(learn.save_transfer(tmp_path/'saved', result, check=False))
    check_saved(tmp_path/'saved', there)
    got = there.probs(result.items)
    np.testing.assert_allclose(np.stack([got[i] for i in range(result.n)]), result.probs, atol=1e-5)


# fastai's own verbs

def test_fastai_verbs_freeze_too(task):
    learn = transfer_learner(task, 'squeezenet1_1', size=32, seed=0)
    learn.unfreeze()
    quiet(learn, learn.fit, 2, 1e-3)
    learn.freeze()
    before = state(learn.model)
    quiet(learn, learn.fit, 2, 1e-3)
    check_frozen(learn.model, before, 'feature')
    learn.freeze_to(-2)
    before = state(learn.model)
    quiet(learn, learn.fit_one_cycle, 1)
    check_frozen(learn.model, before, 'last:1')
    quiet(learn, learn.fine_tune, 1)

def test_a_learner_that_fastai_made(task):
    items = task.df.item.to_list()
    dls = ImageDataLoaders.from_lists('/', items, task.df.label.to_list(), valid_pct=.25, seed=0, item_tfms=Resize(32), bs=4, num_workers=0, device='cpu')
    learn = vision_learner(dls, resnet18, pretrained=False)
    for how in 'full', 'last:1', 'feature':
        before = state(learn.model)
        quiet(learn, learn.transfer, how, 1)
        ss, now = stages(learn.model), changed(before, learn.model)
        first = strategy(how).phases[0].which(ss)[0]
        assert not now & frozen_names(learn.model, first)
        for s in ss[first:]: assert now & s.params.keys()
    assert [o['strategy'] for o in learn.transfers] == ['full', 'last:1', 'feature']
    with pytest.raises(TransferError, match='transfer_learner'): learn.evaluate()

def test_the_same_seed_gives_the_same_weights(task):
    def trained(seed):
        learn = transfer_learner(task, 'squeezenet1_1', size=32, seed=seed)
        quiet(learn, learn.transfer, 'last:1', 2)
        return learn.model
    one = trained(3)
    assert not changed(state(one), trained(3)) and changed(state(one), trained(4))

def test_a_strategy_that_does_not_fit_changes_nothing(task):
    learn = transfer_learner(task, 'squeezenet1_1', size=32, seed=0)
    before = state(learn.model)
    for how, epochs, words in ('last:99', 1, '99 body stages'), ('half', 1, 'no strategy "half"'), ('full', 0, 'epochs=0'):
        with pytest.raises(TransferError, match=words): learn.transfer(how, epochs)
    assert not changed(before, learn.model)


# a fresh process

def test_a_fresh_process_says_the_same(model, tmp_path):
    files = sorted(model.data.rglob('*.png'))[::4]
    here = tl('predict', model.folder, *files, '--json', tmp_path/'here.json')
    there = run('predict', model.folder, *files, '--json', tmp_path/'there.json')
    assert there.status == 0 and there.err == '' and there.out == here.out
    assert json.loads((tmp_path/'there.json').read_text()) == here.json and [o['label'] for o in here.json] == [f.parent.name for f in files]

def test_a_save_that_gives_other_probabilities_is_refused(model, tmp_path):
    shutil.copytree(model.folder, tmp_path/'saved')
    edited(tmp_path/'saved', lambda o: o | dict(check=[o['check'][0][::-1], *o['check'][1:]]))
    with pytest.raises(TransferError, match='gives other probabilities than before'): check_saved(tmp_path/'saved')


# folders that are not what was saved

def tear(folder, name, share=2):
    data = (folder/name).read_bytes()
    (folder/name).write_bytes(data[:len(data)//share])

def rehashed(folder, name='model.safetensors'):
    edited(folder, lambda o: {**o, 'sha256': keep.hashlib.sha256((folder/name).read_bytes()).hexdigest()})

def flip(folder):
    data = bytearray((folder/'model.safetensors').read_bytes())
    data[-100] ^= 1
    (folder/'model.safetensors').write_bytes(data)

spoilt = { # what happens to the folder, words of the line
    'gone':              (shutil.rmtree, 'no such folder'),
    'empty':             (lambda d: [o.unlink() for o in d.iterdir()], 'no transfer.json in it'),
    'no weights':        (lambda d: (d/'model.safetensors').unlink(), 'no model.safetensors in it'),
    'no json':           (lambda d: (d/'transfer.json').unlink(), 'no transfer.json in it'),
    'torn weights':      (lambda d: tear(d, 'model.safetensors'), 'not the file that was saved'),
    'one bit':           (flip, 'not the file that was saved'),
    'torn, new hash':    (lambda d: (tear(d, 'model.safetensors'), rehashed(d)), 'cannot be read'),
    'no weights in it':  (lambda d: ((d/'model.safetensors').write_bytes(b''), rehashed(d)), 'cannot be read'),
    'torn json':         (lambda d: tear(d, 'transfer.json'), 'is not JSON'),
    'binary json':       (lambda d: (d/'transfer.json').write_bytes(bytes(range(256))), 'is not JSON'),
    'edited':            (lambda d: edited(d, lambda o: {**o, 'seal': '0'*64}, False), 'its seal differs'),
    'no seal':           (lambda d: edited(d, lambda o: o, False), 'has no seal'),
    'a list':            (lambda d: edited(d, lambda o: [o]), 'transfer.json'),
    'another format':    (lambda d: edited(d, lambda o: {**o, 'format': 9}), 'has format 9'),
    'nothing in json':   (lambda d: edited(d, lambda o: {'format': 1}), 'transfer.json'),
    'no classes':        (lambda d: edited(d, lambda o: {k: v for k, v in o.items() if k != 'classes'}), 'transfer.json'),
    'a class more':      (lambda d: edited(d, lambda o: {**o, 'classes': [*o['classes'], 'line']}), 'they name different classes'),
    'another network':   (lambda d: edited(d, lambda o: {**o, 'pretrained': {**o['pretrained'], 'name': 'mobilenet_v2'}}), 'weights are of another network'),
    'no such network':   (lambda d: edited(d, lambda o: {**o, 'pretrained': {**o['pretrained'], 'name': 'squeezenet9'}}), 'squeezenet9')}

@pytest.mark.parametrize('case', spoilt)
def test_a_spoilt_folder_is_refused_in_a_line(case, model, tmp_path):
    spoil, words = spoilt[case]
    shutil.copytree(model.folder, tmp_path/'saved')
    spoil(tmp_path/'saved')
    refused(tl('predict', tmp_path/'saved', model.data), words)
    with pytest.raises(TransferError): load_transfer(tmp_path/'saved')

@pytest.mark.parametrize('case', ['gone', 'empty', 'no weights', 'no json', 'one bit', 'torn weights', 'torn, new hash', 'torn json', 'nothing in json', 'no such network'])
def test_a_spoilt_folder_is_no_start_for_training(case, model, tmp_path):
    shutil.copytree(model.folder, tmp_path/'saved')
    spoilt[case][0](tmp_path/'saved')
    refused(tl('train', model.data, '--model', tmp_path/'saved', '--epochs', 1), 'saved')

class Trap:
    "Opening its pickle makes a file"
    def __init__(self, file): self.file = file
    def __reduce__(self): return Path.touch, (self.file,)

@pytest.mark.parametrize('name', ['model.pkl', 'model.pth', 'pytorch_model.bin', 'model.safetensors', 'transfer.json'])
def test_a_pickle_is_never_opened(name, model, tmp_path):
    sprung, saved = tmp_path/'sprung', tmp_path/'saved'
    shutil.copytree(model.folder, saved)
    if name not in ('model.safetensors', 'transfer.json'): (saved/'model.safetensors').unlink()
    (saved/name).write_bytes(pickle.dumps(Trap(sprung)))
    if name == 'model.safetensors': rehashed(saved)
    refused(tl('predict', saved, model.data), 'saved', *(['was not opened'] if name.startswith(('model.p', 'py')) else []))
    assert tl('train', model.data, '--model', saved, '--epochs', 1).status == 1
    assert not sprung.exists()
    pickle.loads((saved/name).read_bytes())
    assert sprung.exists() # the trap works


# killed while saving

def moved_then_die(self, to):
    Path.replace(self, to)
    die()

@pytest.mark.parametrize('moment', [(keep, 'save_file', die), (keep, 'as_json', die), (disk, '_flush', die), (Path, 'rename', moved_then_die)],
                         ids=['before the weights', 'before the json', 'before the move', 'between the moves'])
def test_killed_while_saving_over_a_model_leaves_the_old_one(moment, model, tmp_path, monkeypatch):
    shutil.copytree(model.folder, tmp_path/'saved')
    photo = next(model.data.rglob('*.png'))
    before = load_transfer(tmp_path/'saved').predict(photo)
    with monkeypatch.context() as mp:
        mp.setattr(*moment)
        assert killed(lambda: save_folder(tmp_path/'saved', {'w': torch.zeros(2)}, {}))
    assert load_transfer(tmp_path/'saved').predict(photo) == before
    save_folder(tmp_path/'saved', {'w': torch.zeros(2)}, {})
    assert sorted(o.name for o in (tmp_path/'saved').iterdir()) == ['model.safetensors', 'transfer.json']

def test_a_move_that_fails_leaves_the_old_one(model, tmp_path, monkeypatch):
    def fails(self, to): raise OSError(28, 'No space left on device')
    shutil.copytree(model.folder, tmp_path/'saved')
    with monkeypatch.context() as mp:
        mp.setattr(Path, 'replace', fails)
        with pytest.raises(TransferError, match='No space left on device'): save_folder(tmp_path/'saved', {'w': torch.zeros(2)}, {})
    assert [o.name for o in tmp_path.iterdir()] == ['saved'] and load_transfer(tmp_path/'saved').classes == ['round', 'square']

def test_only_a_model_is_replaced(model, task, tmp_path):
    (tmp_path/'precious').mkdir()
    (tmp_path/'precious/photo.png').touch()
    for where in tmp_path/'precious', tmp_path/'precious/photo.png', tmp_path:
        with pytest.raises(TransferError, match='not a model folder'): save_folder(where, {}, {})
    assert (tmp_path/'precious/photo.png').exists()

def test_a_network_and_its_twin_without_weights_are_compared_as_two(tmp_path):
    few = ImageTask.from_folder(photos(tmp_path/'photos', 20))
    twin = [pretrained('squeezenet1_1', size=64, **o) for o in ({}, dict(source='random'))]
    runs = compare(few, twin, ['feature'], epochs=1, size=64, out=tmp_path/'runs')
    assert {r.model for r in runs} == {'squeezenet1_1', 'squeezenet1_1, random weights'} == {r['model'] for r in runs.rows()} and len(list((tmp_path/'runs').glob('*.json'))) == 2
    again = compare(few, twin, ['feature'], epochs=1, size=64, out=tmp_path/'runs')
    assert [r['value'] for r in again.rows()] == [r['value'] for r in runs.rows()]
