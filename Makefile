# The everyday commands. Needs make, Python 3.11 or newer and a package registry; no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run test test-slow test-all check audit sbom digests docs bench bench-quick chaos chaos-mutants lock clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	@exec $(BIN)/imagegate demo --exit-with-parent $(ARGS)

test: $(VENV)/.installed-dev
	@exec $(BIN)/python -m pytest -m "not slow" $(ARGS)

# What test leaves out: other Redis servers, waits in real time, soaks, and all examples of the fuzz tests.
test-slow: $(VENV)/.installed-dev
	@FUZZ=$${FUZZ:-1} $(BIN)/python -m pytest -m "slow or fuzz" $(ARGS)

test-all: test test-slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@$(BIN)/python .ci/audit.py

# What a release needs: fails unless a database of vulnerabilities answered.
audit: $(VENV)/.installed-dev
	@$(BIN)/python .ci/audit.py --required

# The bill of materials of the image's Python packages, from the lock, without a network.
sbom:
	@mkdir -p dist
	@$(PYTHON) .ci/sbom.py deploy/requirements.lock > dist/imagegate.cdx.json
	@echo "dist/imagegate.cdx.json"

# Pins the images of deploy/ and docker-compose.yml to what their tags mean today; needs docker with buildx.
digests:
	@.ci/digests deploy/Dockerfile docker-compose.yml

# Writes the tables of docs/ anew, from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate

# Speed and memory, side by side with programs without any feature: ten minutes, or four.
# ARGS="--only cpu" for a part, ARGS="--help" for what else there is.
bench: $(VENV)/.installed-dev
	@exec $(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.installed-dev
	@exec $(BIN)/python -m bench --quick $(ARGS)

# Gateways are killed, cut off and restarted under load, and then every book must agree: minutes by ARGS="--minutes 1",
# the same run again by ARGS="--seed 7".
chaos: $(VENV)/.installed-dev
	@exec $(BIN)/python -m chaos $(ARGS)

# That it can fail: wrong gateways, each of which must be found out.
chaos-mutants: $(VENV)/.installed-dev
	@exec $(BIN)/python -m chaos.mutants $(ARGS)

# Upgrades the pinned versions inside the ranges of pyproject.toml.
lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		pyproject.toml --group build -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		pyproject.toml --extra otel --extra conformance --group build --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade \
		--constraint requirements-dev.lock pyproject.toml --extra otel --group build -o deploy/requirements.lock

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
