package chat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// shared is the Redis of all tests that do not change it. The first that needs it
// starts it.
var shared struct {
	sync.Once
	server *redisServer // nil if it does not run
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		shared.server.kill()
		os.RemoveAll(shared.server.dir)
	}
	os.Exit(code)
}

// sharedRedis is the address of the shared Redis. Without redis-server on PATH
// it skips the test.
func sharedRedis(t testing.TB) string {
	t.Helper()
	shared.Do(func() {
		dir, err := os.MkdirTemp("", "im-redis-")
		if err == nil {
			shared.server, err = startRedis(dir)
		}
		shared.err = err
	})
	skipWithoutRedis(t, shared.err)
	return shared.server.addr
}

// ownRedis starts a Redis for this test alone, which may stop, kill and
// configure it. Without redis-server on PATH it skips the test.
func ownRedis(t testing.TB) *redisServer {
	t.Helper()
	server, err := startRedis(t.TempDir())
	skipWithoutRedis(t, err)
	t.Cleanup(server.kill)
	return server
}

func skipWithoutRedis(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("redis-server is not on PATH: nothing is shown about a real Redis")
	}
	require.NoError(t, err)
}

// redisServer is a redis-server process under which an acknowledged message is on
// disk.
type redisServer struct {
	addr string // host:port, the same for ever
	dir  string // where its append-only file and its log lie

	process *os.Process
	ended   chan struct{} // closed when the process has ended
}

// startRedis starts a Redis that keeps its files in dir and waits until it
// answers.
func startRedis(dir string) (*redisServer, error) {
	var errs error
	for range 5 { // somebody may take the port before Redis does
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listener.Close()
		s := &redisServer{addr: listener.Addr().String(), dir: dir}
		err = s.start()
		if err == nil {
			return s, nil
		}
		if errors.Is(err, exec.ErrNotFound) {
			return nil, err
		}
		errs = errors.Join(errs, err)
	}
	return nil, errs
}

// start starts a server that does not run, at its address and on its files, and
// waits until it answers.
func (s *redisServer) start() error {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	cmd := exec.Command("redis-server", "--bind", host, "--port", port,
		"--dir", s.dir, "--logfile", filepath.Join(s.dir, "redis.log"), "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no",
		"--maxmemory-policy", "noeviction")
	cmd.SysProcAttr = endsWithUs()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() // its error is the exit code
		close(ended)
	}()
	s.process, s.ended = cmd.Process, ended
	if err := s.wait(); err != nil {
		s.kill()
		return err
	}
	return nil
}

// wait returns when this process, and not another at its address, answers.
func (s *redisServer) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	pid := "process_id:" + strconv.Itoa(s.process.Pid) + "\r\n"
	for {
		info, err := client.Info(ctx, "server").Result()
		if err == nil && strings.Contains(info, pid) {
			return nil
		}
		select {
		case <-s.ended:
			log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
			return fmt.Errorf("redis-server ended before it answered at %s: %s", s.addr, log)
		case <-ctx.Done():
			return fmt.Errorf("redis-server does not answer at %s: %w", s.addr, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kill ends the process without warning and returns when it is gone.
func (s *redisServer) kill() {
	s.process.Kill()
	<-s.ended
}

// freeze stops the process, so that connections to it stand but nothing answers.
// It returns when the process stands still. At the latest the test's end lets it
// run on, since a store that closes waits for it.
func (s *redisServer) freeze(t testing.TB) {
	t.Helper()
	t.Cleanup(func() { s.process.Signal(syscall.SIGCONT) })
	require.NoError(t, s.process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	for !status.Stopped() {
		_, err := syscall.Wait4(s.process.Pid, &status, syscall.WUNTRACED, nil)
		if err != syscall.EINTR {
			require.NoError(t, err)
		}
	}
}

// thaw lets a frozen process run on.
func (s *redisServer) thaw(t testing.TB) {
	t.Helper()
	require.NoError(t, s.process.Signal(syscall.SIGCONT))
}
