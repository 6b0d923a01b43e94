package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
	"im/http-server/edge"
	"im/internal/gen/rpc"
)

// chatOf is an rpc-server with one chat, jack:marcus.
type chatOf struct {
	*backendtest.Server
	count   atomic.Int64
	gateway *Gateway             // that asks it
	hints   prometheus.Collector // counts those that the gateway has heard
	// before is called before a pull reads, after when it has read; nil is not.
	before, after func()
}

func newChatOf() *chatOf { return &chatOf{Server: backendtest.New()} }

func (s *chatOf) Pull(_ context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	s.Pulls <- req
	if s.before != nil {
		s.before()
	}
	if code := s.Code.Load(); code != 0 {
		return &rpc.PullResponse{Code: code, Msg: "reason"}, nil
	}
	total := s.count.Load()
	resp := &rpc.PullResponse{Messages: []*rpc.Message{}, HasMore: new(false), NextCursor: new(max(total, req.Cursor)), Total: &total}
	for n := req.Cursor; n < total; n++ {
		resp.Messages = append(resp.Messages, &rpc.Message{Chat: req.Chat, Text: fmt.Sprint(n), Sender: "jack"})
	}
	if s.after != nil {
		s.after()
	}
	return resp, nil
}

func (s *chatOf) PullMany(ctx context.Context, reqs []*rpc.PullRequest) ([]*rpc.PullResponse, error) {
	return backendtest.Each(ctx, reqs, s.Pull)
}

func (s *chatOf) Totals(_ context.Context, chats []string) ([]int64, error) {
	totals := make([]int64, len(chats))
	for i := range totals {
		totals[i] = s.count.Load()
	}
	return totals, nil
}

// store adds a message, and returns once the gateway has heard the hint of it.
func (s *chatOf) store() {
	before := testutil.ToFloat64(s.hints)
	s.count.Add(1)
	s.Hints <- "jack:marcus"
	for end := time.Now().Add(soon); testutil.ToFloat64(s.hints) == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// waitAt returns the base URL of a gateway that asks s, whose stream is open.
func waitAt(t *testing.T, s *chatOf, change func(*bounds)) string {
	t.Helper()
	return waitAtServer(t, s, s, change)
}

// waitAtServer is waitAt where what answers is more than s.
func waitAtServer(t *testing.T, s *chatOf, server rpc.IMService, change func(*bounds)) string {
	t.Helper()
	b := wide()
	if change != nil {
		change(&b)
	}
	client := dial(t, 3*time.Second, backendtest.Serve(t, server))
	backendtest.Eventually(t, func() bool {
		about, err := json.Marshal(client.Checks()[0].About())
		return err == nil && strings.Contains(string(about), `"hints":true`)
	})
	s.hints, b.made = client.Collectors()[0], func(g *Gateway) { s.gateway = g }
	return serveBounded(t, client, b)
}

// pullWait pulls from a position, and returns the answer and how long it took.
func pullWait(t *testing.T, base string, cursor, wait int, headers ...string) (*http.Response, string, time.Duration) {
	t.Helper()
	began := time.Now()
	resp, body := call(t, "GET", fmt.Sprintf("%s/api/pull?chat=Marcus:jack&cursor=%d&wait=%d", base, cursor, wait), "", headers...)
	return resp, string(body), time.Since(began)
}

const (
	empty = `{"messages":[],"has_more":false,"next_cursor":1,"total":1}`
	// soon is far below what the timer takes, and far above what a hint does.
	soon = 5 * time.Second
)

// waits has n requests wait at a gateway, and returns a channel of their answers.
func (s *chatOf) waits(t *testing.T, base string, n int, headers ...string) <-chan *http.Response {
	t.Helper()
	answers := make(chan *http.Response, n)
	for range n {
		go func() {
			resp, _, _ := pullWait(t, base, 1, 30, headers...)
			answers <- resp
		}()
	}
	s.waitUntil(t, n)
	backendtest.Drained(s.Pulls) // the first looks
	return answers
}

// waitUntil waits until n requests wait at the gateway.
func (s *chatOf) waitUntil(t *testing.T, n int) {
	t.Helper()
	backendtest.Eventually(t, func() bool { return testutil.ToFloat64(s.gateway.metrics.waiters) == float64(n) })
}

// dialRaw opens a connection to a gateway; tcp is what is below TLS.
func dialRaw(t *testing.T, base string) (conn net.Conn, tcp *net.TCPConn) {
	t.Helper()
	scheme, address, _ := strings.Cut(base, "://")
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	tcp = conn.(*net.TCPConn)
	if scheme == "https" {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, secure.Handshake())
		conn = secure
	}
	return conn, tcp
}

