# The verbs of the house. `make run` and `make test` are all a newcomer needs.

BIN      := target/release/corolla
# As the tests build it: with other features of their crates, most of them would be compiled once more.
DEBUG    := cargo build --workspace --bins --tests --locked
LISTEN   ?= 127.0.0.1:8000

.PHONY: help run model ui check-ui test check tools unit debug browser clients libtorch cuda test-libtorch check-cuda cuda-selftest swarm-demo test-namespaces interop chaos soak spec lint-spec typed-clients schemathesis bench \
        bench-llama bench-cold bench-head bench-client-part bench-backends bench-sessions bench-hosts bench-swarm bench-hostile bench-hop \
        bench-http bench-kv-cache bench-limits bench-schemas check-head pictures

help:            ## what there is to do
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: model       ## build Corolla, fetch the small chat model, serve on http://127.0.0.1:8000
	cargo build --release --locked
	$(BIN) serve --listen $(LISTEN)

model:           ## fetch SmolLM2-135M-Instruct (93 MB, once) and check it
	@sh scripts/fetch-model.sh

test: tools model check lint-spec check-ui unit browser   ## checks, all tests, the page in a real browser (.ci/run adds other backends and others' programs)

tools:           ## what the tests need on a new machine: redis-server, chromium, curl, node and their npm packages
	@sh scripts/ci-install.sh

check:           ## format, lints, documentation, licences and who may use which crate
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
	sh scripts/deny.sh

ui:              ## build the chat page: ui/src becomes ui/dist, which is committed and embedded (needs node and npm)
	@sh scripts/npm-install.sh ui
	cd ui && npm run build --silent

check-ui: tools  ## the chat page: types, lints, unit tests, size, and that ui/dist is what ui/src builds
	cd ui && npm run check --silent

unit: model      ## unit tests, contract suites, golden files, end to end through the binary
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace --locked; \
	else echo 'cargo-nextest is missing (cargo install cargo-nextest --locked); using cargo test'; cargo test --workspace --locked; fi

debug:           ## build target/debug/corolla, as the tests do
	$(DEBUG)

browser: tools model debug  ## the page in headless Chromium, against the real binary
	sh scripts/browser-test.sh target/debug/corolla

clients: model debug  ## OpenAI's clients for Python and Node, LiteLLM and LangChain, unmodified (110 MB of packages, once)
	sh scripts/clients.sh target/debug/corolla

libtorch:        ## build target/release/corolla-tch, with libtorch from PyPI (541 MB, once) or LIBTORCH
	LIBTORCH=$$(sh scripts/libtorch.sh) && export LIBTORCH && \
	cargo build --release --locked --features libtorch --target-dir target/libtorch
	mkdir -p target/release && cp target/libtorch/release/corolla target/release/corolla-tch

cuda:            ## build target/release/corolla-cuda, where CUDA's toolkit is
	@command -v nvcc >/dev/null || { echo 'nvcc is missing: install the CUDA toolkit, and put its bin folder on the path'; exit 2; }
	cargo build --release --locked --features cuda --target-dir target/cuda
	mkdir -p target/release && cp target/cuda/release/corolla target/release/corolla-cuda

test-libtorch: model debug  ## the libtorch backend: contract suites, golden files, one configuration on every backend
	mkdir -p target/plain target/tch && cp target/debug/corolla target/plain/
	LIBTORCH=$$(sh scripts/libtorch.sh) && export LIBTORCH && \
	cargo clippy --workspace --all-targets --locked --features libtorch -- -D warnings && \
	$(DEBUG) --features libtorch && \
	cargo test --workspace --locked --features libtorch --test libtorch && \
	cp target/debug/corolla target/tch/
	python3 tests/backends/run.py target/plain/corolla target/tch/corolla

check-cuda:      ## type-check the CUDA backend, without CUDA; `sh scripts/check-cuda.sh --kernels` compiles its kernels too
	sh scripts/check-cuda.sh

cuda-selftest: model  ## on a machine with a GPU (CUDA_SELFTEST=1: the second): contract suites, golden files, a table of speeds
	cargo test --release --locked -p corolla-candle --features cuda --target-dir target/cuda -- --ignored --nocapture on_a_gpu
	$(MAKE) cuda
	cargo build --release --locked
	python3 scripts/bench/backends.py $(BIN) --backends candle-cpu candle-cuda

