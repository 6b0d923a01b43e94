// Command http-server is the gateway: it takes JSON or protobuf over HTTP and
// asks the rpc-servers that etcd knows. It keeps nothing, so any number of them
// may run.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/cloudwego/hertz/pkg/app/server"
	hertznetpoll "github.com/cloudwego/hertz/pkg/network/netpoll"
	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/netpoll"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends, then tells that it leaves, drains and returns.
func run(ctx context.Context, args []string) error {
	logTo(os.Stderr)
	cfg, err := parseConfig(args)
	if err != nil {
		return err
	}
	if cfg.command == "healthcheck" {
		return healthcheck(cfg.AdminListen)
	}
	logLevel.Set(cfg.LogLevel)
	debug.SetGCPercent(cfg.GCPercent)
	if _, err := memlimit.Set(); err != nil {
		slog.Debug("the heap has no limit", "err", err)
	}

	auth, err := newAuth(cfg.AuthHMACSecretFile, cfg.AuthPublicKeyFile, cfg.AuthAudience, cfg.AuthIssuer)
	if err != nil {
		return err
	}
	if auth == nil {
		slog.Warn("everybody may send as anybody and read every chat: neither AUTH_HMAC_SECRET_FILE nor AUTH_PUBLIC_KEY_FILE is set")
	}

	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	tracing, endTracing, err := traceTo(ctx)
	if err != nil {
		return err
	}
	defer endTracing()
	var traced []client.Option
	if tracing {
		traced = append(traced, client.WithMiddleware(traceCall))
	}

	if err := netpoll.Configure(netpoll.Config{Runner: runNetpoll, LoadBalance: netpoll.RoundRobin}); err != nil {
		return err
	}
	servers, err := dial(running, cfg.EtcdEndpoints, cfg.RequestTimeout/3, traced...)
	if err != nil {
		return err
	}
	parts := []*part{
		{name: "rpc-servers", needed: true, check: servers.reach, about: func() any { return servers.instances() }},
		{name: "etcd", check: servers.resolver.check, about: func() any { return map[string]float64{"resolve_age_seconds": servers.resolver.age().Seconds()} }},
	}
	registry := prometheus.NewRegistry()
	m := newMetrics(registry, servers)
	for _, p := range parts {
		registry.MustRegister(p.up())
	}

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	srv := newServer(listener, cfg.DrainTimeout)
	if tracing {
		srv.Use(traceRequest)
	}
	srv.Use(leave(ctx))
	(&gateway{
		rpc: measured{servers, m}, metrics: m, auth: auth,
		timeout: cfg.RequestTimeout, maxBody: cfg.MaxBodyBytes, maxInFlight: cfg.MaxInFlight,
	}).route(srv.Engine)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Shutdown(running)
	go func() {
		serving <- admin{cfg.AdminListen, cfg.Pprof, parts, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}.serve(ctx)
	}()

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

// newServer is a Hertz server without routes.
func newServer(listener net.Listener, drain time.Duration) *server.Hertz {
	return server.New(
		server.WithListener(listener),
		server.WithTransport(hertznetpoll.NewTransporter),
		server.WithExitWaitTime(drain),
		server.WithStreamBody(true),        // the gateway reads bodies, and says itself when one is too large
		server.WithMaxKeepBodySize(64<<10), // bytes of a buffer that a connection keeps; all share larger ones
		server.WithDisablePreParseMultipartForm(true),
		server.WithHandleMethodNotAllowed(true),
		server.WithRedirectTrailingSlash(false),
		server.WithDisableDefaultContentType(true),
		server.WithDisablePrintRoute(true),
	)
}
