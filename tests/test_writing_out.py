"What a network that writes gives: options of predict, in Python, in a shell and in pieces; gaps; exports that are read again; answers beside what trains nothing."
import io, json, warnings
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from test_generation import cities, kinds, made, records, small, tok, transfer
from test_generation import shell as fresh_shell
from hypothesis import given, settings as law, strategies as st
from tl_nbdev.apps import cli
from tl_nbdev.apps.export import tl_export
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.formats import chat_of_record, read_chats, record_of, write_chats
from tl_nbdev.generation.middle import cut_for_filling, fill, fill_in, fill_items, filled, marks_of
from tl_nbdev.generation.said import tests_scorer as scored_by_tests
from tl_nbdev.generation.task import GenerationTask
from tl_nbdev.generation.templates import encoded, prompt_of, small_tokenizer
from tl_nbdev.generation.turns import Chat
from tl_nbdev.sharing import to_gguf, writers # noqa: they add their formats
from tl_nbdev.sharing.writers import largest_gap, logits_on, plain_network, probe_of
from tl_nbdev.selection.compare import compare
from tl_nbdev.strategies.strategy import FullFineTune, LoRA
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.training.saving import evaluate_saved
from tl_nbdev.vision.images import ImageTask

tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()
question = records[2]['prompt']
how = dict(most=8, temperature=.9, top_p=.9, seed=3)

def shell(name, *args):
    "A command in this process"
    command, out, err = tl_export if name == 'tl-export' else getattr(cli, name.replace('-', '_')), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): status = command([*map(str, args)])
    return SimpleNamespace(returncode=status or 0, stdout=out.getvalue(), stderr=err.getvalue())

@pytest.fixture(autouse=True)
def quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder of transformers, data, and a model that was adapted to them and saved"
    to = tmp_path_factory.mktemp('out')
    made('llama').save_pretrained(to/'tiny')
    tok.save_pretrained(to/'tiny')
    (to/'chats.jsonl').write_text('\n'.join(map(json.dumps, records)), encoding='utf-8')
    learn = transfer_learner(GenerationTask.from_file(to/'chats.jsonl'), to/'tiny', seed=0)
    transfer(learn, LoRA(2, epochs=2, lr=1e-2))
    learn.save_transfer(to/'model', check=False)
    return to, learn, load_transfer(to/'model')


# options of predict

def test_a_fresh_and_a_saved_learner_say_the_same_also_in_pieces(home):
    _, learn, model = home
    for options in (dict(most=6), how, dict(most=20, stop='a')):
        said = model.predict(question, **options)[0]['answer']
        assert learn.predict(question, **options)[0] == said
        assert ''.join(learn.predict(question, stream=True, **options)) == said
        assert ''.join(model.predict(question, stream=True, **options)) == said

def test_many_prompts_are_answered_together(home):
    _, _, model = home
    prompts = [record['prompt'] for record in records[:5]]
    rows = model.predict(prompts, most=5)
    assert [row['answer'] for row in rows] == [model.predict(prompt, most=5)[0]['answer'] for prompt in prompts]
    assert model.predict(prompts, **how)[0]['answer'] == model.predict(prompts[0], **how)[0]['answer']

def test_the_seed_decides_and_greedy_needs_none(home):
    _, _, model = home
    drawn = {seed: model.predict(question, most=12, temperature=1., seed=seed)[0]['answer'] for seed in range(4)}
    assert len(set(drawn.values())) > 1
    assert len({model.predict(question, most=12, seed=seed)[0]['answer'] for seed in range(3)}) == 1

@pytest.mark.parametrize('odd, line', [
    (dict(most=0), 'most=0'), (dict(most='many'), 'most='), (dict(most=2.5), 'most='), (dict(most=True), 'most='), (dict(most=-1), 'most='),
    (dict(stop=3), 'stop='), (dict(stop=['']), 'stop='), (dict(stop=[None]), 'stop='), (dict(stop=''), 'stop='),
    (dict(temperature=-1), 'temperature='), (dict(temperature='hot'), 'temperature='), (dict(temperature=float('nan')), 'temperature='),
    (dict(top_p=0), 'top_p='), (dict(top_p=1.5), 'top_p='), (dict(seed=.5), 'seed='), (dict(seed='one'), 'seed='), (dict(colour=1), 'colour')])
