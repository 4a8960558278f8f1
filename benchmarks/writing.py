"SmolLM2-135M-Instruct and low-rank adapters: what is learned and what is forgotten, and a step beside that of TRL's SFTTrainer with peft"
import tempfile
from statistics import median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Meter, Records, fresh_cache, goal, interval

model = 'SmolLM2-135M-Instruct'
kinds = 'icd', 'licences', 'python'
everyone = ('ours', 'trl_default', 'trl_tuned')
quick = dict(seeds=[0], kinds=['icd'], limit=60, steps=1, repeats=1)
shares = (.3, .5, 1.) # of the way from the start to the end of training


# what is learned and what is forgotten

def _texts(kind):
    "Texts that a network of general chats hasn't adapted to, in a random order that is always the same"
    import random
    from tl_nbdev.text.texts import TextTask
    if kind == 'python':
        from tl_nbdev.code.functions import standard_functions
        found = [each.code for each in standard_functions()]
    else: found = sorted({str(item) for item in TextTask.from_sample(dict(icd='icd10').get(kind, kind)).df.item})
    random.Random(0).shuffle(found)
    return found

_sizes = dict(icd=(1000, 64), licences=(80, 256), python=(160, 160)) # texts, and tokens of each that are read

def _learner(kind, seed, limit):
    "A Learner of texts"
    from tl_nbdev.generation.task import GenerationTask
    from tl_nbdev.training.learner import transfer_learner
    n, size = _sizes[kind]
    task = GenerationTask.from_records([dict(text=text[:900 if kind == 'licences' else 6000]) for text in _texts(kind)[:limit or n]], seed=seed, name=kind)
    return transfer_learner(task, model, seed=seed, size=size, bs=4)

def _moved(learn, start, end, share):
    "Put the weights on the way from the start to the end of training"
    state = {name: value + share*(end[name] - value) if value.is_floating_point() else value for name, value in start.items()}
    learn.model.load_state_dict(state)

def _perplexity(pairs):
    from tl_nbdev.generation.likelihood import perplexity, token_loss
    value, ends = perplexity(token_loss(*pairs.T))
    return [value, *ends]

def _measured(learn, general):
    "Perplexities of test, and of two halves of general texts: by one a share is chosen, by the other it is judged"
    from tl_nbdev.generation.general import text_losses
    from tl_nbdev.training.freezing import frozen_body
    said = text_losses(frozen_body(learn), general)
    half = len(general)//2
    return dict(test=learn.evaluate('test', closer=False).probs, choosing=said[:half], general=said[half:])

def adapt(kind, seed, limit):
    "Adapters on all layers, one epoch, and what stands on the way back to the start (WiSE-FT: Wortsman et al. 2022)"
    from tl_nbdev.generation.general import general_texts
    from tl_nbdev.generation.likelihood import better_perplexity, token_loss
    from tl_nbdev.strategies.named import LoRA
    general, learn = general_texts(32), _learner(kind, seed, limit)
    start = {name: value.clone() for name, value in learn.model.state_dict().items()}
    before, laps = _measured(learn, general), Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(LoRA(8, lr=5e-4), 1)
    laps('train')
    end, rows = {name: value.clone() for name, value in learn.model.state_dict().items()}, []
    for share in shares:
        _moved(learn, start, end, share)
        now = _measured(learn, general)
        change = {part: better_perplexity(token_loss(*now[part].T), token_loss(*before[part].T)) for part in now}
        rows.append(dict(share=share, **{part: dict(ratio=o['ratio'], interval=o['interval']) for part, o in change.items()}))
    chosen = max((row for row in rows if row['choosing']['ratio'] <= 1.04), key=lambda row: row['share'], default=rows[0])
    return dict(before={part: _perplexity(o) for part, o in before.items()}, rows=rows, chosen=chosen['share'], seconds=laps['train'],
                learned=1 - chosen['test']['ratio'], forgotten=chosen['general']['ratio'] - 1, arithmetic=learn.mode.precision)


# a step, beside TRL

_learns = dict(answers='the first sentence of a docstring after the code of its function', texts='passages of licences, all of whose tokens are learned')

def _records(what):
    "What all are trained and judged on"
    if what == 'texts': return [dict(text=text[:900]) for text in _texts('licences')[:128]]
    from tl_nbdev.code.functions import search_pairs, standard_functions
    rows = search_pairs(standard_functions())[::12]
    return [dict(prompt=f'What does this function do?\n\n{row["code"][:900]}', completion=row['question'][:200]) for row in rows][:128]

_rate, _r, _bs, _held = 3e-4, 8, 8, 32

