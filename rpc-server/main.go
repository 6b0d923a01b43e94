// Command rpc-server keeps the messages: it serves idl_rpc.thrift over Kitex,
// stores in Redis and registers in etcd. It keeps nothing itself, so any
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
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/server"
	"github.com/cloudwego/netpoll"
	"github.com/redis/go-redis/v9"

	"im/internal/admin"
	"im/internal/etcd"
	"im/internal/gen/rpc/imservice"
	"im/internal/logging"
	"im/internal/tracing"
	"im/rpc-server/chat"
	"im/rpc-server/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends, then deregisters, drains and returns.
func run(ctx context.Context, args []string) error {
	logging.To(os.Stderr)
	redis.SetLogger(redisLines{})
	cfg, err := parseConfig(args)
	if err != nil {
		return err
	}
	if cfg.Command == "healthcheck" {
		return admin.Healthcheck(cfg.AdminListen)
	}
	cfg.Apply(cfg.insecure())

	redisOptions, err := cfg.redis()
	if err != nil {
		return err
	}
	etcdConfig, err := cfg.Etcd.Config()
	if err != nil {
		return err
	}
	store := chat.Open(redisOptions, cfg.RedisTimeout, cfg.RedisQueue, cfg.RedisReplicas)
	defer store.Close()
	if cfg.Command == "reindex" {
		return reindex(ctx, store)
	}

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	tracing, endTracing, err := tracing.Start(ctx, "im-rpc-server")
	if err != nil {
		return err
	}
	defer endTracing()
	// Goroutines that are kept: the stack of a new one would have to grow for each call.
	if err := netpoll.Configure(netpoll.Config{Runner: gopool.CtxGo}); err != nil {
		return err
	}
	m := newMetrics()
	listening, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	srv := imservice.NewServer(
		&handler{store: store, hints: newHints(listening), maxText: cfg.MaxTextBytes, metrics: m, tracing: tracing, maxInFlight: int64(cfg.MaxInFlight)},
		server.WithListener(listener),
		server.WithServerBasicInfo(&rpcinfo.EndpointBasicInfo{ServiceName: etcd.Service}),
		server.WithExitSignal(func() <-chan error { return nil }), // run stops it
		server.WithExitWaitTime(cfg.DrainTimeout),
	)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Stop()
	defer endStreams() // for which Stop would wait

	registration := registry.Register(etcdConfig, cfg.Advertise, listener.Addr().(*net.TCPAddr))
	defer registration.Deregister(cfg.LeaveWait)

	operators := admin.Server{
		Addr: cfg.AdminListen, Pprof: cfg.Pprof, Metrics: append(store.Collectors(), m.collectors()...),
		Checks: []*admin.Check{
			{Name: "redis", Required: true, Run: store.Ping},
			{Name: "registration", Required: true, Run: registration.Check, About: registration.About},
			{Name: "etcd", Run: registration.CheckEtcd},
			durability(store),
		},
	}
	go func() { serving <- operators.Serve(ctx) }()

	slog.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-serving:
		return err
	case <-ctx.Done():
		slog.Info("stopping")
		return nil
	}
}

// reindex puts every chat into the lists of its members.
func reindex(ctx context.Context, store *chat.Store) error {
	told, rooms := time.Now(), 0
	err := store.Reindex(ctx, func(all int) {
		if rooms = all; time.Since(told) > time.Second {
			told = time.Now()
			slog.Info("chats are put into lists", "chats", rooms)
		}
	})
	if err == nil {
		slog.Info("all chats are in the lists of their members", "chats", rooms)
	}
	return err
}

// redisLines takes the lines of go-redis, which tells of each connection that breaks; what
// comes of it is logged where it matters.
type redisLines struct{}

func (redisLines) Printf(ctx context.Context, format string, v ...any) {
	slog.DebugContext(ctx, "redis: "+fmt.Sprintf(format, v...))
}

// durability checks whether Redis keeps what it acknowledges. What may lose messages is
// logged when it changes.
func durability(store *chat.Store) *admin.Check {
	var last atomic.Pointer[chat.Durability]
	return &admin.Check{
		Name: "durability",
		Run: func(ctx context.Context) error {
			settings, err := store.Durability(ctx)
			if err != nil {
				return err
			}
			weak := settings.Weak()
			if before := last.Swap(&settings); before == nil || !slices.Equal(before.Weak(), weak) {
				for _, setting := range weak {
					slog.Error("redis may lose acknowledged messages: " + setting)
				}
			}
			if len(weak) > 0 {
				return errors.New(strings.Join(weak, "; "))
			}
			return nil
		},
		About: func() any { return last.Load() },
	}
}
