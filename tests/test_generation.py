"A network that writes, by the same verbs: what a strategy freezes stays, what was learned is kept, and what is odd is said in one line."
import json, os, signal, sys, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from children import python
from conftest import clocked
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.network import WriterPretrained, writer_pretrained
from tl_nbdev.generation.task import GenerationTask
from tl_nbdev.generation.templates import small_tokenizer
from tl_nbdev.generation.turns import Chat
from tl_nbdev.networks.flow import _outermost
from tl_nbdev.networks.modes import Mode
from tl_nbdev.networks.stages import stages
from tl_nbdev.selection.compare import compare
from tl_nbdev.strategies.strategy import BitFit, FeatureExtraction, FineTune, FullFineTune, L2SP, LoRA, LPFT
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.phases import estimate
from tl_nbdev.training.saved import load_transfer
from tl_nbdev.training.saving import evaluate_saved

cities = dict(Peru='Lima', Bolivia='La Paz', Chile='Santiago', Ecuador='Quito', Cuba='Havana')
records = [dict(prompt=f'What is the capital of {land}, asked for the {n}th time?', completion=city) for land, city in cities.items() for n in range(6)]
tok = small_tokenizer([record['prompt'] + ' ' + record['completion'] for record in records])
small = dict(vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
             max_position_embeddings=128, pad_token_id=None, bos_token_id=None, eos_token_id=tok.eos_token_id)
old = dict(vocab_size=len(tok), n_embd=32, n_layer=3, n_head=2, n_positions=128, bos_token_id=None, eos_token_id=tok.eos_token_id)
kinds = dict(llama=lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**small)), mistral=lambda: tf.MistralForCausalLM(tf.MistralConfig(**small, sliding_window=16)),
             qwen2=lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**small, tie_word_embeddings=True)), qwen3=lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**small, head_dim=16)),
             gemma=lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**small, head_dim=16)), gpt2=lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**old)),
             bigcode=lambda: tf.GPTBigCodeForCausalLM(tf.GPTBigCodeConfig(**old)), starcoder2=lambda: tf.Starcoder2ForCausalLM(tf.Starcoder2Config(**small)),
             t5=lambda: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=len(tok), d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0,
                                                                  pad_token_id=0, eos_token_id=tok.eos_token_id)),
             bart=lambda: tf.BartForConditionalGeneration(tf.BartConfig(vocab_size=len(tok), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
                                                                       decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128,
                                                                       pad_token_id=0, bos_token_id=0, eos_token_id=tok.eos_token_id, decoder_start_token_id=0, forced_eos_token_id=None)))
hows = dict(feature=FeatureExtraction(epochs=1), last2=FineTune(2, epochs=1), full=FullFineTune(epochs=1), lora=LoRA(2, epochs=1), lpft=LPFT(probe=1, epochs=1),
            bitfit=BitFit(epochs=1), l2sp=L2SP() + FineTune(1, epochs=1))
quick = {('llama', 'last2'), ('mistral', 'lora'), ('qwen2', 'last2'), ('qwen3', 'full'), ('gemma', 'feature'), ('gpt2', 'bitfit'), ('bigcode', 'lpft'), ('starcoder2', 'l2sp'),
         ('t5', 'last2'), ('bart', 'lora'), ('llama', 'lora'), ('t5', 'full')}
without_biases = ('llama', 'mistral', 'qwen3', 'gemma', 't5')
matrix = [pytest.param(kind, how, marks=() if (kind, how) in quick else pytest.mark.slow, id=f'{kind}-{how}') for kind in kinds for how in hows]

@pytest.fixture(autouse=True)
def quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

@pytest.fixture(scope='module')
def task(): return GenerationTask.from_records(records, name='capitals')

def made(kind):
    torch.manual_seed(0)
    return kinds[kind]()

def learner(task, kind, **kwargs): return transfer_learner(task, made(kind), **{**dict(tokenizer=tok, seed=0), **kwargs})

