"Conversations as data: read from what people have, written back, fitted, packed and audited; and what goes wrong on the way."
import gzip, json, random

import numpy as np
import pandas as pd
import pytest
import torch
from chat_templates import chats, no_system, templates, tokenizer
from hypothesis import HealthCheck, given, settings, strategies as st
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.audit import audit_chats, findings_of_chats, secrets_in, veiled, without_secrets
from tl_nbdev.generation.formats import chat_formats, format_of, read_chats, write_chats
from tl_nbdev.generation.templates import chatml, encoded, pair_of, prompt_of, small_tokenizer
from tl_nbdev.generation.turns import Chat, Turn, roles
from tl_nbdev.generation.windows import batch_of, shared_windows, block_mask, fitted, lengths_of, windows_of

laws = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=['Cs', 'Co']), max_size=30)
turn = st.builds(Turn, st.sampled_from(roles[:4]), texts)
talks = st.builds(lambda turns: Chat(tuple(turns)), st.lists(turn, min_size=1, max_size=5))

ask = [dict(role='user', content='Where is Lima?'), dict(role='assistant', content='In Peru.')]
lima = Chat.of(ask)


# reading

@laws
@given(talks)
def test_json_is_one_spelling(chat):
    assert Chat.of(chat.to_json()) == chat and '\n' not in chat.to_json() and Chat.of(chat.messages()) == chat

@laws
@given(st.lists(talks, min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path, some):
    df = pd.DataFrame(dict(item=[chat.to_json() for chat in some]))
    for form in ('messages', 'sharegpt'):
        again = read_chats(write_chats(df, tmp_path/'again.jsonl', form))
        assert list(again.item) == list(df.item)

def lines(path, *rows, encoding='utf-8', end='\n'):
    path.write_bytes(end.join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode(encoding))
    return path

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r', '\n\n'])
def test_encodings_and_ends_of_lines(tmp_path, encoding, end):
    path = lines(tmp_path/'a.jsonl', json.dumps(dict(messages=ask)), json.dumps(dict(text='Привет, мир'), ensure_ascii=False), encoding=encoding, end=end)
    df = read_chats(path)
    assert list(df.item) == [lima.to_json(), Chat.of_text('Привет, мир').to_json()] and df['where'][0] == 'a.jsonl:1'

def test_packed_by_gzip(tmp_path):
    (tmp_path/'a.jsonl.gz').write_bytes(gzip.compress(json.dumps(dict(messages=ask)).encode()))
    assert list(read_chats(tmp_path/'a.jsonl.gz').item) == [lima.to_json()]

@pytest.mark.parametrize('line, why', [
    ('{"text": ', 'no JSON'), ('[1, 2', 'no JSON'), ('nothing', 'no JSON'), ('{"text": "a"} {"text": "b"}', 'no JSON'), ('{"text": NULL}', 'no JSON'),
    ('3', 'a int, no record'), ('{}', 'among its keys: nothing'), ('{"title": "a"}', 'among its keys: title'), ('{"messages": []}', 'without turns'),
    ('{"messages": "fine"}', 'among its keys'), ('{"messages": [3]}', 'a turn is a int'), ('{"messages": [{"content": "a"}]}', 'without a role'),
    ('{"messages": [{"role": "x", "content": "a"}]}', 'the role "x"'), ('{"messages": [{"role": "user", "content": {"a": 1}}]}', 'a part of the kind "text"'),
    ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 'a part of the kind "image_url"'), ('{"text": " "}', 'an empty text'),
    ('{"messages": [{"role": "assistant", "content": "a", "tool_calls": "x"}]}', 'its tool_calls are no JSON'), ('{"prompt": "a"}', 'among its keys: prompt'),
    ('{"instruction": "a", "output": 3.5, "history": [["a"]]}', 'its history is no pairs'), ('[' * 3000 + ']' * 3000, 'no')])
