# `make demo` and `make test` need Python 3.11 or newer and a C compiler; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait do not spin for long: as fast on a quiet machine, and many times faster on one that also does other work.
export GOMP_SPINCOUNT := 10000

.PHONY: demo test slow lint format docs clean

# One supernet with weights per resolution ranks placements best (docs/results.md); `make demo STRATEGY=mixture` is a mixture of four.
STRATEGY ?= one-shot
OPTIONS_one-shot := --option weights=per-resolution
OPTIONS_mixture := --supernets 4

# One thread: the networks are small, and on a machine that also does other work two threads wait for each other most of the time.
demo: export OMP_NUM_THREADS ?= 1
demo: .venv/installed
	$(BIN)/nas search --space resnet20-pooling --data digits --strategy $(STRATEGY) $(OPTIONS_$(STRATEGY)) \
		--objectives accuracy,macs --epochs 120 --alone-epochs 30 --batch-size 64 --out runs/demo-$(STRATEGY)

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict --quiet
	@echo "the documents are build/docs/index.html"

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
