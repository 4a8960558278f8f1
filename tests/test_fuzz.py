"What comes from outside ends right, or is refused in one line: mutants of saved models, strategies, runs, checkpoints, tables and images."
import json, os, shutil, time, warnings
from functools import cache
from pathlib import Path

import fuzz
import pytest
import torch
from conftest import edited, refused, tl
from safetensors.torch import load_file, save_file
from tl_nbdev.selection.compare import compare, kept_runs
from tl_nbdev.base.disk import check_ours, digest, read_json
from tl_nbdev.base.keep import load_folder, save_folder
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.base.settings import TransferError
from tl_nbdev.strategies.strategy import FineTune, FullFineTune, Phase, Strategy, strategy
from tl_nbdev.data.tables import read_table

forks = pytest.mark.skipif(not hasattr(os, 'fork') or not os.path.isdir('/proc/self'), reason='children are forked, and measured by /proc')
seed = int(os.environ.get('FUZZ_SEED', 0))

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "What the cases of a kind share, made once"
    torch.set_num_threads(1) # threads don't outlive a fork
    root = tmp_path_factory.mktemp('fuzz')
    @cache
    def of(name):
        (root/name).mkdir()
        with pytest.MonkeyPatch.context() as mp:
            mp.setenv('TL_OFFLINE', 'yes')
            return fuzz.kinds[name].prepare(root/name), root/name
    return of

def tried(prepared, name, cases):
    kind, (shared, root) = fuzz.kinds[name], prepared(name)
    endings = fuzz.run(kind, shared, seed, cases, root)
    said = fuzz.told(kind, seed, endings)
    print(said)
    assert all(o in ('right', 'refused') for o in endings.values()), f'\n{said}'
    assert len(endings) == len(cases)

@forks
@pytest.mark.parametrize('name', fuzz.kinds)
def test_a_few(name, prepared): tried(prepared, name, range(fuzz.kinds[name].few))

@forks
@pytest.mark.fuzz
@pytest.mark.parametrize('name', fuzz.kinds)
def test_all(name, prepared): tried(prepared, name, range(fuzz.kinds[name].few, fuzz.kinds[name].cases))


# a saved model is what was saved

@pytest.fixture
def saved(prepared, tmp_path):
    "Copies of a model of images and of one of texts"
    shared, _ = prepared('models')
    return {k: shutil.copytree(o[0], tmp_path/k) for k, o in shared.items()}

def why_not(act):
    with pytest.raises(TransferError) as e: act()
    assert '\n' not in str(e.value)
    return str(e.value)

def started(o, **changes): return o | dict(pretrained=o['pretrained'] | changes)

changes = dict(order=lambda o: o | dict(classes=o['classes'][::-1]), mean=lambda o: started(o, mean=[.1, .2, .3]), std=lambda o: started(o, std=[1., 1., 1.]), size=lambda o: started(o, size=48),
               filter=lambda o: started(o, interpolation='nearest'), fit=lambda o: o | dict(fit='pad'), one_field_less=lambda o: {k: v for k, v in o.items() if k != 'versions'}, more=lambda o: o | dict(mine=1))

@pytest.mark.parametrize('change', changes)
def test_what_is_changed_in_the_record_is_seen(change, saved):
    file = saved['images']/'transfer.json'
    if change == 'one_field_less': file = saved['texts']/'transfer.json'
    file.write_text(json.dumps(changes[change](json.loads(file.read_text()))))
    assert 'its seal differs' in why_not(lambda: load_transfer(file.parent))

def test_a_record_that_is_only_spaced_otherwise_is_the_same(saved):
    file = saved['images']/'transfer.json'
    file.write_text(json.dumps(dict(reversed(json.loads(file.read_text()).items()))))
    assert load_transfer(file.parent).classes == ['dark', 'light']

