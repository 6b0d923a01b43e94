package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
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
	found, err := etcdClient(t, s).Get(t.Context(), "kitex/registry-etcd/demo.rpc.server/", clientv3.WithPrefix())
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

// etcdClient returns a client of the stack's etcd.
func etcdClient(t *testing.T, s *stack.Stack) *clientv3.Client {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Etcd.Addr}, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { etcd.Close() })
	return etcd
}

// entryOf returns the lease of the entry of an address in etcd, and the revision at which the
// entry came there; both are 0 where there is none.
func entryOf(t *testing.T, etcd *clientv3.Client, key string) (lease, created int64) {
	t.Helper()
	found, err := etcd.Get(t.Context(), key)
	require.NoError(t, err)
	if len(found.Kvs) == 0 {
		return 0, 0
	}
	return found.Kvs[0].Lease, found.Kvs[0].CreateRevision
}

// leaseOf returns the lease of the entry of an address; 0 is that of none.
func leaseOf(t *testing.T, etcd *clientv3.Client, key string) int64 {
	t.Helper()
	lease, _ := entryOf(t, etcd, key)
	return lease
}

// TestDiscovery_AnEtcdThatWasAwayForLongKeepsNobodyOut has etcd away until the servers have
// given up their leases, and come back with its data: it then keeps old entries for a while.
func TestDiscovery_AnEtcdThatWasAwayForLongKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	require.NoError(t, s.Etcd.Stop())
	eventually(t, func() bool { return stack.Ready(t.Context(), s.RPCServers[0].Admin) != nil }, "the lease is given up")
	eventually(t, func() bool { return stack.Ready(t.Context(), s.RPCServers[1].Admin) != nil }, "the lease is given up")
	require.NoError(t, s.Etcd.Start())
	require.NoError(t, s.Etcd.Wait(t.Context()))
	back := time.Now()
	for _, p := range s.RPCServers {
		require.NoError(t, p.Wait(t.Context()))
		t.Logf("%s is ready %s after etcd was back", p.Name, time.Since(back).Round(time.Millisecond))
		assert.Empty(t, logged(t, p, "another server has registered"), "its own old entry is no other server's")
	}
	assert.Len(t, registered(t, s), 2)
}

func TestDiscovery_AnEntryThatIsGoneIsPutBack(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	etcd, p := etcdClient(t, s), s.RPCServers[0]
	for what, take := range map[string]func() error{
		"deleted": func() error {
			_, err := etcd.Delete(t.Context(), keyOf(p))
			return err
		},
		"its lease revoked": func() error {
			_, err := etcd.Revoke(t.Context(), clientv3.LeaseID(leaseOf(t, etcd, keyOf(p))))
			return err
		},
	} {
		_, before := entryOf(t, etcd, keyOf(p))
		require.NoError(t, take(), what)
		gone := time.Now()
		eventually(t, func() bool { _, created := entryOf(t, etcd, keyOf(p)); return created > before }, what)
		t.Logf("%s: back after %s", what, time.Since(gone).Round(time.Millisecond))
		require.NoError(t, p.Wait(t.Context()))
	}
	// A gateway that starts now knows it.
	late := s.AddGateway()
	require.NoError(t, late.Start())
	require.NoError(t, late.Wait(t.Context()))
	before := refusals(t, p)
	eventually(t, func() bool { ask(t, "http://"+late.Addr); return refusals(t, p) > before }, "it serves")
}

// TestDiscovery_OfTwoServersWithOneAddressTheLastHasTheEntry has what a container that is
// replaced looks like while the old one still runs, and what is left of one that was killed.
func TestDiscovery_OfTwoServersWithOneAddressTheLastHasTheEntry(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers = 0; o.Gateways = 0 })
	etcd := etcdClient(t, s)
	first, second := s.AddRPCServer(), s.AddRPCServer()
	key := keyOf(first)
	second.Setenv("ADVERTISE=" + first.Addr)
	require.NoError(t, first.Start())
	require.NoError(t, first.Wait(t.Context()))
	firstLease := leaseOf(t, etcd, key)

	require.NoError(t, second.Start())
	require.NoError(t, second.Wait(t.Context()))
	secondLease := leaseOf(t, etcd, key)
	assert.NotEqual(t, firstLease, secondLease, "who starts last has the entry")
	eventually(t, func() bool { return stack.Ready(t.Context(), first.Admin) != nil }, "the other one is not ready")
	assert.ErrorContains(t, stack.Ready(t.Context(), first.Admin), "another server has registered the same address")
	assert.NoError(t, stack.Ready(t.Context(), second.Admin))

	require.NoError(t, second.Stop())
	require.NoError(t, first.Wait(t.Context()))
	assert.Equal(t, firstLease, leaseOf(t, etcd, key), "it puts its own once the other's is gone")

	require.NoError(t, second.Start())
	require.NoError(t, second.Wait(t.Context()))
	secondLease = leaseOf(t, etcd, key)
	require.NoError(t, first.Stop())
	assert.Equal(t, secondLease, leaseOf(t, etcd, key), "each ends its own lease alone")

	second.Kill()
	killed := time.Now()
	require.NoError(t, second.Start())
	require.NoError(t, second.Wait(t.Context()))
	assert.NotEqual(t, secondLease, leaseOf(t, etcd, key), "it need not wait for its old lease to end")
	t.Logf("ready %s after it was killed", time.Since(killed).Round(time.Millisecond))
	_, err := etcd.Revoke(t.Context(), clientv3.LeaseID(secondLease))
	require.NoError(t, err, "it was still there")
	assert.NotZero(t, leaseOf(t, etcd, key), "which takes the entry no more")
}

