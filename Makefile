# make demo   the main job on clips it makes itself: shards, pre-training, export, evaluation
# make test   the tests
#
# Both make the environment first. PYTHON= chooses the interpreter (3.11 or newer);
# STACK=current takes the newer TensorFlow on Python 3.11 as well.

PYTHON ?= python3
STACK ?= default
DEMO ?= build/demo

ifeq ($(STACK),current)
VENV := .venv-current
REQUIREMENTS := pyproject.toml
else
VENV := .venv
REQUIREMENTS := requirements.txt
endif
READY := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format clean

$(READY): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(STACK),current)
	@# The extra alone: the project's own dependencies name the other stack on Python 3.11.
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["current"]))' > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/requirements.txt
else
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
endif
	@touch $@

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --runslow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis
