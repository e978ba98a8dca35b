# Needs Python 3.11 or newer, make and git. With uv on PATH it is used, because it is faster; nothing depends on it.

PYTHON  ?= python3
WORKERS ?= 2
ARGS    ?=

BIN      := .venv/bin
UV       := $(shell command -v uv 2>/dev/null)
PROJECTS := pyproject.toml clients/python/pyproject.toml
PIP      := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
INSTALL  := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(PIP) install)

# Stamps live in .venv, so they go when it goes.
VENV   := .venv/.stamp-venv
RUN    := .venv/.stamp-run
ENGINE := .venv/.stamp-engine
DEV    := .venv/.stamp-dev
EMBEDDERS := .venv/.stamp-embedders

.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help run demo test test-slow test-all check fmt migrate schema bench clean lock engine embedders

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "  Options: ARGS='...' for the command, PYTHON=python3.12, WORKERS=4 for the tests."

run: $(RUN) ## Serve on http://127.0.0.1:8080 with an embedded Postgres
	$(BIN)/memory-service serve $(ARGS)

# Standard output is the demo's alone, for ARGS=--json.
demo: $(RUN) engine ## See the main job end to end, then exit
	@$(BIN)/memory-service demo $(ARGS)

test: check engine ## Check, then run every test that needs only Python
	$(BIN)/pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: $(DEV) engine embedders ## Run what `make test` leaves out: soak, kill and browser rounds
	$(BIN)/pytest -m slow $(ARGS)

test-all: test test-slow ## Run everything

check: $(DEV) ## Format, lint, types and the rules between the layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(DEV) ## Format and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

migrate: $(RUN) ## Bring the database to the newest schema
	$(BIN)/memory-service migrate $(ARGS)

schema: $(DEV) ## Write migrations/schema.sql anew, after a new migration
	$(BIN)/python -m tests.store.schema > migrations/schema.sql

bench: $(DEV) ## Measure; see bench/
	$(BIN)/python -m bench $(ARGS)

clean: ## Remove the environment and every cache
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(if $(UV),true,$(PYTHON) -c 'import ensurepip, venv') 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv" >&2
	@$(if $(UV),$(UV) venv --quiet --clear --seed --python $(PYTHON) .venv,$(PYTHON) -m venv --clear .venv) >&2
	@touch $@

# What is installed is what the locks say, hash by hash; our own two packages come last, from this directory.
$(RUN): $(VENV) requirements/build.txt requirements/run.txt $(PROJECTS)
	@echo "Installing what it needs" >&2
	@$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/run.txt >&2
	@$(INSTALL) --no-deps --no-build-isolation -e . -e clients/python >&2
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

# llama.cpp has no wheel on some platforms. Whatever needs it says so and goes on without.
engine: $(RUN)
	@{ test $(ENGINE) -nt requirements/engine.txt && test $(ENGINE) -nt $(VENV); } || \
	  { $(INSTALL) --require-hashes -r requirements/engine.txt >/dev/null 2>&1 && touch $(ENGINE); } || \
	  echo "Going on without the llama.cpp engine: requirements/engine.txt could not be installed here." >&2

# Where there is no torch without gigabytes for graphics cards, the tests that need these skip, and say so.
TORCH := $(INSTALL) --no-deps -r requirements/torch.txt
embedders: $(RUN)
	@{ test $(EMBEDDERS) -nt requirements/embedders.txt && test $(EMBEDDERS) -nt $(VENV); } || \
	  { { $(TORCH) || $(TORCH) --index-url https://download.pytorch.org/whl/cpu; } && \
	    $(INSTALL) -r requirements/embedders.txt && touch $(EMBEDDERS); } >/dev/null 2>&1 || \
	  echo "Going on without fastembed and sentence-transformers: requirements/embedders.txt could not be installed here."

# LOCK='--upgrade' takes the newest versions; without it only what pyproject.toml asks for changes.
LOCK ?=
COMPILE = $(or $(UV),$(BIN)/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header $(LOCK)
lock: $(VENV) ## Write requirements/*.txt anew from pyproject.toml (LOCK=--upgrade for newer versions)
	$(if $(UV),,$(PIP) install uv)
	printf 'hatchling>=1.27\neditables\n' | $(COMPILE) --no-annotate -o requirements/build.txt -
	$(COMPILE) -o requirements/run.txt pyproject.toml
	$(COMPILE) -o requirements/engine.txt -c requirements/run.txt --extra engine pyproject.toml
	$(COMPILE) -o requirements/dev.txt -c requirements/run.txt -c requirements/engine.txt -c requirements/build.txt \
	  --extra dev pyproject.toml
