package chat

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file need what the stand-in has not: a process that stops,
// dies and comes back, settings, limits, a disk.

// short is a timeout for tests in which Redis does not answer.
const short = 200 * time.Millisecond

func TestStore_IsUnavailableWhileRedisIsFrozenAndThenGoesOn(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s, patient := newRig(t, server.addrs(), short), newRig(t, server.addrs(), patience)
	chat := newChat()
	m := keyed(t, chat, "ann", "hello", "k")
	q := query(t, chat, 0, 10, false, 0)
	for range 2 { // with connections and, the first time, without
		server.freeze(t)
		s.requireUnavailable(t, newChat())
		_, err := s.Append(t.Context(), m)
		require.ErrorIs(t, err, ErrUnavailable)

		server.thaw(t)
		eventually(t, func(t *assert.CollectT) {
			_, err := s.Append(context.Background(), m)
			require.NoError(t, err)
			_, err = s.Page(context.Background(), q)
			require.NoError(t, err)
		})
		require.Len(t, patient.all(t, chat), 1, "all attempts are one message")
	}
}

func TestStore_WithoutRedisIsUnavailable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	taken, err := net.Dial("tcp", listener.Addr().String()) // from a port where nobody else can listen
	require.NoError(t, err)
	defer taken.Close()
	newRig(t, taken.LocalAddr().String(), short).requireUnavailable(t, newChat())
}

func TestStore_KeepsWhatItAcknowledgedWhenRedisIsKilled(t *testing.T) {
	t.Parallel()
	const senders, enough = 8, 200
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	chat := newChat()
	q := query(t, chat, 0, 10, false, 0)
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		acked []Entry
		last  []Message // of each sender; nobody knows whether it is stored
	)
	sent := make(chan struct{}, enough)
	for sender := range senders {
		all.Go(func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d of sender %d", i, sender)
				m, err := NewMessage(chat, text, "ann", nil, maxText)
				if !assert.NoError(t, err) {
					return
				}
				got, err := s.Append(context.Background(), m)
				mu.Lock()
				if err != nil {
					assert.ErrorIs(t, err, ErrUnavailable)
					last = append(last, m)
					mu.Unlock()
					return
				}
				acked = append(acked, Entry{"ann", text, got})
				mu.Unlock()
				select {
				case sent <- struct{}{}:
				default:
				}
			}
		})
	}
	done := closedAfter(&all)
	requireMany(t, enough, sent, done)
	server.kill()
	<-done
	s.requireUnavailable(t, newChat())

	require.NoError(t, server.start())
	eventually(t, func(t *assert.CollectT) {
		require.NoError(t, s.Ping(context.Background()))
		_, err := s.Page(context.Background(), q)
		require.NoError(t, err)
	})
	stored := s.all(t, chat)
	require.Subset(t, stored, acked)
	require.True(t, slices.IsSortedFunc(stored, func(a, b Entry) int { return int(a.Time - b.Time) }))

	require.Len(t, last, senders)
	for _, m := range last { // the retry that a client owes
		s.append(t, m)
		s.append(t, m)
	}
	assert.Len(t, s.all(t, chat), len(acked)+senders, "each message once")
}

// afterNoScript does something once Redis has said that it does not know a script.
type afterNoScript struct{ do func() }

func (afterNoScript) DialHook(next redis.DialHook) redis.DialHook { return next }

func (afterNoScript) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (a afterNoScript) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			a.do()
		}
		return err
	}
}

func TestStore_IsUnavailableWhereRedisDiesBeforeItHasTheScript(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	for _, client := range []redis.UniversalClient{s.sends, s.pulls} {
		addHook(client, afterNoScript{server.kill})
		s.requireUnavailable(t, newChat())
		require.NoError(t, server.start())
		if *onCluster {
			require.NoError(t, server.untilInfo(t.Context(), "cluster_state:ok"))
		}
	}
}

func TestStore_AFullRedisServesWhatNeedsNoMemory(t *testing.T) {
	t.Parallel()
	s := newRig(t, ownRedis(t).addrs(), patience)
	chat := newChat()
	m := keyed(t, chat, "ann", "hello", "k")
	sent := s.append(t, m)

	s.config(t, "maxmemory", "1")
	_, err := s.Append(t.Context(), newMessage(t, chat, "ann", "more"))
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "OOM")
	assert.Equal(t, sent, s.append(t, m), "what is stored can be sent again")
	assert.Equal(t, []Entry{{"ann", "hello", sent}}, s.all(t, chat))

	s.config(t, "maxmemory", "0")
	s.append(t, newMessage(t, chat, "ann", "more"))
	assert.Len(t, s.all(t, chat), 2)
}

