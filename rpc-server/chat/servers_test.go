package chat

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file start several servers: a Redis Cluster, or a master with
// replicas.

// ownCluster starts a Redis Cluster for this test alone.
func ownCluster(t *testing.T, masters int) []*redisServer {
	t.Helper()
	servers, err := startCluster(t.TempDir(), masters)
	skipWithoutRedis(t, err)
	for _, s := range servers {
		t.Cleanup(s.kill)
	}
	return servers
}

// addNode starts a node in the Redis Cluster of s, which has so many nodes then.
func (s *redisServer) addNode(t *testing.T, nodes int) *redisServer {
	t.Helper()
	node, err := startClusterNode(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(node.kill)
	require.NoError(t, node.meet(t.Context(), s))
	require.NoError(t, node.untilInfo(t.Context(), "cluster_known_nodes:"+strconv.Itoa(nodes)+"\r", "cluster_state:ok"))
	return node
}

// addReplica starts a replica of s in its Redis Cluster, which has so many nodes then.
func (s *redisServer) addReplica(t *testing.T, nodes int) {
	t.Helper()
	client := s.addNode(t, nodes).client()
	defer client.Close()
	eventually(t, func(t *assert.CollectT) { // it may not know its master yet
		require.NoError(t, client.ClusterReplicate(context.Background(), s.id(t)).Err())
	})
	s.untilReplicas(t, 1)
}

// id is the server's in its Redis Cluster.
func (s *redisServer) id(t require.TestingT) string {
	client := s.client()
	defer client.Close()
	id, err := client.ClusterMyID(context.Background()).Result()
	require.NoError(t, err)
	return id
}

// untilReplicas waits until so many replicas have all that the server has.
func (s *redisServer) untilReplicas(t *testing.T, n int64) {
	t.Helper()
	client := s.client()
	defer client.Close()
	eventually(t, func(t *assert.CollectT) {
		pipe := client.Pipeline()
		pipe.Publish(context.Background(), "any", "word") // is something to wait for
		wait := pipe.Do(context.Background(), "wait", n, 100)
		_, err := pipe.Exec(context.Background())
		require.NoError(t, err)
		require.EqualValues(t, n, wait.Val())
	})
}

// moveSlot moves the slot of key to another master, bit by bit, and calls after for
// each step.
func moveSlot(t *testing.T, key string, from, to *redisServer, after func(step string)) {
	t.Helper()
	source, target := from.client(), to.client()
	defer source.Close()
	defer target.Close()
	slot, err := source.ClusterKeySlot(t.Context(), key).Result()
	require.NoError(t, err)
	do := func(t require.TestingT, client *redis.Client, args ...any) {
		require.NoError(t, client.Do(context.Background(), args...).Err())
	}
	eventually(t, func(t *assert.CollectT) { // they may not know each other yet
		do(t, target, "cluster", "setslot", slot, "importing", from.id(t))
		do(t, source, "cluster", "setslot", slot, "migrating", to.id(t))
	})
	after("about to move")
	host, port, _ := strings.Cut(to.addr, ":")
	do(t, source, "migrate", host, port, key, 0, 1000)
	after("moved, its slot has not")
	for _, client := range []*redis.Client{target, source} {
		do(t, client, "cluster", "setslot", slot, "node", to.id(t))
	}
	after("moved with its slot")
}

func TestStore_FollowsAChatThatMovesToAnotherMaster(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{0, 1} {
		t.Run(strconv.Itoa(replicas)+" replicas", func(t *testing.T) {
			t.Parallel()
			servers := ownCluster(t, 2)
			servers = append(servers, servers[0].addNode(t, 3)) // a master without slots, as a new one is
			for i, master := range servers[:len(servers)*replicas] {
				master.addReplica(t, 4+i)
			}
			s := newRigWith(t, redis.UniversalOptions{Addrs: strings.Split(addrs(servers), ",")}, patience, 100, replicas)
			chat := newChat()
			key := "chat:" + chat
			var want []Entry
			works := func(step string) {
				t.Helper()
				want = append(want, Entry{"ann", step, s.append(t, newMessage(t, chat, "ann", step))})
				assert.Equal(t, want, s.all(t, chat), step)
			}
			works("at the first master")
			first := servers[0].client()
			defer first.Close()
			if n, err := first.Exists(t.Context(), key).Result(); err != nil || n == 0 { // not the one that has it
				servers[0], servers[1] = servers[1], servers[0]
			}
			moveSlot(t, key, servers[0], servers[2], works)
			moveSlot(t, key, servers[2], servers[1], works)
		})
	}
}

// TestPipelines_AFrozenMasterCostsItsOwnChatsOnly has batches with chats of all masters of a
// Redis Cluster, of which one stands still for a while.
func TestPipelines_AFrozenMasterCostsItsOwnChatsOnly(t *testing.T) {
	t.Parallel()
	servers := ownCluster(t, 3)
	for _, server := range servers { // as it should be: a master that is away does not end the others' service
		client := server.client()
		defer client.Close()
		require.NoError(t, client.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err())
	}
	s := newRig(t, addrs(servers), 2*time.Second)
	chats := make([]string, len(servers)) // one of each master
	for slices.Contains(chats, "") {
		chat := newChat()
		chats[slotOf(keyOf(t, chat))*len(servers)/slotCount] = chat
	}
	batch := func() (appended []Result[int64], read []Result[Page]) {
		var ms []Message
		var qs []Query
		for _, chat := range chats {
			ms, qs = append(ms, newMessage(t, chat, "ann", "hello")), append(qs, query(t, chat, 0, 10, false, 0))
		}
		return s.Store.Append(t.Context(), ms...), s.FirstParts(t.Context(), qs...)
	}
	all := func(t require.TestingT) {
		appended, read := batch()
		for i := range chats {
			require.NoError(t, appended[i].Err)
			require.NoError(t, read[i].Err)
		}
	}
	eventually(t, func(t *assert.CollectT) { all(t) }) // the client knows the masters

	servers[1].freeze(t)
	for range 5 {
		appended, read := batch()
		for i := range chats {
			if i == 1 {
				assert.ErrorIs(t, appended[i].Err, ErrUnavailable)
				assert.ErrorIs(t, read[i].Err, ErrUnavailable)
				continue
			}
			assert.NoError(t, appended[i].Err)
			assert.NoError(t, read[i].Err)
		}
	}
	for _, err := range s.errors(t.Context(), t, chats[1]) {
		assert.ErrorIs(t, err, errEjected, "nobody waits for it")
	}
	servers[1].thaw(t)
	eventually(t, func(t *assert.CollectT) { all(t) })
}

func TestAppend_WaitsForReplicasAndARetryWaitsAgain(t *testing.T) {
	t.Parallel()
	master, err := startRedis(t.TempDir())
	skipWithoutRedis(t, err)
	t.Cleanup(master.kill)
	host, port, _ := strings.Cut(master.addr, ":")
	replica, err := startRedis(t.TempDir(), "--replicaof", host+" "+port)
	require.NoError(t, err)
	t.Cleanup(replica.kill)
	master.untilReplicas(t, 1)

	s := newRigWith(t, redis.UniversalOptions{Addrs: []string{master.addr}}, time.Second, 100, 1)
	chat := newChat()
	sent := []Entry{{"ann", "hello", s.append(t, newMessage(t, chat, "ann", "hello"))}}
	there := newRig(t, replica.addr, patience)
	assert.Equal(t, sent, there.all(t, chat), "the replica has what was acknowledged")

	replica.freeze(t)
	m := keyed(t, chat, "ann", "more", "k")
	others := newRig(t, master.addr, patience)
	written := others.writes(t)
	for range 3 {
		_, err := s.Append(t.Context(), m)
		require.ErrorIs(t, err, errFewReplicas)
		require.ErrorIs(t, err, ErrUnavailable)
		require.Greater(t, others.writes(t), written, "a Redis of version 7.2 waits only for what its connection wrote")
		written = others.writes(t)
	}
	assert.Len(t, others.all(t, chat), 2, "it is stored, once")

	assert.EqualValues(t, 3, s.gathered(t, "redis_round_trip_failures_total", "sends").Counter.GetValue())
	batches := s.gathered(t, "redis_batch_commands", "").Histogram
	assert.EqualValues(t, batches.GetSampleCount(), batches.GetSampleSum(), "one message each, WAIT is none")
	assert.Zero(t, s.gathered(t, "redis_queue_commands", "").Gauge.GetValue())

	replica.thaw(t)
	eventually(t, func(t *assert.CollectT) {
		_, err := s.Append(context.Background(), m)
		require.NoError(t, err)
	})
	assert.Equal(t, others.all(t, chat), there.all(t, chat))
	assert.Len(t, there.all(t, chat), 2)
	expires, err := others.redis.TTL(t.Context(), "chat:"+chat).Result()
	require.NoError(t, err)
	assert.Equal(t, time.Duration(-1), expires, "must not expire")
}

func TestDurability_IsThatOfTheWeakestMaster(t *testing.T) {
	t.Parallel()
	servers := ownCluster(t, 3)
	s := newRig(t, addrs(servers), patience)
	settings, err := s.Durability(t.Context())
	require.NoError(t, err)
	require.Len(t, settings, 4)
	require.Empty(t, settings.Weak())

	weak := servers[1].client()
	defer weak.Close()
	require.NoError(t, weak.ConfigSet(t.Context(), "appendfsync", "everysec").Err())
	for range 5 { // in whatever order they answer
		settings, err = s.Durability(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{`appendfsync is "everysec", not "always"`}, settings.Weak())
	}
}

// writes counts what Redis has to replicate and to save since it was started.
func (s rig) writes(t testing.TB) int {
	t.Helper()
	info, err := s.redis.Info(t.Context(), "persistence").Result()
	require.NoError(t, err)
	_, rest, _ := strings.Cut(info, "rdb_changes_since_last_save:")
	writes, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.Atoi(writes)
	require.NoError(t, err)
	return n
}

func TestAppend_IsUnavailableWhileTooManyWaitForReplicas(t *testing.T) {
	t.Parallel()
	s := newRigWith(t, redis.UniversalOptions{Addrs: []string{ownRedis(t).addr}}, 6*time.Second, 1, 1)
	chat := newChat()
	s.knows(t, chat)
	waits := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(waits)
		_, err := s.Append(ctx, newMessage(t, chat, "ann", "hello"))
		assert.ErrorIs(t, err, context.Canceled)
	}()
	eventually(t, func(t *assert.CollectT) { require.EqualValues(t, 1, s.appends.waiting.Load()) })
	_, err := s.Append(t.Context(), newMessage(t, chat, "ann", "more"))
	require.ErrorIs(t, err, ErrQueueFull)
	require.ErrorIs(t, err, ErrUnavailable)
	stop()
	<-waits
	for _, e := range s.all(t, chat) {
		assert.NotEqual(t, "more", e.Text, "what was refused is not stored")
	}
}
