package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// malformed makes requests that are wrong in some way, as raw bytes.
type malformed struct{ *rand.Rand }

func (m malformed) pick(from ...string) string { return from[m.IntN(len(from))] }

func (m malformed) bytes(most int) string {
	b := make([]byte, m.IntN(most+1))
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return string(b)
}

// json is a JSON value of some kind, more or less.
func (m malformed) json(depth int) string {
	switch m.IntN(9) {
	case 0:
		return m.pick("null", "true", "false", "nul", "")
	case 1:
		return fmt.Sprint(m.Int64(), m.pick("", "", "e5", ".5", "999999999999"))
	case 2:
		return `"` + m.bytes(20) + `"`
	case 3:
		return strconv.Quote(m.bytes(20))
	case 4:
		return `"` + m.pick("jack:marcus", "jack", "\\ud800", ":", "a:b:c") + `"`
	case 5:
		return strings.Repeat("[", m.IntN(100))
	default:
		if depth > 3 {
			return "{}"
		}
		var members []string
		for range m.IntN(6) {
			members = append(members, fmt.Sprintf("%q:%s", m.pick("chat", "text", "sender", "cursor", "limit", "reverse", "total", "more"), m.json(depth+1)))
		}
		return "{" + strings.Join(members, ",") + m.pick("}", "}", "}", "", "}}")
	}
}

func (m malformed) query() string {
	var parameters []string
	for range m.IntN(6) {
		value := m.pick("jack:marcus", "-1", "1e3", "", "99999999999999999999", "true", "TRUE", "%zz", "%", "%ff", url.QueryEscape(m.bytes(10)))
		parameters = append(parameters, m.pick("chat", "cursor", "limit", "reverse", "total", "more", "%63hat")+m.pick("=", "=", "")+value)
	}
	return strings.Join(parameters, m.pick("&", "&", ";"))
}

func (m malformed) request() []byte {
	if m.IntN(20) == 0 {
		return []byte(m.bytes(100) + "\r\n\r\n")
	}
	var body string
	switch m.IntN(3) {
	case 0:
		body = m.bytes(200)
	case 1:
		body = m.json(0)
	case 2:
		body = m.pick("", strings.Repeat("x", 1<<20+1), `{"chat":"jack:marcus","text":"","sender":"jack"}`)
	}
	var b bytes.Buffer
	target := m.pick("/api/send", "/api/pull", "/api/send", "/api/pull", "/ping", "/", "/api//pull", "/api/%70ull", "/../api/send", "*", "http://im/api/pull") + m.pick("", "?"+m.query())
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: im\r\nConnection: close\r\n", m.pick("GET", "GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "get", "B\x00D"), target)
	for range m.IntN(4) {
		name := m.pick("Content-Type", "Accept", "Idempotency-Key", "X-Request-Id", "Expect", "X-"+strings.ToUpper(strconv.FormatUint(m.Uint64(), 36)))
		value := m.pick("application/json", "application/x-protobuf", "application/protobuf;q", "multipart/form-data", "a b", "100-continue", strings.Repeat("k", 200), strings.Map(printable, m.bytes(20)))
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if m.IntN(4) == 0 {
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%s\r\n%s\r\n0\r\n\r\n", m.pick(fmt.Sprintf("%x", len(body)), "zz", "-1", "ffffffffffffffffff"), body)
	} else {
		fmt.Fprintf(&b, "Content-Length: %s\r\n\r\n%s", m.pick(fmt.Sprint(len(body)), fmt.Sprint(len(body)), "-5", "x", "99999999999999999999"), body)
	}
	return b.Bytes()
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

// statusOf sends a raw request and gives the status; 0 means that the server
// closed the connection without one.
func statusOf(addr string, request []byte) (int, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go conn.Write(request) // fails where the server has refused already
	answers := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				return 0, err
			}
			return 0, nil
		}
		if resp.StatusCode != http.StatusContinue {
			return resp.StatusCode, nil
		}
		io.Copy(io.Discard, resp.Body)
	}
}

// residentAfterGC is a process's resident memory in bytes after a collection.
func residentAfterGC(t *testing.T, p *stack.Process) int {
	t.Helper()
	resp, err := client.Get("http://" + p.Admin + "/debug/pprof/heap?gc=1")
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return p.Memory()
}

// assertNoLeak repeats a storm, which was once already, until the memory of the servers
// stays as it is. What the first ones cost is no leak: the heap grows to what it needs
// at its busiest, and a busier storm may still add to it. A leak adds each time.
func assertNoLeak(t *testing.T, servers []*stack.Process, storm func(again int)) {
	t.Helper()
	memory := func() []int {
		resident := make([]int, len(servers))
		for i, p := range servers {
			resident[i] = residentAfterGC(t, p)
		}
		return resident
	}
	steady, before := false, memory()
	for again := 1; !steady && again <= 4; again++ {
		storm(again)
		steady = true
		after := memory()
		for i, p := range servers {
			t.Logf("%s: %d MiB before, %d MiB after", p.Name, before[i]>>20, after[i]>>20)
			steady = steady && float64(after[i]) <= 1.2*float64(before[i])
		}
		before = after
	}
	assert.True(t, steady, "the memory grows by each storm")
}

func TestMalformed_RequestsCostNothing(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("memory is read from /proc, which is not there")
	}
	const requests, clients = 10_000, 8
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	plain, err := stack.Build(t.Context(), "..", stack.Shipped, func(string) {})
	require.NoError(t, err)
	s := start(t, func(o *stack.Options) { o.Bin, o.Settings = plain, []string{"PPROF=true", "DRAIN_TIMEOUT=1s"} })
	servers := append(s.RPCServers, s.Gateways...)

	storm := func(seed uint64, requests int) map[int]int {
		var mu sync.Mutex
		statuses := map[int]int{}
		var storming sync.WaitGroup
		for c := range clients {
			storming.Go(func() {
				m := malformed{rand.New(rand.NewPCG(seed, uint64(c)))}
				for range requests / clients {
					request := m.request()
					status, err := statusOf(s.Gateways[0].Addr, request)
					assert.NoError(t, err, "%.300q", request)
					assert.Less(t, status, 500, "%.300q", request)
					mu.Lock()
					statuses[status]++
					mu.Unlock()
				}
			})
		}
		storming.Wait()
		return statuses
	}
	statuses := storm(seed, requests)
	lines := make([]int, len(servers))
	for i, p := range servers {
		lines[i] = len(logged(t, p, ""))
	}
	assertNoLeak(t, servers, func(again int) { storm(seed+uint64(again), requests) })
	for i, p := range servers {
		assert.Empty(t, logged(t, p, "")[lines[i]:], "%s: lines above debug", p.Name)
	}
	t.Logf("statuses: %v", statuses)
	assert.Greater(t, statuses[400], requests/4)

	chat, sender, _ := newChat(t)
	send(t, s.URL(), chat, "hello", sender)
	assert.Len(t, pullAll(t, s.URL(), chat), 1)
}