def test_a_broken_line_is_named(tmp_path, line, why):
    path = lines(tmp_path/'a.jsonl', dict(messages=ask), line, dict(text='fine'), line)
    with pytest.raises(TransferError) as e: read_chats(path)
    said = str(e.value)
    assert '2 of 4 records' in said and 'a.jsonl:2' in said and why in said and '\n' not in said
    df = read_chats(path, broken='leave')
    assert len(df) == 2 and [row['where'] for row in df.attrs['left']] == ['a.jsonl:2', 'a.jsonl:4'] and '2 left out' in df.attrs['notes'][-1]

@pytest.mark.parametrize('data', [b'', b'\n\n', b'\0\0', b'\xef\xbb\xbf', b' '])
def test_nothing_in_a_file(tmp_path, data):
    for name in ('a.jsonl', 'a.json', 'a.csv', 'a.txt'):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(TransferError) as e: read_chats(tmp_path/name)
        assert name in str(e.value)

@pytest.mark.parametrize('data', [bytes(range(256))*4, b'\x80\x04\x95abc', b'PK\3\4' + bytes(99), b'\x89PNG\r\n' + bytes(99)])
def test_what_is_no_text(tmp_path, data):
    (tmp_path/'a.jsonl').write_bytes(data)
    with pytest.raises(TransferError, match='a.jsonl'): read_chats(tmp_path/'a.jsonl')

def test_odd_signs(tmp_path):
    rows = [dict(text='half \ud83d of a letter'), dict(text='a\0b'), dict(text='x'*1_000_000), dict(text='line\u2028end')]
    df = read_chats(lines(tmp_path/'a.jsonl', *rows))
    said = [Chat.of(item).turns[0].content for item in df.item]
    assert said[1:] == [row['text'] for row in rows[1:]] and '\ufffd' in said[0]
    df.item.str.encode('utf-8')

def test_folders(tmp_path):
    for name, n in dict(train=3, valid=1, test=2).items(): lines(tmp_path/f'{name}.jsonl', *[dict(messages=ask)]*n)
    df = read_chats(tmp_path)
    assert df.part.value_counts().to_dict() == dict(train=3, test=2, valid=1)
    lines(tmp_path/'more.jsonl', dict(text='a'))
    df = read_chats(tmp_path)
    assert df.part.isna().all() and any('in no part' in note for note in df.attrs['notes'])
    (tmp_path/'books'/'old').mkdir(parents=True)
    for name in ('a.txt', 'old/b.txt'): (tmp_path/'books'/name).write_text(f'a book: {name}', encoding='utf-8')
    books = read_chats(tmp_path/'books')
    assert list(books['where']) == ['a.txt', 'old/b.txt'] and Chat.of(books.item[0]).is_text
    (tmp_path/'none').mkdir()
    with pytest.raises(TransferError, match='no conversations in it'): read_chats(tmp_path/'none')

def test_tables_of_all_kinds(tmp_path):
    df = pd.DataFrame(dict(messages=[json.dumps(ask)]*2, customer=[1, 2], split=['train', 'test']))
    df.to_csv(tmp_path/'a.csv', index=False)
    df.to_csv(tmp_path/'a.tsv', index=False, sep='\t')
    pd.DataFrame(dict(messages=[ask]*2, customer=[1, 2], split=['train', 'test'])).to_parquet(tmp_path/'a.parquet')
    pd.DataFrame(dict(messages=[ask]*2, customer=[1, 2], split=['train', 'test'])).to_json(tmp_path/'a.json', orient='records')
    for kind in ('csv', 'tsv', 'parquet', 'json'):
        found = read_chats(tmp_path/f'a.{kind}', group='customer', part='split')
        assert list(found.item) == [lima.to_json()]*2 and list(found.part) == ['train', 'test'] and list(map(int, found.group)) == [1, 2]
    found = read_chats(tmp_path/'a.csv', broken='leave')
    assert list(found['where']) == ['a.csv:2', 'a.csv:3']

