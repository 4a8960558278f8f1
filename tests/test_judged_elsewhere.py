"A saved model, asked from the shell about data like its own: what is not said is taken from the model, and all of it is judged."
import json
import numpy as np
import pytest
from tl_nbdev.data.modality import known_modalities
from tl_nbdev.apps.door import kind_of_data, task_from

CHATS = [dict(messages=[dict(role='user', content=f'What is {i} and {i}?'), dict(role='assistant', content=f'It is {2*i}.')]) for i in range(12)]

def _photos(folder, n=12):
    from PIL import Image
    for i in range(n): Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder/f'{i}.png')

def _chats(folder):
    file = folder/'chats.jsonl'
    file.write_text('\n'.join(map(json.dumps, CHATS)), encoding='utf-8')
    return file

def _pairs(folder):
    file = folder/'pairs.csv'
    file.write_text('question,answer\n' + '\n'.join(f'what is no. {i}?,the {i}th thing' for i in range(12)), encoding='utf-8')
    return file

def _captions(folder):
    _photos(folder)
    file = folder/'captions.csv'
    file.write_text('file,said\n' + '\n'.join(f'{i}.png,pattern no. {i}' for i in range(12)), encoding='utf-8')
    return file

def _speech(folder):
    import soundfile
    for i in range(12): soundfile.write(folder/f'{i}.wav', .1*np.sin(np.arange(8000)/(9 + i)), 16000)
    file = folder/'speech.csv'
    file.write_text('file,transcript\n' + '\n'.join(f'{i}.wav,tone {i}' for i in range(12)), encoding='utf-8')
    return file

@pytest.mark.parametrize('kind, make', [('chat', _chats), ('pair', _pairs), ('image-text', _captions), ('caption', _captions), ('speech', _speech)])
def test_data_are_read_as_those_of_the_model_and_all_of_them_are_test(kind, make, tmp_path):
    like = known_modalities()[kind]()
    file = make(tmp_path)
    assert kind_of_data(file, like) is type(like)
    task = task_from(file, like=like, learn=False, regression=False, label=None)
    assert type(task.modality) is type(like)
    assert (task.n('test'), len(task.df)) == (12, 12)

@pytest.mark.parametrize('kind', ['audio', 'speech', 'image-text', 'caption', 'chat'])
def test_what_one_can_start_from_is_listed_in_words(kind):
    for row in known_modalities()[kind]().listing(): assert [name for name, value in row.items() if not isinstance(value, str)] == []

@pytest.mark.parametrize('kind, make, word', [('speech', _speech, 'last'), ('caption', _captions, 'lora:8'), ('image-text', _captions, 'feature')])
def test_a_page_begins_with_what_is_usual(kind, make, word, tmp_path):
    from tl_nbdev.apps.choice import Choice
    like = known_modalities()[kind]()
    choice = Choice(task_from(make(tmp_path), like=like, learn=False), tmp_path/'runs')
    assert choice.word == word and choice.word in choice.words
    assert choice.models()
    assert choice.strategy.name.startswith(like.usual_strategy)
