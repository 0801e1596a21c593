# Two commands are enough to begin: `make demo` and `make test`. Each makes its own .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLD := .venv-gymnasium-1.2
OPENENV := 0.1.1 0.2.1 0.3.0 0.10.0
# three files of tests at a time, for two cores and whatever the machine has: a third of the time a test waits for processes
THREE := --numprocesses=3 --dist=loadfile
TEST := $(BIN)/pytest -q $(THREE)

.PHONY: demo test check bench chaos soak serve slow verify security audit sb3 openenv-check test-gymnasium-1.2 screenshots image-check clean

demo: $(VENV)/.installed
	$(BIN)/vecserver demo

serve: $(VENV)/.installed
	$(BIN)/vecserver serve

test: $(VENV)/.installed-dev
	$(TEST)

# and all examples of the properties, of which the default suite has a third
slow: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m slow
	VECSERVER_TEST_EXAMPLES=all $(BIN)/pytest -q -m "hypothesis and not slow"

# Ten million steps through a bad network, a thousand killed workers, 200 killed trainers, a full disk, and the soak:
# half an hour, and a report. What the servers log is in chaos-server.log
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos.report $(CHAOS) 2> chaos-server.log || { tail -n 20 chaos-server.log; exit 1; }

# Twenty minutes of pools that are made, stepped and deleted: a server must not grow. It is a part of `make chaos`
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos.soak $(SOAK)

# A million mutated messages, every decoder, the HTTP interface, floods; some minutes, and a report
security: $(VENV)/.installed-dev
	$(BIN)/python -m tests.security.report $(SECURITY)

# Known vulnerabilities of the versions in constraints.txt; needs the network, and a database of them that answers
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt || \
	  { echo "not audited, or with findings: what is above says which; without the network there is no audit" >&2; exit 1; }

# Stable-Baselines3, and PyTorch with it: gigabytes, where no smaller build of it is at hand
sb3: $(VENV)/.installed-sb3
	$(BIN)/pytest -q -m sb3

# OpenEnv's own clients, each release in an environment of its own, against this server
openenv-check: $(VENV)/.installed-dev $(OPENENV:%=.venv-openenv-%/.installed)
	$(BIN)/pytest -q -m openenv tests/openenv

# The same suite with the oldest Gymnasium that trainers pin
test-gymnasium-1.2: $(OLD)/.installed-dev
	$(OLD)/bin/pytest -q $(THREE)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST) --cov --cov-report=term --cov-report=json:.coverage.json
	$(BIN)/python tests/coverage_gate.py .coverage.json

# BENCH is for its options: make bench BENCH='--peer pufferlib=/path/to/python'
bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[atari,mujoco]'
	$(BIN)/python -m benchmarks $(BENCH)

verify: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[atari,mujoco]'
	$(BIN)/pytest -q tests/clients/test_atari.py
	$(BIN)/vecserver verify --all --env ALE/Pong-v5 --env HalfCheetah-v5 --env Ant-v5

# the pictures of docs/web.md, taken of a server that runs; needs a Chromium
screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.web.screenshots docs/images

# with Docker, or without any container engine: deploy/image_check.sh says what that needs
image-check:
	./deploy/image_check.sh

clean:
	rm -rf $(VENV) $(OLD) .venv-openenv-* .coverage .coverage.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vecserver needs Python 3.11 or newer; run make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[web]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.installed-sb3: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,sb3]'
	touch $@

# its name was openenv-core until 0.3
.venv-openenv-%/.installed:
	$(PYTHON) -m venv .venv-openenv-$*
	.venv-openenv-$*/bin/python -m pip install --quiet --disable-pip-version-check $(if $(filter 0.10.%,$*),openenv,openenv-core)==$*
	touch $@

$(OLD)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# in the place of the newest, whose Box2D need not be compiled
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gymnasium==1.2.2
	touch $@