def _held_out(net, tok, records):
    "The loss of a learned token of records that nobody trained on, by one judge for all"
    import torch
    from tl_nbdev.generation.formats import read_chats
    from tl_nbdev.generation.rows import as_batch, padded_rows, row_of
    from tl_nbdev.generation.windows import windows_of
    from tl_nbdev.generation.writer import Writer
    items, writer, sums = read_chats(records).item.to_list(), Writer(net).eval(), torch.zeros(2)
    rows = [row_of(windows_of(tok, [item], 512).items) for item in items]
    with torch.no_grad():
        for at in range(0, len(rows), 8):
            x, labels, _ = as_batch(padded_rows(rows[at:at + 8]))
            sums += writer(x, labels).preds.sum(0)
    return float(sums[0]/sums[1]), sum(map(len, rows))

def _said(laps, meter, n, loss, arithmetic):
    return dict(meter.record(), tokens_a_second=n/laps['train'], seconds=laps['train'], loss=loss, arithmetic=arithmetic)

def ours(what, seed, steps):
    "The verb: adapters on all linear layers, one rate up and down in a line, clipped"
    from tl_nbdev.generation.task import GenerationTask
    from tl_nbdev.strategies.named import LoRA
    from tl_nbdev.strategies.strategy import Phase, Strategy
    from tl_nbdev.training.learner import transfer_learner
    records = _records(what)
    train = records[:_bs*steps]
    rows = [dict(row, part='train') for row in train] + [dict(records[-1], part='valid')]
    task = GenerationTask.from_records(rows, part='part', seed=seed)
    with fresh_cache():
        learn, lora = transfer_learner(task, model, seed=seed, size=512, bs=_bs), LoRA(_r)
        learn.dls.loaders[1:] = [learn.dls.valid]
        how = Strategy('lora', (Phase('all', _rate, only='adapter', schedule='linear', clip=1.),), 1, steps=lora.steps)
        with Meter() as meter:
            laps = Laps()
            with learn.no_bar(), learn.no_logging(): learn.transfer(how, 1, wd=0.)
            laps('train')
        net, tok = learn.model.body.writer.net, learn.pretrained.tokenizer()
    loss, _ = _held_out(net, tok, records[-_held:])
    return _said(laps, meter, _tokens(tok, train), loss, learn.mode.precision)

def _tokens(tok, records):
    "Tokens of records, as everybody reads them"
    from tl_nbdev.generation.formats import read_chats
    from tl_nbdev.generation.windows import windows_of
    return sum(len(each['ids']) for each in windows_of(tok, read_chats(records).item.to_list(), 512).items)

def trl(what, seed, steps, tuned=False):
    "TRL's SFTTrainer with peft's adapters on the same layers; tuned: bf16 where that is faster, no activations recomputed, batches of like length"
    import datasets, peft, torch
    from trl import SFTConfig, SFTTrainer
    from tl_nbdev.generation.starts import generator_start
    from .common import half_is_faster
    start, records = generator_start(model), _records(what)
    net, tok, train = start.network(), start.tokenizer(), records[:_bs*steps]
    torch.manual_seed(seed)
    if what == 'answers': # as chats, so that the template is used
        said = [dict(prompt=[dict(role='user', content=row['prompt'])], completion=[dict(role='assistant', content=row['completion'])]) for row in train]
    else: said = train
    half = half_is_faster()
    more = dict(gradient_checkpointing=False, bf16=half, train_sampling_strategy='group_by_length') if tuned else dict(bf16=half)
    with tempfile.TemporaryDirectory() as d:
        config = SFTConfig(d, use_cpu=not torch.cuda.is_available(), learning_rate=_rate, per_device_train_batch_size=_bs, num_train_epochs=1, max_length=512, warmup_steps=max(1, round(.1*steps)),
                           weight_decay=0., max_grad_norm=1., seed=seed, report_to='none', save_strategy='no', disable_tqdm=True, logging_steps=1, **more)
        lora = peft.LoraConfig(r=_r, lora_alpha=2*_r, lora_dropout=0., target_modules='all-linear', task_type='CAUSAL_LM')
        trainer = SFTTrainer(net, config, train_dataset=datasets.Dataset.from_list(said), processing_class=tok, peft_config=lora)
        with Meter() as meter:
            laps = Laps()
            trainer.train()
            laps('train')
        merged = trainer.model.merge_and_unload().float()
    loss, _ = _held_out(merged, tok, records[-_held:])
    return _said(laps, meter, _tokens(tok, train), loss, f'{"bf16" if half else "fp32"}{"" if tuned else ", activations recomputed"}')

def trl_default(**args): return trl(**args)
def trl_tuned(**args): return trl(tuned=True, **args)


# the run

def _share_rows(found):
    "A row for each kind of text: what the chosen share of the way gives, over seeds"
    rows = []
    for kind, runs in found.items():
        learned, forgot = ([run[name] for run in runs] for name in ('learned', 'forgotten'))
        rows.append({'texts': kind, 'test perplexity before': f'{median(run["before"]["test"][0] for run in runs):.4g}', 'share of the way': ', '.join(f'{run["chosen"]:g}' for run in runs),
                     'it falls by': _percent(learned), 'general prose rises by': _percent(forgot), 'whole way: falls by': _percent([1 - run['rows'][-1]['test']['ratio'] for run in runs]),
                     'and rises by': _percent([run['rows'][-1]['general']['ratio'] - 1 for run in runs])})
    return rows

