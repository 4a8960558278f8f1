"What can be wrong with speech and its transcripts: a line each, and nothing lost."
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from tl_nbdev.audio.start import speech_pretrained
from tl_nbdev.audio.task import AudioTask
from tl_nbdev.audio.transcription import SpeechTask
from tl_nbdev.base.settings import TransferError

rng = np.random.default_rng(0)
def noise(seconds, rate=16000): return (.1*rng.standard_normal(int(seconds*rate))).astype('f4')

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "Six clips that are as they should be"
    root, rows = tmp_path_factory.mktemp('good'), []
    for i in range(6):
        soundfile.write(root/f'{i}.wav', noise(1), 16000)
        rows.append(dict(file=f'{i}.wav', text=f'word number {"abcdef"[i]}', speaker=f's{i}'))
    return root, rows

def made(good, rows=(), **kwargs):
    root, known = good
    return SpeechTask.from_df(pd.DataFrame([*known, *rows]), root=root, **{'valid': .2, 'test': .2, **kwargs})

def why(task): return {str(name).rpartition('/')[2]: reason for name, reason in task.skipped}

odd = {'nothing': lambda file: file.write_bytes(b''), 'short': lambda file: soundfile.write(file, noise(1)[:1], 16000),
       'hour': lambda file: soundfile.write(file, np.zeros(31*16000) + noise(31), 16000), 'silent': lambda file: soundfile.write(file, np.zeros(16000), 16000),
       'nan': lambda file: soundfile.write(file, np.full(16000, np.nan, 'f4'), 16000, subtype='FLOAT'), 'text': lambda file: file.write_text('hello there', encoding='utf-8')}
said = {'nothing': '0 bytes', 'short': 'less than 20 ms', 'hour': 'cut it, by columns start and end', 'silent': 'nothing but silence', 'nan': 'no numbers', 'text': 'a text'}

@pytest.mark.parametrize('kind', odd)
def test_a_recording_of_which_nothing_is_learned(kind, good):
    odd[kind](good[0]/f'{kind}.wav')
    task = made(good, [dict(file=f'{kind}.wav', text='what was said', speaker='x')])
    assert len(task.df) == 6
    assert said[kind] in why(task)[f'{kind}.wav']

@pytest.mark.parametrize('how', ['slow', 'fast', 'many channels', 'clipped', 'mp3'])
def test_a_recording_of_another_form_is_read(how, good):
    file = good[0]/f'{how}.{"mp3" if how == "mp3" else "wav"}'
    if how == 'mp3' and 'MP3' not in soundfile.available_formats(): pytest.skip('this soundfile writes no mp3')
    sound = dict(slow=(noise(1, 8000), 8000), fast=(noise(.5, 192000), 192000), clipped=(np.sign(noise(1)), 16000), mp3=(noise(1), 16000)).get(how, (np.stack([noise(1)]*6, 1), 16000))
    soundfile.write(file, *sound)
    task = made(good, [dict(file=file.name, text='what was said', speaker='x')])
    assert len(task.df) == 7 and not task.skipped
    if how == 'clipped': assert any('clipped' in row['found'] for row in task.audit())

@pytest.mark.parametrize('text', ['', '   ', None, np.nan, '\n\t'])
def test_a_transcript_that_is_empty(text, good):
    soundfile.write(good[0]/'empty.wav', noise(1), 16000)
    assert why(made(good, [dict(file='empty.wav', text=text, speaker='x')]))['empty.wav'] == 'its transcript is empty'

@pytest.mark.parametrize('text', ['none', 'N/A', 'null', '0', 'nan'])
def test_words_that_look_like_nothing_are_said(text, good):
    soundfile.write(good[0]/'word.wav', noise(1), 16000)
    assert text in made(good, [dict(file='word.wav', text=text, speaker='x')]).df.label.to_list()

def test_a_transcript_that_no_clip_has_room_for(good):
    soundfile.write(good[0]/'long.wav', noise(2), 16000)
    assert '1,024 are the most' in why(made(good, [dict(file='long.wav', text='word '*400, speaker='x')]))['long.wav']

