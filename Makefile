# Two commands matter: `make demo` (rbee from nothing to an answer) and `make test` (what CI runs).
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEMO := examples/demo/rbee.yaml
SOURCES := pyproject.toml rbee/__init__.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo demo-stop test test-unit test-hives test-queens test-daemons test-features test-lab test-fast lint format lab bench lock packages clients schemas clean
help:
	@echo "make demo       apply an example fleet on this machine and ask it something"
	@echo "make demo-stop  stop it and remove what it made"
	@echo "make test       install what tests need, then run all of them (CI runs this)"
	@echo "make test-fast  the unit tests: under a minute"
	@echo "make lint       ruff, mypy, import contracts"
	@echo "make bench      gateway, fleet, apply, download, hive and preload benchmarks"
	@echo "make lock       resolve and pin the dependencies again"

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "rbee needs Python 3.11 or newer on this machine (a hive does with 3.10)."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.python requirements/demo.lock $(SOURCES)
	@test -f $(VENV)/.dev || $(BIN)/python -m pip install -q --require-hashes -r requirements/demo.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.python requirements/dev.lock $(SOURCES)
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/rbee apply -f $(DEMO) --auto-approve
	@$(BIN)/python examples/demo/ask.py

demo-stop: $(VENV)/.demo
	@$(BIN)/rbee destroy -f $(DEMO) --auto-approve

packages:
	@sh .ci/packages

# The clients of Node.js that tests ask with: what the lock names, and none of their install scripts.
NPM := tests/clients/node_modules/.package-lock.json
$(NPM): tests/clients/package-lock.json tests/clients/package.json
	@cd tests/clients && npm ci --ignore-scripts --no-progress --loglevel=error
	@touch $@

clients: packages
	@$(MAKE) --no-print-directory $(NPM)

test: packages clients $(VENV)/.dev
	@$(MAKE) -j2 --output-sync=target --no-print-directory lint test-unit
	@$(MAKE) -j5 --output-sync=target --no-print-directory test-lab test-daemons test-hives test-queens test-features

# Side by side: they mostly wait, each for its own processes.
HIVES := $(wildcard tests/integration/test_hive*.py)
QUEENS := $(wildcard $(patsubst %,tests/integration/test_%*.py,access_log admission byte_faithful chaos cold embeddings front \
	keys node_clients openai_clients policy queen recovery rerank scaling seen splice store traces two_queens))
test-unit: $(VENV)/.dev
	$(BIN)/coverage run -m pytest tests/unit --durations=5
	$(BIN)/coverage report
test-hives:
	$(BIN)/python -m pytest $(HIVES) --durations=8
test-queens:
	$(BIN)/python -m pytest $(QUEENS) --durations=8
test-daemons:
	$(BIN)/python -m pytest $(filter-out $(HIVES) $(QUEENS),$(wildcard tests/integration/test_*.py)) --durations=8
test-features:
	$(BIN)/python -m pytest tests/features --durations=8
test-lab:
	$(BIN)/python -m pytest tests/lab --durations=8

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: packages $(VENV)/.dev
	$(BIN)/python -m pytest tests/lab

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench.gateway
	$(BIN)/python -m tests.bench.gateway.steady
	$(BIN)/python -m tests.bench.gateway.leaving
	$(BIN)/python -m tests.bench.gateway.memory
	$(BIN)/python -m tests.bench.fleet
	$(BIN)/python -m tests.bench.apply
	$(BIN)/python -m tests.bench.catalog
	$(BIN)/python -m tests.bench.download
	$(BIN)/python -m tests.bench.hive
	$(BIN)/python -m tests.bench.preload

schemas: $(VENV)/.dev
	$(BIN)/rbee schema --write

# One resolution for all: the hive's lock is a part of the developer's.
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock'
lock: $(VENV)/.dev
	$(COMPILE) --python-version 3.11 --all-extras pyproject.toml -o requirements/dev.lock
	$(COMPILE) --python-version 3.11 -c requirements/dev.lock --extra controller --extra llama-cpp --extra demo --extra build pyproject.toml -o requirements/demo.lock
	$(COMPILE) --python-version 3.10 pyproject.toml -o requirements/hive.lock

clean:
	rm -rf tests/clients/node_modules $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
