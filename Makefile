# install · demo · test · check · faults · pages · fuzz · bench · wheels
#
# make install               makes .venv and installs the program into it
# make install WHEELS=folder installs without a network, from a folder that `make wheels` filled
# make demo                  trains on made-up images for a minute, and scores the model
# make test                  all tests, whole runs too
# make check                 format, lint, types, fast tests
# make faults                breaks whole runs on purpose, some 300 times, and counts what is lost
# make pages                 runs the commands of the pages about interruptions, watching and batches
# make fuzz                  spoils datasets, some 2,400 times, and looks what the check says
# make bench DATASET=folder  start-up side by side with stock nnU-Net
# make wheels                collects every package in the folder wheels, for a closed network

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEELS ?=
OFFLINE := $(if $(WHEELS),--no-index --find-links $(abspath $(WHEELS)))
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet $(OFFLINE) --constraint constraints.txt --editable
# In several processes, file by file; how many, and with which cores, tests/conftest.py says.
TESTS := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
RECIPE := pyproject.toml constraints.txt Makefile

.PHONY: install demo test check faults pages fuzz bench wheels

install: $(VENV)/installed
demo: install
	$(BIN)/medseg demo --root .
test: $(VENV)/installed-dev
	$(TESTS)
check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS) -m "not slow"
faults: $(VENV)/installed-dev
	$(BIN)/python tests/faults/faults.py --results faults.jsonl
pages: $(VENV)/installed-dev
	PAGES=1 $(BIN)/python -m pytest tests/integration/test_pages.py
fuzz: $(VENV)/installed-dev
	$(BIN)/python tests/fuzz/fuzz.py
bench: $(VENV)/installed-dev
	$(BIN)/python bench/start.py $(DATASET)
wheels:
	$(PYTHON) -m pip wheel --quiet --wheel-dir wheels --constraint constraints.txt ".[dev]" "setuptools>=77"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/installed: $(RECIPE) | $(VENV)/bin/python
	$(INSTALL) .
	touch $@
$(VENV)/installed-dev: $(RECIPE) | $(VENV)/bin/python
	$(INSTALL) ".[dev]"
	touch $@ $(VENV)/installed
