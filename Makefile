# The verbs of the house. `make run` and `make test` are all a newcomer needs.

BIN      := target/release/corolla
LISTEN   ?= 127.0.0.1:8000

.PHONY: help run model test check tools unit browser interop soak spec bench bench-swarm bench-hop pictures

help:            ## what there is to do
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: model       ## build Corolla, fetch the small chat model, serve on http://127.0.0.1:8000
	cargo build --release --locked
	$(BIN) serve --listen $(LISTEN)

model:           ## fetch SmolLM2-135M-Instruct (93 MB, once) and check it
	@sh scripts/fetch-model.sh

test: tools model check unit browser   ## everything CI runs: checks, all tests, the page in a real browser

tools:           ## what the tests need on a new machine: redis-server, chromium, node
	@sh scripts/ci-install.sh

check:           ## format, lints, documentation, licences and who may use which crate
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
	sh scripts/deny.sh

unit: model      ## unit tests, contract suites, golden files, end to end through the binary
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace --locked; \
	else echo 'cargo-nextest is missing (cargo install cargo-nextest --locked); using cargo test'; cargo test --workspace --locked; fi

browser: tools model  ## the page in headless Chromium, against the real binary
	cargo build --locked
	sh scripts/browser-test.sh target/debug/corolla

interop:         ## against a swarm of stock Python Petals servers on loopback (1 GB of PyPI packages, once)
	sh scripts/interop/install.sh
	cargo build --release --locked
	python3 tests/interop/run.py $(BIN)

soak:            ## fifty sessions at a time for ten minutes on such a swarm: right answers, no growth, every cache given back
	sh scripts/interop/install.sh
	cargo build --release --locked
	python3 tests/interop/soak.py $(BIN)

spec:            ## write openapi.yaml
	cargo run --quiet --locked -- openapi > openapi.yaml.new && mv openapi.yaml.new openapi.yaml

bench: model     ## prefill and decode speed of the small chat model on this machine
	cargo build --release --locked
	python3 scripts/bench.py $(BIN)

bench-swarm:     ## speed on a swarm of this machine, beside the stock Python client
	sh scripts/interop/install.sh
	cargo build --release --locked
	python3 scripts/interop/bench.py $(BIN)

bench-hop:       ## what the client adds to a step of a server
	cargo bench --locked -p corolla-swarm --bench hop

pictures: tools model  ## take the README's screenshots anew
	cargo build --release --locked
	sh scripts/browser-test.sh $(BIN) --pictures docs/pictures
