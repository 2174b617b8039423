# Two commands for everybody: `make demo` and `make test`. Each makes its own .venv and installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export QT_API ?= pyqt5
# modules are compiled when they are first imported, of most packages never: see --no-compile
unexport PYTHONDONTWRITEBYTECODE
SCREEN := scripts/with_screen
# one torch thread per worker, and a worker more than cores: some wait for a child, a server or a timer. Who is done early
# takes tests over
WORKERS := 3
PYTEST = OMP_NUM_THREADS=1 $(SCREEN) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# the UI tests elsewhere: on PyQt6, and with PyQt5 on the last napari 0.6 and 0.8
MATRIX := qt6 napari-0.6 napari-0.8

.PHONY: help demo test test-suite test-fast test-all test-soak test-matrix $(MATRIX:%=test-ui-%) lint bench-quality bench-methods bench-encoder bench-review bench-slides screenshots clean

help: ## show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# Debian's packages and Python's are fetched side by side, once there is what makes the environment
$(READY): pyproject.toml constraints.txt scripts/environment.py scripts/system_packages
	scripts/system_packages venv
	scripts/system_packages $(WITH) & $(PYTHON) scripts/environment.py $(VENV) constraints.txt pyqt5,dicom,remote && wait $$!
	touch $@

demo: $(READY) ## the main job on sample slides, in a window, or with screenshots in demo-output/ where there is no screen
	$(SCREEN) $(BIN)/napari-mil demo --output demo-output

lint: $(READY) ## ruff, mypy, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: WORKERS := 2 # hardly anything waits here
test-fast: $(READY) ## the quick tests, without window, study and server: under two minutes
	$(PYTEST) -m "not slow and not soak"

test: WITH := tests
test: $(READY) ## everything that must hold: lint and tests; ten minutes from an empty clone on two slow cores
	scripts/system_packages tests
	$(MAKE) --jobs=2 lint test-suite

# what is imported is compiled once before, not by every worker
test-suite: $(READY)
	$(SCREEN) $(BIN)/python -m pytest --collect-only -qq -p no:syrupy > /dev/null || true # the next line says what is wrong
	$(PYTEST) -m "not soak"

test-all: ## the same, then soak and full fuzz, then the UI tests on other bindings and versions; hours
	$(MAKE) test
	$(MAKE) test-soak
	$(MAKE) test-matrix

test-soak: $(READY) ## full fuzz: thousands of damaged files; 10,000 edits with kill -9 in between; 200 slides worked through in one window
	scripts/system_packages tests
	MALLOC_ARENA_MAX=2 $(PYTEST) -m soak

test-matrix: ## the UI tests on PyQt6, napari 0.6 and napari 0.8, one after the other
	for of in $(MATRIX); do $(MAKE) test-ui-$$of; done

$(MATRIX:%=test-ui-%): test-ui-%: .venv-%/.ready
	OMP_NUM_THREADS=1 QT_API=$(BINDING) $(SCREEN) .venv-$*/bin/python -m pytest tests/ui -m "not soak" -o qt_api=$(BINDING)

test-ui-% .venv-%/.ready: BINDING := pyqt5
test-ui-qt6 .venv-qt6/.ready: BINDING := pyqt6

# constraints.txt, with the version of napari that the environment is named after
$(MATRIX:%=.venv-%/.ready): .venv-%/.ready: pyproject.toml constraints.txt scripts/environment.py scripts/system_packages
	scripts/system_packages
	mkdir -p .venv-$*
	sed '$(if $(filter napari-%,$*),s/^napari==.*/napari==$(*:napari-%=%).*/)' constraints.txt > .venv-$*/constraints.txt
	$(PYTHON) scripts/environment.py .venv-$* .venv-$*/constraints.txt $(BINDING),dicom,remote
	touch $@

bench-quality: $(READY) ## how well the methods work, on sample, planted and real sets: tables in docs/benchmarks.md, resumes run by run
	$(BIN)/python benchmarks/quality.py --sets planted hazard photographs hierarchy lung survival musk1 elephant bf16
	$(BIN)/python benchmarks/quality.py --sets planted --sweep --seeds 20
	$(BIN)/python benchmarks/quality.py --sets sample --seeds 10
	$(BIN)/python benchmarks/quality.py --sets sample --cohort 3

bench-methods: $(READY) ## speed and memory of the methods, beside the published order of operations
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/methods.py

bench-encoder: $(READY) ## speed and worth of the built-in encoder
	$(BIN)/python benchmarks/encoder.py

bench-review: $(READY) ## how many labels the review queue saves: a scripted reader on planted cohorts, 20 seeds
	$(BIN)/python benchmarks/review.py

bench-slides: $(READY) ## how fast slides open, are read and are drawn, beside other readers: tables in docs/benchmarks.md
	OMP_NUM_THREADS=1 $(SCREEN) $(BIN)/python benchmarks/slides.py --write

screenshots: $(READY) ## the pictures of README and docs, from the real window
	$(SCREEN) $(BIN)/python scripts/screenshots.py

clean: ## remove what was made here
	rm -rf $(VENV) .venv-* demo-output dist