def test_tools_go_all_the_way(tmp_path):
    call = [dict(id='c1', type='function', function=dict(name='place', arguments='{"of": "Lima"}'))]
    talk = [dict(role='user', content='Where?'), dict(role='assistant', content=None, tool_calls=call), dict(role='tool', content='Peru', tool_call_id='c1'),
            dict(role='assistant', content='In Peru.')]
    df = read_chats([dict(messages=talk, tools=[dict(type='function', function=dict(name='place', parameters={}))])])
    again = read_chats(write_chats(df, tmp_path/'a.jsonl'))
    assert list(again.item) == list(df.item) and json.loads(again.item[0])['messages'][1]['tool_calls'] == call
    made = encoded(tokenizer('qwen2'), again.item[0])
    learned = [made.text[start:end] for _, start, end, _ in made.answers]
    assert learned == ['<tool_call>\n{"name": "place", "arguments": {"of": "Lima"}}\n</tool_call><|im_end|>', 'In Peru.<|im_end|>']
    for form in ('sharegpt', 'prompt'):
        with pytest.raises(TransferError): write_chats(df, tmp_path/'no.jsonl', form)
    assert not (tmp_path/'no.jsonl').exists()


def test_what_datasets_makes_of_conversations(tmp_path):
    from datasets import Dataset, DatasetDict
    ds = Dataset.from_list([dict(messages=ask), dict(messages=[*ask, dict(role='user', content='Thanks!')])])
    as_columns = Dataset.from_list([dict(conversations={'from': ['human', 'gpt'], 'value': [ask[0]['content'], ask[1]['content']]})])
    assert list(read_chats(as_columns).item) == [lima.to_json()] and len(read_chats(ds)) == 2
    DatasetDict(train=ds, test=ds).save_to_disk(str(tmp_path/'both'))
    ds.save_to_disk(str(tmp_path/'one'))
    assert list(read_chats(tmp_path/'both').part) == ['train']*2 + ['test']*2 and len(read_chats(tmp_path/'one')) == 2

def test_keys_that_nobody_has(tmp_path):
    path = lines(tmp_path/'a.jsonl', dict(messages=ask))
    for key in ('group', 'part'):
        with pytest.raises(TransferError, match=f'{key}="kunde": no record has such a key'): read_chats(path, **{key: 'kunde'})
    with pytest.raises(TransferError, match='it could not be written'): write_chats(read_chats(path), tmp_path/'no'/'a.jsonl')
    with pytest.raises(TransferError, match='it could not be written'): write_chats(read_chats(path), tmp_path)

def test_an_answer_may_be_json(tmp_path):
    said = json.dumps(ask)
    df = read_chats([dict(prompt='Write messages', completion=said)])
    assert Chat.of(df.item[0]).answer == said and list(read_chats(write_chats(df, tmp_path/'a.jsonl', 'prompt')).item) == list(df.item)
    pd.DataFrame(dict(prompt=[json.dumps(ask[:1])], completion=['In Peru.'])).to_csv(tmp_path/'a.csv', index=False)
    assert list(read_chats(tmp_path/'a.csv').item) == [lima.to_json()]

values = st.recursive(st.one_of(st.none(), st.booleans(), st.floats(), st.sampled_from(['user', 'gpt', 'text', 'fine', '', '[1]', '{"a": 1}', '\ud83d', '\0'])),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(
                          'messages conversations prompt completion instruction output text chosen system tools history role content from value type'.split()), inner, max_size=4)), max_leaves=12)

@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from('messages conversations prompt completion instruction input output text chosen system tools history'.split()), values, max_size=4))
def test_any_record_is_read_or_refused_in_a_line(record):
    from tl_nbdev.generation.formats import chat_of_record
    try: chat, form = chat_of_record(record)
    except TransferError as e: assert '\n' not in str(e)
    else: assert form in chat_formats and Chat.of(chat.to_json()) == chat and chat.to_json().encode()

def test_numbers_and_gaps_as_texts():
    said = [Chat.of(item).answer for item in read_chats([dict(prompt='a', completion=value) for value in (3, 2.5, np.int64(7), np.float32(.5), True)]).item]
    assert said == ['3', '2.5', '7', '0.5', 'True']
    rows = pd.DataFrame(dict(prompt=['a', 'b', None], completion=['c', np.nan, 'd']))
    with pytest.raises(TransferError, match='2 of 3 records'): read_chats(rows)
    assert len(read_chats(rows, broken='leave')) == 1

