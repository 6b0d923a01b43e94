.DEFAULT_GOAL := help
.PHONY: help run test check faults redis-cluster-test bench pgo token page-test jmeter jmeter-test compose-test cluster-test vulncheck licenses lint generate

# The module at the root has both servers. What ends in ./... there leaves out the folders
# of other modules.
MODULES := . e2e tools/test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## start the whole system on localhost:8080 until Ctrl-C
	@echo 'building the launcher'
	@go build -C e2e -o ../.bin/up ./cmd/up
	@set -m 2>/dev/null; .bin/up # in a process group of its own: Ctrl-C is for the launcher, which then exits 0

test: ## install what it needs, then run every check and test
	@tools/install gcc=gcc,libc6-dev redis-server=redis-server:redis protoc=protobuf-compiler:protobuf thrift=thrift-compiler wrk=wrk
	@$(MAKE) --no-print-directory lint
	@echo 'building the test runner'
	@go build -C tools/test -o ../../.bin/test .
	@.bin/test -count=1 -timeout=10m tools/test .:-race e2e:-p=1

check: URL = http://localhost:8080
check: DURATION = 30s
check: ## put a running system to the test, and tell what it lost: make check URL=http://localhost:8080 DURATION=30s
	@go run -C e2e ./cmd/check --url=$(URL) --duration=$(DURATION)

faults: ## break everything for long while the checker runs, and write docs/faults.md
	@tools/install gcc=gcc,libc6-dev redis-server=redis-server:redis
	@echo 'building the test runner'
	@go build -C tools/test -o ../../.bin/test .
	@.bin/test -count=1 -timeout=30m e2e/faults:-full=true

redis-cluster-test: ## run the tests of rpc-server's store and of the whole once more, on a Redis Cluster
	@tools/install gcc=gcc,libc6-dev redis-server=redis-server:redis protoc=protobuf-compiler:protobuf thrift=thrift-compiler wrk=wrk
	@echo 'building the test runner'
	@go build -C tools/test -o ../../.bin/test .
	@.bin/test -count=1 -timeout=25m rpc-server/chat:-race,.,-cluster e2e:.,-redis=cluster

bench: ## measure the system on this machine, and write docs/benchmarks.md; with BASE=REV, beside that revision, too; with ONLY=., nothing else
	@tools/install redis-server=redis-server:redis wrk=wrk
	@echo 'building the benchmark'
	@go build -C e2e -o ../.bin/bench ./cmd/bench
	@.bin/bench $(if $(ONLY),--only='$(ONLY)',--out=docs/benchmarks.md) $(if $(BASE),--base='$(BASE)')

pgo: ## find out where the servers spend their time, for the compiler: write default.pgo
	@tools/install redis-server=redis-server:redis wrk=wrk
	@go build -C e2e -o ../.bin/bench ./cmd/bench
	@.bin/bench --pgo

token: SUB = jack
token: ## print a token for trying, where AUTH_HMAC_SECRET_FILE is set: make -s token SECRET=FILE SUB=jack
	@go run -C e2e ./cmd/token --secret-file='$(abspath $(SECRET))' --sub='$(SUB)'

page-test: ## try the page at / in Chromium; with PICTURES=DIR, also take pictures of it there
	@tools/install gcc=gcc,libc6-dev redis-server=redis-server:redis curl=curl
	@command -v google-chrome >/dev/null || tools/install chromium=chromium
	@echo 'building the test runner'
	@go build -C tools/test -o ../../.bin/test .
	@.bin/test -count=1 -timeout=8m 'e2e:-tags=page,-run=^TestPage_,-pictures=$(abspath $(PICTURES))'

jmeter: HOST = localhost
jmeter: PORT = 8080
jmeter: THREADS = 20
jmeter: LOOPS = 10
jmeter: RAMPUP = 10
jmeter: ## put load on a running system: make jmeter HOST=localhost PORT=8080 THREADS=20 LOOPS=10 RAMPUP=10
	@tools/jmeter/run -Jhost=$(HOST) -Jport=$(PORT) -Jthreads=$(THREADS) -Jloops=$(LOOPS) -Jrampup=$(RAMPUP)

jmeter-test: ## run the same load in a test, and see it fail where nothing is stored
	@tools/install gcc=gcc,libc6-dev redis-server=redis-server:redis
	@tools/jmeter/run --version
	@echo 'building the test runner'
	@go build -C tools/test -o ../../.bin/test .
	@.bin/test -count=1 -timeout=8m 'e2e:-tags=jmeter,-run=^TestJMeter'

