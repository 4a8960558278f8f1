"What the benchmarks share: a fresh process for each measurement, seconds and memory of a block, and records that say what they depend on"
import hashlib, json, os, platform, re, shutil, subprocess, sys, tempfile, threading, time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev

from scipy import stats
from tl_nbdev.base.disk import whole
from tl_nbdev.base.keep import now, plain, versions, write_json
from tl_nbdev.base.settings import device, settings

root = Path(__file__).resolve().parent.parent
results = root/'benchmarks'/'results' # records
runs = root/'benchmarks'/'runs' # single runs, which git doesn't keep


# what is measured

def memory(
    what # `RssAnon`: now, without pages of files; `VmHWM`: all memory, the highest so far
) -> float: # MiB; `None` where the system has no /proc
    "Memory of this process"
    status = Path('/proc/self/status')
    return round(int(re.search(rf'{what}:\s+(\d+) kB', status.read_text())[1])/1024, 1) if status.exists() else None

class Meter:
    "Seconds of a block, and its highest memory: `with Meter() as m: …`, then `m.record()`"
    def __enter__(self):
        # Linux keeps the highest RSS itself (VmHWM), but not that of anonymous memory, which is looked at 50 times a second.
        self.before = self.anon = memory('RssAnon')
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        if self.before: self._looking.start()
        self._start = time.perf_counter()
        return self

    def _look(self):
        while not self._over.wait(.02): self.anon = max(self.anon, memory('RssAnon'))

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self._start
        self._over.set()
        if self.before: self._looking.join()

    def record(self):
        "As a record states it"
        return dict(seconds=round(self.seconds, 3), anon_before_mib=self.before, anon_peak_mib=self.anon)

class Laps(dict):
    "Seconds of one step after another: `laps('fit')` ends a step"
    def __init__(self): self._last = time.perf_counter()
    def __call__(self, step):
        t, self._last = self._last, time.perf_counter()
        self[step] = round(self._last - t, 3)

def half_is_faster(size=512):
    "Are matrix products in bf16 faster here than in fp32? On a CPU without instructions for them they take a hundred times longer, and nobody who tunes would choose them"
    import torch
    d, best = device(), {}
    for dtype in (torch.float32, torch.bfloat16):
        a, took = torch.randn(size, size).to(d, dtype), []
        for _ in range(5):
            start = time.perf_counter()
            (a@a).float().sum().item()
            took.append(time.perf_counter() - start)
        best[dtype] = min(took)
    return best[torch.bfloat16] < best[torch.float32]

@contextmanager
def fresh_cache():
    "A cache without features and scans; samples, and what is known about this machine, are those of the ordinary one"
    cache = settings().cache.absolute()
    with tempfile.TemporaryDirectory(dir=cache, prefix='benchmark-') as d:
        (Path(d)/'samples').symlink_to(cache/'samples')
        if (known := cache/'machine.json').exists(): shutil.copy(known, d)
        os.environ['TL_CACHE'] = d
        try: yield
        finally: os.environ['TL_CACHE'] = str(cache)


# what is known about a measurement

known_units = {'amx_bf16': 'AMX bf16', 'avx512_bf16': 'AVX-512 bf16', 'avx512f': 'AVX-512', 'avx2': 'AVX2', 'bf16': 'NEON bf16', 'asimd': 'NEON'} # the fastest first

def units(
    info # what Linux says of its processors
) -> str: # names as Linux has them
    "What the processor multiplies matrices with, the fastest first"
    flags = re.search(r'^(?:flags|Features)\s*:\s*(.+)$', info, re.M)
    return ' '.join(name for name in known_units if flags and name in flags[1].split())

def machine() -> dict:
    "What a measurement's speed depends on, and nothing that tells whose machine it is"
    import torch
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    cpu = re.search(r'^model name\s*:\s*(.+)$', info, re.M)
    d = device()
    return dict(cpu=cpu[1] if cpu else platform.processor() or platform.machine(), cores=os.cpu_count(), torch_threads=torch.get_num_threads(),
                cpu_capability=torch.backends.cpu.get_cpu_capability(), units=units(info), memory_gib=round(os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30),
                device=torch.cuda.get_device_name(d) if d.type == 'cuda' else d.type, system=f'{platform.system()} {platform.machine()}')

def same_machine(
    a, b # from `machine`; one that was written down earlier may say less
) -> bool:
    "Do both say the same, as far as both say anything?"
    return all(a[k] == b[k] for k in a.keys() & b.keys())

