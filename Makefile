# d2rkit: `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
# More words for pip. A laptop user who wants the small CPU-only torch passes the CPU index that PyTorch's
# installation page names: make demo PIP_ARGS="--extra-index-url <that index>".
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help install demo test check thorough faults lab lint clean

help:  ## list these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## create .venv and install the kit with everything it can use

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "d2rkit needs Python 3.11 or newer; choose one with PYTHON=..., e.g. make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_ARGS) -e '.[lab,slurm,export,dev]'
	@touch $@

# What single commands may use (--log, --network timm:NAME), so that their tests are not skipped.
$(VENV)/.extras: $(VENV)/.installed
	$(BIN)/pip install $(PIP_ARGS) -e '.[tensorboard,mlflow,zoo]'
	@touch $@

demo: install  ## train and attack the quick table on handwritten digits, print it and write its figures
	$(BIN)/d2rkit reproduce quick

# In the order of the files, which begins with the long ones: sorted by their number, few but long tests come last.
test: $(VENV)/.extras  ## run the tests, one process per core (small networks want one thread each)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder -m "not thorough"

check: install  ## run the quick tests, those for daily work: under 90 s on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical -m "not slow and not thorough"

thorough: $(VENV)/.extras  ## run the long tests that `make test` leaves out; CI runs both
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder -m thorough

# Small disks need root: without it those trials are skipped, and say so.
faults: install  ## kill processes, fill disks, flip bits, for some minutes: nothing may be lost
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n logical --dist worksteal tests/faults/faults.py

lab: install  ## open JupyterLab at your own copy of the start notebook, in my_notebooks
	$(BIN)/d2rkit lab

lint: install  ## check style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove .venv and caches; runs, results and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
