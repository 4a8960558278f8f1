"A hosted fine-tuning: nothing is sent before it was agreed to, nothing twice, no key is seen, and every fault is one line after which the same command goes on."
import io, json, os, signal, subprocess, sys, time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings as laws, strategies as st
from hosted import example, examples, host, jsonl, key, one_line, served, written
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.formats import chat_of_record
from tl_nbdev.generation.task import GenerationTask
from tl_nbdev.hosted import openai_task # noqa
from tl_nbdev.hosted.asking import ask_all, kept_answers
from tl_nbdev.hosted.check import check_openai
from tl_nbdev.hosted.jobs import HostedJob, start_job
from tl_nbdev.hosted.lines import line_remarks
from tl_nbdev.hosted.plan import plan_of
from tl_nbdev.hosted.prices import read_prices
from tl_nbdev.hosted.service import Service
from tl_nbdev.hosted.tokens import about_tokens, token_counter

root = Path(__file__).resolve().parent.parent
tuned = 'gpt-4o-mini-2024-07-18'

@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return jsonl(tmp_path/'train.jsonl', examples)

@pytest.fixture
def service(monkeypatch):
    with served(monkeypatch, steps=2) as service: yield service

def start(*more): return host('start', 'train.jsonl', '--model', tuned, '--out', 'job', '--patience', 2, *more)
def follow(): return host('follow', 'job', '--every', 0)


# a file, before anything is sent

broken = {
    'cut': '{"messages": [', 'no object': '[]', 'number': '3', 'other format': '{"prompt": "a", "completion": "b"}', 'nan': '{"messages": NaN}',
    'order': json.dumps(dict(messages=examples[0]['messages'][::-1])), 'empty answer': json.dumps(example('Peru', ' ')), 'surrogate': json.dumps(example('Peru', '\ud83d')),
    'role': json.dumps(dict(messages=[dict(role='human', content='a'), dict(role='assistant', content='b')])), 'weight': json.dumps(example('Peru', 'Lima', weight=2))}

@pytest.mark.parametrize('kind', broken)
@pytest.mark.parametrize('at', (0, 7, 18))
def test_a_broken_line_is_named_by_its_number(kind, at, tmp_path):
    lines = [*examples]
    lines.insert(at, broken[kind])
    file = jsonl(tmp_path/'some.jsonl', lines)
    assert {row['where'] for row in check_openai(file).refused} == {f'some.jsonl:{at + 1}'}
    with pytest.raises(TransferError, match=f'some.jsonl:{at + 1}: '): GenerationTask.from_openai(file)
    assert len(GenerationTask.from_openai(file, broken='leave').df) == len(examples)
    one_line(host('check', file), f'some.jsonl:{at + 1}: ')

def test_what_a_service_takes_and_one_may_regret_is_a_warning(tmp_path):
    system = dict(role='system', content='Be brief.')
    odd = [dict(messages=[examples[0]['messages'][0], system, examples[0]['messages'][1]]), example('Peru', 'x'*1_200_000), example('Chile', 'Write to ann@example.org.')]
    found = check_openai(jsonl(tmp_path/'some.jsonl', [*examples, *odd]), jsonl(tmp_path/'valid.jsonl', examples[:2]), tuned)
    said = ' '.join(row['found'] for row in found.warnings)
    for part in ('system turn in the middle', 'line of more than 1,000,000 bytes', 'more than 65,536 tokens', 'e-mail', 'in two parts of the split'): assert part in said, part
    assert found.ok and 'ann@example.org' not in f'{found!r}{json.dumps(found.as_dict())}'

def test_line_ends_of_windows_and_a_mark_of_utf8_are_read(tmp_path):
    (tmp_path/'some.jsonl').write_bytes(b'\xef\xbb\xbf' + b'\r\n'.join(json.dumps(each).encode() for each in examples))
    found = check_openai(tmp_path/'some.jsonl')
    assert found.ok and found.examples == len(examples) and any('BOM' in row['found'] for row in found.warnings)

