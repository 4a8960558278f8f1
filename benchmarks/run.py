"All benchmarks, or those named: `make bench`, or `python -m benchmarks.run throughput scaling`"
import tempfile
from importlib import import_module

from fastcore.script import call_parse
from .summary import page, records, summary

names = ('scores', 'copies', 'dashboard', 'throughput', 'steps', 'serve', 'export', 'scale', 'executor', 'scaling', 'kills', 'lora', 'encoders', 'texts', 'spoken', 'alignment', 'pretraining', 'domains', 'sentiment', 'writing', 'captioning', 'captions', 'transcription', 'finetune', 'fewimages', 'boxes', 'pairs', 'scratch', 'fewshot', 'labels', 'features', 'accuracy', 'strategies', 'truth') # the longest last

@call_parse
def run(
    *only, # benchmarks; default all
    quick:bool=False, # a smoke test: a few images, nothing is kept
    again:bool=False, # measure anew what is there already
    list:bool=False # say what there is
):
    "Run benchmarks and write benchmarks/README.md"
    if unknown := set(only) - set(names): raise SystemExit(f'no benchmark {", ".join(sorted(unknown))}: there are {", ".join(names)}')
    found = {n: import_module(f'benchmarks.{n}') for n in only or names}
    if list:
        for n, m in found.items(): print(f'{n:12} {m.__doc__}')
    elif quick:
        with tempfile.TemporaryDirectory() as d:
            for m in found.values(): m.bench(**m.quick, out=d)
            print(page(records(d)))
    else:
        for m in found.values(): m.bench(again=again)
        summary()
