package e2e

import (
	"encoding/json"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"im/e2e/stack"
)

// refusals counts the calls that an rpc-server logs: it names each that it
// refuses at debug level.
func refusals(t *testing.T, p *stack.Process) int { return len(logged(t, p, `"msg":"refused"`)) }

// ask makes a call that an rpc-server refuses.
func ask(t *testing.T, base string) {
	t.Helper()
	status, body, err := get(base, "chat=nobody")
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, status, "%s", body)
}

// registered lists the keys of the rpc-servers in etcd.
func registered(t *testing.T, s *stack.Stack) []string {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Etcd.Addr}, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer etcd.Close()
	found, err := etcd.Get(t.Context(), "kitex/registry-etcd/demo.rpc.server/", clientv3.WithPrefix())
	require.NoError(t, err)
	var keys []string
	for _, kv := range found.Kvs {
		keys = append(keys, string(kv.Key))
		var instance struct{ Network, Address string }
		require.NoError(t, json.Unmarshal(kv.Value, &instance))
		assert.Equal(t, "kitex/registry-etcd/demo.rpc.server/"+instance.Address, string(kv.Key))
	}
	return keys
}

func keyOf(p *stack.Process) string { return "kitex/registry-etcd/demo.rpc.server/" + p.Addr }

func TestDiscovery_CallsGoToEveryRPCServer(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	assert.ElementsMatch(t, []string{keyOf(s.RPCServers[0]), keyOf(s.RPCServers[1])}, registered(t, s))
	eventually(t, func() bool {
		ask(t, s.URL())
		return refusals(t, s.RPCServers[0]) > 50 && refusals(t, s.RPCServers[1]) > 50
	}, "both serve")

	third := s.AddRPCServer()
	require.NoError(t, third.Start())
	require.NoError(t, third.Wait(t.Context()))
	joined := time.Now()
	probes := refusals(t, third)
	eventually(t, func() bool { ask(t, s.URL()); return refusals(t, third) > probes }, "the third serves")
	t.Logf("the third served its first call %s after it was registered", time.Since(joined).Round(time.Millisecond))
	assert.Len(t, registered(t, s), 3)
}

func TestDiscovery_StoppingAnRPCServerFailsNoRequest(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	leaving, staying := s.RPCServers[0], s.RPCServers[1]
	chat, sender, _ := newChat(t)

	over := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				status, err := post(s.URL(), chat, "hello", sender)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, status)
				ask(t, s.URL())
			}
		})
	}
	eventually(t, func() bool { return refusals(t, leaving) > 20 && refusals(t, staying) > 20 }, "both serve")
	require.NoError(t, leaving.Signal(syscall.SIGTERM))
	eventually(t, func() bool { return len(logged(t, leaving, "left etcd")) == 1 }, "it leaves etcd")
	assert.Equal(t, []string{keyOf(staying)}, registered(t, s))
	<-leaving.Done()
	assert.Zero(t, leaving.ExitCode())
	close(over)
	load.Wait()

	// Until the gateway has noticed, a second at most, calls may still come.
	left := timeOf(t, logged(t, leaving, "left etcd")[0])
	calls := logged(t, leaving, `"msg":"refused"`)
	last := timeOf(t, calls[len(calls)-1])
	t.Logf("the last call came %s after it left, the process ended after that", last.Sub(left).Round(time.Millisecond))
	assert.Empty(t, logged(t, s.Gateways[0], "retry"), "no call had to be repeated")
}

// timeOf is when a line was logged.
func timeOf(t *testing.T, line string) time.Time {
	t.Helper()
	var l struct{ Time time.Time }
	require.NoError(t, json.Unmarshal([]byte(line), &l))
	return l.Time
}

func TestStart_ServersWaitForEtcdAndRedis(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers, o.Gateways = 0, 0 })
	require.NoError(t, s.Etcd.Stop())
	for _, p := range s.Redis {
		require.NoError(t, p.Stop())
	}

	rpcServer, gateway := s.AddRPCServer(), s.AddGateway()
	require.NoError(t, rpcServer.Start())
	require.NoError(t, gateway.Start())
	chat, sender, _ := newChat(t)
	eventually(t, func() bool {
		status, err := post(s.URL(), chat, "hello", sender)
		return err == nil && status == http.StatusServiceUnavailable
	}, "the gateway listens, and knows no rpc-server")
	eventually(t, func() bool { return len(logged(t, rpcServer, "redis is down")) > 0 }, "rpc-server says that it waits")
	assert.ErrorContains(t, stack.Ready(t.Context(), rpcServer.Admin), "not registered in etcd")
	assert.ErrorContains(t, stack.Ready(t.Context(), rpcServer.Admin), "redis is unavailable")
	assert.ErrorContains(t, stack.Ready(t.Context(), gateway.Admin), "not ready")

	require.NoError(t, s.Etcd.Start())
	require.NoError(t, gateway.Wait(t.Context()))
	status, err := post(s.URL(), chat, "hello", sender)
	require.NoError(t, err)
	assert.Equal(t, http.StatusServiceUnavailable, status, "without Redis an rpc-server stays registered and says that it cannot")

	for _, p := range s.Redis {
		require.NoError(t, p.Start())
	}
	require.NoError(t, rpcServer.Wait(t.Context()))
	eventually(t, func() bool { // a Redis Cluster answers before it serves
		status, err := post(s.URL(), chat, "hello", sender, "Idempotency-Key", "k")
		return err == nil && status == http.StatusOK
	}, "a message is sent")
	assert.Len(t, pullAll(t, s.URL(), chat), 1)
}
