"Recordings that nobody should have: each has its line, and nothing else is lost."
import shutil, subprocess, sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from tl_nbdev.apps.door import task_from
from tl_nbdev.audio.clips import Clip
from tl_nbdev.audio.decoding import duration, ffmpeg, read_sound
from tl_nbdev.audio.starts import audio_pretrained
from tl_nbdev.audio.task import AudioTask
from tl_nbdev.base.settings import TransferError

rng = np.random.default_rng(0)

def tone(hz=400, seconds=.5, rate=16000): return .3*np.sin(2*np.pi*hz*np.arange(int(seconds*rate))/rate)

@pytest.fixture
def clips(tmp_path):
    "Twenty good recordings of two classes"
    for i in range(20):
        label = ('low', 'high')[i % 2]
        (tmp_path/label).mkdir(exist_ok=True)
        soundfile.write(tmp_path/label/f'good{i}.wav', tone((300, 1500)[i % 2]*rng.uniform(.8, 1.2), rng.uniform(.4, .6)) + rng.normal(0, .01, 1), 16000)
    return tmp_path

unreadable = 'no sound' if ffmpeg() else "soundfile can't read it" # what else would read it is asked where it is there
bad = {
    'none.wav': (lambda to: soundfile.write(to, np.zeros(0), 16000), '0 s of sound'),
    'one.wav': (lambda to: soundfile.write(to, np.ones(1), 16000), '1 sample'),
    'nan.wav': (lambda to: soundfile.write(to, np.r_[tone(), np.nan], 16000, subtype='FLOAT'), '1 of its 8,001 samples are no numbers'),
    'infinite.wav': (lambda to: soundfile.write(to, np.r_[tone(), np.inf, -np.inf], 16000, subtype='FLOAT'), '2 of its'),
    'huge.wav': (lambda to: soundfile.write(to, 30000*tone(), 16000, subtype='FLOAT'), 'divide, so that they are -1 to 1'),
    'hours.wav': (lambda to: soundfile.write(to, np.zeros(3601*1000, np.int16), 1000), 'h in one item'),
    'text.wav': (lambda to: to.write_text('what was said, in words\n'), 'no sound: a text ("what was said'),
    'html.mp3': (lambda to: to.write_text('<!DOCTYPE html><html>404 not found</html>'), 'no sound: a text'),
    'empty.flac': (lambda to: to.write_bytes(b''), 'an empty file'),
    'picture.ogg': (lambda to: to.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(99)), 'a picture'),
    'zip.wav': (lambda to: to.write_bytes(b'PK\3\4' + bytes(99)), 'a zip'),
    'pointer.wav': (lambda to: to.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'), 'git lfs pull'),
    'torn.wav': (lambda to: to.write_bytes(b'RIFF\xff\xff\xff\xffWAVE' + bytes(range(99))), unreadable),
    'noise.mp3': (lambda to: to.write_bytes(rng.bytes(999)), unreadable)}

@pytest.mark.parametrize('name', bad)
def test_a_bad_recording_is_left_out_with_a_line(name, clips):
    make, said = bad[name]
    make(clips/'low'/name)
    with pytest.raises(TransferError) as caught: read_sound(clips/'low'/name)
    assert said in str(caught.value) and '\n' not in str(caught.value)
    task = AudioTask.from_folder(clips)
    assert len(task.df) == 20 and [str(item).endswith(name) for item, _ in task.skipped] == [True]
    assert any(row['found'].startswith('left out') for row in task.audit())

good = {
    'phone.wav': lambda to: soundfile.write(to, tone(350, .5, 8000), 8000),
    'studio.wav': lambda to: soundfile.write(to, tone(350, .5, 192000), 192000),
    'six.wav': lambda to: soundfile.write(to, np.stack([tone(350)]*6, 1), 16000),
    'silence.wav': lambda to: soundfile.write(to, np.zeros(8000), 16000),
    'clipped.wav': lambda to: soundfile.write(to, np.clip(9*tone(350), -1, 1), 16000),
    'floats.wav': lambda to: soundfile.write(to, 4*tone(350), 16000, subtype='FLOAT'),
    'eight_bits.wav': lambda to: soundfile.write(to, tone(350), 16000, subtype='PCM_U8'),
    'odd name #1 ü.wav': lambda to: soundfile.write(to, tone(350), 16000)}

