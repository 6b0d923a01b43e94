package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/check"
	"im/e2e/stack"
)

// faults are the rows of docs/faults.md.
var faults = []fault{
	{id: "rpc-server-killed", name: "SIGKILL of one of two rpc-servers, again and again", brief: 7 * time.Second, full: 40 * time.Second, breaks: killRPCServers},
	{id: "inboxes", name: "SIGKILL of one of two rpc-servers, again and again, while half of the messages go to new chats", brief: 6 * time.Second, full: 30 * time.Second, fresh: 3000, breaks: killRPCServers},
	{id: "rpc-servers-restarted", name: "rolling SIGTERM restart of both rpc-servers", full: 30 * time.Second, breaks: restartRPCServers},
	{id: "gateways-restarted", name: "rolling SIGTERM restart of two gateways; the client turns to the other when one closes its connection", full: 30 * time.Second, gateways: 2, breaks: restartGateways},
	{id: "rpc-server-frozen", name: "SIGSTOP of one of two rpc-servers for 10 s", brief: 6 * time.Second, full: 20 * time.Second, breaks: freezeRPCServer, after: sameOfBase},
	{id: "upgrade", name: "rolling upgrade of two gateways and both rpc-servers from revision " + baseRevision + " to this one, and back; the client turns to the other gateway when one closes its connection", full: 45 * time.Second, gateways: 2, noLists: true, change: olderServers, breaks: upgrade, after: measureOldGateway},
	{id: "redis-killed", name: "SIGKILL of Redis, started again a second later", brief: 7 * time.Second, full: 40 * time.Second, breaks: killRedis},
	{id: "disk-full", name: "disk full for the append-only file", full: 40 * time.Second, change: smallDisk, breaks: fillDisk},
	{id: "memory-full", name: "maxmemory reached (noeviction)", brief: 5 * time.Second, full: 30 * time.Second, breaks: fillMemory},
	{id: "redis-disturbed", name: "SCRIPT FLUSH, CLIENT KILL of all, CLIENT PAUSE 300 ms, again and again", brief: 6 * time.Second, full: 40 * time.Second, breaks: disturbRedis},
	{id: "etcd-away", name: "etcd stopped for 90 s, then started empty; a gateway started meanwhile", brief: 10 * time.Second, full: 130 * time.Second, breaks: stopEtcd},
	{id: "clock-back", name: "Redis's clock set back an hour while it runs", full: 20 * time.Second, change: movableClock, breaks: moveClock},
	{id: "slots-moved", name: "slots of a Redis Cluster moved from master to master, with their chats", full: 15 * time.Second, change: redisIs(stack.Cluster, 0), breaks: moveSlots},
	{id: "master-frozen", name: "SIGSTOP of one of three masters of a Redis Cluster for 10 s, in which no replica takes over; what fails is not sent again", full: 21 * time.Second, noRetry: true, change: redisIs(stack.Cluster, 0), breaks: freezeMaster},
	{id: "cluster-failover", name: "SIGKILL of a master of a Redis Cluster whose replica is 0.3 s behind, again and again; one replica waited for", brief: 12 * time.Second, full: 30 * time.Second, change: redisIs(stack.Cluster, 1), breaks: killMasters, kept: acknowledged},
	{id: "sentinel-failover", name: "SIGKILL of a master under Sentinel whose replica is 0.3 s behind, again and again; one replica waited for, 30 messages a second", full: 60 * time.Second, rate: few, change: redisIs(stack.Sentinel, 1), breaks: killMasters, kept: acknowledged},
	{id: "cluster-failover-unwaited", name: "SIGKILL of a master of a Redis Cluster whose replica is 0.3 s behind, no replica waited for", full: 20 * time.Second, change: redisIs(stack.Cluster, 0), breaks: killMasters, kept: once, after: lossIsTold},
	{id: "sentinel-failover-unwaited", name: "SIGKILL of a master under Sentinel whose replica is 0.3 s behind, no replica waited for", full: 30 * time.Second, change: redisIs(stack.Sentinel, 0), breaks: killMasters, kept: once, after: lossIsTold},
	{id: "overload", name: "twice the load that MAX_IN_FLIGHT=4 lets through", brief: 6 * time.Second, full: 40 * time.Second, noRetry: true, change: lowLimit, rate: twiceTheCapacity, breaks: func(_ context.Context, s *scene) { s.times.Add(1) }, after: recovered},
}