swarm-demo: model  ## a private swarm on this machine: a bootstrap node, three hosts, and the chat page on them (LISTEN=127.0.0.1:8000)
	cargo build --release --locked
	python3 scripts/swarm_demo.py $(BIN) --listen $(LISTEN)

test-namespaces: ## hosts behind NATs in network namespaces, as root: relayed, punched through, direct (SKIPPED where it may not)
	$(DEBUG)
	python3 tests/namespaces/run.py target/debug/corolla

interop:         ## stock Python Petals on loopback: its servers, its clients, and both mixed with ours (1 GB of PyPI packages, once)
	sh scripts/interop/install.sh
	cargo build --release --locked
	python3 tests/interop/run.py $(BIN)
	python3 tests/interop/host.py $(BIN)

chaos:           ## hosts killed and stopped for fifteen minutes under eight clients: every reply right, no cache lost, no growth
	cargo build --release --locked
	python3 tests/chaos/run.py $(BIN)

soak:            ## fifty sessions at a time for ten minutes on such a swarm: right answers, no growth, every cache given back
	sh scripts/interop/install.sh
	cargo build --release --locked
	python3 tests/interop/soak.py $(BIN)

lint-spec: tools ## openapi.yaml and openapi-3.1.yaml against the recommended rules of an independent linter
	@sh scripts/lint-spec.sh

typed-clients: tools model debug ## clients generated from openapi.yaml in TypeScript, Python and Rust: compiled, and used
	sh scripts/typed-clients.sh target/debug/corolla

schemathesis: model debug ## thousands of requests that openapi.yaml allows or forbids; what comes back must be what it says
	sh scripts/schemathesis.sh target/debug/corolla

spec: debug      ## write openapi.yaml, and the same as OpenAPI 3.1
	target/debug/corolla openapi > openapi.yaml.new && mv openapi.yaml.new openapi.yaml
	target/debug/corolla openapi --oas 3.1 > openapi-3.1.yaml.new && mv openapi-3.1.yaml.new openapi-3.1.yaml

bench: bench-limits bench-llama bench-cold bench-head bench-client-part bench-backends bench-sessions bench-kv-cache bench-hosts bench-swarm bench-hostile bench-http bench-schemas ## all measurements beside other programs, which are fetched; writes docs/benchmarks.md (hours, 40 GB of disk, 20 GB of memory; `corolla bench` measures this machine alone)

# Each of these writes its part of docs/benchmarks.md; `make bench-llama RECORD=` only prints it.
RECORD := python3 scripts/bench/record.py docs/benchmarks.md
recorded = $(if $(RECORD),$(RECORD) $(1),env)
SHAPES := venv=$$(sh scripts/bench/llama_install.sh) && models=$$(dirname "$$venv")/shapes && \
	"$$venv/bin/python" scripts/bench/llama_shapes.py "$$models" models/SmolLM2-135M-Instruct.Q4_1.gguf
WIDE_HEAD := venv=$$(sh scripts/bench/install.sh) && folder=$$(dirname "$$venv")/bloom-head && \
	{ [ -f "$$folder/made" ] || { target/release/examples/wide_head "$$folder" 250880 14336 && touch "$$folder/made"; }; }

bench-llama: model ## decoding and prefill beside llama.cpp, same files, one run (builds llama.cpp, makes 13 GB of models)
	cargo build --release --locked -p corolla-candle --example greedy
	$(SHAPES) --large && \
	$(call recorded,llama) "$$venv/bin/python" scripts/bench/kernels.py target/release/examples/greedy "$$models" --models 'smollm2.*' && \
	$(call recorded,llama-large) "$$venv/bin/python" scripts/bench/kernels.py target/release/examples/greedy "$$models" --models 'bloom-*' 'llama-*' \
		--prompt 128 --tokens 32 && \
	$(call recorded,llama-screened) "$$venv/bin/python" scripts/bench/kernels.py target/release/examples/greedy "$$models" --models 'bloom-*.BF16' \
		--prompt 128 --tokens 32 --screen int8 && \
	$(call recorded,contended) "$$venv/bin/python" scripts/bench/kernels.py target/release/examples/greedy "$$models" --contended --models smollm2.Q4_1 smollm2.BF16

