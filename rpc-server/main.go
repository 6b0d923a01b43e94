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
	"syscall"
	"time"

	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/server"

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

	store, err := chat.Open(cfg.redis(), cfg.RedisTimeout, cfg.RedisQueue)
	if err != nil {
		return err
	}
	defer store.Close()
	go watchRedis(ctx, store)

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	srv := imservice.NewServer(&handler{store: store, maxText: cfg.MaxTextBytes},
		server.WithListener(listener),
		server.WithMiddleware(limit(cfg.MaxInFlight)),
		server.WithServerBasicInfo(&rpcinfo.EndpointBasicInfo{ServiceName: service}),
		server.WithExitSignal(func() <-chan error { return nil }), // run stops it
		server.WithExitWaitTime(cfg.DrainTimeout),
	)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Stop()

	registration, err := register(cfg.EtcdEndpoints, cfg.Advertise, listener.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}
	defer registration.leave(cfg.LeaveWait)

	go func() {
		serving <- serveAdmin(cfg.AdminListen, cfg.Pprof, func(ctx context.Context) error {
			return errors.Join(registration.check(), store.Ping(ctx))
		})
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

// watchRedis waits until Redis answers, telling that it waits, and then says
// which of its settings may lose messages.
func watchRedis(ctx context.Context, store *chat.Store) {
	for {
		err := store.Ping(ctx)
		if err == nil {
			break
		}
		slog.Warn("waiting for redis", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	undurable, err := store.Undurable(ctx)
	if err != nil {
		slog.Warn("redis does not show its settings: whether acknowledged messages are on disk is unknown", "err", err)
	}
	for _, setting := range undurable {
		slog.Error("redis may lose acknowledged messages: " + setting)
	}
}
