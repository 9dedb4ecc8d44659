# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test test-paddle check fix bench
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

# The base install; with `constraints.txt` two installs agree.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Photos and videos that packages ship, into demo/; then the pipeline on them.
demo: $(VENV)/.installed
	$(BIN)/curation demo --fetch-only
	$(BIN)/curation run --config configs/demo.yaml

test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest

# PaddleOCR pins its own OpenCV, so its tests have an environment of their own.
test-paddle:
	test -x .venv-paddle/bin/python || $(PYTHON) -m venv .venv-paddle
	.venv-paddle/bin/python -m pip install --quiet --editable '.[dev,paddle]' 'opencv-python-headless==4.10.0.84'
	.venv-paddle/bin/python -m pytest tests/stages/test_text_paddle.py

# Changes nothing.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run