@pytest.mark.parametrize('change', ['mean', 'size', 'fit', 'filter'])
def test_a_model_that_answers_otherwise_is_refused_even_with_a_new_seal(change, saved):
    learned = load_file(saved['images']/'model.safetensors') # a head that makes much of small differences
    learned = {k: v*40 if k.startswith('head.') and k.endswith('weight') else v for k, v in learned.items()}
    info = json.loads((saved['images']/'transfer.json').read_text())
    kept = {k: v for k, v in info.items() if k not in ('files', 'sha256', 'format', 'seal')}
    folder = save_folder(saved['images'].parent/'sharp', learned, kept)
    from tl_nbdev.training import saved as room
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(room, '_check_sample', lambda *args: None)
        answer = room.sampled(load_transfer(folder)).tolist()
    edited(folder, lambda o: o | dict(probe=answer))
    load_transfer(folder)
    edited(folder, changes[change])
    assert 'other answers here than where it was saved' in why_not(lambda: load_transfer(folder))

def test_a_tokenizer_is_all_that_was_saved_and_nothing_more(saved):
    inner = saved['texts']/'transformer'
    (inner/'added_tokens.json').write_text('{"good": 2}')
    assert 'added_tokens.json is not of what was saved' in why_not(lambda: load_transfer(saved['texts']))
    (inner/'added_tokens.json').unlink()
    load_transfer(saved['texts'])
    (inner/'tokenizer.json').unlink()
    assert 'tokenizer.json is not the file that was saved' in why_not(lambda: load_transfer(saved['texts']))

@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_weights_that_are_no_numbers_are_named(value, saved, tmp_path):
    state, info = load_folder(saved['images'])
    name = next(k for k in state if k.endswith('running_var'))
    state[name][0] = float(value)
    assert name in why_not(lambda: save_folder(tmp_path/'bad', state, {})) and not (tmp_path/'bad').exists()
    save_file(state, saved['images']/'model.safetensors')
    fuzz._resealed(saved['images'])
    assert f'model.safetensors: the weights {name} are' in why_not(lambda: load_transfer(saved['images']))
    save_folder(tmp_path/'mask', dict(w=torch.ones(2), mask=torch.full((2, 2), -torch.inf).triu(1)), {}) # is meant

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='POSIX only')
def test_a_pipe_holds_nobody_up(saved):
    for file in ('model.safetensors', 'transfer.json'):
        folder = shutil.copytree(saved['images'], saved['images'].parent/f'pipe {file}')
        (folder/file).unlink()
        os.mkfifo(folder/file)
        why_not(lambda: load_transfer(folder))
        why_not(lambda: check_ours(folder))
        assert read_json(folder/file) is None
        with pytest.raises(OSError): digest(folder/file)


# strategies

def test_what_a_strategy_is_called_is_what_it_does():
    lie = strategy(dict(FineTune(2).as_dict(), call='FullFineTune()'))
    assert lie == FineTune(2) and repr(lie) == 'FineTune(last=2)'
    for how in (FineTune(2, lr=1e-4), FullFineTune(epochs=7), strategy('lpft+l2sp'), strategy('surgical:early,-1')): assert repr(strategy(how.as_dict())) == repr(how)
    mine = Strategy('mine', [Phase(1, 1e-3)], views=3)
    assert repr(strategy(dict(mine.as_dict(), call='__import__("os").getcwd()'))) == "Strategy('mine', [Phase(1, 0.001)], epochs=5, views=3)"

@pytest.mark.parametrize('epochs', [10**30, 10**9, 0, -1, 1.5, True, '3', float('nan')])
def test_epochs_are_a_number_that_can_be_trained(epochs):
    start = time.process_time()
    for act in (lambda: strategy(dict(FullFineTune().as_dict(), epochs=epochs)), lambda: FullFineTune(epochs=epochs), lambda: FullFineTune().resolved(4, epochs), lambda: Phase('all', epochs=epochs),
                lambda: strategy('gradual').lasting(epochs)):
        assert 'epochs' in why_not(act)
    assert time.process_time() - start < 30 # nobody has begun to count them

def test_numbers_without_end_are_refused_in_a_shell(saved, prepared):
    photos = prepared('models')[1]/'photos'
    for command in (['train', photos, '--model', saved['images'], '--epochs'], ['compare', photos, '--models', saved['images'], '--epochs'], ['compare', photos, '--models', saved['images'], '--seeds']):
        refused(tl(*command, 10**30), '1000000000')
    for odd in (0, 10**30): refused(tl('advise', photos, '--models', saved['images'], '--epochs', odd), f'epochs={odd}'[:20])
    refused(tl('advise', photos, '--models', saved['images'], '--budget', ''), 'budget ""')
    refused(tl('train', photos, '--model', saved['images'], '--dry-run', '--seed', 10**30), 'seed=1000')

