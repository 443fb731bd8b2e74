# Each target is a line or two that can be typed as well. `make` by itself lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PLATFORMS := linux/arm64 darwin/arm64 windows/amd64

# Without a commit in it the agent is the same of the same sources: see ADR 18.
AGENT := CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags='-s -w -buildid='

.PHONY: help deps build demo test short busy campaign race bench lint generate golden cross release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install PostgreSQL with pgvector, and Redis, if they are missing
	@scripts/install-deps

build: ## build bin/difyup, with the agent for Google's instances inside, and bin/difyup-agent for this machine
	go run ./internal/carried/generate
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/ ./cmd/difyup
	$(AGENT) -o bin/ ./cmd/difyup-agent

demo: deps build ## raise the example on this machine and send it requests
	@scripts/demo

test: deps ## run every test
	go test -timeout 30m ./...

short: ## run the tests that start no servers
	go test -short ./...

busy: deps ## run every test 6 times, and those that depend on time 40 times, beside two CPU burners
	@scripts/busy

campaign: deps ## kill 200 runs and answer 100 wrongly, disturb the scheduler and migrations 200 times each, and boot in 5 orders
	go test ./internal/test/campaign -run TestCampaign -v -count=1 -timeout 4h -parallel 16 -kills 200 -faulty 100 -interrupts 30 -resets 30 -both 20
	go test ./internal/test/traffic -run 'TestLongStream|TestSlow' -v -count=1 -timeout 1h -long 11m
	go test ./internal/agent/scheduler -run TestOneScheduler -v -count=1 -timeout 2h -rounds 200
	go test ./internal/agent/migrate -run TestOneMigration -v -count=1 -timeout 2h -rounds 200 -seed 1
	go test ./internal/test/lifecycle -run TestShuffledBoot -v -count=1 -timeout 2h -boots 5 -boot-delay 90s

race: deps ## run every test under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race ./...

bench: deps build ## print the figures
	go test -run '^$$' -bench . -benchtime 1x ./internal/test/bench
	go test -run '^$$' -bench Lines -benchtime 30000x ./internal/agent/logs

lint: ## check the formatting, vet, staticcheck
	@unformatted=$$(gofmt -l cmd internal); if [[ -n $$unformatted ]]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...

generate: ## refresh the generated code and documents
	go generate ./...

golden: ## rewrite the expected outputs in testdata; read the difference
	go test $$(grep -rlE 'flag\.Bool\("update"' --include='*_test.go' internal | xargs -n1 dirname | sort -u | sed 's,^,./,') -update

cross: ## check that difyup compiles on the other platforms
	@for platform in $(PLATFORMS); do \
		echo "go build ./cmd/difyup for $$platform"; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -o /dev/null ./cmd/difyup; \
	done

release: ## write the archives of every platform, their checksums and an SBOM to dist
	@scripts/release

clean: ## remove what build and release made
	rm -rf bin dist internal/carried/agent/difyup-agent.*
