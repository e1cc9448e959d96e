# What a fresh clone needs: make, Python 3.10 or newer, Java 17 or newer, and a package index that pip can reach.
# Each target makes the virtual environment that it needs, once; in whatever order they are called.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13      another Python, in an environment of its own
#   make test ARGS="tests/model -k lease -x"         further words for pytest, the demo or the microbenchmark
#   make test AT_ONCE=                               one test after the other

PYTHON ?= python3
VENV ?= .venv
RAY_VENV ?= .venv-ray
RAYDP_VENV ?= .venv-raydp
ARGS ?=
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)
# Files of tests run beside each other: a third of a test's time is waiting for processes.
AT_ONCE ?= --numprocesses=3 --dist=loadfile

RAY := ray[default]==2.60.0 numpy pandas pyarrow
RAYDP := raydp==1.7.0b20260911.dev0 ray[default,data]==2.60.0

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
DEMO_READY := $(VENV)/.demo-ready
NOTEBOOKS_READY := $(VENV)/.notebooks-ready
DEV_READY := $(VENV)/.dev-ready
RAY_READY := $(RAY_VENV)/.ray-ready
RAYDP_READY := $(RAYDP_VENV)/.raydp-ready

# Executors start `python3` from PATH unless told otherwise, and then lack everything that is installed here.
export PYSPARK_PYTHON := $(CURDIR)/$(PY)
export PYSPARK_DRIVER_PYTHON := $(CURDIR)/$(PY)
# Another Spark's settings or modules, in the caller's shell for other work, would be taken in place of ours.
unexport SPARK_HOME SPARK_CONF_DIR PYSPARK_SUBMIT_ARGS PYTHONPATH PYTHONHOME
# pyright asks its registry for news at each run, otherwise.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo notebooks test test-all test-systems test-k8s check format bench clean need-java need-python

help:
	@echo "make demo      real data through Spark, sparkray and back: a table and a picture"
	@echo "make notebooks each from top to bottom, to build/notebooks/*.html; some of them: NOTEBOOKS=notebooks/02_tasks_and_actors.ipynb"
	@echo "make test      the tests but the slow ones"
	@echo "make test-all  all tests; with ARGS, those that it names"
	@echo "make test-systems  the last part of these: on each other Python that is found, without Linux's own means, on PySpark 3.5"
	@echo "make test-k8s  those on Kubernetes, on the cluster that KUBECONFIG names, with the image K8S_IMAGE"
	@echo "make check     ruff, mypy, pyright, import contracts"
	@echo "make format    let ruff mend what it can"
	@echo "make bench     against Ray, in one run; results in benchmarks/results/"
	@echo "make clean     remove all that make has made, the virtual environments included"

demo: need-java $(DEMO_READY)
	$(PY) examples/demo.py $(ARGS)

# As pages of HTML, with all that the cells have shown.
notebooks: need-java $(NOTEBOOKS_READY)
	@for notebook in $(NOTEBOOKS); do \
	  began=$$(date +%s); \
	  $(PY) -m nbconvert --log-level ERROR --execute --to html --output-dir build/notebooks "$$notebook" || exit 1; \
	  echo "$$notebook ran in $$(( $$(date +%s) - began )) s: build/notebooks/$$(basename "$$notebook" .ipynb).html"; \
	done

test: need-java $(DEV_READY)
	$(PY) -m pytest -m "not slow and not chaos" $(AT_ONCE) $(ARGS)

# Its tests run others beside each other, so nothing runs beside them.
SYSTEMS := tests/test_other_systems.py

test-all: need-java $(DEV_READY)
	$(PY) -m pytest --ignore=$(SYSTEMS) $(AT_ONCE) $(ARGS)
	$(if $(ARGS),,$(PY) -m pytest $(SYSTEMS))

test-systems: $(DEV_READY)
	$(PY) -m pytest $(SYSTEMS) $(ARGS)