def transfer(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return learn.transfer(*args, **kwargs)


# what a strategy freezes, and what learns

@pytest.mark.parametrize('kind, how', matrix)
def test_what_a_strategy_freezes_stays_and_the_rest_learns(task, kind, how):
    learn = learner(task, kind)
    ss, before = stages(learn.model), {name: value.clone() for name, value in learn.model.state_dict().items()}
    if how == 'bitfit' and kind in without_biases:
        with pytest.raises(TransferError, match='no bias parameters'): transfer(learn, hows[how])
        return
    assert sum(stage.n for stage in ss) == sum(param.numel() for param in learn.model.parameters())
    may = set() if how == 'lora' else {name for phase in hows[how].resolved(ss) for name in phase.params(ss)} # adapters are yet to come
    shared = {id(param): name for name, param in learn.model.named_parameters()}
    params = dict(learn.model.named_parameters(remove_duplicate=False))
    transfer(learn, hows[how])
    after = learn.model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if how != 'lora': assert not {name for name in changed if name in params and shared[id(params[name])] not in may}
    assert changed and all(torch.isfinite(value).all() for value in after.values())

@pytest.mark.parametrize('kind', [pytest.param(kind, marks=() if kind in ('llama', 'gpt2', 't5') else pytest.mark.slow) for kind in kinds])
def test_the_loss_falls_and_both_ways_to_evaluate_agree(task, kind):
    learn = learner(task, kind)
    before = learn.evaluate('train').value
    transfer(learn, FullFineTune(epochs=4, lr=3e-3))
    fast, slow = learn.evaluate('train'), learn.evaluate('train', fast=False)
    assert fast.value > before and fast.value == pytest.approx(slow.value, rel=1e-4)


def test_what_is_kept_of_one_network_is_read_by_no_other_with_the_same_weights(task):
    transfer(learner(task, 'llama'), FeatureExtraction(epochs=1)) # all layers are frozen: what tokens are above them is kept
    fresh = learner(task, 'llama')
    fast, slow = fresh.evaluate('train'), fresh.evaluate('train', fast=False)
    assert fast.probs.shape == slow.probs.shape and fast.value == pytest.approx(slow.value, rel=1e-4)

def test_the_same_weights_under_another_configuration_have_features_of_their_own(task):
    found = []
    for window in (4, 64):
        torch.manual_seed(0)
        net = tf.MistralForCausalLM(tf.MistralConfig(**small, sliding_window=window))
        learn = transfer_learner(task, net, tokenizer=tok, seed=0)
        found.append(learn.evaluate('train').probs)
        assert np.allclose(found[-1], learn.evaluate('train', fast=False).probs, rtol=1e-4)
    assert not np.allclose(*found, rtol=1e-4)


# what was learned is kept

@pytest.mark.parametrize('kind', ['llama', 'qwen2', 't5', pytest.param('gpt2', marks=pytest.mark.slow), pytest.param('bart', marks=pytest.mark.slow)])
def test_saved_and_read_again_it_writes_the_same(task, tmp_path, kind):
    net = made(kind)
    net.save_pretrained(tmp_path/'source')
    tok.save_pretrained(tmp_path/'source')
    learn = transfer_learner(task, tmp_path/'source', seed=0)
    transfer(learn, FullFineTune(epochs=2, lr=3e-3))
    want = learn.predictor().write([record['prompt'] for record in records[:3]], most=8)
    learn.save_transfer(tmp_path/'saved') # a fresh process checks it
    again = load_transfer(tmp_path/'saved')
    assert again.write([record['prompt'] for record in records[:3]], most=8) == want
    result, _ = evaluate_saved(again, task)
    assert result.value == pytest.approx(learn.evaluate().value, rel=1e-3) or result.n != task.n('test')
    more = transfer_learner(task, tmp_path/'saved', seed=0) # and it can be trained on
    assert more.evaluate().value == pytest.approx(learn.evaluate().value, rel=1e-3)

trainer = '''
import sys, signal, os, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from fastai.basics import Callback
import test_generation as t
class Kill(Callback):
    def after_batch(self):
        if self.training and self.train_iter == 6: os.kill(os.getpid(), signal.SIGKILL)
task = t.GenerationTask.from_records(t.records, name='capitals')
learn = t.learner(task, sys.argv[2])
if sys.argv[4] == 'kill': learn.add_cb(Kill())
with learn.no_bar(), learn.no_logging(): learn.transfer(t.hows[sys.argv[3]], 3, resume=sys.argv[4] != 'plain', folder=sys.argv[5] if sys.argv[4] != 'plain' else None)
torch.save(learn.model.state_dict(), sys.argv[6])
'''

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='a process is killed as Linux and macOS do it')
@pytest.mark.parametrize('kind, how', [('llama', 'last2'), pytest.param('gpt2', 'full', marks=pytest.mark.slow), pytest.param('t5', 'lora', marks=pytest.mark.slow)])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, kind, how):
    def run(way, to):
        return python(trainer, Path(__file__).parent, kind, how, way, tmp_path/'kept', tmp_path/to)
    assert run('kill', 'none').returncode == -signal.SIGKILL
    for way, to in (('resume', 'resumed'), ('plain', 'plain')):
        done = run(way, to)
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path/name, weights_only=True) for name in ('resumed', 'plain'))
    assert all(torch.equal(one[name], other[name]) for name in other)


