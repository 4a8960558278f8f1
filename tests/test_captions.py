"Networks that look and write: five classes and two that are joined, their loss and masks, strategies, what is seen once, saving, resuming, a shell, a hub, and what is said of bad input."
import copy, json, os, signal, sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastai.basics import Callback
from children import python
from conftest import tl
from looking import colours, every, joined, made, makers, pictures, start
from PIL import Image
from tl_nbdev.apps.door import task_from
from tl_nbdev.base.settings import TransferError
from tl_nbdev.generation.turns import Chat, Turn
from tl_nbdev.multimodal.caption_task import CaptionTask
from tl_nbdev.multimodal.captioner import CaptionPretrained, caption_pretrained, joined_start
from tl_nbdev.multimodal.captions import PictureChats
from tl_nbdev.multimodal.instructions import read_instructions
from tl_nbdev.multimodal.pictured import about
from tl_nbdev.multimodal.readers import PictureReader, small_processor
from tl_nbdev.multimodal.seen_once import FrozenSeen
from tl_nbdev.multimodal.shown import padded_shown, row_of_tensors, tensors_of_row
from tl_nbdev.networks.stages import stages
from tl_nbdev.strategies.strategy import FineTune, FullFineTune, LoRA, Parts, strategy
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.training.saved import load_transfer

question = 'what colour is it'

def saved_pictures(folder, n=18):
    "Rows of files, captions and questions"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (colour, picture) in enumerate(pictures(n)):
        picture.save(folder/f'{i}.png')
        rows.append(dict(file=f'{i}.png', caption=f'a {colour} bird', q=question, a=colour))
    return rows

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    to = tmp_path_factory.mktemp('pictures')
    pd.DataFrame(saved_pictures(to)).to_csv(to/'qa.csv', index=False)
    return to

@pytest.fixture(scope='module')
def task(folder): return CaptionTask.from_csv(folder/'qa.csv', image='file', caption='caption', valid=4/18, test=4/18, name='birds')

def learner(task, what, bs=4, **more): return transfer_learner(task, start(what) if isinstance(what, str) else what, seed=0, bs=bs, **more)

def transfer(learn, how, *args, **more):
    with learn.no_bar(), learn.no_logging(): return learn.transfer(how, *args, **more)


# loss and masks

def conversations(): return [about(picture, question*(i % 2), f'a {colour} bird') for i, (colour, picture) in enumerate(pictures(4))]

@pytest.mark.parametrize('name', makers)
def test_the_loss_is_that_of_transformers(name):
    net, processor = made(name)
    p = caption_pretrained(copy.deepcopy(net), processor=processor)
    frozen, reader = p.frozen(p.body()), p.reader()
    losses, tokens = frozen.all(conversations()).T
    for i, item in enumerate(conversations()):
        one = reader.read(item)
        ids, learn = torch.tensor(one.ids), torch.tensor(one.learn)
        want = net(input_ids=ids[None], labels=torch.where(learn, ids, -100)[None], **one.seen).loss
        torch.testing.assert_close((losses/tokens)[i], want.detach(), rtol=1e-5, atol=1e-5)

@pytest.mark.parametrize('name', every)
def test_only_answers_are_learned(name):
    reader = start(name).reader()
    for item in conversations():
        one = reader.read(item)
        said = reader.tok.decode(one.ids[one.learn]).replace(' ', '')
        assert said.startswith(item.answer.replace(' ', '')) and len(said) - len(item.answer.replace(' ', '')) < 25, said
        assert one.learn[-1] or not one.ids[-1] == reader.tok.eos_token_id
        asked = reader.prompt(item)
        assert one.ids[:len(asked)].tolist() == asked.ids.tolist() and not one.learn[:len(asked)].any()