func TestFaults(t *testing.T) {
	for _, f := range faults {
		if *full || f.brief > 0 {
			t.Run(f.id, f.survive)
		}
	}
	if *full {
		total := 0
		for _, o := range outcomes {
			total += o.report.Acknowledged
		}
		if len(outcomes) == len(faults) {
			assert.Greater(t, total, 100_000, "acknowledged messages")
		}
	}
}

func killRPCServers(ctx context.Context, s *scene) {
	for i := 0; ctx.Err() == nil; i++ {
		p := s.RPCServers[i%2]
		p.Kill()
		s.times.Add(1)
		sleep(ctx, 500*time.Millisecond)
		s.start(p)
		sleep(ctx, time.Second)
	}
}

func restartRPCServers(ctx context.Context, s *scene) { restart(ctx, s, s.RPCServers) }

func restartGateways(ctx context.Context, s *scene) { restart(ctx, s, s.Gateways) }

// restart stops and starts one after the other.
func restart(ctx context.Context, s *scene, ps []*stack.Process) {
	for i := 0; ctx.Err() == nil; i++ {
		s.restart(ps[i%len(ps)])
		s.times.Add(1)
		sleep(ctx, time.Second)
	}
}

// olderServers has the stack start with the servers of baseRevision.
func olderServers(t *testing.T, o *stack.Options) {
	base, err := baseBin()
	if errors.Is(err, stack.ErrNoRevision) {
		t.Skipf("nothing to upgrade from: %s", err)
	}
	require.NoError(t, err)
	o.Bin = base
}

// upgrade replaces one server of baseRevision after the other by one of this checkout, and
// that by the older one again, in the order that docs/operations.md has.
func upgrade(ctx context.Context, s *scene) {
	base, err := baseBin()
	assert.NoError(s, err)
	replace := func(servers []*stack.Process, bin string) {
		for _, p := range servers {
			p.SetBin(bin)
			s.restart(p)
			s.times.Add(1)
			sleep(ctx, 500*time.Millisecond)
		}
	}
	replace(s.Gateways, bin)
	s.allow("wait", http.StatusOK, time.Time{}, time.Now()) // an older gateway holds no answer back
	sleep(ctx, 5*time.Second)
	replace(s.RPCServers, bin)
	replace(s.RPCServers, base)
	s.allow("wait", http.StatusOK, time.Now(), time.Now().Add(time.Hour))
	replace(s.Gateways, base)
	assert.NoError(s, ctx.Err(), "the upgrade took longer than the checker ran")
}

// measureOldGateway compares what a gateway of baseRevision sends by rpc-servers of its own
// version and by those of this checkout.
func measureOldGateway(s *scene, _ *check.Report) {
	const writers, duration = 32, 4 * time.Second
	older, _ := s.sendRate(writers, duration)
	for _, p := range s.RPCServers {
		p.SetBin(bin)
		s.restart(p)
	}
	newer, failed := s.sendRate(writers, duration)
	s.figure("a gateway of revision %s sends %.0f messages a second by rpc-servers of its own version, and %.0f by those of this one, with %d failed requests",
		baseRevision, older, newer, failed)
}

func freezeRPCServer(ctx context.Context, s *scene) {
	p := s.RPCServers[0]
	began := time.Now()
	s.allow("", http.StatusGatewayTimeout, began, began.Add(time.Second)) // the calls that it holds
	assert.NoError(s, p.Signal(syscall.SIGSTOP))
	s.times.Add(1)
	sleep(ctx, 10*time.Second)
	thawed := time.Now()
	assert.NoError(s, p.Signal(syscall.SIGCONT))
	sleep(ctx, time.Second) // until the calls of that time have ended
	s.figure("p99 while one is frozen: %s of a send, %s of a pull", s.p99("send", nil, began, thawed), s.p99("pull", nil, began, thawed))
}