func TestAppend_IsUnavailableWhereRedisTakesNoWrites(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reply   string
		refuse  func(t *testing.T, s rig)
		canPage bool
	}{
		"replica": {"READONLY", func(t *testing.T, s rig) {
			require.NoError(t, s.redis.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
		}, true},
		"replica that does not serve stale data": {"MASTERDOWN", func(t *testing.T, s rig) {
			s.config(t, "replica-serve-stale-data", "no")
			require.NoError(t, s.redis.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
		}, false},
		"too few replicas": {"NOREPLICAS", func(t *testing.T, s rig) {
			s.config(t, "min-replicas-to-write", "1")
		}, true},
	}
	if *onCluster { // which has no REPLICAOF
		delete(tests, "replica")
		delete(tests, "replica that does not serve stale data")
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t, ownRedis(t).addrs(), patience)
			chat := newChat()
			sent := s.append(t, newMessage(t, chat, "ann", "hello"))

			test.refuse(t, s)
			for _, m := range []Message{newMessage(t, chat, "ann", "more"), newMessage(t, newChat(), "ann", "more")} {
				_, err := s.Append(t.Context(), m)
				require.ErrorIs(t, err, ErrUnavailable)
				require.ErrorContains(t, err, test.reply)
			}
			if test.canPage {
				require.Equal(t, []Entry{{"ann", "hello", sent}}, s.all(t, chat))
				return
			}
			_, err := s.Page(t.Context(), query(t, chat, 0, 10, false, 0))
			require.ErrorIs(t, err, ErrUnavailable)
		})
	}
}

func TestStore_IsUnavailableWhileAScriptKeepsRedisBusy(t *testing.T) {
	t.Parallel()
	s := newRig(t, ownRedis(t).addrs(), patience)
	s.requireWorks(t)
	s.config(t, "busy-reply-threshold", "1")

	ended := make(chan error)
	go func() { ended <- s.redis.Eval(context.Background(), "while true do end", nil).Err() }()
	eventually(t, func(t *assert.CollectT) {
		require.True(t, redis.HasErrorPrefix(s.redis.Ping(context.Background()).Err(), "BUSY"))
	})
	s.requireUnavailable(t, newChat())

	require.NoError(t, s.redis.ScriptKill(t.Context()).Err())
	require.Error(t, <-ended)
	s.requireWorks(t)
}

func TestStore_IsUnavailableWhereRedisHasNoRoomForAClient(t *testing.T) {
	t.Parallel()
	s := newRig(t, ownRedis(t).addrs(), short)
	s.config(t, "maxclients", "1") // the one that says so
	require.NoError(t, s.redis.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Err())
	s.requireUnavailable(t, newChat())

	s.config(t, "maxclients", "100")
	s.requireWorks(t)
}

func TestStore_TheCallersDeadlineIsNotTheStores(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	s.requireWorks(t)
	server.freeze(t)

	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	canceled, cancel := context.WithCancel(t.Context())
	context.AfterFunc(late, cancel)
	for ctx, want := range map[context.Context]error{late: context.DeadlineExceeded, canceled: context.Canceled} {
		for _, err := range s.errors(ctx, t, newChat()) {
			assert.ErrorIs(t, err, want)
			assert.NotErrorIs(t, err, ErrUnavailable)
		}
	}
}

func TestAppend_IsUnavailableWhileTheQueueIsFull(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRigWith(t, redis.UniversalOptions{Addrs: strings.Split(server.addrs(), ",")}, patience, 2, 0)
	chat := newChat()
	s.append(t, newMessage(t, chat, "ann", "hello"))
	server.freeze(t)

	// Three want two places: who gets one has to wait, the other knows at once.
	ended := make(chan error)
	for range 3 {
		m := newMessage(t, chat, "ann", "hello")
		go func() {
			_, err := s.Append(context.Background(), m)
			ended <- err
		}()
	}
	err := <-ended
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, ErrQueueFull)

	server.thaw(t)
	require.NoError(t, <-ended)
	require.NoError(t, <-ended)
	require.Len(t, s.all(t, chat), 3, "what was refused is not stored")
}

func TestDurability_ListsEachSettingThatMayLoseMessages(t *testing.T) {
	t.Parallel()
	s := newRig(t, ownRedis(t).addrs(), patience)
	settings, err := s.Durability(t.Context())
	require.NoError(t, err)
	require.Len(t, settings, 4)
	require.Empty(t, settings.Weak(), "as the project configures it")

	tests := []struct{ setting, value, differs string }{
		{"appendonly", "no", `appendonly is "no", not "yes"`},
		{"appendfsync", "everysec", `appendfsync is "everysec", not "always"`},
		{"no-appendfsync-on-rewrite", "yes", `no-appendfsync-on-rewrite is "yes", not "no"`},
		{"maxmemory-policy", "allkeys-lru", `maxmemory-policy is "allkeys-lru", not "noeviction"`},
	}
	var want []string
	for _, test := range tests { // each adds to those before
		s.config(t, test.setting, test.value)
		want = append(want, test.differs)
		settings, err := s.Durability(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, settings.Weak())
	}
}

