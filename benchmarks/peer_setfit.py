"One training with setfit, run by the Python of an environment of its own: `python peer_setfit.py IN.json OUT.json`"
import json, re, sys, tempfile, time
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, models
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

given = json.loads(Path(sys.argv[1]).read_text())
word = models.Transformer(given['model'], max_seq_length=256)
net = SetFitModel(SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension(), 'mean')], device='cpu'), LogisticRegression())
with tempfile.TemporaryDirectory() as d:
    args = TrainingArguments(d, batch_size=16, num_epochs=1, seed=given['seed'], report_to='none', save_strategy='no', show_progress_bar=False, **(dict(num_iterations=given['iterations']) if given['iterations'] else {}))
    trainer = Trainer(model=net, args=args, train_dataset=Dataset.from_dict(dict(text=given['train'], label=given['labels'])))
    start = time.perf_counter()
    trainer.train()
    seconds = round(time.perf_counter() - start, 3)
probs = np.asarray(net.predict_proba(given['test'], as_numpy=True))
mib = int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024 if Path('/proc/self/status').exists() else None
Path(sys.argv[2]).write_text(json.dumps(dict(probs=probs.tolist(), seconds=seconds, mib=mib)))
