# The front door. `make run` makes a video of examples/hello.txt; `make test` runs every test.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PIP_QUIET := --quiet --disable-pip-version-check
WHEELS_ONLY := --only-binary c2pa-python,cryptography

.DEFAULT_GOAL := help
.PHONY: help run test soak lint format docs bench wheel clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/installed  ## install, turn examples/hello.txt into a video, print its path
	@$(BIN)/atenea submit examples/hello.txt
	@$(BIN)/atenea run --once

test: $(VENV)/installed-dev  ## install what tests need, run them all
	$(BIN)/pytest -n auto --dist worksteal

soak: $(VENV)/installed-dev  ## try every promise of docs/reliability.md at length: about two hours on two cores
	$(BIN)/python tests/soak/promises.py docs/reliability.md

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
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/preview.py

wheel: $(VENV)/installed  ## build dist/atenea-*.whl
	@$(BIN)/pip wheel $(PIP_QUIET) --no-deps --wheel-dir dist .
	@ls dist/atenea-*.whl

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build dist

# Videos are marked wherever the packages for it come as wheels: built from source, they would fetch more and take Rust.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_QUIET) $(WHEELS_ONLY) --editable '.[provenance]' || { \
		echo "make: without the packages that mark videos as made by AI; docs/provenance.md says what is left" >&2; \
		$(BIN)/pip install $(PIP_QUIET) --editable .; \
	}
	@touch $@

# torch comes first: asked for later, by another package, it would bring several gigabytes of CUDA.
# systemd-python has to be compiled, so it is only there where that is possible; its tests say when they are left out.
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install $(PIP_QUIET) $(TORCH)
	$(BIN)/pip install $(PIP_QUIET) --editable '.[dev,hallo2]'
	@if pkg-config --exists libsystemd && command -v cc >/dev/null; then \
		$(BIN)/pip install $(PIP_QUIET) --editable '.[systemd]'; \
	fi
	@touch $@