def test_options_that_mean_nothing_are_said_in_one_line(home, odd, line):
    _, learn, model = home
    for who in (learn, model):
        with pytest.raises(TransferError) as e: who.predict(question, **odd)
        assert line in str(e.value) and '\n' not in str(e.value)

def test_many_are_not_streamed_and_other_models_know_no_such_options(home, tmp_path):
    _, _, model = home
    with pytest.raises(TransferError, match='one conversation is streamed at a time'): model.predict([question, question], stream=True)
    images = ImageTask.inputs()
    for odd in ('most', 'stop', 'seed', 'temperature', 'top_p', 'stream', 'fill'):
        with pytest.raises(TransferError, match=f'{odd} is for conversations, and this is a model of {images.nouns}'): images.asked_how({odd: 1})
    with pytest.raises(TransferError, match='items is no option of judging'): images.check_judging(dict(items=3))
    with pytest.raises(TransferError, match='nothing that could come in pieces'): images.streamed(None, None)

def test_the_shell_answers_with_options_streamed_or_not_and_in_a_fresh_process(home):
    to, _, model = home
    options = '--most', 8, '--temperature', .9, '--top_p', .9, '--seed', 3, '--stop', '\\n\\n'
    plain = shell('tl-predict', to/'model', question, 'Another', *options, '--json', to/'plain.json')
    flowing = fresh_shell('tl-predict', to/'model', question, 'Another', *options, '--stream', '--json', to/'flowing.json')
    assert plain.returncode == 0 and plain.stdout == flowing.stdout, plain.stderr + flowing.stderr
    rows = json.loads((to/'plain.json').read_text('utf-8'))
    assert rows == json.loads((to/'flowing.json').read_text('utf-8'))
    assert rows[0]['answer'] == model.predict(question, stop='\n\n', **how)[0]['answer']

def test_the_shell_reads_prompts_of_a_file_and_refuses_what_makes_no_sense(home):
    to, _, _ = home
    (to/'one.txt').write_text('What is the capital of Peru?', encoding='utf-8')
    done = shell('tl-predict', to/'model', to/'chats.jsonl', to/'one.txt', '--most', 3, '--json', to/'many.json')
    assert done.returncode == 0 and len(json.loads((to/'many.json').read_text('utf-8'))) == len(records) + 1, done.stderr
    wrong = shell('tl-predict', to/'model', 'x', '--most', 0)
    assert wrong.returncode == 1 and wrong.stderr.strip() == 'tl-predict: most=0: at least 1 token must be written'


# code with a gap

marks = '<fim_prefix>', '<fim_suffix>', '<fim_middle>', '<|endoftext|>'
lines = [f'def add_{n}(x):\n    return x + {n}\n' for n in range(12)]
coder = small_tokenizer(lines, template=None, marks=marks)

@law(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.integers(0, 99), st.booleans())
def test_nothing_is_lost_by_a_cut(text, seed, by_lines):
    for order in ('psm', 'spm'):
        said = {turn.role: turn.content for turn in cut_for_filling(text, np.random.default_rng(seed), order, by_lines).turns}
        assert said['prefix'] + said['assistant'] + said['suffix'] == text

@pytest.mark.parametrize('order', ['psm', 'spm'])
def test_the_middle_alone_is_learned_and_a_prompt_ends_where_it_begins(order):
    chat = fill('def f(x):\n    return ', '\n', 'x + 1', order)
    whole, (asked, text) = encoded(coder, chat), prompt_of(coder, chat)
    assert coder.decode(whole.ids[whole.learn]) == 'x + 1<|endoftext|>'
    assert whole.ids[:len(asked)].tolist() == asked.tolist() and whole.text.startswith(text)
    begins = dict(psm='<fim_prefix>def', spm='<fim_prefix><fim_suffix>\n<fim_middle>def')
    assert text.startswith(begins[order])

def test_a_tokenizer_without_marks_says_so_in_one_line(home):
    _, _, model = home
    with pytest.raises(TransferError, match='no tokens to fill in by'): encoded(tok, fill('a', 'b', 'c'), where='chats.jsonl:3')
    row, = model.predict([fill('a', 'b')])
    assert 'no tokens to fill in by' in row['error']

