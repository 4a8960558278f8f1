"The page of results: goals beside what was reached, from the records in benchmarks/results"
import json
from pathlib import Path

from fastcore.script import call_parse
from tl_nbdev.samples import Table
from tl_nbdev.disk import whole
from .common import results

intro = '''# Benchmarks

<!-- Made from benchmarks/results by `.venv/bin/python -m benchmarks.summary`: don't edit. -->

`make bench` measures what isn't measured yet on this machine and writes this page. Peers run in the same run on the same machine, in turn, each
measurement in a fresh process, and its JSON is in `results/`, with every single value. Nothing here is a test: times depend on the machine.
'''

def records(
    folder # of records
) -> dict: # benchmark → record
    "What `Records.write` wrote"
    return {f.stem: json.loads(f.read_text()) for f in sorted(Path(folder).glob('*.json'))}

def goals(found) -> Table: # of `records`
    "Goals beside what was reached"
    return Table(dict(benchmark=b, **o) for b, r in found.items() for o in r['reached'])

def page(found) -> str: # of `records`
    "All records as Markdown"
    parts = [intro, goals(found)._repr_markdown_()]
    for b, r in found.items():
        m, v = r['machine'], r['versions']
        parts += [f'## {b}', f'`.venv/bin/python -m benchmarks.{b}`', Table(r['table'])._repr_markdown_(), '\n'.join(f'- {o}' for o in r['remarks']),
                  f'{m["cpu"]}, {m["cores"]} cores, {m["cpu_capability"]}, {m["torch_threads"]} torch threads, {m["memory_gib"]} GiB, device {m["device"]}; '
                  + ', '.join(f'{k} {v[k]}' for k in ('python', 'torch', 'timm', 'fastai', 'tl_nbdev')) + f'; {r["date"][:10]}.']
    return '\n\n'.join(parts) + '\n'

@call_parse
def summary():
    "Write benchmarks/README.md and show the goals"
    with whole(results.parent/'README.md') as tmp: tmp.write_text(page(found := records(results)))
    print(f'\n{goals(found)}\n\nwritten: benchmarks/README.md')
