# Needs Python 3.11+ and make. Everything else is installed into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TESTS ?=
BENCH ?=
WORKERS ?= 2

.PHONY: help setup demo test check bench bench-full sql baseline format clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Install the library, PostgreSQL and the tools of development into .venv

$(STAMP): pyproject.toml scripts/make_venv.sh
	@sh scripts/make_venv.sh $(VENV) '.[embedded,dev]'
	@touch $@

demo: $(STAMP) ## Run the order workflow from spawn to delivery on an embedded PostgreSQL
	@$(PY) scripts/demo.py

test: $(STAMP) ## Run all tests, or those in TESTS="path or options"
	@$(PY) -m pytest -n $(WORKERS) $(TESTS)

check: $(STAMP) ## Check format, lint, types, import directions and generated files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) scripts/build_sql.py --check
	$(PY) scripts/build_async.py --check
	$(PY) scripts/build_cli_docs.py --check

bench: $(STAMP) ## Measure this library beside others, about a quarter of an hour; writes docs/performance.md
	@$(PY) -m bench --docs $(BENCH)

bench-full: $(STAMP) ## The same with five rounds, longer measurements and a million rows
	@$(PY) -m bench --docs --rounds 5 --scale 2 --rows 1000000 --minutes 600 $(BENCH)

sql: $(STAMP) ## Join the files in sql/ into sql/absurd.sql
	@$(PY) scripts/build_sql.py

baseline: $(STAMP) ## Keep the schema of this version for the test of upgrades (at a release)
	@$(PY) scripts/build_sql.py --baseline

format: $(STAMP) ## Format the code and mend what can be mended
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) .cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
