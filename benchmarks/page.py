"What the pages of evidence share: records as they are read, verdicts as they are shown, long tables folded"
import json, re
from collections import Counter

from .common import kind_of, results

# What each benchmark asks, as a reader would
questions = dict(
    accuracy='How accurate can it be made on photos of solar cells?',
    alignment='What does a step of domain adaptation cost?',
    boxes='How much does a small detector find after minutes, and what are pretrained weights worth to it?',
    captioning='Does a network say of a picture what nobody has said before?',
    copies='Does the audit find copies that were changed?',
    dashboard='How soon does the dashboard answer?',
    domains='Digits of another maker: does adapting help, and more than that of other libraries?',
    features='A head on frozen features: how much faster than fastai?',
    fewimages='Few images: do the defaults help?',
    fewshot='Few labels, texts: as good as setfit?',
    finetune='Fine-tuning: how much faster than fastai and timm?',
    kills='Killed at any moment: does it end as if nothing had happened?',
    labels='A thousand labels, texts: as good as the Trainer, and faster?',
    lora='LoRA: as fast as peft with the Trainer?',
    pairs='How often is a function found by what it does?',
    pretraining='Texts of a domain, read before: is it worth it?',
    scaling='Does memory stay flat when data grow?',
    scores='Is LogME computed fast, and right?',
    writing='What does a network that writes learn, what does it forget, and how fast is a step?',
    spoken='Does a network learn words from one synthesizer, and understand people?',
    transcription='What does Whisper learn of a vocabulary, what does it forget, and how fast is a step?',
    captions='How many held-out captions are found among a hundred pictures, and what does each choice add?',
    encoders='Is a larger encoder of texts worth it?',
    scratch='How many labels does a pretrained network save?',
    sentiment='Sentiment in another domain: does adaptation help?',
    serve='A served model, asked by many: is anybody lost, and does answering together pay?',
    export='A model that left for onnxruntime: is it as fast there?',
    executor='Runs that are handed to other workers: what does it cost to hand them out?',
    scale='Two processes: how much faster than one?',
    steps='How much of what the processor can do does a step of training use, and what takes the rest?',
    strategies="Which strategy, and are they as good as fastai's fine_tune?",
    texts='How long does an epoch over texts take?',
    throughput='Is reading files ever what one waits for?',
    truth='Does advice find what trying everything finds?',
)

verdicts = ('better', "can't tell", 'worse')
marks = {'better': '▲ better', "can't tell": '· can\'t tell', 'worse': '▼ worse', '': ''}
# told apart by everybody
colours = {'better': '#0072b2', "can't tell": '#999999', 'worse': '#d55e00', '': '#333333'}
meaning = ('*Better*: the whole 95 % interval meets the goal (of a difference: is above 0). *Worse*: none of it does. '
           '*Can\'t tell*: it holds values of both kinds. Where a thing was measured once, or by one number, there is '
           'no interval, and the value alone is compared.')

def record_of(
    name # of a benchmark
) -> dict:
    "A record, as it was written"
    return json.loads((results/f'{name}.json').read_text(encoding='utf-8'))

def records_by_kind(
    folder=results # of records; those of other kinds of machine are in `other`
) -> dict: # kind of processor, or name of the GPU → benchmark → record
    "Records of all machines, told apart by what they multiply matrices with"
    found = {}
    for file in sorted([*folder.glob('*.json'), *folder.glob('other/*/*.json')]):
        record = json.loads(file.read_text(encoding='utf-8'))
        found.setdefault(kind_of(record['machine']), {})[file.stem] = record
    return found

def _as_reached(record):
    "What was measured → value, interval and verdict, as they are shown"
    return {o['what']: ' '.join(filter(None, (o['reached'], o['interval'], marks[o['verdict']]))) for o in record['reached']}

def side_by_side(
    by_kind # from `records_by_kind`
) -> list: # of dicts, a row each
    "What was measured on more than one kind of machine, a column each"
    rows = []
    for benchmark in sorted({name for records in by_kind.values() for name in records}):
        told = {kind: _as_reached(records[benchmark]) for kind, records in by_kind.items() if benchmark in records}
        for what in dict.fromkeys(what for each in told.values() for what in each):
            values = {kind: each[what] for kind, each in told.items() if what in each}
            if len(values) > 1: rows.append(dict(benchmark=benchmark, what=what, **{kind: values.get(kind, '') for kind in by_kind}))
    return rows