anything = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6) | st.sampled_from(['user', 'assistant', 'tool', 'function']),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['role', 'content', 'weight', 'tool_calls', 'function', 'name', 'id', 'type', 'text',
                                                                                                    'arguments', 'tool_call_id', 'a']), inner, max_size=4), max_leaves=8)
turn = st.fixed_dictionaries(dict(role=st.sampled_from(['system', 'user', 'assistant', 'tool', 'x'])), optional=dict(
    content=anything, weight=anything, name=anything, tool_calls=anything, tool_call_id=anything))

@laws(max_examples=300, deadline=None, derandomize=True)
@given(st.fixed_dictionaries(dict(messages=st.lists(turn, max_size=4) | anything), optional=dict(tools=anything, a=anything)) | anything)
def test_any_record_is_refused_or_can_be_read(record):
    remarks = line_remarks(record)
    assert all(level in ('refused', 'warning') and what and next for level, what, next in remarks)
    if not any(level == 'refused' or 'picture' in what for level, what, _ in remarks): assert chat_of_record(record, 'messages')[0].answer is not None

@laws(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([json.dumps(each).encode() for each in examples]), max_size=6))
def test_any_bytes_are_checked(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp('any')/'any.jsonl'
    file.write_bytes(b'\n'.join(lines))
    assert repr(check_openai(file))

def test_the_second_file_is_test_and_weights_are_heeded(tmp_path):
    two = [dict(role='user', content='a'), dict(role='assistant', content='learned', weight=1), dict(role='user', content='b'), dict(role='assistant', content='not', weight=0)]
    task = GenerationTask.from_openai(jsonl(tmp_path/'train.jsonl', [*examples, dict(messages=two)]), jsonl(tmp_path/'valid.jsonl', [example('Italy', 'Rome'), example('Spain', 'Madrid')]))
    assert [*task.part('test').label] == ['Rome', 'Madrid'] and len(task.part('valid')) and 'not' not in {*task.df.label} and 'learned' in {*task.df.label}

def test_estimated_tokens_are_right_to_a_quarter():
    from tl_nbdev.base.settings import settings
    found = next(settings().cache.glob('samples/Qwen2.5-Coder-0.5B-Instruct-*/tokenizer.json'), None)
    if found is None: pytest.skip('that tokenizer is not here')
    import argparse
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(found))
    texts = dict(licence=(root/'LICENSE').read_text('utf-8'), code=Path(argparse.__file__).read_text('utf-8'), json=json.dumps(examples))
    for name, text in texts.items(): assert abs(about_tokens(text)/len(tok.encode(text, add_special_tokens=False).ids) - 1) <= .25, name

def test_tokens_are_counted_where_the_services_own_tokenizer_is_here(tmp_path, monkeypatch):
    "And nothing is downloaded where its pieces aren't"
    def get_encoding(name): return SimpleNamespace(encode=lambda text, disallowed_special: list(text))
    monkeypatch.setitem(sys.modules, 'tiktoken', SimpleNamespace(get_encoding=get_encoding))
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path))
    assert token_counter().name == 'an estimate'
    (tmp_path/'fb374d419588a4632f3f557e76b4b70aebbca790').write_bytes(b'')
    assert token_counter()('abc') == 3 and token_counter().error == 0
    monkeypatch.setitem(sys.modules, 'tiktoken', None)
    assert token_counter().name == 'an estimate'


# prices

