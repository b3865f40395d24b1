# What a clone needs is set up by whatever target needs it: system packages (as root, or it says which), then .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup demo lint test test-store soak bench man deb clean

VENV := .venv
PY := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60
STORES_KNOWN := s3 do scw hos linode gs azureblob swift oss k8s file memfs

help:
	@echo "make demo                mount the embedded store memfs://demo and show what kopsfs does (set-up included)"
	@echo "make test                every test (set-up included); make lint: ruff, mypy, man pages, units"
	@echo "make test-store STORE=x  all tests of one store, slow ones too: $(STORES_KNOWN)"
	@echo "make soak                every slow test; many random examples"
	@echo "make bench               the table of figures, beside rclone and s3fs where they are installed"
	@echo "make bench STORES=all    how fast each store is read, beside s3"
	@echo "make man, make deb       render the man pages; build the Debian package"

setup: $(VENV)/.all

# Enough to mount and for the demo: pyfuse3 is compiled here, the rest are wheels.
$(VENV)/.core: pyproject.toml packaging/setup-system
	packaging/setup-system
	python=$$(packaging/setup-system --python); [ -x $(PY) ] || "$$python" -m venv $(VENV)
	$(PY) -m pip install --quiet --editable '.[cli]'
	touch $@

$(VENV)/.all: $(VENV)/.core
	$(PY) -m pip install --quiet --editable '.[all,test,lint]'
	touch $@

demo: $(VENV)/.core
	$(PY) packaging/demo.py

lint: $(VENV)/.all
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/flake8-async --enable=ASYNC1,ASYNC2,ASYNC9 $$(git grep -lwE 'async|trio' -- 'kopsfs/*.py')
	packaging/lint-documents

# Two at once, for two cores: what waits for mounts and servers, and the rest, whose output comes at the end. The servers'
# packages, minutes of a first run, are fetched meanwhile; a test whose package is not there yet waits for it.
WAITING := tests/fuse tests/store
test: $(VENV)/.all
	@mkdir -p .work; status=0; \
	$(PY) -m tests.support.packages >.work/packages.log 2>&1 </dev/null & packages=$$!; \
	$(PY) -m pytest $(WAITING:%=--ignore=%) >.work/test-rest.log 2>&1 </dev/null & rest=$$!; \
	trap 'kill $$rest $$packages 2>/dev/null || true' EXIT; \
	$(PY) -m pytest $(WAITING) || status=$$?; \
	wait $$rest || status=$$?; cat .work/test-rest.log; exit $$status

test-store:
	@[ -n "$(filter $(STORES_KNOWN),$(STORE))" ] || \
		{ echo "make test-store STORE=x: there is no store '$(STORE)', but $(STORES_KNOWN)" >&2; exit 2; }
	$(MAKE) --no-print-directory $(VENV)/.all
	$(PY) -m pytest --store=$(STORE)

soak: $(VENV)/.all
	$(PY) -m pytest -m slow
	KOPSFS_TEST_EXAMPLES=1000 $(PY) -m pytest -m hypothesis

bench: $(VENV)/.all
	$(PY) -m tests.bench $(if $(STORES),--stores $(STORES))

man: $(VENV)/.core
	$(PY) packaging/man/render.py

deb:
	packaging/build-deb

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
