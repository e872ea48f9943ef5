# Each target works alone on a fresh clone: it makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
DEPLOY := .venv-deploy
NODE := tests/clients/node
TEXT ?= Hello there. This is Lyre, speaking from your own machine.
VOICE ?= tara
OUT ?= speech.wav
ARGS ?=

LOCK := deploy/requirements.lock
# Licences that go with an Apache-2.0 program, by a part of their names; and what must not be in any name.
PERMITTED := Apache;MIT;BSD;ISC;PSF;Python Software Foundation;MPL;Mozilla Public License 2.0;Unlicense;Zlib
REFUSED := GPL;Affero;SSPL;EUPL;CDDL;Commons Clause;Business Source;Non-Commercial
# snac declares no licence in its package; its repository says MIT. docs/licences.md
UNDECLARED := snac

.PHONY: serve speak bench doctor test test-page test-clients test-deploy test-balancers test-image faults soak fuzz lock lock-cpu audit licences check format clean

serve: $(VENV)/.runtime
	$(BIN)/lyre serve $(ARGS)

speak: $(VENV)/.runtime
	$(BIN)/lyre speak "$(TEXT)" --voice $(VOICE) -o $(OUT) $(ARGS)

bench: $(VENV)/.runtime
	$(BIN)/lyre bench $(ARGS)

# Tests start the program a hundred times, which would compile itself anew each time where this is set.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

test-clients: $(VENV)/.runtime $(CLIENTS)/.python $(NODE)/node_modules/.package-lock.json
	$(CLIENTS)/bin/python -m pytest tests/clients $(ARGS)

test-balancers: $(VENV)/.balancers
	$(BIN)/python -m pytest tests/balancers $(ARGS)

test-deploy: $(VENV)/.runtime $(DEPLOY)/.python
	$(DEPLOY)/bin/python -m pytest tests/deploy $(ARGS)

test-page: $(VENV)/.page
	$(BIN)/python -m pytest tests/page $(ARGS)

# A real server for each kind of fault, a few minutes in all.
faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults tests/engine/test_engine_hang.py --timeout 600 $(ARGS)

# Long: 5,000 generations at 16.
soak: $(VENV)/.runtime
	$(BIN)/python -m benchmarks.soak --generations 5000 --most 16 $(ARGS)

test-image: $(VENV)/.dev
	$(BIN)/python -m pytest tests/deploy/build_image.py -s $(ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m pytest tests/fuzz/fuzz_document.py tests/fuzz/fuzz_bytes.py -s $(ARGS)

doctor: $(VENV)/.runtime
	$(BIN)/lyre doctor $(ARGS)

# With the extra otel, for all platforms, Python 3.11 and newer, with hashes. Reads metadata only and installs nothing. ARGS="--upgrade" for newer versions.
lock: $(VENV)/.audit
	$(BIN)/uv pip compile pyproject.toml --extra otel --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --quiet -o $(LOCK) $(ARGS)

# For the image without CUDA: the same versions and the same extra, but torch from PyTorch's own index.
lock-cpu: $(VENV)/.audit
	$(BIN)/uv pip compile pyproject.toml --extra otel --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock-cpu" --quiet --torch-backend cpu -c $(LOCK) -o deploy/requirements-cpu.lock $(ARGS)

# Needs the network, and fails without: what could not be looked up counts as not audited.
audit: $(VENV)/.audit
	$(BIN)/pip-audit --requirement $(LOCK) --require-hashes --disable-pip --strict $(ARGS)

# Of what is installed here and in the lock file; NVIDIA's libraries are not where no GPU is.
licences: $(VENV)/.audit
	$(BIN)/pip-licenses --python $(BIN)/python --from mixed --partial-match --fail-on "$(REFUSED)" --packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' $(LOCK))
	@$(BIN)/pip-licenses --python $(BIN)/python --from mixed --partial-match --allow-only "$(PERMITTED)" --ignore-packages $(UNDECLARED) --packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' $(LOCK)) > /dev/null

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CLIENTS) $(DEPLOY) $(NODE)/node_modules *.egg-info .pytest_cache .ruff_cache .import_linter_cache

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

$(VENV)/.audit: $(VENV)/.runtime
	$(BIN)/pip install --quiet --group audit
	touch $@

$(CLIENTS)/.python: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(CLIENTS)/bin/pip install --quiet --group clients
	touch $@

$(DEPLOY)/.python: pyproject.toml
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(DEPLOY)/bin/pip install --quiet --group deploy
	touch $@

$(NODE)/node_modules/.package-lock.json: $(NODE)/package-lock.json $(CLIENTS)/.python
	PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH" npm ci --silent --prefix $(NODE)
	touch $@
