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

	List  *rpc.ChatsResponse // nil answers with the code alone
	Lists chan *rpc.ChatsRequest
	Reads chan *rpc.ReadRequest

	Total     atomic.Int64 // of each chat, and of each member
	Mute      bool         // whether it never says anything on a stream
	Opened    atomic.Int64 // streams
	Interests chan *rpc.Interest
	Hints     chan string // rooms to give hints of
}

// New returns a Server that answers with the code OK.
func New() *Server {
	return &Server{Sends: make(chan *rpc.SendRequest, 1000), Pulls: make(chan *rpc.PullRequest, 1000), Many: make(chan int, 1000),
		Lists: make(chan *rpc.ChatsRequest, 1000), Reads: make(chan *rpc.ReadRequest, 1000),
		Interests: make(chan *rpc.Interest, 1000), Hints: make(chan string, 1000)}
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

func (s *Server) Chats(_ context.Context, req *rpc.ChatsRequest) (*rpc.ChatsResponse, error) {
	s.Lists <- req
	if s.List != nil {
		return s.List, nil
	}
	return &rpc.ChatsResponse{Code: s.Code.Load(), Msg: "reason"}, nil
}

func (s *Server) Read(_ context.Context, req *rpc.ReadRequest) (*rpc.ReadResponse, error) {
	s.Reads <- req
	return &rpc.ReadResponse{Code: s.Code.Load(), Msg: "reason", Mark: &req.Mark}, nil
}

// Totals counts nothing: the test's page tells.
func (s *Server) Totals(_ context.Context, chats []string) ([]int64, error) {
	totals := make([]int64, len(chats))
	for i := range totals {
		totals[i] = s.Total.Load()
	}
	return totals, nil
}

// Listen serves a stream as an rpc-server does: it says hello, tells which interest it has
// heard of, and gives the Hints.
func (s *Server) Listen(ctx context.Context, stream rpc.IMService_ListenServer) error {
	s.Opened.Add(1)
	if s.Mute {
		<-ctx.Done()
		return nil
	}
	heard, ended := make(chan *rpc.Interest), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			interest, err := stream.Recv(ctx)
			if err != nil {
				return
			}
			s.Interests <- interest
			heard <- interest
		}
	}()
	said := &rpc.Hints{Hints: []*rpc.Hint{}}
	for {
		if err := stream.Send(ctx, said); err != nil {
			return err
		}
		said = &rpc.Hints{Hints: []*rpc.Hint{}, Version: said.Version}
		select {
		case interest := <-heard:
			said.Version = interest.Version
		case room := <-s.Hints:
			said.Hints = append(said.Hints, &rpc.Hint{Room: room, Time: time.Now().UnixMicro()})
		case <-time.After(time.Second):
		case <-ended:
			return nil
		}
	}
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

// Serve serves s and returns its address. It serves until the process ends: netpoll, when a
// server stops, closes the file descriptor of its listener several times, and by then it may be
// another test's.
func Serve(t testing.TB, s rpc.IMService) string {
	t.Helper()
	l := Listen(t)
	srv := imservice.NewServer(s, server.WithListener(l), server.WithExitSignal(func() <-chan error { return nil }))
	go srv.Run()
	return l.Addr().String()
}

// Instance is what etcd has of an rpc-server.
func Instance(address string) discovery.Instance {
	return discovery.NewInstance("tcp", address, 10, map[string]string{rpc.TAG_BATCHES: "true", rpc.TAG_HINTS: "true", rpc.TAG_CHATS: "true"})
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

// Receive returns the next element of a channel.
func Receive[T any](t testing.TB, c <-chan T) (element T) {
	t.Helper()
	select {
	case element = <-c:
	case <-time.After(20 * time.Second):
		require.Fail(t, "nothing came")
	}
	return element
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
