package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/remote/trans/ttstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
	"im/internal/member"
)

// ear is a stream on which a gateway waits.
type ear struct {
	*testing.T
	ctx    context.Context
	stream imservice.IMService_ListenClient
}

// listenTo opens a stream, which the rpc-server greets.
func (r rig) listenTo(t *testing.T) *ear {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	e := r.open(t, ctx)
	assert.Empty(t, e.hear().Hints)
	return e
}

func (r rig) open(t *testing.T, ctx context.Context) *ear {
	t.Helper()
	gateway := newClient(t, r.address, client.WithTTHeaderStreamingOptions(client.WithTTHeaderStreamingTransportOptions(ttstream.WithClientShortConnPool())))
	stream, err := gateway.Listen(ctx)
	require.NoError(t, err)
	return &ear{T: t, ctx: ctx, stream: stream}
}

func (e *ear) hear() *rpc.Hints {
	e.Helper()
	h, err := e.stream.Recv(e.ctx)
	require.NoError(e, err)
	return h
}

// waitFor tells what is waited for, and returns when that is heard.
func (e *ear) waitFor(version int64, added, removed []string) {
	e.Helper()
	require.NoError(e, e.stream.Send(e.ctx, &rpc.Interest{Added: added, Removed: removed, Version: version}))
	for e.hear().Version < version {
	}
}

// rooms returns the rooms of the next n hints.
func (e *ear) rooms(n int) (rooms []string) {
	e.Helper()
	for len(rooms) < n {
		for _, h := range e.hear().Hints {
			rooms = append(rooms, h.Room)
			assert.WithinDuration(e, time.Now(), time.UnixMicro(h.Time), patience)
		}
	}
	return rooms
}

func TestHints_TellOfWhatIsWaitedFor(t *testing.T) {
	r := newRig(t)
	e, other := r.listenTo(t), r.listenTo(t)
	e.waitFor(1, []string{"ann:zoe", "bob"}, nil)
	other.waitFor(1, []string{"bob:zoe"}, nil)
	say := func(chat, sender string) { assert.Zero(t, r.send(t, chat, sender, "hello", nil).Code) }

	say("Zoe:Ann", "zoe")
	assert.Equal(t, []string{"ann:zoe"}, e.rooms(1), "the room")
	say("cid:zoe", "cid") // nobody waits for it
	say("bob:zoe", "bob")
	assert.Equal(t, []string{"bob:zoe"}, e.rooms(1), "a member")
	assert.Equal(t, []string{"bob:zoe"}, other.rooms(1))
	say("bob:bob", "bob")
	say("ann:zoe", "ann")
	assert.ElementsMatch(t, []string{"bob:bob", "ann:zoe"}, e.rooms(2), "once each")

	e.waitFor(2, []string{"cid:zoe"}, []string{"bob", "ann:zoe"})
	say("bob:zoe", "bob")
	say("ann:zoe", "ann")
	say("cid:zoe", "cid")
	assert.Equal(t, []string{"cid:zoe"}, e.rooms(1), "what was removed is not told")
}

func TestHints_TellNothingOfWhatIsNotStored(t *testing.T) {
	r := newRig(t)
	e := r.listenTo(t)
	e.waitFor(1, []string{"ann:zoe"}, nil)
	assert.NotZero(t, r.send(t, "ann:zoe", "bob", "hello", nil).Code)
	r.redis.SetError("OOM")
	assert.NotZero(t, r.send(t, "ann:zoe", "ann", "hello", nil).Code)
	r.redis.SetError("")
	assert.Zero(t, r.send(t, "ann:zoe", "ann", "hello", nil).Code)
	assert.Len(t, e.rooms(1), 1)
	assert.Empty(t, e.hear().Hints, "a heartbeat")
}

func TestHints_BeatWhileThereIsNothingToTell(t *testing.T) {
	r := newRig(t)
	e := r.listenTo(t)
	began := time.Now()
	for range 3 {
		assert.Empty(t, e.hear().Hints)
	}
	assert.InDelta(t, 3*heartbeat.Seconds(), time.Since(began).Seconds(), 1)
}

// TestHints_KeepNothingOfStreamsThatHaveEnded counts the names that are kept.
func TestHints_KeepNothingOfStreamsThatHaveEnded(t *testing.T) {
	r := newRig(t)
	ctx, leave := context.WithCancel(t.Context())
	for n := range 5 {
		e := r.open(t, ctx)
		e.waitFor(1, []string{fmt.Sprint("ann:", n), "ann"}, nil)
	}
	assert.EqualValues(t, 6, r.handler.hints.names.Load())
	leave()
	assert.Eventually(t, func() bool { return r.handler.hints.names.Load() == 0 }, patience, 10*time.Millisecond)
}

func TestTotals_CountEachChat(t *testing.T) {
	r := newRig(t)
	for range 3 {
		r.send(t, "ann:zoe", "ann", "hello", nil)
	}
	totals, err := r.Totals(t.Context(), []string{"ann:zoe", "Zoe:ann", "ann:none", "Ann", "nobody", "", "a:b:c"})
	require.NoError(t, err)
	assert.Equal(t, []int64{3, 3, 0, 3, 0, rpc.UNKNOWN_TOTAL, rpc.UNKNOWN_TOTAL}, totals)
	long := strings.Repeat("Ⱥ", member.MaxBytes/2)
	r.send(t, "ann:"+long, "ann", "hello", nil)
	totals, err = r.Totals(t.Context(), []string{member.Room("ann", long), member.Fold(long)})
	require.NoError(t, err)
	assert.Equal(t, []int64{1, 1}, totals, "folded, a name may be longer than one that is sent")
	totals, err = r.Totals(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, totals)
	r.redis.SetError("LOADING")
	totals, err = r.Totals(t.Context(), []string{"ann:zoe", "ann"})
	require.NoError(t, err)
	assert.Equal(t, []int64{rpc.UNKNOWN_TOTAL, rpc.UNKNOWN_TOTAL}, totals)
}