test-k8s: need-java $(DEV_READY)
	@if [ -z "$$KUBECONFIG" ] || [ -z "$$K8S_IMAGE" ]; then \
	  echo "KUBECONFIG must name the cluster's kubeconfig, and K8S_IMAGE an image that it has" \
	       "(examples/kubernetes/Dockerfile makes one): docs/kubernetes.md." >&2; \
	  exit 1; \
	fi
	$(PY) -m pytest tests/spark/test_kubernetes.py $(ARGS)

check: $(DEV_READY)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

format: $(DEV_READY)
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: need-java $(DEMO_READY) $(RAY_READY) $(RAYDP_READY)
	$(PY) benchmarks/micro.py --against ray --ray-python $(RAY_VENV)/bin/python $(ARGS)
	$(PY) benchmarks/spark.py --ray-python $(RAY_VENV)/bin/python --raydp-python $(RAYDP_VENV)/bin/python
	$(PY) benchmarks/stress.py --ray-python $(RAY_VENV)/bin/python
	$(PY) benchmarks/recovery.py --ray-python $(RAY_VENV)/bin/python

clean:
	rm -rf $(VENV) $(RAY_VENV) $(RAYDP_VENV) build dist sparkray.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	       .import_linter_cache spark-warehouse metastore_db derby.log
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment itself depends on nothing: it is made once, and brought up to date by the stamps below.
# The pip of the first 3.10s cannot install a pyproject.toml in place, nor build PySpark without a deprecated way.
$(PY): | need-python
	@echo "Making $(VENV) with $$($(PYTHON) --version) and installing packages: some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(PIP) "pip>=23.1"

$(DEMO_READY): pyproject.toml | $(PY)
	$(PIP) --editable ".[demo]"
	@touch $@

$(NOTEBOOKS_READY): pyproject.toml | $(PY)
	$(PIP) --editable ".[notebooks]"
	@touch $(DEMO_READY) $@

$(DEV_READY): pyproject.toml | $(PY)
	$(PIP) --editable ".[demo,dev]"
	@touch $(DEMO_READY) $@

# Ray lives apart, so that its dependencies and ours never have to agree. All but Spark: both go to the same one.
$(RAY_READY): Makefile $(DEMO_READY) | need-python
	@echo "Making $(RAY_VENV) for $(RAY), and the PySpark that $(VENV) has."
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(RAY) \
	    "pyspark==$$($(PY) -c 'from importlib.metadata import version; print(version("pyspark"))')"
	@touch $@

# It brings the newest PySpark that it takes, 4.2; it is measured against the floor of that one.
$(RAYDP_READY): Makefile | need-python
	@echo "Making $(RAYDP_VENV) for $(RAYDP)."
	$(PYTHON) -m venv $(RAYDP_VENV)
	$(RAYDP_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(RAYDP)
	@touch $@

# Each says what to install, in one line, before anything is made. Spark takes JAVA_HOME before PATH, so do we.
need-java:
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	found=$$("$$java" -version 2>&1 | sed -n 's/.* version "\([0-9][0-9.]*\).*/\1/p' | head -n 1); \
	major=$${found%%.*}; \
	if [ "$${major:-0}" -lt 17 ]; then \
	  echo "Spark needs Java 17 or newer, and $$java is $${found:-missing}: install one" \
	       "(Debian, Ubuntu: apt install openjdk-17-jre-headless; macOS: brew install openjdk@17)" \
	       "and set JAVA_HOME if it is not on PATH." >&2; \
	  exit 1; \
	fi

need-python:
	@found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	  echo "sparkray needs Python 3.10 or newer, and $(PYTHON) is $${found:-missing}: install one" \
	       "(Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python)," \
	       "or name the one to use: make PYTHON=python3.12." >&2; \
	  exit 1; \
	fi; \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package" \
	       "(Debian, Ubuntu: apt install python$$found-venv)." >&2; \
	  exit 1; \
	fi
