# make demo   train the reference model on real data, with every method
# make toy    draw what the methods do with two tasks in two dimensions
# make test   lint, compile the CUDA sources if nvcc is there, run the tests
# make bench  measure against other implementations
# make lint   ruff, mypy, clang-format
#
# Each makes what it needs first: a virtual environment in .venv, torch, and the extension (again after csrc changes).
#
#   PYTHON=python3.12     the Python to make .venv with
#   TORCH=torch==2.11.0   the torch to install, if .venv has none
#   TORCH_INDEX=URL       where to get it; https://download.pytorch.org/whl/cpu is smaller than the default, with CUDA
#   VENV=path             use this virtual environment instead of .venv

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# Another Python's packages must not leak in.
unexport PYTHONPATH PYTHONHOME

.PHONY: demo toy test bench lint build cuda clean
.DELETE_ON_ERROR:

demo: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops train

toy: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops plot

test: lint cuda build
	$(BIN)/python -m pytest

bench: $(VENV)/.mtl_ops-dev $(VENV)/.mtl_ops-built
	$(BIN)/python -m benchmarks.run

lint: $(VENV)/.mtl_ops-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	$(BIN)/mypy

build: $(VENV)/.mtl_ops-dev $(VENV)/.mtl_ops-built

# sm_80 and sm_90; without nvcc says so and goes on
cuda: $(VENV)/.mtl_ops-dev
	$(BIN)/python setup.py --quiet compile_cuda

clean:
	rm -rf build dist *.egg-info mtl_ops/*.so $(VENV)/.mtl_ops-built

$(VENV)/.mtl_ops-torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "setuptools>=77" ninja
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/.mtl_ops-demo: $(VENV)/.mtl_ops-torch pyproject.toml
	$(PIP) install --no-build-isolation -e ".[demo]"
	touch $@

$(VENV)/.mtl_ops-dev: $(VENV)/.mtl_ops-torch pyproject.toml
	$(PIP) install --no-build-isolation -e ".[test,dev]"
	touch $@

$(VENV)/.mtl_ops-built: $(VENV)/.mtl_ops-torch setup.py $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@
