# Everything here works on a fresh machine that has make and Python >= 3.11. `make PYTHON=python3.12 test` chooses the interpreter.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo "$$p" && break; done)
ifeq ($(PYTHON),)
$(error Tidemill needs Python 3.11 to 3.14, and none was found; install one, or name it: make PYTHON=/path/to/python3.12)
endif

VENV := .venv
BIN := $(VENV)/bin
# The stamp names the interpreter's version, so that another PYTHON makes another environment.
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCK := locks/dev.txt
WORKERS ?= auto
# Tests start hundreds of interpreters: where a machine forbids it, each would compile all of this again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test lint check bench docs reference lock changelog system
.DEFAULT_GOAL := help

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

$(STAMP): $(LOCK) pyproject.toml
	@PYTHON=$(PYTHON) sh scripts/system.sh
	@want=$$($(PYTHON) -c 'import sys; print(sys.version_info[:2])'); \
	have=$$($(BIN)/python -c 'import sys; print(sys.version_info[:2])' 2>/dev/null); \
	[ "$$want" = "$$have" ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

install: $(STAMP) ## make the environment in .venv, and what the tests need of the system

demo: $(STAMP) ## replay a year of real flights: make demo ARGS="--no-serve --report report.json"
	$(BIN)/tidemill demo $(ARGS)

lint: $(STAMP) ## format, lint, types, the floors of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint ## the same, and the fast tests
	@$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" $(ARGS)

test: $(STAMP) ## every test, against real PostgreSQL, Redis, Prometheus and Chromium where they are installed
	@$(BIN)/python -m compileall -q src  # in tests that let no file grow, what was compiled would be cut off, and kept
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(STAMP) ## every benchmark: each prints its workload, machine, versions, median and spread
	@for file in $$(find benchmarks -name 'bench_*.py' | sort); do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

docs: $(STAMP) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: $(STAMP) ## write docs/reference/ again from the code
	$(BIN)/python scripts/reference.py

lock: ## write the lock again: hashes, no index address, Python 3.11 to 3.14, Linux and macOS
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	echo '-e .' | $(BIN)/uv pip compile - --group pyproject.toml:dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --no-emit-package tidemill --quiet --upgrade --output-file $(LOCK)

changelog: ## gather changelog.d/ into CHANGELOG.md: make changelog VERSION=0.1.0 DAY=2026-12-01
	$(PYTHON) scripts/changelog.py $(VERSION) $(DAY)

system: ## install PostgreSQL, Redis, Prometheus and Chromium for the tests, where apt-get exists and one is root
	@PYTHON=$(PYTHON) sh scripts/system.sh