func TestDiscovery_AnyAddressOfRedisWillDo(t *testing.T) {
	t.Parallel()
	for _, topology := range []stack.Topology{stack.Sentinel, stack.Cluster} {
		t.Run(string(topology), func(t *testing.T) {
			t.Parallel()
			s := start(t, func(o *stack.Options) { o.RPCServers, o.Gateways, o.Topology = 0, 0, topology })
			of := s.Redis
			if topology == stack.Sentinel {
				of = s.Sentinels
			}
			rpcServer, gateway := s.AddRPCServer(), s.AddGateway()
			rpcServer.SetFlag("--redis-addrs=gone.invalid:6379,127.0.0.1:1," + of[1].Addr)
			require.NoError(t, rpcServer.Start())
			require.NoError(t, gateway.Start())
			require.NoError(t, rpcServer.Wait(t.Context()))
			require.NoError(t, gateway.Wait(t.Context()))
			chat, sender, _ := newChat(t)
			send(t, s.URL(), chat, "hello", sender)
			assert.Len(t, pullAll(t, s.URL(), chat), 1)
		})
	}
}

func TestDiscovery_AnyEndpointOfEtcdWillDo(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers = 0; o.Gateways = 0 })
	rpcServer, gateway := s.AddRPCServer(), s.AddGateway()
	for _, p := range []*stack.Process{rpcServer, gateway} {
		p.SetFlag("--etcd-endpoints=http://gone.invalid:2379,http://" + s.Etcd.Addr + "/")
	}
	_, port, err := net.SplitHostPort(rpcServer.Addr)
	require.NoError(t, err)
	rpcServer.SetFlag("--listen=:" + port) // so that its address must be found out
	require.NoError(t, rpcServer.Start())
	require.NoError(t, gateway.Start())
	require.NoError(t, rpcServer.Wait(t.Context()))
	require.NoError(t, gateway.Wait(t.Context()))
	assert.Equal(t, []string{keyOf(rpcServer)}, registered(t, s))
}

// TestDiscovery_AnRPCServerThatRedisRefusesCostsNoCall has two rpc-servers, one of which has a
// wrong password for Redis.
func TestDiscovery_AnRPCServerThatRedisRefusesCostsNoCall(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers, o.Gateways, o.Topology = 0, 0, stack.Single })
	control := redis.NewClient(&redis.Options{Addr: s.Redis[0].Addr})
	defer control.Close()
	password := func(value string) string {
		file := filepath.Join(t.TempDir(), "password")
		require.NoError(t, os.WriteFile(file, []byte(value), 0o600))
		return "REDIS_PASSWORD_FILE=" + file
	}
	require.NoError(t, control.ConfigSet(t.Context(), "requirepass", "right").Err())
	good, bad, gateway := s.AddRPCServer(), s.AddRPCServer(), s.AddGateway()
	good.Setenv(password("right"))
	bad.Setenv(password("wrong"))
	for _, p := range []*stack.Process{good, bad, gateway} {
		require.NoError(t, p.Start())
	}
	require.NoError(t, good.Wait(t.Context()))
	require.NoError(t, gateway.Wait(t.Context()))
	eventually(t, func() bool { return len(registered(t, s)) == 2 }, "both are registered")

	chat, sender, _ := newChat(t)
	sent := 0
	ejected := func() bool { return len(logged(t, gateway, "is ejected, since it refuses what others serve")) > 0 }
	eventually(t, func() bool {
		send(t, s.URL(), chat, "hello", sender)
		pull(t, s.URL(), chat, "")
		sent++
		return ejected()
	}, "it is ejected")
	refused := func() int { return len(logged(t, bad, `"msg":"unavailable"`)) }
	before, began := refused(), time.Now()
	for range 200 {
		send(t, s.URL(), chat, "hello", sender)
		sent++
	}
	assert.LessOrEqual(t, refused()-before, 3+2*int(time.Since(began).Seconds()), "it gets a call a second, to see whether it is well")
	assert.Len(t, pullAll(t, s.URL(), chat), sent)

	// A password that changes under running servers.
	require.NoError(t, control.Do(t.Context(), "AUTH", "right").Err())
	require.NoError(t, control.ConfigSet(t.Context(), "requirepass", "new").Err())
	require.NoError(t, control.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
	resp, err := client.Post(s.URL()+"/api/send", "", strings.NewReader(`{"chat":"`+chat+`","text":"hello","sender":"`+sender+`"}`))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.NoError(t, control.ConfigSet(t.Context(), "requirepass", "right").Err())
	require.NoError(t, good.Wait(t.Context()))
	send(t, s.URL(), chat, "hello", sender)
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
