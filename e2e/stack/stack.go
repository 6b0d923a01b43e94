// Package stack runs the whole system as real processes on free loopback ports:
// etcd, Redis, rpc-servers and gateways. It knows them from outside only.
package stack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Options say what to start.
type Options struct {
	Bin string // the folder of the binaries
	Dir string // where Redis and etcd keep their data
	// RedisAddrs is a Redis that runs already; empty starts what Topology says.
	RedisAddrs string
	Topology   Topology
	RedisEnv   []string // more environment variables of the redis-servers, as NAME=value
	// RedisArgs and EtcdArgs are more arguments of theirs.
	RedisArgs, EtcdArgs []string
	// RedisTLS and RedisPassword are what clients speak to Redis with. With the former it
	// serves nothing else but TLS; nil is plain text.
	RedisTLS      *tls.Config
	RedisPassword string
	RPCServers    int
	Gateways      int
	Listen        string // of the first gateway; empty takes a free port
	// Settings are more environment variables of the servers, as NAME=value.
	Settings []string
	// Logs is the folder of the logs, a file NAME.log a process.
	Logs string
}

// Stack is a running system.
type Stack struct {
	Etcd       *Process
	Redis      []*Process // none if it ran already
	Sentinels  []*Process
	RPCServers []*Process
	Gateways   []*Process

	options Options
}

// Start starts the system and returns when it is ready. What was started is
// stopped if it does not become so.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{options: o}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	if err := os.MkdirAll(s.options.Logs, 0o755); err != nil {
		return err
	}
	if s.options.RedisAddrs == "" {
		if err := s.startRedis(ctx); err != nil {
			return err
		}
		s.options.RedisAddrs = s.redisAddrs()
	}
	s.Etcd = s.etcd()
	if err := start(ctx, s.Etcd); err != nil {
		return err
	}
	for range s.options.RPCServers {
		s.AddRPCServer()
	}
	for range s.options.Gateways {
		s.AddGateway()
	}
	return start(ctx, append(s.RPCServers, s.Gateways...)...)
}

// Processes lists all, in the order in which they start.
func (s *Stack) Processes() []*Process {
	all := slices.Concat(s.Redis, s.Sentinels)
	if s.Etcd != nil {
		all = append(all, s.Etcd)
	}
	return slices.Concat(all, s.RPCServers, s.Gateways)
}

// Stop stops all, tier by tier in the reverse order of their start.
func (s *Stack) Stop() error {
	err := errors.Join(stop(s.Gateways...), stop(s.RPCServers...))
	if s.Etcd != nil {
		err = errors.Join(err, s.Etcd.Stop())
	}
	return errors.Join(err, stop(s.Sentinels...), stop(s.Redis...))
}

// URL is the base URL of the first gateway.
func (s *Stack) URL() string { return "http://" + s.Gateways[0].Addr }

// AddRPCServer adds an rpc-server to the stack, yet to be started.
func (s *Stack) AddRPCServer() *Process {
	p := s.server(fmt.Sprintf("rpc-server-%d", len(s.RPCServers)+1), "rpc-server", freeAddr(), "--redis-addrs="+s.options.RedisAddrs)
	if len(s.Sentinels) > 0 {
		p.args = append(p.args, "--redis-master-name="+masterName)
	}
	s.RPCServers = append(s.RPCServers, p)
	return p
}

// AddGateway adds a gateway to the stack, yet to be started.
func (s *Stack) AddGateway() *Process {
	addr := s.options.Listen
	if addr == "" || len(s.Gateways) > 0 {
		addr = freeAddr()
	}
	p := s.server(fmt.Sprintf("http-server-%d", len(s.Gateways)+1), "http-server", addr)
	s.Gateways = append(s.Gateways, p)
	return p
}

func (s *Stack) log(name string) string { return filepath.Join(s.options.Logs, name+".log") }

// server is one of ours.
func (s *Stack) server(name, binary, addr string, args ...string) *Process {
	p := &Process{Name: name, Addr: addr, Admin: freeAddr(), Log: s.log(name), path: filepath.Join(s.options.Bin, binary)}
	p.args = append(args, "--listen="+p.Addr, "--admin-listen="+p.Admin, "--etcd-endpoints="+s.Etcd.Addr)
	p.env = s.options.Settings
	p.answers = func(ctx context.Context) error { return Ready(ctx, p.Admin) }
	return p
}

// Ready is nil if the server with this admin address is ready.
func Ready(ctx context.Context, admin string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("not ready: %s", body)
	}
	return nil
}

func (s *Stack) etcd() *Process {
	addr := freeAddr()
	return &Process{
		Name: "etcd", Addr: addr, Log: s.log("etcd"),
		path:    filepath.Join(s.options.Bin, "etcd"),
		args:    append([]string{"--listen=" + addr, "--dir=" + filepath.Join(s.options.Dir, "etcd")}, s.options.EtcdArgs...),
		answers: func(ctx context.Context) error { return dial(ctx, addr) },
	}
}

// Program is any program, yet to be started, that takes the address to listen on
// as its last argument.
func Program(name, log, path string, args ...string) *Process {
	addr := freeAddr()
	return &Process{
		Name: name, Addr: addr, Log: log, path: path, args: append(args, addr),
		answers: func(ctx context.Context) error { return dial(ctx, addr) },
	}
}

func dial(ctx context.Context, addr string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// given are the addresses that freeAddr gave: they may not be listened on yet.
var given sync.Map

// freeAddr is a loopback address that nobody listens on, another one each time.
// Its port is below those that the kernel gives to outgoing connections, so that
// it stays free.
func freeAddr() string {
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
}
