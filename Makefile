# One door to everything; each target works from a bare clone.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
PYTEST  = $(BIN)/python -m pytest
ROTATION_S ?= 480
JOBS   ?= 2
VENV_VLLM ?= .venv-vllm
VENV_LMMS ?= .venv-lmms-eval
VENV_OBJECTS ?= .venv-objects

.PHONY: install hooks test test-slow test-rotation test-load test-gpu test-objects test-vllm test-lmms-eval check format drawings docs \
        demo soak train-demo bench wheel release-check clean

install: $(VENV)/.installed

# torch first and alone: what else needs it is then content with the pinned build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	touch $@

# JOBS tests at a time: some start clusters of their own, so that more take gigabytes each.
test: install
	$(PYTEST) -n $(JOBS)

# Kills, many nodes, thousands of mutants: all of it; two hours on two cores that do other work too.
test-slow: install
	$(PYTEST) -m slow --timeout 900 --durations 20

# Another part of the same every day, at most ten minutes: what CI runs.
test-rotation: install
	$(PYTEST) -m slow --timeout 300 --rotation-s $(ROTATION_S) --durations 10

# The fast tests beside two busy loops, two at a time, in random order.
test-load: install
	@for each in 1 2; do $(BIN)/python -c 'while True: pass' & loops="$$loops $$!"; done; \
	trap 'kill $$loops' EXIT; $(PYTEST) -n 2 --random-order --timeout 300

test-gpu: install
	AOT_FAIL_WITHOUT_GPU=1 $(PYTEST) -m gpu

# The cold tier on servers that speak S3's and Google's protocols.
test-objects: install $(VENV_OBJECTS)/.installed
	AOT_OBJECT_SERVERS=$(abspath $(VENV_OBJECTS))/bin/python $(PYTEST) tests/pipeline/store/test_folder.py

$(VENV_OBJECTS)/.installed: tests/pipeline/store/object_servers/requirements.txt
	$(PYTHON) -m venv $(VENV_OBJECTS)
	$(VENV_OBJECTS)/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

# vLLM needs another transformers: it has an environment of its own, on a CPU some 3 GB.
test-vllm: install $(VENV_VLLM)/.installed
	$(BIN)/python -m pip install --quiet --no-deps -e integrations/vllm
	AOT_VLLM=$(abspath $(VENV_VLLM))/bin/vllm $(PYTEST) integrations/vllm/tests --timeout 900

$(VENV_VLLM)/.installed: integrations/vllm/tests/environment/requirements.txt integrations/vllm/pyproject.toml
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/pip install --quiet torch==2.13.0
	$(VENV_VLLM)/bin/pip install --quiet -r integrations/vllm/tests/environment/requirements.txt
	$(VENV_VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	$(VENV_VLLM)/bin/python integrations/vllm/tests/environment/prepare.py
	$(VENV_VLLM)/bin/pip install --quiet --no-deps -e . -e integrations/vllm
	touch $@

# lmms-eval wants an older PyAV: it comes without what it names, and with what runs here.
test-lmms-eval: install $(VENV_LMMS)/.installed
	AOT_LMMS_EVAL=$(abspath $(VENV_LMMS))/bin/python $(PYTEST) integrations/lmms_eval/tests --timeout 900

$(VENV_LMMS)/.installed: integrations/lmms_eval/tests/requirements.txt integrations/lmms_eval/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_LMMS)
	$(VENV_LMMS)/bin/pip install --quiet -c constraints.txt torch
	$(VENV_LMMS)/bin/pip install --quiet -c constraints.txt -e .
	$(VENV_LMMS)/bin/pip install --quiet -c constraints.txt -r integrations/lmms_eval/tests/requirements.txt
	$(VENV_LMMS)/bin/pip install --quiet --no-deps lmms-eval==0.7.3 -e integrations/lmms_eval
	touch $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rooms and arrows of docs/architecture.md, tables of docs/settings.md, the manifest of the chart, as
# they are now.
drawings: install
	$(BIN)/python -m tests.deploy.render
	$(BIN)/python -m tests.rooms
	$(BIN)/python -m tests.settings_page

# The site in build/site; a broken link or a page left out is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

hooks: install
	$(BIN)/pre-commit install

# build/wheel: what ray_cluster.yaml puts on every node. By way of the sdist, so that nothing stale
# of build/lib is in it.
wheel: install
	rm -rf build/wheel
	$(BIN)/python -m build --quiet --outdir build/wheel .
	cp constraints.txt build/wheel

# What would be published: built, looked at, installed into an empty environment, and run from it.
release-check: install
	.ci/release-check $(BIN)/python

demo: install
	$(BIN)/aot demo

# A day of four cameras, sixty times too fast: nothing may grow. About half an hour.
soak: install
	$(BIN)/aot bench soak

train-demo: install
	$(BIN)/python -m demo.training.train

bench: install
	$(BIN)/aot bench reduce
	$(BIN)/aot bench adapters
	$(BIN)/aot bench decode
	$(BIN)/aot bench query

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_LMMS) build dist *.egg-info runs
