# Everything a newcomer or CI needs. `make build` and `make test` want only Rust and a C compiler.

TARGET  := x86_64-unknown-linux-gnu
RELEASE := target/$(TARGET)/release/kv
PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
# The judges recorded from etcd live outside the tree; see the golden and conformance targets.
SHARED  ?= ../shared
JOBS    ?= 2

.PHONY: build test run bench bench-growth bench-engines bench-report guards crash growth flips lint golden conformance install completions

build:
	$(CARGO) build --release

test:
	$(CARGO) test

run: build
	$(RELEASE) server

# Ours against a real etcd: ETCD=path [BENCHMARK=path] [PAIRS=5] [QUICK=1] [ONLY=S1,S4] [ENGINE=redb] [KEYS=1000000].
bench: build
	python3 tests/bench/suite.py run $(BENCH)

bench-growth: build
	python3 tests/bench/suite.py run --growth $(BENCH)

bench-engines: build
	python3 tests/bench/suite.py run --engines $(BENCH)

# Writes docs/performance.md from RESULTS, the results.json of one or more runs.
bench-report:
	python3 tests/bench/suite.py report $(RESULTS)

# Counts and sizes that must not grow: log syncs, memory, instructions, allocations. Nothing reads the clock.
guards: build
	cd tests/bench && python3 -m unittest -q test_suite
	python3 tests/bench/guards.py $(RELEASE)

# 200 kills of a loaded server and 200 power cuts, each engine.
crash: build
	KV_BIN=$(CURDIR)/$(RELEASE) KV_CRASH_CYCLES=$${CYCLES:-200} $(CARGO) test --test it -- crash:: --nocapture --test-threads=1

# 20 million overwrites of 100,000 keys under periodic compaction, each engine.
growth: build
	KV_BIN=$(CURDIR)/$(RELEASE) KV_GROWTH_WRITES=$${WRITES:-20000000} KV_GROWTH_KEYS=$${KEYS:-100000} $(CARGO) test --test it -- growth:: --nocapture --test-threads=1

# 200 bits flipped at rest, each engine.
flips: build
	KV_BIN=$(CURDIR)/$(RELEASE) KV_FLIPS=$${FLIPS:-200} $(CARGO) test --test it -- flips:: --nocapture --test-threads=1

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

# Replays what the real etcd printed; scenarios of later steps are listed in tests/left-out.txt.
golden: build links
	python3 $(SHARED)/golden/replay.py -j $(JOBS) \
		--etcd "$(CURDIR)/target/links/etcd" --etcdctl "$(CURDIR)/target/links/etcdctl" --etcdutl "$(CURDIR)/target/links/etcdutl" \
		$$(awk '$$1 == "golden" { print "--skip " $$2 }' tests/left-out.txt)

# etcd's own Go client against one member; tests of later steps are listed in tests/left-out.txt.
conformance: build
	cd $(SHARED)/conformance && KV_SERVER="$(CURDIR)/$(RELEASE) server" KV_MAX_MEMBERS=1 \
		go test -count=1 -parallel $(JOBS) ./kv ./watch ./lease ./maintenance \
		-skip "$$(awk '$$1 == "conformance" { printf "%s^%s$$", sep, $$2; sep = "|" }' $(CURDIR)/tests/left-out.txt)"

.PHONY: links
links: build
	mkdir -p target/links
	for name in etcd etcdctl etcdutl; do ln -sf $(CURDIR)/$(RELEASE) target/links/$$name; done

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(RELEASE) $(DESTDIR)$(PREFIX)/bin/kv
	for name in etcd etcdctl etcdutl; do ln -sf kv $(DESTDIR)$(PREFIX)/bin/$$name; done
	install -m 644 man/kv.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -D -m 644 completions/kv.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kv
	install -D -m 644 completions/_kv $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kv
	install -D -m 644 completions/kv.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kv.fish

# Writes completions/ and man/ anew from the definitions in the program.
completions: build
	$(RELEASE) completions bash > completions/kv.bash
	$(RELEASE) completions zsh > completions/_kv
	$(RELEASE) completions fish > completions/kv.fish
	$(RELEASE) man > man/kv.1
