# Needs Python 3.11 or newer and make; everything else is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# The first Python on the path that is new enough and can make an environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Each test process uses one thread; more would fight over the cores.
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2

.PHONY: help setup demo lint test clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything for development (nothing to do when it is up to date)

# torch comes first, in a request of its own: left to the other packages' needs, Linux gets another
# build of it and gigabytes of CUDA libraries with it.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv found; give one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## teacher, student without and with it, report, viewer: ten minutes on 2 cores
	env -u OMP_NUM_THREADS $(BIN)/sonodetr demo

lint: $(STAMP)  ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## lint, then run all tests and the examples in docstrings
	$(BIN)/python -m pytest -n $(WORKERS) --durations=10 --doctest-modules tests src

clean:  ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist src/*.egg-info
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
