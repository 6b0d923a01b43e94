package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/server"
	"github.com/cloudwego/kitex/transport"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/internal/etcd"
	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
	"im/rpc-server/chat"
)

const (
	// maxText is the most bytes of a text in these tests.
	maxText = 100
	// maxInFlight is how many calls the servers under test serve at a time.
	maxInFlight = 20
	// patience is how long they wait for what has to happen.
	patience = 30 * time.Second
)

// rig is a handler behind a real connection, and the Redis that it stores in.
//
// Its tests do not run in parallel: netpoll, when a server stops, closes the file
// descriptor of its listener several times, and by then it may be another's.
type rig struct {
	imservice.Client
	address string
	handler *handler
	redis   *miniredis.Miniredis
}

func newRig(t testing.TB) rig {
	t.Helper()
	h, standIn := newHandler(t)
	address := listen(t, h)
	r := rig{newClient(t, address), address, h, standIn}
	r.pull(t, newChat()) // serves now: Kitex cannot stop a server that has not begun
	return r
}

// connect serves h and gives a client of it.
func connect(t testing.TB, h *handler) imservice.Client {
	t.Helper()
	return newClient(t, listen(t, h))
}

// newClient calls the server at address.
func newClient(t testing.TB, address string, more ...client.Option) imservice.Client {
	t.Helper()
	c, err := imservice.NewClient(etcd.Service, append(more,
		client.WithHostPorts(address),
		client.WithConnectTimeout(patience),
		client.WithRPCTimeout(patience),
	)...)
	require.NoError(t, err)
	return c
}

// listen serves h and gives the address.
func listen(t testing.TB, h *handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	exit := make(chan error)
	srv := imservice.NewServer(h,
		server.WithListener(listener),
		server.WithExitSignal(func() <-chan error { return exit }),
		server.WithExitWaitTime(time.Second), // for streams, which end with the test
	)
	ended := make(chan error, 1)
	go func() { ended <- srv.Run() }()
	t.Cleanup(func() {
		close(exit)
		assert.NoError(t, <-ended)
	})
	return listener.Addr().String()
}

// newHandler is a handler that no connection leads to.
func newHandler(t testing.TB) (*handler, *miniredis.Miniredis) {
	t.Helper()
	server := miniredis.RunT(t)
	store := chat.Open(redis.UniversalOptions{Addrs: []string{server.Addr()}}, patience, 1000, 0)
	t.Cleanup(func() { store.Close() }) // is an error if the test closed it
	return &handler{store: store, hints: newHints(t.Context()), maxText: maxText, metrics: newMetrics(), maxInFlight: maxInFlight}, server
}

// send sends over the connection.
func (r rig) send(t testing.TB, chat, sender, text string, key *string) *rpc.SendResponse {
	t.Helper()
	resp, err := r.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Sender: sender, Text: text}, Key: key})
	require.NoError(t, err)
	return resp
}

// pull pulls the first messages over the connection.
func (r rig) pull(t testing.TB, chat string) *rpc.PullResponse {
	t.Helper()
	resp, err := r.Pull(t.Context(), &rpc.PullRequest{Chat: chat})
	require.NoError(t, err)
	return resp
}

// newChat is a chat of ann's that no other test has.
func newChat() string { return "ann:zoe-" + strings.ToLower(rand.Text()) }

func TestHandler_PullShowsWhatWasSent(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	r.redis.SetTime(time.UnixMicro(1763990000_999_999))
	require.Equal(t, &rpc.SendResponse{}, r.send(t, chat, "ann", "<hello>\n", nil))
	require.Equal(t, &rpc.SendResponse{}, r.send(t, chat, "ANN", "world 🙂", nil))

	asked := strings.ToUpper(chat)
	assert.Equal(t, &rpc.PullResponse{
		Messages: []*rpc.Message{
			{Chat: asked, Sender: "ann", Text: "<hello>\n", SendTime: 1763990000},
			{Chat: asked, Sender: "ANN", Text: "world 🙂", SendTime: 1763990001}, // a microsecond later
		},
		HasMore:    new(false),
		NextCursor: new(int64(2)),
		Total:      new(int64(2)),
	}, r.pull(t, asked))
}

