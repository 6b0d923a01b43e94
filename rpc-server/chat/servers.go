package chat

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// servers are those that take writes: one Redis, which Sentinel may choose, or the
// masters of a Redis Cluster.
type servers interface {
	io.Closer
	// several reports whether there may be more than one.
	several() bool
	// master returns the one that has key.
	master(ctx context.Context, key string) (*redis.Client, error)
	// redirected returns the server to which a command for key goes that another one
	// answered with err; ok is false for an err that is final. Where asking, it must be
	// told ASKING before.
	redirected(ctx context.Context, key string, err error) (server *redis.Client, asking, ok bool)
	// each calls f with each of them, concurrently, and returns the first error.
	each(ctx context.Context, f func(context.Context, *redis.Client) error) error
}

// connect opens a client of the Redis that o leads to, whose round trips h measures.
func connect(o redis.UniversalOptions, h hook) (redis.UniversalClient, servers) {
	switch client := redis.NewUniversalClient(&o).(type) {
	case *redis.ClusterClient:
		client.OnNewNode(func(node *redis.Client) {
			node.AddHook(h)
			node.AddHook(hook(func(ctx context.Context, _ time.Time, _ []redis.Cmder, err error) {
				if err != nil && !isReply(err) { // another master may have taken over
					client.ReloadState(ctx)
				}
			}))
		})
		return client, &cluster{ClusterClient: client, options: o, hook: h, others: map[string]*redis.Client{}}
	default:
		client.AddHook(h)
		return client, single{client.(*redis.Client)}
	}
}

type single struct{ *redis.Client }

func (s single) several() bool { return false }

func (s single) master(context.Context, string) (*redis.Client, error) { return s.Client, nil }

func (s single) redirected(context.Context, string, error) (server *redis.Client, asking, ok bool) {
	return nil, false, false
}

func (s single) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	return f(ctx, s.Client)
}

type cluster struct {
	*redis.ClusterClient
	options redis.UniversalOptions
	hook    hook

	mu sync.Mutex
	// others are clients of servers that a redirection named, by address. go-redis has
	// some too, which it does not give away before they have slots.
	others map[string]*redis.Client
}

func (c *cluster) several() bool { return true }

func (c *cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.ClusterClient.Close()
	for _, client := range c.others {
		err = errors.Join(err, client.Close())
	}
	return err
}

func (c *cluster) master(ctx context.Context, key string) (*redis.Client, error) {
	return c.MasterForKey(ctx, key)
}

func (c *cluster) redirected(ctx context.Context, key string, err error) (server *redis.Client, asking, ok bool) {
	addr, moved := redis.IsMovedError(err)
	if moved {
		c.ReloadState(ctx)
	} else if addr, asking = redis.IsAskError(err); !asking {
		// A connection that broke says nothing of the master; one that takes too long does.
		if timeout := net.Error(nil); isReply(err) || errors.As(err, &timeout) && timeout.Timeout() {
			return nil, false, false
		}
		server, err = c.master(ctx, key)
		return server, false, err == nil
	}
	if colon := strings.LastIndexByte(addr, ':'); colon > 0 && addr[0] != '[' { // an IPv6 address comes without brackets
		addr = net.JoinHostPort(addr[:colon], addr[colon+1:])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.others[addr] == nil {
		o := c.options
		o.Addrs = []string{addr}
		c.others[addr] = redis.NewClient(o.Simple())
		c.others[addr].AddHook(c.hook)
	}
	return c.others[addr], asking, true
}

func (c *cluster) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	return c.ForEachMaster(ctx, f)
}

// isReply reports whether err is what a Redis answered.
func isReply(err error) bool {
	reply := redis.Error(nil)
	return errors.As(err, &reply)
}
