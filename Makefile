# make help lists the targets.
SHELL := /bin/bash
export PATH := $(PATH):/usr/local/go/bin

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Packages that take too long under the race detector (the simulator starts no
# goroutine of its own), and those that hold no code of the product.
NORACE ?= mailferry/internal/app% mailferry/internal/scenario% mailferry/cluster/sim% mailferry/bench/%
TESTFLAGS ?=
# -count=1: what the real peers do is not in the test cache.
GOTEST := go test -count=1 -p 2 -timeout 15m $(TESTFLAGS)

.PHONY: build run test peers check bench bench-go bench-peers soak clean help

build: ## build bin/mailferry (the default)
	go build -o bin/mailferry ./cmd/mailferry

run: build ## build, then serve with the default configuration in ./mailferry-data
	bin/mailferry serve

test: peers ## install the real peers that tests need, then vet and test everything
	@raced="$(filter-out $(NORACE),$(shell go list ./...))"; plain="$(filter $(NORACE),$(shell go list ./...))"; failed=0; \
	echo "go vet ./..." && go vet ./... || failed=1; \
	[ -z "$$raced" ] || { echo "$(GOTEST) -race ..." && $(GOTEST) -race $$raced; } || failed=1; \
	[ -z "$$plain" ] || { echo "$(GOTEST) ..." && $(GOTEST) $$plain; } || failed=1; \
	exit $$failed

peers: ## install slapd, Samba, Dovecot, Cyrus, Courier, pebble, mail clients and the corpus; nothing is started
	bench/peers/install.sh

check: ## gofmt, vet, staticcheck, and that go.mod is true
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$files" ] || { echo "gofmt -w $$files"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go mod verify
	go mod tidy -diff

bench: ## mailferry beside its peers, as in docs/benchmarks.md (root, half an hour; PARTS="proxy table" for some)
	bench/beside.sh $(PARTS)

bench-go: ## Go benchmarks of all packages
	go test -run '^$$' -bench . -benchmem -p 1 $(TESTFLAGS) ./...

bench-peers: ## build the load generators, install the peers of the bench, too
	bench/peers/install.sh slapd dovecot clients cyrus corpus nginx versions
	go build -o bin/ ./bench/mailload ./bench/mailseed ./bench/storeload

soak: peers ## the long run: more kills, more seeds, more time (SEED=N repeats one)
	SOAK=1 go test -count=1 -p 1 -timeout 6h -v $(TESTFLAGS) ./...

clean: ## remove what was built
	rm -rf bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile
