.DEFAULT_GOAL := help
.PHONY: help run generate

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## start the whole system on localhost:8080 until Ctrl-C
	@echo 'building the launcher'
	@go build -C e2e -o ../.bin/up ./cmd/up
	@set -m 2>/dev/null; .bin/up # in a process group of its own: Ctrl-C is for the launcher, which then exits 0

generate: ## write all generated code anew from the two IDL files (needs protoc and thrift)
	rm -rf http-server/api_gen http-server/kitex_gen rpc-server/kitex_gen e2e/thrift_gen
	cd http-server && go tool -modfile=../tools/hz/go.mod hz model --unset_omitempty --mod im/http-server --model_dir api_gen --idl ../idl_http.proto
	cd http-server && go tool -modfile=../tools/kitex/go.mod kitex -module im/http-server ../idl_rpc.thrift
	cd rpc-server && go tool -modfile=../tools/kitex/go.mod kitex -module im/rpc-server ../idl_rpc.thrift
	mkdir -p e2e/thrift_gen
	thrift --gen go:package_prefix=im/e2e/thrift_gen/,skip_remote -out e2e/thrift_gen idl_rpc.thrift
