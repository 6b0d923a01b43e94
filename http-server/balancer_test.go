package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/rpcinfo/remoteinfo"
	"github.com/cloudwego/kitex/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

func instance(address string) discovery.Instance {
	return discovery.NewInstance("tcp", address, 10, nil)
}

// newCall is the context of a call whose attempt before went to tried; "" is none.
func newCall(tried string) context.Context {
	to := remoteinfo.NewRemoteInfo(&rpcinfo.EndpointBasicInfo{ServiceName: service}, "Send")
	if tried != "" {
		to.SetTag(rpcinfo.RetryPrevInstTag, tried)
	}
	return rpcinfo.NewCtxWithRPCInfo(context.Background(), rpcinfo.NewRPCInfo(nil, to.ImmutableView(), nil, nil, nil))
}

func TestBalancer_ChoosesTheInstancesInTurnButThoseTriedOrSetAside(t *testing.T) {
	const a, b, c = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
	for _, test := range []struct {
		name     string
		known    []string
		tried    string
		setAside []string
		want     []string // all that get calls
	}{
		{"none is known", nil, "", nil, nil},
		{"all in turn", []string{a, b, c}, "", nil, []string{a, b, c}},
		{"not the one just tried", []string{a, b, c}, b, nil, []string{a, c}},
		{"the one just tried, if it is the only one", []string{a}, a, nil, []string{a}},
		{"not the one set aside", []string{a, b, c}, "", []string{b}, []string{a, c}},
		{"one set aside rather than the one just tried", []string{a, b}, a, []string{b}, []string{b}},
		{"neither tried nor set aside", []string{a, b, c}, a, []string{b}, []string{c}},
		{"all in turn where all are set aside", []string{a, b}, "", []string{a, b}, []string{a, b}},
		{"not the one just tried where all are set aside", []string{a, b, c}, b, []string{a, b, c}, []string{a, c}},
	} {
		t.Run(test.name, func(t *testing.T) {
			balancer := new(balancer)
			for _, address := range test.setAside {
				for range patience {
					balancer.record(address).add(address, errors.New("timeout"))
				}
			}
			var known []discovery.Instance
			for _, address := range test.known {
				known = append(known, instance(address))
			}
			var got []string
			for range 6 {
				if i := balancer.GetPicker(discovery.Result{Instances: known}).Next(newCall(test.tried), nil); i != nil {
					got = append(got, i.Address().String())
				}
			}
			assert.Subset(t, test.want, got)
			assert.Subset(t, got, test.want)
		})
	}
}

func TestBalancer_TriesTheOneSetAsideByASingleCall(t *testing.T) {
	r := new(record)
	for range patience {
		assert.True(t, r.open())
		r.add("a", errors.New("timeout"))
	}
	assert.False(t, r.open(), "it is set aside")

	r.closed.Store(0) // its time is over
	assert.True(t, r.open(), "one may try")
	assert.False(t, r.open(), "the next may not")
	r.add("a", errors.New("timeout"))
	assert.False(t, r.open(), "it is set aside again")

	r.closed.Store(0)
	assert.True(t, r.open())
	r.add("a", nil)
	assert.True(t, r.open(), "it is back")
	assert.True(t, r.open())
}

func TestBalancer_ForgetsWhoIsGone(t *testing.T) {
	b := new(balancer)
	b.record("127.0.0.1:1")
	b.record("127.0.0.1:2")
	b.Rebalance(discovery.Change{Removed: []discovery.Instance{instance("127.0.0.1:1")}})
	var left []any
	b.records.Range(func(address, _ any) bool { left = append(left, address); return true })
	assert.Equal(t, []any{"127.0.0.1:2"}, left)
}

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
	client, err := newClient(static{frozen.Addr().String(), dead.Addr().String(), serveRPC(t, b)}, time.Second)
	require.NoError(t, err)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				_, err := client.Send(ctx, &rpc.SendRequest{Message: &rpc.Message{}})
				cancel()
				assert.NoError(t, err)
			}
		})
	}
	calls.Wait()
	assert.Len(t, b.sends, 400)
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
	client, err := newClient(static{serveRPC(t, cut), serveRPC(t, good)}, 5*time.Second)
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
