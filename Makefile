# Two commands do all: `make demo` shows the main job on real images, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check lint format screenshots clean

demo: $(INSTALLED)  ## build a memory of scanned digits, classify held-out ones and shifted variants, write a report
	$(BIN)/vmem demo --out demo

test: $(INSTALLED)  ## run the whole test suite; TEST_OPTIONS=--no-skips fails where a test is skipped that could have run
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_OPTIONS)

lint: $(INSTALLED)  ## formatting, style, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## everything that continuous integration checks

format: $(INSTALLED)  ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

screenshots: $(INSTALLED)  ## take the documentation's two pictures anew; needs a Chromium on the PATH
	$(BIN)/python docs/screenshots.py

clean:  ## remove what the commands above made, but not your memories and runs
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache

# constraints.txt holds the versions that were tested together; pyproject.toml only what is needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
