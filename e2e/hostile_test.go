package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// startPlain starts a system as users have it: without the race detector, and with the
// defaults of all that clients are bounded by.
func startPlain(t *testing.T, settings ...string) *stack.Stack {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("memory is read from /proc, which is not there")
	}
	plain, err := stack.Build(t.Context(), "..", stack.Shipped, func(string) {})
	require.NoError(t, err)
	return start(t, func(o *stack.Options) {
		o.Topology, o.Bin, o.RPCServers = stack.Single, plain, 1
		o.Settings = append([]string{"DRAIN_TIMEOUT=1s", "PPROF=true"}, settings...)
	})
}

// container is how much memory the servers have where k8/ runs them, in bytes.
const container = 512 << 20

// rate sends a message and pulls it n times, one after the other, and gives how many
// pulls that were in a second: unlike sends, they wait for no disk.
func rate(t *testing.T, s *stack.Stack, n int) float64 {
	t.Helper()
	chat, sender, _ := newChat(t)
	send(t, s.URL(), chat, "hello", sender)
	began := time.Now()
	for range n {
		require.Len(t, pull(t, s.URL(), chat, "").Messages, 1)
	}
	return float64(n) / time.Since(began).Seconds()
}

// TestHostile_HalfRequestsTakeNothingFromOthers has a thousand clients that begin a
// request, half of them its head and half its body, and leave it at that.
func TestHostile_HalfRequestsTakeNothingFromOthers(t *testing.T) {
	t.Parallel()
	const many = 1000
	s := startPlain(t, "READ_TIMEOUT=12s", "MAX_IN_FLIGHT=100")
	gateway := s.Gateways[0]
	rate(t, s, 2000) // warms up
	before, resident := rate(t, s, 2000), residentAfterGC(t, gateway)

	head := "POST /api/send HTTP/1.1\r\nHost: im\r\nX-Padding: " + strings.Repeat("x", 4000)
	body := "POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: 300000\r\n\r\n{\"text\":\"" + strings.Repeat("x", 12_000) // Hertz reads the first 8 KiB itself
	conns := make([]net.Conn, many)
	for i := range conns {
		var err error
		conns[i], err = net.Dial("tcp", gateway.Addr)
		require.NoError(t, err)
		defer conns[i].Close()
		_, err = io.WriteString(conns[i], []string{head, body}[i%2])
		require.NoError(t, err)
	}
	eventually(t, func() bool { return metric(t, gateway, "http_connections ") >= many }, "all are connected")
	during, held := rate(t, s, 2000), residentAfterGC(t, gateway)-resident
	assert.Less(t, held, 128<<20, "bytes resident for them")

	eventually(t, func() bool { return metric(t, gateway, "http_connections ") < 100 }, "they are closed in the end")
	t.Logf("pulls/s one after the other: %.0f before, %.0f beside half-requests, %.0f after; %d KiB resident for each", before, during, rate(t, s, 2000), held/many>>10)
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, err := io.ReadAll(c)
		if i%2 == 1 {
			assert.NoError(t, err)
			assert.Contains(t, string(answer), "HTTP/1.1 408 ")
		}
	}
}

// metric is the value of a metric whose line begins so.
func metric(t *testing.T, p *stack.Process, begin string) (value float64) {
	t.Helper()
	resp, err := client.Get("http://" + p.Admin + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), begin); ok {
			_, err := fmt.Sscan(rest, &value)
			require.NoError(t, err)
			return value
		}
	}
	require.Fail(t, "no metric", begin)
	return 0
}

// TestHostile_LargePagesByManyTakeNoMoreThanThereIs has hundreds of clients ask for as
// large a page as there is at once, half of them without ever reading it.
func TestHostile_LargePagesByManyTakeNoMoreThanThereIs(t *testing.T) {
	const readers, deaf = 100, 200
	s := startPlain(t)
	chat, sender, _ := newChat(t)
	text := strings.Repeat("x", 65536)
	for range 64 {
		send(t, s.URL(), chat, text, sender)
	}
	query := "limit=1000&chat=" + url.QueryEscape(chat)

	var most [2]int // bytes resident of the gateway and of the rpc-server
	watching, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			for i, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
				most[i] = max(most[i], p.Memory())
			}
			select {
			case <-watching:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	for range deaf {
		c, err := net.Dial("tcp", s.Gateways[0].Addr)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096)) // else the kernel takes it all
		fmt.Fprintf(c, "GET /api/pull?%s HTTP/1.1\r\nHost: im\r\n\r\n", query)
	}
	rate(t, s, 100) // others are served
	large := func() bool {
		status, body, err := get(s.URL(), query)
		require.NoError(t, err)
		require.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
		return status == http.StatusOK && len(body) > 3<<20
	}
	eventually(t, large, "and another one gets his page, soon")
	served := 0
	for range 10 {
		if large() {
			served++
		}
	}
	assert.Greater(t, served, 5, "and those that follow, while the deaf are still there") // a busy machine may be late with some

	var statuses sync.Map
	var reading sync.WaitGroup
	for range readers {
		reading.Go(func() {
			status, _, err := get(s.URL(), query)
			if assert.NoError(t, err) {
				n, _ := statuses.LoadOrStore(status, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
		})
	}
	reading.Wait()
	close(watching)
	<-watched
	statuses.Range(func(status, n any) bool {
		t.Logf("%d: %d", status, n.(*atomic.Int64).Load())
		assert.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
		return true
	})
	t.Logf("at most %d MiB of the gateway, %d MiB of the rpc-server", most[0]>>20, most[1]>>20)
	assert.Less(t, most[0], container, "the gateway")
	assert.Less(t, most[1], container, "the rpc-server")
	eventually(t, large, "the room is free again")
}

// TestHostile_FloodsOfNamesLeaveNothingBehind makes requests that each have a path, a
// method, a chat, a key and an id of their own.
func TestHostile_FloodsOfNamesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	const requests, clients = 10_000, 8
	s := startPlain(t)
	gateway, rpcServer := s.Gateways[0], s.RPCServers[0]
	flood := func(round int) {
		var flooding sync.WaitGroup
		for c := range clients {
			flooding.Go(func() {
				for i := range requests / clients {
					name := fmt.Sprintf("%d-%d-%d", round, c, i)
					req, err := http.NewRequest("GET", s.URL()+"/api/pull?chat=a:"+name+"&"+name+"=x", nil)
					if i%2 == 0 {
						req, err = http.NewRequest("X"+name, s.URL()+"/"+name, nil)
					}
					if !assert.NoError(t, err) {
						return
					}
					req.Header.Set("X-Request-Id", name)
					req.Header.Set("Idempotency-Key", name)
					req.Header.Set("X-"+name, name)
					resp, err := client.Do(req)
					if assert.NoError(t, err) {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}
			})
		}
		flooding.Wait()
	}
	series := func(p *stack.Process) int {
		resp, err := client.Get("http://" + p.Admin + "/metrics")
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return strings.Count(string(text), "\n")
	}
	flood(0)
	lines := []int{series(gateway), series(rpcServer)}
	assertNoLeak(t, []*stack.Process{gateway, rpcServer}, flood)
	assert.Equal(t, lines, []int{series(gateway), series(rpcServer)}, "lines of metrics")
}
