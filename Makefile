# Every target sets up what it needs in .venv; the second time it only checks a stamp.
PYTHON ?= python3
BIN := .venv/bin
# Threads that soon wait asleep do not starve each other on shared cores; see tpo_ref/study/cli/main.py.
export GOMP_SPINCOUNT ?= 4000
STAMP := .venv/.installed

.PHONY: demo test bench lint trace trl-range clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,torch,llm,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/tpo demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/asv machine --yes --config benchmarks/asv.conf.json
	$(BIN)/asv run --config benchmarks/asv.conf.json --python=same --show-stderr $(BENCH)

trace: $(STAMP)
	$(BIN)/python spec/trace.py

# The latest patch of each TRL version that pyproject.toml allows; downloads them the first time.
trl-range: $(STAMP)
	$(BIN)/python tests/llm/trl_range.py

clean:
	rm -rf .venv .hypothesis .pytest_cache .mypy_cache .ruff_cache runs