def test_a_table_of_ones_own_replaces_the_one_that_comes_along(train):
    Path('mine.csv').write_text(f'model,training,input,output,date\n{tuned},1000000,1,1,2026-11-01\n', encoding='utf-8')
    got = host('plan', 'train.jsonl', '--model', tuned, '--prices', 'mine.csv', '--epochs', 1, '--base-url', 'http://127.0.0.1:1/v1', '--json', 'plan.json')
    plan = json.loads(Path('plan.json').read_text('utf-8'))
    assert not got.status and plan['price'] == plan['files'][0]['tokens'] and 'of 2026-11-01' in got.out
    assert read_prices().date and read_prices().source and all(row['stops'] for row in read_prices().models)
    one_line(host('check', 'train.jsonl', '--prices', 'none.json'), 'none.json', 'can\'t be read')


# agreed to

@pytest.mark.parametrize('command', ['start train.jsonl --model gpt-4o-mini --out job', 'eval train.jsonl --hosted gpt-4o-mini --out kept.jsonl', 'carry gpt-4o-mini train.jsonl --out kept.jsonl'])
def test_nothing_is_sent_before_somebody_agrees(command, train, service, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.StringIO('y\n')) # a pipe is nobody
    got = one_line(host(*command.split()), 'nothing was sent', '--yes')
    assert service.url in got.out and 'nothing leaves this machine' in got.out and not service.seen and not Path('job/hosted_job.json').exists() and not Path('kept.jsonl').exists()

def test_no_key_no_question(train, monkeypatch):
    monkeypatch.setenv('OPENAI_BASE_URL', 'https://127.0.0.2:9/v1')
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    one_line(start('--yes'), 'OPENAI_API_KEY', 'no key in the environment', 'Nothing was sent')
    for odd in ('http://example.org/v1', 'https://me:word@example.org/v1', 'example.org'): one_line(host('list', '--base-url', odd), 'example.org')

def test_without_the_package_it_says_what_to_install(train, service, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openai', None)
    one_line(start('--yes'), 'pip install "tl_nbdev[hosted]"')
    assert not host('check', 'train.jsonl').status and not service.seen


# faults

kinds = {'401': 'was refused', '403': 'open to this organisation', '404': 'was it withdrawn', '429': 'patience', '500': 'at the service', 'cut': 'broke off', 'hang': 'no answer in time'}

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('where', ['POST /files', 'POST /fine_tuning/jobs'])
@pytest.mark.parametrize('after', [False, True])
def test_a_fault_is_one_line_and_nothing_is_sent_twice(kind, where, after, train, service, monkeypatch):
    if kind in ('401', '403', '404', '429') and after: pytest.skip('such an answer means that nothing was done')
    plan = plan_of(check_openai('train.jsonl'), tuned)
    here = Service(patience=.5, timeout=.5)
    service.fault(where, kind, 1, wait='30', after=after, message=f'The word was {key}')
    with redirect_stdout(io.StringIO()), pytest.raises(TransferError, match=kinds[kind]) as said: start_job(plan, 'job', here, yes=True)
    assert key not in str(said.value) and service.url.split('/')[2] in str(said.value)
    with redirect_stdout(io.StringIO()): start_job(plan, 'job', here, yes=True)
    assert len(service.files) == len(service.jobs) == 1 and key.encode() not in written('job')

def test_patience_is_as_long_as_it_is_told_and_has_an_end(train, service):
    service.fault('POST /files', 429, 3, wait='0.2')
    began = time.monotonic()
    assert not start('--yes').status and time.monotonic() - began >= .6 and service.seen.count('POST /files') == 4
    service.fault('GET /fine_tuning/jobs', 429, 99, wait='1e9')
    one_line(host('list', '--patience', 1), 'patience')

def test_a_fault_at_any_question_is_gone_on_from(train, service, monkeypatch):
    "The k-th question fails, for each k: in the end there is one file, one job, and each prompt was answered once"
    questions = [f'What is asked for the {n}. time?' for n in range(3)]
    for k in range(9):
        folder, files, jobs = Path(f'job{k}'), len(service.files), len(service.jobs)
        here, before = Service(patience=0, timeout=5), len(service.seen)
        plan = plan_of(check_openai('train.jsonl'), tuned, suffix=f'run{k}')
        real = service._due
        def due(method, path):
            from tl_nbdev.hosted.rehearsal import Fault
            return Fault(method, path, ('403', 'cut', '404')[k % 3], 1) if len(service.seen) - before == k + 1 else real(method, path)
        monkeypatch.setattr(service, '_due', due)
        for _ in range(3):
            try:
                with redirect_stdout(io.StringIO()):
                    job = start_job(plan, folder, here, yes=True).follow(0, lambda line: None)
                    answers = ask_all(here, job.model, questions, folder/'kept.jsonl', yes=True)
                break
            except TransferError as e: assert '\n' not in str(e)
        monkeypatch.undo()
        monkeypatch.setenv('OPENAI_API_KEY', key)
        monkeypatch.setenv('OPENAI_BASE_URL', service.url)
        monkeypatch.chdir(train.parent)
        assert (len(service.files) - files, len(service.jobs) - jobs, len(answers), len(kept_answers(folder/'kept.jsonl'))) == (1, 1, 3, 3), k

def test_a_job_that_fails_or_is_cancelled_says_so(train, service):
    service.fails = 'The file is not to our liking.'
    assert not start('--yes').status
    one_line(follow(), 'failed: The file is not to our liking.', 'another folder')
    service.fails = ''
    jsonl('train.jsonl', examples[1:])
    one_line(start('--yes'), 'holds another hosted job', 'Nothing was sent')
    assert not host('start', 'train.jsonl', '--model', tuned, '--out', 'second', '--yes').status and not host('cancel', 'second').status
    one_line(host('follow', 'second', '--every', 0), 'was cancelled')
    assert 'cancelled' in host('list').out

def test_following_goes_on_after_a_break(train, service):
    assert not start('--yes').status
    job = HostedJob('job', Service(patience=0, timeout=5))
    said = []
    def tell(line):
        said.append(line)
        if 'running' in line: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): job.follow(0, tell)
    service.fault('GET /fine_tuning/jobs/.*', '404')
    with pytest.raises(TransferError): HostedJob('job', Service(patience=0)).follow(0, said.append)
    HostedJob('job').follow(0, said.append)
    steps = [line for line in said if line.startswith('Step')]
    assert steps == sorted(set(steps)) and len(steps) == 2 and any('goes on' in line for line in said)