func TestHandler_PullPassesOnAllThatIsAsked(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	for _, text := range []string{"0", "1", "2", "3", "4", "5"} {
		r.send(t, chat, "ann", text, nil)
	}
	tests := map[string]struct {
		req        rpc.PullRequest
		texts      string
		hasMore    bool
		nextCursor int64
		total      int64
	}{
		"forward":              {rpc.PullRequest{Cursor: 1, Limit: 2}, "12", true, 3, 6},
		"to the end":           {rpc.PullRequest{Cursor: 4, Limit: 2}, "45", false, 6, 6},
		"not reverse":          {rpc.PullRequest{Limit: 2, Reverse: new(false), Total: new(int64(3))}, "01", true, 2, 6},
		"reverse":              {rpc.PullRequest{Cursor: 1, Limit: 2, Reverse: new(true)}, "43", true, 3, 6},
		"reverse with a total": {rpc.PullRequest{Cursor: 1, Limit: 2, Reverse: new(true), Total: new(int64(3))}, "10", false, 3, 3},
		"above the end":        {rpc.PullRequest{Cursor: 7}, "", false, 7, 6},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.req.Chat = chat
			resp, err := r.Pull(t.Context(), &test.req)
			require.NoError(t, err)
			texts := ""
			for _, m := range resp.Messages {
				texts += m.Text
			}
			assert.Equal(t, test.texts, texts)
			assert.Equal(t, &test.hasMore, resp.HasMore)
			assert.Equal(t, &test.nextCursor, resp.NextCursor)
			assert.Equal(t, &test.total, resp.Total)
		})
	}
}

func TestHandler_PullOfAnEmptyChatSaysSo(t *testing.T) {
	assert.Equal(t, &rpc.PullResponse{
		Messages:   []*rpc.Message{},
		HasMore:    new(false),
		NextCursor: new(int64(0)),
		Total:      new(int64(0)),
	}, newRig(t).pull(t, newChat()))
}

func TestHandler_WithoutKeyEachSendIsAMessage(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	for range 2 {
		require.Zero(t, r.send(t, chat, "ann", "hello", nil).Code)
	}
	assert.Len(t, r.pull(t, chat).Messages, 2)
}

func TestHandler_TheSameKeyIsOneMessage(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	for range 2 {
		require.Zero(t, r.send(t, chat, "ann", "hello", new("k")).Code)
	}
	assert.Len(t, r.pull(t, chat).Messages, 1)
}

func TestSend_TellsTheRuleThatIsBroken(t *testing.T) {
	r := newRig(t)
	tests := map[string]struct {
		chat, sender, text string
		key                *string
		msg                string
	}{
		"no chat":          {"", "ann", "hello", nil, `chat: is required, as "<member1>:<member2>"`},
		"no pair":          {"ann", "ann", "hello", nil, `chat: must be two names with one colon between them, as in "jack:marcus", not "ann"`},
		"foreign sender":   {"ann:zoe", "bob", "hello", nil, `sender: "bob" is not a member of the chat "ann:zoe"`},
		"no text":          {"ann:zoe", "ann", "", nil, "text: is required"},
		"long text":        {"ann:zoe", "ann", strings.Repeat("a", maxText+1), nil, "text: has 101 bytes, at most 100 are allowed"},
		"text is no UTF-8": {"ann:zoe", "ann", "\xff", nil, "text: is not valid UTF-8"},
		"empty key":        {"ann:zoe", "ann", "hello", new(""), "Idempotency-Key: must be 1 to 128 visible ASCII characters"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resp := r.send(t, test.chat, test.sender, test.text, test.key)
			assert.Equal(t, &rpc.SendResponse{Code: int32(rpc.Code_INVALID), Msg: test.msg}, resp)
		})
	}
	t.Cleanup(func() { assert.Empty(t, r.redis.Keys(), "nothing of it may reach Redis") })
}

