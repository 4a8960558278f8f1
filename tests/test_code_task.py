"Sources as a task: Magika, files and functions, what git remembers, bad input, and all verbs."
import json, os, stat, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
import transformers as tf
import children
from conftest import refused, tl
from tl_nbdev.base.samples import sample
from tl_nbdev.base.settings import TransferError
from tl_nbdev.code.functions import functions_of
from tl_nbdev.code.grammars import functions_written_in, languages_with_functions
from tl_nbdev.code.history import git, history
from tl_nbdev.code.magika import Magika, bytes_read, magika_types, read_magika
from tl_nbdev.code.modality import Codes
from tl_nbdev.code.sources import read_source
from tl_nbdev.code.task import CodeTask
from tl_nbdev.data.modality import kind_in_memory, modality_called
from tl_nbdev.selection.compare import compare
from tl_nbdev.text.texts import TextTask
from tl_nbdev.training.learner import transfer_learner, watched
from tl_nbdev.training.saved import load_transfer

python = 'def f{i}(x):\n    """Adds."""\n    y = [x + {i} for x in range({i})]\n    return y\n\n\ndef g{i}(x):\n    return x*{i}\n'
script = 'function f{i}(x) {{\n  const y = [{i}, x];\n  return y.map(z => z + {i});\n}}\n\nfunction g{i}(x) {{ return x*{i} }}\n'

def sources(to, n=12, **kinds):
    "A folder of a project in two languages"
    for i in range(n):
        for kind, text in (kinds or dict(py=python, js=script)).items():
            file = to/('core' if kind == 'py' else 'web')/f'm{i}.{kind}'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(i=i))
    return to

@pytest.fixture
def folder(tmp_path): return sources(tmp_path/'project')

@pytest.fixture
def task(folder): return CodeTask.from_folder(folder)

def learned(task, model='magika', how='feature', epochs=None, **kwargs):
    learn = transfer_learner(task, model, seed=0, **kwargs)
    with watched(learn): learn.transfer(how, epochs)
    return learn


# Magika

def outputs(texts, kind=torch.float32):
    "Probabilities of our network in a precision, and of onnxruntime"
    ort = pytest.importorskip('onnxruntime')
    file = sample('magika')/'model.onnx'
    body, head = read_magika(file)
    net = Magika().eval()
    net.load_state_dict(body)
    x = torch.tensor([*map(bytes_read, texts)])
    theirs, = ort.InferenceSession(file).run(None, dict(bytes=x.int().numpy()))
    with torch.no_grad(): ours = torch.nn.functional.linear(net.to(kind)(x), **{name: each.to(kind) for name, each in head.items()}).softmax(1)
    return ours.double().numpy(), theirs

def test_magika_gives_what_onnxruntime_gives():
    text = Path(__file__).read_text('utf-8')
    ours, theirs = outputs(['', ' '*5000, '\u00e9'*3000, 'def f(): pass\n'*500, *(text[:n] for n in (1000, 3000, 10_000, 20_000))])
    assert np.abs(ours - theirs).max() < 1e-5

def test_of_few_characters_it_is_the_more_exact_one():
    "Nearly all steps are the same there, and their variance is lost in 32 bits where two large numbers are subtracted, as ONNX has it"
    texts = ['x', '#!/bin/sh\nls', 'x = 1']
    ours, theirs = outputs(texts)
    exact, _ = outputs(texts, torch.float64)
    assert np.abs(ours - exact).max() < 1e-5 < np.abs(theirs - exact).max() < .05

@pytest.mark.parametrize('how', ['feature', 'last:1', 'full', 'gradual', 'lpft'])
def test_magika_learns_by_any_strategy(task, how):
    learn = learned(task, how=how, epochs=4)
    assert learn.evaluate().value > .9
    fast, whole = learn.evaluate().probs, learn.evaluate(fast=False).probs
    assert np.allclose(fast, whole, atol=1e-5)

