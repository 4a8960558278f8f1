"The walls, by a stranger: an input and an answer that the package lacks go all the way, and nothing in it knows of them."
import os
from dataclasses import dataclass

import numpy as np, pandas as pd, pytest, torch
from torch import nn
from tl_nbdev.data.answers import Answer, add_answer, answers
from tl_nbdev.data.modality import Modality, add_modality, modalities
from tl_nbdev.networks.start import Pretrained
from tl_nbdev.data.tasks import Task


class Sensors(Modality):
    "What goes in: a row of six numbers"
    name, noun, nouns, unit, column = 'sensors', 'row', 'rows', 'numbers', 'row'
    usual_model, contenders = 'wide', ('wide', 'narrow')
    def read(self, item): return torch.tensor(item, dtype=torch.float32)
    def is_one(self, items): return isinstance(items, tuple)
    def item_from_json(self, item): return tuple(item)
    def pretrained(self, what, source=None, **changes):
        return SensorNet(what, 'sensors', source or 'wheel', 'CC0', 6, modality_of=self) if isinstance(what, str) else what
    @classmethod
    def claims(cls, path, info, told): return path.suffix == '.rows'
    @classmethod
    def named(cls, data, told, like=None):
        table = pd.read_csv(data)
        rows = pd.DataFrame(dict(row=[tuple(row) for row in table.drop(columns='grade').to_numpy()], grade=table.grade))
        return Task.from_table(rows, cls(), ['row'], 'grade', answer=Grade, name='grades', **{k: told[k] for k in ('seed', 'limit')})

@dataclass(frozen=True)
class SensorNet(Pretrained):
    "A network that was trained on such rows"
    modality_of: object = None
    @property
    def modality(self): return self.modality_of
    def example(self, n=2): return torch.linspace(-1, 1, 6*n).reshape(n, 6)
    def body(self, weights=True):
        width, random = dict(wide=32, narrow=8)[self.name], torch.get_rng_state()
        torch.manual_seed(3) # what it was trained to
        net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        torch.set_rng_state(random)
        return net.eval()

class Grade(Answer):
    "What comes out: one of several grades that have an order, by whether it is above each of the others"
    name, words, gives = 'grade', 'ordinal-regression', 'a grade'
    scores = dict(within_one=lambda y, p: float((abs(p.argmax(1) - y) <= 1).mean()), closeness=lambda y, p: float(-abs(p.argmax(1) - y).mean()))
    @property
    def n_out(self): return len(self.classes) - 1
    @property
    def width(self): return len(self.classes)
    def tensor(self, labels): return torch.from_numpy(self.targets(labels)[:, None] > np.arange(self.n_out)).float()
    def learned(self, labels): return list(self.tensor(pd.Series(labels))), []
    def decoded(self, outputs): # probabilities of being above each grade, in order, as probabilities of the grades
        above = torch.cummin(outputs.sigmoid(), 1).values
        ends = torch.ones(len(above), 1)
        return (torch.cat([ends, above], 1) - torch.cat([above, 0*ends], 1)).numpy().astype(float)
    def loss(self, weights=None):
        from fastai.losses import BCEWithLogitsLossFlat
        return BCEWithLogitsLossFlat()
    def shown_metric(self):
        from fastai.metrics import accuracy_multi
        return accuracy_multi

def make_known():
    add_modality(Sensors)
    add_answer(Grade)

if 'PYTEST_CURRENT_TEST' in os.environ: make_known() # in child processes of a test

@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setenv('TL_PLUGINS', '')
    make_known()
    yield
    modalities.pop('sensors'), answers.pop('grade')

@pytest.fixture
def file(tmp_path):
    rows = np.random.default_rng(0).normal(size=(240, 6)).round(3)
    grades = np.digitize(rows[:, 0] + rows[:, 1], [-1, 0, 1]) + 1
    pd.DataFrame(rows, columns=list('abcdef')).assign(grade=grades).to_csv(tmp_path/'some.rows', index=False)
    return tmp_path/'some.rows'

@pytest.fixture
def task(file):
    from tl_nbdev.apps.door import task_from
    return task_from(file, seed=0, limit=None)

def test_from_audit_to_a_fresh_process(task, tmp_path):
    from tl_nbdev.training.learner import transfer_learner, watched
    from tl_nbdev.training.saved import load_transfer
    assert task.audit().as_dict()['classes'] == task.sizes() and task.metric == 'within_one' and task.n_out == 3
    for how in ('feature', 'last:1', 'full'):
        learn = transfer_learner(task, seed=0, bs=16)
        assert learn.plan(how, 80) and learn.frozen(how)
        with watched(learn): learn.transfer(how, 80)
        result = learn.evaluate()
        assert result.value > .85 and np.allclose(learn.evaluate(fast=False).probs, result.probs, atol=1e-5)
    folder, item = learn.save_transfer(tmp_path/'model', result), task.part('test').item.iloc[0] # checked in a fresh process
    row = load_transfer(folder).predict(item)[0]
    assert row['label'] == learn.predict(item)[0] and row['label'] in task.vocab and result.answer.details(result)
    code = 'import sys; from tl_nbdev.training.saved import load_transfer; print(load_transfer(sys.argv[1]).predict([eval(sys.argv[2])])[0]["label"])'
    from children import python # not above: this file is read in processes which know nothing of tests
    there = python(code, folder, repr(tuple(map(float, item))))
    assert there.stdout.split()[-1:] == [row['label']], there.stderr

def test_compared_advised_chosen_and_trained_by_a_command(task, file, tmp_path):
    from conftest import tl
    from tl_nbdev.apps.choice import Choice
    from tl_nbdev.selection.choose import advise
    from tl_nbdev.selection.compare import compare
    runs = compare(task, ['wide', 'narrow'], ('feature', 'full'), epochs=2, out=tmp_path/'runs')
    assert len(runs) == 4 and runs.best.report.value > .7 and len(compare(task, ['wide', 'narrow'], ('feature', 'full'), epochs=2, out=tmp_path/'runs')) == 4
    assert advise(task, budget=8).best['model'] in ('wide', 'narrow')
    choice = Choice(task, tmp_path/'choice', 'narrow')
    choice.word, choice.epochs = 'full', 2
    assert 'FullFineTune' in choice.code() and choice.rule() and len(choice.models()) == 2
    assert choice.train().wait(900) == 'done', choice.exp.jobs[0].log
    done = tl('train', file, '--epochs', 2, '--out', tmp_path/'by_command', '--json', tmp_path/'report.json')
    assert done.status == 0 and (tmp_path/'by_command'/'transfer.json').is_file(), done.err
