# make demo   train the reference model on real data, with every method
# make toy    draw what the methods do with two tasks in two dimensions
# make test   lint, compile the CUDA sources if nvcc is there, run the tests
# make bench  measure against other implementations
# make bench-cuda  measure on a GPU
# make cuda-check  on a GPU, without network: build, tests marked cuda, compute-sanitizer, measure
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

# What compute-sanitizer runs: a few small cases of each kind of kernel (it slows them down a hundredfold).
SANITIZED := tests/cuda/test_gram.py tests/cuda/test_merge.py tests/cuda/test_elementwise.py tests/cuda/test_solve.py
SANITIZED_NAMES := same_bits or any_alignment or weight_zero or mix_across or task_scales
SANITIZERS := memcheck racecheck initcheck synccheck

.PHONY: demo toy test bench bench-cuda lint build cuda cuda-check gpu clean
.DELETE_ON_ERROR:

demo: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops train

toy: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops plot

test: lint cuda build
	$(BIN)/python -m pytest

bench: $(VENV)/.mtl_ops-dev $(VENV)/.mtl_ops-built
	$(BIN)/python -m benchmarks.run

bench-cuda: gpu
	$(BIN)/python -m benchmarks.run --device cuda

# Everything that has to be installed is there already, or it says so.
gpu:
	@command -v nvcc >/dev/null || { echo "nvcc should be on PATH. Install the CUDA toolkit." >&2; exit 1; }
	@$(BIN)/python -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null \
	  || { echo "$(BIN)/python should have a torch that finds a GPU. Found none." >&2; exit 1; }
	MTL_OPS_CUDA=1 $(BIN)/python setup.py --quiet build_ext --inplace

cuda-check: gpu
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer should be on PATH. It comes with the CUDA toolkit." >&2; exit 1; }
	$(BIN)/python -m pytest -m cuda
	for tool in $(SANITIZERS); do PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -m pytest -q -m cuda -k "$(SANITIZED_NAMES)" $(SANITIZED) || exit 1; done
	$(BIN)/python -m benchmarks.run --device cuda

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