compose-test: ## build the images, bring docker-compose.yml up, and see that it keeps what it is sent
	@if ! docker info >/dev/null 2>&1; then \
		echo 'skipped: compose-test, since no Docker engine answers'; \
	else \
		tools/install debootstrap=debootstrap curl=curl && e2e/deploy/standins/build && \
		go build -C tools/test -o ../../.bin/test . && \
		.bin/test -count=1 -timeout=25m 'e2e/deploy:-tags=compose,-run=^TestCompose'; \
	fi

cluster-test: ## apply k8/ on the cluster that kubectl speaks to, put it to the test, and write docs/kubernetes.md (needs the images there)
	@go test -C e2e -count=1 -timeout=50m -tags=cluster -run='^TestCluster' -v ./deploy/

vulncheck: $(MODULES:%=vulncheck/%) ## look for known vulnerabilities in what the code calls (needs vuln.go.dev)

.PHONY: $(MODULES:%=vulncheck/%)
$(MODULES:%=vulncheck/%): vulncheck/%:
	@echo 'vulncheck $*'; cd $* && go tool -modfile='$(CURDIR)/tools/govulncheck/go.mod' govulncheck ./...

licenses: $(MODULES:%=licenses/%) ## list the licences of all that is linked in, and stop at one that is unknown or would bind ours

# Thrift, for tests, has a build file under GNU's all-permissive licence, to which go-licenses gives no type.
GO_LICENSES = go tool -modfile='$(CURDIR)/tools/licenses/go.mod' go-licenses
.PHONY: $(MODULES:%=licenses/%)
$(MODULES:%=licenses/%): licenses/%:
	@echo 'licenses $*'; cd $* && $(GO_LICENSES) report --ignore=im ./... 2>/dev/null | cut -d, -f1,3
	@cd $* && $(GO_LICENSES) check --ignore=im,github.com/apache/thrift --disallowed_types=forbidden,restricted,unknown ./... 2>.licenses || \
		{ grep -v '^W\|^/' .licenses; rm .licenses; exit 1; }
	@rm $*/.licenses

lint: lint/gofmt $(MODULES:%=lint/%) lint/workflows ## check the form of all code: gofmt, go vet, go mod tidy, imports, staticcheck, actionlint

.PHONY: lint/gofmt
lint/gofmt: # of all modules at once
	@echo 'lint: gofmt'
	@! find . \( -name '.?*' -o -path ./internal/gen -o -name '*_gen' \) -prune -o -name '*.go' -exec gofmt -l {} + | grep . || \
		{ echo 'gofmt would change the files above' >&2; exit 1; }

.PHONY: lint/workflows
lint/workflows:
	@echo 'lint workflows: actionlint'
	@go -C tools/actionlint tool actionlint -shellcheck= -pyflakes= '$(CURDIR)'/.github/workflows/*.yml

.PHONY: $(MODULES:%=lint/%)
$(MODULES:%=lint/%): lint/%:
	$(call check,go vet,go vet -tags=$(TAGS) ./...)
	$(call check,go mod tidy,go mod tidy -diff)
	$(call check,imports,! go list -f '{{range .Imports}}{{println .}}{{end}}' ./... | grep '$(DEPRECATED)')
	$(call check,staticcheck,go tool -modfile='$(CURDIR)/tools/staticcheck/go.mod' staticcheck -tags=$(TAGS) $$(go list ./... | grep -v -e /internal/gen/ -e _gen))

# In a variable, since a comma would end an argument of call.
TAGS = jmeter,cluster,compose,page

# Its makers mark it as deprecated after the package clause, where staticcheck does not look.
DEPRECATED = kitex/pkg/remote/trans/netpollmux

# $(call check,NAME,COMMAND) runs COMMAND in the module, and stops make if it fails.
check = @echo 'lint $*: $(1)'; cd $* && { $(2); } || { echo '$*: $(1) finds the faults above' >&2; exit 1; }

generate: generate/code generate/settings ## write anew all code from the two IDL files (needs protoc and thrift), and the tables of docs/settings.md

.PHONY: generate/code generate/settings
generate/code:
	rm -rf internal/gen e2e/thrift_gen
	go tool -modfile=tools/hz/go.mod hz model --unset_omitempty --mod im --model_dir internal/gen --idl idl_http.proto
	go tool -modfile=tools/kitex/go.mod kitex -streamx -module im -gen-path internal/gen idl_rpc.thrift
	mkdir -p e2e/thrift_gen
	thrift --gen go:package_prefix=im/e2e/thrift_gen/,skip_remote -out e2e/thrift_gen idl_rpc.thrift

generate/settings:
	{ sed '/^## /,$$d' docs/settings.md && go run ./http-server settings && echo && go run ./rpc-server settings; } >.settings.md && mv .settings.md docs/settings.md
