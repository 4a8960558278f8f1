"What a step of training is made of, network by network: its share of what this machine's products of matrices reach, and what takes the rest"
import time
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal
from .texts import matrix_peak

images = ('tf_efficientnet_lite0', 'mobilenet_v2', 'resnet18', 'resnet50', 'vit_small_patch16_224', 'convnext_tiny')
quick = dict(models=['squeezenet1_1'], bs=8, steps=2, repeats=1, square=256)
kinds = { # of what a profile names, the first that fits
    'convolutions': ('convolution', 'conv2d'), 'products of matrices': ('addmm', 'bmm', 'aten::mm', 'linear', 'matmul'), 'attention': ('attention', 'softmax', '_BothWays'),
    'norms': ('batch_norm', 'layer_norm', 'native_norm'), 'dropout': ('dropout', 'bernoulli', 'random'), 'activations': ('relu', 'hardtanh', 'gelu', 'silu', 'hardswish', 'sigmoid'),
    'pooling': ('pool',), 'casts and copies': ('copy_', '_to_copy', 'contiguous', 'clone', 'cat'), 'the optimizer': ('optimizer', 'foreach', 'addcmul', 'addcdiv', 'sqrt'),
    'embeddings': ('embedding', 'index'), 'sums and zeros': ('sum', 'fill_', 'zero_', 'mean')}

def _kind(name):
    "What an operation is called in a table"
    return next((kind for kind, words in kinds.items() if any(word in name.lower() for word in words)), 'the rest')

def _learner(model, bs, n):
    "A learner of photos, or of texts where the network reads them, whose weights don't matter"
    from tl_nbdev.text.texts import TextTask
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.vision.images import ImageTask
    from tl_nbdev.vision.zoo import pretrained
    if model == 'all-MiniLM-L6-v2':
        task = TextTask.from_sample('r8', limit=2*n)
        return transfer_learner(task, model, size=256, bs=bs, seed=0)
    return transfer_learner(ImageTask.from_sample('elpv', limit=2*n), pretrained(model, source='random'), bs=bs, seed=0, augment='flip')


# jobs, each in a process of its own

def step(model, bs, steps, repeats, strategy='full'):
    "Steps of training: seconds of each, arithmetic of its products, and what a profile says it is made of"
    import torch
    from fastai.callback.core import CancelFitException, Callback
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode
    learn, took = _learner(model, bs, 2*bs*(steps + 1)), []
    class Watch(Callback):
        order, left = 90, 0
        def before_batch(self): self.start = time.perf_counter()
        def after_batch(self):
            took.append(time.perf_counter() - self.start)
            self.left -= 1
            if not self.left: raise CancelFitException()
    watch = Watch()
    def some(n):
        watch.left = n
        with learn.no_bar(), learn.no_logging(), learn.added_cbs(watch): learn.fit(1, 1e-4)
    with learn.no_bar(), learn.no_logging(): learn.transfer(strategy, 1)
    some(1) # warms up
    took.clear()
    for _ in range(repeats): some(steps)
    seconds = list(took)
    batch = learn.dls.one_batch()
    with FlopCounterMode(display=False) as counter, learn.mode.autocast(learn.frozen_now.device), torch.no_grad(): learn.model(*batch[:learn.dls.n_inp])
    begun = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as seen: some(steps)
    whole, parts = time.perf_counter() - begun, {}
    for each in seen.key_averages(): parts[_kind(each.key)] = parts.get(_kind(each.key), 0) + each.self_cpu_time_total/1e6
    total = sum(parts.values())
    return dict(seconds=seconds, flops=3*counter.get_total_flops(), parts={kind: round(part/total, 4) for kind, part in parts.items()}, whole=whole, arithmetic=learn.mode.precision, layout=learn.mode.layout)


# the run

@call_parse
def bench(
    models:Annotated[str, dict(nargs='+')]=(*images, 'all-MiniLM-L6-v2'), # networks
    bs:int=16, # items in a batch
    steps:int=4, # at once
    repeats:int=3, # of that
    square:int=2048, # rows of the matrices whose product tells the machine's peak
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "What a step of training is made of"
    records = Records('steps', again, out)
    runs = [records.measure('step', model=model, bs=bs, steps=steps, repeats=repeats) for model in models]
    runs.append(records.measure('peak', size=square))
    peaks, table, share = runs[-1]['found'], [], {}
    for model, run in zip(models, runs):
        found = run['found']
        seconds = median(found['seconds'])
        share[model] = found['flops']/seconds/peaks[found['arithmetic']]
        most = sorted(found['parts'].items(), key=lambda part: -part[1])[:5]
        table.append(dict(network=model, arithmetic=found['arithmetic'], **{'seconds a step': f'{seconds:.2f}', 'GFLOP a step': f'{found["flops"]/1e9:.0f}', 'share of the peak': f'{100*share[model]:.0f} %',
                                                                           'what it is made of': ', '.join(f'{kind} {100*part:.0f} %' for kind, part in most)}))
    records.write(share=share, table=table, reached=[goal(f'{model}: share of what products of matrices reach, %', 100*value, show='{:.0f}') for model, value in share.items()],
                  remarks=[f'Everything trains, {bs} photos of solar cells or news in a batch, {steps} steps at once, {repeats} times, medians. Arithmetic is three times that of convolutions and products forward, as torch counts them (backward it counts those of groups wrongly); the peak is that of products of matrices of {square} rows: '
                           + ', '.join(f'{kind} {value/1e9:.3g} GFLOP/s' for kind, value in peaks.items()) + '. Depthwise convolutions have little to multiply for what they read, so networks made of them can\'t come near it.'],
                  arguments=dict(models=models, bs=bs, steps=steps, repeats=repeats, square=square), measurements=runs)

def peak(size): return matrix_peak(size)