def test_nobody_answers(train, service, monkeypatch):
    monkeypatch.setenv('OPENAI_BASE_URL', 'http://127.0.0.1:9/v1')
    one_line(start('--yes', '--patience', 0), 'nobody answers there', 'Nothing was sent')

def test_no_key_is_seen_anywhere(train, service):
    "Also where a service repeats it, and where a traceback is asked for"
    for kind in ('401', '403', '500'):
        service.fault('POST /files', kind, 1, message=f'Incorrect API key provided: {key}')
        got = start('--yes') if kind != '500' else None
        if got:
            assert key not in got.out + got.err
            continue
        p = subprocess.run([sys.executable, '-c', 'import sys; from tl_nbdev.apps.host import tl_host; sys.exit(tl_host())', 'start', 'train.jsonl', '--model', tuned, '--out', 'job',
                            '--yes', '--debug'], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(root), 'OPENAI_LOG': 'debug'})
        assert p.returncode and 'Traceback' in p.stderr and key not in p.stderr + p.stdout, p.stderr
    assert not start('--yes', '--json', 'report.json').status and not follow().status
    assert key.encode() not in written('.') and key not in repr(Service())


# answers

def test_a_killed_command_asks_no_prompt_again(train, service):
    jsonl('prompts.jsonl', [dict(prompt=f'Question {n}?') for n in range(40)])
    code = f'''import json, os, signal
from tl_nbdev.hosted.asking import ask_all, _keep
import tl_nbdev.hosted.asking as room
n, real = [0], room._keep
def keep(file, *rest):
    n[0] += 1
    if n[0] == 7:
        file.write('{{"messages": [')
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(file, *rest)
room._keep = keep
from tl_nbdev.hosted.service import Service
ask_all(Service(), 'gpt-4o-mini', [json.loads(line)['prompt'] for line in open('prompts.jsonl', encoding='utf-8')], 'kept.jsonl', yes=True)'''
    p = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(root)}, capture_output=True, text=True)
    assert p.returncode == -signal.SIGKILL, p.stderr
    asked = service.seen.count('POST /chat/completions')
    assert asked == 7 and len(kept_answers('kept.jsonl')) == 6
    with redirect_stdout(io.StringIO()): answers = ask_all(Service(), 'gpt-4o-mini', [f'Question {n}?' for n in range(40)], 'kept.jsonl', yes=True)
    assert service.seen.count('POST /chat/completions') - asked == 34 and answers == [f'Question {n}?' for n in range(40)]

