# Needs make, Python 3.11 or newer and a package registry; no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run test test-slow test-clients test-all check audit sbom digests docs bench bench-quick chaos chaos-mutants lock clean
.DEFAULT_GOAL := run
# Without compiled modules, every process of the tests compiles again what it imports.
unexport PYTHONDONTWRITEBYTECODE

run: $(VENV)/.installed
	@exec $(BIN)/imagegate demo --exit-with-parent $(ARGS)

test: $(VENV)/.installed-dev
	@exec $(BIN)/python -m pytest -m "not slow" $(ARGS)

# Runs what test omits: other Redis servers, real-time waits, soak tests, and all examples of the fuzz tests. They wait
# more than the others, so one more runs at a time.
test-slow: MARKS ?= slow or fuzz
test-slow: $(VENV)/.installed-dev
	@FUZZ=$${FUZZ:-1} $(BIN)/python -m pytest -m "$(MARKS)" --numprocesses=5 $(ARGS)

# Runs the packages of client programs, from PyPI and npm, against the gateway. They are installed into .cache/clients.
test-clients: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest tests/clients $(ARGS)

test-all: test test-slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@$(BIN)/python .ci/audit.py

# Required for a release: fails unless a vulnerability database responds.
audit: $(VENV)/.installed-dev
	@$(BIN)/python .ci/audit.py --required

# Writes the bill of materials of the image's Python packages, from the lock, without a network.
sbom:
	@mkdir -p dist
	@$(PYTHON) .ci/sbom.py deploy/requirements.lock > dist/imagegate.cdx.json
	@echo "dist/imagegate.cdx.json"

# Pins the images of deploy/ and docker-compose.yml to the current digests of their tags; needs docker with buildx.
digests:
	@.ci/digests deploy/Dockerfile docker-compose.yml deploy/kubernetes/redis/redis.yaml

# Regenerates the tables of docs/ from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate

# Measures speed and memory beside baseline programs, in ten minutes, or four.
# ARGS="--only cpu" runs a part, ARGS="--help" lists all options.
bench: $(VENV)/.installed-dev
	@exec $(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.installed-dev
	@exec $(BIN)/python -m bench --quick $(ARGS)

# Kills, disconnects and restarts gateways under load, then reconciles the records of provider, ledger and clients.
# ARGS="--minutes 1" sets the duration, ARGS="--seed 7" repeats a run.
chaos: $(VENV)/.installed-dev
	@exec $(BIN)/python -m chaos $(ARGS)

# Proves that chaos can fail: each of these faulty gateways must be detected.
chaos-mutants: $(VENV)/.installed-dev
	@exec $(BIN)/python -m chaos.mutants $(ARGS)

# Upgrades the pinned versions inside the ranges of pyproject.toml.
lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		pyproject.toml --group build -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		pyproject.toml --extra otel --extra console --extra conformance --group build --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		--constraint requirements-dev.lock pyproject.toml --extra otel --extra console --group build -o deploy/requirements.lock

clean:
	rm -rf $(VENV) .cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "imagegate needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing imagegate into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