def test_what_is_frozen_stays(task):
    learn = transfer_learner(task, 'magika', seed=0)
    before = {name: each.clone() for name, each in learn.model.state_dict().items()}
    with watched(learn): learn.transfer('last:1', 2)
    changed = {name.split('.')[2] for name, each in learn.model.state_dict().items() if name.startswith('body') and not torch.equal(each.cpu(), before[name].cpu())}
    assert changed == {'conv', 'norm'} # and not what looks bytes up
    with watched(learn): learn.transfer('full', 2)
    assert not torch.equal(learn.model.body.net.conv.weight.cpu(), before['body.net.conv.weight'].cpu())

def test_saved_read_by_a_fresh_process_and_gone_on_with(task, folder, tmp_path):
    learn = learned(task)
    to = learn.save_transfer(tmp_path/'model', learn.evaluate())
    file = folder/'core'/'m0.py'
    code = 'import sys; from pathlib import Path; from tl_nbdev.all import *; rows = load_transfer(sys.argv[1]).predict([Path(sys.argv[2])]); print(rows[0]["label"], rows[0]["code"])'
    there = children.python(code, to, file)
    assert there.stdout.split() == ['core', str(file)], there.stderr
    model = load_transfer(to)
    assert [row['label'] for row in model.predict([script.format(i=77), python.format(i=78)])] == ['web', 'core']
    again = transfer_learner(task, to, head='own', seed=0)
    assert np.allclose(again.evaluate().probs, learn.evaluate().probs, atol=1e-5)
    texts = TextTask.from_df(task.df.rename(columns=dict(item='text')))
    assert transfer_learner(texts, to).plan('feature')

def test_its_own_head_knows_types(folder, capsys):
    task = CodeTask.from_folder(folder, label='language')
    with watched(learn := transfer_learner(task, 'magika', head='own', seed=0)): pass
    assert learn.evaluate().value == 1. and 'goes on with JavaScript, Python' in capsys.readouterr().out
    assert {'python', 'C', 'C++'} <= {*magika_types()} or 'C++' in magika_types()

def test_windows_and_sizes(task):
    whole = transfer_learner(task, 'magika', long='windows')
    assert whole.plan('feature')
    p = task.pretrained('magika', long='windows')
    frozen = p.frozen(p.body())
    long = 'x = 1\n'*2000
    assert frozen.all([long, 'x']).shape == (2, 512) and len(frozen.tokens([long])[0]) > 5
    with pytest.raises(TransferError, match='reads 2,048 bytes'): transfer_learner(task, 'magika', size=512)

def test_both_ends_of_a_long_source_are_read(task):
    p = task.pretrained('magika')
    frozen = p.frozen(p.body())
    middle, end = 'a = 1\n'*9000, 'a = 1\n'*8999 + 'z = 2\n'
    one, other = frozen.all([middle, end])
    assert not torch.equal(one, other)
    assert 'beginning and end' in Codes().remark(frozen, Codes().doubtful(frozen, [middle]))


# other networks

def test_codebert_from_a_hub(hub, task, tmp_path):
    from test_hub_texts import written
    hub.add('microsoft/codebert-base', written(tmp_path/'made', 'microsoft/codebert-base'))
    learn = learned(task, 'microsoft/codebert-base', size=32, epochs=2)
    assert type(learn.model.body.net).__name__ == 'RobertaModel' and 0 <= learn.evaluate().value <= 1