@pytest.mark.parametrize('name', good)
def test_an_odd_recording_is_read(name, clips):
    good[name](clips/'low'/name)
    sound = read_sound(clips/'low'/name)
    assert sound.dtype == np.float32 and abs(len(sound) - 8000) <= 1 and np.abs(sound).max() <= 1
    task = AudioTask.from_folder(clips)
    assert len(task.df) == 21 and not task.skipped
    found = ' '.join(row['found'] for row in task.audit())
    if name in ('silence.wav', 'clipped.wav'): assert name.split('.')[0] in found

@pytest.mark.skipif(not ffmpeg(), reason='no ffmpeg here')
def test_a_video_gives_its_sound_and_says_so(clips):
    subprocess.run([ffmpeg(), '-v', 'error', '-y', '-f', 'lavfi', '-i', 'testsrc=d=0.5:s=64x64', '-i', str(next((clips/'low').iterdir())),
                    '-shortest', '-c:v', 'mpeg4', '-c:a', 'aac', str(clips/'low'/'film.mp4')], check=True)
    task = AudioTask.from_folder(clips)
    assert len(task.df) == 21 and 'the sound was taken out of 1 video' in task.notes
    subprocess.run([ffmpeg(), '-v', 'error', '-y', '-f', 'lavfi', '-i', 'testsrc=d=0.5:s=64x64', '-c:v', 'mpeg4', str(clips/'low'/'mute.mp4')], check=True)
    task = AudioTask.from_folder(clips)
    assert len(task.df) == 21 and task.skipped[0][1] == 'no sound in it'

@pytest.mark.skipif(not ffmpeg(), reason='no ffmpeg here')
def test_the_reason_names_no_file_twice(clips):
    (clips/'low'/'noise: loud.flac').write_bytes(rng.bytes(999))
    why = AudioTask.from_folder(clips).skipped[0][1]
    assert why.startswith('no sound that soundfile or ffmpeg can read (') and 'noise' not in why

def test_without_ffmpeg_one_line_says_what_to_do(clips, monkeypatch):
    (clips/'low'/'phone.m4a').write_bytes(b'\0\0\0\x1cftypM4A ' + rng.bytes(400))
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    task = AudioTask.from_folder(clips)
    assert len(task.df) == 20 and 'ffmpeg' in task.skipped[0][1]

def test_without_soundfile_one_line_says_what_to_install(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, 'soundfile', None)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(TransferError, match=r'pip install "tl_nbdev\[audio\]"'): read_sound(next((clips/'low').iterdir()))

def test_without_soxr_rates_are_changed_all_the_same(clips, monkeypatch):
    soundfile.write(clips/'a.wav', tone(400, .5, 44100), 44100)
    monkeypatch.setitem(sys.modules, 'soxr', None)
    assert abs(len(read_sound(clips/'a.wav')) - 8000) <= 1

@pytest.mark.parametrize('rows, said', [
    ([('low/good0.wav', 5, 9)], 'the piece begins at 5 s'), ([('low/good0.wav', .3, .1)], 'an end comes after its start'),
    ([('low/good0.wav', 'soon', 1)], 'is no number of seconds'), ([('low/good0.wav', -1, 1)], 'give seconds from 0'),
    ([('low/gone.wav', 0, .2)], 'no such file'), ([('', 0, 1)], 'no recording is named')])
