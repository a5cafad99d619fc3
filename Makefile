# Every target makes its own virtual environment first: nothing needs to be installed but Python 3.11 or 3.12 and make.
.PHONY: smoke lint test quick coverage slow long gpu chaos chain ci clean

VENV := .venv
READY := $(VENV)/.ready
PYTEST = $(VENV)/bin/python -m pytest
COUNTED = $(VENV)/bin/coverage run -m pytest
export COVERAGE_FILE = $(CURDIR)/.coverage/data
unexport PYTHONDONTWRITEBYTECODE  # images of containers set it: each process would compile torch anew, six of its ten seconds
# The first of these that is there and of a version that the pinned packages have wheels for.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 /usr/bin/python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

smoke: $(READY)  ## the main job on photos that the kit draws itself
	@! grep -qs '^  "state": "done"' runs/smoke/run.json || rm -rf runs/smoke  # one that was stopped goes on
	$(VENV)/bin/kit run sample --out runs/smoke --cache runs/smoke/cache
	$(VENV)/bin/kit check runs/smoke --data runs/smoke/photos

ci:  ## all that is checked before a change is taken, each step a target of its own
	$(MAKE) test COUNT=1
	$(MAKE) coverage
	$(MAKE) slow
	$(MAKE) chaos KILLS=26

test: lint quick  ## what to run while working, on the CPU alone

lint: $(READY)  ## rules, format and types
	$(VENV)/bin/ruff check kit kernels tests
	$(VENV)/bin/ruff format --check --quiet kit kernels tests
	$(VENV)/bin/mypy

quick: $(READY)  ## the tests that take less than a dozen seconds each, two at a time; COUNT=1 counts lines for coverage, and is slower
	rm -rf .coverage
	OMP_NUM_THREADS=1 $(if $(COUNT),$(COUNTED),$(PYTEST)) --ignore tests/chaos -n 2 --dist worksteal -m "not slow and not timed and not long"

slow: $(READY)  ## whole runs by every method, several processes, a planted key; the longest test first, or its end is waited for alone
	OMP_NUM_THREADS=1 $(PYTEST) tests/test_world.py tests --ignore tests/chaos -n 2 --dist worksteal -m slow
	OMP_NUM_THREADS=1 $(PYTEST) --ignore tests/chaos -n 2 --dist worksteal -m timed

coverage: $(READY)  ## the lines of kit/ that `make test COUNT=1` left out; less than 90 % is an error
	$(VENV)/bin/coverage combine --quiet --append
	$(VENV)/bin/coverage report --fail-under=90

long: $(READY)  ## every command of the documents and of --help, and an arm of every kind of every study; half an hour
	$(PYTEST) --ignore tests/chaos -m long

gpu: $(READY)  ## on a machine with a card: what is skipped elsewhere, and a compiled run that is killed
	$(PYTEST) tests/train/test_gradients.py tests/test_rng.py tests/data/test_loader.py tests/augment/test_view_kernel.py tests/models/test_quick.py tests/test_fuse.py

KILLS ?= 300
chaos: $(READY)  ## the real command killed at random moments, half an hour; KILLS=26 takes 4 minutes, KIT_CHAOS_SEED draws others
	OMP_NUM_THREADS=1 KIT_CHAOS_KILLS=$(KILLS) $(PYTEST) -n 2 --dist worksteal -rP tests/chaos

chain: $(READY)  ## a run over ten sessions on a Kaggle on loopback that kills, loses and delays, twice five minutes
	KIT_LONG_CHAIN=1 $(PYTEST) tests/remote/test_chain.py -k ten_sessions

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; name it with: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt  # Python compiles the quarter that is used
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:  ## all that can be made again; runs stay, but for the smoke test's
	rm -rf $(VENV) runs/smoke .coverage .pytest_cache .ruff_cache .mypy_cache
