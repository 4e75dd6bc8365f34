PYTHON ?= python3
VENV_PYTHON = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env demo test lint

help:
	@echo "make demo   train a SEMA Mask R-CNN on generated pictures, evaluate it, draw what it sees (CPU, 10 minutes)"
	@echo "make test   run all tests"
	@echo "make lint   check the style"
	@echo "make env    make the environment (.venv) that the others run in; they call it themselves"

env:
	@$(PYTHON) tools/setup_env.py

demo: env
	@$(VENV_PYTHON) tools/demo.py

# small tensors and several processes: one thread each is fastest
test: export OMP_NUM_THREADS ?= 1
test: env
	@$(VENV_PYTHON) -m pytest

lint: env
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
