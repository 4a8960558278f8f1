"A model in onnxruntime, beside the same saved model here: one item at once and 32, as each comes and with threads and precision set"
import time
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Records, goal, interval

quick = dict(models=['squeezenet1_1'], passes=2, repeats=2)

def compare(model, passes, repeats):
    "Seconds of a batch both ways in turn, the best of some passes, for each size of batch and each way of setting"
    import tempfile
    import numpy as np, onnxruntime, torch
    import tl_nbdev.all # noqa: formats
    from pathlib import Path
    from tl_nbdev.apps.door import task_from
    from tl_nbdev.networks.heads import head_outputs
    from tl_nbdev.networks.passes import Mode
    from tl_nbdev.text.sources import text_models
    from tl_nbdev.text.tokens import collate
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.training.saved import load_transfer
    words = model in text_models
    task = task_from('r8' if words else 'elpv', limit=120, seed=0, **({} if words else dict(label='type')))
    learn = transfer_learner(task, model, seed=0)
    with torch.no_grad():
        for part in learn.model.head.modules():
            if isinstance(part, torch.nn.Linear): part.weight.normal_(std=.02)
    with tempfile.TemporaryDirectory() as d:
        saved = load_transfer(learn.save_transfer(Path(d)/'model', check=False))
        file = saved.export(Path(d)/'onnx', 'onnx')/'model.onnx'
        out = saved.outgoing()
        whole, data, items = out.p.whole(out), file.read_bytes(), task.df.item.to_list()[:32]
        if words: saved.frozen.tokens(items)
    def ours(frozen, given):
        features = frozen.run(given) if words else frozen(given)
        return saved.answer.decoded(head_outputs(saved.head, features))
    def session(threads=None):
        options = onnxruntime.SessionOptions()
        if threads: options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    usual, found = torch.get_num_threads(), []
    for setting in ('as it comes', 'one thread each'):
        threads = 1 if setting == 'one thread each' else None
        torch.set_num_threads(threads or usual)
        theirs, frozen = session(threads), saved.frozen
        for n in (1, 32):
            arrays = whole.prepared(items[:n])
            if words: given = collate(frozen.tokens(items[:n]))
            else: given = np.ascontiguousarray(arrays['pixels'].transpose(0, 2, 3, 1))
            if setting != 'as it comes': # the better of two layouts, both in 32 bits, by what they take here
                modes = [Mode()] if words else [Mode(), Mode(layout='channels_last')]
                took = {}
                for mode in modes:
                    made = learn.pretrained.frozen(out.net.body, out.fit, mode)
                    ours(made, given)
                    start = time.perf_counter()
                    for _ in range(3): ours(made, given)
                    took[mode] = time.perf_counter() - start, made
                frozen = min(took.values(), key=lambda each: each[0])[1]
            ways = dict(saved=lambda: ours(frozen, given), onnx=lambda: theirs.run(None, arrays)[0])
            off = float(np.abs(ways['saved']() - ways['onnx']()).max())
            times = passes*(8 if n == 1 else 1)
            for repeat in range(repeats):
                best = dict.fromkeys(ways, float('inf'))
                for _ in range(times):
                    for name, way in ways.items():
                        start = time.perf_counter()
                        way()
                        best[name] = min(best[name], time.perf_counter() - start)
                found.append(dict(setting=setting, batch=n, repeat=repeat, differ=off, arithmetic=f'{frozen.mode.precision} {frozen.mode.layout}', **best))
    return dict(rows=found, threads=usual)

@call_parse
def bench(
    models:Annotated[str, dict(nargs='+')]=('tf_efficientnet_lite0', 'squeezenet1_1', 'bert-tiny'), # networks
    passes:int=12, # of 32 items each way in each repeat, eight times as many of one item; the best counts
    repeats:int=3,
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "onnxruntime on a CPU, beside the saved model here"
    records = Records('export', again, out)
    runs = [records.measure('compare', model=m, passes=passes, repeats=repeats) for m in models]
    ratios, table = {}, []
    for m, o in zip(models, runs):
        rows = o['found']['rows']
        for setting, n in dict.fromkeys((row['setting'], row['batch']) for row in rows):
            these = [row for row in rows if (row['setting'], row['batch']) == (setting, n)]
            each = [row['saved']/row['onnx'] for row in these]
            ratios[f'{m}, {n} at once, {setting}'] = each
            table.append(dict(model=m, batch=n, setting=setting, **{'saved model / ONNX, seconds': f'{mean(each):.2f}', 'ONNX, ms': f'{1000*median(r["onnx"] for r in these):.1f}',
                              'saved model, ms': f'{1000*median(r["saved"] for r in these):.1f}', 'arithmetic here': these[0]['arithmetic'], 'answers differ by': f'{these[0]["differ"]:.1g}'}))
    reached = [goal(f'{name}: ONNX is so many times as fast', mean(each), least=1, show='{:.2f}', ends=interval(each)) for name, each in ratios.items()]
    records.write(ratio=ratios, reached=reached, table=table,
                  remarks=['Inputs lie ready in memory: bytes of photos, numbers of tokens. Both ways in turn in one process, the best pass of each repeat.',
                           'As it comes: onnxruntime and this package choose threads, and this package its precision. One thread each: both in 32 bits, and the faster layout here.'],
                  arguments=dict(models=models, passes=passes, repeats=repeats), measurements=runs)
