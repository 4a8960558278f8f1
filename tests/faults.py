"Which commands write what, and how each ends when a disk fails it: tests/test_faults.py holds them to it, and a how-to page shows it."

ends = dict(
    taken='refused before the work; what is there stays',
    readonly='refused before the work',
    full='the result is printed, one line says what could not be kept',
    killed='whole or absent; the next one sweeps up')

titles = dict(taken='the name is taken', readonly='read-only', full='the disk is full', killed='killed while writing')

writes = {
    'tl-train': ('--out', '--json'), 'tl-compare': ('--runs', '--json'), 'tl-advise': ('--out', '--json'), 'tl-adapt': ('--out', '--json'), 'tl-eval': ('--json',), 'tl-predict': ('--json',),
    'tl-audit': ('--json',), 'tl-gap': ('--json',), 'tl-models': ('--json',), 'tl-samples': ('--json',), 'tl-cache': ('--json',), 'tl-demo': ('--out',)}

def rows():
    "A row for each command and option that writes"
    return [{'command': f'{command} {option}', **{titles[k]: v for k, v in ends.items()}} for command, options in writes.items() for option in options]
