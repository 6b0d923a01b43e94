package backend

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
)

// listen returns a client that keeps streams open to rpc-servers.
func listen(t *testing.T, addresses ...string) *Client {
	t.Helper()
	c := dial(t, 3*time.Second, addresses...)
	go c.streams.keep(t.Context())
	return c
}

// heard waits until all rpc-servers have heard of all that is waited for, and takes the first
// thing that b was told.
func heard(t *testing.T, c *Client, b *backendtest.Server) {
	t.Helper()
	backendtest.Receive(t, b.Interests)
	backendtest.Eventually(t, func() bool {
		for _, address := range c.balancer.listeners() {
			if !c.waits.listensTo(address) {
				return false
			}
		}
		return true
	})
}

// hasNews reports whether there may be news for a waiter within d.
func hasNews(w *Waiter, d time.Duration) bool {
	select {
	case <-w.News():
		return true
	case <-time.After(d):
		return false
	}
}

const (
	briefly = 300 * time.Millisecond
	long    = 10 * time.Second
)

func TestWaits_AHintIsForItsRoomAndItsMembers(t *testing.T) {
	b := backendtest.New()
	c := listen(t, backendtest.Serve(t, b))
	heard(t, c, b)
	room, other := c.Wait(t.Context(), "Bob:alice"), c.Wait(t.Context(), "alice:carol")
	defer room.Close()
	defer other.Close()
	member, oneself := c.waits.add(t.Context(), "alice"), c.waits.add(t.Context(), "dave")
	defer member.Close()
	defer oneself.Close()

	b.Hints <- "alice:bob"
	assert.True(t, hasNews(room, long))
	assert.True(t, hasNews(member, long))
	assert.False(t, hasNews(other, briefly))
	stored, ok := room.Hint()
	assert.True(t, ok)
	assert.WithinDuration(t, time.Now(), stored, long)
	_, ok = room.Hint()
	assert.False(t, ok, "it was taken")
	b.Hints <- "dave:dave"
	assert.True(t, hasNews(oneself, long))
	assert.False(t, hasNews(oneself, briefly), "once")
}

// TestWaits_AnRPCServerHasHeardOfAWaiter counts what the rpc-servers were told when Wait
// returns.
func TestWaits_AnRPCServerHasHeardOfAWaiter(t *testing.T) {
	b := backendtest.New()
	c := listen(t, backendtest.Serve(t, b))
	heard(t, c, b)
	for range 20 {
		w := c.Wait(t.Context(), "alice:bob")
		w.Close()
	}
	require.Len(t, b.Interests, 1, "a name stays for a while after its last waiter")
	assert.Equal(t, []string{"alice:bob"}, backendtest.Receive(t, b.Interests).Added)

	w := c.Wait(t.Context(), "alice:carol")
	assert.Len(t, b.Interests, 1)
	c.waits.forget(time.Now().Add(time.Second))
	backendtest.Eventually(t, func() bool { return len(b.Interests) == 2 })
	assert.Equal(t, []string{"alice:carol"}, backendtest.Receive(t, b.Interests).Added)
	assert.Equal(t, []string{"alice:bob"}, backendtest.Receive(t, b.Interests).Removed, "not what is waited for")
	w.Close()
}

// TestStreams_ANewOneHasEverybodyLook ends the stream of an rpc-server, which starts again at
// the same address. In between, nobody listens there.
func TestStreams_ANewOneHasEverybodyLook(t *testing.T) {
	way, b := backendtest.Listen(t), backendtest.New()
	address := way.Addr().String()
	require.NoError(t, way.Close())
	c := listen(t, address)
	w := c.Wait(t.Context(), "alice:bob") // while it is dead
	defer w.Close()
	time.Sleep(2 * reopen)
	for range 2 {
		stop := serveAt(t, b, address)
		assert.True(t, hasNews(w, long))
		assert.Equal(t, []string{"alice:bob"}, backendtest.Receive(t, b.Interests).Added, "the whole")
		backendtest.Eventually(t, func() bool { return c.waits.listensTo(address) })
		stop()
		backendtest.Eventually(t, func() bool { return !c.waits.listensTo(address) })
	}
}

// serveAt serves b at an address until stop is called.
func serveAt(t *testing.T, b rpc.IMService, address string) (stop func()) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	var l net.Listener
	backendtest.Eventually(t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	srv := imservice.NewServer(&ending{b, ctx}, server.WithListener(l), server.WithExitSignal(func() <-chan error { return nil }), server.WithExitWaitTime(time.Millisecond))
	go srv.Run()
	return func() {
		end()
		srv.Stop()
	}
}

// ending is an rpc-server whose streams end with ctx.
type ending struct {
	rpc.IMService
	ctx context.Context
}