@pytest.mark.parametrize('odd, words', [(dict(phases=[dict(train='all', lr=-1)]), 'phases[0].lr must be greater than 0'), (dict(phases=[dict(train='all', lr=1e-3, only='x')]), 'phases[0].only'), (dict(phases={}), 'phases'),
    (dict(steps=[dict(kind='magic')]), 'steps[0]'), (dict(views=10**9), 'views'), (dict(name=''), 'name'), (dict(more=1), 'more is no field of it')])
def test_a_strategy_in_json_is_read_field_by_field(odd, words, tmp_path):
    record = FullFineTune().as_dict() | odd
    (tmp_path/'mine.json').write_text(json.dumps(record))
    assert words in why_not(lambda: strategy(record))
    assert f'{tmp_path/"mine.json"}: ' in why_not(lambda: strategy(str(tmp_path/'mine.json')))


# records of runs

def test_a_file_that_is_no_run_is_passed_over_and_named(prepared, tmp_path):
    task, files = prepared('runs')[0]
    for f in files: shutil.copy(f, tmp_path)
    (tmp_path/'notes.json').write_text('[1, 2')
    edited(tmp_path/files[0].name, lambda o: o | dict(seconds='long'))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert len(kept_runs(task, tmp_path)) == 1
    said = [str(o.message) for o in caught]
    assert len(said) == 2 and any('notes.json is not JSON' in o for o in said) and any('seconds must be a valid number' in o for o in said), said

def test_a_run_whose_predictions_are_not_of_the_task_is_made_anew(prepared, tmp_path):
    task, files = prepared('runs')[0]
    how = dict(epochs=1, source='random', size=32, bs=4, out=tmp_path)
    for f in files: shutil.copy(f, tmp_path)
    file = tmp_path/next(o.name for o in files if 'feature' in o.name)
    file.write_text(file.read_text().replace('0.', '0.9', 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert len(compare(task, 'timm/test_efficientnet', ['feature', 'last:1'], **how)) == 2
    assert any(f'It is now {file.name}.torn' in str(o.message) for o in caught) and Path(f'{file}.torn').exists()


# tables

def test_a_return_inside_a_row_that_is_short(tmp_path):
    (tmp_path/'t.tsv').write_bytes(b'text\tlabel\nfine\rreally\ta\nbad\n')
    df = read_table(tmp_path/'t.tsv')
    assert df.shape == (2, 2) and any('fewer values than the first, such as line 3' in o for o in df.attrs['notes'])

def test_a_row_that_is_no_row(tmp_path):
    (tmp_path/'t.csv').write_bytes(b'a,'*40_000 + b'\n' + b'1,'*40_000)
    assert 't.csv: a row of 40,001 values' in why_not(lambda: read_table(tmp_path/'t.csv'))

@pytest.mark.parametrize('sep', [None, ',', 'tab'])
def test_one_column_of_values_that_take_several_lines(sep, tmp_path):
    (tmp_path/'t.csv').write_text('"text"\n"one\ntwo"\n"three"\n')
    assert read_table(tmp_path/'t.csv', sep=sep).text.to_list() == ['one\ntwo', 'three']
    for odd in ('\0', '\n', '"'): assert 'one sign' in why_not(lambda: read_table(tmp_path/'t.csv', sep=odd))

def test_half_of_a_letter_in_json(tmp_path):
    from tl_nbdev.text.texts import TextTask
    for name, rows in (('t.json', json.dumps([dict(text=f'a \ud800 {i}', label=l) for i in range(9) for l in ('\udc00', 'b')])), ('t.jsonl', '\n'.join(json.dumps(dict(text=f'a {i}', label=l)) for i in range(9) for l in ('\udc00', 'b')))):
        (tmp_path/name).write_text(rows)
        assert [o.strip('\ufffd') for o in TextTask.from_csv(tmp_path/name).vocab] == ['b', '']
