# The two commands most people need: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

# Tests read the public data sets under SHORTLIST_DATA where there is such a folder, else data they generate.
ifndef SHORTLIST_DATA
ifneq ($(wildcard ../shared/data),)
export SHORTLIST_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-slow test-spark test-sharded bench lint env clean
.DEFAULT_GOAL := demo

demo: .venv/serve.stamp
	$(BIN)/shortlist demo $(ARGS)

test: lint
	@echo "data for the tests: $${SHORTLIST_DATA:-generated (SHORTLIST_DATA is not set)}" >&2
	$(BIN)/pytest -m "not slow" $(ARGS)

test-slow: .venv/dev.stamp
	@echo "data for the tests: $${SHORTLIST_DATA:-generated (SHORTLIST_DATA is not set)}" >&2
	$(BIN)/pytest -m slow $(ARGS)

# Spark needs Java 17 or later, which is the machine's, and half a gigabyte of pyspark (docs/decisions/spark.md).
test-spark: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[spark]'
	$(BIN)/pytest tests/tables $(ARGS)

# TorchRec asks for other builds than it runs with: its dependencies are named here (docs/decisions/scale.md).
test-sharded: .venv-sharded/stamp
	.venv-sharded/bin/python -m pytest tests/training/test_sharded.py $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/dev.stamp
	@for name in $$(sed -n 's/.*python -m bench\.\([a-z_]\{1,\}\).*/\1/p' bench/*.py | sort -u); do \
		echo "bench.$$name" >&2; $(BIN)/python -m bench.$$name $(ARGS) || exit 1; done

env: .venv/dev.stamp

# torch goes in first and alone, so that nothing installed after it can ask for another build of it. TORCH_INDEX, where
# it is set, is the package index it comes from: that of the CPU builds spares gigabytes of libraries for GPUs.
.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "shortlist needs Python 3.11 or later; make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/serve.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[serve,onnx]'
	@touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/serve.stamp $@

.venv-sharded/stamp: pyproject.toml
	$(PYTHON) -m venv .venv-sharded
	.venv-sharded/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-sharded/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest hypothesis \
		tensordict tqdm pyre-extensions torchmetrics==1.0.3
	.venv-sharded/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
	@touch $@

# Everything the targets above made, the demo's project included.
clean:
	rm -rf .venv .venv-sharded demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
