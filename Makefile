PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
AUDIT := .venv-audit
READY := $(VENV)/.ready
# Two test workers with one thread each beat one worker with two: most tests are many small steps.
WORKERS ?= 2

.PHONY: setup demo test audit test-zoo lint types docs wheel-check clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("stakes needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	$(BIN)/stakes demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Known vulnerabilities of what is installed fail it. Without a network it says so, and does not.
audit: setup
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install \
	  --quiet --disable-pip-version-check -c constraints.txt pip-audit; } || true
	$(BIN)/python tools/audit.py --tool $(AUDIT)/bin/pip-audit --environment $(VENV)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Networks of timm and torchvision, in an environment of their own: constraints-zoo.txt says why. Several gigabytes.
test-zoo: $(ZOO)/.ready
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(ZOO)/bin/python -m pytest -n $(WORKERS) tests/models

$(ZOO)/.ready: pyproject.toml constraints.txt constraints-zoo.txt
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	grep -v '^torch==' constraints.txt > $(ZOO)/constraints.txt
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c $(ZOO)/constraints.txt -c constraints-zoo.txt -e '.[zoo,test]'
	touch $@

# Wheel and source archive, each installed into an empty environment and used there.
wheel-check: setup
	$(BIN)/python tools/wheel_check.py

clean:
	rm -rf $(VENV) $(ZOO) $(AUDIT) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