def test_an_encoder_decoder():
    from chat_templates import spaced
    tok = spaced('mistral', 'unigram')
    tok.chat_template = None
    source, target = pair_of(tok, Chat((Turn('system', 'Be brief.'), *lima.turns)))
    assert 'Lima' in tok.decode(source) and 'Peru' in tok.decode(target) and target[-1] == tok.eos_token_id
    for item in ('only asked', Chat.of_text('a text')):
        with pytest.raises(TransferError, match='no answer in it'): pair_of(tok, item)

def test_records_in_a_file_called_text(tmp_path):
    path = lines(tmp_path/'a.txt', dict(messages=ask), dict(text='a'))
    assert len(read_chats(path)) == 2
    (tmp_path/'b.txt').write_text('{"this"} is a book', encoding='utf-8')
    assert Chat.of(read_chats(tmp_path/'b.txt').item[0]).is_text


# what is learned, under odd templates

def test_a_template_that_thinks():
    from_think = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% set c = m.content.split('</think>')[-1].lstrip('\n') %}"
                  "{% if loop.last %}{% set t = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content else '' %}"
                  "{{ '<think>\n' + t + '\n</think>\n\n' }}{% endif %}{{ c }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    tok = small_tokenizer(template=from_think)
    thought = '<think>\nPeru?\n</think>\n\nIn Peru.'
    made = encoded(tok, Chat.of([ask[0], dict(role='assistant', content=thought), ask[0], dict(role='assistant', content=thought)]))
    assert [made.text[start:end] for _, start, end, _ in made.answers] == ['In Peru.<|im_end|>', thought + '<|im_end|>']
    assert made.notes == ('turn 1 (assistant) is rewritten',)
    plain = encoded(tok, lima)
    assert plain.text[plain.answers[0][1]:plain.answers[0][2]] == '<think>\n\n</think>\n\nIn Peru.<|im_end|>' and not plain.notes

def test_marks_that_the_tokenizer_does_not_know():
    tok = small_tokenizer(marks=('<eos>',))
    made = encoded(tok, Chat.of(ask + ask))
    assert [made.text[start:end] for _, start, end, _ in made.answers] == ['In Peru.<|im_end|>']*2 and all(ends for *_, ends in made.answers)

