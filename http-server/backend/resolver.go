package backend

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	registryetcd "github.com/kitex-contrib/registry-etcd"
	clientv3 "go.etcd.io/etcd/client/v3"

	"im/internal/etcd"
)

// refresh is the pause between two questions to etcd: what is known is at most twice that
// old.
const refresh = 500 * time.Millisecond

// Etcd returns what connects to an etcd, for Dial.
func Etcd(config clientv3.Config) func() (discovery.Resolver, error) {
	return func() (discovery.Resolver, error) {
		return registryetcd.NewEtcdResolver(nil, func(c *registryetcd.Config) { c.EtcdConfig = &config })
	}
}

// resolver tells a balancer which rpc-servers etcd names: while etcd is away, calls go on
// with those that it named last.
type resolver struct {
	balancer *balancer
	connect  func() (discovery.Resolver, error)
	etcd     discovery.Resolver        // what connect gave
	answered atomic.Pointer[time.Time] // when etcd named them last; at first, the start
	failure  atomic.Pointer[error]     // of the last attempt; nil is none
}

// newResolver returns a resolver that asks the one which connect returns, once it does.
func newResolver(b *balancer, connect func() (discovery.Resolver, error)) *resolver {
	r, now := &resolver{balancer: b, connect: connect}, time.Now()
	r.answered.Store(&now)
	return r
}

// check is nil while etcd names rpc-servers.
func (r *resolver) check(context.Context) error {
	if err := r.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// age is how long ago etcd named the rpc-servers that are known; it counts from
// the start where it never did.
func (r *resolver) age() time.Duration { return time.Since(*r.answered.Load()) }

// ask asks etcd. It connects to it first if it is not connected yet.
func (r *resolver) ask(ctx context.Context) (discovery.Result, error) {
	if r.etcd == nil {
		connected, err := r.connect()
		if err != nil {
			return discovery.Result{}, err
		}
		r.etcd = connected
	}
	ctx, cancel := context.WithTimeout(ctx, 2*refresh)
	defer cancel()
	return r.etcd.Resolve(ctx, etcd.Service)
}

// watch asks etcd again and again until ctx ends.
func (r *resolver) watch(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		found, err := r.ask(ctx)
		switch {
		case err == nil:
			now := time.Now()
			r.balancer.update(found.Instances)
			r.answered.Store(&now)
			if r.failure.Swap(nil) != nil {
				slog.Info("etcd names rpc-servers again")
			}
		case r.failure.Swap(&err) == nil && ctx.Err() == nil:
			slog.Warn("etcd names no rpc-server; going on with those known", "err", err)
		}
		if first && err != nil {
			r.balancer.update(nil)
		}
		select {
		case <-ctx.Done():
		case <-time.After(refresh):
		}
	}
}