def kind_of(
    machine # from `machine`
) -> str: # the GPU, or what the processor multiplies matrices with
    "What measurements of different machines are told apart by"
    if machine['device'] != 'cpu': return machine['device']
    first = machine.get('units', '').split()[:1]
    # records without units are of processors that multiply in bf16 where they have AVX-512
    return known_units[first[0]] if first else machine['cpu_capability'].replace('AVX512', 'AVX-512 bf16')

def code(
    modules=None # files, relative to the package; default all
) -> str:
    "A short hash of the package's source: its version doesn't change with every change"
    files = [root/'tl_nbdev'/o for o in modules] if modules else sorted((root/'tl_nbdev').rglob('*.py'))
    return hashlib.blake2b(b''.join(f.read_bytes() if f.exists() else b'' for f in files), digest_size=6).hexdigest()

def _imported():
    "The files of the package that this process imported"
    files = [Path(m.__file__) for name, m in sys.modules.items() if name.partition('.')[0] == 'tl_nbdev']
    return sorted(file.relative_to(root/'tl_nbdev').as_posix() for file in files)

def work():
    "What a fresh process does: carry out one job, and write what it returns"
    bench, job, args, out = sys.argv[1:]
    load, start = os.getloadavg()[0], time.perf_counter()
    found = getattr(import_module(f'benchmarks.{bench}'), job)(**json.loads(args))
    process = dict(seconds=round(time.perf_counter() - start, 3), cpu_seconds=round(sum(os.times()[:4]), 1), rss_peak_mib=memory('VmHWM'))
    write_json(out, dict(found=found, process=process, load_before=round(load, 2), machine=machine(), versions=versions(), modules=(used := _imported()), code=code(used), date=now()))

def fresh_process(
    bench, # a module of this package
    job, # a function of it, which returns what JSON can hold
    ours=True, # else the package's choice of how long threads spin is taken back: it must not touch a peer
    **args # for the function
) -> dict: # what it returned as `found`, seconds, memory, and what they depend on
    "Carry out a job in a fresh Python process"
    with tempfile.TemporaryDirectory() as d:
        out = Path(d)/'out.json'
        cmd = [sys.executable, '-c', 'from benchmarks.common import work; work()', bench, job, json.dumps(args), out]
        env = os.environ if ours else {**os.environ, 'GOMP_SPINCOUNT': '300000'} # OpenMP's own default
        got = subprocess.run(cmd, cwd=root, capture_output=True, text=True, env=env)
        if got.returncode: raise SystemExit(f'{bench} {job} {args} failed:\n{got.stderr[-3000:]}')
        return json.loads(out.read_text())

def as_record(
    data:dict # what JSON can hold
) -> str:
    "JSON that a person can read and a comparison can follow: each row of a list on a line of its own"
    def show(value):
        rows = value and isinstance(value, list) and all(isinstance(o, (dict, list)) for o in value)
        one = lambda o: json.dumps(o, ensure_ascii=False)
        return '[\n  ' + ',\n  '.join(map(one, value)) + '\n ]' if rows else one(value)
    return '{\n ' + ',\n '.join(f'{json.dumps(k)}: {show(v)}' for k, v in data.items()) + '\n}\n'

def key_of(measurement) -> str:
    "What tells one measurement of a benchmark from another"
    given = {k: v for k, v in measurement['arguments'].items() if v is not None}
    return json.dumps([measurement['job'], given, measurement['repeat']], sort_keys=True)

def without_answers(found):
    "What a measurement found, without its answers, item by item"
    return {k: v for k, v in found.items() if k not in ('probs', 'predicted')}

def answers(
    found, # by a measurement: `probs`, or only `predicted`, which is what a record keeps of them
    classes:int # how many there are
): # `(n, classes)`; where the class is all that is known, its probability is 1: enough for accuracy
    "The answers of a run, item by item"
    import numpy as np
    return np.array(found['probs']) if 'probs' in found else np.eye(classes)[found['predicted']]

def load_record(
    file # of a benchmark
) -> list: # of measurements as `measure` returns them
    "The measurements in a record, each with the machine, the versions and the answers that it goes with"
    import numpy as np
    file = Path(file)
    if not file.exists(): return []
    record, beside = json.loads(file.read_text(encoding='utf-8')), file.with_suffix('.npz')
    predicted = np.load(beside) if beside.exists() else {}
    def one(i, o):
        o = {k: record[k] for k in ('machine', 'versions')} | o
        if 'imports' in o: o['modules'] = record['imports'][o.pop('imports')]
        if str(i) in predicted: o['found'] = dict(o['found'], predicted=predicted[str(i)])
        return o
    return [one(i, o) for i, o in enumerate(record['measurements'])]

