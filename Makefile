# Every command that a developer needs. `make verify` says whether a change is finished, and changes nothing itself.

.PHONY: help verify test lint docs fix compat sim soak mutants faults interop bench dev clean

# How many seeds `make sim` runs, and the one that it replays instead.
SEEDS ?= 500
SEED ?=
# How long `make soak` runs.
MINUTES ?= 480

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

verify: lint test docs compat ## The one check: format, lints, tests, docs, foreign clients

test: ## All tests
	cargo test --workspace --locked

lint: ## Format and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

docs: ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings --cfg tokio_unstable" cargo doc --workspace --no-deps --locked

compat: ## A Python client of the original contract against a real cluster (needs python3; fetches grpcio-tools)
	cargo build --locked
	tests/compat/run target/debug/mokv

sim: ## Seeds under simulation: SEEDS=500, or SEED=7 to replay one and read what happens
	cargo run --locked -p mokv-sim -- $(if $(SEED),replay $(SEED),run --seeds $(SEEDS))

soak: ## New seeds for MINUTES=480, from the day's own range on
	cargo run --locked --release -p mokv-sim -- run --keep-going --first $$(date +%Y%m%d000000) --seeds 1000000000 --minutes $(MINUTES)

mutants: ## Plant bugs on purpose, and show in how many seeds the simulator notices each
	CARGO_TARGET_DIR=target/mutants RUSTFLAGS="--cfg tokio_unstable --cfg mokv_mutants" \
		cargo run --locked -p mokv-sim -- mutants --seeds 3000

faults: ## Faults on real processes, disks, networks and clocks (root; tests/faults/install has the tools)
	cargo test -p mokv --test faults --locked -- --include-ignored

interop: ## Gossip beside HashiCorp's serf (apt-get install serf)
	cargo test -p mokv-serf --test interop --locked

fix: ## Format, and apply what lints can repair
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: ## Benchmarks of the store, the log and the snapshots
	cargo bench --workspace

dev: ## Three nodes on this machine
	cargo run --release -- dev

clean: ## Remove what was built
	cargo clean
