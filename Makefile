# Two commands do all the set-up: `make bench` and `make test`. Needs make and Python 3.11 or newer, no more.

PYTHON ?= python3
VENV   ?= .venv
MODELS ?= rnn,lstm,gru,bilstm,transformer
ARGS   ?=

python := $(VENV)/bin/python
# -c pins what is installed; the variable pins what builds it (read by pip from 25.3 on).
install := PIP_BUILD_CONSTRAINT=constraints.txt $(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt
pins    := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help bench test lint perf clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

bench: $(VENV)/.bench  ## set up, compare five models on the built-in tasks, say where the report is
	$(python) -m seqbench -m model=$(MODELS) $(ARGS)

test: $(VENV)/.test  ## set up with the test tools and run the tests
	$(python) -m pytest $(ARGS)

lint: $(VENV)/.lint  ## ruff, its formatter and mypy --strict
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy --strict

perf: $(VENV)/.test  ## time layers, padding and training steps on this machine (takes a minute)
	$(python) -m pytest tests/perf -m perf --benchmark-enable --benchmark-columns=median,iqr,ops $(ARGS)

clean:  ## remove the environment and every cache; records and reports stay
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .benchmarks .hypothesis
	find seqbench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that one set of packages is installed for these pins; a second call does nothing.
$(VENV)/.bench: $(VENV)/.created $(pins)
	$(install) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.created $(pins)
	$(install) -e '.[test]'
	@touch $@ $(VENV)/.bench

$(VENV)/.lint: $(VENV)/.created $(pins)
	$(install) -e '.[test,dev]'
	@touch $@ $(VENV)/.test $(VENV)/.bench

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)'; install Python 3.11 or newer, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("make: %s is Python %d.%d, seqbench needs 3.11 or newer: make PYTHON=/path/to/python3" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	@touch $@
