# One door to everything; each target works from a bare clone.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
PYTEST  = $(BIN)/python -m pytest

.PHONY: install test test-slow test-gpu check format drawings demo soak train-demo bench serve clean

install: $(VENV)/.installed

# torch first and alone: what else needs it is then content with the pinned build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

test: install
	$(PYTEST)

# Kills, many nodes, thousands of mutants: minutes.
test-slow: install
	$(PYTEST) -m slow --timeout 900

test-gpu: install
	AOT_FAIL_WITHOUT_GPU=1 $(PYTEST) -m gpu

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rooms and arrows of docs/architecture.md as they are now.
drawings: install
	$(BIN)/python -m tests.rooms

demo: install
	$(BIN)/aot demo

# An hour of stream through the whole path: memory must stay flat.
soak: install
	$(BIN)/aot bench ingest

train-demo: install
	$(BIN)/python -m demo.training.train

bench: install
	$(BIN)/aot bench reduce
	$(BIN)/aot bench decode
	$(BIN)/aot bench query

clean:
	rm -rf $(VENV) build dist *.egg-info runs
