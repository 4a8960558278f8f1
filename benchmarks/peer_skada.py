"Training with skada's deep methods, run by the Python of an environment of its own: `python peer_skada.py IN.npz OUT.json`"
import json, sys, time
from pathlib import Path

import numpy as np
import torch
from skada.deep import CDAN, DANN, MCC, DeepCoral
from skorch.callbacks import LRScheduler

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peer_net import digits_net

given = np.load(sys.argv[1])
about = json.loads(str(given['about']))
torch.manual_seed(about['seed'])
np.random.seed(about['seed'])
class Takes(torch.nn.Module):
    "skada hands weights to the network too"
    def __init__(self): super().__init__(); self.net = digits_net()
    def forward(self, x, sample_weight=None): return self.net(x)

net = Takes()
last = [n for n, m in net.named_modules() if isinstance(m, torch.nn.ReLU)][-1] # whose output are the features
make = dict(coral=DeepCoral, dann=lambda *args, **kw: DANN(*args, num_features=100, **kw), cdan=lambda *args, **kw: CDAN(*args, num_features=100, n_classes=10, **kw), mcc=MCC)[about['method']]
each = int(np.ceil(max(len(given['xs']), len(given['xt']))/64)) # steps of an epoch: its iterator balances the domains
epochs = max(1, round(about['steps']/each))
tuned = dict(optimizer__weight_decay=.01, callbacks=[('lr', LRScheduler(torch.optim.lr_scheduler.OneCycleLR, max_lr=about['lr'], total_steps=epochs*each + 1, step_every='batch'))]) if about['tuned'] else {}
learner = make(net, last, reg=1, max_epochs=epochs, batch_size=64, lr=about['lr'], optimizer=torch.optim.AdamW if about['tuned'] else torch.optim.Adam, train_split=None, verbose=0, **tuned)
x = np.concatenate([given['xs'], given['xt']])
y = np.concatenate([given['ys'], np.full(len(given['xt']), -1)]).astype(np.int64) # skada's mark for a label that is not to be seen
domain = np.concatenate([np.full(len(given['xs']), 1), np.full(len(given['xt']), -2)])
start = time.perf_counter()
learner.fit(x, y, domain)
seconds = time.perf_counter() - start
said = learner.predict(given['xt'], sample_domain=np.full(len(given['xt']), -2))
Path(sys.argv[2]).write_text(json.dumps(dict(accuracy=float((np.asarray(said) == given['yt']).mean()), seconds=round(seconds, 3))))
