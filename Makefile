# SPDX-License-Identifier: GPL-2.0
#
# Everything is built in the build root (scripts/root), a Debian tree with the
# stock kernel's own toolchain, which is made on first use. With KDIR=/path/to/a
# prepared kernel tree, everything is built natively against that kernel.

.DEFAULT_GOAL := all

ifdef KDIR
IN :=
TOP := $(CURDIR)
KERNEL := $(KDIR)
KFLAGS ?=
ROOT :=
export CARGO_TARGET_DIR := $(CURDIR)/build/target
else
IN := scripts/in-root
TOP := /src
KERNEL := /src/build/linux
KFLAGS := CC=x86_64-linux-gnu-gcc-14
ROOT := build/stamps/root
endif

# One build at a time: the module's objects and metadata have fixed names.
KBUILD = flock build/module.lock $(IN) $(MAKE) --no-print-directory -C $(KERNEL) $(KFLAGS) \
	-j$(shell nproc) M=$(TOP)

.PHONY: help
help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: all
all: module tool ## the module (build/module/uvisor.ko) and uvctl (build/target/release/uvctl)

.PHONY: module
module: $(ROOT) build/stamps/vendored
	@mkdir -p build/module
	+@$(KBUILD) MO=$(TOP)/build/module modules

.PHONY: tool
tool: $(ROOT)
	$(IN) cargo build --release --locked --workspace
	$(IN) cargo build --release --locked -p uvisor --examples
	@# Linked statically and optimized as a whole, uvctl starts with a third fewer instructions.
	@if $(IN) sh -c 'test -e "$$(cc -print-file-name=libc.a)"'; then \
		$(IN) cargo rustc --profile uvctl --locked --package uvisor --bin uvctl -- \
			-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs && \
		cp --remove-destination build/target/uvctl/uvctl build/target/release/uvctl; \
	fi

.PHONY: test
test: all ## all tests: on this machine, and in test machines (30 minutes)
	tests/run

.PHONY: test-long
test-long: all ## the same with more random cases, CPU models and interleavings (hours)
	tests/run --long

.PHONY: fuzz
fuzz: $(ROOT) ## fuzz the page tables for TIME seconds (600)
	tests/fuzz $(or $(TIME),600)

.PHONY: fuzz-calls
fuzz-calls: all ## fuzz the system calls of tasks for TIME seconds of a test machine (600), from SEED (1)
	tests/vm/run --timeout $$(($(or $(TIME),600) * 60 + 900)) -- \
		/usr/lib/uvisor/tests/fuzz_calls.sh $(or $(TIME),600) $(or $(SEED),1)

.PHONY: bench
bench: all ## the benchmarks against KVM and processes, in instructions
	tests/vm/bench

.PHONY: demo
demo: all ## what uvctl does, and the story of a hostile document, shown in a test machine
	tests/vm/run --memory 2048 --programs --timeout 900 --copy scripts/demo -- /root/demo

.PHONY: shell
shell: all ## a shell in a test machine with the module inserted
	tests/vm/run --interactive --timeout 86400 -- bash -l

.PHONY: lint
lint: $(ROOT) build/stamps/vendored ## formatting, clippy, shellcheck, licence lines
	+scripts/lint

.PHONY: clean
clean: ## remove what was built; the build root stays
	rm -rf build/module build/module-lint build/target build/test build/vm/run-*
	rm -f build/stamps/vendored
	rm -rf build/vendor

.PHONY: distclean
distclean: ## remove the build root and the test machine's images too
	rm -rf build

# Kbuild compiles the sources of crates.io's crates itself.
build/stamps/vendored: Cargo.lock | $(ROOT)
	@echo "fetching the sources of the crates"
	@mkdir -p build/stamps
	@flock build/module.lock $(IN) cargo vendor --quiet --locked --versioned-dirs build/vendor >/dev/null
	@touch $@

.PHONY: build/stamps/root
build/stamps/root:
	@scripts/root
