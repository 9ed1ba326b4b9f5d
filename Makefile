# Short verbs. `make test` is everything that CI runs.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
export CGO_ENABLED := 0
GO := go

.PHONY: build demo test prepare peers lint unit fuzz bench bench-quick bench-dataplane bench-check bench-prepare image deploy-check docs clean

build: ## bin/weir, one static binary
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/weir ./cmd/weir

demo: build ## a node, clients and backends in namespaces of their own; needs root
	$(GO) run ./deploy/demo

test: prepare build lint peers bench-check unit deploy-check fuzz ## everything

prepare: ## what the tests need from the system
	@hack/prepare.sh

peers: ## a real API server and its peers for the tests, built once per user
	@bench/peers/build.sh etcd kube-apiserver kube-proxy coredns

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) build -C hack/tools -o $(CURDIR)/bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...
	$(GO) vet -C test/web ./...
	cd test/web && $(CURDIR)/bin/staticcheck ./...

# Whole systems are tried two at a time: they wait for half of their time. More would measure each other.
SYSTEMS := ./test/... ./deploy/... ./internal/netlab ./internal/kubelab
unit: ## all tests, with the race detector (which takes cgo); histories of one goroutine without it, six to ten times as many
	$(GO) test -run Histor ./endpoints ./proxier
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -vxF "$$($(GO) list $(SYSTEMS))")
	CGO_ENABLED=1 $(GO) build -race -o bin/weir-race ./cmd/weir
	WEIR_BINARY=$(CURDIR)/bin/weir-race CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m -p 2 $(SYSTEMS)
	WEIR_BINARY=$(CURDIR)/bin/weir-race $(GO) test -C test/web -count=1 ./...

FUZZTIME ?= 5s
fuzz: ## every fuzz target for FUZZTIME, after its seeds
	@hack/fuzz.sh $(FUZZTIME)

# Further flags in ARGS: make bench ARGS='--section packets'. See docs/benchmarks.md.
BENCH := $(GO) run -C bench . --results results
bench bench-quick: bench-prepare
bench-prepare:
	@hack/prepare.sh dnsperf

bench: ## Weir beside its peers, at full size: forty minutes; results in bench/results, a summary in README.md
	$(BENCH) --readme ../README.md $(ARGS)

bench-quick: ## the same, small, in three minutes, into bench/results/*-quick.json
	$(BENCH) --quick $(ARGS)

bench-dataplane: ## Weir's own parts: cold and warm start, one change, memory: one table
	$(BENCH) --section dataplane $(ARGS)

bench-check: ## what one change costs, counted; and the benchmarks' own tests
	$(GO) vet -C bench ./...
	cd bench && $(CURDIR)/bin/staticcheck ./...
	$(GO) test -C bench ./...

docs: ## the parts of docs/ that are made from the program; make test compares them
	UPDATE_DOCS=1 $(GO) test ./cmd/weir ./internal/config -count=1 -run Reference

image: ## bin/weir-image.tar, for amd64 and arm64, in OCI layout; no container daemon
	$(GO) run -C deploy/tools ./cmd/weir-image --out $(CURDIR)/bin/weir-image.tar --version $(VERSION)

deploy-check: ## manifests, image and alerts, tried; go test does not see their files, so it may not remember
	$(GO) vet -C deploy/tools ./...
	cd deploy/tools && $(CURDIR)/bin/staticcheck ./...
	$(GO) test -C deploy/tools -count=1 -p 1 ./...

clean:
	rm -rf bin
