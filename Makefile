# Targets: build, demo, test, check, bench, fuzz, deps. Everything else is plain cargo.

CARGO ?= cargo
SHOAL := $(or $(CARGO_TARGET_DIR),target)/debug/shoal

.PHONY: build demo test check bench fuzz deps rust

build: rust
	@start=$$(date +%s); $(CARGO) build -p shoal-cli; \
	 status=$$?; echo "build: $$(( $$(date +%s) - start )) s"; exit $$status

# A scheduler, a registry and several nodes on this machine, pulling one image at once. Needs nothing
# beyond what building needs. More: `make demo ARGS='--nodes 8'`.
demo: build
	$(SHOAL) demo $(ARGS)

# Unit tests, then whole clusters with real clients; those that cannot run here say so and are skipped,
# unless CI=true. Everything is built in one go first, because the tests start the `shoal` binary.
test: rust
	@deploy/install-programs tests || echo "tests that need these programs will be skipped"
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace

# clippy-driver is rustc that also lints. As `cargo clippy` all crates would be read a second time, for it shares
# nothing with a build.
check: export RUSTC_WORKSPACE_WRAPPER = clippy-driver
check: export CLIPPY_ARGS = -Dwarnings__CLIPPY_HACKERY__
check: rust
	$(CARGO) fmt --all --check
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace --test layout

# Memory, CPU, throughput and latency of a release build, beside floors measured in the same run; takes some
# minutes. Quicker: `make bench ARGS='--size 256MiB'`, or `ARGS='--only cpu'`.
bench: rust
	$(CARGO) build --release -p shoal-cli -p shoal-costs
	$(or $(CARGO_TARGET_DIR),target)/release/shoal-costs $(ARGS)

# Feeds what reads bytes of strangers with bytes that nobody thought of, ten minutes for each target; stops at the
# first finding, which is kept in target/fuzz. `make fuzz FUZZ_SECONDS=60 FUZZ=span` is shorter. Needs a C++ compiler.
FUZZ ?= index tar layer erofs span link
FUZZ_SECONDS ?= 600
FUZZED := $(abspath $(or $(CARGO_TARGET_DIR),target))/fuzz
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
fuzz: rust
	CARGO_TARGET_DIR=$(FUZZED) \
	RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	 -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
	 $(CARGO) build --manifest-path fuzz/Cargo.toml --release --target $(HOST)
	@for target in $(FUZZ); do \
	 mkdir -p $(FUZZED)/corpus/$$target && echo "fuzz: $$target" && \
	 $(FUZZED)/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=20 -rss_limit_mb=2048 \
	  -print_final_stats=1 -artifact_prefix=$(FUZZED)/$$target- \
	  $(FUZZED)/corpus/$$target fuzz/corpus/$$target || exit 1; done

# The registry and the clients that the tests use.
deps:
	@deploy/install-programs tests

rust:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.90 or newer, https://rustup.rs" >&2; exit 1; }
	@deploy/install-programs build
