"Boxes: from pretrained weights, from random ones, and the last blocks alone, on composites and on aerial photographs; and an epoch beside torchvision's own loop"
import math, shutil, tempfile, time
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_cache, goal, interval, pairs

arms = ('full', 'last:2', 'scratch')
# What each sample is learned with, for how many epochs, and in which ways
plans = dict(known=('yolov3-tiny', 15, ('full',)), things=('yolov3-tiny', 12, arms), trees=('yolov3-tiny', 20, arms))
parts = ('train', 'valid', 'test')
# Networks of whole photos, which name crops
whole = ('tf_efficientnet_lite0',)
quick = dict(data=['trees'], seeds=1, epochs=1, size=64, limit=24, peers=['trees'], rates=())
# Of random weights: the best of .001, .003 and .01 on valid of the composites, one seed.
rate = 1e-3

def _strategy(arm):
    "Random weights learn at one rate everywhere; `rates:.1` is everything, the lowest layers at a tenth of the head's"
    from tl_nbdev.strategies.named import FullFineTune
    from tl_nbdev.strategies.strategy import Phase, Strategy
    if arm.startswith('rates:'): return FullFineTune(slice(1e-3*float(arm[6:]), 1e-3))
    return Strategy('scratch', (Phase('all', rate),)) if arm == 'scratch' else arm

def _known(to):
    "Composites in which every part shows the cut-outs of train, each part on grounds of its own"
    from tl_nbdev.base.composites import composites
    from tl_nbdev.base.samples import sample
    pieces = sample('things')/'pieces'
    for part in parts:
        shutil.copytree(pieces/part/'backgrounds', to/'pieces'/part/'backgrounds')
        shutil.copytree(pieces/'train'/'cut-outs', to/'pieces'/part/'cut-outs')
    return composites(to/'pieces', to/'made')

def _task(data, limit=None):
    "A sample; `known` is like `things`, with things that were seen before, in other scenes"
    from tl_nbdev.boxes.detection import DetectionTask
    if data != 'known': return DetectionTask.from_sample(data, limit=limit)
    made = _known(Path(tempfile.mkdtemp()))
    return DetectionTask.from_coco({part: made/f'{part}.json' for part in parts}, limit=limit)

def _learner(task, model, arm, seed, size, bs, augment):
    from tl_nbdev.training.learner import transfer_learner
    return transfer_learner(task, model, source='random' if arm == 'scratch' else None, seed=seed, size=size, bs=bs, augment=augment)

def _judged(learn, part='test'):
    "COCO's numbers on a part, each with its interval"
    from tl_nbdev.boxes.answer import box_result
    numbers = box_result(learn.evaluate(part)).numbers()
    return {name: dict(value=numbers[name][0], interval=numbers[name][1]) for name in ('mAP', 'AP50', 'AR 100')}

def one(data, model, arm, seed, size, bs, epochs, augment, limit=None):
    "One training: mAP of valid after each epoch, and the numbers on test"
    task = _task(data, limit)
    learn, laps = _learner(task, model, arm, seed, size, bs, augment), Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(_strategy(arm), epochs)
    laps('train')
    curve = [float(row[2]) for row in learn.recorder.values]
    return dict(curve=curve, steps=len(learn.dls.train), test=_judged(learn), seconds=laps['train'], items=task.n('train'))

def crops(data, model, seed):
    "What stands above: crops of exact boxes, a tenth of ground around them, named by a frozen network"
    from PIL import Image
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.training.learner import transfer_learner
    task, to = _task(data), Path(tempfile.mkdtemp())
    for part in parts:
        for i, row in enumerate(task.part(part).itertuples()):
            photo = Image.open(row.item).convert('RGB')
            for j, (name, *box, _) in enumerate(row.label['things']):
                more = [(box[2 + k] - box[k])/10 for k in (0, 1)]
                file = to/part/name/f'{i}-{j}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                photo.crop([*(max(0, round(box[k] - more[k])) for k in (0, 1)), *(min(photo.size[k], round(box[2 + k] + more[k])) for k in (0, 1))]).save(file)
    learn = transfer_learner(ImageTask.from_folder(to), model, seed=seed)
    with learn.no_bar(), learn.no_logging(): learn.transfer('feature')
    found = learn.evaluate()
    return dict(accuracy=found.value, interval=list(found.interval), n=found.n)


# beside torchvision's loop

