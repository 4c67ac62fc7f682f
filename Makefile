# Two commands from a bare clone: `make demo` and `make test`. Each makes .venv if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0

.PHONY: demo test lint docs install clean

install: $(VENV)/.done

$(VENV)/.done: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) sh scripts/install.sh
	touch $@

demo: install
	$(BIN)/modeldiff-eval demo --out runs/demo

test: install
	$(BIN)/pytest -q -n auto --dist loadfile

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) runs site