// sameOfBase does the same to the servers of baseRevision, and tells their figures.
func sameOfBase(s *scene, _ *check.Report) {
	if !*full {
		return
	}
	base, err := baseBin()
	if errors.Is(err, stack.ErrNoRevision) {
		s.Logf("not compared with an older version: %s", err)
		return
	}
	require.NoError(s, err)
	require.NoError(s, s.Stop())
	other, _ := s.fault.run(s.T, base)
	for _, figure := range other.figures {
		s.figure("revision %s, %s", baseRevision, figure)
	}
}

func killRedis(ctx context.Context, s *scene) {
	for ctx.Err() == nil {
		began := time.Now()
		s.Redis[0].Kill()
		s.times.Add(1)
		sleep(ctx, time.Second)
		s.start(s.Redis[0])
		s.allow("", http.StatusServiceUnavailable, began, time.Now().Add(time.Second))
		sleep(ctx, 3*time.Second)
	}
}

// smallDisk gives Redis a disk of its own.
func smallDisk(t *testing.T, o *stack.Options) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("needs root on Linux, to mount a disk")
	}
	disk := filepath.Join(o.Dir, "redis")
	require.NoError(t, os.Mkdir(disk, 0o755))
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk).CombinedOutput()
	if err != nil {
		t.Skipf("no tmpfs can be mounted here: %s", out)
	}
	t.Cleanup(func() { assert.NoError(t, exec.Command("umount", disk).Run()) })
}

// fillDisk fills Redis's disk, keeps starting the Redis that ends because of it,
// and makes room again.
func fillDisk(ctx context.Context, s *scene) {
	filler := filepath.Join(s.dir, "redis", "filler")
	for ctx.Err() == nil {
		began := time.Now()
		f, err := os.Create(filler)
		assert.NoError(s, err)
		for chunk := make([]byte, 4096); err == nil; {
			_, err = f.Write(chunk)
		}
		assert.ErrorIs(s, err, syscall.ENOSPC)
		f.Close()
		full, cancel := context.WithTimeout(ctx, 5*time.Second)
		for full.Err() == nil {
			select {
			case <-s.Redis[0].Done():
				s.times.Add(1)
				sleep(full, 200*time.Millisecond)
				assert.NoError(s, s.Redis[0].Start())
			case <-full.Done():
			}
		}
		cancel()
		assert.NoError(s, os.Remove(filler))
		// What met the full disk a moment ago may end after it has answered.
		ready, cancel := context.WithTimeout(context.Background(), time.Minute)
		for s.Redis[0].Wait(ready) != nil && ready.Err() == nil {
			assert.NoError(s, s.Redis[0].Start())
		}
		assert.NoError(s, ready.Err())
		cancel()
		s.allow("", http.StatusServiceUnavailable, began, time.Now().Add(time.Second))
		sleep(ctx, 5*time.Second)
	}
}

// redisClient speaks to the Redis of the scene.
func (s *scene) redisClient() redis.UniversalClient {
	c := s.RedisClient()
	s.Cleanup(func() { c.Close() })
	return c
}

// fillMemory leaves Redis no memory for more: sends are refused, while pulls, and
// sends of what is stored already, go on.
func fillMemory(ctx context.Context, s *scene) {
	c := s.redisClient()
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprint("stored-", i)
		assert.Equal(s, http.StatusOK, s.send(key))
		began := time.Now()
		assert.NoError(s, c.ConfigSet(context.Background(), "maxmemory", "1mb").Err()) // less than it has
		s.times.Add(1)
		assert.Equal(s, http.StatusServiceUnavailable, s.send(fmt.Sprint("new-", i)))
		assert.Equal(s, http.StatusOK, s.send(key), "it is there already")
		sleep(ctx, 2*time.Second)
		assert.NoError(s, c.ConfigSet(context.Background(), "maxmemory", "0").Err())
		s.allow("send", http.StatusServiceUnavailable, began, time.Now())
		sleep(ctx, time.Second)
	}
}