@pytest.mark.parametrize('name', every)
def test_a_batch_says_what_each_picture_says_alone(name):
    p = start(name)
    frozen = p.frozen(p.body())
    together, alone = frozen.all(conversations()), torch.cat([frozen.all([item]) for item in conversations()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)
    other = frozen.all([about(Image.new('RGB', (33, 21), 'purple'), question, item.answer) for item in conversations()])
    assert (other[1::2, 0] - together[1::2, 0]).abs().min() > 1e-6 # it looks


# stages and strategies

@pytest.mark.parametrize('name', every)
def test_stages_stand_part_by_part(name):
    body = start(name).body()
    ss = stages(body)
    parts = [stage.part for stage in ss]
    assert parts[0] == 'vision' and parts[-1] == 'language' and len(ss) > 6
    assert sum(stage.n for stage in ss) == sum(param.numel() for param in body.parameters())
    assert parts == sorted(parts, key=['vision', 'connector', 'language'].index) or name == 'idefics'

hows = dict(feature='feature', last2='last:2', full='full', lora='lora:2')

@pytest.mark.parametrize('how', hows)
@pytest.mark.parametrize('name', every)
def test_what_is_frozen_stays_and_what_trains_changes(task, name, how):
    learn = learner(task, name)
    before = {key: value.clone() for key, value in learn.model.state_dict().items()}
    ss = stages(learn.model)
    transfer(learn, hows[how], 1)
    after = learn.model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    trains = dict(feature={len(ss) - 1}, last2={len(ss) - 3, len(ss) - 2, len(ss) - 1}, full={*range(len(ss))},
                  lora={i for i, stage in enumerate(ss) if stage.part != 'vision'})[how]
    allowed = {param.data_ptr() for i in trains for param in ss[i].params.values()}
    buffers = {key for key, _ in learn.model.named_buffers()} if how == 'full' else set()
    odd = [key for key in changed - buffers if after[key].data_ptr() not in allowed and how != 'lora' or how == 'lora' and 'vision' in key]
    assert changed and not odd, odd[:3]
    assert torch.isfinite(torch.tensor(learn.evaluate('valid').probs)).all()

@pytest.mark.parametrize('name', [name for name in every if name != 'blip'])
@pytest.mark.parametrize('how, parts', [('connector', {'connector'}), ('connector+language', {'connector', 'language'}), ('lora:2@language', {'language'})])
def test_a_strategy_names_parts(task, name, how, parts):
    learn = learner(task, name)
    part_of = {key: stage.part for stage in stages(learn.model) for key in stage.params}
    before = {key: value.clone() for key, value in learn.model.state_dict().items()}
    transfer(learn, how, 1)
    assert {part_of[key] for key, value in before.items() if not torch.equal(value, learn.model.state_dict()[key])} == parts

def test_parts_are_spelled_and_read_again(task):
    for word in ('connector', 'connector+language', 'lora:8@language', 'connector+lora:8@language', 'lora:4@last:2@language'):
        how = strategy(word)
        assert strategy(how.as_dict()) == how and eval(repr(strategy(how.as_dict())), dict(Parts=Parts, LoRA=LoRA)) == how
    with pytest.raises(TransferError, match='no stage "connector"'): transfer(learner(task, 'blip'), 'connector', 1)
    with pytest.raises(TransferError, match='no strategy'): strategy('lora:8@nose')


# what is seen once

@pytest.mark.parametrize('name', every)
def test_training_on_what_was_seen_is_training_the_whole(task, name, monkeypatch):
    how = FineTune(2, epochs=3, lr=1e-3) if name == 'blip' else Parts('connector', lr=1e-3, epochs=3)
    learn = learner(task, name, bs=16) # one batch: its order is drawn in two ways
    asked = []
    plain = FrozenSeen.cached
    monkeypatch.setattr(FrozenSeen, 'cached', lambda self, *args, **more: asked.append(1) or plain(self, *args, **more))
    transfer(learn, how)
    assert asked
    monkeypatch.setattr(CaptionPretrained, 'cuts', False)
    whole = learner(task, name, bs=16)
    transfer(whole, how)
    for (key, one), other in zip(learn.model.state_dict().items(), whole.model.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4, msg=key)

def test_ten_questions_about_a_picture_need_it_once(monkeypatch):
    p = start('llava')
    body = p.body()
    for param in body.parameters(): param.requires_grad_(False)
    frozen = p.frozen(p.boundary(body, p.example(2)).lower())
    red, blue = Image.new('RGB', (20, 30), '#d30'), Image.new('RGB', (20, 30), '#03d')
    seen, ask = [], frozen.net.seen
    monkeypatch.setattr(frozen.net, 'seen', lambda batch: seen.append(1) or ask(batch))
    rows = frozen.cached([about(picture, f'what {i}', 'a bird') for i in range(5) for picture in (red, blue)], None)
    assert len(rows) == 10 and len(seen) == 2
    frozen.cached([about(red, 'and now', 'a bird')], None)
    assert len(seen) == 2

def test_where_what_sees_trains_nothing_is_kept():
    p = start('idefics3')
    assert p.boundary(p.body(), p.example(2)) is None


# what was learned is kept

@pytest.mark.parametrize('name', ['llava', 'blip', 'joined'])
def test_saved_and_read_again_it_says_the_same(task, folder, tmp_path, name):
    if name == 'joined': what = _joined_of_folders(tmp_path)
    else:
        net, processor = made(name)
        net.save_pretrained(tmp_path/'source')
        processor.save_pretrained(tmp_path/'source')
        what = caption_pretrained(tmp_path/'source')
    learn = learner(task, what)
    transfer(learn, FullFineTune(epochs=1, lr=3e-3))
    asked = [folder/'0.png', (folder/'1.png', question)]
    want = learn.predictor().write(asked, most=8)
    learn.save_transfer(tmp_path/'saved', check=name == 'llava') # a fresh process checks it
    again = load_transfer(tmp_path/'saved')
    assert again.write(asked, most=8) == want
    rows = again.predict(asked, most=8)
    assert [row['answer'] for row in rows] == want and rows[1]['picture'].endswith(f'1.png: {question}')
    more = transfer_learner(task, caption_pretrained(tmp_path/'saved'), seed=0)
    assert more.evaluate(closer=False).value == pytest.approx(learn.evaluate(closer=False).value, rel=1e-3)

def _joined_of_folders(tmp_path):
    "Two that are joined, the one that writes from a folder"
    p = joined()
    words = p.built_by.writer
    words.network().save_pretrained(tmp_path/'words')
    words.tokenizer().save_pretrained(tmp_path/'words')
    return caption_pretrained(image=p.built_by.image, writer=str(tmp_path/'words'), pooled=2)

trainer = '''
import sys, signal, os, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from pathlib import Path
from fastai.basics import Callback
import test_captions as t
class Kill(Callback):
    def after_batch(self):
        if self.training and self.train_iter == 4: os.kill(os.getpid(), signal.SIGKILL)
task = t.CaptionTask.from_csv(Path(sys.argv[2])/'qa.csv', image='file', caption='caption', valid=4/18, test=4/18, name='birds')
learn = t.learner(task, 'llava')
if sys.argv[3] == 'kill': learn.add_cb(Kill())
plain = sys.argv[3] == 'plain'
t.transfer(learn, t.Parts('connector', lr=1e-3), 3, resume=not plain, folder=None if plain else sys.argv[4])
torch.save(learn.model.state_dict(), sys.argv[5])
'''

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='a process is killed as Linux and macOS do it')
def test_killed_and_resumed_it_ends_with_the_same_bits(folder, tmp_path):
    def run(way, to): return python(trainer, Path(__file__).parent, folder, way, tmp_path/'kept', tmp_path/to)
    assert run('kill', 'none').returncode == -signal.SIGKILL
    for way, to in (('resume', 'resumed'), ('plain', 'plain')):
        done = run(way, to)
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path/name, weights_only=True) for name in ('resumed', 'plain'))
    assert all(torch.equal(one[name], other[name]) for name in other)