func TestSend_TakesATextOfTheMostBytes(t *testing.T) {
	assert.Equal(t, &rpc.SendResponse{}, newRig(t).send(t, newChat(), "ann", strings.Repeat("a", maxText), nil))
}

func TestPull_TellsTheRuleThatIsBroken(t *testing.T) {
	r := newRig(t)
	tests := map[string]struct {
		req rpc.PullRequest
		msg string
	}{
		"no chat":         {rpc.PullRequest{}, `chat: is required, as "<member1>:<member2>"`},
		"negative cursor": {rpc.PullRequest{Chat: "ann:zoe", Cursor: -1}, "cursor: must not be negative, but is -1"},
		"negative limit":  {rpc.PullRequest{Chat: "ann:zoe", Limit: -1}, "limit: must not be negative, but is -1"},
		"negative total":  {rpc.PullRequest{Chat: "ann:zoe", Total: new(int64(-1))}, "total: must not be negative, but is -1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resp, err := r.Pull(t.Context(), &test.req)
			require.NoError(t, err)
			assert.Equal(t, &rpc.PullResponse{Code: int32(rpc.Code_INVALID), Msg: test.msg}, resp)
		})
	}
}

// A client built from an IDL with other field ids sends a request that arrives
// as nil.
func TestHandler_ARequestThatDoesNotArriveIsInvalid(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	for _, req := range []*rpc.SendRequest{nil, {}} {
		sent, err := h.Send(t.Context(), req)
		require.NoError(t, err)
		assert.Equal(t, &rpc.SendResponse{Code: int32(rpc.Code_INVALID), Msg: "the request is missing"}, sent)
	}
	pulled, err := h.Pull(t.Context(), nil)
	require.NoError(t, err)
	assert.Equal(t, &rpc.PullResponse{Code: int32(rpc.Code_INVALID), Msg: "the request is missing"}, pulled)
}

// requireFails checks that a send and a pull fail with code and msg and tell
// nothing else.
func (r rig) requireFails(t *testing.T, chat string, code rpc.Code, msg string) {
	t.Helper()
	require.Equal(t, &rpc.SendResponse{Code: int32(code), Msg: msg}, r.send(t, chat, "ann", "hello", nil))
	require.Equal(t, &rpc.PullResponse{Code: int32(code), Msg: msg}, r.pull(t, chat))
}

func TestHandler_AStoreThatIsClosedIsUnavailable(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.handler.store.Close())
	r.requireFails(t, newChat(), rpc.Code_UNAVAILABLE, "the store is unavailable")
}

func TestHandler_WithoutRedisIsUnavailableAndThenGoesOn(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	r.send(t, chat, "ann", "hello", nil)
	r.redis.Close()
	r.requireFails(t, chat, rpc.Code_UNAVAILABLE, "the store is unavailable")

	require.NoError(t, r.redis.Restart())
	require.Eventually(t, func() bool { return r.send(t, chat, "ann", "again", new("k")).Code == 0 }, patience, 10*time.Millisecond)
	assert.Len(t, r.pull(t, chat).Messages, 2)
}

func TestHandler_ARefusalOfRedisIsUnavailable(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	r.send(t, chat, "ann", "hello", nil)
	r.pull(t, chat)
	r.redis.SetError("OOM command not allowed when used memory > 'maxmemory'.")
	r.requireFails(t, chat, rpc.Code_UNAVAILABLE, "the store is unavailable")
}

func TestHandler_ADefectShowsNothingInternal(t *testing.T) {
	r := newRig(t)
	chat := newChat()
	require.NoError(t, r.redis.Set("chat:"+chat, "another type"))
	r.requireFails(t, chat, rpc.Code_INTERNAL, "internal error")

	corrupt := newChat()
	_, err := r.redis.ZAdd("chat:"+corrupt, 1, "foreign data")
	require.NoError(t, err)
	assert.Equal(t, &rpc.PullResponse{Code: int32(rpc.Code_INTERNAL), Msg: "internal error"}, r.pull(t, corrupt))
}

