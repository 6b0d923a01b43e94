package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
	"im/internal/etcd"
	"im/internal/gen/rpc"
)

// maxInFlight is the bound of the clients under test.
const maxInFlight = 20

// dial returns a client of rpc-servers that take batches.
func dial(t testing.TB, timeout time.Duration, addresses ...string) *Client {
	t.Helper()
	c, err := newClient(timeout, maxInFlight)
	require.NoError(t, err)
	c.balancer.update(backendtest.Instances(addresses...))
	return c
}

// message is a send of a text.
func message(text string) *rpc.SendRequest {
	return &rpc.SendRequest{Message: &rpc.Message{Chat: "a:b", Sender: "a", Text: text}}
}

// TestClient_AFrozenOrDeadServerCostsNoCall has one rpc-server that works beside
// two that do not: one accepts connections and never says a word, at the other's
// address nobody listens.
func TestClient_AFrozenOrDeadServerCostsNoCall(t *testing.T) {
	frozen, dead := backendtest.Listen(t), backendtest.Listen(t)
	defer frozen.Close()
	require.NoError(t, dead.Close())
	b := backendtest.New()
	client := dial(t, 3*time.Second, frozen.Addr().String(), dead.Addr().String(), backendtest.Serve(t, b))
	backendtest.Together(20, func(int) {
		for range 20 {
			_, err := client.Send(t.Context(), message("hello"))
			assert.NoError(t, err)
		}
	})
	assert.Len(t, b.Sends, 400)
}

// TestClient_DialsAgainWhereAConnectionIsDead has an rpc-server that is reached by a
// way which swallows all that the first connection says, and lets the next through.
func TestClient_DialsAgainWhereAConnectionIsDead(t *testing.T) {
	way, b := backendtest.Listen(t), backendtest.New()
	defer way.Close()
	behind := backendtest.Serve(t, b)
	go func() {
		for first := true; ; first = false {
			conn, err := way.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if first {
					io.Copy(io.Discard, conn)
					return
				}
				server, err := net.Dial("tcp", behind)
				if err != nil {
					return
				}
				defer server.Close()
				go io.Copy(conn, server)
				io.Copy(server, conn)
			}()
		}
	}()
	client := dial(t, 3*time.Second, way.Addr().String())
	for range 10 {
		_, err := client.Send(t.Context(), message("hello"))
		require.NoError(t, err)
	}
	assert.Len(t, b.Sends, 10)
}

// TestClient_ACallerLeavesAtHisDeadlineAndTheBatchGoesOn has one of the callers of a batch
// give up before its answers come.
func TestClient_ACallerLeavesAtHisDeadlineAndTheBatchGoesOn(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	client := dial(t, time.Minute, backendtest.Serve(t, b))
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error)
	stayed := make(chan error)
	go func() {
		_, err := client.Send(impatient, message("hello"))
		left <- err
	}()
	go func() {
		_, err := client.Send(t.Context(), message("hello"))
		stayed <- err
	}()
	<-b.Sends
	leave()
	assert.ErrorIs(t, <-left, ErrLate)
	close(b.Hold)
	assert.NoError(t, <-stayed)
}

func TestClient_WaitingForNoAnswerIsLate(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	defer close(b.Hold)
	client := dial(t, 300*time.Millisecond, backendtest.Serve(t, b))
	backendtest.Together(16, func(int) {
		_, err := client.Send(t.Context(), message("hello"))
		assert.ErrorIs(t, err, ErrLate)
	})
}

// TestClient_AServerWithoutItsStoreCostsNoCall has one rpc-server that cannot
// reach Redis beside one that can.
func TestClient_AServerWithoutItsStoreCostsNoCall(t *testing.T) {
	cut, good := backendtest.New(), backendtest.New()
	cut.Code.Store(int32(rpc.Code_UNAVAILABLE))
	client := dial(t, 15*time.Second, backendtest.Serve(t, cut), backendtest.Serve(t, good))
	for range 20 {
		sent, err := client.Send(t.Context(), message("hello"))
		require.NoError(t, err)
		assert.Zero(t, sent.Code)
		pulled, err := client.Pull(t.Context(), &rpc.PullRequest{})
		require.NoError(t, err)
		assert.Zero(t, pulled.Code)
	}
	assert.NotEmpty(t, cut.Sends)

	good.Code.Store(int32(rpc.Code_UNAVAILABLE))
	asked := len(cut.Sends) + len(good.Sends)
	sent, err := client.Send(t.Context(), message("hello"))
	require.NoError(t, err)
	assert.Equal(t, int32(rpc.Code_UNAVAILABLE), sent.Code)
	assert.Equal(t, asked+3, len(cut.Sends)+len(good.Sends), "three attempts, no more")
}

