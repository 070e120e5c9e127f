# make search   install into .venv (once) and run the default search; ARGS="model=... budget.macs=0.3" is passed on
# make test     the same, then the tests; ARGS="tests/test_config.py -x" is passed on
PYTHON ?= python3
ARGS ?=
READY := .venv/.ready

.PHONY: search test lint clean

search: $(READY)
	.venv/bin/pas search $(ARGS)

test: $(READY)
	.venv/bin/python -m pytest $(ARGS)

lint: $(READY)
	.venv/bin/ruff check .

# Made again when what is installed changes. The stamp is written last, so an interrupted install is done again.
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "pas needs Python 3.11 to 3.13; $(PYTHON) is `$(PYTHON) -V`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
