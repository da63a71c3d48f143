# vwire: build, run, test, measure. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXT_SOURCES := $(shell find src_ext -name '*.pyx' -o -name '*.pxd' -o -name '*.h') setup.py

.PHONY: help build
help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

build: build/.ext    ## compile the core in place

build/.ext: $(EXT_SOURCES)
	@mkdir -p build
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
