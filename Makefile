# Each target makes the environment it needs; nothing has to be done before.
#   make install  install into .venv
#   make train    install, then train a ResNet-50 on the embedded cells (minutes, two CPU cores)
#   make test     install, then lint, type check and the tests
#   make quick    the tests alone
#   make coverage the same, with the lines that no test reaches (a sixth more time)
#   make smoke    a few of them: each command once, models, step and predictions
#   make proofs   the slow proofs
#   make long     the longest ones, which CI leaves out: run them before a release
#   make lint     ruff and mypy alone
#   make docs     the site, into site/: open site/index.html
#   make wheel    build wheel and sdist, and check them

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("constraints/py311.txt" if sys.version_info < (3, 12) else "constraints/py312plus.txt")')
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint $(CONSTRAINTS)

.PHONY: install train test quick coverage smoke proofs long lint docs wheel clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

train: $(VENV)/.installed
	$(BIN)/python -m leukjax.main --config=configs/resnet50.py --workdir=runs/resnet50

test: lint quick

quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' --cov --cov-report=term:skip-covered

smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'smoke and not slow'

proofs: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow and not long' --durations=0 -rs --no-fold-skipped

long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long --durations=0

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The notice is about a version of MkDocs that pyproject.toml excludes.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/mkdocs build

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: leukjax needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	@echo "installing leukjax into $(VENV) (about a minute)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "installing what builds the site into $(VENV)"
	@$(PIP) --editable '.[docs]'
	@touch $@

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .coverage