def test_a_template_that_never_ends_an_answer():
    tok = small_tokenizer(template="{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    made = encoded(tok, Chat.of(ask + ask))
    assert [made.text[start:end] for _, start, end, _ in made.answers] == ['In Peru.']*2 and not any(ends for *_, ends in made.answers)
    assert any('end without a mark' in row['found'] for row in findings_of_chats(pd.DataFrame(dict(item=[lima.to_json()])), tok))

def test_the_last_answer_ends_otherwise():
    tok = small_tokenizer(template="{% for m in messages %}{{ '<|start|>' + m.role + m.content + ('<|return|>' if loop.last else '<|end|>') }}{% endfor %}"
                                   "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}", marks=('<|start|>', '<|end|>', '<|return|>'))
    for answer in ('In Peru.', 'In Peru. \n', ' \nIn Peru.'):
        made = encoded(tok, Chat((lima.turns[0], Turn('assistant', answer))*2))
        assert [made.text[start:end] for _, start, end, _ in made.answers] == [f'{answer}<|end|>', f'{answer}<|return|>']

def test_a_template_that_writes_another_thought_than_its_cue():
    tok = small_tokenizer(template="{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think></think>' if m.role == 'assistant' else '') + m.content + '<|im_end|>\n' }}"
                                   "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}", marks=('<|im_start|>', '<|im_end|>', '<think>', '</think>'))
    made = encoded(tok, Chat.of(ask + ask))
    assert [made.text[start:end] for _, start, end, _ in made.answers] == ['</think>In Peru.<|im_end|>']*2

def test_a_template_without_a_cue():
    tok = small_tokenizer(template=chatml.split('{% if add')[0])
    made = encoded(tok, lima)
    assert made.text[made.answers[0][1]:made.answers[0][2]] == '<|im_start|>assistant\nIn Peru.<|im_end|>', 'what the network has to write itself'

def test_what_a_template_drops_or_moves():
    drops = small_tokenizer(template=chatml.replace('{% for message in messages %}', "{% for message in messages if message['role'] != 'system' %}"))
    assert encoded(drops, Chat((Turn('system', 'Be brief.'), *lima.turns))).notes == ('turn 0 (system) is dropped',)
    merges = ("{% set s = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}{% for m in messages if m.role != 'system' %}"
              "{{ '<|im_start|>' + m.role + '\n' + (s if loop.first else '') + m.content + '<|im_end|>\n' }}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    made = encoded(small_tokenizer(template=merges), Chat((Turn('system', 'Be brief.'), *lima.turns)))
    assert made.notes == ('turn 0 (system) is merged with the next',) and repr(made).endswith('[In Peru.<|im_end|>]\n')

@pytest.mark.parametrize('name', no_system)
def test_a_refusal_names_the_item(name):
    tok = tokenizer(name)
    with pytest.raises(TransferError, match='a.jsonl:7: the template refuses it') as e:
        encoded(tok, Chat((Turn('system', 'Be brief.'), *lima.turns)), where='a.jsonl:7')
    assert '\n' not in str(e.value)
    with pytest.raises(TransferError, match='alternate'): encoded(tok, Chat((lima.turns[0], *lima.turns)))
    assert encoded(tok, Chat((Turn('system', 'Be brief.'), *lima.turns)).without_system()).learn.any()

@pytest.mark.parametrize('name', templates)
def test_empty_answers_and_the_users_last_word(name):
    tok = tokenizer(name)
    made = encoded(tok, Chat((lima.turns[0], Turn('assistant', ''), lima.turns[0], Turn('assistant', 'In Peru.'), Turn('user', 'Thanks!'))))
    first, last = [made.text[start:end].strip() for _, start, end, _ in made.answers]
    assert first in tok.all_special_tokens + ['<|end|>'] and last.startswith('In Peru.') and 'Thanks' not in last and made.answers[0][3]

@pytest.mark.parametrize('name', [name for name in templates if name not in no_system])
def test_any_order_of_turns(name):
    "Each answer is learned with its end or it is said that it isn't; no token belongs to two of them, and nothing else is learned"
    rng, tok = random.Random(5), tokenizer(name)
    said = ['', ' ', '\n', 'In Peru.', ' a ', 'a\n\n', '<|im_end|>', '</s>', '<think>x</think> y', '{"a": 1}', '👋', '<|user|>\nhi']
    for _ in range(150):
        chat = Chat(tuple(Turn(rng.choice(['system', 'user', 'user', 'assistant', 'assistant']), rng.choice(said)) for _ in range(rng.randint(1, 6))))
        made = encoded(tok, chat)
        spans, answers = [(start, end) for _, start, end, _ in made.answers], [i for i, turn in enumerate(chat.turns) if turn.role == 'assistant']
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:])), made
        found = [i for i, *_ in made.answers]
        for i, start, end, ends in made.answers: assert ends and chat.turns[i].content.strip() in made.text[start:end]
        assert len(answers) - len(found) == sum('is not learned' in note for note in made.notes)

def test_a_tokenizer_that_merges_across_the_border():
    tok = small_tokenizer(['a\n\nb']*50 + ['\n\n\n']*50, size=330)
    made = encoded(tok, Chat((Turn('user', 'a'), Turn('assistant', '\n\nb'))))
    assert tok.decode(made.ids[made.learn]).endswith('\n\nb<|im_end|>') and made.ids.tolist() == tok(made.text)['input_ids']

def test_private_signs_are_refused():
    with pytest.raises(TransferError, match='a.jsonl:1: it holds private signs'): encoded(tokenizer('qwen2'), Chat.of('a\U000F0003'), where='a.jsonl:1')

def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast, chat_template, eos_token, bos_token_id, bos_token = False, None, '</s>', None, None
        def __call__(self, text, **kwargs): return dict(input_ids=[1])
    with pytest.raises(TransferError, match='use a fast tokenizer'): encoded(Slow(), lima)

