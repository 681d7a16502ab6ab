# One word each. `make` alone prints them.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run dashboard ui ui-test browser test lint format types imports kernel unit chaos chaos-long fuzz ops-check lock clean

UI       := http/openstream_http/static/ui/index.html
UI_FILES := $(shell find ui -name node_modules -prune -o -path ui/browser/out -prune -o -type f -print 2>/dev/null)

help: ## print these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## install everything into .venv; run nothing

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "OpenStream needs Python 3.11 or newer: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

run: setup dashboard ## Valkey, PostgreSQL and one node on this machine; Ctrl-C ends all three
	@exec $(BIN)/openstream dev $(ARGS)

# Before a start: a dashboard that is old or missing is built, where npm is there; a start never fails or waits for long.
dashboard:
	@if command -v npm >/dev/null 2>&1 && ! $(MAKE) --question --silent $(UI) 2>/dev/null; then \
	  echo "Building the dashboard" >&2; \
	  timeout 60 $(MAKE) --silent $(UI) >ui/build.log 2>&1 || \
	    echo "The dashboard could not be built (ui/build.log); everything else works without it." >&2; \
	fi

ui: $(UI) ## build the dashboard (needs Node.js 20 or newer)

ui/node_modules/.package-lock.json: ui/package.json ui/package-lock.json
	cd ui && npm ci --silent
	@touch $@

$(UI): ui/node_modules/.package-lock.json $(UI_FILES)
	cd ui && npm run --silent build
	@touch $@

ui-test: ui/node_modules/.package-lock.json ## the dashboard's types and unit tests
	cd ui && npm run --silent test

browser: setup $(UI) ## the dashboard in a real Chromium against real nodes; screenshots in ui/browser/out
	cd ui && npm run --silent browser

test: lint types imports kernel unit ## everything that must hold before a commit

lint: setup ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix-only --exit-zero --quiet .
	$(BIN)/ruff format .

types: setup ## mypy, strict, sources and tests
	$(BIN)/mypy --package openstream_runtime --package supervisors --package openstream_http --package openstream_client --package openstream_ops
	$(BIN)/mypy tests

imports: setup ## who may import whom
	$(BIN)/lint-imports

kernel: setup ## the kernel's tests, on asyncio and trio; every branch must be covered
	$(BIN)/python -m coverage run --source supervisors -m pytest tests/supervisors
	$(BIN)/python -m coverage report --show-missing --fail-under 100

unit: setup ## every other test, by four workers: most of them wait (ARGS="-k name" narrows them, ARGS="-n 0" takes one process)
	$(BIN)/python -m pytest -m "not chaos and not ops" --ignore tests/supervisors -n 4 --dist worksteal $(ARGS)

chaos: setup ## every fault once, under load, and broken builds that must turn red; a table at the end (ARGS="-k redis")
	$(BIN)/python -m pytest tests/chaos -m "chaos and not long" -v --capture=no $(ARGS)

chaos-long: setup ## the same with three seeds and faults that overlap, and every other long test (2 GB, a million events)
	$(BIN)/python -m pytest -m chaos -v --capture=no $(ARGS)

fuzz: setup ## a minute of a coverage-guided fuzzer on the parsers of envelopes and ids (SECONDS=600 for ten)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/fuzz/requirements.txt
	$(BIN)/python tests/fuzz/parsers.py -max_total_time=$(or $(SECONDS),60) -max_len=4096 -timeout=5 -print_final_stats=1

ops-check: setup ## promtool, a real Prometheus and HAProxy on what stands in ops/ (needs: apt-get install prometheus haproxy)
	$(BIN)/python -m pytest -m ops $(ARGS)

lock: ## resolve pyproject.toml again into requirements.txt, with hashes and without addresses (needs uv)
	uv pip compile pyproject.toml --extra embedded --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.txt --quiet
	uv pip compile pyproject.toml --constraint requirements.txt --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links --output-file ops/docker/requirements.txt --quiet
	uv pip compile --group pyproject.toml:fuzz --constraint requirements.txt --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links --output-file tests/fuzz/requirements.txt --quiet
	uv pip compile --group pyproject.toml:build --constraint requirements.txt --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links --output-file ops/docker/build-requirements.txt --quiet

clean: ## forget .venv and every cache
	rm -rf ui/node_modules $(dir $(UI)) $(VENV) .fuzz .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
