# Both images, a target each:
#
#	docker build --target http-server -t im-http-server:0.1.0 .
#	docker build --target rpc-server -t im-rpc-server:0.1.0 .
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Both servers at once: with one profile, what they share compiles once.
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -pgo=default.pgo -o /out/ ./http-server ./rpc-server

# What both images have.
FROM scratch AS server
LABEL org.opencontainers.image.licenses="MIT"
# The certificates that TLS connections are checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER 65532:65532

FROM server AS http-server
LABEL org.opencontainers.image.title="im http-server" \
      org.opencontainers.image.description="The gateway of im: HTTP in, Thrift out"
COPY --from=build /out/http-server /http-server
EXPOSE 8080
HEALTHCHECK --interval=2s --timeout=4s --start-period=60s --retries=3 CMD ["/http-server", "healthcheck"]
ENTRYPOINT ["/http-server"]

FROM server AS rpc-server
LABEL org.opencontainers.image.title="im rpc-server" \
      org.opencontainers.image.description="The backend of im: Thrift in, Redis out"
COPY --from=build /out/rpc-server /rpc-server
EXPOSE 8888
HEALTHCHECK --interval=2s --timeout=4s --start-period=60s --retries=3 CMD ["/rpc-server", "healthcheck"]
ENTRYPOINT ["/rpc-server"]
