# Two commands on a bare machine: `make demo` and `make test`. Each makes .venv first if it has to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast lint bench clean

demo: $(VENV)/installed
	$(BIN)/gpt1 demo

test: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-fast: lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

lint: $(VENV)/installed-test
	$(BIN)/ruff check gpt1 tests benchmarks
	$(BIN)/ruff format --check gpt1 tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/installed-test
	$(BIN)/python -m benchmarks

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpt1 needs Python 3.11 or newer; try: make demo PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