@laws
@given(talks)
def test_masks_never_fail_on_odd_texts(chat):
    tok = tokenizer_once()
    made = encoded(tok, chat)
    assert made.ids.tolist() == tok.apply_chat_template(chat.messages(), tokenize=True)['input_ids'] and len(made.learn) == len(made.ids)
    for (turn, start, end, ends) in made.answers:
        assert made.text[start:end] == chat.turns[turn].content + '<|im_end|>'
    assert int(made.learn.sum()) >= len(made.answers) and isinstance(made._repr_html_(), str)

def tokenizer_once(kept=[]):
    if not kept: kept.append(tokenizer('qwen2', chatml))
    return kept[0]


# windows

@laws
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 90))
def test_best_fit(lengths, size):
    bins = shared_windows(lengths, size)
    assert sorted(i for some in bins for i in some) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in some) <= size for some in bins)
    least = -(-sum(lengths)//size)
    assert len(bins) <= 11*least/9 + 6/9 + least # never far from what there must be

@pytest.mark.parametrize('name', templates)
def test_no_answer_is_cut_unseen(name):
    tok = tokenizer(name)
    some = chats(60, seed=5, system=name not in no_system)
    for size in (24, 48, 96, 400):
        try: found = windows_of(tok, some, size)
        except TransferError as e:
            assert size == 24 and 'no conversation fits' in str(e)
            continue
        rows = [window['rows'][0] for window in found.items]
        assert len(rows) + len(found.left) == len(some) and all(len(window['ids']) <= size and window['learn'].any() for window in found.items)
        cut = 0
        for row, window in zip(rows, found.items):
            whole = encoded(tok, some[row])
            if len(whole) <= size: assert np.array_equal(window['ids'], whole.ids)
            ends = tok.decode(whole.ids[whole.learn][-3:])
            cut += not tok.decode(window['ids'][window['learn']]).endswith(ends[-3:])
        assert cut == found.said.get('answers cut, of which the beginning is learned', 0)

def test_packed_windows_hold_the_same():
    tok = tokenizer('smollm2')
    found = windows_of(tok, [*chats(80, seed=6), Chat.of_text('Lima is the capital of Peru. '*60)], 128)
    packed = found.packed()
    assert (packed.tokens, packed.learned) == (found.tokens, found.learned) and len(packed) < len(found)
    assert sorted(row for window in packed.items for row in window['rows']) == sorted(row for window in found.items for row in window['rows'])
    for window in packed.items:
        assert len(window['ids']) <= 128 and sum(lengths_of(window['document'])) == len(window['ids']) and len(lengths_of(window['document'])) == len(window['rows'])
        assert (window['position'][np.r_[True, np.diff(window['document']) > 0]] == 0).all() and not window['learn'][window['position'] == 0].any()
    batch = batch_of(packed.items[:3], tok.pad_token_id)
    seen = block_mask(batch['document'])[:, 0]
    for b in range(len(seen)):
        for i in range(0, seen.shape[1], 7):
            doc = batch['document'][b]
            own = [j for j in range(i + 1) if doc[j] == doc[i] and (doc[j] >= 0 or i == j)]
            assert seen[b, i].nonzero().flatten().tolist() == own
    assert torch.equal(block_mask(batch['document'], torch.float32)[:, 0] == 0, seen)

def test_a_network_sees_the_same_packed_and_apart():
    from transformers import LlamaConfig, LlamaForCausalLM
    tok = tokenizer('smollm2')
    torch.manual_seed(0)
    net = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)).eval()
    found = windows_of(tok, chats(12, seed=7), 512)
    def loss(windows):
        batch = batch_of(windows, tok.pad_token_id)
        document = batch.pop('document')
        with torch.no_grad(): logits = net(batch['input_ids'], position_ids=batch['position_ids'], attention_mask=block_mask(document, torch.float32)).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch['labels'][:, 1:].flatten(), ignore_index=-100, reduction='sum').item()
    apart, packed = sum(loss([window]) for window in found.items), sum(loss([window]) for window in found.packed().items)
    assert abs(apart - packed)/found.learned < 1e-5 and abs(loss(found.packed().items) - packed)/found.learned < 1e-5

