PYTHON ?= python3
VENV_PYTHON = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env demo test test-quick test-long scorecard test-openmmlab lint types docs

help:
	@echo "make demo   train a SEMA Mask R-CNN on generated pictures, evaluate it, draw what it sees (CPU, 10 minutes)"
	@echo "make test   run the tests that CI runs"
	@echo "make test-quick   those of them that are fast: 3 to 4 minutes on 2 quiet cores"
	@echo "make test-long    what takes minutes each: 36 minutes on 2 quiet cores"
	@echo "make scorecard    what was promised of faulty data, configs, files and long runs, in figures"
	@echo "make test-openmmlab PYTHON=python3.10   the tests that concern the official OpenMMLab packages, in .venv-openmmlab"
	@echo "make lint   check style, spelling, links and types"
	@echo "make docs   build the site of the documentation in docs/_build/html"
	@echo "make env    make the environment (.venv) that the others run in; they call it themselves"

env:
	@$(PYTHON) tools/setup_env.py

demo: env
	@$(VENV_PYTHON) tools/demo.py

# small tensors: one process a core, with one thread each, is fastest
PYTEST = -m pytest -n auto --dist loadfile

test test-quick test-long: export OMP_NUM_THREADS ?= 1
test: env
	@$(VENV_PYTHON) $(PYTEST) -m "not long"

test-quick: env
	@$(VENV_PYTHON) $(PYTEST) -m "not long and not slow"

# a few files take most of the time: the idle process takes tests from the busy one
test-long: env
	@$(VENV_PYTHON) $(PYTEST) --dist worksteal -m long

scorecard: export OMP_NUM_THREADS ?= 1
scorecard: env
	@$(VENV_PYTHON) tests/scorecard.py

# without the tests of the forks' own tools, of the set-up, and of peers that torch 2.1 does not have
test-openmmlab: export OMP_NUM_THREADS ?= 1
test-openmmlab:
	@$(PYTHON) tools/setup_env.py --stack openmmlab
	@.venv-openmmlab/bin/python -m mmsema.collect_env
	@.venv-openmmlab/bin/python $(PYTEST) -m "not long" --ignore=tests/benchmark --ignore=tests/test_mmseg.py \
		--ignore=tests/tools/test_host_tools.py --ignore=tests/tools/test_setup_env.py --ignore=tests/tools/test_demo.py

# style, spelling, types of the public API; links: the site, which fails on one that leads nowhere
lint: types docs
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m codespell_lib

# mypy reads files, not installed packages: kernels/ must be there under its import name
types: env
	@mkdir -p .mypy_cache/packages && ln -sfn ../../kernels .mypy_cache/packages/mmsema_kernels
	@$(VENV_PYTHON) -m mypy

docs: env
	@$(VENV_PYTHON) -m sphinx -q -W --keep-going -b html -c docs -d docs/_build/doctrees . docs/_build/html
	@echo "the site is in docs/_build/html/index.html"
