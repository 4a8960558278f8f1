"What is learned of a conversation, under templates of seven publishers: against a judge in Python that knows no templates, and against TRL."
import re

import numpy as np
import pytest
from chat_templates import chats, judged, no_system, spaced, templates, tokenizer
from tl_nbdev.generation.templates import encoded, prompt_of

@pytest.mark.parametrize('name', templates)
@pytest.mark.parametrize('learn', ['answers', 'turns'])
def test_a_judge_without_templates_agrees(name, learn):
    tok = tokenizer(name)
    for chat in chats(200, seed=len(name), system=name not in no_system):
        text, ids, learned = judged(tok, chat, name, learn == 'turns')
        made = encoded(tok, chat, learn)
        assert made.text == text and np.array_equal(made.ids, ids), text
        learned[:1] = False
        assert np.array_equal(made.learn, learned), f'{made!r}\n{chat!r}'

@pytest.mark.parametrize('name', templates)
@pytest.mark.parametrize('kind, prepend', [('bpe', 'first'), ('bpe', 'always'), ('unigram', 'never')])
def test_other_tokenizers(name, kind, prepend):
    tok = spaced(name, kind, prepend)
    for chat in chats(25, seed=4, system=name not in no_system):
        text, ids, learned = judged(tok, chat, name)
        made = encoded(tok, chat)
        learned[:1] = False
        assert made.text == text and np.array_equal(made.ids, ids) and np.array_equal(made.learn, learned), f'{made!r}'

@pytest.mark.parametrize('name', templates)
def test_what_is_learned_is_each_answer_and_its_end(name):
    tok = tokenizer(name)
    for chat in chats(50, seed=1, system=name not in no_system):
        made = encoded(tok, chat)
        answers = [turn.content for turn in chat.turns if turn.role == 'assistant']
        assert len(made.answers) == len(answers)
        for said, (turn, start, end, ends) in zip(answers, made.answers):
            assert ends and re.fullmatch(re.escape(said.strip()) + r'\s*(<[^<>]*>)', made.text[start:end].strip())
        assert made.ids.tolist() == tok.apply_chat_template(chat.messages(), tokenize=True)['input_ids']

@pytest.mark.parametrize('name', templates)
def test_a_prompt_is_what_training_shows_before_an_answer(name):
    tok = tokenizer(name)
    for chat in chats(50, seed=2, system=name not in no_system):
        made, text = encoded(tok, chat), prompt_of(tok, chat)[1]
        if chat.turns[-1].role == 'assistant': assert made.text.startswith(text) and made.answers[-1][1] == len(text)
        else: assert text == tok.apply_chat_template(chat.messages(), tokenize=False, add_generation_prompt=True)

def trl_templates():
    trl = pytest.importorskip('trl.chat_template_utils')
    names = dict(gemma='gemma', gemma3='gemma', llama3='llama3', phi3='phi3', phi3_5='phi3', qwen2_5='qwen2', qwen3_instruct_2507='qwen2', lfm2='qwen2', cohere='llama3')
    return {name: (getattr(trl, f'{name}_chat_template'), getattr(trl, f'{name}_training_chat_template'), kind) for name, kind in names.items()}

@pytest.mark.parametrize('name', ['gemma', 'gemma3', 'llama3', 'phi3', 'phi3_5', 'qwen2_5', 'qwen3_instruct_2507', 'lfm2', 'cohere'])
def test_masks_are_those_of_trl(name):
    "TRL learns from its own version of a template, with marks in it; here, the publisher's is enough"
    plain, marked, kind = trl_templates()[name]
    tok = tokenizer(kind, plain)
    marked_tok = tokenizer(kind, marked)
    for chat in chats(125, seed=3, system=name not in ('gemma', 'gemma3', 'cohere')):
        theirs = tok.apply_chat_template(chat.messages(), chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        mask, ours = np.array(theirs['assistant_masks'], bool), encoded(tok, chat, 'turns')
        assert theirs['input_ids'] == ours.ids.tolist()
        if name == 'qwen2_5': # there TRL also learns the line end before an answer, which the prompt has already
            before = np.array([(start - 1, start) for _, start, _, _ in ours.answers])
            extra = [any(b <= a0 < e for a0, _ in before) for b, e in ours.offsets]
            assert np.array_equal(mask, ours.learn | np.array(extra)), f'{ours!r}'
        else: assert np.array_equal(mask, ours.learn), f'{ours!r}\n{tok.convert_ids_to_tokens(ours.ids[mask != ours.learn])}'
        by_marks = encoded(marked_tok, chat)
        assert np.array_equal(by_marks.learn, mask)
