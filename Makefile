# Works with GNU make 3.81 (macOS) and later. Without make: see "Without make" in README.md.
PYTHON ?= python3
VENV   ?= .venv

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
FAST  := not gpu and not network and not slow and not official and not browser
SLOW  := (slow or official) and not gpu and not network and not browser

# Relative, because pip splits this variable at spaces and the repository may lie in a folder that has one.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The editable install links every file by name, so a file added or removed since then makes the install stale.
LIST_FILES := find grpo_bench methods rewards suites -type f ! -name '*.pyc' | LC_ALL=C sort
STALE := $(shell $(LIST_FILES) | cmp -s - $(VENV)/.files || echo stale)

# What `make pareto` reads, and where it draws.
RESULTS ?= results/reference
PLOTS   ?= $(if $(filter results/reference,$(RESULTS)),results/plots,$(RESULTS)/plots)

.PHONY: help run pareto test slow browser lint clean stale

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-7s %s\n", $$1, $$2}' Makefile

run: $(STAMP) ## install if needed, then train the built-in model by RL and show what it learned
	@$(BIN)/grpo-bench run --method tree

pareto: $(STAMP) ## draw the plots of the reference results; RESULTS=results/runs for your own
	@$(BIN)/grpo-bench pareto $(RESULTS) --out $(PLOTS)

test: $(STAMP) ## install if needed, then run the tests
	@$(BIN)/python -m pytest -m "$(FAST)" -n auto --dist worksteal

slow: $(STAMP) ## the tests that take minutes
	@$(BIN)/python -m pytest -m "$(SLOW)" -n auto --dist worksteal --timeout 900 --durations 20

browser: $(STAMP) ## the report in a real browser (needs chromium and chromedriver)
	@$(BIN)/python -m pytest -m browser --timeout 300

lint: $(STAMP) ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean: ## remove the environment, builds and caches; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find grpo_bench methods rewards suites tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "grpo-bench needs Python 3.11 or newer, and '$(PYTHON)' is not: run 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone, so that a build already chosen (CPU or CUDA) is kept by everything that depends on it.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt $(STALE)
	$(BIN)/python -m pip install --quiet "setuptools>=77" torch
	$(BIN)/python -m pip install --quiet --no-build-isolation --config-settings editable_mode=strict -e ".[dev]"
	@$(LIST_FILES) > $(VENV)/.files
	@touch $@

stale:
