package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

// static knows always the same rpc-servers.
type static []string

func (s static) Target(context.Context, rpcinfo.EndpointInfo) string { return service }

func (s static) Resolve(context.Context, string) (discovery.Result, error) {
	var known []discovery.Instance
	for _, address := range s {
		known = append(known, instance(address))
	}
	return discovery.Result{Cacheable: true, CacheKey: service, Instances: known}, nil
}

func (s static) Diff(key string, before, now discovery.Result) (discovery.Change, bool) {
	return discovery.DefaultDiff(key, before, now)
}

func (s static) Name() string { return "static" }

// TestClient_AFrozenOrDeadServerCostsNoCall has one rpc-server that works beside
// two that do not: one accepts connections and never says a word, at the other's
// address nobody listens.
func TestClient_AFrozenOrDeadServerCostsNoCall(t *testing.T) {
	frozen, dead := listen(t), listen(t)
	defer frozen.Close()
	require.NoError(t, dead.Close())
	b := newBackend()
	client, err := newClient(static{frozen.Addr().String(), dead.Addr().String(), serveRPC(t, b)}, newBalancer(), time.Second)
	require.NoError(t, err)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			for range 20 {
				_, err := client.Send(withBudget(t.Context(), 3*time.Second), &rpc.SendRequest{Message: &rpc.Message{}})
				assert.NoError(t, err)
			}
		})
	}
	calls.Wait()
	assert.Len(t, b.sends, 400)
}

// TestClient_DialsAgainWhereAConnectionIsDead has an rpc-server that is reached by a
// way which swallows all that the first connection says, and lets the next through.
func TestClient_DialsAgainWhereAConnectionIsDead(t *testing.T) {
	way, b, swallowed := listen(t), newBackend(), make(chan bool)
	defer way.Close()
	behind := serveRPC(t, b)
	go func() {
		for first := true; ; first = false {
			conn, err := way.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if first {
					close(swallowed)
					io.Copy(io.Discard, conn)
					return
				}
				server, err := net.Dial("tcp", behind)
				if err != nil {
					return
				}
				defer server.Close()
				go io.Copy(conn, server)
				io.Copy(server, conn)
			}()
		}
	}()
	servers := &rpcServers{balancer: newBalancer()}
	var err error
	servers.sends, err = newClient(static{way.Addr().String()}, servers.balancer, time.Second)
	require.NoError(t, err)
	servers.pulls, err = newClient(static{way.Addr().String()}, servers.balancer, time.Second)
	require.NoError(t, err)

	lost := make(chan error)
	go func() {
		_, err := servers.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{}})
		lost <- err
	}()
	<-swallowed
	for waiting := true; waiting; { // the connection that pulls have is well
		_, err := servers.Pull(t.Context(), &rpc.PullRequest{})
		require.NoError(t, err)
		select {
		case err := <-lost:
			require.ErrorIs(t, err, kerrors.ErrRPCTimeout, "three attempts")
			waiting = false
		case <-time.After(10 * time.Millisecond):
		}
		<-b.pulls
	}
	_, err = servers.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{}})
	require.NoError(t, err)
}

// TestClient_AnAttemptEndsWithTheBudget has an rpc-server that never answers.
func TestClient_AnAttemptEndsWithTheBudget(t *testing.T) {
	b := newBackend()
	b.hold = make(chan struct{})
	defer close(b.hold)
	client, err := newClient(static{serveRPC(t, b)}, newBalancer(), time.Hour)
	require.NoError(t, err)
	_, err = client.Send(withBudget(t.Context(), 100*time.Millisecond), &rpc.SendRequest{Message: &rpc.Message{}})
	require.ErrorIs(t, err, kerrors.ErrRPCTimeout)
}

// TestClient_WaitingForNoAnswerIsLate has calls of an rpc-server that never answers
// begin one after the other, so that connections close under some of them.
func TestClient_WaitingForNoAnswerIsLate(t *testing.T) {
	b := newBackend()
	b.hold = make(chan struct{})
	defer close(b.hold)
	client, err := newClient(static{serveRPC(t, b)}, newBalancer(), 100*time.Millisecond)
	require.NoError(t, err)
	late := make(chan error)
	for range 16 {
		go func() {
			_, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{}})
			late <- err
		}()
		time.Sleep(25 * time.Millisecond)
	}
	for range 16 {
		assert.ErrorIs(t, <-late, kerrors.ErrRPCTimeout)
	}
}

// serveRPC starts an rpc-server and gives its address.
func serveRPC(t *testing.T, b *backend) string {
	t.Helper()
	l := listen(t)
	srv := imservice.NewServer(b, server.WithListener(l), server.WithExitSignal(func() <-chan error { return nil }), server.WithExitWaitTime(time.Millisecond))
	go srv.Run()
	t.Cleanup(func() { srv.Stop() })
	return l.Addr().String()
}

// TestClient_AServerWithoutItsStoreCostsNoCall has one rpc-server that cannot
// reach Redis beside one that can.
func TestClient_AServerWithoutItsStoreCostsNoCall(t *testing.T) {
	cut, good := newBackend(), newBackend()
	cut.code.Store(int32(rpc.Code_UNAVAILABLE))
	client, err := newClient(static{serveRPC(t, cut), serveRPC(t, good)}, newBalancer(), 5*time.Second)
	require.NoError(t, err)
	for range 20 {
		sent, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{}})
		require.NoError(t, err)
		assert.Zero(t, sent.Code)
		pulled, err := client.Pull(t.Context(), &rpc.PullRequest{})
		require.NoError(t, err)
		assert.Zero(t, pulled.Code)
	}
	assert.NotEmpty(t, cut.sends)

	good.code.Store(int32(rpc.Code_UNAVAILABLE))
	asked := len(cut.sends) + len(good.sends)
	sent, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{}})
	require.NoError(t, err)
	assert.Equal(t, int32(rpc.Code_UNAVAILABLE), sent.Code)
	assert.Equal(t, asked+3, len(cut.sends)+len(good.sends), "three attempts, no more")
}

// slow is an etcd that answers when it is told to.
type slow struct {
	static
	answer chan error
}

func (s slow) Resolve(ctx context.Context, target string) (discovery.Result, error) {
	if err := <-s.answer; err != nil {
		return discovery.Result{}, err
	}
	return s.static.Resolve(ctx, target)
}

func TestResolver_TheFirstCallsWaitForEtcdsFirstAnswerAndNoOthers(t *testing.T) {
	etcd := slow{static{"127.0.0.1:1"}, make(chan error)}
	r := newResolver(func() (discovery.Resolver, error) { return etcd, nil })
	go r.watch(t.Context())
	early := make(chan error)
	go func() {
		_, err := r.Resolve(t.Context(), service)
		early <- err
	}()
	late, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Resolve(late, service)
	assert.Equal(t, errNoServer, err, "its time is over")

	etcd.answer <- errors.New("etcd is away")
	assert.Equal(t, errNoServer, <-early)
	_, err = r.Resolve(t.Context(), service)
	assert.Equal(t, errNoServer, err, "at once, while etcd is asked again")

	etcd.answer <- nil
	etcd.answer <- errors.New("etcd is away again") // asked again, so the answer before was taken
	known, err := r.Resolve(t.Context(), service)
	require.NoError(t, err)
	assert.Len(t, known.Instances, 1, "the last known is kept")
	close(etcd.answer)
}
