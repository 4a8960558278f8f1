"ELPV, two classes, EfficientNet-Lite0: an epoch of full fine-tuning, and of the last two stages, beside fastai's and a plain loop over timm's parts"
import os
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_process, goal
from .features import _task, _weights, model

everyone = ('ours', 'fastai_default', 'fastai_tuned', 'timm_default', 'timm_tuned')
quick = dict(splits=[1], limit=100, epochs=1)


# jobs, each in a process of its own: one strategy for some epochs, with the validation that follows each

def ours(split, limit, how, epochs):
    "The verb, everything else as transfer_learner sets it"
    from tl_nbdev.training.learner import transfer_learner
    learn = transfer_learner(_task(split, limit), model, seed=split)
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, epochs)
    laps('train')
    return dict(accuracy=learn.evaluate().value, seconds=laps['train'], trained=learn.transfers[-1]['trained'], arithmetic=f'{learn.mode.precision} {learn.mode.layout}')

def fastai(split, limit, how, epochs, tuned=False):
    "vision_learner on the same weights, files and split, its groups cut where ours are; tuned: one reading process, frozen BatchNorm rests, channels_last"
    from fastai.callback.training import BnFreeze
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, set_seed, vision_learner
    from tl_nbdev.data.metrics import metrics
    from tl_nbdev.networks.stages import stages
    task = _task(split, limit)
    top = os.path.commonpath(task.df.item.to_list())
    rows = task.df.assign(item=[o.relative_to(top) for o in task.df.item], valid=task.df.part == 'valid')
    test = rows.part == 'test'
    set_seed(split)
    dls = ImageDataLoaders.from_df(rows[~test], top, fn_col='item', label_col='label', valid_col='valid', item_tfms=Resize(224), **(dict(num_workers=1) if tuned else {}))
    learn = vision_learner(dls, model, metrics=accuracy, splitter=lambda m: stages(m).splitter(), pretrained_cfg_overlay=dict(file=_weights()), **(dict(train_bn=False, cbs=BnFreeze) if tuned else {}))
    if tuned: learn.to_channelslast()
    if how == 'full': learn.unfreeze()
    else: learn.freeze_to(-1 - int(how.partition(':')[2]))
    laps = Laps()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, slice(1e-4, 1e-3))
    laps('train')
    with learn.no_bar(): probs, _ = learn.get_preds(dl=dls.test_dl(rows[test]))
    return dict(accuracy=metrics['accuracy'](task.targets('test'), probs.numpy()), seconds=laps['train'], arithmetic='fp32' + (' channels_last' if tuned else ' contiguous'))

