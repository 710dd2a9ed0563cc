# Everything a clone needs: `make demo` and `make test` also do the set-up, in .venv alone.

# Candidates, in order; the first that is Python 3.11 to 3.13 and can make a virtual environment is
# used. PYTHON=/path/to/python decides instead.
PYTHON ?= python3.11 python3.12 python3.13 python3
# uv installs far faster where it is present. `make UV= setup` uses pip all the same.
UV ?= $(shell command -v uv 2>/dev/null)
# Extra arguments: make test PYTEST_ARGS="tests/models -x", make lock LOCK_ARGS=--upgrade.
PYTEST_ARGS ?=
# Processes that run tests side by side, each of up to 4 GB.
TEST_WORKERS ?= 2
# A file stays with one of them, so that what its tests share is made once; in the order of the tree.
BY_FILE := --dist loadfile --no-loadscope-reorder
LOCK_ARGS ?=

# What tests/hf needs beside the lock. PyPI's torch brings CUDA; a `+cpu` version is far smaller where
# an index with such wheels is at hand: make test-hf HF_PACKAGES='torch==2.13.0+cpu transformers==5.23.0'
HF_PACKAGES ?= torch==2.13.0 transformers==5.23.0
# transformers' own model tests run on our classes: they are in its source package, and need this.
HF_TEST_PACKAGES := parameterized==0.9.0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
HF_STAMP := $(VENV)/.installed-hf
HF_SOURCE := $(VENV)/transformers-source
ifneq ($(UV),)
INSTALL := "$(UV)" pip install --quiet --python $(BIN)/python
else
# Older versions of pip would call setup.py of some packages, which fails without `wheel`.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517
endif
SOURCES := $(wildcard setup.py seqrecipes configs tasks tests benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-hf lint lock clean
# A half-written target must not pass for a finished one.
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## install the locked versions and this package, editable, into .venv

# Supported means: a version the lock covers, with the modules that `-m venv` needs.
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# An environment cut off before it had a working pip, or of another Python, is made anew.
$(STAMP): requirements.lock setup.py
	@if ! { $(BIN)/python -c '$(SUPPORTED)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	  found=; for candidate in $(PYTHON); do \
	    if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'error: no Python 3.11, 3.12 or 3.13 with the venv and ensurepip modules among: $(PYTHON)' >&2; \
	    echo '  Install one (Debian and Ubuntu: apt-get install python3 python3-venv),' >&2; \
	    echo '  or name it: make setup PYTHON=/path/to/python3.11' >&2; \
	    exit 1; \
	  fi; \
	  echo "Creating $(VENV) with $$("$$found" --version) ($$found)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo 'Installing requirements.lock into $(VENV): some minutes the first time'
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP) ## run the two-stage recipe, mini size, on the bundled sample, into runs/demo
	$(BIN)/python -m seqrecipes.train --gin_file=gin/2stage_unfrz.gin --gin_file=gin/demo.gin \
	  --gin.MODEL_DIR="'runs/demo'"

test: $(STAMP) ## run the tests (PYTEST_ARGS adds arguments)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) $(BY_FILE) $(PYTEST_ARGS)

test-hf: $(HF_STAMP) ## run the tests that compare with transformers (installs torch first)
	SEQRECIPES_REQUIRE_HF=1 SEQRECIPES_TRANSFORMERS_SOURCE=$(HF_SOURCE) \
	  $(BIN)/python -m pytest -n $(TEST_WORKERS) $(BY_FILE) tests/hf $(PYTEST_ARGS)

$(HF_STAMP): $(STAMP)
	$(INSTALL) -c requirements.lock $(HF_PACKAGES) $(HF_TEST_PACKAGES)
	rm -rf $(HF_SOURCE) && mkdir -p $(HF_SOURCE)
	version=$$($(BIN)/python -c 'from importlib import metadata; print(metadata.version("transformers"))') && \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
	  --no-build-isolation --dest $(HF_SOURCE) "transformers==$$version" && \
	  tar -xzf $(HF_SOURCE)/transformers-*.tar.gz --strip-components=1 -C $(HF_SOURCE)
	@touch $@

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/python -m ruff format --check $(SOURCES)
	$(BIN)/python -m mypy $(filter-out setup.py tests,$(SOURCES))

# For every supported Python and platform at once, keeping the present versions where they still
# fit; --upgrade takes the newest. The extras that depend on the machine, need an environment of their
# own or are huge stay out.
lock: ## resolve requirements.lock again from setup.py (needs uv; LOCK_ARGS=--upgrade)
	@if [ -z "$(UV)" ]; then echo 'error: make lock needs uv on PATH (pip install uv)' >&2; exit 1; fi
	"$(UV)" pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  $(LOCK_ARGS) --output-file requirements.lock setup.py

clean: ## remove .venv, caches and build output; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .jax_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
