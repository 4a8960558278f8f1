"Spoken digits: learned from forty voices of one synthesizer, tested on another one and on people"
from pathlib import Path
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

everyone = ('mel', 'words_random', 'words', 'words_varied', 'words_trained', 'whisper_random', 'whisper', 'whisper_varied')
chosen_from = ('words', 'words_varied', 'words_trained', 'whisper', 'whisper_varied') # by valid, seed by seed
said = dict(mel='mel statistics, logistic regression', words_random='speech embedding, random weights, linear head', words='speech embedding, linear head',
            words_varied='speech embedding, linear head, 4 varied views', words_trained='speech embedding, its last blocks trained, varied',
            whisper_random='Whisper tiny.en\'s encoder, random weights, linear head', whisper='Whisper tiny.en\'s encoder, linear head',
            whisper_varied='Whisper tiny.en\'s encoder, linear head, 4 varied views')
quick = dict(seeds=1, peers=['mel', 'words_random'], voices=4)
sources = 'flite', 'people'

def _hard(files, folder, seed):
    "What held-out voices say, as it might have been heard: two of each, in noise, over a telephone, in a room"
    import numpy as np, soundfile
    from tl_nbdev.audio.decoding import read_sound
    from tl_nbdev.audio.varying import varied_sound
    made = []
    for i, file in enumerate(files):
        for k in range(2):
            to = folder/f'hard{k}-{file.name}'
            soundfile.write(to, varied_sound(read_sound(file), 'strong', np.random.default_rng([seed, i, k])), 16000)
            made.append(to)
    return made

def _people():
    "Digits by three people: a telephone exchange's prompts, and those that read for Tux Paint"
    import pandas as pd
    from tl_nbdev.base.samples import sample
    from tl_nbdev.base.sounds import digits
    phone, read = sample('prompts', quiet=True), sample('digits-read', quiet=True)
    table = pd.read_csv(read/'words.csv')
    rows = [dict(audio=phone/'digits'/f'{i}.wav', label=word) for i, word in enumerate(digits)]
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(dict(audio=[read/name for name in table.file], label=table.label))])

def _task(folder, seed, voices):
    "Forty voices of espeak-ng to learn from, twelve to choose by, flite's five and three people to test"
    import pandas as pd
    from tl_nbdev.audio.task import AudioTask
    from tl_nbdev.base.sounds import spoken_words
    words = spoken_words(folder, seed=seed)
    table = pd.read_csv(words)
    table['audio'] = [folder/name for name in table.file]
    learn, choose, other = (table[table.part == part] for part in ('train', 'valid', 'test'))
    if voices: learn, choose = (some[some.voice.isin(sorted(set(some.voice))[:voices])] for some in (learn, choose))
    hard = pd.DataFrame(dict(audio=_hard(choose.audio, folder, seed), label=[label for label in choose.label for _ in range(2)]))
    parts = [learn.assign(part='train', group='train'), hard.assign(part='valid', group='valid'), other.assign(part='test', group='flite'),
             _people().assign(part='test', group='people')]
    rows = pd.concat(parts, ignore_index=True)[['audio', 'label', 'part', 'group']]
    return AudioTask.from_df(rows, part='part', group='group', seed=seed, name='digits')

def _found(valid, test, seconds):
    hit = test.probs.argmax(1) == test.targets
    return dict(valid=float(valid.value), seconds=seconds, **{name: float(hit[test.groups == name].mean()) for name in sources})

def _made(seed, voices, judge):
    "What a function of a task finds, with the task in a folder that is gone afterwards"
    from tempfile import TemporaryDirectory
    with TemporaryDirectory() as folder: return judge(_task(Path(folder), seed, voices))

def mel(seed, voices):
    "Statistics of loudness by pitch, logistic regression, its strength chosen on valid"
    from tl_nbdev.audio.baselines import sound_baselines
    def judge(task):
        (valid,), (test,) = (sound_baselines(task, part).values() for part in ('valid', 'test'))
        return _found(valid, test, 0.)
    return _made(seed, voices, judge)