def test_refused_conversations_are_counted():
    tok, wrong = tokenizer('gemma'), Chat((Turn('system', 'Be brief.'), *lima.turns))
    with pytest.raises(TransferError, match=r'2 of 3 conversations are refused, the first is a:2: the template refuses it: System role'):
        windows_of(tok, [lima, wrong, wrong], 64, where=['a:1', 'a:2', 'a:3'])
    found = windows_of(tok, [lima, wrong, wrong], 64, where=['a:1', 'a:2', 'a:3'], refused='leave')
    assert len(found) == 1 and [row['where'] for row in found.left] == ['a:2', 'a:3']
    trimmed = windows_of(tok, [Chat((Turn('user', 'a'), Turn('assistant', ' b ')))], 64)
    assert 'the template changes a turn of the assistant, which is trimmed: 1' in repr(trimmed)

@pytest.mark.parametrize('tok', [None, 'gpt2', 3, {}, print])
def test_what_is_no_tokenizer(tok):
    for make in (encoded, prompt_of):
        with pytest.raises(TransferError, match='is no tokenizer'): make(tok, lima)

def test_without_a_template_a_text_is_what_its_tokenizer_makes_of_it():
    from chat_templates import spaced
    tok = spaced('mistral')
    tok.chat_template = None
    from tokenizers.processors import TemplateProcessing
    tok.backend_tokenizer.post_processor = TemplateProcessing(single='<s> $A', special_tokens=[('<s>', tok.bos_token_id)])
    made = encoded(tok, Chat.of_text('Lima is in Peru'))
    assert made.ids.tolist() == tok('Lima is in Peru')['input_ids'] + [tok.eos_token_id] and made.learn.tolist() == [False] + [True]*(len(made) - 1)
    made = encoded(tok, Chat.of(ask + ask))
    assert made.ids[0] == tok.bos_token_id and (made.ids == tok.eos_token_id).sum() == 2 and repr(made).count('[In Peru.</s>]') == 2
    ids, text = prompt_of(tok, lima)
    assert ids.tolist() == encoded(tok, lima).ids[:len(ids)].tolist() and text == 'Where is Lima?\n'

def test_a_text_is_learned_once():
    tok = tokenizer('qwen2')
    text = Chat.of_text('Lima is the capital of Peru. '*50)
    whole, found = encoded(tok, text), windows_of(tok, [text], 33)
    assert found.learned == int(whole.learn.sum()) and {len(window['ids']) for window in found.items[:-1]} == {33}


# audit

def test_no_secret_is_shown():
    rng, rows = random.Random(0), []
    keys = ['sk-proj-' + ''.join(rng.choice('abc123') for _ in range(40)), 'ghp_' + 'Ab3'*12, 'AKIAABCDEFGHIJKLMNOP', 'jane.roe@mail.example',
            '4111 1111 1111 1111', 'DE89370400440532013000', '+49 30 1234567', 'password: hunter2hunter2', '-----BEGIN RSA PRIVATE KEY-----']
    for i, key in enumerate(keys*2):
        rows.append(dict(item=Chat.of_pair(f'My data {i % 9}: {key}', f'Your data are {key}, which I keep here.').to_json(), where=f'a:{i}', part='train' if i < 9 else 'test'))
    seen = audit_chats(pd.DataFrame(rows), tokenizer('smollm2'), 32)
    shown = repr(seen) + seen._repr_markdown_()
    assert not [key for key in keys if key in shown] and sum('conversations that hold' in row['found'] and 'mark' not in row['found'] for row in seen) >= 7

@laws
@given(texts)
def test_veiled(text):
    assert without_secrets(without_secrets(text)) == without_secrets(text)
    for _, match in secrets_in(text): assert match[0] not in veiled(match[0])

def test_odd_tables():
    with pytest.raises(TransferError, match='row 1'): audit_chats(pd.DataFrame(dict(item=['a', None])))
    assert [row['found'] for row in audit_chats(pd.DataFrame(dict(item=['just a prompt'])))] == ['conversations in which nobody answers']
