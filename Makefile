# Every command that a developer needs. `make verify` says whether a change is finished, and changes nothing itself.

.PHONY: help verify test lint docs fix compat bench dev clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

verify: lint test docs compat ## The one check: format, lints, tests, docs, foreign clients

test: ## All tests
	cargo test --workspace --locked

lint: ## Format and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

docs: ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

compat: ## A Python client of the original contract against a real cluster (needs python3; fetches grpcio-tools)
	cargo build --locked
	tests/compat/run target/debug/mokv

fix: ## Format, and apply what lints can repair
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: ## Benchmarks of the store, the log and the snapshots
	cargo bench --workspace

dev: ## Three nodes on this machine
	cargo run --release -- dev

clean: ## Remove what was built
	cargo clean
