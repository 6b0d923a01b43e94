package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/circuitbreak"
	"github.com/cloudwego/kitex/pkg/connpool"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/loadbalance/lbcache"
	"github.com/cloudwego/kitex/pkg/retry"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/utils"
	etcd "github.com/kitex-contrib/registry-etcd"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

const (
	// service is the name under which the rpc-servers are in etcd.
	service = "demo.rpc.server"
	// refresh is how often etcd is asked for them, and how often the balancer
	// takes what was found: the view is at most twice that old.
	refresh = 500 * time.Millisecond
)

// dial makes the client that all requests share. It needs neither etcd nor an
// rpc-server yet.
func dial(ctx context.Context, etcdEndpoints []string, attemptTimeout time.Duration) (imservice.Client, error) {
	// Left alone, gRPC's back-off would grow to two minutes.
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	inner, err := etcd.NewEtcdResolver(etcdEndpoints, func(c *etcd.Config) {
		c.EtcdConfig.DialOptions = append(c.EtcdConfig.DialOptions, grpc.WithConnectParams(reconnect))
		c.EtcdConfig.Logger = zap.NewNop() // it repeats for ever what watch says once
	})
	if err != nil {
		return nil, fmt.Errorf("ETCD_ENDPOINTS: %w", err)
	}
	r := &resolver{Resolver: inner, asked: make(chan struct{})}
	go r.watch(ctx)
	return newClient(r, attemptTimeout)
}

// newClient calls the rpc-servers that r knows. Each attempt of a call gets
// attemptTimeout. A call that fails in transport, or at an rpc-server that is
// unavailable, is tried twice more, which is safe since every send has a key.
func newClient(r discovery.Resolver, attemptTimeout time.Duration) (imservice.Client, error) {
	b := new(balancer)
	again := retry.AllErrorRetry()
	again.RespRetryWithCtx = func(_ context.Context, resp any, _ rpcinfo.RPCInfo) bool {
		answer, ok := resp.(utils.KitexResult).GetResult().(answered)
		return ok && answer.GetCode() == int32(rpc.Code_UNAVAILABLE)
	}
	return imservice.NewClient(service,
		client.WithResolver(r),
		client.WithLoadBalancer(b, &lbcache.Options{RefreshInterval: refresh, ExpireInterval: time.Hour}),
		client.WithInstanceMW(b.observe),
		client.WithLongConnection(connpool.IdleConfig{MaxIdlePerAddress: 256, MaxIdleGlobal: 4096, MaxIdleTimeout: time.Minute}),
		client.WithConnectTimeout(attemptTimeout/2), // leaves time for another instance
		client.WithRPCTimeout(attemptTimeout),
		client.WithFailureRetry(retry.NewFailurePolicyWithResultRetry(again)),
		// A breaker that is told nothing stays closed. Kitex's own would give up
		// retries while most attempts fail, which is when they are needed: the
		// request's deadline, three attempts and the balancer are bounds enough.
		client.WithRetryContainer(retry.NewRetryContainer(retry.WithContainerCBSuite(circuitbreak.NewCBSuite(circuitbreak.RPCInfo2Key)))),
	)
}

// resolver gives the rpc-servers that etcd named last: while etcd is away, calls
// go on with them.
type resolver struct {
	discovery.Resolver               // asks etcd
	asked              chan struct{} // closed once it was, with whatever outcome
	known              atomic.Pointer[discovery.Result]
}

var errNoServer = errors.New("no rpc-server is known")

// Resolve answers at once, save to the first calls of a gateway that just began:
// they wait for etcd's first answer.
func (r *resolver) Resolve(ctx context.Context, _ string) (discovery.Result, error) {
	select {
	case <-r.asked:
	case <-ctx.Done():
	}
	if known := r.known.Load(); known != nil {
		return *known, nil
	}
	return discovery.Result{}, errNoServer
}

// Name differs from that of the resolver inside, so that their caches do too.
func (r *resolver) Name() string { return "etcd-last-known" }

// watch asks etcd again and again until ctx ends.
func (r *resolver) watch(ctx context.Context) {
	failing := false
	for first := true; ctx.Err() == nil; first = false {
		asking, cancel := context.WithTimeout(ctx, 2*refresh)
		found, err := r.Resolver.Resolve(asking, service)
		cancel()
		switch {
		case err == nil:
			r.known.Store(&found)
			if failing {
				slog.Info("etcd names rpc-servers again")
			}
		case !failing && ctx.Err() == nil:
			slog.Warn("etcd names no rpc-server; going on with those known", "err", err)
		}
		failing = err != nil
		if first {
			close(r.asked)
		}
		select {
		case <-ctx.Done():
		case <-time.After(refresh):
		}
	}
}

// reach asks whether an rpc-server answers: it wants a page of no chat, to which
// any Code is a sign of life.
func reach(ctx context.Context, client imservice.Client) error {
	_, err := client.Pull(ctx, &rpc.PullRequest{})
	return err
}
