# Two commands for everybody: `make demo` and `make test`. Each makes its own .venv and installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export QT_API ?= pyqt5
SCREEN := scripts/with_screen
# two workers with one torch thread each: more threads than cores wait for each other
PYTEST := OMP_NUM_THREADS=1 $(SCREEN) $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help demo test test-fast test-all test-qt lint bench-quality bench-encoder screenshots clean

help: ## show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt scripts/system_packages
	scripts/system_packages
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable ".[pyqt5]" --group dev
	touch $@

demo: $(READY) ## the main job on sample slides, in a window, or with screenshots in demo-output/ where there is no screen
	$(SCREEN) $(BIN)/napari-mil demo --output demo-output

lint: $(READY) ## ruff, mypy, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: $(READY) ## the quick tests, under two minutes
	$(PYTEST) -m "not slow and not soak"

test: lint ## everything that must hold: lint and tests, under ten minutes from an empty clone
	$(PYTEST) -m "not soak"

test-all: lint ## the same with soak tests, and the UI on PyQt6
	$(PYTEST)
	$(MAKE) test-qt

test-qt: $(READY) ## the UI tests on PyQt6, in an environment of their own
	[ -x .venv-qt6/bin/python ] || $(PYTHON) -m venv .venv-qt6
	.venv-qt6/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-qt6/bin/python -m pip install --quiet -c constraints.txt --editable ".[pyqt6]" --group dev
	QT_API=pyqt6 $(SCREEN) .venv-qt6/bin/python -m pytest tests/ui -o qt_api=pyqt6

bench-quality: $(READY) ## how well the methods work on the sample cohort: the table in docs/benchmarks.md, resumes run by run
	$(BIN)/python benchmarks/quality.py

bench-encoder: $(READY) ## speed and worth of the built-in encoder
	$(BIN)/python benchmarks/encoder.py

screenshots: $(READY) ## the pictures of README and docs, from the real window
	$(SCREEN) $(BIN)/python scripts/screenshots.py

clean: ## remove what was made here
	rm -rf $(VENV) .venv-qt6 demo-output dist
