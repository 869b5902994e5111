# The commands of a working day. `make` lists them; .ci/run is what has to pass before a change is done.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

FUZZTIME ?= 10s
BENCHTIME ?= 1s
BENCH ?= .
TRIALS_OUT ?= reports/trials
TRIALS_FLAGS ?= --all $(TRIALS_OUT)
PERFORMANCE_OUT ?= reports/performance
PERFORMANCE_FLAGS ?=
MEMORY_FLAGS ?=
DEMO_FLAGS ?=
CHAIN_FLAGS ?= --kill --orders 100000 --kafka real

# The linter is a tool of its own module: tools/go.mod is its pin, tools/go.sum its checksums. Go builds it once
# (minutes) and keeps it in the build cache.
GOLANGCI_LINT := go tool -modfile=tools/go.mod golangci-lint

# What a release takes: goreleaser, cyclonedx-gomod, govulncheck. Building goreleaser takes minutes, once.
RELEASE_TOOL := go tool -modfile=tools/release/go.mod
VULN_FLAGS ?=

.PHONY: help build test race lint fmt fuzz trials switch performance memory bench demo chain alerts screenshots scrapes reference ci
.PHONY: snapshot release reproducible modules vuln

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary, as ./tidemark
	go build -trimpath -o tidemark .

test: ## every test; those whose servers are missing are skipped (TIDEMARK_TEST_REQUIRE=kafka,postgres fails instead)
	go test ./...

race: ## every test under the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## check the lint configuration, then the code
	$(GOLANGCI_LINT) config verify
	$(GOLANGCI_LINT) run --allow-parallel-runners

fmt: ## format the code as lint wants it
	$(GOLANGCI_LINT) fmt

fuzz: ## each fuzz target for FUZZTIME (10s)
	.ci/fuzz $(FUZZTIME)

trials: ## every run of docs/trials.md, with its reports in TRIALS_OUT (reports/trials); or what TRIALS_FLAGS says
	go run ./test/trials $(TRIALS_FLAGS)

switch: ## the switch from Debezium and back, with real servers and writers that go on
	TIDEMARK_TEST_SWITCH=1 TIDEMARK_TEST_REQUIRE=kafka,debezium go test -count=1 -v -timeout 20m -run Switch ./test/debezium

performance: ## every measurement of docs/performance.md, with tables and raw numbers in PERFORMANCE_OUT (reports/performance)
	bench/performance.sh $(PERFORMANCE_FLAGS) $(PERFORMANCE_OUT)

memory: ## the most memory that is taken, in each case that could take much, with MEMORY_FLAGS
	go run ./test/memory $(MEMORY_FLAGS)

bench: ## the benchmarks that match BENCH, for BENCHTIME (1s) each
	go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) ./...

demo: ## the whole path on one screen, with DEMO_FLAGS; needs nothing installed
	go run . demo $(DEMO_FLAGS)

chain: ## 100,000 orders through examples/, every process killed again and again, each order billed once; with CHAIN_FLAGS
	go run ./examples/chain $(CHAIN_FLAGS)

alerts: ## hold the board, the alerts and the Kubernetes manifests in deploy/ against their own types and what is served
	cd deploy/check && go test ./...

screenshots: ## take those of the page anew, into docs/; needs chromium
	go test -count=1 -run TestThePageInABrowser ./cli -args -screenshots $(CURDIR)/docs

scrapes: ## take what a relay serves anew, which the board is tried with
	go test -count=1 -run TestEveryMetricOfTheContractIsServed ./cli -args -scrapes $(CURDIR)/deploy/check/testdata

reference: ## write docs/reference anew, as far as it is made from the program
	go test -count=1 -run Reference ./test/docs -args -update

snapshot: ## what a release would be, into dist/: archives for every platform, checksums, bills of materials
	$(RELEASE_TOOL) goreleaser release --snapshot --clean --skip=publish

release: ## the tag that HEAD has, as a draft of a release on GitHub, with GITHUB_TOKEN
	$(RELEASE_TOOL) goreleaser release --clean

reproducible: ## build the archives of HEAD twice, once with nothing cached, and compare them
	tools/release/reproducible

modules: ## hold every fetched dependency against go.sum
	go mod verify

vuln: ## known vulnerabilities in what is called, from vuln.go.dev or with VULN_FLAGS=-db=URL
	$(RELEASE_TOOL) govulncheck $(VULN_FLAGS) ./...

ci: ## everything: what has to pass before a change is done
	.ci/run
