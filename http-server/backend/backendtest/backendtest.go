// Package backendtest has an rpc-server for tests.
package backendtest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/server"
	"github.com/stretchr/testify/require"

	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
)

// Server answers what a test wants, over a real connection, and remembers what it was
// asked.
type Server struct {
	Code  atomic.Int32
	Page  *rpc.PullResponse                   // nil answers with the code alone
	Hold  chan struct{}                       // where it is not nil, sends are answered once it is closed
	Reply func(text string) *rpc.SendResponse // to a send; nil is the code
	Sends chan *rpc.SendRequest
	Pulls chan *rpc.PullRequest
	Many  chan int // calls of each batch
}

// New returns a Server that answers with the code OK.
func New() *Server {
	return &Server{Sends: make(chan *rpc.SendRequest, 1000), Pulls: make(chan *rpc.PullRequest, 1000), Many: make(chan int, 1000)}
}

func (s *Server) Send(_ context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	s.Sends <- req
	if s.Hold != nil {
		<-s.Hold
	}
	if s.Reply != nil {
		return s.Reply(req.Message.Text), nil
	}
	return &rpc.SendResponse{Code: s.Code.Load(), Msg: "reason"}, nil
}

func (s *Server) Pull(_ context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	s.Pulls <- req
	if s.Page != nil {
		return s.Page, nil
	}
	return &rpc.PullResponse{Code: s.Code.Load(), Msg: "reason"}, nil
}

func (s *Server) SendMany(ctx context.Context, reqs []*rpc.SendRequest) ([]*rpc.SendResponse, error) {
	s.Many <- len(reqs)
	return Each(ctx, reqs, s.Send)
}

func (s *Server) PullMany(ctx context.Context, reqs []*rpc.PullRequest) ([]*rpc.PullResponse, error) {
	s.Many <- len(reqs)
	return Each(ctx, reqs, s.Pull)
}

// Each calls one for each request.
func Each[Req, Resp any](ctx context.Context, reqs []Req, one func(context.Context, Req) (Resp, error)) (resps []Resp, err error) {
	for _, req := range reqs {
		resp, err := one(ctx, req)
		if err != nil {
			return nil, err
		}
		resps = append(resps, resp)
	}
	return resps, nil
}

// Listen listens on a free port.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// Serve serves s until the test ends, and returns its address.
func Serve(t testing.TB, s rpc.IMService) string {
	t.Helper()
	l := Listen(t)
	srv := imservice.NewServer(s, server.WithListener(l), server.WithExitSignal(func() <-chan error { return nil }), server.WithExitWaitTime(time.Millisecond))
	go srv.Run()
	t.Cleanup(func() { srv.Stop() })
	return l.Addr().String()
}

// Instance is what etcd has of an rpc-server that takes batches.
func Instance(address string) discovery.Instance {
	return discovery.NewInstance("tcp", address, 10, map[string]string{rpc.TAG_BATCHES: "true"})
}

// Instances is Instance for several.
func Instances(addresses ...string) (all []discovery.Instance) {
	for _, address := range addresses {
		all = append(all, Instance(address))
	}
	return all
}

// Eventually waits until ok.
func Eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "it never came to be")
	}
}

// Together makes calls at the same time.
func Together(n int, call func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { call(i) })
	}
	all.Wait()
}

// Drained takes all that is in a channel, and returns it.
func Drained[T any](c chan T) (all []T) {
	for range len(c) {
		all = append(all, <-c)
	}
	return all
}
