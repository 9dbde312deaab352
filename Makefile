# Targets: build, demo, test, check, bench, deps. Everything else is plain cargo.

CARGO ?= cargo
SHOAL := $(or $(CARGO_TARGET_DIR),target)/debug/shoal

.PHONY: build demo test check bench deps rust

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

check: rust
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --test layout

# Memory, CPU, throughput and latency of a release build, beside floors measured in the same run; takes some
# minutes. Quicker: `make bench ARGS='--size 256MiB'`, or `ARGS='--only cpu'`.
bench: rust
	$(CARGO) build --release -p shoal-cli -p shoal-costs
	$(or $(CARGO_TARGET_DIR),target)/release/shoal-costs $(ARGS)

# The registry and the clients that the tests use.
deps:
	@deploy/install-programs tests

rust:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.90 or newer, https://rustup.rs" >&2; exit 1; }
	@deploy/install-programs build
