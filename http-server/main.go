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
	"runtime/debug"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/cloudwego/hertz/pkg/app/server"
	hertzconfig "github.com/cloudwego/hertz/pkg/common/config"
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
	for _, risk := range cfg.insecure() {
		slog.Warn("insecure: " + risk)
	}
	var https *tls.Config
	if cfg.TLSCertFile != "" || cfg.TLSKeyFile != "" {
		own, err := loadKeyPair("TLS", cfg.TLSCertFile, cfg.TLSKeyFile)
		if err != nil {
			return err
		}
		https = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.get(), nil },
		}
	}
	etcd, err := cfg.Etcd.config()
	if err != nil {
		return err
	}

	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	tracing, endTracing, err := traceTo(ctx)
	if err != nil {
		return err
	}
	defer endTracing()
	// Goroutines that are kept: the stack of a new one would have to grow for each request.
	if err := netpoll.Configure(netpoll.Config{Runner: gopool.CtxGo}); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	servers, err := dial(running, etcd, cfg.RequestTimeout, cfg.MaxInFlight, m)
	if err != nil {
		return err
	}
	registry.MustRegister(servers)
	parts := []*part{
		{name: "rpc-servers", needed: true, check: servers.reach, about: func() any { return servers.balancer.instances() }},
		{name: "etcd", check: servers.resolver.check, about: func() any { return map[string]float64{"resolve_age_seconds": servers.resolver.age().Seconds()} }},
	}
	for _, p := range parts {
		registry.MustRegister(p.up())
	}

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	clients := newConnections(cfg.MaxConnections, cfg.ReadTimeout, cfg.WriteTimeout, m.closed)
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "http_connections", Help: "Connections of clients that are open."},
		func() float64 { return float64(clients.count()) }))
	srv := newServer(listener, https, clients, cfg.IdleTimeout, cfg.DrainTimeout)
	if tracing {
		srv.Use(traceRequest)
	}
	srv.Use(leave(ctx))
	if https != nil {
		srv.Use(stayWithTLS)
	}
	gw := &gateway{
		rpc: servers, metrics: m, auth: auth, maxBody: cfg.MaxBodyBytes,
		buffers: &buffers{most: cfg.MaxBufferBytes, shed: m.shed},
	}
	if len(cfg.CORSOrigins) > 0 {
		gw.cors = allowOrigins(cfg.CORSOrigins)
	}
	gw.route(srv.Engine)
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

// maxHeaderBytes is how long the head of a request may be: room for a token and
// cookies.
const maxHeaderBytes = 32 << 10

// newServer is a Hertz server without routes, which speaks plain text where https is
// nil. A connection may be idle between requests for so long.
func newServer(listener net.Listener, https *tls.Config, clients *connections, idle, drain time.Duration) *server.Hertz {
	return server.New(
		hertzconfig.Option{F: func(o *hertzconfig.Options) { o.TLS, o.NoDefaultServerHeader = https, true }},
		server.WithListener(listener),
		server.WithTransport(clients.transport),
		server.WithReadTimeout(clients.readTimeout),
		server.WithIdleTimeout(idle),
		server.WithMaxHeaderBytes(maxHeaderBytes),
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
