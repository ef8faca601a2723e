# Two commands do everything from a fresh clone: `make reproduce` and `make test`. `make help` lists the others.
PYTHON  ?= python3
PROFILE ?= smoke
DEVICE  ?= cpu
ARGS    ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# papermill's kernel `python3` has to be this environment's, whatever else the user has installed.
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test bench docs lab export clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  PYTHON=python3.12   the interpreter that .venv is made with (3.11 or newer; default python3)'
	@echo '  PROFILE=small       what `make reproduce` runs: smoke (default), small or paper'
	@echo '  DEVICE=cuda         what `make bench` measures: cpu (default) or cuda'
	@echo '  ARGS="..."          handed on, as in: make reproduce ARGS="--table fis_resnet"   make test ARGS="-k 02_scan"'

setup: $(STAMP) ## make .venv with everything in it (a few minutes and 6.5 GB the first time, then instant)

# The stamp is written last: an interrupted installation is taken up again. A .venv whose Python or pip does not start is made anew.
$(STAMP): settings.ini setup.py constraints.txt
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "fastsums needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	    echo 'Name another one: make setup PYTHON=/path/to/python3.12'; exit 1; }; \
	  echo 'Making $(VENV) with $(PYTHON)'; $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --use-pep517 --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

reproduce: setup ## regenerate every table and figure (PROFILE=smoke|small|paper)
	$(BIN)/fastsums_reproduce --profile $(PROFILE) $(ARGS)
	@echo
	@echo 'Tables and pictures: figures/    every run, with its executed notebook: runs/'

test: setup ## the whole test suite with pytest: notebooks, README, imports, conformance
	$(BIN)/python -m pytest $(ARGS)

bench: setup ## benchmark the kernels on this machine (DEVICE=cuda: on its GPU)
	$(BIN)/python kernels/bench.py --device $(DEVICE) $(ARGS)

# quarto would write its own README.md when index.ipynb is newer; ours comes from .ci/book.py.
docs: setup ## render the notebooks as a book into _docs/ (with quarto if it is installed)
	@if command -v quarto >/dev/null; then touch README.md && $(BIN)/nbdev_docs; else $(BIN)/python .ci/book.py $(ARGS); fi
	@echo 'The book: _docs/index.html'

lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(ARGS)

export: setup ## after editing notebooks: write the package and README.md, clean the notebooks
	$(BIN)/nbdev_export
	$(BIN)/python kernels/lower.py
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/book.py --readme

clean: ## remove what is built (not .venv, runs/ or figures/)
	rm -rf _docs _proc build dist *.egg-info nbs/nbdev.yml nbs/sidebar.yml
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
	find . -path ./$(VENV) -prune -o \( -name '*.nbi' -o -name '*.nbc' \) -type f -exec rm -f {} +
