"What the benchmarks share: a fresh process for each measurement, seconds and memory of a block, and records that say what they depend on"
import hashlib, json, os, platform, re, shutil, subprocess, sys, tempfile, threading, time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev

from scipy import stats
from tl_nbdev.keep import now, versions, write_json
from tl_nbdev.settings import device, settings

root = Path(__file__).resolve().parent.parent
results = root/'benchmarks'/'results'


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

def machine() -> dict:
    "What a measurement's speed depends on, and nothing that tells whose machine it is"
    import torch
    info = Path('/proc/cpuinfo')
    cpu = re.search(r'^model name\s*:\s*(.+)$', info.read_text(), re.M) if info.exists() else None
    d = device()
    return dict(cpu=cpu[1] if cpu else platform.processor() or platform.machine(), cores=os.cpu_count(), torch_threads=torch.get_num_threads(),
                cpu_capability=torch.backends.cpu.get_cpu_capability(), memory_gib=round(os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30),
                device=torch.cuda.get_device_name(d) if d.type == 'cuda' else d.type, system=f'{platform.system()} {platform.machine()}')

def code(
    modules=None # names of files; default all
) -> str:
    "A short hash of the package's source: its version doesn't change with every change"
    files = [root/'tl_nbdev'/o for o in modules] if modules else sorted((root/'tl_nbdev').glob('*.py'))
    return hashlib.blake2b(b''.join(f.read_bytes() if f.exists() else b'' for f in files), digest_size=6).hexdigest()

def _imported(): return sorted(Path(m.__file__).name for n, m in sys.modules.items() if n.partition('.')[0] == 'tl_nbdev')

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

class Records:
    "The measurements of one benchmark: each in a file of its own, so that a run which was cut off goes on where it was"
    def __init__(self,
        bench, # a module of this package
        again=False, # measure anew what is there already
        folder=None, # default `results`
        earlier=False # is a measurement kept whose code has changed since? Each says which code it was
    ):
        self.bench, self.again, self.earlier, self.folder, self.here = bench, again, earlier, Path(folder or results), dict(machine=machine(), versions=versions(), code=code())

    def measure(self,
        job, # a function of that module
        repeat=1, # its number
        ours=True, # does it depend on the package's code?
        anew=False, # measure it, whatever is known
        anywhere=False, # does a measurement of another machine count? For what doesn't depend on it: seconds are compared by `pairs`
        **args # for the function; they name the file too
    ) -> dict: # see `fresh_process`
        "One measurement; from its file, if it was taken on this machine with these versions and this code"
        name = '-'.join([job, *(f'{k}={v}' for k, v in args.items() if v is not None), f'repeat={repeat}'])
        file = self.folder/self.bench/f'{name}.json'
        if file.exists() and not (self.again or anew):
            known = json.loads(file.read_text())
            if all(known[k] == v for k, v in self.here.items() if k != 'code' and not (anywhere and k == 'machine')) and (not ours or self.earlier or known['code'] == code(known.get('modules'))): print(f'{self.bench} {name}: kept from {known["date"]}'); return known
        known = dict(job=job, repeat=repeat, arguments=args, **fresh_process(self.bench, job, ours, **args))
        write_json(file, known)
        print(f'{self.bench} {name}: {known["process"]["seconds"]:.0f} s', flush=True)
        return known

    def seconds(self,
        runs # of one job
    ) -> list: # of each, those of this machine if there are any
        "Seconds that `found` tells"
        return [o['found']['seconds'] for o in runs if o['machine'] == self.here['machine']] or [o['found']['seconds'] for o in runs]

    def write(self,
        reached, # list of `goal`
        table, # list of dicts, for the page
        remarks, # list of sentences
        arguments, # of the run
        measurements, # all of them
        **record # ratios first, then medians
    ):
        "The record of the whole run"
        dates = sorted(o['date'] for o in measurements)
        less = lambda o: dict(o, found={k: v for k, v in o['found'].items() if k != 'probs'}) # which are in the file of each measurement
        single = [{k: less(o)[k] for k in ('job', 'repeat', 'arguments', 'found', 'process', 'load_before', 'code', 'date')} | ({} if o['machine'] == self.here['machine'] else dict(machine=o['machine'])) for o in measurements]
        if others := sorted({f'{m["cpu"]}, {m["cores"]} cores, {m["cpu_capability"]}, {m["torch_threads"]} torch threads' for o in single if (m := o.get('machine'))}):
            remarks = [*remarks, f'{sum("machine" in o for o in single)} of {len(single)} measurements are of another machine ({"; ".join(others)}): what they found counts, and their seconds are compared only with those of the same machine.']
        write_json(self.folder/f'{self.bench}.json', dict(**record, reached=reached, table=table, remarks=remarks, arguments=arguments, **self.here, date=dates[-1], begun=dates[0], measurements=single))


def pairs(
    ours, theirs # lists of measurements, of one seed or split each, in the same order
) -> list: # of pairs of what they found
    "Those whose seconds may be compared: both of one machine"
    return [(a['found'], b['found']) for a, b in zip(ours, theirs) if a['machine'] == b['machine']]


# what is said about measurements

def goal(
    what, # was measured
    value, # that was reached
    least=None, most=None, # what it should be; none for a comparison without a goal
    show='{:.1f}' # how the value is written
) -> dict:
    "One line of the table of goals"
    aim = f'≥ {show.format(least)}' if least is not None else f'≤ {show.format(most)}' if most is not None else ''
    met = None if not aim else value >= least if least is not None else value <= most
    return dict(what=what, goal=aim, reached=show.format(value), met={None: '', True: 'yes', False: 'no'}[met])

def interval(
    values # one a split
) -> list: # lower and upper end; `None` for fewer than two values
    "The 95 % interval of a mean (Student's t)"
    if len(values) < 2: return None
    half = stats.t.ppf(.975, len(values) - 1)*stdev(values)/len(values)**.5
    return [mean(values) - half, mean(values) + half]
