PYTHON ?= python3
BIN := .venv/bin
PARITY ?= ../shared/parity
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check lint clean

demo: .venv/installed
	$(BIN)/fasthmr demo

# Everything that must hold before a change is shared.
test: .venv/installed-dev lint
	FASTHMR_SHAPE_CHECKS=1 $(BIN)/pytest -q -n 2 -m "not compile"
	FASTHMR_SHAPE_CHECKS=0 $(BIN)/pytest -q -m compile
	$(BIN)/python tests/parity/run.py tests/golden
	if [ -d "$(PARITY)" ]; then $(BIN)/python tests/parity/run.py "$(PARITY)" --allow-unsupported; fi

# The inner loop: style, types, rows, and the tests that take no compiler.
check: .venv/installed-dev lint
	FASTHMR_SHAPE_CHECKS=1 $(BIN)/pytest -q -n 2 -x -m "not compile"

lint: .venv/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fasthmr needs Python 3.11 or newer; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist fasthmr-demo