// send sends a message under a key, and gives the status: 0 for none.
func (s *scene) send(key string) int {
	req, err := http.NewRequest(http.MethodPost, s.URL()+"/api/send", strings.NewReader(`{"chat":"jack:marcus","text":"hello","sender":"jack"}`))
	assert.NoError(s, err)
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func disturbRedis(ctx context.Context, s *scene) {
	c := s.redisClient()
	disturbances := [][]any{{"SCRIPT", "FLUSH"}, {"CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"}, {"CLIENT", "PAUSE", 300, "ALL"}}
	for i := 0; ctx.Err() == nil; i++ {
		assert.NoError(s, c.Do(context.Background(), disturbances[i%3]...).Err())
		s.times.Add(1)
		sleep(ctx, 400*time.Millisecond)
	}
}

// stopEtcd stops etcd, starts a gateway meanwhile, and starts etcd again; later
// etcd loses its data.
func stopEtcd(ctx context.Context, s *scene) {
	away, calm := 90*time.Second, 15*time.Second
	if !*full {
		away, calm = 2*time.Second, 2*time.Second
	}
	s.Etcd.Kill()
	s.times.Add(1)
	late := s.AddGateway()
	assert.NoError(s, late.Start())
	sleep(ctx, away)
	assert.Error(s, stack.Ready(ctx, late.Admin), "it knows no rpc-server")
	s.start(s.Etcd)
	ready, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	assert.NoError(s, late.Wait(ready))
	sleep(ctx, calm)

	s.Etcd.Kill()
	s.times.Add(1)
	assert.NoError(s, os.RemoveAll(filepath.Join(s.dir, "etcd")))
	s.start(s.Etcd)
	for _, p := range s.RPCServers {
		assert.NoError(s, p.Wait(ready), "it is registered again")
	}
	sleep(ctx, calm)
}

// movableClock gives Redis a clock that moveClock can move.
func movableClock(t *testing.T, o *stack.Options) {
	if runtime.GOOS != "linux" {
		t.Skip("needs LD_PRELOAD")
	}
	shim, offset := filepath.Join(o.Dir, "clock.so"), filepath.Join(o.Dir, "offset")
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", shim, "testdata/clock.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(offset, make([]byte, 8), 0o644))
	o.RedisEnv = []string{"LD_PRELOAD=" + shim, "CLOCK_OFFSET=" + offset}
}

// moveClock sets Redis's clock back an hour.
func moveClock(ctx context.Context, s *scene) {
	c := s.redisClient()
	before := c.Time(ctx).Val()
	offset, err := os.OpenFile(filepath.Join(s.dir, "offset"), os.O_WRONLY, 0) // Redis has it mapped: it may never be shorter
	if !assert.NoError(s, err) {
		return
	}
	back := -time.Hour.Microseconds()
	_, err = offset.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(back)), 0)
	assert.NoError(s, errors.Join(err, offset.Close()))
	s.times.Add(1)
	if sleep(ctx, time.Second) {
		assert.Less(s, c.Time(ctx).Val(), before, "the clock has moved")
	}
	sleep(ctx, time.Hour)
}

// redisIs has the stack run Redis in a topology, and wait for replicas.
func redisIs(topology stack.Topology, replicas int) func(*testing.T, *stack.Options) {
	return func(_ *testing.T, o *stack.Options) {
		o.Topology = topology
		o.Settings = append(o.Settings, fmt.Sprint("REDIS_REPLICAS=", replicas))
	}
}

