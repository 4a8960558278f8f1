"Remove what `make docs` and `make demo` made; what they did not make is named, and stays."
import subprocess, sys
from pathlib import Path
from tl_nbdev.base.disk import remove, remove_listed
from tl_nbdev.base.settings import TransferError

root = Path(__file__).resolve().parent.parent

def demo(out):
    "Remove a demo's report and its model; what stays, or empty"
    if not out.is_dir(): return []
    try: remove(out/'model')
    except TransferError as e: print(e, file=sys.stderr)
    return remove_listed(out)

if __name__ == '__main__':
    if stays := demo(root/'demo_out'): print(f'demo_out: {", ".join(stays[:5])} stays, which make demo did not write', file=sys.stderr)
    sys.exit(subprocess.run([sys.executable, root/'tools'/'docs.py', '--clear']).returncode)
