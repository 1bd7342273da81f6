# make demo   set everything up, record demonstrations, pre-train, evaluate, report
# make test   set everything up, then lint, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WEIGHTS := build/weights/.made

export HF_HUB_OFFLINE := 1
export PYTHON VENV

.PHONY: demo test check setup gl clean

demo: setup gl
	$(BIN)/trivium demo-data data/quickstart --episodes 150
	$(BIN)/trivium train recipes/quickstart.py

test: setup
	@scripts/setup_gl.sh || echo "going on: tests that draw pictures will be skipped"
	$(MAKE) check
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

setup: $(INSTALLED) $(WEIGHTS)

gl:
	@scripts/setup_gl.sh

# The stamps are touched last, so what was interrupted is done again.
$(INSTALLED): pyproject.toml constraints.txt scripts/setup_venv.sh
	scripts/setup_venv.sh
	@touch $@

$(WEIGHTS): $(INSTALLED) src/trivium/weights.py
	$(BIN)/python -m trivium.weights build/weights
	@touch $@

clean:
	rm -rf $(VENV) build src/trivium.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests recipes bench scripts -name __pycache__ -prune -exec rm -rf {} +