func TestDurability_IsAnErrorWhereRedisDoesNotShowItsSettings(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	admin := newRig(t, server.addrs(), patience)
	require.NoError(t, admin.redis.Do(t.Context(), "ACL", "SETUSER", "im", "on", ">secret", "~chat:*", "~inbox:*", "+@all", "-config").Err())
	s := newRigWith(t, redis.UniversalOptions{Addrs: strings.Split(server.addrs(), ","), Username: "im", Password: "secret"}, patience, 10, 0)
	s.requireWorks(t)
	_, err := s.Durability(t.Context())
	require.ErrorContains(t, err, "NOPERM")
}

// TestStore_NeedsTheRightsThatAreDocumentedAlone gives its user what docs/operations.md says.
func TestStore_NeedsTheRightsThatAreDocumentedAlone(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	rights := regexp.MustCompile("(?m)^ACL SETUSER im .*$").FindString(string(doc))
	require.NotEmpty(t, rights)
	server := ownRedis(t)
	admin := newRig(t, server.addrs(), patience)
	var args []any
	for word := range strings.FieldsSeq(strings.Replace(rights, "PASSWORD", "secret", 1)) {
		args = append(args, word)
	}
	require.NoError(t, admin.redis.Do(t.Context(), args...).Err())
	s := newRigWith(t, redis.UniversalOptions{Addrs: strings.Split(server.addrs(), ","), Username: "im", Password: "secret"}, patience, 10, 0)
	s.requireWorks(t)
	chat := newChat()
	s.append(t, newMessage(t, chat, "ann", "hello"))
	m, err := NewMark(chat, "ann", 1)
	require.NoError(t, err)
	_, err = s.Mark(t.Context(), m)
	require.NoError(t, err)
	q, err := NewListQuery("ann", 0, 0)
	require.NoError(t, err)
	list, err := s.Chats(t.Context(), q)
	require.NoError(t, err)
	assert.NotEmpty(t, list.Chats)
	_, err = s.Durability(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Reindex(t.Context(), func(int) {}))
	s.lookAtServers(t.Context())
	assert.NotEmpty(t, s.inboxes.servers, "its run id is known")
	denied, err := admin.redis.Do(t.Context(), "ACL", "LOG").Slice()
	require.NoError(t, err)
	assert.Empty(t, denied)
}

// TestPage_HoldsRedisForAMomentOnly is not parallel: it measures. A busy machine
// holds Redis up, too, so only a page that is slow each time counts.
func TestPage_HoldsRedisForAMomentOnly(t *testing.T) {
	const count, attempts = 1000, 5
	s := newRig(t, ownRedis(t).addrs(), patience)
	chat := newChat()
	text := a(64 << 10)
	s.fill(t, chat, count, func(int) string { return text })

	// page gives the number of messages and what the slow log has of it.
	page := func(cursor, limit int, reverse bool) (entries int, slow []time.Duration) {
		require.NoError(t, s.redis.Do(t.Context(), "SLOWLOG", "RESET").Err())
		entries = len(s.page(t, chat, int64(cursor), int32(limit), reverse, 0).Entries)
		log, err := s.redis.SlowLogGet(t.Context(), -1).Result()
		require.NoError(t, err)
		for _, entry := range log {
			if name := strings.ToLower(entry.Args[0]); name == "evalsha" || name == "zrange" {
				slow = append(slow, entry.Duration)
			}
		}
		return entries, slow
	}

	s.config(t, "slowlog-log-slower-than", "0")
	page(0, 1, false) // Redis has the script now
	_, slow := page(0, 1, false)
	require.NotEmpty(t, slow, "the slow log would not show a slow page")

	s.config(t, "slowlog-log-slower-than", "10000") // microseconds
	for _, reverse := range []bool{false, true} {
		for cursor := 0; cursor < count; {
			entries, slow := page(cursor, 1000, reverse)
			for range attempts - 1 {
				if len(slow) == 0 {
					break
				}
				entries, slow = page(cursor, 1000, reverse)
			}
			require.Empty(t, slow, "holds Redis for more than 10 ms each time")
			require.Positive(t, entries)
			cursor += entries
		}
	}
}

// config changes a setting of Redis.
func (s rig) config(t testing.TB, name, value string) {
	t.Helper()
	require.NoError(t, s.redis.ConfigSet(t.Context(), name, value).Err())
}