func TestHandler_TimeThatRanOutIsADeadline(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{late, canceled} {
		sent, err := h.Send(ctx, &rpc.SendRequest{Message: &rpc.Message{Chat: "ann:zoe", Sender: "ann", Text: "hello"}})
		require.NoError(t, err)
		assert.Equal(t, &rpc.SendResponse{Code: int32(rpc.Code_DEADLINE), Msg: "time ran out"}, sent)

		pulled, err := h.Pull(ctx, &rpc.PullRequest{Chat: "ann:zoe"})
		require.NoError(t, err)
		assert.Equal(t, &rpc.PullResponse{Code: int32(rpc.Code_DEADLINE), Msg: "time ran out"}, pulled)
	}
}

// TestConnections_OfEachKindAreServed has clients of each kind at one
// port, whose calls get their own answers.
func TestConnections_OfEachKindAreServed(t *testing.T) {
	h, _ := newHandler(t)
	address := listen(t, h)
	for name, kind := range map[string]client.Option{
		"shared":   client.WithMuxConnection(1), // as gateways of an older version have it
		"TTHeader": client.WithTransportProtocol(transport.TTHeader),
		"framed":   client.WithTransportProtocol(transport.Framed),
		"buffered": client.WithTransportProtocol(transport.PurePayload),
	} {
		t.Run(name, func(t *testing.T) {
			r := rig{Client: newClient(t, address, kind)}
			var all sync.WaitGroup
			for i := range maxInFlight / 2 {
				all.Go(func() {
					chat := newChat()
					for n := range 10 {
						text := fmt.Sprintf("%d of %d", n, i)
						assert.Equal(t, &rpc.SendResponse{}, r.send(t, chat, "ann", text, nil))
						assert.Equal(t, text, r.pull(t, chat).Messages[n].Text)
					}
				})
			}
			all.Wait()
		})
	}
}

// TestLimit_TheExcessIsRefusedAtOnceAndNothingElse has as many pulls under way as
// are allowed: they wait for a Redis that accepts connections and says nothing.
func TestLimit_TheExcessIsRefusedAtOnceAndNothingElse(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h, _ := newHandler(t)
	h.store = chat.Open(redis.UniversalOptions{Addrs: []string{silent.Addr().String()}}, patience, 1000, 0)
	t.Cleanup(func() { h.store.Close() })
	r := rig{Client: connect(t, h)}

	codes := make(chan int32)
	for range maxInFlight - 1 {
		go func() {
			resp, err := r.Pull(t.Context(), &rpc.PullRequest{Chat: "ann:zoe"})
			assert.NoError(t, err)
			codes <- resp.GetCode()
		}()
	}
	require.Eventually(t, func() bool { return h.inFlight.Load() == maxInFlight-1 }, patience, time.Millisecond)
	many, err := r.PullMany(t.Context(), []*rpc.PullRequest{{}, {}, {Chat: "ann:zoe"}})
	require.NoError(t, err)
	assert.Equal(t, []rpc.Code{rpc.Code_INVALID, rpc.Code_UNAVAILABLE, rpc.Code_UNAVAILABLE}, codesOf(many), "one has room")
	go func() {
		resp, err := r.Pull(t.Context(), &rpc.PullRequest{Chat: "ann:zoe"})
		assert.NoError(t, err)
		codes <- resp.GetCode()
	}()
	require.Eventually(t, func() bool { return h.inFlight.Load() == maxInFlight }, patience, time.Millisecond)
	assert.Empty(t, codes)
	r.requireFails(t, "ann:zoe", rpc.Code_UNAVAILABLE, rpc.MSG_OVERLOAD)

	require.NoError(t, h.store.Close())
	silent.Close()
	for range maxInFlight {
		assert.Equal(t, int32(rpc.Code_UNAVAILABLE), <-codes)
	}
	assert.Equal(t, int32(rpc.Code_INVALID), r.pull(t, "").Code, "calls are served again")
	assert.Zero(t, h.inFlight.Load())
}

