# Everything a newcomer types. `make` alone prints this list.
VENV ?= .venv
# The first interpreter that is there, runs, and is of a version the packages support.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
DEMO ?= demo
# Test files are shared among processes; more of them would only repeat the fixtures.
PYTEST_JOBS ?= -n logical --maxprocesses 4 --dist loadfile
# A test that waits forever ends its process after so many seconds and is named. The others run in a new one.
PYTEST_HANGS := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true

FAULTS ?=
GPU_PROOF ?= --out gpu_proof
BUNDLE ?= bundle

.DEFAULT_GOAL := help
.PHONY: help setup bundle demo test test-slow faults test-slurm test-container test-gpu gpu-proof lint docs clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## make .venv with the pinned packages, once

# Made again only when a pin or a dependency changes. The packages are installed editable: code changes need nothing.
$(VENV)/.installed: constraints/cpu.txt requirements.txt requirements-dev.txt $(wildcard sub-packages/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; name one with make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt -c constraints/cpu.txt
	@touch $@

bundle:  ## collect what an install without a network needs (PYTHON=python3.12 CUDA=cu126 PART=1900M)
	PYTHON="$(PYTHON)" recipes/bundle/bundle.sh $(BUNDLE)

demo: setup  ## simulate a screen, train on it, predict the held-out conditions, score them (minutes)
	PATH="$(abspath $(BIN)):$$PATH" recipes/demo/run.sh $(DEMO)

test: setup  ## run the tests that take seconds each
	$(BIN)/python -m pytest $(PYTEST_JOBS) $(PYTEST_HANGS)

test-slow: setup  ## run the tests that take minutes each
	$(BIN)/python -m pytest $(PYTEST_JOBS) $(PYTEST_HANGS) -rs -m "slow and not gpu and not slurm and not container"

faults: setup  ## kill, damage and disturb every command, and count how it ends (FAULTS=--short: fewer trials)
	$(BIN)/python tests/faults/run.py $(FAULTS)

test-slurm: setup  ## run recipes' jobs on a Slurm cluster that is made on this machine (Debian: slurm-wlm, munge)
	$(BIN)/python -m pytest -rs -m slurm tests/test_real_slurm.py $(SLURM)

test-container: setup  ## build both Dockerfiles on stand-ins for NVIDIA's images (root; Debian: buildah, debootstrap)
	$(BIN)/python -m pytest -rs -m container tests/test_container.py

test-gpu:  ## run the tests that need an NVIDIA GPU, with the python of this environment (a container)
	python -m pytest -m gpu

gpu-proof:  ## show on one GPU what a CPU cannot show, in about an hour, with the python of this environment
	python recipes/gpu_proof/prove.py $(GPU_PROOF)

lint: setup  ## check style, types, imports, scripts and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python .ci/import_graph.py --check
	$(BIN)/pyright
	$(BIN)/shellcheck -x -s bash .ci/run docker/*.sh recipes/*/*.sh experiments/*/*.sh
	$(BIN)/hadolint docker/Dockerfile*

docs: setup  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove everything that was built; the environment included
	rm -rf $(VENV) $(DEMO) $(BUNDLE) site .pytest_cache .ruff_cache
	find . -name __pycache__ -o -name '*.egg-info' -prune | xargs rm -rf
