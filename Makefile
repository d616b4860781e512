# Two commands set everything up on a fresh machine: `make quickstart` and `make test`.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

# The tests run in two processes, whose threads stall each other if they wait for work by spinning. Outside tests the
# command line lets them spin for some microseconds (framework/fewstep/runtime/threads.py).
check test test-all test-lowest plugins: export OMP_WAIT_POLICY = passive
check test test-all test-lowest plugins: export GOMP_SPINCOUNT = 0

.PHONY: help install quickstart check test test-all test-lowest plugins lint types docs demo bench-quick bench-base gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED)  ## create .venv and install fewstep with everything its tests need

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 6 GB, a minute or more"
	@$(PYTHON) -c 'import sys; sys.exit("fewstep needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@

quickstart: install  ## teacher and D-MMD student on printed digits, with a report (under 10 minutes on two cores)
	$(BIN)/fewstep benchmark quickstart --out results/quickstart

# pytest fails if it ran no test.
check: install  ## before each commit: style, types, and the tests of a second or less (under 5 minutes on two cores)
	@$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not medium"

test: install  ## the tests, without the slow ones (under 15 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: install  ## every test
	$(BIN)/python -m pytest

LOWEST := $(VENV)/lowest

test-lowest: install  ## fast tests with the lowest versions that pyproject.toml allows (under 10 minutes on two cores)
	$(PIP) install -q --no-deps --only-binary :all: --upgrade --target $(LOWEST) -r constraints-lowest.txt
	PYTHONPATH=$(LOWEST) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not medium" tests/core tests/recipe tests/cli tests/data tests/metrics tests/runs

plugins: install  ## wheels of all plugins in a clean environment: their tests, a few steps of their recipes (4 minutes)
	$(BIN)/python tests/packaging/check_plugins.py

lint: install  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## static types
	$(BIN)/mypy

# Not --quiet, which would hide warnings from --strict.
docs: $(VENV)/.docs  ## the site, in build/site (a minute)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(INSTALLED)
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/.demo  ## the demo page, opened in headless Chromium where there is one (a minute)
	$(BIN)/python -m pytest tests/demo

$(VENV)/.demo: $(INSTALLED)
	$(PIP) install -q -c constraints.txt -e '.[demo]' 'selenium>=4.20'
	@touch $@

# One thread for each of two processes on any machine, so that sums are added in the same order.
bench-quick bench-base: export OMP_NUM_THREADS = 2
bench-quick bench-base: export OMP_WAIT_POLICY = passive
BENCH := $(BIN)/fewstep benchmark exact --quick --jobs 2 --out results/exact-quick
BASE := benchmarks/results/exact-quick/base.json
SPEED := $(BIN)/python benchmarks/speed/run.py --quick --out results/speed-quick
SPEED_BASE := benchmarks/speed/base.json

bench-quick: install  ## small models where the truth is known, and ratios of speed, compared with kept results (3 minutes)
	$(BENCH) --compare $(BASE)
	$(SPEED) --compare $(SPEED_BASE)

bench-base: install  ## renew what bench-quick compares with: for a change that is meant to change the numbers
	$(BENCH)
	mkdir -p $(dir $(BASE))
	cp results/exact-quick/results.json $(BASE)
	$(SPEED)
	cp results/speed-quick/results.json $(SPEED_BASE)

# GPU="--minutes 12 --data FOLDER" and other options: see benchmarks/gpu/run.py.
gpu: install  ## correctness, speed and few-step models on a GPU (under 9 minutes on an H200; it goes on if cut off)
	$(BIN)/python benchmarks/gpu/run.py $(GPU)

clean:  ## remove what was installed and computed
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
