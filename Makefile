# make help lists the targets. All of them work below .venv and reuse what is there.
PYTHON ?= python3.11
BIN := .venv/bin
# Each worker takes about 1.5 GB; a test file stays on one worker, for its tests share servers and finished runs. Three are
# for two cores: who waits for a server leaves his core to the others. Files start in the order of tests/conftest.py.
TEST_WORKERS ?= 3
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# Telemetry off for every tool that a target starts.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-fast lint dev docs lock dvc-deps catalogue s3 chaos bench-digits bench-dmlp bench-emlc bench-purify bench-reclean bench-scale bench-train clean
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

install: .venv/.installed ## make .venv with pinned dependencies and the command .venv/bin/lnl

demo: install ## run the whole chain on scikit-learn's digits and print what it found
	@$(BIN)/lnl demo

test: dev ## install the test tools, then lint, type check and run all tests
	@$(MAKE) lint || lint=failed; $(PYTEST) && test -z "$$lint"

test-fast: dev ## the tests that start no server and take seconds: under two minutes on two cores
	@$(PYTEST) -m 'not slow and not server'

lint: dev ## ruff and mypy
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

dev: .venv/.dev-installed ## install the test tools

docs: dev ## the docs as a site in site/; fails on a broken link or a missing reference
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench-digits: install ## repeat the results table of README.md over several seeds
	@$(BIN)/python benchmarks/digits.py --write README.md

# Finished cells are kept in benchmarks/results; the features come from LNL_TEST_DATA, by default ../shared/data.
bench-train: install ## training methods on digits and CIFAR-10 images, and the cost of an epoch (an hour on two cores)
	@$(BIN)/python benchmarks/train.py --readme README.md
	@$(BIN)/python benchmarks/train_epochs.py --write benchmarks/results/train_epochs.md

bench-purify: install ## purifiers x noise, and up to a million rows, into benchmarks/results (hours)
	@$(BIN)/python benchmarks/purify.py
	@$(BIN)/python benchmarks/purify_scaling.py

bench-scale: dev ## shards on Ray beside shards in one process: rows a second, and what Ray costs (10 min)
	@$(BIN)/python benchmarks/scale_out.py --write benchmarks/results/scale_out.md

bench-reclean: install ## a crawl that grows against cleaning everything anew: seconds, images encoded, labels right (20 min)
	@$(BIN)/python benchmarks/reclean.py

bench-dmlp: install ## DMLP against the slow twin of its published procedure: seconds, labels right (an hour)
	@$(BIN)/python benchmarks/dmlp_speed.py

bench-emlc: install ## cost of a step of EMLC and of MLC in plain training steps
	@$(BIN)/python benchmarks/emlc_step.py

dvc-deps: dev ## rewrite deps, params and outs in dvc.yaml from the code, and params.yaml from the preset
	@LNL_WRITE_DVC_YAML=1 $(BIN)/pytest tests/test_dvc_graph.py -k graph_is_what_the_code_says

catalogue: dev ## rewrite lnl_core/catalogue.json, what `lnl methods` prints, from the registered files
	@$(BIN)/python -m lnl_core.catalogue

# Pins that still fit are kept; `make lock UPGRADE='numpy pillow'` lets go of those, `make lock UPGRADE=.` of all.
lock: ## resolve pyproject.toml again and write both lock files
	@PYTHON='$(PYTHON)' bash .ci/lock $(UPGRADE)

s3: dev ## a local S3 server on loopback with a bucket, until Ctrl-C; prints how to use it
	@$(BIN)/python -m dev.seaweed --folder .s3 --bucket lnl

# SEED=2 is another one, WORK=0.25 shorter stages for a slow machine.
chaos: dev ## kill processes and take S3 away during a scheduled run; it must end with the same bytes
	@$(BIN)/python -m dev.chaos --seed $(or $(SEED),1) --work $(or $(WORK),1)

clean: ## remove .venv and the caches; data/ stays
	rm -rf site .venv .lock-venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache lnl_pipeline.egg-info

.venv/bin/python:
	@python=$$(bash .ci/find-python '$(PYTHON)') && "$$python" -m venv .venv

.venv/.installed: requirements.lock pyproject.toml | .venv/bin/python
	@echo "installing requirements.lock into .venv (a few minutes)"
	@$(BIN)/python -m pip install -qq --requirement requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev-installed: requirements-dev.lock .venv/.installed
	@$(BIN)/python -m pip install -qq --requirement requirements-dev.lock
	@touch $@