def timm_loop(split, limit, how, epochs, tuned=False):
    "timm's loader, optimizer and schedule in the loop of its train.py; tuned: bf16 and channels_last, as its switches allow"
    import timm, torch
    from timm.data import create_loader, resolve_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from tl_nbdev.data.metrics import metrics
    task = _task(split, limit)
    torch.manual_seed(split)
    net = timm.create_model(model, pretrained=True, num_classes=len(task.vocab), pretrained_cfg_overlay=dict(file=_weights()))
    form = torch.channels_last if tuned else torch.contiguous_format
    net.to(memory_format=form)
    if how != 'full':
        from tl_nbdev.networks.stages import stages
        for s in stages(net)[:-1 - int(how.partition(':')[2])]:
            for p in s.params.values(): p.requires_grad_(False)
    config = resolve_data_config({}, model=net)
    class Rows(torch.utils.data.Dataset):
        transform = None
        def __init__(self, part): self.rows, self.y = task.part(part).item.to_list(), task.targets(part)
        def __len__(self): return len(self.rows)
        def __getitem__(self, i):
            from PIL import Image
            return self.transform(Image.open(self.rows[i]).convert('RGB')), int(self.y[i])
    loader = lambda part, training: create_loader(Rows(part), config['input_size'], 64, is_training=training, use_prefetcher=False, num_workers=os.cpu_count(), device=torch.device('cpu'),
                                                  **{k: config[k] for k in ('interpolation', 'mean', 'std', 'crop_pct')})
    train, valid, test = loader('train', True), loader('valid', False), loader('test', False)
    opt = create_optimizer_v2([p for p in net.parameters() if p.requires_grad], 'adamw', lr=3e-4, weight_decay=.01)
    schedule, _ = create_scheduler_v2(opt, 'cosine', num_epochs=epochs, updates_per_epoch=len(train), step_on_epochs=False)
    cast = lambda: torch.autocast('cpu', torch.bfloat16, enabled=tuned)
    def read(dl):
        net.eval()
        with torch.no_grad(), cast(): return torch.cat([net(x.contiguous(memory_format=form)).float().softmax(1) for x, _ in dl]).numpy()
    laps, step = Laps(), 0
    for _ in range(epochs):
        net.train()
        for x, y in train:
            with cast(): loss = torch.nn.functional.cross_entropy(net(x.contiguous(memory_format=form)).float(), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step_update(step := step + 1)
        read(valid)
    laps('train')
    return dict(accuracy=metrics['accuracy'](task.targets('test'), read(test)), seconds=laps['train'], arithmetic='bf16 channels_last' if tuned else 'fp32 contiguous')

def fastai_default(**args): return fastai(**args)
def fastai_tuned(**args): return fastai(tuned=True, **args)
def timm_default(**args): return timm_loop(**args)
def timm_tuned(**args): return timm_loop(tuned=True, **args)


# the run

aims = {('full', 'fastai_default'): 2, ('last:2', 'fastai_default'): 3, ('full', 'timm_default'): 1.5}

@call_parse
def bench(
    strategies:Annotated[str, dict(nargs='+')]=('full', 'last:2'), # words of the shell: full, or last:N
    splits:Annotated[int, dict(nargs='+')]=(1,), # seeds of the split
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    epochs:int=1, # of each
    limit:int=None, # at most so many images
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "An epoch of fine-tuning, with its validation, beside fastai and timm"
    records, runs, got = Records('finetune', again, out), [], {}
    fresh_process('features', 'ready')
    for s in splits:
        for how in strategies:
            for p in peers:
                runs.append(records.measure(p, ours=p == 'ours', split=s, limit=limit, how=how, epochs=epochs))
                got.setdefault((how, p), []).append(runs[-1]['found'])
    seconds = {k: median(o['seconds'] for o in v)/epochs for k, v in got.items()}
    ratio = {(how, p): v/seconds[how, 'ours'] for (how, p), v in seconds.items() if p != 'ours' and 'ours' in peers}
    table = [dict(strategy=how, peer=p, **{'seconds an epoch': f'{seconds[how, p]:.0f}', 'its time / ours': f'{ratio[how, p]:.1f}' if (how, p) in ratio else '',
                  f'accuracy % after {epochs}': f'{100*mean(o["accuracy"] for o in v):.1f}', 'arithmetic': v[0]['arithmetic']}) for (how, p), v in got.items()]
    records.write(ratio={f'{how} {p}': r for (how, p), r in ratio.items()}, seconds_an_epoch={f'{how} {p}': r for (how, p), r in seconds.items()}, table=table,
                  reached=[goal(f'{how}: an epoch of {p} / of ours', r, least=aims.get((how, p))) for (how, p), r in ratio.items()],
                  remarks=[f'Splits {", ".join(map(str, splits))}, {epochs} epoch{"s" if epochs > 1 else ""}, each with a validation; the same weights, files and split, 64 images a batch. Making the loaders and the learner is not in the times.',
                           'fastai: `vision_learner`, its groups cut at the same places, `unfreeze` or `freeze_to`, `fit_one_cycle`; tuned: `train_bn=False`, `BnFreeze`, `to_channelslast()`, one reading process (its `to_bf16` does nothing on a CPU).',
                           'timm: its loader, AdamW and cosine schedule, in the loop of its train.py; tuned: bf16 and channels_last. It augments as its train.py does.'],
                  arguments=dict(strategies=strategies, splits=splits, peers=peers, epochs=epochs, limit=limit), measurements=runs)
