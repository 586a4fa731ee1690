# `make` alone says what there is. Options go in ARGS: make demo ARGS="--rows 10000", make test ARGS="tests/unit -x".

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements-dev.lock
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(INSTALLED) ## Migrate a live application before your eyes; needs no server
	@$(BIN)/replicator demo $(ARGS)

.PHONY: test
test: $(INSTALLED) ## Run the tests, against every Postgres that is found
	@tests/install_servers.sh
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

RUNS ?= 200
SEED ?= 1

.PHONY: faults
faults: $(INSTALLED) ## Break things RUNS times under live writers, from seed SEED on; prints a table
	@tests/install_servers.sh
	$(BIN)/python -m tests.faults.campaign --runs $(RUNS) --seed $(SEED) $(ARGS)

.PHONY: types-table
types-table: $(INSTALLED) ## Write tests/types.md: which types pass by which route
	@tests/install_servers.sh
	$(BIN)/python -m pytest -n auto --dist worksteal tests/integration/test_types.py \
		--need all --types-table tests/types.md $(ARGS)

.PHONY: model
model: $(INSTALLED) ## Search the model of the engine to the end, and say what each guard is for
	$(BIN)/python -m tests.model $(ARGS)

.PHONY: mutations
mutations: $(INSTALLED) ## Break the engine line by line, and see that the tests notice
	$(BIN)/python -m tests.mutations $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## Measure replicator and its peers, and print the table; QUICK=1: in less than five minutes
	$(BIN)/python -m benchmarks --scale $(if $(QUICK),quick,full) $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## Check style, types, layers and sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 tests/unit/test_sizes.py

.PHONY: docs
docs: $(INSTALLED) ## Build the documentation's site into build/site; fails on a warning
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

.PHONY: lock
lock: $(INSTALLED) ## Renew the exact versions of the development set-up
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --extra demo --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file $(LOCK)

.PHONY: clean
clean: ## Remove what was installed and cached here
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(INSTALLED): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed; name it so: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv; } || { \
		echo "This Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
