package chat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
)

var onCluster = flag.Bool("cluster", false, "run on a Redis Cluster what else runs on one Redis: of three masters where tests share it, of one where a test has its own")

// sharedServers are the Redis of all tests that do not change it. The first that needs
// it starts it.
var sharedServers struct {
	sync.Once
	all []*redisServer
	dir string
	err error
}

func TestMain(m *testing.M) {
	flag.Parse()
	logging.Disable() // of clients whose server is down
	code := m.Run()
	for _, server := range sharedServers.all {
		server.kill()
	}
	os.RemoveAll(sharedServers.dir)
	os.Exit(code)
}

// sharedRedis is where the shared Redis is, its addresses separated by commas. Without
// redis-server on PATH it skips the test.
func sharedRedis(t testing.TB) string {
	t.Helper()
	s := &sharedServers
	s.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "im-redis-"); s.err == nil {
			s.all, s.err = startRedises(s.dir, 3)
		}
	})
	skipWithoutRedis(t, s.err)
	return addrs(s.all)
}

// ownRedis starts a Redis for this test alone, which may stop, kill and
// configure it. Without redis-server on PATH it skips the test.
func ownRedis(t testing.TB) *redisServer {
	t.Helper()
	servers, err := startRedises(t.TempDir(), 1)
	skipWithoutRedis(t, err)
	t.Cleanup(servers[0].kill)
	return servers[0]
}

// startRedises starts one Redis or, with -cluster, a Redis Cluster of so many masters.
func startRedises(dir string, masters int) ([]*redisServer, error) {
	if *onCluster {
		return startCluster(dir, masters)
	}
	server, err := startRedis(dir)
	if err != nil {
		return nil, err
	}
	return []*redisServer{server}, nil
}

// addrs are the addresses of servers, separated by commas.
func addrs(servers []*redisServer) string {
	var all []string
	for _, server := range servers {
		all = append(all, server.addrs())
	}
	return strings.Join(all, ",")
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
	addr string   // host:port, the same for ever
	dir  string   // where its append-only file and its log lie
	more []string // arguments

	process *os.Process
	ended   chan struct{} // closed when the process has ended
}

// addrs are the addresses by which a client finds it: where it is one of a Redis
// Cluster, two, as these tell so.
func (s *redisServer) addrs() string {
	if len(s.more) > 0 {
		return s.addr + "," + s.addr
	}
	return s.addr
}

// startRedis starts a Redis that keeps its files in dir and waits until it
// answers.
func startRedis(dir string, more ...string) (*redisServer, error) {
	var errs error
	for range 5 { // somebody may take the port before Redis does
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listener.Close()
		s := &redisServer{addr: listener.Addr().String(), dir: dir, more: more}
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
	cmd := exec.Command("redis-server", append([]string{"--bind", host, "--port", port,
		"--dir", s.dir, "--logfile", filepath.Join(s.dir, "redis.log"), "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no",
		"--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"}, s.more...)...)
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

// startCluster starts a Redis Cluster of so many masters without replicas, their
// files in folders of dir, and waits until it serves all slots.
func startCluster(dir string, masters int) ([]*redisServer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var servers []*redisServer
	fail := func(err error) ([]*redisServer, error) {
		for _, s := range servers {
			s.kill()
		}
		return nil, err
	}
	for i := range masters {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(own, 0o755); err != nil {
			return fail(err)
		}
		server, err := startClusterNode(own)
		if err != nil {
			return fail(err)
		}
		servers = append(servers, server)
		client := server.client()
		defer client.Close()
		if err := client.ClusterAddSlotsRange(ctx, i*slotCount/masters, (i+1)*slotCount/masters-1).Err(); err != nil {
			return fail(err)
		}
		if err := server.meet(ctx, servers[0]); err != nil {
			return fail(err)
		}
	}
	for _, server := range servers {
		if err := server.untilInfo(ctx, "cluster_state:ok", "cluster_known_nodes:"+strconv.Itoa(masters)+"\r"); err != nil {
			return fail(err)
		}
	}
	return servers, nil
}

// slotCount is how many slots a Redis Cluster has.
const slotCount = 16384

// startClusterNode starts a node that is alone and has no slots.
func startClusterNode(dir string) (*redisServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // of the cluster's own protocol
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	return startRedis(dir, "--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "2000", "--cluster-allow-replica-migration", "no")
}

// meet has the node join the Cluster of another.
func (s *redisServer) meet(ctx context.Context, other *redisServer) error {
	client := s.client()
	defer client.Close()
	host, port, _ := net.SplitHostPort(other.addr)
	return client.Do(ctx, "CLUSTER", "MEET", host, port, other.more[3]).Err()
}

// untilInfo waits until CLUSTER INFO has all these.
func (s *redisServer) untilInfo(ctx context.Context, wanted ...string) error {
	client := s.client()
	defer client.Close()
	for {
		info, err := client.ClusterInfo(ctx).Result()
		if err == nil && !slices.ContainsFunc(wanted, func(what string) bool { return !strings.Contains(info, what) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no Redis Cluster, but %q: %w", info, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// client speaks to this server alone.
func (s *redisServer) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.addr, ReadTimeout: patience})
}
