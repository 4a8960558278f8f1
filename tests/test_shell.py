"The commands, as a shell sees them: help without torch, JSON with what was promised, one line where something is wrong."
import json, re, shlex, signal, subprocess, sys
from pathlib import Path

import pytest
from conftest import photos, refused, run, small, start, tl

root = Path(__file__).resolve().parent.parent
commands = 'models samples cache audit train eval predict demo'.split()

@pytest.mark.parametrize('name', commands)
def test_help_needs_no_torch(name):
    code = f'import sys; from tl_nbdev.apps import cli; sys.argv = ["tl-{name}", "--help"]\ntry: cli.tl_{name}()\nexcept SystemExit as e: print(e.code, "torch" in sys.modules)'
    got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert got.stdout.splitlines()[-1] == '0 False', got.stderr
    assert f'tl-{name}' in got.stdout

def test_a_process_keeps_stderr_for_what_is_wrong():
    got = run('samples')
    assert got.status == 0 and got.err == '' and 'elpv' in got.out
    got = run('samples', '--fetch', 'imagenet')
    assert got.status == 1 and got.out == '' and got.err.startswith('tl-samples: no sample "imagenet"') and got.err.count('\n') == 1
    got = run('samples', '--fetch', 'imagenet', '--debug')
    assert got.status == 1 and 'Traceback' in got.err

def test_lists(tmp_path):
    found = tl('models', '--task', 'image', '--json', tmp_path/'new'/'models.json').json
    assert {'name', 'parameters', 'input', 'licence', 'source', 'available'} <= found[0].keys()
    assert 'tf_efficientnet_lite0' in {o['name'] for o in found}
    assert {o['name'] for o in tl('samples', '--json', tmp_path/'samples.json').json} >= {'elpv', 'mnist'}

def test_reports(model, tmp_path):
    promised = {'metric', 'value', 'interval', 'part', 'n_train', 'n_valid', 'n_test', 'classes', 'model', 'strategy', 'trainable_params', 'total_params', 'seconds', 'skipped'}
    assert promised <= model.report.keys() and model.report['part'] == 'test'
    judged = tl('eval', model.folder, model.data, '--json', tmp_path/'eval.json').json
    assert promised <= judged.keys() and judged['n_test'] == 24
    found = tl('audit', model.data, '--json', tmp_path/'audit.json').json
    assert found['classes'] == {'round': 12, 'square': 12} and found['findings']

def test_predict_goes_through_folders(model, tmp_path):
    said = tl('predict', model.folder, model.data/'round', '--json', tmp_path/'said.json').json
    assert len(said) == 12 and all({'file', 'label', 'probability'} == o.keys() for o in said)
    assert sum(o['label'] == 'round' for o in said) >= 9

def test_the_same_seed_gives_the_same_value(model, tmp_path):
    again = tl('train', model.data, *small, '--epochs', 20, '--json', tmp_path/'again.json').json
    assert (again['value'], again['interval']) == (model.report['value'], model.report['interval'])

@pytest.mark.parametrize('wrong, words', [
    (['--model', 'resnet51'], 'no model "resnet51"'), (['--strategy', 'everything'], 'use feature, last:N'), (['--head', 'cubic'], 'use linear, textbook'),
    (['--metric', 'luck'], 'use one of accuracy'), (['--strategy', 'last:99'], 'this network has'), (['--augment', 'cutmix'], 'use one of none'),
    (['--fit', 'stretch'], 'use one of squeeze'), (['--epochs', 0], 'use 1 or more'), (['--limit', 0], 'use 1 or more'),
    (['--seed', -1], 'use 0 or more'), (['--size', 0], 'use 1 or more'), (['--size', 3], 'use another size')])
def test_a_wrong_word_is_one_line(wrong, words, model): refused(tl('train', model.data, *small, *wrong), words)

def test_no_hub(model, monkeypatch):
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    refused(tl('train', model.data, '--model', 'resnet50'), 'These need none: tf_efficientnet_lite0')

def test_usage_is_one_line():
    got = run('train', '--epochs', 'five', 'photos')
    assert got.status == 2 and got.err.count('\n') == 1 and '--epochs' in got.err

def test_a_bad_setting_is_one_line(model, monkeypatch):
    monkeypatch.setenv('TL_DEVICE', 'gpu')
    refused(tl('train', model.data, *small), 'environment variable TL_DEVICE', 'auto, cpu, cuda, mps')

def test_out_never_loses_a_folder(model, tmp_path):
    data = photos(tmp_path/'photos')
    before = sorted(data.rglob('*.png'))
    refused(tl('train', data, *small, '--out', data), 'would be lost')
    refused(tl('train', data, *small, '--json', data), 'must not replace')
    assert sorted(data.rglob('*.png')) == before

def test_interrupted_while_training(tmp_path):
    p = start('train', photos(tmp_path/'photos', 12), '--model', 'squeezenet1_1', '--strategy', 'full', '--epochs', 5000, '--size', 64, '--out', tmp_path/'out', '--json', tmp_path/'out.json')
    next(line for line in p.stdout if 'rates are the highest of one-cycle' in line) # the plan is printed when training begins
    p.send_signal(signal.SIGINT)
    assert (p.communicate(timeout=900)[1], p.returncode) == ('tl-train: interrupted: nothing was kept. With --resume the same command goes on where it was cut off\n', 130)
    assert [o.name for o in tmp_path.iterdir()] == ['photos']

def shown():
    "Commands in the pages' blocks of shell"
    pages = [*(root/'nbs').rglob('[!.]*.ipynb'), root/'README.md', root/'CONTRIBUTING.md', root/'benchmarks'/'README.md']
    for p in pages:
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text('utf-8'))['cells'] if c['cell_type'] == 'markdown') if p.suffix == '.ipynb' else p.read_text('utf-8')
        for block in re.findall(r'```sh\n(.*?)```', text, re.S):
            for line in block.replace('\\\n', ' ').splitlines():
                line = re.sub(r'^([A-Z_]+=\S+ )+', '', line.partition('  #')[0].strip())
                if line.startswith('tl-') and '…' not in line: yield p.name, line

def test_commands_in_the_pages_have_options_that_exist():
    import tomllib
    from importlib import import_module
    scripts = tomllib.loads((Path(__file__).parent.parent/'pyproject.toml').read_text('utf-8'))['project']['scripts']
    found = sorted(set(shown()))
    assert len(found) > 20
    for page, line in found:
        name, *args = shlex.split(line, comments=True)
        module, _, command = scripts[name].partition(':')
        made = getattr(import_module(module), command)
        if not hasattr(made, 'parser'): made, args = import_module(module).verbs[args[0]], args[1:] # a command of several verbs
        try: made.parser.parse_args(args)
        except SystemExit as e: raise AssertionError(f'{page}: {line}') from e
