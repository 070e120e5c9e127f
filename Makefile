# make search   install into .venv (once) and run the default search; ARGS="model=... budget.macs=0.3" is passed on
# make test     the same, then the tests and their coverage; ARGS="tests/test_config.py -x" runs some tests, without coverage
# make lint     style and type hints
# make notebooks   make the notebooks from the .py beside them, with what they show when they are executed
# make wheel    build the wheel, check what is in it, and run some tests on it in an environment of its own, .venv-wheel
PYTHON ?= python3
ARGS ?=
READY := .venv/.ready
COVERAGE := --cov=pas --cov-report=term:skip-covered --cov-fail-under=90
SOURCES := setup.cfg pyproject.toml README.md LICENSE $(shell find pas/ conf/ -name '*.py' -o -name '*.yaml' -o -name '*.css' -o -name '*.js' -o -path '*/family/*/*')

.PHONY: search test lint notebooks wheel clean

search: $(READY)
	.venv/bin/pas search $(ARGS)

test: $(READY)
	.venv/bin/python -m pytest $(if $(ARGS),$(ARGS),$(COVERAGE))

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/mypy

notebooks: $(READY)
	.venv/bin/python .ci/make-notebooks.py notebooks

wheel: .venv-wheel/.installed
	.ci/test-wheel .venv-wheel/bin/python

# Environments are made again when what is installed changes. A stamp is written last, so an interrupted install is done again.
define venv
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	|| { echo "pas needs Python 3.11 to 3.13; $(PYTHON) is `$(PYTHON) -V`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
$(PYTHON) -m venv
endef
PIP := -m pip --quiet --disable-pip-version-check

$(READY): setup.cfg pyproject.toml constraints.txt
	$(venv) .venv
	.venv/bin/python $(PIP) install -e '.[dev]' -c constraints.txt
	@touch $@

# `build` could hold files that the sources no longer have
dist/.checked: $(SOURCES)
	rm -rf build dist
	$(PYTHON) $(PIP) wheel --no-deps --wheel-dir dist .
	$(PYTHON) .ci/check-wheel.py dist/pas-*.whl
	@touch $@

.venv-wheel/.ready: setup.cfg constraints.txt | dist/.checked
	$(venv) --clear .venv-wheel
	.venv-wheel/bin/python $(PIP) install "$$(echo dist/pas-*.whl)[dev]" -c constraints.txt
	@touch $@

.venv-wheel/.installed: dist/.checked .venv-wheel/.ready
	.venv-wheel/bin/python $(PIP) install --no-deps --force-reinstall dist/pas-*.whl
	@touch $@

clean:
	rm -rf .venv .venv-wheel build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
