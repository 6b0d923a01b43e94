package chat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// waiting is how many messages wait for replicas of one master at a time: each holds a
// connection. On two cores 64 of them carry 1.8 times the messages of 20, and hardly
// fewer than 128.
const waiting = 64

// maxRedirects is how often a message follows a chat that moves between the masters of a
// Redis Cluster.
const maxRedirects = 3

var (
	// errFewReplicas is why a message is not acknowledged that too few replicas have. It
	// is stored; whoever sends it again waits again.
	errFewReplicas = errors.New("too few replicas have the message")
	errQueueFull   = errors.New("as many messages as may wait for replicas do")
)

// servers are those that take writes: one Redis, which Sentinel may choose, or the
// masters of a Redis Cluster.
type servers interface {
	io.Closer
	// master is the one that has key.
	master(ctx context.Context, key string) (*redis.Client, error)
	// redirected is the one that a reply of another names as having the key; ok is false
	// for a reply that names none. Where asking, it has to be told that it is asked.
	redirected(ctx context.Context, reply error) (server *redis.Client, asking, ok bool)
	// each calls f with each of them, concurrently, and gives the first error.
	each(ctx context.Context, f func(context.Context, *redis.Client) error) error
}

// connect opens a client of the Redis that o leads to, whose round trips h measures.
func connect(o redis.UniversalOptions, h hook) (redis.UniversalClient, servers) {
	switch client := redis.NewUniversalClient(&o).(type) {
	case *redis.ClusterClient:
		client.OnNewNode(func(node *redis.Client) {
			node.AddHook(h)
			node.AddHook(reload{client})
		})
		return client, &cluster{ClusterClient: client, options: o, hook: h, others: map[string]*redis.Client{}}
	default:
		client.AddHook(h)
		return client, single{client.(*redis.Client)}
	}
}

type single struct{ *redis.Client }

func (s single) master(context.Context, string) (*redis.Client, error) { return s.Client, nil }

func (s single) redirected(context.Context, error) (server *redis.Client, asking, ok bool) {
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

func (c *cluster) redirected(ctx context.Context, reply error) (server *redis.Client, asking, ok bool) {
	addr, moved := redis.IsMovedError(reply)
	if moved {
		c.ReloadState(ctx)
	} else if addr, asking = redis.IsAskError(reply); !asking {
		return nil, false, false
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

// reload has the client learn anew which master has what, when one does not answer:
// another may have taken over.
type reload struct{ cluster *redis.ClusterClient }

func (r reload) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r reload) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return r.after(ctx, next(ctx, cmd)) }
}

func (r reload) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return r.after(ctx, next(ctx, cmds)) }
}

func (r reload) after(ctx context.Context, err error) error {
	if reply := redis.Error(nil); err != nil && !errors.As(err, &reply) {
		r.cluster.ReloadState(ctx)
	}
	return err
}

// replicated runs scripts, each on a connection of its own, where it then waits until
// replicas have what the script wrote.
type replicated struct {
	servers
	hook     hook
	replicas int
	patience time.Duration // of the wait; after it the connection can be used again
	queue    chan struct{} // of those that wait
}

// Len is how many wait.
func (r replicated) Len() int { return len(r.queue) }

// Process runs a script with one key, as eval makes it. The error is the script's or
// wraps errFewReplicas.
func (r replicated) Process(ctx context.Context, script redis.Cmder) error {
	select {
	case r.queue <- struct{}{}:
		defer func() { <-r.queue }()
	default:
		return errQueueFull
	}
	server, err := r.master(ctx, script.Args()[3].(string))
	if err != nil {
		return err
	}
	asking := false
	for range maxRedirects + 1 {
		pipe := server.Pipeline()
		if asking {
			pipe.Do(ctx, "asking")
		}
		pipe.Process(ctx, script)
		waited := redis.NewIntCmd(ctx, "wait", r.replicas, max(1, r.patience.Milliseconds()))
		pipe.Process(ctx, waited)
		if _, err = pipe.Exec(ctx); err == nil {
			if waited.Val() < int64(r.replicas) {
				r.hook.failures.WithLabelValues(r.hook.client).Inc()
				return fmt.Errorf("%w: %d of %d", errFewReplicas, waited.Val(), r.replicas)
			}
			return nil
		}
		var redirected bool
		if server, asking, redirected = r.redirected(ctx, script.Err()); !redirected {
			return err
		}
	}
	return err
}