// TestClient_AServerThatRefusesWhatOthersServeGetsNoCalls has one rpc-server that cannot use
// Redis, beside one that can.
func TestClient_AServerThatRefusesWhatOthersServeGetsNoCalls(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refusing, other rpc.SendResponse
		ejected         bool
	}{
		"as it cannot use Redis":    {rpc.SendResponse{Code: int32(rpc.Code_UNAVAILABLE), Msg: "no"}, rpc.SendResponse{}, true},
		"as it has no room":         {rpc.SendResponse{Code: int32(rpc.Code_UNAVAILABLE), Msg: rpc.MSG_OVERLOAD}, rpc.SendResponse{}, false},
		"as do others":              {rpc.SendResponse{Code: int32(rpc.Code_UNAVAILABLE), Msg: "no"}, rpc.SendResponse{Code: int32(rpc.Code_UNAVAILABLE), Msg: "no"}, false},
		"as the request is invalid": {rpc.SendResponse{Code: int32(rpc.Code_INVALID)}, rpc.SendResponse{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refusing, other := backendtest.New(), backendtest.New()
			refusing.Reply = func(string) *rpc.SendResponse { return &test.refusing }
			other.Reply = func(string) *rpc.SendResponse { return &test.other }
			client := dial(t, 3*time.Second, backendtest.Serve(t, refusing), backendtest.Serve(t, other))
			ejected := false
			for end := time.Now().Add(3 * ejectionTime); time.Now().Before(end) && !ejected; {
				resp, err := client.Send(t.Context(), message("hello"))
				require.NoError(t, err)
				if test.ejected {
					require.Zero(t, resp.Code, "it costs no call")
				}
				ejected = client.balancer.instances()[0].Ejected
				time.Sleep(10 * time.Millisecond)
				for _, b := range []*backendtest.Server{refusing, other} { // which has room for a thousand
					backendtest.Drained(b.Sends)
					backendtest.Drained(b.Many)
				}
			}
			assert.Equal(t, test.ejected, ejected)
		})
	}
}

// TestBatch_EachCallGetsItsOwnAnswer has calls share batches at two rpc-servers, of which
// one refuses some of them, in an order that nobody knows.
func TestBatch_EachCallGetsItsOwnAnswer(t *testing.T) {
	const calls = maxInFlight
	echo := func(refused string) func(string) *rpc.SendResponse {
		return func(text string) *rpc.SendResponse {
			code := rpc.Code_OK
			switch {
			case strings.HasSuffix(text, refused):
				code = rpc.Code_UNAVAILABLE
			case strings.HasSuffix(text, "1"):
				code = rpc.Code_INVALID
			}
			return &rpc.SendResponse{Code: int32(code), Msg: text}
		}
	}
	one, other := backendtest.New(), backendtest.New()
	one.Reply, other.Reply = echo("2"), echo("none")
	client := dial(t, 15*time.Second, backendtest.Serve(t, one), backendtest.Serve(t, other))
	for range 10 {
		backendtest.Together(calls, func(i int) {
			text := fmt.Sprint("call ", i)
			resp, err := client.Send(t.Context(), message(text))
			assert.NoError(t, err)
			assert.Equal(t, text, resp.GetMsg())
			want := rpc.Code_OK
			if i%10 == 1 {
				want = rpc.Code_INVALID
			}
			assert.Equal(t, int32(want), resp.GetCode(), text)
		})
	}
	assert.Less(t, len(one.Many)+len(other.Many), 10*calls, "they share batches")
}

// TestBatch_HasSoManyCallsAndBytesAtMost has calls gather while all that may be under way
// are held.
func TestBatch_HasSoManyCallsAndBytesAtMost(t *testing.T) {
	for name, test := range map[string]struct {
		calls, size int
		most        int // calls of a batch
	}{
		"calls": {3 * maxBatchCalls, 10, maxBatchCalls},
		"bytes": {12, 300 << 10, 3},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendtest.New()
			b.Hold = make(chan struct{})
			client := dial(t, time.Minute, backendtest.Serve(t, b))
			client.permits, client.sends.maxQueue = make(chan struct{}, 1000), 1000
			go func() {
				backendtest.Eventually(t, func() bool {
					client.sends.mu.Lock()
					defer client.sends.mu.Unlock()
					return len(client.permits) == test.calls && client.sends.gathering
				})
				close(b.Hold)
			}()
			backendtest.Together(test.calls, func(int) {
				_, err := client.Send(t.Context(), message(strings.Repeat("a", test.size)))
				assert.NoError(t, err)
			})
			sum, largest := 0, 0
			for _, n := range backendtest.Drained(b.Many) {
				sum, largest = sum+n, max(largest, n)
			}
			assert.Equal(t, test.calls, sum)
			assert.Equal(t, test.most, largest)
		})
	}
}