// codesOf are the Codes of answers, in their order.
func codesOf[Resp interface{ GetCode() int32 }](resps []Resp) []rpc.Code {
	codes := make([]rpc.Code, len(resps))
	for i, resp := range resps {
		codes[i] = rpc.Code(resp.GetCode())
	}
	return codes
}

// TestMany_EachCallGetsItsOwnAnswer has, of one batch, calls of every kind: those that
// fail leave the others alone.
func TestMany_EachCallGetsItsOwnAnswer(t *testing.T) {
	r := newRig(t)
	one, other, foreign, long := newChat(), newChat(), newChat(), newChat()
	require.NoError(t, r.redis.Set("chat:"+foreign, "another type"))
	send := func(chat, text, key string) *rpc.SendRequest {
		return &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Sender: "ann", Text: text}, Key: &key}
	}
	sent, err := r.SendMany(t.Context(), []*rpc.SendRequest{
		send(one, "1", "a"), send(one, "", "b"), send(foreign, "hello", "c"), send(one, strings.Repeat("a", maxText+1), "d"),
		send(other, "2", "a"), {Message: &rpc.Message{Chat: "ann"}}, send(one, "1", "a"), send(one, "3", "e"),
	})
	require.NoError(t, err)
	assert.Equal(t, []rpc.Code{
		rpc.Code_OK, rpc.Code_INVALID, rpc.Code_INTERNAL, rpc.Code_INVALID,
		rpc.Code_OK, rpc.Code_INVALID, rpc.Code_OK, rpc.Code_OK,
	}, codesOf(sent))
	assert.Equal(t, "text: is required", sent[1].Msg)
	assert.Equal(t, "text: has 101 bytes, at most 100 are allowed", sent[3].Msg)

	for range 2 {
		m, err := chat.NewMessage(long, strings.Repeat("a", 40<<10), "ann", nil, 64<<10)
		require.NoError(t, err)
		require.NoError(t, r.handler.store.Append(t.Context(), m)[0].Err)
	}
	pulled, err := r.PullMany(t.Context(), []*rpc.PullRequest{{Chat: one}, {}, {Chat: foreign}, {Chat: long}, {Chat: other}, {Chat: long, Limit: 1}})
	require.NoError(t, err)
	assert.Equal(t, []rpc.Code{rpc.Code_OK, rpc.Code_INVALID, rpc.Code_INTERNAL, rpc.Code_OK, rpc.Code_OK, rpc.Code_OK}, codesOf(pulled))
	texts := func(resp *rpc.PullResponse) (all []string) {
		for _, m := range resp.Messages {
			all = append(all, m.Text)
		}
		return all
	}
	assert.Equal(t, []string{"1", "3"}, texts(pulled[0]))
	assert.Equal(t, []string{"2"}, texts(pulled[4]))
	assert.Equal(t, one, pulled[0].Messages[0].Chat)
	assert.Equal(t, other, pulled[4].Messages[0].Chat)
	assert.Empty(t, pulled[3].Messages, "it is longer than fits in")
	assert.True(t, pulled[3].GetHasMore())
	assert.Len(t, pulled[5].Messages, 1)
	assert.True(t, pulled[5].GetHasMore())
	assert.Len(t, r.pull(t, long).Messages, 2, "alone it is read whole")
}