func TestWait_AnswersAtOnceWhereThereIsNews(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(3)
	base := waitAt(t, s, nil)
	for cursor, want := range map[int]string{
		1: `"next_cursor":3,"total":3}`,
		5: `{"messages":[],"has_more":false,"next_cursor":5,"total":3}`, // the chat went back
	} {
		resp, body, took := pullWait(t, base, cursor, 30)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Contains(t, body, want)
		assert.Less(t, took, soon)
	}
}

func TestWait_AnswersEmptyWhenItIsOver(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	base := waitAt(t, s, nil)
	resp, body, took := pullWait(t, base, 1, 1)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, empty, body)
	assert.GreaterOrEqual(t, took, time.Second)
	assert.Len(t, s.Pulls, 2, "one look at first, one at last")
}

// TestWait_MissesNothing stores a message at each moment of a wait, with a hint at once, as
// whoever stores it gives.
func TestWait_MissesNothing(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(s *chatOf, once func()){
		"between registering and the look": func(s *chatOf, once func()) { s.before = once },
		"between the look and the wait":    func(s *chatOf, once func()) { s.after = once },
		"while it waits": func(s *chatOf, once func()) {
			s.after = func() { time.AfterFunc(200*time.Millisecond, once) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newChatOf()
			s.count.Store(1)
			var stored atomic.Bool
			when(s, func() {
				if stored.CompareAndSwap(false, true) {
					s.store()
				}
			})
			base := waitAt(t, s, nil)
			_, body, took := pullWait(t, base, 1, 30)
			assert.Contains(t, body, `"next_cursor":2`)
			assert.Less(t, took, soon)
		})
	}
}

func TestWait_HearsOfItsOwnRoomAlone(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	base := waitAt(t, s, nil)
	answers := s.waits(t, base, 1)
	s.Hints <- "jack:bob"
	s.Hints <- "jack" // no room
	time.Sleep(300 * time.Millisecond)
	assert.Empty(t, s.Pulls, "nobody looks")
	s.store()
	assert.Equal(t, 200, backendtest.Receive(t, answers).StatusCode)
}

func TestWait_WaitsOutWhatFailsLater(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	base := waitAt(t, s, nil)
	s.Code.Store(503)
	resp, _, took := pullWait(t, base, 1, 30)
	assert.Equal(t, 503, resp.StatusCode, "the first look fails")
	assert.Less(t, took, soon)
	s.Code.Store(0)
	backendtest.Drained(s.Pulls)

	answers := s.waits(t, base, 1)
	s.Code.Store(503)
	s.store()
	for range 3 {
		backendtest.Receive(t, s.Pulls) // the look for the hint, with its retries
	}
	s.Code.Store(0)
	assert.Equal(t, 200, backendtest.Receive(t, answers).StatusCode)

	s.count.Store(1)
	s.Code.Store(0)
	over := make(chan *http.Response)
	go func() {
		resp, _, _ := pullWait(t, base, 1, 2)
		over <- resp
	}()
	s.waitUntil(t, 1)
	s.Code.Store(503)
	assert.Equal(t, 503, backendtest.Receive(t, over).StatusCode, "the last look decides")
}

func TestWait_IsRefusedWhereTooManyDo(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	base := waitAt(t, s, func(b *bounds) { b.waiters = 2 })
	answers := s.waits(t, base, 2)
	resp, _, took := pullWait(t, base, 1, 30)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	assert.Less(t, took, soon)
	resp, _ = call(t, "GET", base+"/api/pull?chat=jack:marcus&cursor=1", "")
	assert.Equal(t, 200, resp.StatusCode, "without a wait")
	s.store()
	assert.Equal(t, 200, backendtest.Receive(t, answers).StatusCode)
	assert.Equal(t, 200, backendtest.Receive(t, answers).StatusCode)
	backendtest.Drained(s.Pulls)
	resp, _, _ = pullWait(t, base, int(s.count.Load()), 1)
	assert.Equal(t, 200, resp.StatusCode, "there is room again")
}

const waiting = "GET /api/pull?chat=jack:marcus&cursor=1&wait=30 HTTP/1.1\r\nHost: im\r\n\r\n"

