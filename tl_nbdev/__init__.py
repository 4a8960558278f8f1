import os

__version__ = "0.0.1"

# Must be set before torch starts its threads: see "Threads that wait" in nbs/api/00_settings.ipynb.
if 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '1000')
