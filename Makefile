# Every command that a developer needs. `make verify` says whether a change is finished, and changes nothing itself.

.PHONY: help verify test lint docs fix compat sim soak mutants faults interop bench dev clean \
	kind docker-build kind-load deploy upgrade redeploy undeploy logs status chart monitoring container pods

# How many seeds `make sim` runs, and the one that it replays instead.
SEEDS ?= 500
SEED ?=
# How long `make soak` runs.
MINUTES ?= 480

# The image and its tag, the kind cluster, the Helm release and its namespace.
IMAGE ?= mokv
TAG ?= 0.1.0
KIND_CLUSTER ?= mokv
RELEASE ?= mokv
NAMESPACE ?= default
# More for helm: HELM_ARGS="--set replicas=5"
HELM_ARGS ?=

# Fails with a line that says where to find a tool.
need = @command -v $(1) >/dev/null || { echo "$(1) is missing: $(2)" >&2; exit 1; }

quickstart: kind docker-build kind-load deploy status ## The whole way to a cluster on Kubernetes: kind, image, chart

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

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

kind: ## A Kubernetes cluster in Docker, if there is none yet
	$(call need,docker,https://docs.docker.com/engine/install)
	$(call need,kind,https://kind.sigs.k8s.io/docs/user/quick-start)
	@kind get clusters 2>/dev/null | grep -qx "$(KIND_CLUSTER)" || kind create cluster --name "$(KIND_CLUSTER)"

docker-build: ## The image
	$(call need,docker,https://docs.docker.com/engine/install)
	docker build --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) -t $(IMAGE):$(TAG) .

kind-load: ## The image, into the kind cluster
	$(call need,kind,https://kind.sigs.k8s.io/docs/user/quick-start)
	kind load docker-image $(IMAGE):$(TAG) --name "$(KIND_CLUSTER)"

deploy: ## Install or upgrade the Helm release, and wait until it serves
	$(call need,helm,https://helm.sh/docs/intro/install)
	helm upgrade --install $(RELEASE) deploy/mokv --namespace $(NAMESPACE) --create-namespace \
		--set image.repository=$(IMAGE) --set image.tag=$(TAG) --wait --timeout 5m $(HELM_ARGS)

upgrade: deploy ## The same as deploy

redeploy: docker-build kind-load ## A new image under the same tag, node after node
	$(call need,kubectl,https://kubernetes.io/docs/tasks/tools)
	kubectl --namespace $(NAMESPACE) rollout restart statefulset --selector app.kubernetes.io/instance=$(RELEASE)
	kubectl --namespace $(NAMESPACE) rollout status statefulset --selector app.kubernetes.io/instance=$(RELEASE) --timeout 10m

undeploy: ## Uninstall the release; its volumes stay
	$(call need,helm,https://helm.sh/docs/intro/install)
	helm uninstall $(RELEASE) --namespace $(NAMESPACE)

logs: ## Of all nodes, as they come
	$(call need,kubectl,https://kubernetes.io/docs/tasks/tools)
	kubectl --namespace $(NAMESPACE) logs --follow --prefix --max-log-requests 20 \
		--selector app.kubernetes.io/instance=$(RELEASE),app.kubernetes.io/component=node

status: ## Pods, volumes, and what the cluster says of itself
	$(call need,kubectl,https://kubernetes.io/docs/tasks/tools)
	kubectl --namespace $(NAMESPACE) get statefulset,pod,pvc --selector app.kubernetes.io/instance=$(RELEASE)
	@pod=$$(kubectl --namespace $(NAMESPACE) get pod -o name \
		--selector app.kubernetes.io/instance=$(RELEASE),app.kubernetes.io/component=node | head -1); \
	[ -z "$$pod" ] || kubectl --namespace $(NAMESPACE) exec "$$pod" -- /mokv members

chart: ## The chart, rendered by Helm, judged by Kubernetes' schemas (fetches their Python packages)
	tests/chart/run

monitoring: ## Alerts and dashboard, by promtool and a Prometheus that scrapes real nodes (apt-get install prometheus)
	$(call need,promtool,apt-get install prometheus)
	promtool check rules deploy/mokv/files/rules.yaml
	promtool test rules tests/monitoring/rules.test.yaml
	cargo build --locked
	tests/monitoring/run target/debug/mokv

dev: ## Three nodes on this machine
	cargo run --release -- dev

clean: ## Remove what was built
	cargo clean

pods: ## The lives of the chart's pods, played in Docker (needs docker, openssl and the image)
	$(call need,docker,https://docs.docker.com/engine/install)
	tests/pods/run $(IMAGE):$(TAG)

container: ## The image, built with this machine's own toolchain where none can be pulled
	$(call need,docker,https://docs.docker.com/engine/install)
	tests/container/builder mokv-builder
	docker build --build-arg BUILDER=mokv-builder --build-arg TARGET=$$(rustc -vV | sed -n 's/^host: //p') -t $(IMAGE):$(TAG) .
