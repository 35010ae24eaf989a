# Two commands do all the set-up: `make bench` and `make test`. Needs make and Python 3.11 or newer, no more.

PYTHON ?= python3
VENV   ?= .venv
MODELS ?= rnn,lstm,gru,bilstm,transformer
ARGS   ?=
PEERS  ?= $(VENV)-peers

python := $(VENV)/bin/python
pip := -m pip install --quiet --disable-pip-version-check --no-build-isolation
install := $(python) $(pip)
# requirements/*.txt pin every package by version and, but for torch.txt, by hash; pip refuses any other file.
checked := $(install) --require-hashes --no-deps -r

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help bench test lint launchers perf timings faults gpu lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

bench: $(VENV)/.bench  ## set up, compare five models on the built-in tasks, say where the report is
	$(python) -m seqbench -m model=$(MODELS) $(ARGS)

test: $(VENV)/.test  ## set up with the test tools and run the tests
	$(python) -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.lint  ## ruff, its formatter and mypy --strict
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy --strict

launchers: $(VENV)/.launchers  ## run sweeps on a real one-node Slurm and a real local Ray (three minutes)
	$(python) -m pytest tests/launchers -m launchers -n 3 --dist loadfile $(ARGS)

perf: $(VENV)/.test $(PEERS)/.installed  ## time a training step beside PyTorch, Lightning, Keras, JAX ... (12 minutes)
	PYTHONPATH=tests $(python) -m peers --python $(PEERS)/bin/python $(ARGS)

timings: $(VENV)/.test  ## time layers, padding, probes and single steps on this machine (takes a minute)
	$(python) -m pytest tests/perf -m perf --benchmark-enable --benchmark-columns=median,iqr,ops $(ARGS)

faults: $(VENV)/.test  ## kill, corrupt and attack it on purpose and print what broke (half an hour)
	PYTHONPATH=tests $(python) -m faults $(ARGS)

gpu:  ## where there is a GPU: its tests and measurements, by an interpreter that has torch (PYTHON=python3)
	PYTHONPATH=.:tests $(PYTHON) -m gpu $(ARGS)

lock:  ## pin what pyproject.toml asks for; ARGS=--upgrade takes the newest versions (needs uv)
	$(PYTHON) requirements/lock.py $(ARGS)

clean:  ## remove the environments and every cache; records and reports stay
	rm -rf $(VENV) $(PEERS) dist build .mypy_cache .ruff_cache .pytest_cache .benchmarks .hypothesis
	find seqbench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that one set of packages is installed, and builds on the set before; a second call does nothing.
$(VENV)/.bench: $(VENV)/.created pyproject.toml $(addprefix requirements/, build.txt bench.txt torch.txt)
	$(checked) requirements/build.txt
	$(checked) requirements/bench.txt
	$(install) -c requirements/torch.txt torch
	$(install) --no-deps -e .
	@touch $@

$(VENV)/.test: $(VENV)/.bench requirements/test.txt
	$(checked) requirements/test.txt
	@touch $@

$(VENV)/.lint: $(VENV)/.test requirements/lint.txt
	$(checked) requirements/lint.txt
	@touch $@

$(VENV)/.launchers: $(VENV)/.test requirements/launchers.txt
	$(checked) requirements/launchers.txt
	@touch $@

# What others would use instead, with versions of its own beside the same torch; only `make perf` needs it.
$(PEERS)/.installed: $(VENV)/.created $(addprefix requirements/, peers.txt torch.txt)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(pip) --require-hashes --no-deps -r requirements/peers.txt
	$(PEERS)/bin/python $(pip) -c requirements/torch.txt torch
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)'; install Python 3.11 or newer, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("make: %s is Python %d.%d, seqbench needs 3.11 or newer: make PYTHON=/path/to/python3" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	@touch $@
