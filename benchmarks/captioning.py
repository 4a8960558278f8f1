"Pictures that are described in words: shapes whose captions stand nowhere in train, and Tux Paint's stamps; what sees trained before or at random, beside the nearest picture's text and the commonest"
from statistics import mean, median
from typing import Annotated

from fastcore.script import call_parse
from .common import Laps, Records, goal, interval

ways = ('pretrained', 'random') # what sees
first_seed = 30 # of splits of the stamps on which nothing was chosen
quick = dict(repeats=1, n=60, epochs=1, items=4, real=0)

def _words(captions):
    "A small network that writes, and its tokenizer"
    import torch
    from tl_nbdev.generation.templates import small_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM
    tok = small_tokenizer(captions, None, 300, marks=('<|im_start|>', '<|im_end|>', '<image>'), eos_token='<|im_end|>', pad_token='<|im_end|>')
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tok), hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
                         max_position_embeddings=64, eos_token_id=1, pad_token_id=1, bos_token_id=None, initializer_range=.05)
    return LlamaForCausalLM(config), tok

def _said(result, seconds):
    "Who was how near to what was wanted"
    said = result.closer.said
    judged = {who: {name: [round(each.value, 4), *(round(float(end), 4) for end in each.interval)] for name, each in found.items()} for who, found in said.judged.items()}
    return dict(judged=judged, token_probability=result.value, interval=result.interval, n=len(said.prompts), seconds=seconds)


# jobs, each in a process of its own

def shapes(seed, n, epochs, items, sees='pretrained'):
    "A network of photos that sees, and a small one that writes, which is made on the spot: connector and language train"
    import tempfile
    from pathlib import Path
    from tl_nbdev.base.captions import shapes_with_captions
    from tl_nbdev.generation.starts import generator_start
    from tl_nbdev.multimodal.caption_task import CaptionTask
    from tl_nbdev.multimodal.captioner import caption_pretrained
    from tl_nbdev.strategies.strategy import Parts
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.vision.zoo import pretrained
    with tempfile.TemporaryDirectory() as folder:
        task = CaptionTask.from_csv(shapes_with_captions(Path(folder), n, seed), image='file', caption='caption', seed=seed)
        net, tok = _words(list(task.df.label))
        eyes = pretrained('squeezenet1_1', size=128, source='random' if sees == 'random' else None)
        learn = transfer_learner(task, caption_pretrained(image=eyes, writer=generator_start(net, tokenizer=tok), connector='mlp', pooled=6), bs=16, seed=seed)
        laps = Laps()
        with learn.no_bar(), learn.no_logging(): learn.transfer(Parts(('connector', 'language'), lr=1e-2), epochs)
        laps('train')
        return _said(learn.evaluate('test', items=items), laps['train'])

def stamps(seed, items, sees='pretrained', strategy='lora:8', epochs=3):
    "Two networks that were trained apart, EfficientNet-Lite0 and SmolLM2, joined by a connector that begins with names of classes"
    from tl_nbdev.multimodal.caption_task import CaptionTask
    from tl_nbdev.multimodal.captioner import caption_pretrained
    from tl_nbdev.training.learner import transfer_learner
    from tl_nbdev.vision.zoo import pretrained
    task = CaptionTask.from_sample('stamps', seed=seed)
    eyes = pretrained('tf_efficientnet_lite0', source='random' if sees == 'random' else None)
    learn, laps = transfer_learner(task, caption_pretrained(image=eyes, writer='SmolLM2-135M-Instruct'), seed=seed), Laps()
    with learn.no_bar(), learn.no_logging(): learn.transfer(strategy, epochs)
    laps('train')
    return _said(learn.evaluate('test', items=items, most=24), laps['train'])


# the run

@call_parse
def bench(
    sees:Annotated[str, dict(nargs='+', choices=ways)]=ways, # what sees
    repeats:int=3, # each with a split and a seed of its own
    n:int=400, # pictures of shapes
    epochs:int=20, # over shapes
    items:int=80, # captions that are judged
    real:int=3, # splits of the stamps, from `first_seed` on, none with 0
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Captions of held-out pictures"
    records, runs, got = Records('captioning', again, out, earlier=True), [], {}
    def measure(job, key, **args):
        runs.append(records.measure(job, **args))
        got.setdefault(key, []).append(runs[-1]['found'])
    for seed in range(repeats):
        for way in sees: measure('shapes', ('shapes', way), seed=seed, n=n, epochs=epochs, items=items, sees=way)
    for seed in range(first_seed, first_seed + real):
        for way in sees: measure('stamps', ('stamps', way), seed=seed, items=items, sees=way)
    def of(key, who, name): return [o['judged'][who][name][0] for o in got[key] if name in o['judged'][who]]
    def row(key, who, said):
        found = {name: of(key, who, name) for name in ('exact match', 'ROUGE-L', 'chrF')}
        return dict(data=key[0], who=said, **{name: f'{mean(v):.3f}' if v else '' for name, v in found.items()},
                    **{'ROUGE-L, 95 % over seeds': '' if len(found['ROUGE-L']) < 2 else '[{:.3f}, {:.3f}]'.format(*interval(found['ROUGE-L']))}, seeds=len(got[key]))
    table = [row(key, 'now', f'ours, what sees: {key[1]}') for key in got]
    table += [row(key, who, who) for key in got if key[1] == 'pretrained' for who in ('text of the nearest picture', 'commonest text')]
    reached = [goal(f'{data}: ROUGE-L, what sees {way}', mean(v), show='{:.3f}', ends=interval(v) if len(v) > 1 else None)
               for data, way in got for v in [of((data, way), 'now', 'ROUGE-L')]]
    for data in {key[0] for key in got}:
        if (data, 'pretrained') not in got: continue
        mine, near = (of((data, 'pretrained'), who, 'ROUGE-L') for who in ('now', 'text of the nearest picture'))
        apart = [a - b for a, b in zip(mine, near)]
        reached.append(goal(f'{data}: ROUGE-L above the text of the nearest picture', mean(apart), show='{:+.3f}', ends=interval(apart) if len(apart) > 1 else None, than=0))
    seconds = {' '.join(key): median(o['seconds'] for o in v) for key, v in got.items()}
    records.write(reached, table, [
        f'{n} pictures of shapes, whose captions are all different, so that none of test stands in train; a split for each seed. SqueezeNet 1.1 sees, frozen, each picture once; a network of two layers, made on the spot, writes; connector and language train for {epochs} epochs.',
        f'Tux Paint\'s stamps: EfficientNet-Lite0 sees, frozen, each picture once and as one vector; a linear connector begins with the classes that it has names for; SmolLM2-135M-Instruct writes; adapters of rank 8 on both train for 3 epochs (`lora:8`). The recipe was made on split 20, of which only train and valid were looked at; these are splits {first_seed} to {first_seed + real - 1}.' if real else 'The stamps were left out.',
        'Greedy answers. The nearest picture is that of train which looks most alike to what sees.'],
        dict(sees=sees, repeats=repeats, n=n, epochs=epochs, items=items, real=real), runs, median_seconds=seconds)