def save_record(
    file, # to write; what was predicted goes beside it
    measurements:list, # as `measure` returns them
    **record # the rest: tables, goals, what they depend on
):
    "One readable file a benchmark, and the classes predicted, compressed, beside it"
    import numpy as np
    imports, rows, predicted = [], [], {}
    for i, o in enumerate(measurements):
        found = o['found']
        row = {k: o[k] for k in ('job', 'repeat', 'arguments')}
        row |= dict(found=without_answers(found), **{k: o[k] for k in ('process', 'load_before', 'code', 'date')})
        row |= {k: o[k] for k in ('machine', 'versions') if o[k] != record[k]}
        if o.get('modules'):
            if o['modules'] not in imports: imports.append(o['modules'])
            row['imports'] = imports.index(o['modules'])
        if 'probs' in found or 'predicted' in found:
            classes = np.argmax(found['probs'], 1) if 'probs' in found else np.asarray(found['predicted'])
            predicted[str(i)] = classes.astype(np.min_scalar_type(int(classes.max(initial=0))))
        rows.append(row)
    # `plain` makes of tuples, numpy's numbers and the like what JSON can hold
    text = as_record(plain(dict(record, imports=imports, measurements=rows)))
    with whole(file) as tmp: tmp.write_text(text, encoding='utf-8')
    beside = Path(file).with_suffix('.npz')
    if not predicted: return beside.unlink(missing_ok=True)
    with whole(beside) as tmp, open(tmp, 'wb') as f: np.savez_compressed(f, **predicted)

def beside(
    file, # of a record
    machine # from `machine`
) -> Path:
    "Where the record of another kind of machine lies, while a newer one has its place"
    return Path(file).parent/'other'/re.sub(r'\W+', '-', kind_of(machine)).lower()/Path(file).name

def lay_beside(
    file, # of a record, which is about to be written
    machine # on which
):
    "A record of another kind of machine is kept, and one of this kind, which lay beside, is replaced"
    for suffix in ('.json', '.npz'): beside(file, machine).with_suffix(suffix).unlink(missing_ok=True)
    before = json.loads(file.read_text(encoding='utf-8'))['machine'] if file.exists() else machine
    if kind_of(before) == kind_of(machine): return
    to = beside(file, before)
    to.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ('.json', '.npz'):
        if file.with_suffix(suffix).exists(): os.replace(file.with_suffix(suffix), to.with_suffix(suffix))