# answers

@pytest.mark.parametrize('name', every)
def test_answers_in_pieces_are_those_in_one(name):
    p = start(name)
    frozen, modality = p.frozen(p.body()), PictureChats()
    items = [about(picture, question*(i % 2)) for i, (_, picture) in enumerate(pictures(4))]
    said = modality.answered(frozen, items, most=5)
    for i, item in enumerate(items):
        assert modality.answered(frozen, [item], most=5)[0] == said[i] == ''.join(modality.streamed(frozen, item, most=5)).strip()
    drawn = [modality.answered(frozen, items, most=5, temperature=2., seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]

def test_greedy_answers_are_those_of_transformers():
    net, processor = made('llava')
    p = caption_pretrained(copy.deepcopy(net), processor=processor)
    red = pictures(1)[0][1]
    text = processor.apply_chat_template([dict(role='user', content=[dict(type='image'), dict(type='text', text=question)])], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[red], return_tensors='pt')
    want = net.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs['input_ids'].shape[1]:]
    assert PictureChats().answered(p.frozen(p.body()), [about(red, question)], most=6)[0] == processor.tokenizer.decode(want, skip_special_tokens=True).strip()

def test_a_result_stands_beside_those_who_were_taught_nothing(task):
    learn = learner(task, 'llava')
    result = learn.evaluate('test')
    said = result.closer.said
    assert {'now', 'as it came', 'text of the nearest picture', 'commonest text'} == {*said.judged}
    assert said.judged['text of the nearest picture']['exact match'].value >= said.judged['commonest text']['exact match'].value
    assert '.png' in said.samples()[0]['prompt'] and task.audit('nothing else' and None) is not None


