# Two commands do all: `make demo` shows the main job on real images, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The first holds what a user needs; the second adds what tests, linters and documentation need.
INSTALLED := $(VENV)/.installed
COMPLETE := $(VENV)/.installed-dev

.PHONY: demo test docs check lint format screenshots clean

demo: $(INSTALLED)  ## build a memory of scanned digits, classify held-out ones and shifted variants, write a report
	$(BIN)/vmem demo --out demo

test: $(COMPLETE)  ## run the whole test suite; TEST_OPTIONS=--no-skips fails where a test is skipped that could have run
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_OPTIONS)

docs: $(COMPLETE)  ## build the documentation into site/; a broken link, an unknown name or a warning is an error
	$(BIN)/python tools/docs.py

lint: $(COMPLETE)  ## formatting, style, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint docs test  ## everything that continuous integration checks

format: $(COMPLETE)  ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

screenshots: $(COMPLETE)  ## take the documentation's two pictures anew; needs a Chromium on the PATH
	$(BIN)/python tools/screenshots.py

clean:  ## remove what the commands above made, but not your memories and runs
	rm -rf $(VENV) demo site .mypy_cache .ruff_cache .pytest_cache

# constraints.txt holds the versions that were tested together; pyproject.toml only what is needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) tools/install.py $(VENV)
	touch $@

$(COMPLETE): pyproject.toml constraints.txt
	$(PYTHON) tools/install.py $(VENV) dev
	touch $(INSTALLED) $@
