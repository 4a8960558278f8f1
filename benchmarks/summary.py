"The page of results: goals beside what was reached, from the records in benchmarks/results"
import json
from pathlib import Path

from fastcore.script import call_parse
from tl_nbdev.base.samples import Table
from tl_nbdev.base.disk import whole
from .common import results
from .page import folded, meaning, questions, tally, verdict_table, verdicts

intro = '''# Benchmarks

<!-- Made from benchmarks/results by `.venv/bin/python -m benchmarks.summary`: don't edit. -->

`make bench` measures what isn't measured yet on this machine and writes this page. Peers run in the same run on the same machine, in turn, each
measurement in a fresh process; a record of each benchmark is in `results/`, with every single value. Nothing here is a test: times depend on the machine.
'''

def records(
    folder # of records
) -> dict: # benchmark → record
    "What `Records.write` wrote"
    return {f.stem: json.loads(f.read_text(encoding='utf-8')) for f in sorted(Path(folder).glob('*.json'))}

def goals(found) -> Table: # of `records`
    "How each benchmark ended: comparisons that are better, undecided, worse"
    count = lambda rows, verdict: sum(o['verdict'] == verdict for o in rows) or ''
    return Table(dict(benchmark=b, question=questions.get(b, ''), **{v: count(r['reached'], v) for v in verdicts}) for b, r in found.items())

def page(found) -> str: # of `records`
    "All records as Markdown, the tables folded"
    parts = [intro, meaning, goals(found)._repr_markdown_()]
    for b, r in found.items():
        m, v = r['machine'], r['versions']
        parts += [f'## {b}', questions.get(b, ''), f'`.venv/bin/python -m benchmarks.{b}`', folded(f'Goals: {tally(r["reached"])}', verdict_table(r['reached'])),
                  folded('What was measured', Table(r['table']), '\n'.join(f'- {o}' for o in r['remarks'])),
                  f'{m["cpu"]}, {m["cores"]} cores, {m["cpu_capability"]}, {m["torch_threads"]} torch threads, {m["memory_gib"]} GiB, device {m["device"]}; '
                  + ', '.join(f'{k} {v[k]}' for k in ('python', 'torch', 'timm', 'fastai', 'tl_nbdev')) + f'; {r["date"][:10]}.']
    return '\n\n'.join(filter(None, parts)) + '\n'

@call_parse
def summary():
    "Write benchmarks/README.md and show the goals"
    with whole(results.parent/'README.md') as tmp: tmp.write_text(page(found := records(results)), encoding='utf-8')
    print(f'\n{goals(found)}\n\nwritten: benchmarks/README.md')
