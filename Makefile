# The front door. Everything is built by meson and ninja; what is missing is installed or named by scripts/setup.sh.
BUILD ?= build
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
ifneq ($(origin CC),default)
export CC
endif
export STRESS

.PHONY: all demo check check-cuda install docs fuzz sanitize clean help
all:
	@scripts/build.sh $(BUILD)
	@echo "$(BUILD)/zmlx and $(BUILD)/libzmlx are built; try: make demo"
demo: ## builds what is missing, then writes English with the shipped checkpoint
	@scripts/build.sh $(BUILD)
	@scripts/demo.sh $(BUILD)/zmlx
check: ## the whole test suite; one test: make check TESTS=tape
	@scripts/check.sh $(BUILD) $(TESTS)
check-cuda: ## the GPU suite, where there is an NVIDIA GPU: $(BUILD)/check-cuda.json has the result; STRESS: seconds of tokens (10)
	@scripts/build.sh $(BUILD)
	@ninja -C $(BUILD) tests/stress_cuda tests/stress_arrays >/dev/null
	@scripts/check_cuda.sh $(BUILD) $(BUILD)/check-cuda.json
install: ## command, library and headers to PREFIX (and DESTDIR)
	@scripts/build.sh $(BUILD)
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@meson install -C $(BUILD) --quiet
	@[ -n "$(DESTDIR)" ] || PATH="$$PATH:/sbin:/usr/sbin" ldconfig 2>/dev/null || true # programs find the shared library from now on
docs: ## regenerates docs/cli.md from the option table and docs/operations.md from the headers, docs/catalog.md from its table
	@scripts/build.sh $(BUILD)
	@$(BUILD)/zmlx help --markdown >docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	@python3 scripts/operations_table.py
	@ninja -C $(BUILD) tests/catalog_page >/dev/null
	@$(BUILD)/tests/catalog_page >docs/catalog.md.new && mv docs/catalog.md.new docs/catalog.md
fuzz: ## each fuzz target for FUZZ_SECONDS (60), with clang
	@scripts/fuzz.sh build-fuzz $(FUZZ_SECONDS)
sanitize: ## the suite under address and undefined-behaviour sanitizers, then under the thread sanitizer
	@scripts/sanitize.sh address,undefined
	@scripts/sanitize.sh thread
clean: ## removes the build folders
	rm -rf build build-*
help: ## this list
	@echo "make            builds $(BUILD)/zmlx and $(BUILD)/libzmlx, setting up what is missing"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: CC (gcc or clang), BUILD, PREFIX, DESTDIR, TESTS, FUZZ_SECONDS"
