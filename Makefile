# Needs Python 3.11+ and make. Everything else is installed into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The site has an environment of its own: half a minute that only those wait who build it.
DOCS := .cache/docs
TESTS ?=
# What users are promised, gone through once more with every run cut at every point. Not what starts processes of its own.
SUSPENDED := tests/integration/test_context_*.py tests/integration/test_review_*.py tests/integration/test_tokens.py \
  $(addprefix tests/integration/test_guarantees_,connections.py exactly_once.py leases.py lifecycle.py values.py waits.py) \
  tests/integration/test_subscriptions.py tests/integration/test_interleavings.py tests/integration/test_locked_rows.py \
  $(addprefix tests/acceptance/test_,events.py settled_questions.py example_tasks.py)
BENCH ?=
WORKERS ?= 2
MINUTES ?= 60
SOAK ?=
SEED ?= $(shell date +%s)

.PHONY: help setup demo test faults soak check docs docs-serve bench bench-full sql baseline format clean

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

# Two processes more than otherwise, for many of these tests wait.
faults: $(STAMP) ## Attack every promise: all of tests/faults, less than ten minutes; TESTS="path or options" for a part
	@$(PY) -m tests.faults.report --clear
	@ABSURD_FAULTS_SEED=$(SEED) $(PY) -m pytest -n $$(($(WORKERS) + 2)) --dist worksteal -m "not short" $(or $(TESTS),tests/faults)
	@$(if $(TESTS),,$(PY) -m pytest -n $$(($(WORKERS) + 2)) --dist worksteal -p tests.faults.suspend_everywhere $(SUSPENDED))
	@$(PY) -m tests.faults.report

soak: $(STAMP) ## Random programs under random faults for MINUTES=60
	@$(PY) -m tests.faults.soak --minutes $(MINUTES) $(SOAK)

check: $(STAMP) ## Check format, lint, types, import directions and generated files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) scripts/build_sql.py --check
	$(PY) scripts/build_async.py --check
	$(PY) scripts/build_cli_docs.py --check
	$(PY) scripts/build_reference.py --check

docs: $(DOCS)/.installed ## Build the documentation site into build/site; a dead link or a page in no menu is an error
	@# Not --quiet: warnings that are not logged are not counted.
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "Open build/site/index.html"

docs-serve: $(DOCS)/.installed ## Serve the site on http://127.0.0.1:8000, and build it again when a page changes
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve

$(DOCS)/.installed: pyproject.toml scripts/make_venv.sh
	@mkdir -p $(dir $(DOCS))
	@sh scripts/make_venv.sh $(DOCS) '.[docs]'
	@touch $@

bench: $(STAMP) ## Measure this library beside others, about twenty minutes; writes docs/performance.md
	@$(PY) -m bench --docs $(BENCH)

bench-full: $(STAMP) ## The same for hours: five rounds, longer measurements, a million rows, a snapshot held open for ten minutes
	@$(PY) -m bench --docs --rounds 5 --scale 2 --rows 1000000 --snapshot 600 --minutes 90 $(BENCH)

sql: $(STAMP) ## Join the files in sql/ into sql/absurd.sql, and write their reference
	@$(PY) scripts/build_sql.py
	@$(PY) scripts/build_reference.py

baseline: $(STAMP) ## Keep the schema of this version for the test of upgrades (at a release)
	@$(PY) scripts/build_sql.py --baseline

format: $(STAMP) ## Format the code and mend what can be mended
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) .cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