def _spread(runs, name, part):
    "The ends of an interval in percent: over seeds, or where there is one, over items"
    if len(runs) > 1: return [100*end for end in interval([run[name] for run in runs])]
    ends = [100*(end - 1) for row in runs[0]['rows'] if row['share'] == runs[0]['chosen'] for end in row[part]['interval']]
    return ends if name == 'forgotten' else [-ends[1], -ends[0]]

def _percent(values):
    low, high = interval(values) if len(values) > 1 else (None, None)
    return f'{100*sum(values)/len(values):.1f} %' + (f' [{100*low:.1f}, {100*high:.1f}]' if low is not None else '')

def _step_rows(got):
    "A row for each peer and kind of records"
    return [{'learned': what, 'peer': peer, 'tokens a second': f'{median(o["tokens_a_second"] for o in runs):.0f}', 'highest memory, MiB': f'{median(o["anon_peak_mib"] for o in runs):,.0f}',
             'held-out loss': f'{sum(o["loss"] for o in runs)/len(runs):.3f}', 'arithmetic': runs[0]['arithmetic']} for (what, peer), runs in got.items() if runs]

@call_parse
def bench(
    seeds:Annotated[int, dict(nargs='+')]=(0, 1, 2), # of what is learned and forgotten
    kinds:Annotated[str, dict(nargs='*', choices=kinds)]=kinds, # of texts
    repeats:int=3, # of each peer
    steps:int=3, # of each peer, eight items each
    peers:Annotated[str, dict(nargs='*', choices=everyone)]=everyone, # what is measured
    once:Annotated[str, dict(nargs='*', choices=tuple(_learns))]=('texts',), # records on which peers run with the first seed alone
    limit:int=None, # at most so many texts
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "What is learned and forgotten, and a step beside TRL's"
    records, runs = Records('writing', again, out, earlier=True), []
    def measured(job, ours, **args):
        runs.append(records.measure(job, ours=ours, **args))
        return runs[-1]['found']
    found = {kind: [measured('adapt', True, kind=kind, seed=seed, limit=limit) for seed in seeds] for kind in kinds}
    got = {(what, peer): [] for what in _learns for peer in peers}
    for seed in range(repeats):
        for what, peer in got:
            if not seed or what not in once: got[what, peer].append(measured(peer, peer == 'ours', what=what, seed=seed, steps=steps))
    reached = [goal(f'{kind}: test perplexity falls by, %', 100*median(run['learned'] for run in o), least=10 if kind == 'python' else 15, ends=_spread(o, 'learned', 'test')) for kind, o in found.items()]
    reached += [goal(f'{kind}: general perplexity rises by, %', 100*median(run['forgotten'] for run in o), most=5, ends=_spread(o, 'forgotten', 'general')) for kind, o in found.items()]
    ratios = {f'{what}, {peer}': [a['tokens_a_second']/b['tokens_a_second'] for a, b in zip(got[what, 'ours'], got[what, peer])] for what, peer in got if peer != 'ours' and 'ours' in peers}
    for name, ratio in ratios.items(): reached.append(goal(f'{name}: tokens a second, ours / its', median(ratio), least=1.5, ends=interval(ratio)))
    for what, peer in got:
        if peer == 'ours' or 'ours' not in peers: continue
        a, b = got[what, 'ours'], got[what, peer]
        reached.append(goal(f'{what}, {peer}: highest memory, its / ours', median(y['anon_peak_mib']/x['anon_peak_mib'] for x, y in zip(a, b)), least=1))
        reached.append(goal(f'{what}, {peer}: held-out loss, its − ours', median(y['loss'] - x['loss'] for x, y in zip(a, b)), show='{:+.3f}'))
    records.write(ratio={name: [median(values), *(interval(values) if len(values) > 1 else ())] for name, values in ratios.items()}, shares=_share_rows(found), table=_step_rows(got),
                  measurements=runs, reached=reached,
                  remarks=['Learned and forgotten: SmolLM2-135M-Instruct, adapters of rank 8 on all layers, rate 5e-4, one epoch. A share of the way back to the start is chosen on half of the general passages '
                           '(at most 4 % worse there), and reported on the other half and on test.',
                           f'Steps: rank {_r}, rate {_rate}, {_bs} items a batch, {steps} steps, the same weights, layers, items and schedule; the held-out loss by one judge. '
                           + '; '.join(f'{name}: {about}' for name, about in _learns.items()) + '.',
                           'trl_default: SFTConfig as it is, activations recomputed; bf16 where products are faster in it. trl_tuned: no recomputing, batches of like length.'],
                  arguments=dict(seeds=seeds, kinds=kinds, repeats=repeats, steps=steps, peers=peers, once=once, limit=limit))