func TestBatch_AFullQueueRefusesWhatFollows(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	client := dial(t, time.Minute, backendtest.Serve(t, b))
	client.sends.maxQueue = 2
	done := make(chan error)
	send := func() {
		_, err := client.Send(t.Context(), message("hello"))
		done <- err
	}
	for range maxBatches {
		go send()
		<-b.Sends
	}
	for range 2 {
		go send()
	}
	backendtest.Eventually(t, func() bool {
		client.sends.mu.Lock()
		defer client.sends.mu.Unlock()
		return len(client.sends.queue) == 2
	})
	_, err := client.Send(t.Context(), message("hello"))
	assert.ErrorIs(t, err, ErrOverload)
	close(b.Hold)
	for range maxBatches + 2 {
		assert.NoError(t, <-done)
	}
}

// TestBatch_APageThatGoesOnIsAskedForAlone has a page that is longer than fits into the
// answer to a batch.
func TestBatch_APageThatGoesOnIsAskedForAlone(t *testing.T) {
	whole := &rpc.PullResponse{Messages: []*rpc.Message{{Chat: "a:b", Text: "hello"}}, HasMore: new(true)}
	b := &paging{Server: backendtest.New(), whole: whole}
	client := dial(t, 15*time.Second, backendtest.Serve(t, b))
	resp, err := client.Pull(t.Context(), &rpc.PullRequest{Chat: "a:b"})
	require.NoError(t, err)
	assert.Equal(t, whole.Messages, resp.Messages)
	assert.Len(t, b.Many, 1)
}

// paging reads whole pages alone only.
type paging struct {
	*backendtest.Server
	whole *rpc.PullResponse
}

func (p *paging) Pull(context.Context, *rpc.PullRequest) (*rpc.PullResponse, error) {
	return p.whole, nil
}

func (p *paging) PullMany(_ context.Context, reqs []*rpc.PullRequest) ([]*rpc.PullResponse, error) {
	p.Many <- len(reqs)
	return []*rpc.PullResponse{{HasMore: new(true)}}, nil
}

// TestBatch_AnOlderServerIsAskedOneByOne has an rpc-server whose entry in etcd does not say
// that it takes batches.
func TestBatch_AnOlderServerIsAskedOneByOne(t *testing.T) {
	b := backendtest.New()
	client := dial(t, 15*time.Second)
	client.balancer.update([]discovery.Instance{discovery.NewInstance("tcp", backendtest.Serve(t, b), 10, nil)})
	backendtest.Together(maxInFlight, func(int) {
		_, err := client.Send(t.Context(), message("hello"))
		assert.NoError(t, err)
	})
	require.NoError(t, client.reach(t.Context()))
	assert.Len(t, b.Sends, maxInFlight)
	assert.Empty(t, b.Many)
}

// etcdStub is an etcd that answers when it is told to.
type etcdStub struct{ answer chan error }

func (etcdStub) Target(context.Context, rpcinfo.EndpointInfo) string { return etcd.Service }

func (s etcdStub) Resolve(context.Context, string) (discovery.Result, error) {
	if err := <-s.answer; err != nil {
		return discovery.Result{}, err
	}
	return discovery.Result{Instances: []discovery.Instance{backendtest.Instance("127.0.0.1:1")}}, nil
}

func (etcdStub) Diff(key string, before, now discovery.Result) (discovery.Change, bool) {
	return discovery.DefaultDiff(key, before, now)
}

func (etcdStub) Name() string { return "stub" }

func TestResolver_TheFirstCallsWaitForEtcdsFirstAnswerAndNoOthers(t *testing.T) {
	stub := etcdStub{make(chan error)}
	b := newBalancer(nil)
	r := newResolver(b, func() (discovery.Resolver, error) { return stub, nil })
	go r.watch(t.Context())
	early := make(chan *instance)
	go func() { early <- b.reserve(methodSend, nil) }()
	select {
	case <-early:
		t.Fatal("etcd has not answered")
	case <-time.After(50 * time.Millisecond):
	}
	stub.answer <- errors.New("etcd is away")
	assert.Nil(t, <-early)
	assert.Nil(t, b.reserve(methodSend, nil), "at once, while etcd is asked again")

	stub.answer <- nil
	stub.answer <- errors.New("etcd is away again") // asked again, so the answer before was taken
	assert.NotNil(t, b.reserve(methodSend, nil), "the last known is kept")
	close(stub.answer)
}