bench-limits: model ## how fast this machine reads memory and multiplies bf16 at best (a C compiler)
	cc -O3 -march=native -pthread scripts/bench/limits.c -o target/limits
	$(SHAPES) --large && $(call recorded,limits) target/limits "$$models/llama-1.1b.BF16.gguf"

bench-cold: model ## a reply from the start of a process on, beside llama.cpp
	cargo build --release --locked
	$(SHAPES) && $(call recorded,cold) "$$venv/bin/python" scripts/bench/cold.py $(BIN) "$$models"

bench-head:      ## the LM head of BLOOM-176B's shape, exact and screened, beside Python torch in bf16, one run (13 GB of disk and of memory)
	cargo build --release --locked -p corolla-candle --example wide_head --example screen
	$(WIDE_HEAD) && $(call recorded,head) "$$venv/bin/python" scripts/bench/head.py target/release/examples/screen "$$folder"

bench-client-part: ## `corolla serve` with the client part of BLOOM-176B: start, tokens, memory (13 GB of disk and of memory)
	cargo build --release --locked
	cargo build --release --locked -p corolla-candle --example wide_head
	cargo build --release --locked -p corolla-swarm --example pass_through
	$(WIDE_HEAD) && $(call recorded,client-part) "$$venv/bin/python" scripts/bench/client_part.py $(BIN) target/release/examples/pass_through "$$folder"

check-head: model ## the screened LM head on 100,000 states of SmolLM2 and hard ones: scores and tokens of the whole head, to the bit
	cargo build --release --locked -p corolla-candle --example screen
	for seed in 1 2 3 4; do SEED=$$seed target/release/examples/screen models/SmolLM2-135M-Instruct.Q4_1.gguf 25000 100 || exit 1; done

bench-sessions: model ## eight sessions that decode together against one alone
	cargo build --release --locked -p corolla-candle --example sessions
	small=models/SmolLM2-135M-Instruct.Q4_1.gguf && $(SHAPES) --large && \
	$(call recorded,sessions) python3 scripts/bench/sessions.py target/release/examples/sessions $$small $$small:q8_0 $$small:bf16 $$small:f32 \
	"$$models/llama-1.1b.Q8_0.gguf"

bench-kv-cache: model ## keys and values in f32, bf16 and q8, after short and long prompts
	cargo build --release --locked -p corolla-candle --example greedy
	$(call recorded,kv-cache) python3 scripts/bench/kv_cache.py target/release/examples/greedy models/SmolLM2-135M-Instruct.Q4_1.gguf

bench-swarm:     ## speed on a swarm of this machine, beside the stock Python client
	sh scripts/interop/install.sh
	cargo build --release --locked
	$(call recorded,swarm) python3 scripts/interop/bench.py $(BIN)

bench-hosts:     ## speed of our servers of blocks beside stock Petals servers, same files, same client
	sh scripts/interop/install.sh
	cargo build --release --locked
	cargo build --release --locked -p corolla-swarm --example steps
	$(call recorded,hosts) python3 scripts/interop/bench_hosts.py $(BIN)

bench-hostile:   ## what honest clients of a server of blocks notice of one that floods it
	cargo build --release --locked
	cargo build --release --locked -p corolla-swarm --examples
	$(call recorded,hostile) python3 scripts/bench/hostile.py $(BIN)

bench-backends: model libtorch ## every backend beside Python torch, same weights, one run
	cargo build --release --locked
	$(call recorded,backends) OMP_WAIT_POLICY=passive python3 scripts/bench/backends.py target/release/corolla-tch --rounds 3 --new-tokens 24

bench-hop:       ## what the client adds to a step of a server
	cargo bench --locked -p corolla-swarm --bench hop

bench-http:      ## what the HTTP layer adds to a token with two hundred streams at once, and to memory
	cargo bench --locked --bench http --no-run
	$(call recorded,http) cargo bench --locked --quiet --bench http

bench-schemas: model ## what a JSON schema adds to a token, and two hundred drawn ones
	cargo build --release --locked
	$(call recorded,schemas) sh scripts/bench/schemas.sh $(BIN)

pictures: tools model  ## take the README's screenshots anew
	cargo build --release --locked
	sh scripts/browser-test.sh $(BIN) --pictures docs/pictures