def test_records_with_a_gap_are_read_and_written(tmp_path):
    rows = [dict(prefix='a = ', suffix='\n', middle='1'), dict(prefix='', suffix='', middle='x')]
    (tmp_path/'gaps.jsonl').write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')
    table = read_chats(tmp_path/'gaps.jsonl')
    assert [record_of(item, 'prompt') for item in table.item] == rows
    for format in ('messages', 'sharegpt', 'prompt'):
        again = read_chats(write_chats(table, tmp_path/f'{format}.jsonl', format))
        assert again.item.to_list() == table.item.to_list()
    for odd in (dict(prefix='a', suffix='b'), dict(prefix='a', suffix='b', middle=''), dict(prefix='a', suffix='b', middle=' ')):
        with pytest.raises(TransferError, match='nothing in it stands in the gap'): chat_of_record(odd)

def test_a_network_learns_to_fill_and_a_shell_asks_it(tmp_path):
    torch.manual_seed(0)
    net = tf.LlamaForCausalLM(tf.LlamaConfig(**{**small, 'vocab_size': len(coder), 'eos_token_id': coder.eos_token_id}))
    net.save_pretrained(tmp_path/'net')
    coder.save_pretrained(tmp_path/'net')
    task = GenerationTask.from_records([dict(prefix=f'def add_{n}(x):\n    return', suffix='\n', middle=' x + 1') for n in range(12)], name='gaps')
    learn = transfer_learner(task, tmp_path/'net', seed=0, bs=4)
    transfer(learn, FullFineTune(epochs=12, lr=1e-2))
    asked = fill('def add_3(x):\n    return', '\n')
    assert learn.predict(asked, most=12)[0] == ' x + 1' == ''.join(learn.predict(asked, most=12, stream=True))
    learn.save_transfer(tmp_path/'model', check=False)
    (tmp_path/'a.py').write_text('def add_3(x):\n    return<FILL_ME>\n', encoding='utf-8')
    (tmp_path/'none.py').write_text('def add_3(x): pass\n', encoding='utf-8')
    done = shell('tl-predict', tmp_path/'model', tmp_path/'a.py', tmp_path/'none.py', '--fill', '--json', tmp_path/'said.json')
    one, other = json.loads((tmp_path/'said.json').read_text('utf-8'))
    assert done.returncode == 0 and one['answer'] == ' x + 1' and 'no <FILL_ME> in it' in other['error'], done.stderr
    judged = learn.evaluate(scorer='compiles', items=2).closer.said
    assert judged.judged['now']['compiles'].value == 1 and 'as it came, 4 examples' not in judged.judged

def test_texts_become_examples():
    chats = fill_items(lines*4, rate=.75, seed=1)
    gaps = [chat for chat in chats if chat.has_gap]
    assert .5 < len(gaps)/len(chats) < .95 and {chat.turns[0].role for chat in gaps} == {'prefix', 'suffix'}
    assert all(filled(coder, chat)[3] for chat in gaps) and marks_of(coder).end == '<|endoftext|>'
    assert fill_in('a <FILL_ME> b') == fill('a ', ' b')


# out to others

def adapted(kind, how=LoRA(2, epochs=1)):
    learn = transfer_learner(GenerationTask.from_records(records, name='capitals'), made(kind), tokenizer=tok, seed=0)
    transfer(learn, how)
    return learn

quick = 'llama', 'qwen2', 'gpt2', 't5'
each = [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in kinds]

@pytest.mark.parametrize('kind', each)
def test_a_whole_folder_and_adapters_give_the_same_logits(kind, tmp_path):
    import peft
    learn = adapted(kind)
    out = learn.outgoing()
    probe, net = probe_of(out), plain_network(out)
    want, cls = logits_on(net, probe), tf.AutoModelForSeq2SeqLM if net.config.is_encoder_decoder else tf.AutoModelForCausalLM
    whole = cls.from_pretrained(learn.export(tmp_path/'whole', 'transformers'), dtype=torch.float32).eval()
    assert largest_gap(logits_on(whole, probe), want) <= 1e-4
    def tied(net): return net.get_output_embeddings().weight is net.get_input_embeddings().weight
    assert tied(whole) == tied(net)
    assert tf.AutoTokenizer.from_pretrained(tmp_path/'whole').chat_template == tok.chat_template
    assert (tmp_path/'whole'/'generation_config.json').is_file()
    base = made(kind).eval()
    thin = peft.PeftModel.from_pretrained(base, learn.export(tmp_path/'thin', 'adapters')).eval()
    assert largest_gap(logits_on(thin, probe), want) <= 1e-4
    sizes = [(tmp_path/name).stat().st_size for name in ('whole/model.safetensors', 'thin/adapter_model.safetensors')]
    assert sizes[1] < sizes[0]

