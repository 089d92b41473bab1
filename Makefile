# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: soak fuzz quickstart test setup lint screenshots speed redteam clean

quickstart: .venv/.run
	$(BIN)/leakboard run --protocol digits-v1

test: .venv/.test lint
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 15

setup: .venv/.test

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

screenshots: .venv/.test
	$(BIN)/python -m leaderboard.screenshots docs fashion-mini-v1

speed: .venv/.test
	for part in training bank isolation attacks defenses guards robust board; do $(BIN)/python speed/$$part.py || exit; done

# A random fault every few seconds for ten minutes, and ten minutes of odd input for every reader.
soak: .venv/.test
	$(BIN)/python -m tests.faults.soak --protocol digits-v1 --seconds 600

fuzz: .venv/.test
	LEAKBOARD_FUZZ_MINUTES=10 $(BIN)/python -m pytest tests/fuzz --timeout 0

redteam: .venv/.test
	$(BIN)/python -m tests.redteam.run

.venv/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.test: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv mlruns/store mlruns/mlflow.db mlruns/artifacts