class _Photos:
    "Photos and boxes as torchvision's references read them: tensors, mirrored by chance, at their own size"
    def __init__(self, task, part, flip):
        self.rows, self.flip, self.at = task.part(part), flip, {name: i + 1 for i, name in enumerate(task.vocab)}
    def __len__(self): return len(self.rows)
    def __getitem__(self, i):
        import torch
        from PIL import Image
        from torchvision.transforms.functional import pil_to_tensor
        row = self.rows.iloc[i]
        x = pil_to_tensor(Image.open(row['item']).convert('RGB')).float()/255
        boxes = torch.tensor([thing[1:5] for thing in row['label']['things']], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([self.at[thing[0]] for thing in row['label']['things']], dtype=torch.long)
        if self.flip and torch.rand(()) < .5:
            x, wide = x.flip(-1), x.shape[-1]
            boxes = torch.stack([wide - boxes[:, 2], boxes[:, 1], wide - boxes[:, 0], boxes[:, 3]], 1)
        return x, dict(boxes=boxes, labels=labels)

def _reference_loop(net, loader, epochs, bs):
    "torchvision's references/detection/train.py: SGD at .02 for 16 photos, warmed up in the first epoch, a tenth after 2/3 and 8/9"
    import torch
    trains = [param for param in net.parameters() if param.requires_grad]
    opt = torch.optim.SGD(trains, lr=.02*bs/16, momentum=.9, weight_decay=1e-4)
    later = torch.optim.lr_scheduler.MultiStepLR(opt, [max(1, epochs*2//3), max(2, epochs*8//9)], .1)
    laps, seconds = Laps(), []
    for epoch in range(epochs):
        net.train()
        warm = torch.optim.lr_scheduler.LinearLR(opt, 1/1000, total_iters=len(loader) - 1) if not epoch and len(loader) > 1 else None
        for photos, targets in loader:
            loss = sum(net(list(photos), list(targets)).values())
            opt.zero_grad()
            loss.backward()
            opt.step()
            if warm: warm.step()
        later.step()
        laps('epoch')
        seconds.append(laps['epoch'])
    return seconds

def theirs(data, model, seed, size, bs, epochs, limit=None):
    "The same network, its backbone frozen, by torchvision's own training loop"
    import torch
    from tl_nbdev.boxes.network import Detector
    from tl_nbdev.networks.stages import stages
    torch.manual_seed(seed)
    task = _task(data, limit)
    learn = _learner(task, model, 'full', seed, size, bs, 'flip')
    net = learn.model.body.net
    ss = stages(net)
    for stage in ss[:-1]:
        for param in stage.params.values(): param.requires_grad_(False)
    photos = _Photos(task, 'train', True)
    loader = torch.utils.data.DataLoader(photos, bs, shuffle=True, collate_fn=lambda batch: tuple(zip(*batch)))
    seconds = _reference_loop(net, loader, epochs, bs)
    return dict(seconds=mean(seconds), epochs=seconds, test=_judged(learn))

def ours(data, model, seed, size, bs, epochs, augment, limit=None):
    "The same network with its backbone frozen: seconds of an epoch, the passes that fill the cache among them, and of those after the first"
    from fastai.callback.core import Callback
    task = _task(data, limit)
    learn, laps, ends = _learner(task, model, 'full', seed, size, bs, augment), Laps(), []
    watch = Callback(after_epoch=lambda self: ends.append(time.perf_counter()))
    with fresh_cache():
        laps('prepare')
        with learn.no_bar(), learn.no_logging(), learn.added_cbs(watch): learn.transfer('feature', epochs)
        laps('train')
    later = (ends[-1] - ends[0])/(len(ends) - 1) if len(ends) > 1 else None
    return dict(seconds=laps['train']/epochs, later=later, test=_judged(learn))


# the table

def _reached(curve, goal): return next((i + 1 for i, value in enumerate(curve) if value >= goal), math.inf)

def _show(values, show='{:.3f}'):
    ends = interval(values) or (values[0],)*2
    return f'{show.format(mean(values))} [{show.format(max(0, ends[0]))}, {show.format(min(1, ends[1]))}]'

def _of(runs, number='AP50'): return [run['found']['test'][number]['value'] for run in runs]

def _row(data, model, found):
    "What each way reached on test, over the seeds"
    return {'data': data, 'model': model, **{f'{arm}: AP50': _show(_of(runs)) for arm, runs in found.items()}}

def _sooner(found):
    """Of each seed, the share of its epochs that pretrained weights need for what random ones reach at their best, both on
    valid; where they never reach it, ten times as many"""
    shares = []
    for ours, theirs in zip(found['full'], found['scratch']):
        curve = theirs['found']['curve']
        shares.append(min(_reached(ours['found']['curve'], max(curve)), 10*len(curve))/_reached(curve, max(curve)))
    return shares

def _apart(what, ours, theirs, number='AP50'):
    "A difference on test, paired by seed"
    apart = [a - b for a, b in zip(_of(ours, number), _of(theirs, number))]
    return goal(what, mean(apart), show='{:+.3f}', ends=interval(apart), than=0)

def _goals(name, model, found, seeds):
    "What is asked of a network on a sample"
    least = .3 if name == 'trees' else .8
    for arm in found:
        reached = _of(found[arm])
        yield goal(f'{name}, {model}, {arm}: AP50 on test, {seeds} seeds', mean(reached), show='{:.3f}', ends=interval(reached), least=None if arm == 'scratch' else least)
    if 'scratch' not in found: return
    shares = _sooner(found)
    yield goal(f'{name}, {model}: epochs for what random weights reach, as a share of theirs', mean(shares), most=None if name == 'trees' else 1/3, show='{:.2f}', ends=interval(shares))
    for arm in arms[1:]: yield _apart(f'{name}, {model}: AP50, full − {arm}', found['full'], found[arm])

@call_parse
def bench(
    data:Annotated[str, dict(nargs='+')]=('known', 'things', 'trees'), # samples, and `known`
    model:str=None, # default what `plans` says
    rates:Annotated[str, dict(nargs='+')]=('trees',), # samples on which the rates of lower layers are compared
    peers:Annotated[str, dict(nargs='+')]=('things',), # samples on which torchvision's loop runs as well
    seeds:int=3, # heads and trainings
    epochs:int=None, # of each, default what `plans` says
    size:int=320, # pixels
    bs:int=8, # photos in a batch
    augment:str='crop', # how photos are varied
    limit:int=None, # photos at most
    again:bool=False, # measure anew what is there already
    earlier:bool=False, # keep what was measured with earlier code? Each measurement says with which
    out:str=None # folder of the records; default benchmarks/results
):
    "mAP by the number of steps, from pretrained and from random weights; and an epoch beside torchvision's loop"
    records, taken, table, reached = Records('boxes', again, out, earlier), [], [], []
    how = dict(size=size, bs=bs, limit=limit)
    def trained(name, net, arm):
        given = dict(how, data=name, model=net, arm=arm, epochs=epochs or plans[name][1], augment=augment)
        runs = [records.measure('one', repeat=seed + 1, anywhere=True, seed=seed, **given) for seed in range(seeds)]
        taken.extend(runs)
        return runs
    for name in data:
        net = model or plans[name][0]
        found = {arm: trained(name, net, arm) for arm in plans[name][2]}
        table.append(_row(name, net, found))
        reached += _goals(name, net, found, seeds)
        if name not in rates: continue
        for share in (1, .01):
            other = trained(name, net, f'rates:{share:g}')
            reached.append(_apart(f'{name}, {net}: AP50, lowest layers at .1 of the head\'s rate − at {share:g}', found['full'], other))
    for name, net in product([name for name in data if name != 'trees'], whole):
        runs = [records.measure('crops', repeat=seed + 1, anywhere=True, data=name, model=net, seed=seed) for seed in range(seeds)]
        taken += runs
        right = [run['found']['accuracy'] for run in runs]
        reached.append(goal(f'{name}, {net}: accuracy on crops of exact boxes, frozen', mean(right), show='{:.3f}', ends=interval(right)))
    for name in peers:
        few = dict(how, model='faster_rcnn:tf_efficientnet_lite0', epochs=min(epochs or 4, 4))
        loop, mine = [], dict(flip=[], none=[])
        for i in range(seeds): # one after the other, so that a machine that grows slower does so for all
            loop.append(records.measure('theirs', repeat=i + 1, ours=False, data=name, seed=i, **few))
            for vary, runs in mine.items(): runs.append(records.measure('ours', repeat=i + 1, data=name, seed=i, augment=vary, **few))
        taken += [*loop, *mine['flip'], *mine['none']]
        for vary, words in dict(flip='photos mirrored in both', none='mirrored in torchvision\'s').items():
            ratios = [a['seconds']/b['seconds'] for a, b in pairs(loop, mine[vary])]
            reached.append(goal(f'{name}: an epoch with the backbone frozen, torchvision\'s loop / ours, {words}', mean(ratios), least=1.5, show='{:.2f}', ends=interval(ratios)))
            later = [a['seconds']/b['later'] for a, b in pairs(loop, mine[vary]) if b['later']]
            if later: reached.append(goal(f'{name}: the same, of our epochs after the first, {words}', mean(later), show='{:.2f}', ends=interval(later)))
            reached.append(_apart(f'{name}: mAP, ours − torchvision\'s loop, {words}', mine[vary], loop, 'mAP'))
    records.write(ratio={}, reached=reached, table=table, measurements=taken,
                  arguments=dict(data=data, model=model, rates=rates, peers=peers, seeds=seeds, epochs=epochs, size=size, bs=bs, augment=augment, limit=limit),
                  remarks=[f'{size} pixels, batches of {bs}, {", ".join(f"{name} {epochs or plans[name][1]} epochs" for name in data)}; photos varied by "{augment}". "things" are composites, and in none of its parts is a cut-out that is in '
                           f'another; in "known" all parts show the cut-outs of train. Random weights learn at one rate of {rate:g} everywhere. torchvision\'s loop is that of its '
                           "references (SGD, mirrored photos), on the same network. 95 % intervals over seeds (Student's t)."])
