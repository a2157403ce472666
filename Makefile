# Every target sets itself up: a fresh clone needs nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OPTIONS ?=   # of both sweeps: make sweep OPTIONS='--epochs 2'

.PHONY: help sweep test test-fast test-avx2 test-cluster lint format bench clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

sweep: $(VENV)/sweep.stamp  ## run the ufm and digits studies and print their tables
	status=0; \
	$(BIN)/python orchestrator/sweep.py --study ufm $(OPTIONS) || status=$$?; \
	test $$status -gt 1 || $(BIN)/python orchestrator/sweep.py $(OPTIONS) || status=$$?; \
	$(BIN)/python -m analysis.report || status=$$?; \
	echo "to type the commands above: source $(BIN)/activate"; exit $$status

test: $(VENV)/dev.stamp  ## all tests that this machine can run
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/dev.stamp  ## the tests without Ray, in under two minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not ray and not cluster"

test-avx2: $(VENV)/dev.stamp  ## what trains, as on a CPU without AVX-512, in a minute
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 --dist loadfile \
		-m "not slow and not ray and not cluster" tests/trainers/model tests/trainers/run

test-cluster: $(VENV)/dev.stamp  ## the tests on four machines made of namespaces; needs root
	$(BIN)/python -m pytest tests/cluster

lint: $(VENV)/dev.stamp  ## ruff and pyright
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/dev.stamp  ## let ruff rewrite
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp  ## ours against plain code, into benchmarks/RESULTS.md; nothing else running
	$(BIN)/python -m benchmarks

clean:  ## remove the environment; results stay
	rm -rf $(VENV)

# One install for each set of extras; again when pyproject.toml changes.
$(VENV)/%.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[$*]'
	touch $@
.PRECIOUS: $(VENV)/%.stamp