@pytest.mark.parametrize('kind', ['meta-llama/Llama-3.2-1B', 'Qwen/Qwen2.5-0.5B'])
def test_states_of_a_decoder_as_an_encoder(task, tmp_path, kind):
    tokenizer = tf.AutoTokenizer.from_pretrained(sample('bert-tiny'))
    cls = dict(meta=('LlamaConfig', 'LlamaForCausalLM'), Qwen=('Qwen2Config', 'Qwen2ForCausalLM'))[kind[:4]]
    config = getattr(tf, cls[0])(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    torch.manual_seed(0)
    getattr(tf, cls[1])(config).save_pretrained(tmp_path/'net')
    tokenizer.save_pretrained(tmp_path/'net')
    learn = learned(task, str(tmp_path/'net'), pooling='mean', size=64, epochs=4)
    assert learn.model.body.pooling == 'mean' and learn.evaluate().value >= .5


# files and functions

def test_functions_of_a_file_stay_together(folder):
    task = CodeTask.from_folder(folder, unit='function')
    assert len(task.df) == 48 and task.df.groupby('group').part.nunique().max() == 1
    by_folder = CodeTask.from_folder(folder, label='language', unit='function', group=lambda name: name[-4:])
    assert by_folder.df.groupby('group').part.nunique().max() == 1

def test_parts_given_by_folders(tmp_path):
    for part in ('train', 'test'): sources(tmp_path/part, n=4 if part == 'train' else 2)
    task = CodeTask.from_folder(tmp_path)
    assert task.vocab == ['core', 'web'] and task.n('test') == 4 and task.given

def test_labels_of_a_dict_a_function_and_a_table(folder):
    assert CodeTask.from_folder(folder, label=lambda name: 'even' if int(name[-4]) % 2 else 'odd').vocab == ['even', 'odd']
    some = {f'core/m{i}.py': 'ab'[i % 2] for i in range(8)}
    assert len(CodeTask.from_folder(folder, label=some).df) == 8
    table = folder/'labels.csv'
    pd.DataFrame(dict(file=[*some, 'core/gone.py'], label=[*some.values(), 'a'])).to_csv(table, index=False)
    of_files, of_functions = CodeTask.from_csv(table), CodeTask.from_csv(table, unit='function')
    assert len(of_files.df) == 8 and of_files.skipped[0][0] == 'core/gone.py' and len(of_functions.df) == 16
    assert of_functions.df.groupby('group').part.nunique().max() == 1

def test_headers_may_be_left_out(folder):
    for file in folder.rglob('*.*'): file.write_text(f'{"#" if file.suffix == ".py" else "//"} Copyright {file.parent.name} team\n' + file.read_text())
    told = [row['found'] for row in CodeTask.from_folder(folder).audit()]
    assert any('licences at the beginning, which tell classes apart' in found for found in told)
    assert not CodeTask.from_folder(folder, headers=False).df.item.str.contains('Copyright').any()

@pytest.mark.parametrize('language', languages_with_functions)
def test_a_half_written_source_is_no_fault(language):
    for text in ('', '{{{{', 'x = "', '\x01\x02', 'é'*100, '(('*200):
        try: found = functions_written_in(language, text)
        except TransferError as e: assert language == 'Python' and 'no Python' in str(e)
        else: assert found == []

def test_grammars_that_are_not_there(monkeypatch, folder):
    from tl_nbdev.code import grammars
    grammars._parser.cache_clear()
    monkeypatch.setitem(sys.modules, 'tree_sitter_javascript', None)
    with pytest.raises(TransferError, match=r'pip install "tl_nbdev\[code\]"'): CodeTask.from_folder(folder, unit='function')
    grammars._parser.cache_clear()


# what can be wrong

def test_what_is_no_source(tmp_path):
    bad = {'mini.js': b'a=1;'*2000, 'binary.py': b'\x7fELF\0\0', 'empty.go': b'  \n', 'made.go': b'// Code generated by x. DO NOT EDIT.\npackage a\n',
           'odd.py': b'# \xff\n', 'huge.c': b'int a;\n'*400_000}
    for name, raw in bad.items():
        (tmp_path/'core').mkdir(exist_ok=True)
        (tmp_path/'core'/name).write_bytes(raw)
    with pytest.raises(TransferError, match='none can be used: the first, core/'): CodeTask.from_folder(tmp_path)
    (tmp_path/'core'/'latin.c').write_bytes('// Größe\nint a;\n'.encode('latin-1'))
    (tmp_path/'core'/'wide.cs').write_bytes('// Größe\nint a;\n'.encode('utf-16'))
    sources(tmp_path)
    task = CodeTask.from_folder(tmp_path)
    assert {Path(name).name for name, _ in task.skipped} == {*bad} and sum('Größe' in item for item in task.df.item) == 2
    assert all(why and '\n' not in why for _, why in task.skipped)
    audit = task.audit()
    assert sum(row['count'] for row in audit if row['found'].startswith('left out')) == len(bad)

def test_folders_of_which_nothing_comes(tmp_path, folder):
    with pytest.raises(TransferError, match='no such folder'): CodeTask.from_folder(tmp_path/'none')
    (tmp_path/'empty').mkdir()
    with pytest.raises(TransferError, match='no files of programs'): CodeTask.from_folder(tmp_path/'empty')
    with pytest.raises(TransferError, match='one class|only one|1 class'): CodeTask.from_folder(folder/'core', label='language')
    vendored = sources(tmp_path/'p'/'node_modules')
    with pytest.raises(TransferError, match='vendored=True'): CodeTask.from_folder(tmp_path/'p')
    assert len(CodeTask.from_folder(tmp_path/'p', label='language', vendored=True).df) == 24 and vendored
    for wrong in (dict(unit='line'), dict(label='name'), dict(group='author'), dict(least=0), dict(least=5, most=2)):
        with pytest.raises(TransferError): CodeTask.from_folder(folder, **wrong)

def test_a_class_of_one_source(folder):
    (folder/'docs').mkdir()
    (folder/'docs'/'conf.py').write_text('x = 1\n')
    task = CodeTask.from_folder(folder)
    assert any('class "docs" has 1 item' in note for note in task.notes)

def test_an_audit_finds_what_gives_answers_away(tmp_path):
    rows = [dict(code=f'def test_{i}(a):\n    return a.check({i}, {i*7})', label='test') for i in range(12)]
    rows += [dict(code=f'def work_{i}(b):\n    yield b + {i*3}', label='other') for i in range(12)]
    rows += [dict(code='a=1;'*2000, label='other'), dict(code='// @generated by x\n' + 'int a;\n'*3, label='other')]
    found = {row['found']: row['count'] for row in CodeTask.from_df(pd.DataFrame(rows)).audit()}
    assert found['sources that hold their label in the name that is declared first: test'] == 12
    assert found['sources that are minified, or made by a program'] == found['sources that are made by a program, as its first lines say'] == 1


# git

def run(repo, *args): return subprocess.run(['git', '-C', repo, '-c', 'user.name=A', '-c', 'user.email=a@example.org', *args], check=True, capture_output=True, text=True)

@pytest.fixture
def repo(tmp_path):
    to = tmp_path/'repo'
    to.mkdir()
    run(to, 'init', '-q')
    for i in range(24):
        (to/f'm{i}.py').write_text(python.format(i=i))
        run(to, 'add', '.')
        if i % 4 == 3: run(to, 'commit', '-qm', f'Add up to m{i}')
    for i in range(8):
        (to/f'm{i}.py').write_text(python.format(i=i).replace('x + ', 'x - '))
        run(to, 'commit', '-qam', f'Fix the sum of m{i}' if i % 4 != 3 else f'Another sum in m{i}')
    return to

def test_what_later_fixes_touched(repo):
    task = CodeTask.from_git(repo, at=.4)
    assert task.sizes() == {'fixed later': 6, 'not fixed': 42} and any('noisy' in note for note in task.notes)
    assert task.df.groupby('group').part.nunique().max() == 1
    assert all('x + ' in item for item in task.df.item[task.df.label == 'fixed later']) # the state before
    assert CodeTask.from_git(repo, at=.4, unit='file').sizes() == {'fixed later': 6, 'not fixed': 18}

def test_train_before_test(repo):
    task = CodeTask.from_git(repo, at=.4, split='time')
    train = task.df[task.df.part != 'test']
    assert not set(task.part('test').item) & set(train.item)
    with pytest.raises(TransferError, match='a share|the share'): CodeTask.from_git(repo, at='HEAD~3', split='time')

def test_nothing_that_a_repository_names_is_run(repo, tmp_path):
    trap = tmp_path/'trap'
    trap.write_text(f'#!/bin/sh\ntouch {tmp_path/"sprung"}\ncat\n')
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    for key in ('core.fsmonitor', 'core.pager', 'diff.external', 'pager.log', 'gpg.program', 'core.sshCommand', 'diff.trap.textconv', 'diff.trap.command', 'core.editor', 'core.alternateRefsCommand'):
        run(repo, 'config', key, str(trap))
    run(repo, 'config', 'log.showSignature', 'true')
    (repo/'.git'/'info'/'attributes').write_text('*.py diff=trap\n')
    for hook in ('post-checkout', 'pre-commit', 'reference-transaction', 'post-index-change', 'fsmonitor-watchman'):
        (repo/'.git'/'hooks'/hook).write_text(trap.read_text())
        (repo/'.git'/'hooks'/hook).chmod(0o755)
    assert len(CodeTask.from_git(repo, at=.4).df) == 48
    assert not (tmp_path/'sprung').exists()

def test_no_repository_no_git_no_fix(repo, tmp_path, monkeypatch):
    (tmp_path/'plain').mkdir()
    for wrong, said in ((tmp_path/'plain', 'no git repository'), (tmp_path/'none', 'no such folder')):
        with pytest.raises(TransferError, match=said): CodeTask.from_git(wrong)
    with pytest.raises(TransferError, match='speaks of a fix'): CodeTask.from_git(repo, words='no such word')
    with pytest.raises(TransferError, match='no commit "nothing"'): CodeTask.from_git(repo, at='nothing')
    with pytest.raises(TransferError, match='name a commit'): CodeTask.from_git(repo, at='--output=x')
    with pytest.raises(TransferError, match='as old as'): CodeTask.from_git(repo, at='1990-01-01')
    run(tmp_path/'plain', 'init', '-q')
    with pytest.raises(TransferError): CodeTask.from_git(tmp_path/'plain')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(TransferError, match='git is not installed'): CodeTask.from_git(repo)

def test_what_git_says_is_told_in_a_line(repo):
    from tl_nbdev.code.history import _why
    said = _why("fatal: detected dubious ownership in repository at '/a'\nTo add an exception…", repo)
    assert 'belongs to somebody else' in said and f'safe.directory {repo.resolve()}' in said and '\n' not in said
    assert '\n' not in _why('hint: one\nfatal: two\nhint: three', repo) and 'two' in _why('hint: one\nfatal: two', repo)

def test_a_shallow_clone(repo, tmp_path):
    subprocess.run(['git', 'clone', '-q', '--depth', '3', f'file://{repo}', tmp_path/'shallow'], check=True, capture_output=True)
    with pytest.raises(TransferError, match='shallow clone, git fetch --unshallow'): CodeTask.from_git(tmp_path/'shallow')
    subprocess.run(['git', 'clone', '-q', '--depth', '9', f'file://{repo}', tmp_path/'deeper'], check=True, capture_output=True)
    assert history(tmp_path/'deeper', .2).shallow
    assert any('shallow' in note for note in CodeTask.from_git(tmp_path/'deeper', at=.2).notes)

def test_a_bare_repository_and_odd_names(repo, tmp_path):
    (repo/'mit Leerzeichen é.py').write_text(python.format(i=99))
    run(repo, 'add', '.')
    run(repo, 'commit', '-qm', 'Add one with an odd name')
    (repo/'mit Leerzeichen é.py').write_text(python.format(i=99).replace('x*', 'x/'))
    run(repo, 'commit', '-qam', 'Fix it')
    subprocess.run(['git', 'clone', '-q', '--bare', repo, tmp_path/'bare.git'], check=True, capture_output=True)
    task = CodeTask.from_git(tmp_path/'bare.git', at='HEAD~1')
    assert task.sizes()['fixed later'] == 1 and (task.df[task.df.label == 'fixed later'].group == 'mit Leerzeichen é.py').all()


# verbs and the shell

def test_compared_and_asked(task, tmp_path):
    runs = compare(task, ['magika', 'bert-tiny'], ('feature',), epochs=2, out=tmp_path/'runs')
    assert len(runs) == 2
    learn = learned(task)
    item = task.df.item[0]
    assert learn.predict(item)[0] in task.vocab
    rows = learn.explain(item)
    assert rows.answer in task.vocab and len(rows) == 2048

def test_kinds_of_input(folder):
    assert kind_in_memory([*folder.rglob('*.py')]) is Codes and kind_in_memory(['x = 1', 'y = 2']).name == 'text'
    assert modality_called('code') is Codes

def test_from_the_shell(folder, tmp_path):
    (folder/'core'/'bad.py').write_bytes(b'\0\1')
    small = '--model', 'magika', '--epochs', 4
    done = tl('train', folder, *small, '--out', tmp_path/'m', '--json', tmp_path/'r.json') # a folder of programs is one of code
    assert done.status == 0 and done.json['value'] > .9, done.err
    asked = tl('predict', tmp_path/'m', folder/'core'/'m1.py', folder/'core'/'bad.py', folder/'web', '--json', tmp_path/'p.json')
    assert asked.status == 0 and len(asked.json) == 14 and 'binary' in asked.json[1]['error'] and asked.json[0]['label'] == 'core'
    assert tl('predict', tmp_path/'m', '--text', script.format(i=5)).out.rstrip().split('\t')[-2] == 'web'
    by_language = tl('audit', folder, '--task', 'code', '--label', 'language', '--json', tmp_path/'a.json')
    assert by_language.json['classes'] == {'JavaScript': 12, 'Python': 12}
    assert tl('eval', tmp_path/'m', folder, '--task', 'code').status == 0

def test_what_a_shell_refuses(folder, tmp_path):
    (tmp_path/'empty').mkdir()
    refused(tl('train', tmp_path/'empty', '--task', 'code'), 'no files of programs')
    refused(tl('train', folder, '--task', 'code', '--label', 'nothing'), 'label=')
    refused(tl('train', folder, '--task', 'code', '--second', 'x'), '--second')
    refused(tl('train', tmp_path/'none', '--task', 'code'), 'no such file')

def test_folders_of_others_are_not_claimed(tmp_path):
    from conftest import photos
    from tl_nbdev.apps.door import kind_of_data
    photos(tmp_path/'photos')
    (tmp_path/'photos'/'make.py').write_text('x = 1')
    for i in range(4):
        (tmp_path/'texts'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path/'texts'/'ab'[i % 2]/f'{i}.txt').write_text('a text')
    assert [kind_of_data(tmp_path/name).name for name in ('photos', 'texts')] == ['image', 'text']

def test_a_sample_is_listed_and_made_once(capsys):
    assert 'python-functions' in tl('samples').out and 'languages' in tl('samples').out
    task = CodeTask.from_sample('python-functions', limit=300)
    assert task.df.groupby('group').part.nunique().max() == 1 and set(task.vocab) == {'bug', 'clean'}
    assert task.df.groupby('group').size().eq(2).all() # pairs stay whole
    with pytest.raises(TransferError, match='of code there are'): CodeTask.from_sample('r8')
    with pytest.raises(TransferError, match='no sample'): CodeTask.from_sample('nothing')
