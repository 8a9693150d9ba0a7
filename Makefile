# The front door. `make run` makes a video of examples/hello.txt; `make test` runs every test.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help run test soak lint format docs bench wheel clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/installed  ## install, turn examples/hello.txt into a video, print its path
	@$(BIN)/atenea submit examples/hello.txt
	@$(BIN)/atenea run --once

test: $(VENV)/installed-dev  ## install what tests need, run them all
	$(BIN)/pytest -n auto --dist worksteal

soak: $(VENV)/installed-dev  ## an hour with hallo2, hundreds of kills and power cuts: about an hour
	SOAK_STATES=0 $(BIN)/pytest -s tests/soak/*.py tests/faults/test_kill_points.py tests/faults/test_power.py

lint: $(VENV)/installed-dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy daemon plugins hallo2
	$(BIN)/lint-imports

format: $(VENV)/installed-dev  ## let ruff lay the code out
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/installed-dev  ## write what docs/reference.md has from the code
	$(BIN)/python docs/generate.py

bench: $(VENV)/installed-dev  ## print the figures that README quotes
	$(BIN)/python benchmarks/make_run.py
	$(BIN)/python benchmarks/inbox.py
	$(BIN)/python benchmarks/idle.py
	$(BIN)/python benchmarks/preview.py

wheel: $(VENV)/installed  ## build dist/atenea-*.whl
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/atenea-*.whl

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build dist

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# torch comes first: asked for later, by another package, it would bring several gigabytes of CUDA.
# systemd-python has to be compiled, so it is only there where that is possible; its tests say when they are left out.
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,hallo2]'
	@if pkg-config --exists libsystemd && command -v cc >/dev/null; then \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[systemd]'; \
	fi
	@touch $@