// moveSlots moves one slot with chats after the other to the next master, in the steps
// of Redis's own redis-cli --cluster reshard, which requests come between.
func moveSlots(ctx context.Context, s *scene) {
	background := context.Background()
	var masters []*redis.Client
	var ids []string
	for _, p := range s.Masters(ctx) {
		c := redis.NewClient(&redis.Options{Addr: p.Addr})
		defer c.Close()
		masters, ids = append(masters, c), append(ids, c.ClusterMyID(ctx).Val())
	}
	const between = 20 * time.Millisecond
	for i := 0; ctx.Err() == nil; i++ {
		n, next := i%len(masters), (i+1)%len(masters)
		from, to := masters[n], masters[next]
		key, err := from.RandomKey(background).Result()
		if err != nil { // it has none left
			sleep(ctx, between)
			continue
		}
		slot := from.ClusterKeySlot(background, key).Val()
		assert.NoError(s, to.Do(background, "cluster", "setslot", slot, "importing", ids[n]).Err())
		assert.NoError(s, from.Do(background, "cluster", "setslot", slot, "migrating", ids[next]).Err())
		sleep(ctx, between)
		host, port, _ := strings.Cut(to.Options().Addr, ":")
		for _, key := range from.ClusterGetKeysInSlot(background, int(slot), 1000).Val() {
			assert.NoError(s, from.Do(background, "migrate", host, port, key, 0, 5000).Err())
			sleep(ctx, between)
		}
		for _, c := range []*redis.Client{to, from, masters[(i+2)%len(masters)]} {
			assert.NoError(s, c.Do(background, "cluster", "setslot", slot, "node", ids[next]).Err())
		}
		s.times.Add(1)
		sleep(ctx, between)
	}
}

// freezeMaster freezes one of the masters of a Redis Cluster, and lets its chats alone
// fail. It measures how long the others' requests take before and meanwhile.
func freezeMaster(ctx context.Context, s *scene) {
	cluster := s.redisClient().(*redis.ClusterClient)
	assert.NoError(s, cluster.ForEachShard(ctx, func(ctx context.Context, c *redis.Client) error {
		return c.ConfigSet(ctx, "cluster-node-timeout", "60000").Err() // no replica takes over
	}))
	masters := s.Masters(ctx)
	p := masters[0]
	unavailable := func(chat string) bool {
		master, err := cluster.MasterForKey(context.Background(), "chat:"+chat)
		return assert.NoError(s, err) && master.Options().Addr == p.Addr
	}
	others := func(chat string) bool { return !unavailable(chat) }

	sleep(ctx, time.Second) // until each rpc-server knows the chats
	calm := time.Now()
	sleep(ctx, 5*time.Second)
	frozen := time.Now()
	assert.NoError(s, p.Signal(syscall.SIGSTOP))
	s.times.Add(1)
	sleep(ctx, 10*time.Second)
	assert.NoError(s, p.Signal(syscall.SIGCONT))
	thawed := time.Now()
	s.allowOf(unavailable, "", http.StatusServiceUnavailable, frozen, thawed.Add(time.Second))
	sleep(ctx, time.Second) // until the requests of that time have ended

	assert.Equal(s, masters, s.Masters(context.Background()), "no replica took over")
	for _, call := range []string{"send", "pull"} {
		s.figure("p99 of a %s in a chat of the other masters: %s before, %s while one is frozen",
			call, s.p99(call, others, calm, frozen), s.p99(call, others, frozen, thawed))
	}
}

