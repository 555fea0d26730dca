# SPDX-License-Identifier: BSD-3-Clause
# Every target does its own set-up (tools/setup). PROJECTS and ARGS go to piw-farm; TESTS and ARGS to pytest.

PYTHON = .venv/bin/python
# Hundreds of processes load the same modules; compiled by each they take half as long again to start.
unexport PYTHONDONTWRITEBYTECODE
TESTS ?= tests

.PHONY: help farm check test test-diet test-long test-pypi test-arm bench bench-scale fuzz soak chaos docs clean

help:
	@echo 'make farm        a whole farm on this machine, in farm/  (PROJECTS="spidev smbus" ARGS=--once)'
	@echo 'make check       formatting, lint, types, unit tests'
	@echo 'make test        all tests, on a PostgreSQL of their own'
	@echo 'make test-diet   the tests of what a builder runs, on the oldest versions it may have'
	@echo 'make test-long   100 000 jobs, 20 builders that are killed all the time; a farm with two Pythons (hours)'
	@echo 'make test-pypi   the tests that talk to the real PyPI'
	@echo 'make test-arm    a builder in an emulated ARM system (root; several minutes)'
	@echo 'make bench       every benchmark, one table (ARGS=--small: a fiftieth of it; make bench-dump: only that one)'
	@echo 'make soak        a long day at PyPI, everything going wrong; ten minutes (ARGS="--seed 2")'
	@echo 'make chaos       2 000 builds while everything is killed and cut off; an auditor (ARGS="--seed 2 --builds 200")'
	@echo 'make bench-scale the same on a farm of PyPI'"'"'s size, made here (25 GB; ARGS="--keep DIR --fraction 0.1")'
	@echo 'make fuzz        any bytes at the codec and at both machines, a minute each (ARGS="codec --seconds 600 --seed 2")'
	@echo 'make docs        the manual as HTML, in docs/_build'
	@echo 'make clean       remove what the others made, farm/ excepted'

farm:
	@tools/setup farm
	@exec .venv/bin/piw-farm $(ARGS) $(PROJECTS)

check:
	@tools/setup test
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) docs/generate.py --check
	$(PYTHON) -m pytest -q -n 2 tests/unit

# One worker more than cores that CI has: many tests wait for a process to start, or for time to pass.
test:
	@tools/setup test
	@tools/setup clients || [ $$? = 3 ]
	$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not pypi and not long' $(ARGS) $(TESTS)

test-long:
	@tools/setup test
	$(PYTHON) -m pytest -m long $(ARGS) $(TESTS)

test-diet:
	@if tools/setup diet; then \
	    .venv-diet/bin/python -m pytest -q -n 2 -p no:cacheprovider --noconftest $$(cat tests/diet.txt); \
	elif [ $$? = 3 ]; then echo 'test-diet: left out, see above'; else exit 1; fi

test-pypi:
	@tools/setup test
	$(PYTHON) -m pytest -m 'pypi and not long' $(ARGS) $(TESTS)

test-arm:
	@tools/setup test
	tests/arm/run $(ARGS)

bench:
	@tools/setup test
	$(PYTHON) -m tests.bench $(ARGS)

# One of PyPI's size: half an hour and 25 GB. ARGS="--keep DIR" keeps the farm; "--fraction 0.1 claim plan" does less.
bench-scale:
	@tools/setup test
	$(PYTHON) -m tests.bench.scale $(ARGS)

bench-%:
	@tools/setup test
	$(PYTHON) -m tests.bench $* $(ARGS)

fuzz:
	@tools/setup test
	$(PYTHON) -m tests.fuzz $(ARGS)

soak:
	@tools/setup test
	$(PYTHON) -m tests.soak $(ARGS)

chaos:
	@tools/setup test
	$(PYTHON) -m tests.chaos $(ARGS)

docs:
	@tools/setup docs
	$(PYTHON) docs/generate.py
	$(PYTHON) -m sphinx -q -W -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

clean:
	rm -rf .venv .venv-diet build *.egg-info docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
