# make book    the environment in .venv, every chapter executed, the book in _build/html
# make test    the same environment with the test extra, then all tests
# make check   what to run after every edit: lint, types, the tests of the tier "unit"
PYTHON ?= python3
BIN := .venv/bin

.PHONY: book test check
book: .venv/.book
	$(BIN)/ncutil build

test: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m unit

.venv/.book: pyproject.toml ncpress/pyproject.toml constraints.txt | .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e . -e ./ncpress
	touch $@

.venv/.test: pyproject.toml ncpress/pyproject.toml constraints.txt | .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e . -e "./ncpress[test]"
	touch $@

.venv:
	$(PYTHON) -m venv .venv