func TestMany_TakesNoneAndMissingOnesAndMoreThanAreAllowed(t *testing.T) {
	r := newRig(t)
	sent, err := r.SendMany(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, sent)
	pulled, err := r.PullMany(t.Context(), []*rpc.PullRequest{})
	require.NoError(t, err)
	assert.Empty(t, pulled)

	sent, err = r.handler.SendMany(t.Context(), []*rpc.SendRequest{nil, {}})
	require.NoError(t, err)
	missing := &rpc.SendResponse{Code: int32(rpc.Code_INVALID), Msg: "the request is missing"}
	assert.Equal(t, []*rpc.SendResponse{missing, missing}, sent)
	pulled, err = r.handler.PullMany(t.Context(), []*rpc.PullRequest{nil, {Chat: newChat()}})
	require.NoError(t, err)
	assert.Equal(t, []rpc.Code{rpc.Code_INVALID, rpc.Code_OK}, codesOf(pulled))

	chat := newChat()
	reqs := make([]*rpc.SendRequest, maxInFlight+2)
	for i := range reqs {
		reqs[i] = &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Sender: "ann", Text: fmt.Sprint(i)}}
	}
	sent, err = r.SendMany(t.Context(), reqs)
	require.NoError(t, err)
	for i, code := range codesOf(sent) {
		want := rpc.Code_OK
		if i >= maxInFlight {
			want = rpc.Code_UNAVAILABLE
		}
		assert.Equal(t, want, code, i)
	}
	page, err := r.Pull(t.Context(), &rpc.PullRequest{Chat: chat, Limit: 100})
	require.NoError(t, err)
	require.Len(t, page.Messages, maxInFlight, "what was refused is not stored")
	for i, m := range page.Messages {
		assert.Equal(t, fmt.Sprint(i), m.Text, "in the order of the requests")
	}
}

func TestOutcome_IsOneCodeForEachKindOfError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err  error
		code rpc.Code
		msg  string
	}{
		"none":                   {nil, rpc.Code_OK, ""},
		"a rule":                 {chat.InvalidError("text: is required"), rpc.Code_INVALID, "text: is required"},
		"a rule, wrapped":        {fmt.Errorf("inside: %w", chat.InvalidError("text: is required")), rpc.Code_INVALID, "text: is required"},
		"unavailable":            {fmt.Errorf("%w: secret", chat.ErrUnavailable), rpc.Code_UNAVAILABLE, "the store is unavailable"},
		"unavailable by timeout": {fmt.Errorf("%w: %w", chat.ErrUnavailable, context.DeadlineExceeded), rpc.Code_UNAVAILABLE, "the store is unavailable"},
		"overload":               {errOverload, rpc.Code_UNAVAILABLE, rpc.MSG_OVERLOAD},
		"deadline":               {fmt.Errorf("secret: %w", context.DeadlineExceeded), rpc.Code_DEADLINE, "time ran out"},
		"canceled":               {fmt.Errorf("secret: %w", context.Canceled), rpc.Code_DEADLINE, "time ran out"},
		"corrupt":                {fmt.Errorf("%w: secret", chat.ErrCorrupt), rpc.Code_INTERNAL, "internal error"},
		"any other":              {errors.New("secret"), rpc.Code_INTERNAL, "internal error"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, msg := outcome(t.Context(), test.err)
			assert.Equal(t, test.code, code)
			assert.Equal(t, test.msg, msg)
		})
	}
}

// BenchmarkHandler measures calls over loopback connections, with
// the stand-in for Redis behind.
func BenchmarkHandler(b *testing.B) {
	r := newRig(b)
	chat := newChat()
	b.Run("send", func(b *testing.B) {
		b.SetParallelism(8)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			chat := newChat()
			for pb.Next() {
				if resp := r.send(b, chat, "ann", "hello", nil); resp.Code != 0 {
					b.Error(resp.Msg)
				}
			}
		})
	})
	for range 10 {
		r.send(b, chat, "ann", "How about lunch at noon?", nil)
	}
	b.Run("pull of ten", func(b *testing.B) {
		b.SetParallelism(8)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if resp := r.pull(b, chat); resp.Code != 0 {
					b.Error(resp.Msg)
				}
			}
		})
	})
}