func (e *ending) Listen(ctx context.Context, stream rpc.IMService_ListenServer) error {
	ended := make(chan error, 1)
	go func() { ended <- e.IMService.Listen(ctx, stream) }()
	select {
	case err := <-ended:
		return err
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

// TestStreams_AMuteServerHoldsUpNobody has one that never says hello beside one that does.
func TestStreams_AMuteServerHoldsUpNobody(t *testing.T) {
	mute, b := backendtest.New(), backendtest.New()
	mute.Mute = true
	c := listen(t, backendtest.Serve(t, mute), backendtest.Serve(t, b))
	backendtest.Receive(t, b.Interests)
	time.Sleep(briefly)
	began := time.Now()
	c.Wait(t.Context(), "alice:bob").Close()
	assert.Less(t, time.Since(began), silence, "nobody waits for it")
	time.Sleep(silence + 2*reopen)
	opened := mute.Opened.Load()
	assert.Greater(t, opened, int64(1), "it is asked again")
	assert.Less(t, opened, int64(4), "now and then")
}

// TestStreams_ABrokenServerIsAskedNowAndThen has one that closes each connection at once.
func TestStreams_ABrokenServerIsAskedNowAndThen(t *testing.T) {
	l := backendtest.Listen(t)
	defer l.Close()
	var opened atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			opened.Add(1)
			conn.Close()
		}
	}()
	listen(t, l.Addr().String())
	time.Sleep(5 * reopen)
	assert.Greater(t, opened.Load(), int64(1), "it is asked again")
	assert.Less(t, opened.Load(), int64(12), "with a pause")
}

// TestStreams_AnOlderServerIsLeftAlone has one that says in etcd that it takes batches alone.
func TestStreams_AnOlderServerIsLeftAlone(t *testing.T) {
	older, b := backendtest.New(), backendtest.New()
	c := dial(t, time.Second)
	instance := discovery.NewInstance("tcp", backendtest.Serve(t, older), 10, map[string]string{rpc.TAG_BATCHES: "true"})
	c.balancer.update([]discovery.Instance{instance})
	go c.streams.keep(t.Context())
	_, err := c.waits.totals(t.Context(), []string{"alice:bob"})
	assert.ErrorIs(t, err, errNoTotals, "everybody looks then")

	c.balancer.update([]discovery.Instance{instance, backendtest.Instance(backendtest.Serve(t, b))})
	backendtest.Receive(t, b.Interests)
	b.Total.Store(7)
	for range 4 {
		totals, err := c.waits.totals(t.Context(), []string{"alice:bob"})
		require.NoError(t, err)
		assert.Equal(t, []int64{7}, totals)
	}
	assert.Zero(t, older.Opened.Load())
}

// TestWaits_TheTimerFindsWhatNoHintTold compares counts.
func TestWaits_TheTimerFindsWhatNoHintTold(t *testing.T) {
	c := dial(t, time.Second)
	saw, unknown := c.Wait(t.Context(), "alice:bob"), c.Wait(t.Context(), "alice:carol")
	defer saw.Close()
	defer unknown.Close()
	saw.Saw(3)
	unknown.Failed()
	assert.Equal(t, []string{"alice:carol"}, c.waits.takeUncounted(), "it is counted soon")
	c.waits.compare([]string{"alice:bob", "alice:carol", "nobody:waits"}, []int64{3, rpc.UNKNOWN_TOTAL, rpc.UNKNOWN_TOTAL})
	assert.False(t, hasNews(saw, briefly))
	assert.False(t, hasNews(unknown, briefly))
	assert.Equal(t, []string{"alice:carol"}, c.waits.takeUncounted(), "what cannot be counted is counted again soon")
	c.waits.compare([]string{"alice:bob", "alice:carol"}, []int64{4, 5})
	assert.True(t, hasNews(saw, briefly))
	assert.True(t, hasNews(unknown, briefly))
	saw.Saw(4)
	c.waits.compare([]string{"alice:bob"}, []int64{2})
	assert.True(t, hasNews(saw, briefly), "the chat went back")
}

// TestWaits_WhatCannotBeCountedCostsTheOthersNothing has one chat that is never counted.
func TestWaits_WhatCannotBeCountedCostsTheOthersNothing(t *testing.T) {
	asked := make(chan []string, 1000)
	w := newWaits(func(_ context.Context, rooms []string) ([]int64, error) {
		asked <- rooms
		return slices.Repeat([]int64{rpc.UNKNOWN_TOTAL}, len(rooms)), nil
	})
	broken, other := w.add(t.Context(), "alice:bob"), w.add(t.Context(), "alice:carol")
	defer broken.Close()
	defer other.Close()
	go w.check(t.Context())
	broken.Failed()
	for range 3 {
		assert.Equal(t, []string{"alice:bob"}, backendtest.Receive(t, asked))
	}
}

func TestWaits_KeepFewNamesThatNobodyWaitsFor(t *testing.T) {
	c := dial(t, time.Second)
	for n := range maxInterests + 1000 {
		c.Wait(t.Context(), fmt.Sprint("alice:", n)).Close()
	}
	assert.LessOrEqual(t, len(c.waits.interests), maxInterests+1)
	assert.Empty(t, c.waits.waiters)
	c.waits.forget(time.Now().Add(time.Second))
	assert.Empty(t, c.waits.interests)
}
