"""Stored outputs belong to the code above them. A page's code has a hash in nbs/outputs.json, written when its outputs were stored;
`--check` fails where the code has changed since. Without it, stale pages (or those that are named) are run, and their outputs stored."""
import hashlib, json, subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
file = root/'nbs'/'outputs.json'

def pages(): return sorted(o for o in (root/'nbs').rglob('*.ipynb') if not any(p.startswith(('.', '_')) for p in o.relative_to(root).parts))

def code(page):
    "Hash of the code of a page, cell by cell"
    cells = [''.join(c['source']).strip() for c in json.loads(page.read_text('utf-8'))['cells'] if c['cell_type'] == 'code']
    return hashlib.blake2b(json.dumps(cells).encode(), digest_size=8).hexdigest()

def known(): return json.loads(file.read_text('utf-8')) if file.exists() else {}

def stale():
    was = known()
    return [p for p in pages() if was.get(str(p.relative_to(root/'nbs'))) != code(p)]

def stamp(done):
    now = {str(p.relative_to(root/'nbs')): code(p) for p in pages()}
    was = known()
    file.write_text(json.dumps({k: v if root/'nbs'/k in done else was.get(k, '') for k, v in now.items()}, indent=1) + '\n', encoding='utf-8')

if __name__ == '__main__':
    args = sys.argv[1:]
    if args == ['--check']:
        if (old := stale()): sys.exit('stored outputs are older than their code: ' + ', '.join(str(p.relative_to(root)) for p in old) + '\nrun python tools/outputs.py, look at them, and commit')
    elif args[:1] == ['--stamp']: stamp([(root/o).resolve() for o in args[1:]] or pages()) # they were stored just now
    else:
        for p in [(root/o).resolve() for o in args] or stale():
            if subprocess.run([Path(sys.executable).parent/'nbdev-test', '--n-workers', '1', '--save', p], cwd=root).returncode: sys.exit(f'{p.relative_to(root)}: it does not run, so its outputs stay as they were')
            stamp([p])
        subprocess.run([Path(sys.executable).parent/'nbdev-clean'], cwd=root, check=True)
