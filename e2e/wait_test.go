package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// waiting is a client whose answers may be held back.
var waiting = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 2000}}

// waitFor pulls with a wait. The error is a broken connection, or an answer that is no page.
func waitFor(ctx context.Context, base, chat string, cursor int64, wait int) (p page, last bool, err error) {
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/api/pull?chat=%s&cursor=%d&wait=%d", base, url.QueryEscape(chat), cursor, wait), nil)
	if err != nil {
		return page{}, false, err
	}
	resp, err := waiting.Do(req)
	if err != nil {
		return page{}, false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	return p, resp.Close, err
}

// waiters is how many requests wait at a gateway.
func waiters(t *testing.T, gateway *stack.Process) int {
	return int(value(t, []*stack.Process{gateway}, "http_waiters"))
}

// twoByTwo starts two gateways and two rpc-servers, all of which hear of each other.
func twoByTwo(t *testing.T, settings ...string) *stack.Stack {
	t.Helper()
	s := start(t, func(o *stack.Options) {
		o.Gateways = 2
		o.Settings = append(o.Settings, settings...)
	})
	for _, g := range s.Gateways {
		listens(t, g, 2)
	}
	return s
}

// listens waits until a gateway has streams from n rpc-servers.
func listens(t *testing.T, gateway *stack.Process, n int) {
	t.Helper()
	eventually(t, func() bool { return int(value(t, []*stack.Process{gateway}, "rpc_client_streams")) == n }, "the gateway has no stream of each rpc-server")
}

// TestWait_NewsComesThroughTheOtherGateway sends by one gateway what is waited for at the
// other one.
func TestWait_NewsComesThroughTheOtherGateway(t *testing.T) {
	t.Parallel()
	s := twoByTwo(t)
	chat, sender, _ := newChat(t)
	const n = 100
	var mu sync.Mutex
	sent, delays := map[string]time.Time{}, []time.Duration{}
	got := make(chan []string, 1)
	go func() {
		var texts []string
		for cursor := int64(0); len(texts) < n; {
			p, _, err := waitFor(t.Context(), "http://"+s.Gateways[1].Addr, chat, cursor, 30)
			if !assert.NoError(t, err) {
				break
			}
			now := time.Now()
			cursor = p.NextCursor
			mu.Lock()
			for _, m := range p.Messages {
				texts = append(texts, m.Text)
				delays = append(delays, max(0, now.Sub(sent[m.Text])))
			}
			mu.Unlock()
		}
		got <- texts
	}()
	var want []string
	for i := range n {
		text := fmt.Sprint(i)
		mu.Lock()
		sent[text] = time.Now()
		mu.Unlock()
		send(t, "http://"+s.Gateways[0].Addr, chat, text, sender)
		want = append(want, text)
		time.Sleep(10 * time.Millisecond)
	}
	assert.Equal(t, want, <-got)
	slices.Sort(delays)
	t.Logf("from send to answer: p50 %s, p99 %s", delays[n/2], delays[n*99/100])
}

// TestWait_WhatNoHintTellsCostsSeconds stores a message past the rpc-servers, so that none of
// them tells of it.
func TestWait_WhatNoHintTellsCostsSeconds(t *testing.T) {
	t.Parallel()
	s := twoByTwo(t)
	chat, sender, _ := newChat(t)
	answers := make(chan page, 1)
	go func() {
		p, _, err := waitFor(t.Context(), s.URL(), chat, 0, 50)
		assert.NoError(t, err)
		answers <- p
	}()
	eventually(t, func() bool { return waiters(t, s.Gateways[0]) == 1 }, "nobody waits")
	began := time.Now()
	member := fmt.Sprintf(`{"id":"1","sender":"%s","text":"hello"}`, sender)
	require.NoError(t, s.RedisClient().ZAdd(t.Context(), "chat:"+strings.ToLower(chat), redis.Z{Score: float64(began.UnixMicro()), Member: member}).Err())
	assert.Len(t, (<-answers).Messages, 1)
	assert.Less(t, time.Since(began), 30*time.Second, "before the wait is over")
}

// TestWait_RPCServersComeAndGo has followers wait at both gateways, while one rpc-server is
// killed and started again, and the other frozen.
func TestWait_RPCServersComeAndGo(t *testing.T) {
	t.Parallel()
	s := twoByTwo(t)
	chat, sender, _ := newChat(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n, many = 40, 100
	var followers sync.WaitGroup
	var requests atomic.Int64
	for f := range many {
		followers.Go(func() {
			var texts []string
			for cursor := int64(0); len(texts) < n && ctx.Err() == nil; requests.Add(1) {
				p, _, err := waitFor(ctx, "http://"+s.Gateways[f%2].Addr, chat, cursor, 20)
				if err != nil {
					continue
				}
				assert.LessOrEqual(t, cursor, p.Total)
				cursor = p.NextCursor
				for _, m := range p.Messages {
					texts = append(texts, m.Text)
				}
			}
			for i, text := range texts {
				assert.Equal(t, fmt.Sprint(i), text)
			}
			assert.Len(t, texts, n, "a follower misses something")
		})
	}
	killed, frozen := s.RPCServers[0], s.RPCServers[1]
	for i := range n {
		switch i {
		case n / 4:
			killed.Kill()
		case n / 2:
			require.NoError(t, killed.Start())
			require.NoError(t, killed.Wait(ctx))
		case 3 * n / 4:
			require.NoError(t, frozen.Signal(syscall.SIGSTOP))
		}
		send(t, s.URL(), chat, fmt.Sprint(i), sender)
		time.Sleep(100 * time.Millisecond)
	}
	followers.Wait()
	require.NoError(t, frozen.Signal(syscall.SIGCONT))
	t.Logf("%d followers of %d messages made %d requests", many, n, requests.Load())
	assert.LessOrEqual(t, requests.Load(), int64(many*(n+1)), "they ask again and again")
}

// TestWait_GatewaysRestartUnderWaiters stops one gateway after the other, at each of which
// many wait.
func TestWait_GatewaysRestartUnderWaiters(t *testing.T) {
	t.Parallel()
	const n, leaveWait = 500, 3 * time.Second
	s := twoByTwo(t, "LEAVE_WAIT="+leaveWait.String())
	chat, sender, _ := newChat(t)
	for _, g := range s.Gateways {
		var all sync.WaitGroup
		var mu sync.Mutex
		var ended []time.Duration
		var stopped time.Time
		for range n {
			all.Go(func() {
				p, last, err := waitFor(t.Context(), "http://"+g.Addr, chat, 0, 50)
				if assert.NoError(t, err) {
					assert.Empty(t, p.Messages)
					assert.True(t, last)
				}
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, time.Since(stopped))
			})
		}
		eventually(t, func() bool { return waiters(t, g) == n }, "not all wait")
		mu.Lock()
		stopped = time.Now()
		mu.Unlock()
		require.NoError(t, g.Stop())
		assert.Zero(t, g.ExitCode())
		all.Wait()
		slices.Sort(ended)
		assert.Less(t, ended[n/4], ended[3*n/4]-leaveWait/4, "they come back all at a time")
		require.NoError(t, g.Start())
		require.NoError(t, g.Wait(t.Context()))
		listens(t, g, 2)
	}
	send(t, s.URL(), chat, "hello", sender)
	p, _, err := waitFor(t.Context(), s.URL(), chat, 0, 50)
	require.NoError(t, err)
	assert.Len(t, p.Messages, 1)
}

// TestWait_WhoLeavesTakesNothingAlong has many wait, who then close their connections.
func TestWait_WhoLeavesTakesNothingAlong(t *testing.T) {
	t.Parallel()
	s := twoByTwo(t)
	chat, _, _ := newChat(t)
	g := s.Gateways[0]
	before := value(t, []*stack.Process{g}, "http_connections")
	ctx, leave := context.WithCancel(t.Context())
	const n = 300
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { waitFor(ctx, s.URL(), fmt.Sprint(chat, i), 0, 50) })
	}
	eventually(t, func() bool { return waiters(t, g) == n }, "not all wait")
	leave()
	all.Wait()
	eventually(t, func() bool {
		return waiters(t, g) == 0 && value(t, []*stack.Process{g}, "http_connections") <= before+1
	}, "a waiter stays")
}