def test_adapters_of_a_saved_model_need_to_know_its_base(home, tmp_path):
    to, learn, model = home
    with pytest.raises(TransferError, match='say what it began with'): model.export(tmp_path/'none', 'adapters')
    model.export(tmp_path/'thin', 'adapters', base=str(to/'tiny'))
    again = transfer_learner(learn.task, tmp_path/'thin', seed=0) # and back in
    assert again.evaluate(closer=False).value == pytest.approx(learn.evaluate(closer=False).value, rel=1e-4)

def test_what_was_trained_whole_has_no_adapters(tmp_path):
    learn = adapted('llama', FullFineTune(epochs=1))
    with pytest.raises(TransferError, match='by more than adapters hold'): learn.export(tmp_path/'none', 'adapters')
    assert not (tmp_path/'none').exists()

gguf_kinds = {'llama': '', 'qwen2': '', 'gpt2': 'configuration', 'qwen3': 'configuration', 'starcoder2': ''}

@pytest.mark.parametrize('kind', [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in gguf_kinds])
def test_gguf_is_read_back_with_the_same_logits(kind, tmp_path, capsys):
    pytest.importorskip('gguf')
    pytest.importorskip('accelerate')
    learn = adapted(kind)
    off = {}
    for weights in ('f32', 'f16', 'q8_0'):
        made_ = learn.export(tmp_path/weights, 'gguf', weights=weights)
        off[weights] = json.loads((made_/'export.json').read_text('utf-8'))['largest_difference']
    assert off['f32'] <= 1e-4 and off['f16'] < .01 and off['q8_0'] < .05, off
    assert (tmp_path/'q8_0'/'model.gguf').stat().st_size < (tmp_path/'f32'/'model.gguf').stat().st_size
    assert (gguf_kinds[kind] or 'matrices') in capsys.readouterr().out
    if gguf_kinds[kind]: return
    again = transfer_learner(learn.task, tmp_path/'f32'/'model.gguf', seed=0)
    assert again.evaluate(closer=False).value == pytest.approx(learn.evaluate(closer=False).value, rel=1e-3)

@pytest.mark.parametrize('kind, line', [('gemma', 'of the kind "gemma"'), ('bigcode', 'of the kind "gpt_bigcode"'), ('mistral', 'sees the last 16 alone'), ('t5', 'an encoder with a decoder')])
def test_gguf_refuses_what_it_has_no_word_for(kind, line, tmp_path):
    pytest.importorskip('gguf')
    learn = transfer_learner(GenerationTask.from_records(records, name='capitals'), made(kind), tokenizer=tok, seed=0)
    with pytest.raises(TransferError) as e: learn.export(tmp_path/'none', 'gguf')
    assert line in str(e.value) and '"transformers"' in str(e.value) and '\n' not in str(e.value) and not (tmp_path/'none').exists()

@pytest.mark.parametrize('to, options, line', [
    ('onnx', {}, 'which one graph doesn'), ('transformers', dict(weights='f32'), 'no option "weights"'), ('gguf', dict(weights='q2'), 'use one of f32, f16, q8_0'),
    ('gguf', dict(rank=3), 'no option "rank": it has weights'), ('adapters', dict(base='nobody'), 'no network')])
def test_an_export_that_makes_no_sense_is_said_in_one_line(home, to, options, line, tmp_path):
    _, _, model = home
    from tl_nbdev.sharing import to_onnx # noqa
    with pytest.raises(TransferError) as e: model.export(tmp_path/'none', to, **options)
    assert (line in str(e.value) or to == 'adapters') and '\n' not in str(e.value) and not (tmp_path/'none').exists()

