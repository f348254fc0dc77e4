# Everything a person needs; `make help` lists it. Needs Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
ARGS ?=
# Compiled modules lie beside the packages, whatever the environment says: hundreds of processes are started.
test chaos: export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
test chaos: export PYTHONDONTWRITEBYTECODE :=
LANE := tests/property tests/unit tests/contract tests/e2e tests/integration/test_channels.py tests/chaos

.DEFAULT_GOAL := help
.PHONY: help demo setup test check fmt chaos rt redmine bench lock schemas env clean

help: ## list what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; about 200 MB to download)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

setup: $(STAMP) ## only make .venv (the others do it themselves)

demo: $(STAMP) ## run everything on http://127.0.0.1:8080 with example customers, traffic and a mailbox
	@$(BIN)/python -m demo $(ARGS)

check: $(STAMP) ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/basedpyright --level error

test: check ## checks and every test, with real Kafka and PostgreSQL; narrow it: make test ARGS=tests/unit
ifneq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest $(ARGS)
else
	@# Two lanes, each with servers of its own, since the servers' tests mostly wait. Told when both are done.
	@lane=$$(mktemp -d); $(BIN)/python -m pytest $(LANE) --basetemp=$$lane/tests >$(VENV)/lane.log 2>&1 & pid=$$!; \
	trap 'kill $$pid 2>/dev/null' INT TERM; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(LANE)); code=$$?; \
	wait $$pid || code=1; cat $(VENV)/lane.log; rm -rf $$lane; exit $$code
endif

chaos: $(STAMP) ## the long form of the tests that kill processes, and of those that send whatever the interface takes
	@FIILIS_CHAOS=full $(BIN)/python -m pytest tests/chaos tests/contract/test_every_door.py $(ARGS)

rt: $(STAMP) ## test the Request Tracker desk against the real one (Debian: request-tracker5 rt5-standalone rt5-db-sqlite)
	@FIILIS_REAL_RT=required $(BIN)/python -m pytest tests/real/test_request_tracker.py $(ARGS)

redmine: $(STAMP) ## test the Redmine desk against the real one (Debian: redmine redmine-sqlite)
	@FIILIS_REAL_REDMINE=required $(BIN)/python -m pytest tests/real/test_redmine.py $(ARGS)

.venv-peers/.ready: bench/peers/requirements.txt
	@echo "Setting up .venv-peers, with what scoring is measured beside (once)"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/peers/requirements.txt
	@touch $@

bench: $(STAMP) .venv-peers/.ready ## measure, each figure beside a peer in the same run
	@$(BIN)/python -m bench $(ARGS)

fmt: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

schemas: $(STAMP) ## write docs/schemas from the messages
	@$(BIN)/python -m tests.support.schemas

env: .env ## write .env for docker-compose.yml, once: a secret, a key and passwords, made at random

.env:
	@umask 077; $(PYTHON) deploy/compose/env.py >.env.part && mv .env.part .env
	@echo "wrote .env; the key of the API is in it"

lock: ## make requirements.txt again from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o requirements.txt
	@printf 'quixstreams==3.28.1\nbytewax==0.21.1\n' | uv pip compile - --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o bench/peers/requirements.txt
	@uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o deploy/requirements.txt

clean: ## remove what was made, the demo's data too
	@rm -rf $(VENV) .data .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
