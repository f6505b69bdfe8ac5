# `make demo` and `make test` work on a fresh checkout: they create .venv if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast coverage lint bench docs clean

demo: $(VENV)/installed
	$(BIN)/gpt1 demo

test: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-fast: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

coverage: lint  # the tests take 1.6 times as long on Python 3.11, which cannot count lines cheaply; CI has 3.13
	$(BIN)/python -m pytest -q -n auto --dist loadfile --cov --cov-report term:skip-covered

lint: $(VENV)/installed-test
	$(BIN)/ruff check gpt1 tests benchmarks docs
	$(BIN)/ruff format --check gpt1 tests benchmarks docs
	$(BIN)/mypy

bench: $(VENV)/installed-test
	$(BIN)/python -m benchmarks

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . docs/_build/html
	@echo docs/_build/html/index.html

# PyPI's torch for Linux includes gigabytes of CUDA. Without an NVIDIA GPU, install the CPU build first; if its index
# cannot be reached, the next line installs PyPI's.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null),Linux)
install-cpu-torch = $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --retries 0 --timeout 10 \
	--index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null || true
endif

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpt1 needs Python 3.11 or newer; try: make demo PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(install-cpu-torch)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