class Records:
    """The measurements of one benchmark. While it runs, each is in a file of its own (in `runs`, which git doesn't
    keep), so that a run which was cut off goes on where it was; at the end all of them are in its record."""
    def __init__(self,
        bench, # a module of this package
        again=False, # measure anew what is there already
        folder=None, # of records, and in it `runs`; default `results` and `runs`
        earlier=False # is a measurement kept whose code has changed since? Each says which code it was
    ):
        self.bench, self.again, self.earlier = bench, again, earlier
        self.file = Path(folder or results)/f'{bench}.json'
        self.runs = (Path(folder)/'runs' if folder else runs)/bench
        self.here = dict(machine=machine(), versions=versions(), code=code())
        self.recorded = {key_of(o): o for o in load_record(self.file)}

    def _file(self, job, repeat, arguments):
        "Of one measurement; a name that every system can have"
        given = [f'{k}={v}' for k, v in arguments.items() if v is not None]
        name = '-'.join([job, *given, f'repeat={repeat}'])
        return self.runs/(re.sub(r'[^\w=.,+-]+', '_', name) + '.json')

    def _known(self, file, key):
        "A measurement that was made before, the latest; or None"
        found = json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
        both = [o for o in (found, self.recorded.get(key)) if o and key_of(o) == key]
        return max(both, key=lambda o: o['date'], default=None)

    def _holds(self, known, ours, anywhere):
        "Was it made on this machine, with these versions and this code?"
        same = known['versions'] == self.here['versions'] and (anywhere or same_machine(known['machine'], self.here['machine']))
        return same and (not ours or self.earlier or known['code'] == code(known.get('modules')))

    def measure(self,
        job, # a function of that module
        repeat=1, # its number
        ours=True, # does it depend on the package's code?
        anew=False, # measure it, whatever is known
        anywhere=False, # does a measurement of another machine count? For what doesn't depend on it: seconds are compared by `pairs`
        **args # for the function; they name the file too
    ) -> dict: # see `fresh_process`
        "One measurement; one that is known, if it was made on this machine with these versions and this code"
        file = self._file(job, repeat, args)
        known = self._known(file, key_of(dict(job=job, repeat=repeat, arguments=plain(args))))
        if known and not (self.again or anew) and self._holds(known, ours, anywhere):
            print(f'{self.bench} {file.stem}: kept from {known["date"]}')
            return known
        made = dict(job=job, repeat=repeat, arguments=args, **fresh_process(self.bench, job, ours, **args))
        write_json(file, made)
        print(f'{self.bench} {file.stem}: {made["process"]["seconds"]:.0f} s', flush=True)
        return made

    def seconds(self,
        runs # of one job
    ) -> list: # of each, those of this machine if there are any
        "Seconds that `found` tells"
        return [o['found']['seconds'] for o in runs if same_machine(o['machine'], self.here['machine'])] or [o['found']['seconds'] for o in runs]

    def _others(self, measurements):
        "What is said of measurements of another machine, a list of at most one sentence"
        away = [o['machine'] for o in measurements if not same_machine(o['machine'], self.here['machine'])]
        shown = '{cpu}, {cores} cores, {cpu_capability}, {torch_threads} torch threads'
        said = '; '.join(sorted({shown.format(**m) for m in away}))
        return [f'{len(away)} of {len(measurements)} measurements are of another machine ({said}): what they found counts, '
                'and their seconds are compared only with those of the same machine.'] if away else []

    def write(self,
        reached, # list of `goal`
        table, # list of dicts, for the page
        remarks, # list of sentences
        arguments, # of the run
        measurements, # all of them
        **record # ratios first, then medians
    ):
        "The record of the whole run; measurements of the last one that this one doesn't have are laid aside"
        used = {key_of(plain(o | dict(found={}))) for o in measurements}
        for key, o in self.recorded.items():
            file = self._file(o['job'], o['repeat'], o['arguments'])
            if key not in used and not file.exists(): write_json(file, o)
        dates = sorted(o['date'] for o in measurements)
        lay_beside(self.file, self.here['machine'])
        save_record(self.file, measurements, **record, reached=reached, table=table, arguments=arguments, **self.here,
                    remarks=[*remarks, *self._others(measurements)], date=dates[-1], begun=dates[0])


def pairs(
    ours, theirs # lists of measurements, of one seed or split each, in the same order
) -> list: # of pairs of what they found
    "Those whose seconds may be compared: both of one machine"
    return [(a['found'], b['found']) for a, b in zip(ours, theirs) if same_machine(a['machine'], b['machine'])]


# what is said about measurements

def verdict(
    low, high, # ends of the interval of what was measured; twice the value where there is none
    least=None, most=None # what it should be; for a difference, 0
) -> str: # `better`, `worse`, or `can't tell` where the interval holds values of both kinds
    "What an interval says beside a goal"
    good = (low >= least, high >= least) if least is not None else (high <= most, low <= most)
    return 'better' if all(good) else "can't tell" if any(good) else 'worse'

def goal(
    what, # was measured
    value, # that was reached
    least=None, most=None, # what it should be; none for a comparison without a goal
    show='{:.1f}', # how the value is written
    ends=None, # lower and upper end of its 95 % interval
    than=None # what an interval is compared with that has no goal: of a difference 0
) -> dict:
    "One line of the table of goals"
    aim = '' if most is None else f'≤ {show.format(most)}'
    if least is not None: aim = f'≥ {show.format(least)}'
    low, high = ends or (value, value)
    least = than if ends and not aim else least
    interval = f'[{show.format(low)}, {show.format(high)}]' if ends else ''
    said = '' if least is None and most is None else verdict(low, high, least, most)
    return dict(what=what, goal=aim, reached=show.format(value), interval=interval, verdict=said)

def interval(
    values # one a split
) -> list: # lower and upper end; `None` for fewer than two values
    "The 95 % interval of a mean (Student's t)"
    if len(values) < 2: return None
    half = stats.t.ppf(.975, len(values) - 1)*stdev(values)/len(values)**.5
    return [mean(values) - half, mean(values) + half]
