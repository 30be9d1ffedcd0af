# ckptfmt: set-up, checks and the demonstration. `make help` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.ckptfmt-installed
PATHS := ckptfmt tui tests docs $(wildcard benchmarks)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# The demonstration and the tests make their own models: nothing is fetched, whatever the machine allows.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test torture lint format bench pictures clean

help: ## List the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

install: $(STAMP) ## Make .venv with the pinned versions; quick when nothing changed.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'ckptfmt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 install' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt --build-constraint constraints.txt \
	  --group test --group fixtures --group fuzz --group lint --editable '.[demo]'
	@touch $@

demo: install ## Make a small model and the checkpoints people have, take them in, compare what comes back.
	rm -rf .demo
	$(BIN)/ckptfmt demo .demo $(ARGS)

# Two workers that each train tiny models: more threads than cores only wait for each other.
test: export OMP_NUM_THREADS ?= 1
# A worker that dies is not begun again: `loadfile` gives a new one nothing to do, and waits for it for ever.
test: install ## Run the tests; ARGS goes to pytest.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(ARGS)

torture: install ## Run the release column of the fault tests and the whole equality tables; hours.
	$(BIN)/python -m pytest -m torture --timeout 0 $(ARGS)

lint: install ## Style, types, floors.
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/mypy
	PYTHONPATH=.:tui $(BIN)/lint-imports --no-logo

format: install ## Put the code into its format.
	$(BIN)/ruff check --fix $(PATHS)
	$(BIN)/ruff format $(PATHS)

bench: install ## Measure, and write docs/benchmarks.md; ARGS goes to the script.
	$(BIN)/python benchmarks/run.py $(ARGS)

pictures: install ## Take the pictures of the terminal UI that the documentation shows.
	$(BIN)/python docs/pictures/make.py

clean: ## Remove what make and the tools wrote, the environment too.
	rm -rf $(VENV) build dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find ckptfmt tui tests -name __pycache__ -type d -prune -exec rm -rf {} +
