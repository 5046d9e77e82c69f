# Everything a developer or a new user does, one word each. `make demo` and `make test` set up what
# they need: system packages where that is allowed, a virtual environment, the build.
PYTHON ?= python3
VENV ?= .venv
CPP_BUILD ?= build/cpp
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

BIN := $(abspath $(VENV))/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check
export PATH := $(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export CMAKE_GENERATOR ?= Ninja
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif

SYSTEM_PACKAGES := g++ libgmock-dev libgtest-dev libhwy-dev libxxhash-dev nlohmann-json3-dev

.PHONY: help demo test build cpp lint tidy bench asan tsan stubs docs clean system

help: ## What there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: build ## Quantize the shipped model at 8, 4 and 2 bits; table and samples in demo-output/
	$(PY) examples/demo.py

test: build cpp ## All tests, C++ and Python
	ctest --test-dir $(CPP_BUILD) --output-on-failure --parallel $(JOBS)
	ARROW_QUANT_CPP_BUILD=$(abspath $(CPP_BUILD)) $(PY) -m pytest

build: $(VENV)/.ready ## The Python package, editable, with everything the tests need
	@echo 'installing torch and other libraries, compiling the engine: minutes at the first time'
	$(PIP) install --quiet --no-build-isolation --editable '.[dev]'

cpp: $(VENV)/.ready ## The C++ library and its tests
	cmake -S . -B $(CPP_BUILD) -DCMAKE_BUILD_TYPE=Release -DARROW_QUANT_BUILD_TESTS=ON -DARROW_QUANT_BUILD_BENCHMARKS=ON \
	  -DPython_EXECUTABLE=$(PY)
	cmake --build $(CPP_BUILD)

lint: build ## Style, types, and the generated stub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find $(wildcard bindings benchmarks examples fuzz include src tests) \( -name '*.h' -o -name '*.cc' \) \
	  | xargs $(BIN)/clang-format --dry-run -Werror
	$(PY) -m pytest -q tests/python/test_house.py tests/python/test_stub.py

tidy: cpp ## clang-tidy on the sources of the engine
	find src -name '*.cc' | xargs -P $(JOBS) -n 4 $(BIN)/clang-tidy -p $(CPP_BUILD) --quiet

stubs: build ## Write the type stub of the extension anew
	cd python/arrow_quant_v2 && $(PY) -c "import arrow_quant_v2, runpy, sys; \
	  sys.argv = 'stubgen -q -m arrow_quant_v2._core -o _core.pyi'.split(); \
	  runpy.run_module('nanobind.stubgen', run_name='__main__')"

docs: build ## Write the pages that are made from the code
	$(PY) docs/generate.py

bench: build cpp ## Every benchmark; writes docs/benchmarks.md
	$(PY) -m benchmarks.run --build $(CPP_BUILD)

asan: $(VENV)/.ready ## The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake --preset asan -DPython_EXECUTABLE=$(PY)
	cmake --build --preset asan
	ctest --preset asan

tsan: $(VENV)/.ready ## The C++ tests of what uses threads, under ThreadSanitizer
	cmake --preset tsan -DPython_EXECUTABLE=$(PY)
	cmake --build --preset tsan
	ctest --preset tsan

$(VENV)/.ready: pyproject.toml | system
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet --group build
	touch $@

# CMake fetches what is missing here, so this only saves time; it asks for nothing.
system:
	@missing=; \
	command -v dpkg-query >/dev/null && for package in $(SYSTEM_PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	    || missing="$$missing $$package"; \
	done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' \
	  2>/dev/null || missing="$$missing python3-dev"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	if $$as_root true 2>/dev/null && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; \
	  $$as_root apt-get update -qq; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	else \
	  echo "not installed:$$missing (going on without)"; \
	fi

clean: ## Remove what was built; keeps the virtual environment
	rm -rf build dist demo-output .mypy_cache .pytest_cache .ruff_cache
	find python tests examples benchmarks zoo -name __pycache__ -type d -prune -exec rm -rf {} +