# data, the shell and a hub

def test_instructions_of_llava(folder, tmp_path):
    records = [dict(id=str(i), image=f'{i}.png', conversations=[{'from': 'human', 'value': f'<image>\n{question}'}, {'from': 'gpt', 'value': colour}])
               for i, (colour, _) in enumerate(pictures(12))]
    (folder/'llava.json').write_text(json.dumps(records), encoding='utf-8')
    task = CaptionTask.from_csv(folder/'llava.json')
    assert len(task.df) == 12 and Chat.of(task.df.item[0]).turns[0].content == question and task.df.label[0] == 'red'
    assert type(task_from(folder/'llava.json')) is CaptionTask
    (folder/'llava.json').unlink()

def test_the_kind_is_found_by_what_is_said(folder):
    qa = dict(image='file', question='q', answer='a')
    for more in ({}, dict(task='generation'), dict(task='captions')):
        task = task_from(folder/'qa.csv', **qa, **more)
        assert type(task) is CaptionTask and task.df.label[0] in colours
    assert type(task_from(folder/'qa.csv', image='file', caption='caption', task='generation')) is CaptionTask
    assert type(task_from(folder/'qa.csv', image='file', caption='caption')).__name__ == 'ImageTextTask'

def test_pictures_with_texts_beside_them(tmp_path):
    for colour in colours:
        Image.new('RGB', (9, 9), colours[colour]).save(tmp_path/f'{colour}.png')
        (tmp_path/f'{colour}.txt').write_text(f'a {colour} bird', encoding='utf-8')
    assert len(CaptionTask.from_folder(tmp_path).df) == len(colours)
    for each in tmp_path.glob('*.txt'): each.unlink()
    lines = [json.dumps(dict(file_name=f'{colour}.png', text=f'a {colour} bird')) for colour in colours]
    (tmp_path/'metadata.jsonl').write_text('\n'.join(lines), encoding='utf-8')
    assert len(CaptionTask.from_folder(tmp_path).df) == len(colours)

def test_a_data_set_of_datasets():
    datasets = pytest.importorskip('datasets')
    found = datasets.Dataset.from_dict(dict(image=[picture for _, picture in pictures(8)], question=[question]*8, answer=[colour for colour, _ in pictures(8)]),
                                       features=datasets.Features(dict(image=datasets.Image(), question=datasets.Value('string'), answer=datasets.Value('string'))))
    task = CaptionTask.from_records(found, name='birds')
    assert len(task.df) == 8 and task.df.label[0] == 'red' and Chat.of(task.df.item[0]).turns[0].content == question

def _on_hub(hub, name, tmp_path):
    net, processor = made(name)
    net.save_pretrained(tmp_path/name)
    processor.save_pretrained(tmp_path/name)
    hub.add(f'lookers/{name}', tmp_path/name, licence='mit')

@pytest.mark.parametrize('name', makers)
def test_by_name_on_a_hub(hub, tmp_path, name):
    _on_hub(hub, name, tmp_path)
    p = caption_pretrained(f'lookers/{name}')
    assert p.licence == 'mit' and p.source == 'hub'
    here = caption_pretrained(tmp_path/name)
    torch.testing.assert_close(p.frozen(p.body()).all(conversations()), here.frozen(here.body()).all(conversations()))

def test_from_the_shell(hub, tmp_path, folder):
    _on_hub(hub, 'llava', tmp_path)
    out = tl('train', folder/'qa.csv', '--image', 'file', '--question', 'q', '--answer', 'a', '--task', 'generation', '--model', 'lookers/llava',
              '--strategy', 'connector', '--epochs', 1, '--out', tmp_path/'model')
    assert out.status == 0, out
    out = tl('predict', tmp_path/'model', folder/'0.png', '--question', question, '--most', 4)
    assert out.status == 0 and '0.png' in out.out, out


# bad input

def why(f):
    with pytest.raises(TransferError) as e: f()
    line = str(e.value)
    assert '\n' not in line and len(line) < 600, line
    return line

