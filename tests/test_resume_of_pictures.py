"Pictures with texts: a training that was cut off ends, once resumed, with the same bits, whatever trains."
import pandas as pd
import pytest
import torch
from fastai.basics import Callback
from test_captions import learner as captioner
from test_captions import saved_pictures
from test_image_text import folders, pairs, table # noqa: F401 (fixtures)
from tl_nbdev.multimodal.caption_task import CaptionTask
from tl_nbdev.multimodal.start import image_text_pretrained
from tl_nbdev.training.learner import transfer_learner

class Stop(Callback):
    "Cut off within the second epoch"
    order = 90
    def __init__(self, after): self.after = after
    def after_step(self):
        if self.learn.train_iter >= self.after: raise KeyboardInterrupt

def weights_after(make, how, epochs, folder=None, after=None, **kwargs):
    "Name → weight, of a training that may be cut off, or resumed"
    learn = make()
    with learn.no_bar(), learn.no_logging():
        if after is None: learn.transfer(how, epochs, folder=folder, **kwargs)
        else:
            with pytest.raises(KeyboardInterrupt), learn.added_cbs([Stop(after)]): learn.transfer(how, epochs, folder=folder, **kwargs)
    return learn, learn.model.state_dict()

def check_resumed(make, how, folder, after):
    "The same bits in one go, and in two"
    _, whole = weights_after(make, how, 3)
    weights_after(make, how, 3, folder, after, every=0)
    again, found = weights_after(make, how, 3, folder, every=0)
    assert again.resumed
    assert [name for name, weight in whole.items() if not torch.equal(weight, found[name])] == []

@pytest.mark.parametrize('name, how', [('clip', 'feature'), ('siglip', 'last:1'), ('joined', 'lora:2'), ('clip', 'full')])
def test_towers(name, how, folders, table, tmp_path): # noqa: F811
    task, p = pairs(table), image_text_pretrained(folders[name])
    check_resumed(lambda: transfer_learner(task, p, seed=0, bs=8, augment='flip' if how == 'last:1' else 'none'), how, tmp_path/'kept', 4 if how != 'feature' else 2)

@pytest.fixture(scope='module')
def birds(tmp_path_factory):
    "Pictures of birds with questions"
    to = tmp_path_factory.mktemp('birds')
    pd.DataFrame(saved_pictures(to)).to_csv(to/'qa.csv', index=False)
    return CaptionTask.from_csv(to/'qa.csv', image='file', caption='caption', valid=4/18, test=4/18, name='birds')

@pytest.mark.parametrize('name, how', [('llava', 'feature'), ('idefics', 'last:2'), ('llava', 'lora:2'), ('blip', 'full')])
def test_captioners(name, how, birds, tmp_path):
    check_resumed(lambda: captioner(birds, name), how, tmp_path/'kept', 4 if how != 'feature' else 2)
