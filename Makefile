# Two commands do everything on a fresh Debian machine that has git, make, a C++ compiler and cargo:
# `make run` and `make test`. Both install what is missing (.ci/setup) and build RocksDB once (.ci/rocksdb).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
WITH := source .ci/env;
NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## install what is missing on this machine
	@.ci/setup
	@.ci/rocksdb >/dev/null

.PHONY: build
build: setup ## build the release binary: target/release/kontiki
	@$(WITH) cargo build --release

.PHONY: run
run: build ## build and start a one-machine cluster in the foreground (ARGS="...")
	@target/release/kontiki start $(ARGS)

.PHONY: test
test: setup ## formatter check, lints, dependencies, all tests (FILTER="..." picks some)
	@cargo fmt --all --check
	@.ci/deny
	@$(WITH) cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(WITH) cargo nextest run --workspace --profile $(NEXTEST_PROFILE) $(FILTER)
	@$(WITH) cargo test --workspace --doc --quiet

.PHONY: lint
lint: setup ## formatter check, lints, layering
	@cargo fmt --all --check
	@$(WITH) cargo clippy --workspace --all-targets -- -D warnings
	@$(WITH) cargo test --package kontiki --test tidy --quiet

.PHONY: deny
deny: ## licences, sources and banned crates of the dependency graph
	@.ci/deny

.PHONY: bench
bench: setup ## measure the store beside the machine's own limit (ARGS="--quick --output json" ...)
	@$(WITH) cargo bench --quiet --package kontiki-raft --bench store -- $(ARGS)

.PHONY: bench-etcd
bench-etcd: build ## measure the store's port beside etcd, both over TLS (ARGS="--quick --peer etcd-3.5" ...)
	@$(WITH) cargo run --quiet --release --package kontiki-beside -- etcd $(ARGS)

.PHONY: bench-api
bench-api: build ## measure the Kubernetes API, beside figures of kube-apiserver (ARGS="--quick" ...)
	@$(WITH) cargo run --quiet --release --package kontiki-beside -- api $(ARGS)

.PHONY: bench-cluster
bench-cluster: build ## measure controllers and scheduler with thousands of hollow nodes (ARGS="--quick" ...)
	@$(WITH) cargo run --quiet --release --package kontiki-beside -- cluster $(ARGS)

.PHONY: bench-node
bench-node: build ## measure a machine with containers, as root: start, memory, size (ARGS="--quick" ...)
	@$(WITH) cargo build --quiet --release --package kontiki-beside
	@unshare --net --mount --pid --mount-proc --fork --kill-child -- sh -c \
		'ip link set lo up; mount -t tmpfs tmpfs /run; target/release/beside node $(ARGS); exit $$?'

.PHONY: faults
faults: build ## break clusters of real processes and judge what clients saw (ARGS="--members 5 --minutes 30" ...)
	@$(WITH) cargo build --release --quiet --workspace --bin faults
	@target/release/faults $(ARGS)

.PHONY: sim
sim: setup ## whole clusters on simulated time, network and disks, by seed (ARGS="--minutes 60" ...)
	@$(WITH) cargo build --release --quiet --workspace --bin sim
	@target/release/sim $(ARGS)

.PHONY: conformance
conformance: build ## upstream's conformance suite against `kontiki start` (KUBERNETES=dir or E2E=file, GROUP, FOCUS)
	@tests/conformance/run

.PHONY: fuzz
fuzz: setup ## libFuzzer on every target of fuzz/ for half a minute each (TARGETS="rows log", SECONDS_EACH=600)
	@SECONDS_EACH=$(or $(SECONDS_EACH),30) .ci/fuzz $(TARGETS)

.PHONY: mutants
mutants: setup ## plant bugs in a copy of the tree; each must be caught (ARGS="vote-not-persisted" for one)
	@$(WITH) tests/faults/mutants/run $(ARGS)

.PHONY: ledger
ledger: setup ## make docs/ledger.md of tests/ledger.jsonl
	@$(WITH) cargo build --release --quiet --workspace --bin faults
	@target/release/faults --page tests/ledger.jsonl > docs/ledger.md

.PHONY: fix
fix: setup ## let the formatter and clippy change what they can
	@cargo fmt --all
	@$(WITH) cargo clippy --workspace --all-targets --fix --allow-dirty --quiet
