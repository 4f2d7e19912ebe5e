# `make demo` and `make test` need Python 3.11 or newer and a C compiler; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait do not spin for long: as fast on a quiet machine, and many times faster on one that also does other work.
export GOMP_SPINCOUNT := 10000

.PHONY: demo test slow lint format clean

demo: .venv/installed
	$(BIN)/nas search --space resnet20-pooling --data digits --strategy mixture --supernets 4 \
		--objectives accuracy,macs --epochs 120 --alone-epochs 30 --batch-size 64 --out runs/demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
