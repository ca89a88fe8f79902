# drover: `make help` lists what there is.

SHELL   := bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unreleased)
# No C: one static binary, and no compiler needed beside Go's.
export CGO_ENABLED := 0

GOFLAGS_BUILD := -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.PHONY: help build demo test check prove bench fuzz model stack thrift clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

build: ## build bin/drover, one static binary
	go build $(GOFLAGS_BUILD) -o bin/drover ./cmd/drover

demo: build ## the main job on embedded parts: 200,000 documents, killed half way, resumed
	@./demo.sh

check: ## vet, staticcheck, gofumpt, layering
	go vet ./...
	go tool staticcheck $$(go list ./... | grep -v /hbase/thrift2$$)
	@bad=$$(go tool gofumpt -l $$(git ls-files --cached --others --exclude-standard '*.go' | grep -v '^hbase/thrift2/')); \
	  if [ -n "$$bad" ]; then echo "not gofumpt'ed (run: go tool gofumpt -w FILE):"; echo "$$bad"; exit 1; fi
	go test -run TestLayering .

test: ## everything, at reduced counts: unit, embedded, and real HBase, gateways and ZooKeeper from Maven
	go test -timeout 10m $$(go list ./... | grep -v /e2e$$)
	go test -timeout 40m -count=1 -parallel 4 ./e2e

prove: ## everything at full counts; writes docs/proof.md
	go run ./e2e/prove

bench: ## speed, as ratios of two things measured in one run
	go run ./bench

fuzz: ## a minute of fuzzing for each fuzz test
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep ^Fuzz); do echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-60s} $$p || exit 1; done; done

model: ## check the Spin models of leases and shares, and that each of their faults is found
	@models/check.sh

stack: ## start a real HBase with gateways and ZooKeeper, print addresses, stay until Ctrl-C
	go run ./e2e/stack/cmd/stack

thrift: ## regenerate hbase/thrift2 from hbase.thrift (needs thrift-compiler 0.17)
	thrift --gen go:skip_remote,package_prefix=drover/hbase/ -out hbase hbase/thrift2/hbase.thrift && rm -f hbase/thrift2/GoUnusedProtection__.go

clean: ## remove what was built
	rm -rf bin demo
