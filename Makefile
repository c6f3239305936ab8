# `make serve` and `make test` do all the set-up they need. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve test check lint bench walks conformance fuzz soak trials docs dist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS=... is passed on: make serve ARGS='--port 0', make test ARGS='-k websocket'"

setup: $(VENV)/.dev  ## everything for development, in .venv

serve: $(VENV)/.serve  ## run the server (installs what it needs first)
	@exec $(BIN)/partyline serve $(ARGS)

# Every test is in one of the two. Tests wait more than they compute, so there are more of them at a time than cores.
# Bytecode that is kept saves a third of their time, here and in each process that they start.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n auto

test: $(VENV)/.dev  ## the quick tests, in under two minutes (installs what they need first)
	$(PYTEST) -m "not check" $(ARGS)

check: $(VENV)/.dev  ## all other tests: kills, storms, browsers, other people's clients, the docs
	$(PYTEST) -m check $(ARGS)

lint: $(VENV)/.dev  ## ruff, mypy --strict, the import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## measure against the peers; writes bench/results/table.md
	$(BIN)/python -m bench $(ARGS)

walks: $(VENV)/.dev  ## count what one message takes: calls, files; writes the table in docs/architecture.md
	$(BIN)/python -m bench.walks --save $(ARGS)

conformance: $(VENV)/.dev  ## the WebSocket cases by their Autobahn numbers; writes docs/reference/conformance.md
	$(BIN)/python -m tests.conformance $(ARGS)

fuzz: $(VENV)/.dev  ## the property tests with 100 times the examples
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest --timeout=3600 -k "properties or state_machine" $(ARGS)

soak: $(VENV)/.dev  ## ten minutes of mixed load with 2,000 clients: is everything there, does nothing grow? Draws soak.svg
	$(BIN)/python -m tests.soak $(ARGS)

trials: $(VENV)/.dev  ## the long form of the crash and storm tests and of the simulator; prints their figures
	PARTYLINE_TRIALS=1 $(BIN)/python -m pytest --timeout=3600 -s tests/crash tests/simulator tests/e2e/socketio/test_crowd.py $(ARGS)

docs: $(VENV)/.dev  ## run the code blocks of README and docs, check their links
	$(BIN)/python -m pytest tests/docs $(ARGS)

dist: $(VENV)/.dev  ## build wheel and sdist, and try the wheel in an empty environment
	@rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m tests.dist dist/*.whl

clean:  ## remove what make made
	rm -rf $(VENV) dist build bench/.build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of packages: the second time costs nothing.

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version) is too old: Partyline needs 3.11 or later (make PYTHON=python3.12 ...)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "This Python cannot make environments: install python$$v-venv (Debian, Ubuntu: apt-get install python$$v-venv)." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Partyline into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.serve
	@echo "Installing what tests and tools need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $$($(BIN)/python -m tests.requirements dev)
	@echo "Compiling the tests"  # once, and not in each of pytest's processes
	@$(BIN)/python -m pytest --collect-only -q >/dev/null || true
	@touch $@