def test_a_piece_that_is_not_there_is_left_out(rows, said, clips):
    good = [(f'{label}/good{i}.wav', .05, .3) for i in range(20) for label in [('low', 'high')[i % 2]]]
    df = pd.DataFrame([*good, *rows], columns=['file', 'start', 'end']).assign(label=[name.split('/')[0] or 'low' for name, *_ in [*good, *rows]])
    df.to_csv(clips/'pieces.csv', index=False)
    task = AudioTask.from_csv(clips/'pieces.csv', start='start', end='end')
    assert len(task.df) == 20 and said in task.skipped[0][1], task.skipped
    assert all(abs(duration(item) - .25) < .01 for item in task.df.item)

def test_a_speaker_in_two_parts_is_found(clips):
    df = pd.DataFrame([dict(audio=clips/('low', 'high')[i % 2]/f'good{i}.wav', label=i % 2, who=f's{i % 4}', part=('train', 'train', 'valid', 'test')[i//2 % 4])
                       for i in range(20)])
    task = AudioTask.from_df(df, group='who', part='part')
    assert any(row['found'] == 'a group in two parts of the split' for row in task.audit())

def test_a_folder_of_photos_and_a_table_of_words_are_none_of_ours(tmp_path):
    from PIL import Image
    for i in range(6):
        (tmp_path/'photos'/f'{i % 2}').mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path/'photos'/f'{i % 2}'/f'{i}.png')
    from tl_nbdev.apps.door import kind_of_data
    assert kind_of_data(tmp_path/'photos').name == 'image'
    pd.DataFrame(dict(text=['a b', 'c d'], label=[0, 1])).to_csv(tmp_path/'words.csv', index=False)
    assert kind_of_data(tmp_path/'words.csv').name != 'audio'

def test_data_are_known_as_recordings(clips):
    assert isinstance(task_from(clips), AudioTask)
    pd.DataFrame([dict(clip=f'{label}/good{i}.wav', label=label) for i in range(20) for label in [('low', 'high')[i % 2]]]).to_csv(clips/'t.csv', index=False)
    assert isinstance(task_from(clips/'t.csv'), AudioTask)
    assert isinstance(task_from(clips/'t.csv', audio='clip'), AudioTask)
    with pytest.raises(TransferError, match='one recording'): task_from(clips/'low'/'good0.wav', task='audio')

@pytest.mark.parametrize('what, said', [('no such thing', 'no network of sound'), ('./nowhere', 'no such folder'), (3, 'is no network'),
                                        ('resnet18', 'no network of sound|could not be fetched|no such')])
def test_a_network_that_is_none_has_a_line(what, said, monkeypatch):
    monkeypatch.setenv('TL_OFFLINE', 'yes')
    with pytest.raises(TransferError, match=said) as caught: audio_pretrained(what)
    assert '\n' not in str(caught.value)

@pytest.mark.parametrize('item, said', [((np.zeros(9000), 0), 'a rate of 0'), ((np.zeros((2, 3, 4)), 16000), 'an array of 2x3x4'), (np.zeros(99), 'without their rate'),
                                        (dict(array=np.zeros(9000)), 'without their rate'), ((np.array(['a']), 16000), 'made of numbers'), (None, 'is no sound')])
def test_sound_in_memory_that_is_none_has_a_line(item, said):
    with pytest.raises(TransferError, match=said): read_sound(item)

def test_a_clip_of_an_hour_is_read_and_one_beyond_is_not(tmp_path):
    soundfile.write(tmp_path/'hour.wav', np.zeros(3600*1000, np.int16), 1000)
    assert len(read_sound(tmp_path/'hour.wav', 1000)) == 3600*1000
    assert len(read_sound(Clip(tmp_path/'hour.wav', 3590), 1000)) == 10000

def test_a_table_without_labels_says_what_may_be_meant(clips):
    (clips/'said.csv').write_text('file,text\n' + '\n'.join(f'{file.relative_to(clips)},hello' for file in sorted(clips.rglob('*.wav'))), encoding='utf-8')
    with pytest.raises(TransferError, match='no column "label": its columns are file, text.*--transcript'): AudioTask.from_csv(clips/'said.csv')
    with pytest.raises(TransferError, match='no column "word": its columns are file, text$'): AudioTask.from_csv(clips/'said.csv', label='word')
