# Every target sets up .venv first; nothing has to be installed or started by hand.
PYTHON ?= python3
BIN := .venv/bin
FAST := not ray and not cluster and not service and not browser and not soak

.PHONY: help install demo test test-fast soak check reference docs bench bench-sampler clean

help:
	@echo "make demo       set up .venv and run a sweep of 60 pairs on real data, with a page at the end"
	@echo "make test       set up .venv and run all tests but the long ones"
	@echo "make test-fast  the tests that need no Ray, no cluster, no server and no browser"
	@echo "make soak       the long tests: processes and nodes that are killed, compilation"
	@echo "make check      lint, types, import rules"
	@echo "make docs       the documentation as pages in site/; broken links are errors"
	@echo "make reference  docs/reference, written from the code"
	@echo "make bench      benchmarks; each prints a table"
	@echo "make bench-sampler  the noise sampler against Optuna's, half an hour on two cores"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@echo "== setting up .venv (some gigabytes, minutes on a fresh machine)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	@# pip compiles in one process; left out, each process of Ray would, which writes nothing
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

demo: install
	@echo "== a sweep of 60 pairs on scikit-learn's digits with noisy labels; finished trials are kept in runs/demo"
	@echo "== it searches the largest merging gain, since the paper claims that the gain peaks at one noise"
	$(BIN)/sweeper run digits_label_noise --objective gain_mean --trials 60 --seed 1 --out runs/demo --yes

test: install
	@echo "== all tests but the long ones (make soak); those of a browser need Chromium, those of PostgreSQL its server, and are skipped without"
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m '$(FAST)'
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --durations 25 -m '(ray or cluster or service) and not soak'
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m browser

test-fast: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m '$(FAST)'

soak: install
	$(BIN)/python -m pytest --numprocesses 3 --dist load --durations 10 -m soak

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: install
	$(BIN)/python -m tests.docs.reference

bench: install
	@for file in tests/bench/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-sampler: install
	$(BIN)/python tests/bench/bench_sampler.py

clean:
	rm -rf .venv site .pytest_cache .ruff_cache .import_linter_cache
