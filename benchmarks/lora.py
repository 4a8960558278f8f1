"ELPV, two classes, EfficientNet-Lite0: low-rank adapters on the same layers, beside peft in transformers' Trainer"
import tempfile
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_process, goal
from .features import _task, _weights, model

everyone = ('ours', 'trainer_default', 'trainer_tuned')
quick = dict(splits=[1], limit=100, epochs=1)


# jobs, each in a process of its own: training with a validation after each epoch, then test

def ours(split, limit, r, epochs):
    "The verb, everything else as transfer_learner sets it"
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.strategies.strategy import LoRA
    learn = transfer_learner(_task(split, limit), model, seed=split)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(LoRA(r), epochs)
    laps('train')
    return dict(accuracy=learn.evaluate().value, seconds=laps['train'], trained=learn.transfers[-1]['trained'], arithmetic=f'{learn.mode.precision} {learn.mode.layout}')

def trainer(split, limit, r, epochs, tuned=False):
    "peft's adapters on the same layers, trained by the Trainer on the same images; tuned: bf16, channels_last, and two processes that read"
    import peft, torch, timm
    from PIL import Image
    from torch import nn
    from torchvision.transforms import v2
    from transformers import Trainer, TrainingArguments
    from tl_nbdev.data.metrics import metrics
    from tl_nbdev.networks.stages import stages
    from tl_nbdev.strategies.steps import _adaptable
    task = _task(split, limit)
    torch.manual_seed(split)
    net = timm.create_model(model, pretrained=True, num_classes=len(task.vocab), pretrained_cfg_overlay=dict(file=_weights()))
    config, targets, form = timm.data.resolve_data_config({}, model=net), _adaptable(net, stages(net))[0], torch.channels_last if tuned else torch.contiguous_format
    class Classifier(nn.Module): # as the Trainer wants one
        def __init__(self): super().__init__(); self.net = net
        def forward(self, pixel_values, labels=None):
            logits = self.net(pixel_values.contiguous(memory_format=form)).float()
            return dict(loss=None if labels is None else nn.functional.cross_entropy(logits, labels), logits=logits)
    small = peft.get_peft_model(Classifier(), peft.LoraConfig(r=r, lora_alpha=2*r, target_modules=[f'net.{o}' for o in targets], modules_to_save=['classifier'])).to(memory_format=form)
    class Rows(torch.utils.data.Dataset):
        def __init__(self, part, vary=()):
            self.rows, self.y = task.part(part).item.to_list(), task.targets(part)
            self.ready = v2.Compose([v2.Resize(config['input_size'][1:], v2.InterpolationMode(config['interpolation'])), *vary, v2.ToImage(), v2.ToDtype(torch.float32, True), v2.Normalize(config['mean'], config['std'])])
        def __len__(self): return len(self.rows)
        def __getitem__(self, i): return dict(pixel_values=self.ready(Image.open(self.rows[i]).convert('RGB')), labels=int(self.y[i]))
    with tempfile.TemporaryDirectory() as d:
        args = TrainingArguments(d, num_train_epochs=epochs, learning_rate=1e-3, per_device_train_batch_size=64, per_device_eval_batch_size=64, eval_strategy='epoch', save_strategy='no', report_to='none',
                                 label_names=['labels'], remove_unused_columns=False, disable_tqdm=True, seed=split, use_cpu=not torch.cuda.is_available(), **(dict(bf16=True, dataloader_num_workers=2) if tuned else {}))
        t = Trainer(small, args, train_dataset=Rows('train', [v2.RandomHorizontalFlip()]), eval_dataset=Rows('valid'))
        laps = Laps()
        t.train()
        laps('train')
        logits = torch.from_numpy(t.predict(Rows('test')).predictions)
    return dict(accuracy=metrics['accuracy'](task.targets('test'), logits.softmax(1).numpy()), seconds=laps['train'], trained=sum(p.numel() for p in small.parameters() if p.requires_grad),
                arithmetic='bf16 channels_last' if tuned else 'fp32 contiguous')

def trainer_default(**args): return trainer(**args)
def trainer_tuned(**args): return trainer(tuned=True, **args)


# the run

@call_parse
def bench(
    splits:Annotated[int, dict(nargs='+')]=(1, 2), # seeds of the split
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    r:int=8, # rank
    epochs:int=3, # of each
    limit:int=None, # at most so many images
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Low-rank adapters beside peft in the Trainer"
    records, runs, got = Records('lora', again, out), [], {p: [] for p in peers}
    fresh_process('features', 'ready')
    for s in splits:
        for p in peers:
            runs.append(records.measure(p, ours=p == 'ours', split=s, limit=limit, r=r, epochs=epochs))
            got[p].append(runs[-1]['found'])
    others = [p for p in peers if p != 'ours' and 'ours' in peers]
    ratio = {p: median(b['seconds']/a['seconds'] for a, b in zip(got['ours'], got[p])) for p in others}
    apart = {p: 100*mean(a['accuracy'] - b['accuracy'] for a, b in zip(got['ours'], got[p])) for p in others}
    table = [dict(peer=p, **{'seconds an epoch': f'{median(o["seconds"] for o in v)/epochs:.0f}', 'its time / ours': f'{ratio[p]:.1f}' if p in ratio else '', f'accuracy % after {epochs}': f'{100*mean(o["accuracy"] for o in v):.1f}',
                             'ours − it, points': f'{apart[p]:+.1f}' if p in apart else '', 'trained parameters': f'{v[0]["trained"]:,}', 'arithmetic': v[0]['arithmetic']}) for p, v in got.items()]
    records.write(ratio=ratio, accuracy_apart=apart, table=table, measurements=runs,
                  reached=[o for p in others for o in (goal(f'an epoch of {p} / of ours', ratio[p], least=1.5 if p == 'trainer_default' else None), goal(f'accuracy of ours − {p}, points', apart[p], show='{:+.1f}'))],
                  remarks=[f'Splits {", ".join(map(str, splits))}, {epochs} epochs, each with a validation, rank {r}, 64 images a batch, rate 1e-3, the same weights, files, split and layers; ours one-cycle, the Trainer its linear schedule.',
                           'trainer_tuned: `bf16=True`, channels_last and two reading processes.'],
                  arguments=dict(splits=splits, peers=peers, r=r, epochs=epochs, limit=limit))
