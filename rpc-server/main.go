// Command rpc-server keeps the messages: it serves idl_rpc.thrift over Kitex,
// stores in Redis and tells etcd where it is. It keeps nothing itself, so any
// number of them may run.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/server"
	"github.com/cloudwego/netpoll"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"im/rpc-server/chat"
	"im/rpc-server/kitex_gen/rpc/imservice"
)

// service is the name under which the gateways look for this server.
const service = "demo.rpc.server"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends, then leaves etcd, drains and returns.
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

	for _, risk := range cfg.insecure() {
		slog.Warn("insecure: " + risk)
	}

	redis, err := cfg.redis()
	if err != nil {
		return err
	}
	etcd, err := cfg.Etcd.config()
	if err != nil {
		return err
	}
	store := chat.Open(redis, cfg.RedisTimeout, cfg.RedisQueue, cfg.RedisReplicas)
	defer store.Close()
	go inspectRedis(ctx, store)

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	registry := prometheus.NewRegistry()
	m := newMetrics(registry, store.Collectors()...)
	tracing, endTracing, err := traceTo(ctx)
	if err != nil {
		return err
	}
	defer endTracing()
	// Goroutines that are kept: the stack of a new one would have to grow for each call.
	if err := netpoll.Configure(netpoll.Config{Runner: gopool.CtxGo}); err != nil {
		return err
	}
	srv := imservice.NewServer(
		&handler{store: store, maxText: cfg.MaxTextBytes, metrics: m, tracing: tracing, maxInFlight: int64(cfg.MaxInFlight)},
		server.WithListener(listener),
		server.WithServerBasicInfo(&rpcinfo.EndpointBasicInfo{ServiceName: service}),
		server.WithExitSignal(func() <-chan error { return nil }), // run stops it
		server.WithExitWaitTime(cfg.DrainTimeout),
	)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Stop()

	registration := register(etcd, cfg.Advertise, listener.Addr().(*net.TCPAddr))
	defer registration.leave(cfg.LeaveWait)

	parts := []*part{
		{name: "redis", needed: true, check: store.Ping},
		{name: "registration", needed: true, check: registration.check, about: func() any { return registration.held.Load() }},
		{name: "etcd", check: registration.look},
		durability(store),
	}
	for _, p := range parts {
		registry.MustRegister(p.up())
	}
	go func() {
		serving <- admin{cfg.AdminListen, cfg.Pprof, parts, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}.serve(ctx)
	}()

	slog.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-serving:
		return err
	case <-ctx.Done():
		slog.Info("stopping")
		return nil
	}
}

// inspectRedis waits until Redis answers, and then says which of its settings may
// lose messages.
func inspectRedis(ctx context.Context, store *chat.Store) {
	for store.Ping(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	settings, err := store.Durability(ctx)
	if err != nil {
		slog.Warn("redis does not show its settings: whether acknowledged messages are on disk is unknown", "err", err)
		return
	}
	for _, weak := range settings.Weak() {
		slog.Error("redis may lose acknowledged messages: " + weak)
	}
}

// durability is whether Redis keeps what it acknowledges.
func durability(store *chat.Store) *part {
	var last atomic.Pointer[chat.Durability]
	return &part{
		name: "durability",
		check: func(ctx context.Context) error {
			settings, err := store.Durability(ctx)
			if err != nil {
				return err
			}
			last.Store(&settings)
			if weak := settings.Weak(); len(weak) > 0 {
				return errors.New(strings.Join(weak, "; "))
			}
			return nil
		},
		about: func() any { return last.Load() },
	}
}
