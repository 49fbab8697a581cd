# One line a target; what needs more lives in tools/.
TOOL     := GOWORK=off go tool -modfile=tools/go.mod
BINARIES := ./cmd/beeline ./services/gateway/cmd/gateway ./services/session/cmd/session ./services/router/cmd/router
FUZZTIME ?= 10s
FAULTTIME ?= 10m
ROUNDS   ?= 3
DURATION ?= 6s

.DEFAULT_GOAL := help
.PHONY: help build test race lint fmt generate check budget fuzz faults images compose-test bench-peers vuln cover clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the binaries into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ $(BINARIES)

test: ## Run all tests (needs nothing but Go)
	CGO_ENABLED=0 tools/test.sh $$(go list ./... ./api/...)

race: ## Run the tests with the race detector, in random order (needs gcc); those of separate processes gain nothing
	CGO_ENABLED=1 tools/test.sh -race -shuffle=on $$(go list ./... ./api/... | grep -v /test/faults)

lint: ## Check format and style of Go and protos
	@! gofmt -l . | grep . || { echo 'not formatted: run make fmt'; exit 1; }
	$(TOOL) buf format -d --exit-code && $(TOOL) buf lint
	$(TOOL) golangci-lint run ./... && cd tools && GOWORK=off go tool golangci-lint run --config ../.golangci.yml ./...
	for module in api test/peers; do (cd $$module && GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

fmt: ## Format Go and protos
	$(TOOL) buf format -w && $(TOOL) golangci-lint fmt
	cd test/peers && GOWORK=off go tool -modfile=../../tools/go.mod golangci-lint fmt --config ../../.golangci.yml

generate: ## Generate code from the protos: api/gen, and the REST API of the router
	$(TOOL) buf generate && $(TOOL) buf generate --template buf.gen.rest.yaml

check: ## Run everything that CI runs
	.ci/run

budget: ## Check sizes of functions and files, and that there is as much test as code
	cd tools && GOWORK=off go run ./budget -exceptions budget/exceptions.txt ..

fuzz: ## Run every fuzz test for FUZZTIME (10s)
	tools/check/fuzz.sh $(FUZZTIME)

faults: ## Kill, pause and cut off processes at random for FAULTTIME (10m)
	BEELINE_TEST_FAULTS=$(FAULTTIME) go test -count=1 -v -timeout 0 -run 'Random|Durable' ./test/faults

images: build ## Make container images of the binaries in bin/ (pulls nothing)
	tools/images.sh

compose-test: ## Bring deploy/compose up on a Docker engine, and try it
	tools/check/compose.sh

bench-peers: ## Measure beside other brokers: ROUNDS (3) of DURATION (6s), loads ONLY like a regular expression
	tools/bench-peers.sh -rounds $(ROUNDS) -duration $(DURATION) -only '$(ONLY)' -json bin/bench-peers.json -markdown '$(MARKDOWN)'

vuln: ## Look for known vulnerabilities
	tools/check/vuln.sh

cover: ## Run all tests and print how much of the code they reach
	mkdir -p bin && CGO_ENABLED=0 go test -coverpkg=./internal/...,./services/... -coverprofile=bin/cover.out ./...
	go tool cover -func=bin/cover.out | tail -n 1

clean: ## Remove what make has built
	rm -rf bin