def drawn_ratios(
    ax, # of matplotlib
    rows # from `side_by_side`
):
    "Ratios of another library's seconds to ours, a bar for each kind of machine, with intervals where there are some"
    ratios = [row for row in rows if ' / of ours' in row['what']]
    kinds = [kind for kind in (ratios[0] if ratios else {}) if kind not in ('benchmark', 'what')]
    high, named = .8/max(len(kinds), 1), set()
    for k, kind in enumerate(kinds):
        for i, row in enumerate(ratios):
            if not (found := numbers(row[kind])): continue
            at = i + (k - (len(kinds) - 1)/2)*high
            ax.barh(at, found[0], high, color=f'C{k}', label=None if kind in named else kind)
            named.add(kind)
            if len(found) > 2: ax.plot(found[1:3], [at, at], color='black', lw=1.5)
            ax.text(max(found)*1.02, at, f'{found[0]:.1f}', va='center', fontsize=8)
    ax.set_yticks(range(len(ratios)), [row['what'].replace(' / of ours', '').replace('_', ' ') for row in ratios], fontsize=8)
    ax.invert_yaxis()
    ax.axvline(1, color='black', lw=1)
    ax.set_xlabel('its time / ours')
    ax.legend(fontsize=8)
    for side in ('top', 'right'): ax.spines[side].set_visible(False)

def measured_where(
    by_kind # from `records_by_kind`
) -> list: # of dicts, a row for each machine
    "Which benchmarks have a record of which machine"
    def said(machine): return f'{machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB'
    return [dict(kind=kind, machine='; '.join(sorted({said(o['machine']) for o in records.values()})), benchmarks=', '.join(records))
            for kind, records in by_kind.items()]

def runs_of(
    record
) -> list: # of dicts: arguments, job, and what was found
    "Every measurement of a record"
    return [dict(o['arguments'], job=o['job'], **o['found']) for o in record['measurements']]

def numbers(
    text:str # such as `+1.2 [-3.0, +4,000.5]`
) -> list:
    "The numbers in a text, in their order"
    return [float(o.replace(',', '')) for o in re.findall(r'[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?', text)]

def tally(
    rows # of `goal`
) -> str:
    "How many are better, worse, and undecided"
    count = Counter(o['verdict'] for o in rows)
    return ', '.join(f'{count[o]} {o}' for o in verdicts if count[o]) or 'nothing to compare with'

def verdict_table(
    rows, # of `goal`
    note='' # below it
):
    "Goals, what was reached, and what that says"
    from tl_nbdev.base.samples import Table
    def row(o):
        interval = o['interval'] or ('no interval' if o['verdict'] else '')
        first = {'what': o['what'], 'reached': o['reached'], '95 %': interval}
        return first | {'goal': o['goal'], 'verdict': marks[o['verdict']]}
    return Table(map(row, rows), note)

def folded(
    title:str, # what one clicks on
    *shown # tables, or Markdown
) -> str: # Markdown
    "What hardly anybody reads, folded"
    inside = '\n\n'.join(o if isinstance(o, str) else o._repr_markdown_() for o in shown)
    return f'<details>\n<summary>{title}</summary>\n\n{inside.strip()}\n\n</details>'

def intervals(
    ax, # of matplotlib
    rows, # of `goal`, those with an interval
    name=lambda o: o['what'] # what stands beside one
):
    "One line a comparison: its interval, coloured by what it says, and the goal"
    for i, o in enumerate(rows):
        (low, high), value = numbers(o['interval']), numbers(o['reached'])[0]
        ax.plot([low, high], [i, i], color=colours[o['verdict']], lw=2.5, solid_capstyle='round')
        ax.plot(value, i, 'o', color=colours[o['verdict']], ms=6)
        if o['goal']: ax.plot(numbers(o['goal'])[0], i, '|', color='black', ms=12)
    for verdict in verdicts: ax.plot([], [], 'o-', color=colours[verdict], label=verdict)
    if not all(o['goal'] for o in rows): ax.axvline(0, color='grey', lw=1, ls=':')
    ax.set_yticks(range(len(rows)), map(name, rows), fontsize=8)
    ax.invert_yaxis()
    ax.grid(alpha=.3, axis='x')
    ax.legend(fontsize=8)