func TestWait_FreesThePlaceOfAClientThatLeaves(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(net.Conn, *net.TCPConn) error{
		"closed":      func(_ net.Conn, tcp *net.TCPConn) error { return tcp.Close() },
		"half-closed": func(_ net.Conn, tcp *net.TCPConn) error { return tcp.CloseWrite() },
		"closed behind another request": func(conn net.Conn, tcp *net.TCPConn) error {
			_, err := io.WriteString(conn, waiting)
			return errors.Join(err, tcp.CloseWrite())
		},
		"sends more and more": func(conn net.Conn, _ *net.TCPConn) error {
			go func() {
				for text := make([]byte, 64<<10); ; {
					if _, err := conn.Write(text); err != nil {
						return
					}
				}
			}()
			return nil
		},
	} {
		for _, https := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/https=%t", name, https), func(t *testing.T) {
				t.Parallel()
				s := newChatOf()
				s.count.Store(1)
				var conns *edge.Connections
				base := waitAt(t, s, func(b *bounds) {
					b.waiters, conns = 1, b.connections
					if https {
						b.https = both()["TLS"]
					}
				})
				conn, tcp := dialRaw(t, base)
				io.WriteString(conn, waiting)
				s.waitUntil(t, 1)
				require.NoError(t, leave(conn, tcp))
				backendtest.Eventually(t, func() bool { return testutil.ToFloat64(conns.Collectors()[1]) == 0 })
				answers := make(chan int, 1)
				go func() {
					other, _ := dialRaw(t, base)
					io.WriteString(other, waiting)
					resp, err := http.ReadResponse(bufio.NewReader(other), nil)
					if assert.NoError(t, err) {
						answers <- resp.StatusCode
					}
				}()
				s.waitUntil(t, 1)
				s.store()
				assert.Equal(t, 200, backendtest.Receive(t, answers))
			})
		}
	}
}

// TestWait_OthersAreFoundToBeEvicted has nearly all connections wait, so that the few that may
// be evicted are hard to find.
func TestWait_OthersAreFoundToBeEvicted(t *testing.T) {
	t.Parallel()
	const n, others = 200, 5
	s := newChatOf()
	s.count.Store(1)
	base := waitAt(t, s, func(b *bounds) { b.connections = edge.NewConnections(n, time.Minute, time.Minute) })
	for waiters := range n - others {
		conn, _ := dialRaw(t, base)
		io.WriteString(conn, waiting)
		if waiters%20 == 0 { // all their first looks at a time are too many
			s.waitUntil(t, waiters+1)
		}
	}
	s.waitUntil(t, n-others)
	for range 3 * others {
		conn, _ := dialRaw(t, base)
		fmt.Fprint(conn, "GET /ping HTTP/1.1\r\nHost: im\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		time.Sleep(300 * time.Millisecond) // so that the oldest may be evicted
	}
}

// TestWait_OutlastsTheBoundsOfConnections has a connection wait for longer than a request may
// take to arrive, and than one may be idle, while others want its place.
func TestWait_OutlastsTheBoundsOfConnections(t *testing.T) {
	t.Parallel()
	for _, https := range []bool{false, true} {
		t.Run(fmt.Sprintf("https=%t", https), func(t *testing.T) {
			t.Parallel()
			s := newChatOf()
			s.count.Store(1)
			base := waitAt(t, s, func(b *bounds) {
				b.connections, b.idle = edge.NewConnections(1, 300*time.Millisecond, time.Minute), 300*time.Millisecond
				if https {
					b.https = both()["TLS"]
				}
			})
			time.Sleep(time.Second) // until nobody else is connected
			conn, _ := dialRaw(t, base)
			reader := bufio.NewReader(conn)
			for range 2 { // it is an ordinary connection again between
				fmt.Fprintf(conn, "GET /api/pull?chat=jack:marcus&cursor=%d&wait=30 HTTP/1.1\r\nHost: im\r\n\r\n", s.count.Load())
				s.waitUntil(t, 1)
				for range 4 {
					dialRaw(t, strings.Replace(base, "https:", "http:", 1)) // and says nothing
					time.Sleep(600 * time.Millisecond)                      // so that it may be evicted
				}
				s.store()
				resp, err := http.ReadResponse(reader, nil)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Contains(t, string(body), `"messages":[{`)
			}
		})
	}
}

func TestWait_EndsWhileTheServerStops(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	stopping, stop := context.WithCancel(t.Context())
	const leaveWait = 2 * time.Second
	base := waitAt(t, s, func(b *bounds) { b.stopping, b.leaveWait = stopping, leaveWait })
	answers := s.waits(t, base, 20)
	began := time.Now()
	stop()
	first := backendtest.Receive(t, answers)
	assert.True(t, first.Close)
	assert.Less(t, time.Since(began), leaveWait/2, "they leave one after the other")
	resp, body, took := pullWait(t, base, 1, 30)
	assert.Equal(t, empty, body)
	assert.True(t, resp.Close, "one that comes meanwhile")
	assert.InDelta(t, leaveWait.Seconds(), time.Since(began).Seconds(), 0.5)
	assert.Less(t, took, leaveWait)
	for range 19 {
		resp := backendtest.Receive(t, answers)
		assert.Equal(t, 200, resp.StatusCode)
		assert.True(t, resp.Close)
	}
	assert.Less(t, time.Since(began), leaveWait+time.Second)
}

func TestWait_EndsWithTheToken(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	s.count.Store(1)
	a, err := NewAuth(secret, nil, "", "", 500*time.Millisecond)
	require.NoError(t, err)
	base := waitAt(t, s, func(b *bounds) { b.auth = a })
	ends := time.Now().Add(2 * time.Second)
	token := bearer(t, jwt.SigningMethodHS256, secret, func(c jwt.MapClaims) { c["exp"] = ends.Unix() })
	resp, body, took := pullWait(t, base, 1, 30, "Authorization", token)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, empty, body)
	assert.Less(t, took, soon)
	assert.WithinDuration(t, time.Unix(ends.Unix(), 0).Add(500*time.Millisecond), time.Now(), time.Second)
}