def test_a_broken_stream_is_not_kept(train, service):
    service.fault('POST /chat/completions', 'cut')
    one_line(host('eval', 'train.jsonl', '--hosted', 'gpt-4o-mini', '--out', 'kept.jsonl', '--yes'), 'the answer broke off', 'goes on')
    assert not host('eval', 'train.jsonl', '--hosted', 'gpt-4o-mini', '--out', 'kept.jsonl', '--yes').status
    one_line(host('eval', 'train.jsonl', '--hosted', 'ft:gone:a::b', '--out', 'kept.jsonl', '--yes'), 'was it withdrawn')
    jsonl('other.jsonl', examples)
    one_line(host('eval', 'train.jsonl', '--hosted', 'gpt-4o-mini', '--out', 'other.jsonl', '--yes'), 'other.jsonl:1', 'no answer that was kept here')
    assert Path('other.jsonl').read_text('utf-8').count('\n') == len(examples)


# the way out

@pytest.fixture
def small(tmp_path):
    "A folder of a very small network that writes"
    from transformers import LlamaConfig, LlamaForCausalLM
    from tl_nbdev.generation.templates import small_tokenizer
    tok = small_tokenizer([turn['content'] for each in examples for turn in each['messages']])
    torch.manual_seed(0)
    net = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=128,
                                       pad_token_id=None, bos_token_id=None, eos_token_id=tok.eos_token_id))
    net.save_pretrained(tmp_path/'small')
    tok.save_pretrained(tmp_path/'small')
    return tmp_path/'small'

def test_from_a_file_to_a_model_of_ones_own(train, service, small):
    assert not start('--yes', '--suffix', 'mine').status and not follow().status
    model = HostedJob('job').model
    jsonl('prompts.jsonl', [dict(prompt=each['messages'][0]['content']) for each in examples])
    words = ['carry', model, 'prompts.jsonl', '--out', 'kept.jsonl', '--start', small, '--strategy', 'full', '--epochs', 1, '--most', 8, '--bs', 4, '--save', 'model', '--yes', '--json', 'report.json']
    got = host(*words)
    assert not got.status, got.err
    report = json.loads(Path('report.json').read_text('utf-8'))
    assert 'is answered in the words of' in report['lost'] and {row['model'] for row in report['agreement']} >= {'carried over', 'as it came', 'nearest answer', 'commonest answer'}
    asked = service.seen.count('POST /chat/completions')
    assert asked == len(examples) and (Path('model')/'transfer.json').is_file()
    got = host('eval', 'train.jsonl', '--hosted', model, '--local', f'mine=model,{small}', '--most', 8, '--out', 'kept.jsonl', '--yes', '--json', 'eval.json')
    assert not got.status, got.err
    rows = json.loads(Path('eval.json').read_text('utf-8'))['rows']
    assert [row['model'] for row in rows] == [model, 'mine', 'small', 'nearest answer', 'commonest answer'] and all('[' in row['ROUGE-L'] for row in rows)
