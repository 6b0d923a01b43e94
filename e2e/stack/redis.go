package stack

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Topology is how many redis-servers there are and who watches them.
type Topology string

// The topologies.
const (
	Single   Topology = "single"   // one; the zero value means this, too
	Sentinel Topology = "sentinel" // a master with a replica, and three Sentinels
	Cluster  Topology = "cluster"  // a Redis Cluster of three masters with a replica each
)

// masterName is the one under which the Sentinels know their master.
const masterName = "im"

// startRedis starts the redis-servers, and what watches them.
func (s *Stack) startRedis(ctx context.Context) error {
	nodes, known := map[Topology]int{"": 1, Single: 1, Sentinel: 2, Cluster: 6}[s.options.Topology]
	if !known {
		return fmt.Errorf("no topology of Redis: %q", s.options.Topology)
	}
	for i := range nodes {
		name := "redis"
		more := slices.Clone(s.options.RedisArgs)
		switch s.options.Topology {
		case Sentinel:
			name = fmt.Sprintf("redis-%d", i+1)
			more = append(more, "--repl-diskless-sync-delay", "0")
			if i > 0 {
				more = append(more, "--replicaof", strings.Replace(s.Redis[0].Addr, ":", " ", 1))
			}
		case Cluster:
			name = fmt.Sprintf("redis-%d", i+1)
			_, port, _ := net.SplitHostPort(freeAddr())
			more = append(more, "--repl-diskless-sync-delay", "0", "--cluster-enabled", "yes", "--cluster-port", port,
				"--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no")
		}
		p, err := Redis(filepath.Join(s.options.Dir, name), s.log(name), more...)
		if err != nil {
			return err
		}
		p.Name, p.env = name, s.options.RedisEnv
		if s.options.RedisTLS != nil {
			_, port, _ := net.SplitHostPort(p.Addr)
			p.args = append(p.args, "--port", "0", "--tls-port", port)
			p.answers = func(ctx context.Context) error {
				client := redis.NewClient(&redis.Options{Addr: p.Addr, TLSConfig: s.options.RedisTLS, Password: s.options.RedisPassword})
				defer client.Close()
				return client.Ping(ctx).Err()
			}
		}
		s.Redis = append(s.Redis, p)
		if err := start(ctx, p); err != nil {
			return err
		}
	}
	switch s.options.Topology {
	case Sentinel:
		return s.startSentinels(ctx)
	case Cluster:
		return s.createCluster(ctx)
	default:
		return nil
	}
}

// redisAddrs are those that the rpc-servers are told.
func (s *Stack) redisAddrs() string {
	of := s.Redis
	if len(s.Sentinels) > 0 {
		of = s.Sentinels
	}
	var addrs []string
	for _, p := range of {
		addrs = append(addrs, p.Addr)
	}
	return strings.Join(addrs, ",")
}

// startSentinels starts three, and waits until they know the replicas and each other.
func (s *Stack) startSentinels(ctx context.Context) error {
	for i := range 3 {
		name := fmt.Sprintf("sentinel-%d", i+1)
		dir := filepath.Join(s.options.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		addr := freeAddr()
		host, port, _ := net.SplitHostPort(addr)
		file := filepath.Join(dir, "sentinel.conf") // which it writes to, too
		conf := fmt.Sprintf("bind %s\nport %s\ndir %s\nsentinel monitor %s %s 2\nsentinel down-after-milliseconds %[4]s 1000\nsentinel failover-timeout %[4]s 6000\n",
			host, port, dir, masterName, strings.Replace(s.Redis[0].Addr, ":", " ", 1))
		if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
			return err
		}
		s.Sentinels = append(s.Sentinels, &Process{
			Name: name, Addr: addr, Log: s.log(name), path: s.Redis[0].path, args: []string{file, "--sentinel"},
			answers: func(ctx context.Context) error { return ping(ctx, addr) },
		})
	}
	if err := start(ctx, s.Sentinels...); err != nil {
		return err
	}
	return until(ctx, func() error { return s.SentinelsAgree(ctx) })
}

// SentinelsAgree is nil once each Sentinel knows the same master, its replica, which is
// well, and the other Sentinels, and no failover is under way.
func (s *Stack) SentinelsAgree(ctx context.Context) error {
	agreed := ""
	for _, p := range s.Sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: p.Addr})
		defer client.Close()
		master, err := client.Master(ctx, masterName).Result()
		if err != nil {
			return err
		}
		replicas, err := client.Replicas(ctx, masterName).Result()
		if err != nil {
			return err
		}
		known := fmt.Sprintf("%s:%s", master["ip"], master["port"])
		if agreed = cmp.Or(agreed, known); known != agreed {
			return fmt.Errorf("%s knows the master %s, and not %s", p.Name, known, agreed)
		}
		if master["flags"] != "master" || len(replicas) != 1 || replicas[0]["flags"] != "slave" || master["num-other-sentinels"] != "2" {
			return fmt.Errorf("%s knows the master as %s, the replicas %v and %s other Sentinels", p.Name, master["flags"], replicas, master["num-other-sentinels"])
		}
	}
	return nil
}