# the other verbs

def test_runs_are_compared(task, tmp_path):
    net = made('llama')
    net.save_pretrained(tmp_path/'tiny')
    tok.save_pretrained(tmp_path/'tiny')
    runs = compare(task, [str(tmp_path/'tiny')], ['feature', 'lora:2'], epochs=1)
    assert len(list(runs)) == 2 and 'token_probability' in str(runs)

def test_a_plain_text_has_many_windows(tmp_path):
    texts = GenerationTask.from_records([dict(text=f'{land} {city} '*40) for land, city in cities.items() for _ in range(2)], name='texts')
    learn = learner(texts, 'llama', size=32)
    transfer(learn, FineTune(1, epochs=1))
    rows = learn.frozen_now.rows(texts.df.item.to_list())
    result = learn.evaluate('train')
    tokens = sum(int((row % 4 >= 2).sum()) for row, part in zip(rows, texts.df.part) if part == 'train')
    assert result.probs[:, 1].sum() == tokens and max(map(len, rows)) > 32

@pytest.mark.parametrize('what, line', [
    (dict(augment='flip'), 'augmentation "flip"'), (dict(head='textbook'), 'a head and a loss of its own'), (dict(size=500), 'has positions for 128 tokens'),
    (dict(learn='everything'), 'learn="everything"'), (dict(long='never'), 'long="never"'), (dict(class_weights=True), 'class_weights')])
def test_what_makes_no_sense_is_said_in_one_line(task, what, line):
    with pytest.raises(TransferError) as e: learner(task, 'llama', **what)
    assert line in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('name, line', [('all-MiniLM-L6-v2', 'an encoder'), ('bert-tiny', 'an encoder')])
def test_a_network_that_writes_nothing_is_refused(task, name, line):
    with pytest.raises(TransferError) as e: transfer_learner(task, name)
    assert line in str(e.value) and '\n' not in str(e.value)

def test_prompts_without_room_are_left_out_and_the_others_answered(task):
    learn = learner(task, 'llama')
    found = learn.predictor().predict(['What is the capital of Peru?', 'long '*500, ''])
    assert 'answer' in found[0] and 'leave no room' in found[1]['error'] and len(found) == 3
    with pytest.raises(TransferError, match='no probabilities'): learn.predictor().predict('Peru', proba=True)
    for odd in (dict(most=0), dict(temperature=-1), dict(top_p=2)):
        with pytest.raises(TransferError): learn.predictor().write('Peru', **odd)


# from the shell

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    to = tmp_path_factory.mktemp('shell')
    lines = [json.dumps(dict(messages=[dict(role='user', content=each['prompt']), dict(role='assistant', content=each['completion'])])) for each in records]
    (to/'chats.jsonl').write_text('\n'.join(lines), encoding='utf-8')
    made('llama').save_pretrained(to/'tiny')
    tok.save_pretrained(to/'tiny')
    return to

def shell(name, *args):
    code = f'import sys, tl_nbdev.apps.cli as cli; sys.argv = [{name!r}, *sys.argv[1:]]; sys.exit(cli.{name.replace("-", "_")}())'
    return python(code, *args)

def test_the_verbs_of_the_shell(data):
    done = shell('tl-train', data/'chats.jsonl', '--task', 'generation', '--model', data/'tiny', '--strategy', 'lora:2', '--epochs', 1, '--out', data/'model', '--json', data/'report.json')
    assert done.returncode == 0 and 'perplexity' in done.stdout, done.stderr[-2000:]
    assert json.loads((data/'report.json').read_text('utf-8'))['metric'] == 'token_probability'
    said = shell('tl-predict', data/'model', 'What is the capital of Peru?')
    assert said.returncode == 0 and said.stdout.startswith('What is the capital of Peru?')
    judged = shell('tl-eval', data/'model', data/'chats.jsonl')
    assert judged.returncode == 0 and 'token_probability' in judged.stdout, judged.stderr
    audited = shell('tl-audit', data/'chats.jsonl', '--model', data/'tiny')
    assert audited.returncode == 0 and 'of all tokens are learned' in audited.stdout, audited.stderr

@pytest.mark.parametrize('args, line', [
    (('{}/chats.jsonl', '--task', 'movies'), 'use one of image, text, boxes, generation'), (('{}/chats.jsonl', '--label', 'x', '--task', 'generation'), '--label is not for conversations'),
    (('{}/none.jsonl', '--task', 'generation'), 'no such file'), (('{}/chats.jsonl', '--model', 'bert-tiny'), 'an encoder')])
