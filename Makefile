PYTHON ?= python3
DATA ?= elpv
OUT ?= demo_out
ARGS ?=

BIN := .venv/bin
READY := .venv/ready
# nbdev-test runs one notebook a core: with more than one torch thread each they would fight over the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# pytest runs one file a core; the tests of a file share what they train.
EACH_CORE := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu docs outputs readme bench clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml constraints.txt
	@$(BIN)/python -c '' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "Python 3.11 or newer is needed, and $(PYTHON) is not that: make PYTHON=/path/to/python3.11"; exit 1; }; \
	  echo "==> making .venv (the first time takes minutes and about 7 GB)"; \
	  $(PYTHON) -m venv --clear .venv; }
	@echo "==> installing the tested set into .venv"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@$(BIN)/python tools/stubs.py
	@touch $@

demo: $(READY)  ## from data to a report: make demo DATA=elpv OUT=demo_out
	@echo "==> tl-demo $(DATA) --out $(OUT) $(ARGS)"
	@$(BIN)/tl-demo "$(DATA)" --out "$(OUT)" $(ARGS)

# `make test NBDEV_TEST=--all` runs all pages, and those too that take long and of which nothing has changed since their outputs were stored.
test: $(READY)  ## all that must hold before a change goes in
	@echo "==> notebooks are clean, and tl_nbdev/ is what they export"
	@$(BIN)/python tools/check.py
	@echo "==> README.md is what nbs/index.ipynb makes"
	@$(BIN)/python tools/readme.py --check
	@$(BIN)/python tools/outputs.py --check
	@echo "==> nbdev-test: the notebooks run, and show what is stored"
	@$(ONE_THREAD) $(BIN)/python tools/outputs.py --test $(NBDEV_TEST)
	@echo "==> pytest: what a notebook cannot hold"
	@$(ONE_THREAD) $(BIN)/python -m pytest -q $(EACH_CORE) $(PYTEST)
	@$(BIN)/python tools/browser.py

test-gpu: $(READY)  ## the same, with what needs a GPU
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(MAKE) test NBDEV_TEST='--flags cuda' PYTEST="-m 'not slow and not hub'"; \
	else echo "==> no GPU here: nothing to test beyond make test"; fi

docs: $(READY)  ## build the site in _docs, with Quarto where it is installed
	@echo "==> building the site in _docs"
	@$(BIN)/python tools/docs.py

outputs: $(READY)  ## run the pages whose code, or the package behind them, changed, and store what they show
	@echo "==> stale pages, run and stored"
	@$(ONE_THREAD) $(BIN)/python tools/outputs.py

readme: $(READY)  ## make README.md from nbs/index.ipynb
	@echo "==> README.md from nbs/index.ipynb"
	@$(BIN)/python tools/readme.py

bench: $(READY)  ## measure against others, side by side
	@echo "==> benchmarks"
	@$(BIN)/python -m benchmarks.run

clean:  ## remove what make made, except .venv
	@echo "==> removing build leftovers, and of _docs, _proc and demo_out what was made"
	@rm -rf build dist *.egg-info nbs/nbdev.yml nbs/sidebar.yml .pytest_cache .hypothesis
	@if [ -x $(BIN)/python ]; then $(BIN)/python tools/clean.py; fi