def test_bad_rows_are_left_out_and_named(folder, tmp_path):
    rows = [dict(file='0.png', q=question, a='red'), dict(file='1.png', q=question, a='blue'), dict(file='2.png', q=question, a='green'),
            dict(file='3.png', q=question, a='black'), dict(file='4.png', q=question, a=None), dict(file='nowhere.png', q=question, a='pink'),
            dict(file=None, q=question, a='grey'), dict(file='5.png', q=question, a='  ')]
    pd.DataFrame(rows).to_csv(tmp_path/'bad.csv', index=False)
    task = CaptionTask.from_csv(tmp_path/'bad.csv', image='file', question='q', answer='a', root=folder)
    reasons = ' '.join(reason for _, reason in task.skipped)
    assert len(task.df) == 4 and len(task.skipped) == 4 and 'empty' in reasons and 'no picture' in reasons, task.skipped

def test_a_text_that_is_no_picture(tmp_path):
    (tmp_path/'a.png').write_text('not a picture', encoding='utf-8')
    task = CaptionTask.from_records([*((picture, colour) for colour, picture in pictures(6)), (str(tmp_path/'a.png'), 'a bird')])
    assert len(task.df) == 6 and task.skipped

def test_lines_for_what_makes_no_sense(task, folder, tmp_path):
    reader, red = PictureReader(small_processor()), Image.new('RGB', (9, 9))
    assert 'no picture with it' in why(lambda: reader.read(Chat.of('what is it?')))
    two = Chat((Turn('user', 'which?'), Turn('assistant', 'this')), images=('a.png', 'b.png'))
    assert '2 pictures with it' in why(lambda: reader.read(two))
    assert 'none of answers' in why(lambda: CaptionTask.from_csv(folder/'qa.csv', image='file', question='q'))
    assert 'positions for 160' in why(lambda: start('llava', size=1000))
    assert 'processor' in why(lambda: caption_pretrained(made('llava')[0]))
    assert 'looks at no pictures' in why(lambda: caption_pretrained(str(_words(tmp_path))))
    assert 'use linear or mlp' in why(lambda: joined_start('tf_efficientnet_lite0', 'SmolLM2-135M-Instruct', connector='cubic'))
    assert 'which network?' in why(caption_pretrained)
    assert 'augmentation "flip"' in why(lambda: learner(task, 'llava', augment='flip'))
    assert 'no option of judging' in why(lambda: learner(task, 'llava').evaluate(general=False))

def _words(tmp_path):
    "A folder with a network that writes and looks at nothing"
    words = joined().built_by.writer
    words.network().save_pretrained(tmp_path/'words')
    words.tokenizer().save_pretrained(tmp_path/'words')
    return tmp_path/'words'

def test_a_caption_longer_than_the_context(folder):
    rows = [(str(folder/f'{i}.png'), 'a red bird '*(60 if i == 2 else 1)) for i in range(12)]
    task = CaptionTask.from_records(rows, name='birds')
    learn = learner(task, start('llava', size=80))
    assert any('answers cut' in note for note in task.notes), task.notes
    assert any('beyond the 80 tokens' in row['found'] for row in PictureChats().findings(task, start('llava', size=80)))
    short = CaptionTask.from_records(rows, name='birds')
    assert 'use a larger size' in why(lambda: learner(short, start('llava', size=6)))

def test_a_processor_without_a_template(task):
    net, _ = made('llava')
    p = caption_pretrained(net, processor=small_processor(('a red bird',), template=None))
    assert p.reader().usual == '' and p.reader().read(conversations()[0]).made.text.startswith('<image>')

def test_a_model_that_is_asked_about_no_picture(task, folder):
    now = learner(task, 'llava').predictor()
    rows = now.predict([folder/'0.png', folder/'nowhere.png', (folder/'1.png', question)], most=3)
    assert 'error' in rows[1] and 'answer' in rows[0] and 'answer' in rows[2]
    assert now.predict(folder/'0.png', question=question, most=3)[0]['answer'] == now.write((folder/'0.png', question), most=3)

@pytest.mark.parametrize('shapes', [[(1, 3, 4, 4)], [(2, 3), (1, 2, 3)], [None, (5,)], []])
def test_rows_are_read_as_they_were_written(shapes):
    tensors = [None if shape is None else torch.randn(shape) for shape in shapes]
    row = row_of_tensors(tensors, torch.arange(7), torch.arange(7) % 2 == 0)
    found, tokens = tensors_of_row(padded_shown([row, torch.zeros(len(row) + 9)])[0])
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(tensors, found))
    assert (tokens//4).tolist() == [*range(7)] and (tokens % 4 >= 2).tolist() == [i % 2 == 0 for i in range(7)]
