"""Chat templates as publishers wrote them, a tokenizer for each, trained on the spot, and beside each the same in Python: which
characters are written by whom. The second knows nothing of templates, so that what is learned can be judged by it."""
import random

from tl_nbdev.generation.templates import chatml, small_tokenizer
from tl_nbdev.generation.turns import Chat, Turn

smollm2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
           "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
           "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
llama3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
          "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
          "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
alternate = ("{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
             "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}")
mistral = ("{{ bos_token }}{% for message in messages %}" + alternate + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
           "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
           "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
gemma = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for message in messages %}" + alternate + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
         "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
         "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")
phi3 = ("{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")
zephyr = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
          "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
qwen2 = ("{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{%- else %}"
         "{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
         "{%- for message in messages %}{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
         "(message.role == 'assistant' and not message.tool_calls) %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
         "{%- elif message.role == 'assistant' %}{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
         "{%- for tool_call in message.tool_calls %}{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}"
         "{{- '\n<tool_call>\n{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}{{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}"
         "{%- endfor %}{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != 'tool') %}"
         "{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' }}{{- message.content }}{{- '\n</tool_response>' }}"
         "{%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\n' }}{%- endif %}{%- endif %}{%- endfor %}"
         "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")

marks = dict(smollm2=('<|im_start|>', '<|im_end|>'), llama3=('<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'), mistral=('</s>',),
             gemma=('<start_of_turn>', '<end_of_turn>'), phi3=('<|system|>', '<|user|>', '<|assistant|>', '<|end|>'),
             zephyr=('</s>',), qwen2=('<|im_start|>', '<|im_end|>', '<tool_call>', '</tool_call>'))
special = dict(llama3=dict(bos_token='<|begin_of_text|>', eos_token='<|eot_id|>'), mistral=dict(bos_token='<s>', eos_token='</s>'),
               gemma=dict(bos_token='<bos>', eos_token='<eos>'), phi3=dict(bos_token='<s>', eos_token='<|endoftext|>'),
               zephyr=dict(bos_token='<s>', eos_token='</s>'), qwen2=dict(eos_token='<|im_end|>'))
templates = dict(smollm2=smollm2, llama3=llama3, mistral=mistral, gemma=gemma, phi3=phi3, zephyr=zephyr, qwen2=qwen2)
no_system = 'mistral', 'gemma'

words = 'Lima Peru capital of the is in where river high old red a 42 café Москва 東京 👋 := {"a": [1]} C++ <b> def f(x): assistant user'.split()

def tokenizer(name, template=None):
    return small_tokenizer([' '.join(words)]*20, templates.get(name) if template is None else template, 420, marks[name], **special.get(name, {}))

def spaced(name, kind='bpe', prepend='first'):
    "The same with the white space of SentencePiece, as bytes where nothing else is known (bpe), or as nothing that is known (unigram)"
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>') if kind == 'bpe' else models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    inner.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
    named = ['<unk>', *dict.fromkeys([*marks[name], *special.get(name, {}).values()])]
    if kind == 'bpe': trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=named + [f'<0x{i:02X}>' for i in range(256)], show_progress=False)
    else: trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=named, unk_token='<unk>', show_progress=False)
    if kind != 'bpe': inner.normalizer = normalizers.NFKC()
    inner.train_from_iterator([' '.join(words[:20])]*20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=templates[name], unk_token='<unk>', **special.get(name, {}))

def chats(n, seed=0, system=True, alternate=True):
    "Random conversations: white space at odd places, empty answers, answers that the user says already"
    rng, made = random.Random(seed), []
    def text(least=1):
        said = ''.join(rng.choice(words) + rng.choice(['', ' ', ' ', ' ', '\n', '  ', '\n\n']) for _ in range(rng.randint(least, 9)))
        return rng.choice(['', '', '', ' ', '\n', '\t']) + said + rng.choice(['', '', ' ', '\n'])
    while len(made) < n:
        turns = [Turn('system', text())] if system and rng.random() < .4 else []
        for _ in range(rng.randint(1, 4)):
            answer = text()
            turns += [Turn('user', answer if rng.random() < .1 else text()), Turn('assistant', answer)]
        if rng.random() < .1: turns.append(Turn('user', text()))
        made.append(Chat(tuple(turns)))
    return made


# the same in Python: pieces, and whether the network writes them. What an answer's turn has behind the token that ends it is apart.

def _chatml(chat, default):
    out = [('<|im_start|>system\n' + default + '<|im_end|>\n', False)] if default and chat.turns[0].role != 'system' else []
    for turn in chat.turns:
        writes = turn.role == 'assistant'
        out += [(f'<|im_start|>{turn.role}\n', False), (turn.content + '<|im_end|>', writes), ('\n', writes and 'behind')]
    return out

def _llama3(chat):
    out = [('<|begin_of_text|>', False)]
    for turn in chat.turns:
        out += [(f'<|start_header_id|>{turn.role}<|end_header_id|>\n\n', False), (turn.content.strip() + '<|eot_id|>', turn.role == 'assistant')]
    return out

def _mistral(chat):
    out = [('<s>', False)]
    for turn in chat.turns:
        out.append((f'[INST] {turn.content} [/INST]', False) if turn.role == 'user' else (f' {turn.content}</s>', True))
    return out

def _gemma(chat):
    out = [('<bos>', False)]
    for turn in chat.turns:
        writes = turn.role == 'assistant'
        who = 'model' if writes else turn.role
        out += [(f'<start_of_turn>{who}\n', False), (turn.content.strip() + '<end_of_turn>', writes), ('\n', writes and 'behind')]
    return out

def _phi3(chat):
    out = []
    for turn in chat.turns:
        writes = turn.role == 'assistant'
        out += [(f'<|{turn.role}|>\n', False), (turn.content + '<|end|>', writes), ('\n', writes and 'behind')]
    return out + [('<|endoftext|>', 'behind' if chat.turns[-1].role == 'assistant' else False)]

def _zephyr(chat):
    out = []
    for turn in chat.turns:
        writes = turn.role == 'assistant'
        out += [(f'<|{turn.role}|>\n', False), (turn.content + '</s>', writes), ('\n', writes and 'behind')]
    return out

pieces = dict(smollm2=lambda chat: _chatml(chat, 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'), llama3=_llama3, mistral=_mistral,
              gemma=_gemma, phi3=_phi3, zephyr=_zephyr,
              qwen2=lambda chat: _chatml(chat, 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'))

def judged(tok, chat, name, turns=False):
    "Tokens of a conversation, and those of them of which a character is written by the network"
    import numpy as np
    made = pieces[name](chat)
    text, written = ''.join(piece for piece, _ in made), []
    for piece, writes in made: written += [writes is True or turns and writes == 'behind']*len(piece)
    got = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    return text, np.array(got['input_ids']), np.array([any(written[a:b]) for a, b in got['offset_mapping']])
