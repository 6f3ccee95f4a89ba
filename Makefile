# Two commands: `make demo` upscales a real clip, `make test` runs the tests. Both set up .venv by themselves.

PYTHON ?= python3
# What pip installs as torch; e.g. TORCH="torch --index-url https://download.pytorch.org/whl/cpu" for the small CPU build.
TORCH ?= torch
# Extra arguments of pytest.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml vsr_kernels/build.py $(shell find csrc -type f)
# The demo compiles the CUDA object only where it could run; the tests compile whatever the machine can.
DEMO_BUILD := $(shell nvidia-smi -L >/dev/null 2>&1 && echo auto || echo cpu)

.PHONY: demo test lint format clean

demo: $(VENV)/.demo
	$(BIN)/vsr demo --out demo

# Two processes, each of which takes whole files: fixtures that compile are made once for a file's tests.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Style and types, as pre-commit runs them.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc -type f ! -name '*.toml' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -type f ! -name '*.toml' | xargs $(BIN)/clang-format -i

clean:
	rm -rf $(VENV) build demo vsr_kernels/*.so *.egg-info

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or later is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV) || { echo "make: python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PIP) install --quiet $(TORCH) numpy
	touch $@

# What pyproject.toml requires of a build, which --no-build-isolation leaves to the caller.
$(VENV)/.build: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet "setuptools>=77" wheel ninja "pybind11>=2.13"
	touch $@

$(VENV)/.demo: $(VENV)/.build $(SOURCES)
	VSR_KERNELS_BUILD=$(DEMO_BUILD) $(PIP) install --quiet --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.build $(SOURCES)
	$(PIP) install --quiet --no-build-isolation -e ".[test]"
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) install --quiet --no-build-isolation -e ".[dev]"
	touch $@