def tallies(
    ax, # of matplotlib
    reached:dict # benchmark → rows of `goal`
):
    "One bar a benchmark: how many goals it met, missed, or could not decide"
    left = [0]*len(reached)
    for verdict in verdicts:
        many = [sum(o['verdict'] == verdict for o in rows) for rows in reached.values()]
        ax.barh(range(len(reached)), many, left=left, color=colours[verdict], label=verdict)
        for i, (n, start) in enumerate(zip(many, left)):
            if n: ax.text(start + n/2, i, str(n), color='white', ha='center', va='center', fontsize=8)
        left = [a + b for a, b in zip(left, many)]
    ax.set_yticks(range(len(reached)), reached, fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel('comparisons and goals')
    ax.legend(fontsize=9, loc='lower right')
    for side in ('top', 'right'): ax.spines[side].set_visible(False)

# What the front page shows: title, benchmark, what picks the rows of its table, and those rows: what stands there → what it says
front = (
    ('Film reviews, a thousand labels', 'labels', {'data': 'sentiment-movies'}, 'what', 'test accuracy % [95 %]',
     {'tfidf': 'words, counted', 'frozen': 'MiniLM, frozen', 'ours': 'MiniLM, all trained'}),
    ('Solar cells, 24 labels per class', 'scratch', {'data': 'kinds', 'labels per class': 24}, None, None,
     {'scratch': 'random weights', 'full': 'EfficientNet, all trained', 'feature': 'EfficientNet, frozen'}),
    ('Digits of another maker, no labels', 'domains', {'from, to': 'mnist-optdigits', 'images': 'as they are'}, 'method', 'last epoch %',
     {'source only': 'trained on the first', 'each method by im, one of them by agreement': 'and adapted'}),
    ('Diagnoses, ten labels per class', 'pretraining', {'data': 'icd10', 'labels a class': 10}, 'what', 'test accuracy % [95 %]',
     {'tfidf': 'words, counted', 'wheel': 'BERT-tiny', 'continued': 'BERT-tiny, read on', 'minilm': 'MiniLM'}),
)

def front_rows(panel):
    "What a panel of the front page shows: `(words, [value, low, high])`"
    _, benchmark, where, key, column, names = panel
    rows = [row for row in record_of(benchmark)['table'] if all(row.get(k) == v for k, v in where.items())]
    if key is None: return [(words, numbers(rows[0][name])[:3]) for name, words in names.items()]
    found = {row[key]: numbers(row[column])[:3] for row in rows if row[key] in names}
    return [(words, found[name]) for name, words in names.items()]

def draw_front(
    axes # of matplotlib, one a panel
):
    "What was trained, and what came of it"
    for ax, panel in zip(axes, front):
        rows = front_rows(panel)
        best = max(value for _, (value, *_) in rows)
        for i, (_, (value, low, high)) in enumerate(rows):
            colour = colours['better'] if value == best else '#7a8694'
            ax.plot([low, min(high, 100)], [i, i], color=colour, lw=4, solid_capstyle='round', alpha=.55)
            ax.plot(value, i, 'o', color=colour, ms=10)
            ax.text(value, i - .24, f'{value:.0f} %', ha='center', fontsize=11, color=colour, weight='bold')
        ax.set(xlim=(15, 106), ylim=(len(rows) - .5, -.75), xticks=range(20, 101, 20))
        ax.set_yticks(range(len(rows)), [words for words, _ in rows], fontsize=10, color='#1f2933')
        ax.set_title(panel[0], loc='left', fontsize=12, color='#1f2933', linespacing=1.4)
        ax.grid(alpha=.25, axis='x')
        ax.tick_params(labelsize=9, length=0, colors='#56616d')
        ax.tick_params(axis='y', labelsize=10.5, colors='#1f2933')
        for side in ('top', 'right', 'left', 'bottom'): ax.spines[side].set_visible(False)
