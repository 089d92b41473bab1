# Two commands on a fresh machine: `make quickstart` and `make test`. What stands behind ## is what `make help` prints.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help soak fuzz quickstart test setup lint docs notebook screenshots speed redteam clean

quickstart: .venv/.run ## set up .venv, score digits-v2 and print the ranked tables
	$(BIN)/leakboard run --protocol digits-v2

test: .venv/.test lint ## set up .venv, run the linters and all tests
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15

setup: .venv/.test ## set up .venv with all that tests need

lint: .venv/.test ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/.docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebook: .venv/.test ## run docs/audit.ipynb and keep what it prints and draws
	$(BIN)/python -m docs.notebook

screenshots: .venv/.test ## draw every page of the app into docs/
	$(BIN)/python -m leaderboard.screenshots docs fashion-mini-v1

speed: .venv/.test ## time the parts of the judge and the board
	for part in speed/*/*.py; do $(BIN)/python $$part || exit; done

# A random fault every few seconds for ten minutes, and ten minutes of odd input for every reader.
soak: .venv/.test ## a random fault every few seconds for ten minutes
	$(BIN)/python -m tests.faults.soak --protocol digits-v2 --seconds 600

fuzz: .venv/.test ## odd input for every reader for ten minutes
	LEAKBOARD_FUZZ_MINUTES=10 $(BIN)/python -m pytest tests/fuzz --timeout 0

redteam: .venv/.test ## run the hostile submissions and print what stopped each
	$(BIN)/python -m tests.redteam.run

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

.venv/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.test: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

.venv/.docs: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean: ## remove .venv and all that was computed
	rm -rf .venv site mlruns/store mlruns/mlflow.db mlruns/artifacts
