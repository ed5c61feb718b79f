SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
PROTOS := $(wildcard proto/serve_core/v1/*.proto)
SERVICES := $(filter-out proto/serve_core/v1/types.proto,$(PROTOS))
DIGITS := examples/digits
NODE := examples/node
GENERATED := serve_core/v1 $(DIGITS)/digits/v1 bench/echo/v1
TORCH := .venv-torch
OLDEST := .venv-oldest
# Most tests wait for other processes more than they compute: three at a time keep two cores busy.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
T ?= tests
# What can tell that grpcio is an older one: all of the server core, the links, what its companions do; and all at once.
OLDEST_T := $(wildcard tests/contract/test_grpc_server*.py) $(addprefix tests/unit/runtime/,test_engine.py test_completion.py) \
  $(addprefix tests/shell/runtime/,test_channel.py test_health.py test_pump.py test_reflection.py test_server.py test_stand_in.py) \
  tests/shell/link tests/meta/test_versions.py \
  tests/integration/test_run.py::test_everything_is_served_and_ctrl_c_leaves_nothing
SEEDS ?= 0:1000

# Whatever the shell says: hundreds of processes are started here, and each would compile all that it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup run test test-oldest test-torch test-own-threads unit sim check fmt lint types contracts proto proto-check buf bench docs lock clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/dev.stamp $(NODE)/node_modules/.stamp ## Make .venv and install everything that run, test and check need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "serve-core needs Python 3.11 or newer; choose one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml requirements.lock | $(BIN)/python
	$(PIP) --editable '.[examples]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml requirements.lock | $(BIN)/python
	$(PIP) --editable '.[examples,dev]'
	@touch $@ $(VENV)/run.stamp

# Node.js comes from the system's packages; the client's own packages from its lock file.
$(NODE)/node_modules/.stamp: $(NODE)/package.json $(NODE)/package-lock.json
	@command -v node >/dev/null && command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq nodejs npm; }
	cd $(NODE) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

run: $(VENV)/run.stamp ## Serve real images with separate processes, call them, and print what happened
	$(BIN)/python $(DIGITS)/main.py

test: setup $(if $(filter tests,$(T)),test-oldest) ## Run every test (T=tests/unit for a part, WORKERS=n for so many at a time)
	$(PYTEST) $(T)

# The oldest grpcio and protobuf that pyproject.toml allows; all else comes from .venv.
$(OLDEST)/oldest.stamp: $(VENV)/dev.stamp
	rm -rf $(OLDEST)
	$(BIN)/python -m venv --without-pip $(OLDEST)
	sed -nE 's/^ *"((grpcio|protobuf)[a-z-]*)>=([0-9.]+),.*/\1==\3/p' pyproject.toml > $(OLDEST)/oldest.txt
	grep -vxE '(grpcio|protobuf).*' requirements.lock > $(OLDEST)/constraints.txt
	@test -s $(OLDEST)/oldest.txt || { echo "pyproject.toml names no oldest grpcio"; exit 1; }
	$(BIN)/python -m pip --python $(OLDEST)/bin/python install --quiet --disable-pip-version-check --no-compile \
	  --constraint $(OLDEST)/constraints.txt --requirement $(OLDEST)/oldest.txt
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$purelib")')" > "$$($(OLDEST)/bin/python -c "$$purelib")/dev.pth"
	@touch $@

test-oldest: $(OLDEST)/oldest.stamp ## Run the tests of the server core on the oldest grpcio that is supported, in .venv-oldest
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadgroup $(OLDEST_T)

# torch is large, and nothing of ours needs it: so it is neither in .venv nor in requirements.lock.
$(TORCH)/torch.stamp: pyproject.toml requirements.lock
	$(MAKE) VENV=$(TORCH) $(TORCH)/dev.stamp
	$(subst $(VENV)/,$(TORCH)/,$(PIP)) torch==2.13.0
	@touch $@

test-torch: $(TORCH)/torch.stamp ## Install torch in .venv-torch, and run the tests that need it
	$(TORCH)/bin/python -m pytest tests/with_torch

test-own-threads: $(VENV)/dev.stamp ## Run the tests of servers where gRPC's own threads read their sockets
	GRPC_EXPERIMENTS=event_engine_listener $(PYTEST) tests/contract tests/shell/runtime

unit: $(VENV)/dev.stamp ## Run the tests that start no process
	$(PYTEST) -m 'not integration and not chaos' tests

sim: $(VENV)/dev.stamp ## Run the simulator: SEED=n replays one, SEEDS=a:b runs a range
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

check: lint types contracts proto-check buf ## Run every check that is not a test

lint: $(VENV)/dev.stamp ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(VENV)/dev.stamp ## Format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/dev.stamp ## Check the types
	$(BIN)/mypy

contracts: $(VENV)/dev.stamp ## Check who imports whom
	$(BIN)/lint-imports --no-cache

buf: $(VENV)/dev.stamp ## Lint the wire contract, and compare it with the last commit's
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@if git cat-file -e HEAD:proto 2>/dev/null; then $(BIN)/buf breaking --against '.git#ref=HEAD'; fi

proto: $(VENV)/dev.stamp ## Generate the stubs
	tools/generate-stubs

proto-check: $(VENV)/dev.stamp ## Fail if the committed stubs are stale
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && tools/generate-stubs "$$fresh" && \
	for folder in $(GENERATED); do \
	  diff --recursive --exclude=__init__.py --exclude=__pycache__ "$$folder" "$$fresh/$$folder" >/dev/null || \
	  { echo "the stubs in $$folder are stale: run 'make proto' and commit"; exit 1; }; \
	done

docs: $(VENV)/dev.stamp ## Make the pages that are made from the code
	$(BIN)/python tools/generate-docs errors.md > docs/errors.md
	$(BIN)/python tools/generate-docs lifecycle.md > docs/lifecycle.md
	$(BIN)/python -m serve_core.config.schema docs/schema/serve-core.schema.json

lock: $(VENV)/dev.stamp ## Take the versions of this .venv into requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock

bench: bench-tools ## Measure, as ratios to what else one would use, in the same run
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/single_slot.py
	$(BIN)/python bench/choice.py
	$(BIN)/python bench/footprint.py
	$(BIN)/python bench/planner.py
	$(BIN)/python bench/placement.py

.PHONY: bench-tools bench-ray flame
bench-tools: $(VENV)/dev.stamp ## Install what benchmarks need: h2load, a C compiler, Envoy, py-spy
	@command -v h2load >/dev/null || { apt-get update -qq && apt-get install -y -qq nghttp2-client; }
	@command -v cc >/dev/null || { apt-get update -qq && apt-get install -y -qq gcc libc6-dev; }
	$(PIP) --editable '.[bench]'

# Ray has many dependencies, other versions of ours among them: so it has an environment of its own.
RAY := .venv-ray
RAY_VERSION := 2.60.0
$(RAY)/ray.stamp: | $(BIN)/python
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check 'ray[serve]==$(RAY_VERSION)'
	@touch $@

bench-ray: bench-tools $(RAY)/ray.stamp ## Install Ray Serve in .venv-ray, and measure it beside us
	$(BIN)/python bench/speed.py --rows ray,ray-life

flame: bench-tools ## Draw where the time of a router and of a replica goes
	$(BIN)/python bench/flame.py

clean: ## Remove what was made
	rm -rf $(VENV) $(OLDEST) $(TORCH) $(RAY) $(NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
