"Training with pytorch-adapt's hooks, run by the Python of an environment of its own: `python peer_pytorch_adapt.py IN.npz OUT.json`"
import json, sys, time, warnings
from pathlib import Path

import numpy as np
import torch
warnings.filterwarnings('ignore') # it asks setuptools for pkg_resources
from pytorch_adapt.hooks import AlignerPlusCHook, CDANHook, ClassifierHook, DANNHook, MCCHook
from pytorch_adapt.layers import CORALLoss, RandomizedDotProduct
from pytorch_adapt.models import Discriminator

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peer_net import digits_net

given = np.load(sys.argv[1])
about = json.loads(str(given['about']))
torch.manual_seed(about['seed'])
net = digits_net()
method, bs = about['method'], 64
models = dict(G=net[:-1], C=net[-1], D=Discriminator(in_size=100, h=256))
extra = {}
if method == 'cdan': extra, models['D'] = dict(feature_combiner=RandomizedDotProduct([100, 10], 1024)), Discriminator(in_size=1024, h=256)
xs, ys, xt = (torch.from_numpy(given[o]) for o in ('xs', 'ys', 'xt'))
make = (lambda p: torch.optim.AdamW(p, about['lr'], weight_decay=.01)) if about['tuned'] else (lambda p: torch.optim.Adam(p, about['lr']))
opts = {k: make(m.parameters()) for k, m in models.items() if k != 'D' or method in ('dann', 'cdan')}
plans = [torch.optim.lr_scheduler.OneCycleLR(o, about['lr'], total_steps=about['steps']) for o in opts.values()] if about['tuned'] else []
both = [opts['G'], opts['C']]
hook = dict(dann=lambda: DANNHook(list(opts.values())), cdan=lambda: CDANHook(g_opts=both, d_opts=[opts['D']]), coral=lambda: AlignerPlusCHook(both, loss_fn=CORALLoss()), mcc=lambda: ClassifierHook(both, post=[MCCHook()]))[method]()

def rows(n):
    "A batch after another, each epoch in another order, without end"
    while True: yield from (o for o in torch.randperm(n).split(bs) if len(o) == bs)

source, target = rows(len(xs)), rows(len(xt))
for m in models.values(): m.train()
start = time.perf_counter()
for _ in range(about['steps']):
    s, t = next(source), next(target)
    hook({**models, **extra, 'src_imgs': xs[s], 'target_imgs': xt[t], 'src_labels': ys[s].long(), 'src_domain': torch.zeros(bs), 'target_domain': torch.ones(bs)})
    for o in plans: o.step()
seconds = time.perf_counter() - start
net.eval()
with torch.no_grad(): said = torch.cat([net(o).argmax(1) for o in xt.split(512)]).numpy()
Path(sys.argv[2]).write_text(json.dumps(dict(accuracy=float((said == given['yt']).mean()), seconds=round(seconds, 3))))
