# Everything a person needs: `make demo` and `make test`. Needs only python3 (3.11 to 3.13) and make.
PYTHON ?= python3
REPEATS ?= 3
SEEDS ?= 10
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests
MARK ?= not long
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --only-binary :all: --require-hashes
LOCK := uv pip compile pyproject.toml build.in --universal --fork-strategy fewest --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate

.PHONY: help .venv demo test test-long torture check lint spelling audit rows docs docs-tables bench bench-gpu bench-against score lock clean
help:
	@echo "make demo    train TD3 on Pendulum-v1, evaluate it, draw its curve and its video"
	@echo "make test    the test suite"
	@echo "make test-long    what it leaves out: every algorithm in every place"
	@echo "make torture    attacks on run folders, kills, full disks, environments that misbehave: one table"
	@echo "make check   format, lint, types, spelling and the fast tests"
	@echo "make audit   one million counted steps through every adapter"
	@echo "make rows    check the rows of the lecture notes that stand; ROW=C5 one of them, LONG=1 at length, JOBS=8 at once, MINUTES=4 each at most"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make docs-tables  write the tables of the pages from the code"
	@echo "make bench   polyak beside its rivals: a table and a picture in benchmarks/speed/results"
	@echo "make bench-against DIR=...   this checkout beside another one: ratios of speed, nothing is stored"
	@echo "make score ALGO=td3 ENV=Pendulum-v1 [SEEDS=10] [STEPS=20000]   what a preset earns, into benchmarks/scores"
	@echo "make lock    pin all dependencies again (needs uv)"

.venv: .venv/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"polyak needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV) (half a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -r requirements.lock
	@$(PIP) install --no-index --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-all: $(VENV)/.ready requirements-all.lock
	@echo "installing every extra into $(VENV) ..."
	@$(INSTALL) -r requirements-all.lock
	@touch $@

demo: .venv/.ready
	@$(BIN)/python -m polyak.demo

test: $(VENV)/.ready-all
	@$(BIN)/python -m pytest -q -n 2 --durations=15 -m "$(MARK)" $(TESTS)

test-long: $(VENV)/.ready-all
	@$(BIN)/python -m pytest -q -n 2 --durations=15 -o faulthandler_timeout=2700 -m long $(TESTS)

torture: $(VENV)/.ready-all
	@$(BIN)/python tests/torture $(SECONDS)

check: lint
	@$(BIN)/python -m pytest -q -n 2 -m "not slow and not long" $(TESTS)

lint: $(VENV)/.ready-all spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

spelling: $(VENV)/.ready-all
	@$(BIN)/codespell

audit: .venv/.ready-all
	@POLYAK_AUDIT_STEPS=1000000 $(BIN)/python -m pytest -q -s tests/test_audit.py

rows: .venv/.ready-all
	@$(BIN)/python -m reproductions.rows $(if $(ROW),--row $(ROW)) $(if $(LONG),--long) $(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES))

docs: $(VENV)/.ready-all
	@$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees docs build/site
	@echo "build/site/index.html"

docs-tables: .venv/.ready
	@$(BIN)/python docs/generate.py

bench: .venv/.ready
	@$(MAKE) --no-print-directory benchmarks/.venv/.ready || echo "the rivals cannot be installed: those that are not there are left out"
	@$(BIN)/python benchmarks/speed/bench.py --repeats $(REPEATS)
	@$(BIN)/python benchmarks/speed/memory.py
	@$(BIN)/python benchmarks/speed/ring.py

bench-gpu: .venv/.ready
	@$(BIN)/python benchmarks/speed/bench.py --label gpu ppo-graph-2048 ppo-agents-64

bench-against: .venv/.ready
	@test -n "$(DIR)" || { echo "make bench-against DIR=another checkout of polyak [REPEATS=3] [WORKLOADS='ppo-graph ...']"; exit 2; }
	@$(BIN)/python benchmarks/speed/bench.py --against "$(DIR)" --repeats $(REPEATS) $(WORKLOADS)

score: .venv/.ready-all
	@test -n "$(ALGO)" -a -n "$(ENV)" || { echo "make score ALGO=td3 ENV=Pendulum-v1 [SEEDS=10] [STEPS=20000]"; exit 2; }
	@$(BIN)/python benchmarks/scores.py "$(ALGO)" "$(ENV)" --seeds $(SEEDS) $(if $(STEPS),--steps $(STEPS))
	@$(BIN)/python docs/generate.py

# torch's CPU build is enough: where pip would take another, install that one into benchmarks/.venv first.
benchmarks/.venv/.ready: benchmarks/speed/rivals.txt
	@echo "installing the rivals into benchmarks/.venv ..."
	@test -d benchmarks/.venv || $(PYTHON) -m venv benchmarks/.venv
	@benchmarks/.venv/bin/python -m pip --disable-pip-version-check --quiet install -r benchmarks/speed/rivals.txt
	@touch $@

lock:
	@$(LOCK) --all-extras -o requirements-all.lock
	@$(LOCK) --extra mujoco --extra classic-control --extra test -c requirements-all.lock -o requirements.lock

clean:
	rm -rf .venv .venv-* benchmarks/.venv build dist .pytest_cache .ruff_cache .hypothesis