def test_the_shell_exports(home, tmp_path):
    to, _, _ = home
    done = shell('tl-export', to/'model', '--to', 'adapters', '--base', to/'tiny', '--out', tmp_path/'thin')
    assert done.returncode == 0 and 'adapter_model.safetensors' in done.stdout, done.stderr
    wrong = shell('tl-export', to/'model', '--to', 'transformers', '--weights', 'f32', '--out', tmp_path/'none')
    assert wrong.returncode == 1 and 'no option "weights"' in wrong.stderr


# what it says, judged

def test_what_trains_nothing_stands_beside_what_was_trained(home):
    _, learn, model = home
    said = learn.evaluate(items=5).closer.said
    assert list(said.judged) == ['now', 'as it came', 'as it came, 4 examples', 'nearest answer', 'commonest answer']
    assert list(said.judged['now']) == ['exact match', 'ROUGE-L', 'chrF'] and len(said.prompts) == 5
    assert said.written['now'] == [learn.predict(prompt, most=said.most)[0] for prompt in said.prompts]
    first = transfer_learner(learn.task, learn.pretrained, seed=0)
    assert said.written['as it came'] == [first.predict(prompt, most=said.most)[0] for prompt in said.prompts]
    assert 'nearest answer' in str(learn.evaluate(items=2)) and learn.evaluate('valid').closer is None
    assert learn.evaluate(items=0, general=False).closer is None and learn.evaluate(closer=False).closer is None
    assert learn.evaluate(items=0).closer.said is None and learn.evaluate(items=0).closer.forgotten.before.n == 16
    result, _ = evaluate_saved(model, learn.task, items=3)
    assert 'is not here to be asked' in result.closer.said.lacks and list(result.closer.said.judged)[0] == 'now'

def test_before_and_after_can_be_read(home):
    _, learn, _ = home
    table = learn.before_after(3)
    assert len(table) == 3 and list(table[0]) == ['prompt', 'reference', 'before', 'after']
    texts = GenerationTask.from_records([dict(text=f'{land} {city} '*9) for land, city in cities.items() for _ in range(2)], name='texts')
    plain = transfer_learner(texts, made('llama'), tokenizer=tok, seed=0)
    assert plain.evaluate().closer.said is None and plain.evaluate(general=False).closer is None
    with pytest.raises(TransferError, match='have no prompt'): plain.before_after()

def test_a_user_judges_in_their_own_way(home):
    _, learn, _ = home
    def short(written, wanted, prompt): return float(len(written) < len(prompt))
    assert list(learn.evaluate(items=2, scorer=[short, 'compiles']).closer.said.judged['now']) == ['short', 'compiles']
    for odd in (dict(items=-1), dict(items='all'), dict(scorer='bleu'), dict(scorer='pass@1'), dict(scorer=[3]), dict(most=0), dict(colour=2)):
        with pytest.raises(TransferError) as e: learn.evaluate(**odd)
        assert '\n' not in str(e.value)
    with pytest.raises(TransferError, match='run_code=True'): scored_by_tests({'a': 'assert 1'})

def test_every_table_has_them(home):
    to, learn, _ = home
    runs = compare(learn.task, [str(to/'tiny')], ['feature', 'lora:2'], epochs=1)
    assert 'commonest answer' in str(runs) and 'as it came' in runs._repr_markdown_()
    done = shell('tl-train', to/'chats.jsonl', '--model', to/'tiny', '--strategy', 'lora:2', '--epochs', 1, '--items', 3, '--scorer', 'ROUGE-L', '--json', to/'report.json')
    said = json.loads((to/'report.json').read_text('utf-8'))['said']
    assert done.returncode == 0 and said['n'] == 3 and list(said['values']['nearest answer']) == ['ROUGE-L'] and 'as it came' in done.stdout, done.stderr
    judged = shell('tl-eval', to/'model', to/'chats.jsonl', '--items', 2)
    assert judged.returncode == 0 and 'exact match' in judged.stdout, judged.stderr
    assert [heading for heading, _ in learn.task.answer.details(learn.evaluate(items=2))] == ['In other units', 'What it says', 'Before and after training', 'What it forgot']

def test_a_plain_table_of_other_models_is_as_it_was():
    assert Chat.of_text('x').is_text and not Chat.of_text('x').has_gap
    assert ImageTask.inputs().look_closer(None, None, 'test') is None
    with pytest.raises(TransferError, match='writes nothing that could be read'): ImageTask.inputs().before_after(None, 3)