// requireWorks checks that a message can be sent and pulled, soon.
func (s rig) requireWorks(t testing.TB) {
	t.Helper()
	chat := newChat()
	m := keyed(t, chat, "ann", "hello", "k")
	q := query(t, chat, 0, 10, false, 0)
	eventually(t, func(t *assert.CollectT) {
		sent, err := s.Append(context.Background(), m)
		require.NoError(t, err)
		page, err := s.Page(context.Background(), q)
		require.NoError(t, err)
		require.Equal(t, []Entry{{"ann", "hello", sent}}, page.Entries)
	})
}

// TestPage_ManyLargeOnesWaitForTheirTurn takes all turns: another large page is not
// begun then, while small ones are read.
func TestPage_ManyLargeOnesWaitForTheirTurn(t *testing.T) {
	s := newRig(t, ownRedis(t).addrs(), patience)
	large, small := newChat(), newChat()
	s.fill(t, large, 10, func(int) string { return a(32 << 10) })
	s.fill(t, small, 10, func(int) string { return "hello" })
	for range largePages {
		s.large <- struct{}{}
	}
	query, err := NewQuery(large, 0, 10, false, 0)
	require.NoError(t, err)
	waiting, cancel := context.WithCancel(t.Context())
	refused := make(chan error)
	go func() {
		_, err := s.Page(waiting, query)
		refused <- err
	}()
	assert.Len(t, s.page(t, small, 0, 10, false, 0).Entries, 10)
	assert.Len(t, s.page(t, large, 0, 1, false, 0).Entries, 1, "a small page of a chat of large messages")
	select {
	case err := <-refused:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	assert.ErrorIs(t, <-refused, context.Canceled)

	<-s.large
	assert.Len(t, s.page(t, large, 0, 10, false, 0).Entries, 10)
	assert.Len(t, s.page(t, large, 0, 10, false, 0).Entries, 10, "it gave its turn back")
}

func TestStore_IsUnavailableWhereRedisDoesNotTakeThePassword(t *testing.T) {
	t.Parallel()
	if *onCluster {
		t.Skip("the nodes of a Redis Cluster would need the password for each other")
	}
	server := ownRedis(t)
	control := redis.NewClient(&redis.Options{Addr: server.addr})
	defer control.Close()
	require.NoError(t, control.ConfigSet(t.Context(), "requirepass", "right").Err())
	for name, password := range map[string]string{"WRONGPASS": "wrong", "NOAUTH": ""} {
		s := newRigWith(t, redis.UniversalOptions{Addrs: []string{server.addr}, Password: password}, patience, 1000, 0)
		for _, err := range append(s.errors(t.Context(), t, newChat()), s.Ping(t.Context())) {
			require.ErrorIs(t, err, ErrUnavailable, name)
			require.ErrorContains(t, err, name)
		}
	}
	s := newRigWith(t, redis.UniversalOptions{Addrs: []string{server.addr}, Password: "right"}, patience, 1000, 0)
	for _, err := range s.errors(t.Context(), t, newChat()) {
		require.NoError(t, err)
	}
}

// TestStore_FindsTheMasterThatTookOverAtItsAddress has an address that leads to one Redis and,
// from some moment on, to another one, while the first still answers: that of a load balancer,
// or of a Service.
func TestStore_FindsTheMasterThatTookOverAtItsAddress(t *testing.T) {
	t.Parallel()
	if *onCluster {
		t.Skip("the masters of a Redis Cluster name each other")
	}
	old, next := ownRedis(t), ownRedis(t)
	var target atomic.Pointer[redisServer]
	target.Store(old)
	front, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer front.Close()
	go func() {
		for {
			in, err := front.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target.Load().addr)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	given := newRig(t, front.Addr().String(), patience).pulls.(*redis.Client).Options()
	assert.Positive(t, given.ConnMaxLifetime)
	assert.LessOrEqual(t, given.ConnMaxLifetime+given.ConnMaxLifetimeJitter, maxConnAge)
	const age = time.Second
	s := newRigWith(t, redis.UniversalOptions{Addrs: []string{front.Addr().String()}, ConnMaxLifetime: age}, patience, 1000, 0)
	chat := newChat()
	s.append(t, newMessage(t, chat, "ann", "at the old one"))
	require.Len(t, s.all(t, chat), 1)

	target.Store(next)
	moved := newRig(t, next.addr, patience)
	moved.append(t, newMessage(t, chat, "ann", "at the new one"))
	moved.append(t, newMessage(t, chat, "ann", "at the new one"))
	q := query(t, chat, 0, 10, false, 0)
	eventually(t, func(c *assert.CollectT) { // though it is asked all the time, and never fails
		page, err := s.Page(t.Context(), q)
		assert.NoError(t, err)
		assert.Len(c, page.Entries, 2, "of the new one")
	})
}
