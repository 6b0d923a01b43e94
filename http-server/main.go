// Command http-server is the gateway: it takes JSON or protobuf over HTTP and
// asks the rpc-servers that etcd knows. It keeps nothing, so any number of them
// may run.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/cloudwego/netpoll"

	"im/http-server/backend"
	"im/http-server/edge"
	"im/http-server/gateway"
	"im/internal/admin"
	"im/internal/logging"
	"im/internal/tlsfiles"
	"im/internal/tracing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends. Then it is not ready any more, drains and returns.
func run(ctx context.Context, args []string) error {
	logging.To(os.Stderr)
	hlog.SetLevel(hlog.LevelDebug)
	hlog.SetOutput(logging.Framework)
	hlog.SetSilentMode(true) // else each request that is no HTTP is an error, and quoted
	cfg, err := parseConfig(args)
	if err != nil {
		return err
	}
	if cfg.Command == "healthcheck" {
		return admin.Healthcheck(cfg.AdminListen)
	}
	cfg.Apply(cfg.insecure())

	auth, err := gateway.NewAuth(cfg.AuthHMACSecretFile, cfg.AuthPublicKeyFile, cfg.AuthAudience, cfg.AuthIssuer, cfg.AuthLeeway)
	if err != nil {
		return err
	}
	var https *tls.Config
	if cfg.TLSCertFile != "" || cfg.TLSKeyFile != "" {
		if https, err = tlsfiles.Server("TLS", cfg.TLSCertFile, cfg.TLSKeyFile); err != nil {
			return err
		}
	}
	etcdConfig, err := cfg.Etcd.Config()
	if err != nil {
		return err
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	tracing, endTracing, err := tracing.Start(ctx, "im-http-server")
	if err != nil {
		return err
	}
	defer endTracing()
	// Goroutines that are kept: the stack of a new one would have to grow for each request.
	if err := netpoll.Configure(netpoll.Config{Runner: gopool.CtxGo}); err != nil {
		return err
	}

	rpcServers, err := backend.Dial(running, backend.Etcd(etcdConfig), cfg.RequestTimeout, cfg.MaxInFlight)
	if err != nil {
		return err
	}
	gw := gateway.New(gateway.Options{
		Backend: rpcServers, Auth: auth, MaxBodyBytes: cfg.MaxBodyBytes, Buffers: edge.NewBuffers(cfg.MaxBufferBytes),
		CORSOrigins: cfg.CORSOrigins, TLS: https != nil, Tracing: tracing, Page: cfg.Page,
		MaxWaiters: cfg.maxWaiters(), Stopping: ctx, LeaveWait: cfg.LeaveWait,
	})
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	connections := edge.NewConnections(cfg.MaxConnections, cfg.ReadTimeout, cfg.WriteTimeout)
	srv := edge.NewServer(listener, https, connections, cfg.IdleTimeout, cfg.DrainTimeout)
	gw.Route(srv.Engine)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Shutdown(running)

	operators := admin.Server{
		Addr: cfg.AdminListen, Pprof: cfg.Pprof, Checks: rpcServers.Checks(),
		Metrics: slices.Concat(gw.Collectors(), connections.Collectors(), rpcServers.Collectors()),
	}
	go func() { serving <- operators.Serve(ctx) }()

	slog.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-serving:
		return err
	case <-ctx.Done():
		slog.Info("stopping")
		time.Sleep(cfg.LeaveWait)
		return nil
	}
}