def _network(seed, voices, model, how, epochs=None, **kwargs):
    "A strategy, everything else as transfer_learner sets it"
    from tl_nbdev.training.learner import transfer_learner
    def judge(task):
        learn, laps = transfer_learner(task, model, seed=seed, **kwargs), Laps()
        with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs)
        laps('train')
        return _found(learn.evaluate('valid'), learn.evaluate(closer=False), laps['train'])
    return _made(seed, voices, judge)

def _views(n):
    from tl_nbdev.strategies.strategy import FeatureExtraction
    return FeatureExtraction(views=n)

_whisper = dict(model='whisper-tiny.en', size=1)

def words_random(seed, voices): return _network(seed, voices, 'speech-embedding', 'feature', source='random')
def words(seed, voices): return _network(seed, voices, 'speech-embedding', 'feature')
def words_varied(seed, voices): return _network(seed, voices, 'speech-embedding', _views(4), augment='strong')
def words_trained(seed, voices): return _network(seed, voices, 'speech-embedding', 'last:2', 4, augment='strong', bs=16)
def whisper_random(seed, voices): return _network(seed, voices, how='feature', source='random', **_whisper)
def whisper(seed, voices): return _network(seed, voices, how='feature', **_whisper)
def whisper_varied(seed, voices): return _network(seed, voices, how=_views(4), augment='strong', **_whisper)

def _row(peer, found):
    row = {'what': said.get(peer, peer), 'valid': f'{mean(one["valid"] for one in found):.3f}'}
    for name in sources: row[name] = f'{mean(one[name] for one in found):.3f}'
    return row | {'people, each seed': ', '.join(f'{one["people"]:.2f}' for one in found)}

@call_parse
def bench(
    seeds:int=5, # of voices, speeds, pitches, heads and training
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    voices:int=0, # at most so many a part, default all: 40 and 12
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Words from one synthesizer, recognised from another one and from people"
    records, runs, got = Records('spoken', again, out, earlier=True), [], {}
    for seed in range(seeds):
        for peer in peers:
            runs.append(records.measure(peer, seed=seed, voices=voices))
            got.setdefault(peer, []).append(runs[-1]['found'])
    table, reached = [_row(peer, found) for peer, found in got.items()], []
    candidates = [peer for peer in chosen_from if peer in got]
    if candidates:
        best = [max((got[peer][seed] for peer in candidates), key=lambda one: one['valid']) for seed in range(seeds)]
        table.append(_row('what valid chose, seed by seed', best))
        people = [one['people'] for one in best]
        reached.append(goal('digits by people, by what valid chose', mean(people), .7, show='{:.2f}', ends=interval(people)))
    if 'words' in got and 'mel' in got:
        apart = [a['people'] - b['people'] for a, b in zip(got['words'], got['mel'])]
        reached.append(goal('speech embedding − mel statistics, linear head, on people', mean(apart), show='{:+.2f}', ends=interval(apart), than=0))
    if 'words' in got and 'words_varied' in got:
        apart = [a['people'] - b['people'] for a, b in zip(got['words_varied'], got['words'])]
        reached.append(goal('varied views − none, speech embedding, on people', mean(apart), show='{:+.2f}', ends=interval(apart), than=0))
    records.write(table=table, reached=reached, measurements=runs, arguments=dict(seeds=seeds, peers=peers, voices=voices),
                  remarks=['Ten words by 40 voices of espeak-ng teach, at speeds and pitches drawn anew for each seed. What 12 other voices say, in noise, over a '
                           'telephone and in rooms, chooses. Tested on 5 voices of flite and on 30 recordings of 3 people (Asterisk\'s prompts at 8 kHz, '
                           'and Tux Paint\'s), which choose nothing. Whisper hears one second at a time. It was trained to write down what people say, '
                           'and digits were among it: it knows these words, and the head only finds out what they are called here.'])