@pytest.mark.parametrize('text, found', [('nine 2 five', 'digits'), ('сто', 'letters that are not Latin'), ('Word Number', 'capital letters'), ('word.', 'a sign at the end'),
                                         ('a very long transcript that nobody could say in one second, however fast he talks', 'characters a second')])
def test_an_audit_names_what_is_odd_about_transcripts(text, found, good):
    soundfile.write(good[0]/'odd.wav', noise(1), 16000)
    task = made(good, [dict(file='odd.wav', text=text, speaker='x')])
    assert any(found in row['found'] for row in task.audit()), [row['found'] for row in task.audit()]

def test_a_speaker_in_two_parts_and_a_sentence_in_two(good):
    root, rows = good
    parts = ['train', 'train', 'train', 'valid', 'test', 'test']
    df = pd.DataFrame(rows).assign(part=parts, speaker=list('aabbab'), text=['the same long sentence again', *'bcd', 'The same, long sentence again.', 'e'])
    found = [row['found'] for row in SpeechTask.from_df(df, root=root, part='part', group='speaker').audit()]
    assert any('group in two parts' in each for each in found) and any('same sentence in train' in each for each in found)

def test_speakers_stay_in_one_part(good):
    root, rows = good
    task = SpeechTask.from_df(pd.DataFrame(rows).assign(speaker=list('aabbcc')), root=root, group='speaker', valid=.3, test=.3)
    assert task.df.groupby('group').part.nunique().max() == 1

@pytest.mark.parametrize('span, reason', [((5, 6), 'begins at 5 s'), ((.5, .2), 'an end comes after its start'), ((-1, 1), 'from 0'), (('x', 1), 'no number of seconds'), ((.2, .21), 'less than 20 ms')])
def test_a_piece_that_is_none(span, reason, good):
    task = made(good, [dict(file='0.wav', text='a piece', speaker='x', start=span[0], end=span[1])], start='start', end='end')
    assert any(reason in why for _, why in task.skipped), task.skipped

def test_a_file_that_is_not_there(good):
    assert 'no such file' in why(made(good, [dict(file='gone.wav', text='x', speaker='x')]))['gone.wav']

@pytest.mark.parametrize('told, line', [(dict(transcript='words'), 'no column "words"'), (dict(audio='sound'), 'no column "sound"'), (dict(group='voice'), 'no column "voice"'),
                                        (dict(audio='text'), 'two columns'), (dict(metric='accuracy'), 'accuracy')])
def test_columns_that_are_not_there(told, line, good):
    with pytest.raises(TransferError, match=line): made(good, **told)

@pytest.mark.parametrize('content', ['', '{"file_name": "0.wav"}', '{"transcription": "x"}', 'no json', '[]'])
def test_metadata_that_says_nothing(content, tmp_path):
    (tmp_path/'metadata.jsonl').write_text(content, encoding='utf-8')
    with pytest.raises(TransferError): AudioTask.from_folder(tmp_path)

@pytest.mark.parametrize('told', [dict(language='de'), dict(vocabulary='mine'), dict(beams=0), dict(beams=2.5), dict(front='melts'), dict(source='nowhere')])
def test_settings_that_make_no_sense(told):
    if not any(row['name'] == 'whisper-tiny.en' and row['here'] == 'yes' for row in __import__('tl_nbdev.base.samples', fromlist=['samples']).samples('weights')): pytest.skip('no network here')
    with pytest.raises(TransferError): speech_pretrained('whisper-tiny.en', **told)

@pytest.mark.parametrize('files, line', [({}, 'no config.json'), ({'config.json': '{}'}, 'model_type'), ({'config.json': '{"model_type": "bert"}'}, 'doesn\'t write down speech'),
                                         ({'config.json': '{"model_type": "hubert"'}, 'config.json'), ({'config.json': '{"model_type": "new", "auto_map": {}}'}, 'never run')])
def test_a_folder_that_is_no_network(files, line, tmp_path):
    for name, content in files.items(): (tmp_path/name).write_text(content, encoding='utf-8')
    with pytest.raises(TransferError, match=line): speech_pretrained(tmp_path)