def test_the_shell_says_what_is_wrong(data, args, line):
    done = shell('tl-train', *[arg.format(data) for arg in args])
    assert done.returncode == 1 and line in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


# what is frozen runs once

decoders = [kind for kind in kinds if kind not in ('t5', 'bart')]

@pytest.mark.parametrize('kind', [pytest.param(kind, marks=() if kind in ('llama', 'gpt2', 'gemma') else pytest.mark.slow) for kind in decoders])
@pytest.mark.parametrize('how', [FineTune(1, epochs=3, lr=1e-3), LoRA(2, epochs=3, last=1)], ids=repr)
def test_what_is_frozen_runs_once_and_nothing_else_changes(task, monkeypatch, kind, how):
    found = {}
    for cuts in (True, False):
        monkeypatch.setattr(WriterPretrained, 'cuts', cuts)
        learn, calls = learner(task, kind, mode=Mode(), bs=64), [] # one batch, whose order says nothing
        lowest = _outermost(learn.model)[next(iter(_outermost(learn.model)))][0]
        inner = next(child for child in lowest.children() if next(child.parameters(), None) is not None)
        inner.register_forward_hook(lambda module, args, out: calls.append(1) if module is inner else None) # not of its copies
        transfer(learn, how)
        found[cuts] = learn.recorder.losses, len(calls), learn.recorder.values[-1]
    assert np.allclose([*map(float, found[True][0])], [*map(float, found[False][0])], rtol=1e-3)
    assert np.allclose(found[True][2], found[False][2], rtol=1e-2)
    assert found[True][1] == 1 < found[False][1] # when the cut is tried, and never again

def test_a_plan_says_how_much_goes_to_the_cache():
    many = GenerationTask.from_records([dict(prompt=f'{record["prompt"]} ({n})', completion=record['completion']) for record in records for n in range(400)])
    plan = estimate(learner(many, 'llama'), FineTune(1), 2)
    assert 'goes to the cache' in plan._repr_markdown_()


# a base of four bits

def test_a_packed_base_learns_by_adapters_alone_and_is_whole_again_when_it_is_saved(task, tmp_path):
    pytest.importorskip('bitsandbytes')
    made('llama').save_pretrained(tmp_path/'source')
    tok.save_pretrained(tmp_path/'source')
    learn = transfer_learner(task, tmp_path/'source', seed=0, bits=4)
    assert sum(type(module).__name__ == 'Packed' for module in learn.model.modules()) == 21
    before = learn.evaluate('train').value
    transfer(learn, LoRA(4, epochs=3, lr=3e-3))
    assert learn.evaluate('train').value > before
    assert not any(type(module).__name__ == 'Packed' for module in learn.model.modules()) # merged into whole weights
    want = learn.predictor().write(['What is the capital of Peru?'], most=6)
    assert load_transfer(learn.save_transfer(tmp_path/'saved')).write(['What is the capital of Peru?'], most=6) == want
    with pytest.raises(TransferError, match='packed.*use adapters'): transfer(transfer_learner(task, tmp_path/'source', bits=4), 'full', 1)

def test_without_bitsandbytes_four_bits_are_refused_in_a_line(task, monkeypatch):
    monkeypatch.setitem(sys.modules, 'bitsandbytes', None)
    with pytest.raises(TransferError, match=r'pip install "tl_nbdev\[quantized\]"'): learner(task, 'llama', bits=4)
    with pytest.raises(TransferError, match='has 4 bits a weight'): learner(task, 'llama', bits=8)


# what doesn't fit

@pytest.mark.parametrize('kind', ['llama', 't5'])
def test_a_prompt_longer_than_the_context_teaches_nothing_and_stops_nobody(kind):
    odd = [dict(prompt='What is the capital '*200, completion='Lima', part=part) for part in ('train', 'valid', 'test')]
    given = [dict(record, part=('train', 'train', 'valid', 'test')[i % 4]) for i, record in enumerate(records)] + odd
    learn = learner(GenerationTask.from_records(given, part='part'), kind, size=64)
    assert sum('that don\'t fit' in note for note in learn.task.notes) == 1
    transfer(learn, 'lora:2', 1)
    result = learn.evaluate(closer=False)
    assert (result.probs[:, 1] == 0).sum() == 1 and np.isfinite(result.value)
    assert np.allclose(result.probs, learn.evaluate(fast=False, closer=False).probs, rtol=1e-3, atol=1e-3)
    with pytest.raises(TransferError, match='no conversation fits'): learner(GenerationTask.from_records([dict(each, part=part) for part in ('train', 'valid', 'test') for each in odd], part='part'), kind, size=64)