// killMasters lets the replicas of one master after the other fall behind, kills it, and
// starts it again, as a replica, once another has taken over.
func killMasters(ctx context.Context, s *scene) {
	atFirst := len(s.Masters(ctx))
	for i := 0; ctx.Err() == nil; i++ {
		master := s.Masters(context.Background())[i%atFirst]
		replicas := s.ReplicasOf(context.Background(), master)
		began := time.Now()
		for _, p := range replicas {
			assert.NoError(s, p.Signal(syscall.SIGSTOP))
		}
		c := redis.NewClient(&redis.Options{Addr: master.Addr})
		assert.NoError(s, c.ClientKillByFilter(context.Background(), "TYPE", "REPLICA").Err()) // what it sends is lost, too
		c.Close()
		sleep(ctx, 300*time.Millisecond)
		master.Kill()
		s.times.Add(1)
		for _, p := range replicas {
			assert.NoError(s, p.Signal(syscall.SIGCONT))
		}
		killed := time.Now()
		healing, cancel := context.WithTimeout(context.Background(), time.Minute)
		for len(s.Masters(healing)) < atFirst && sleep(healing, 20*time.Millisecond) {
		}
		s.Logf("another took over after %.1f s", time.Since(killed).Seconds())
		s.start(master)
		for !s.whole(healing, atFirst, len(replicas)) && sleep(healing, 20*time.Millisecond) {
		}
		s.Logf("all was there again after %.1f s", time.Since(killed).Seconds())
		assert.NoError(s, healing.Err(), "it did not heal")
		cancel()
		s.allow("", http.StatusServiceUnavailable, began, time.Now().Add(time.Second))
		sleep(ctx, 2*time.Second)
	}
}

// few is a rate at which what is refused for ten seconds, until the old master is the
// replica, and sent again and again meanwhile, is not too much in itself.
func few(*scene) int { return 30 }

// whole tells whether there are so many masters, each with so many replicas, and whether
// Sentinels, if there are some, are done with it: else they may fail over once more.
func (s *scene) whole(ctx context.Context, masters, replicas int) bool {
	all := s.Masters(ctx)
	return len(all) == masters && s.SentinelsAgree(ctx) == nil && !slices.ContainsFunc(all, func(p *stack.Process) bool { return len(s.ReplicasOf(ctx, p)) != replicas })
}

// acknowledged tells whether what was acknowledged is there once and in order. A message
// that never was may have been seen, and be gone.
func acknowledged(r *check.Report) bool {
	return r.Acknowledged > 0 && r.Lost+r.Twice+r.Misordered+r.Unexpected+len(r.WrongLists) == 0
}

// once tells whether nothing is there twice.
func once(r *check.Report) bool { return r.Acknowledged > 0 && r.Twice+r.Unexpected == 0 }

// lossIsTold sees that replicas that are behind lose messages, or the rows that wait for
// them show nothing. Who follows is told where new messages do not hide it.
func lossIsTold(s *scene, r *check.Report) {
	s.Logf("%d lost; %d times a follower was told that its chat went back", r.Lost, r.WentBack)
	assert.NotZero(s, r.Lost)
}

func lowLimit(_ *testing.T, o *stack.Options) { o.Settings = append(o.Settings, "MAX_IN_FLIGHT=4") }

// twiceTheCapacity measures what as many writers as the limit lets through get
// done, and gives twice that.
func twiceTheCapacity(s *scene) int {
	capacity, failed := s.sendRate(4, 3*time.Second)
	require.Zero(s, failed, "requests failed")
	rate := 2 * int(capacity)
	s.Logf("%d messages a second are twice the capacity", rate)
	require.Positive(s, rate)
	s.allow("", http.StatusServiceUnavailable, time.Time{}, time.Now().Add(time.Hour))
	return rate
}

// recovered tells how quick the refusals were, and sees that the system is itself
// again.
func recovered(s *scene, report *check.Report) {
	require.NotZero(s, len(report.Failures), "the load was not too much")
	var took []time.Duration
	for _, f := range report.Failures {
		took = append(took, f.Took)
	}
	slices.Sort(took)
	s.Logf("%d refused, in %s at the median, %s at the 99th percentile", len(took), took[len(took)/2], took[len(took)*99/100])
	for _, p := range append(s.RPCServers, s.Gateways...) {
		s.Logf("%s: %d MiB resident", p.Name, p.Memory()>>20)
		assert.Less(s, p.Memory(), 256<<20, p.Name)
	}
	rate, failed := s.sendRate(3, 2*time.Second)
	assert.Zero(s, failed, "requests failed")
	s.Logf("then %.0f a second by 3 writers", rate)
}