// createCluster makes a Redis Cluster of the redis-servers, the first half of them
// masters, and waits until all know it.
func (s *Stack) createCluster(ctx context.Context) error {
	const slots = 16384
	masters := len(s.Redis) / 2
	clients := make([]*redis.Client, len(s.Redis))
	ids := make([]string, len(s.Redis))
	for i, p := range s.Redis {
		clients[i] = redis.NewClient(&redis.Options{Addr: p.Addr})
		defer clients[i].Close()
		var err error
		if ids[i], err = clients[i].ClusterMyID(ctx).Result(); err != nil {
			return err
		}
		if i < masters {
			if err := clients[i].ClusterAddSlotsRange(ctx, i*slots/masters, (i+1)*slots/masters-1).Err(); err != nil {
				return err
			}
		}
		for _, other := range s.Redis[:i] {
			host, port, _ := net.SplitHostPort(other.Addr)
			if err := clients[i].Do(ctx, "CLUSTER", "MEET", host, port, other.args[slices.Index(other.args, "--cluster-port")+1]).Err(); err != nil {
				return err
			}
		}
	}
	for i, client := range clients[masters:] {
		// The replica may not know its master yet.
		if err := until(ctx, func() error { return client.ClusterReplicate(ctx, ids[i]).Err() }); err != nil {
			return err
		}
	}
	for _, client := range clients {
		err := until(ctx, func() error {
			known, err := client.ClusterShards(ctx).Result()
			for _, shard := range known {
				if len(shard.Nodes) != 2 || shard.Nodes[0].Health != "online" || shard.Nodes[1].Health != "online" {
					return fmt.Errorf("a shard has no replica that is online: %v", shard.Nodes)
				}
			}
			info, err2 := client.ClusterInfo(ctx).Result()
			if err := errors.Join(err, err2); err != nil || len(known) == masters && strings.Contains(info, "cluster_state:ok") {
				return err
			}
			return fmt.Errorf("%d shards: %s", len(known), info)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// until tries until it is no error or ctx ends.
func until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Masters are the redis-servers that say of themselves that they are masters.
func (s *Stack) Masters(ctx context.Context) []*Process {
	var masters []*Process
	for _, p := range s.Redis {
		if role := p.role(ctx); len(role) > 0 && role[0] == "master" {
			masters = append(masters, p)
		}
	}
	return masters
}

// ReplicasOf are the redis-servers that say of themselves that they follow master, and
// that they have got all it had when they began.
func (s *Stack) ReplicasOf(ctx context.Context, master *Process) []*Process {
	var replicas []*Process
	_, port, _ := net.SplitHostPort(master.Addr)
	for _, p := range s.Redis {
		role := p.role(ctx)
		if len(role) == 5 && fmt.Sprint(role[2]) == port && role[3] == "connected" {
			replicas = append(replicas, p)
		}
	}
	return replicas
}

// role is what a redis-server answers to ROLE; nothing if it does not.
func (p *Process) role(ctx context.Context) []any {
	client := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	role, _ := client.Do(ctx, "ROLE").Slice()
	return role
}

// RedisClient is a client of the Redis that the rpc-servers use.
func (s *Stack) RedisClient() redis.UniversalClient {
	o := &redis.UniversalOptions{Addrs: strings.Split(s.redisAddrs(), ","), TLSConfig: s.options.RedisTLS, Password: s.options.RedisPassword}
	if len(s.Sentinels) > 0 {
		o.MasterName = masterName
	}
	return redis.NewUniversalClient(o)
}

// Redis is a redis-server that keeps its data in dir, flushed on every write, yet
// to be started. More are further arguments.
func Redis(dir, log string, more ...string) (*Process, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	addr := freeAddr()
	host, port, _ := net.SplitHostPort(addr)
	return &Process{
		Name: "redis", Addr: addr, Log: log,
		path: path,
		args: append([]string{"--bind", host, "--port", port, "--dir", dir, "--save", "",
			"--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no", "--maxmemory-policy", "noeviction"}, more...),
		answers: func(ctx context.Context) error { return ping(ctx, addr) },
	}, nil
}

// ping asks Redis whether it serves: it accepts connections before it has loaded
// its data.
func ping(ctx context.Context, addr string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprint(conn, "PING\r\n")
	if answer, err := bufio.NewReader(conn).ReadString('\n'); answer != "+PONG\r\n" {
		return fmt.Errorf("redis answers %q: %w", answer, err)
	}
	return nil
}