func TestWait_IsCheckedBeforeAnybodyIsAsked(t *testing.T) {
	t.Parallel()
	s := newChatOf()
	base := waitAt(t, s, nil)
	for query, detail := range map[string]string{
		"wait=-1":              "wait: must not be negative",
		"wait=1&reverse=true":  "wait: must not be given with reverse",
		"wait=-1&reverse=true": "wait: must not be negative",
		"wait=":                "wait: must be an integer of 32 bits",
		"wait=1.5":             "wait: must be an integer of 32 bits",
		"wait=true":            "wait: must be an integer of 32 bits",
		"wait=2147483648":      "wait: must be an integer of 32 bits",
		"wait=1&wait=1":        "wait: is given more than once",
	} {
		resp, body := call(t, "GET", base+"/api/pull?chat=jack:marcus&"+query, "")
		assert.Equal(t, 400, resp.StatusCode, query)
		assert.Equal(t, detail, problemIn(t, resp, body).Detail)
	}
	for _, body := range []string{`{"chat":"jack:marcus","wait":-1}`, `{"chat":"jack:marcus","wait":1,"reverse":true}`, `{"chat":"jack:marcus","wait":"1"}`} {
		resp, answer := call(t, "GET", base+"/api/pull", body)
		assert.Equal(t, 400, resp.StatusCode, body)
		assert.True(t, strings.HasPrefix(problemIn(t, resp, answer).Detail, "wait: "), body)
	}
	resp, _ := call(t, "HEAD", base+"/api/pull?chat=jack:marcus&wait=30", "")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Empty(t, s.Pulls)
}

// TestWait_AnyInterleavingGivesEachMessageOnce has followers of a chat while messages are
// stored at random moments, with hints, some of which are lost, come late or twice.
func TestWait_AnyInterleavingGivesEachMessageOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			const n = 15
			s := newChatOf()
			random := rand.New(rand.NewPCG(seed, 0))
			base := waitAt(t, s, nil)
			var followers sync.WaitGroup
			for range 3 {
				wait := 1 + random.IntN(2)
				followers.Go(func() {
					var texts []string
					for cursor := 0; len(texts) < n; cursor = len(texts) {
						_, body, took := pullWait(t, base, cursor, wait)
						var page struct {
							Messages []struct {
								Text string `json:"text"`
							} `json:"messages"`
						}
						if !assert.NoError(t, json.Unmarshal([]byte(body), &page)) {
							return
						}
						for _, m := range page.Messages {
							texts = append(texts, m.Text)
						}
						assert.True(t, len(page.Messages) > 0 || took > time.Duration(wait)*time.Second/2, "empty, and too soon")
					}
					for i, text := range texts {
						assert.Equal(t, fmt.Sprint(i), text)
					}
				})
			}
			for range n {
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				hints := random.IntN(3)
				if hints == 0 || random.IntN(2) == 0 {
					s.count.Add(1)
				} else { // the hint before the message, as one of an earlier message may be
					s.Hints <- "jack:marcus"
					s.count.Add(1)
				}
				for range hints {
					s.Hints <- "jack:marcus"
				}
			}
			followers.Wait()
		})
	}
}
