# Each target works alone on a fresh clone: it makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
NODE := tests/clients/node
TEXT ?= Hello there. This is Lyre, speaking from your own machine.
VOICE ?= tara
OUT ?= speech.wav
ARGS ?=

.PHONY: serve speak bench test test-balancers test-page test-clients fuzz check format clean

serve: $(VENV)/.runtime
	$(BIN)/lyre serve $(ARGS)

speak: $(VENV)/.runtime
	$(BIN)/lyre speak "$(TEXT)" --voice $(VOICE) -o $(OUT) $(ARGS)

bench: $(VENV)/.runtime
	$(BIN)/lyre bench $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

test-clients: $(VENV)/.runtime $(CLIENTS)/.python $(NODE)/node_modules/.package-lock.json
	$(CLIENTS)/bin/python -m pytest tests/clients $(ARGS)

test-balancers: $(VENV)/.balancers
	$(BIN)/python -m pytest tests/balancers $(ARGS)

test-page: $(VENV)/.page
	$(BIN)/python -m pytest tests/page $(ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m pytest tests/fuzz/fuzz_document.py tests/fuzz/fuzz_bytes.py -s $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CLIENTS) $(NODE)/node_modules *.egg-info .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Lyre needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --group dev
	touch $@

$(VENV)/.balancers: $(VENV)/.dev
	$(BIN)/pip install --quiet --group balancers
	touch $@

$(VENV)/.page: $(VENV)/.dev
	$(BIN)/pip install --quiet --group page
	$(BIN)/python -m tests.page.browser
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --group fuzz
	touch $@

$(CLIENTS)/.python: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(CLIENTS)/bin/pip install --quiet --group clients
	touch $@

$(NODE)/node_modules/.package-lock.json: $(NODE)/package-lock.json $(CLIENTS)/.python
	PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH" npm ci --silent --prefix $(NODE)
	touch $@
