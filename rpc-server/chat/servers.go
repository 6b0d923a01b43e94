package chat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrFewReplicas is why an append is not acknowledged whose message fewer replicas
// have than are waited for. It is stored; whoever sends it again waits again.
var ErrFewReplicas = errors.New("too few replicas have the message")

// waiting is how many messages may wait for replicas of one master at a time: each holds
// a connection. With 64 there are 1.8 times the messages a second that there are with
// go-redis's ten for each core, on two, and hardly fewer than with 128.
const waiting = 64

// maxRedirects is how often a command follows a chat that moves between the masters
// of a Redis Cluster.
const maxRedirects = 3

// servers are those that take writes: one Redis, which Sentinel may choose, or the
// masters of a Redis Cluster.
type servers interface {
	// master is the one that has key.
	master(ctx context.Context, key string) (*redis.Client, error)
	// at is the one with an address that a MOVED or ASK named.
	at(ctx context.Context, addr string) (*redis.Client, error)
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
		return client, cluster{client}
	default:
		client.AddHook(h)
		return client, single{client.(*redis.Client)}
	}
}

type single struct{ *redis.Client }

func (s single) master(context.Context, string) (*redis.Client, error) { return s.Client, nil }
func (s single) at(context.Context, string) (*redis.Client, error)     { return s.Client, nil }
func (s single) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	return f(ctx, s.Client)
}

type cluster struct{ *redis.ClusterClient }

func (c cluster) master(ctx context.Context, key string) (*redis.Client, error) {
	return c.MasterForKey(ctx, key)
}

func (c cluster) at(ctx context.Context, addr string) (*redis.Client, error) {
	found := make(chan *redis.Client, 1) // addresses differ: one is found at most
	err := c.ForEachMaster(ctx, func(_ context.Context, server *redis.Client) error {
		if server.Options().Addr == addr {
			found <- server
		}
		return nil
	})
	select {
	case server := <-found:
		return server, nil
	default:
		return nil, errors.Join(fmt.Errorf("no master at %s yet", addr), err)
	}
}

func (c cluster) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
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
	replicas int
	patience time.Duration // of the wait; after it the connection can be used again
}

// Process runs cmd, a script with one key. The error is cmd's, or wraps ErrFewReplicas.
func (r replicated) Process(ctx context.Context, cmd redis.Cmder) error {
	server, err := r.master(ctx, cmd.Args()[3].(string))
	asking := false
	for redirects := 0; ; redirects++ {
		if err != nil {
			return err
		}
		pipe := server.Pipeline()
		if asking {
			pipe.Do(ctx, "asking")
		}
		pipe.Process(ctx, cmd)
		waited := redis.NewIntCmd(ctx, "wait", r.replicas, r.patience.Milliseconds())
		pipe.Process(ctx, waited)
		pipe.Exec(ctx) // each command has its error

		addr, moved := redis.IsMovedError(cmd.Err())
		if !moved {
			addr, asking = redis.IsAskError(cmd.Err())
		}
		switch {
		case (moved || asking) && redirects < maxRedirects:
			server, err = r.at(ctx, addr)
		case cmd.Err() != nil:
			return cmd.Err()
		case waited.Err() != nil:
			return waited.Err()
		case waited.Val() < int64(r.replicas):
			return fmt.Errorf("%w: %d of %d", ErrFewReplicas, waited.Val(), r.replicas)
		default:
			return nil
		}
	}
}
