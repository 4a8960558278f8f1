"LogME of 10,000 x 1,280 features beside the same by a full singular value decomposition"
from statistics import median

from fastcore.script import call_parse
from .common import Records, goal

quick = dict(n=300, d=64, repeats=1)

def work(n, d, classes, repeats):
    "Both in turn, on the same features"
    import time
    import numpy as np
    from tl_nbdev.selection.scores import _log_evidence, h_score, logme, shrunken_h_score
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    f = (rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y]).astype(np.float32)
    def by_svd():
        x, t = f.astype(np.float64), np.eye(classes)[y]
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        x2 = (u.T@t)**2
        return float(np.mean([_log_evidence(s**2, x2[:, c], t[:, c].sum(), n, d) for c in range(classes)]))
    took, said = {}, {}
    for _ in range(repeats):
        for name, score in dict(logme=lambda: logme(f, y), svd=by_svd, h_score=lambda: h_score(f, y), shrunken_h_score=lambda: shrunken_h_score(f, y)).items():
            start = time.perf_counter()
            said[name] = score()
            took.setdefault(name, []).append(round(time.perf_counter() - start, 3))
    return dict(seconds=took, values=said)

@call_parse
def bench(
    n:int=10000, # items
    d:int=1280, # features
    classes:int=10,
    repeats:int=5, # in turn
    again:bool=False, # measure anew what is there already
    out:str=None # folder of the records; default benchmarks/results
):
    "Seconds of a score"
    records = Records('scores', again, out)
    run = records.measure('work', n=n, d=d, classes=classes, repeats=repeats)
    took, said = run['found']['seconds'], run['found']['values']
    ratio = median(b/a for a, b in zip(took['logme'], took['svd']))
    records.write(ratio=dict(svd_to_logme=ratio), measurements=[run], arguments=dict(n=n, d=d, classes=classes, repeats=repeats),
                  table=[dict(score=k, **{'seconds, median': f'{median(v):.2f}', 'value': f'{said[k]:.6f}'}) for k, v in took.items()],
                  reached=[goal('a full singular value decomposition / LogME, time', ratio, least=5), goal('difference of the two values', abs(said['logme'] - said['svd']), most=1e-6, show='{:.1e}')],
                  remarks=[f'{n:,} items, {d:,} features, {classes} classes, float32; in turn, {repeats} times. The decomposition is numpy\'s, of the features themselves; here it is of their Gram matrix, in double precision.'])
