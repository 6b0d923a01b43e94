package chat

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// rig is a store and, beside it, a plain client of the same Redis, which shows
// what lies there and puts things there without the store's help.
type rig struct {
	*Store
	addrs string
	redis redis.UniversalClient
}

// newRig opens a store on the Redis at addrs, separated by commas, for as long as the
// test runs.
func newRig(t testing.TB, addrs string, timeout time.Duration) rig {
	t.Helper()
	return newRigWith(t, redis.UniversalOptions{Addrs: strings.Split(addrs, ",")}, timeout, 10000, 0)
}

func newRigWith(t testing.TB, o redis.UniversalOptions, timeout time.Duration, maxQueued, replicas int) rig {
	t.Helper()
	store := Open(o, timeout, maxQueued, replicas)
	client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: o.Addrs, MasterName: o.MasterName, ReadTimeout: patience})
	t.Cleanup(func() {
		store.Close() // is an error if the test closed it
		client.Close()
	})
	return rig{store, strings.Join(o.Addrs, ","), client}
}

// Append appends a single message.
func (s rig) Append(ctx context.Context, m Message) (int64, error) {
	result := s.Store.Append(ctx, m)[0]
	return result.Value, result.Err
}

// knows has the store believe that a chat is in the inboxes of its members.
func (s rig) knows(t testing.TB, chat string) {
	t.Helper()
	s.lookAtServers(t.Context())
	room, err := ParseRoom(chat)
	require.NoError(t, err)
	s.inboxes.mu.Lock()
	defer s.inboxes.mu.Unlock()
	s.inboxes.put[room] = time.Now()
}

// onBoth runs test on the stand-in and on a real Redis.
func onBoth(t *testing.T, test func(t *testing.T, s rig)) {
	t.Helper()
	t.Run("stand-in", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, miniredis.RunT(t).Addr(), patience))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, sharedRedis(t), patience))
	})
}

// newChat is a chat of ann's that no other test has, written as its room is.
func newChat() string { return "ann:zoe-" + strings.ToLower(rand.Text()) }

// newMessage is a message like no other.
func newMessage(t testing.TB, chat, sender, text string) Message {
	t.Helper()
	m, err := NewMessage(chat, text, sender, nil, maxText)
	require.NoError(t, err)
	return m
}

// keyed is a message with an idempotency key.
func keyed(t testing.TB, chat, sender, text, key string) Message {
	t.Helper()
	m, err := NewMessage(chat, text, sender, &key, maxText)
	require.NoError(t, err)
	return m
}

func query(t testing.TB, chat string, cursor int64, limit int32, reverse bool, total int64) Query {
	t.Helper()
	q, err := NewQuery(chat, cursor, limit, reverse, total)
	require.NoError(t, err)
	return q
}

// append appends m and gives its time.
func (s rig) append(t testing.TB, m Message) int64 {
	t.Helper()
	got, err := s.Append(t.Context(), m)
	require.NoError(t, err)
	return got
}

func (s rig) page(t testing.TB, chat string, cursor int64, limit int32, reverse bool, total int64) Page {
	t.Helper()
	page, err := s.Page(t.Context(), query(t, chat, cursor, limit, reverse, total))
	require.NoError(t, err)
	require.False(t, page.HasMore && len(page.Entries) == 0, "an empty page must be the last")
	return page
}

// pull reads all messages page by page.
func (s rig) pull(t testing.TB, chat string, limit int32, reverse bool) []Entry {
	t.Helper()
	var all []Entry
	page := Page{HasMore: true}
	for page.HasMore {
		page = s.page(t, chat, page.NextCursor, limit, reverse, page.Total)
		all = append(all, page.Entries...)
	}
	return all
}

// all are the messages of chat, oldest first.
func (s rig) all(t testing.TB, chat string) []Entry {
	t.Helper()
	return s.pull(t, chat, MaxLimit, false)
}

// errors are those of an append and of a page.
func (s rig) errors(ctx context.Context, t testing.TB, chat string) []error {
	t.Helper()
	_, appended := s.Append(ctx, newMessage(t, chat, "ann", "hello"))
	_, paged := s.Page(ctx, query(t, chat, 0, 10, false, 0))
	return []error{appended, paged}
}

// requireUnavailable checks that nothing works, and that Redis is why.
func (s rig) requireUnavailable(t testing.TB, chat string) {
	t.Helper()
	for _, err := range append(s.errors(t.Context(), t, chat), s.Ping(t.Context())) {
		require.ErrorIs(t, err, ErrUnavailable)
		require.NotErrorIs(t, err, ErrCorrupt)
	}
}

// clock is what Redis takes the time to be, in microseconds since the Unix epoch.
func (s rig) clock(t testing.TB) int64 {
	t.Helper()
	now, err := s.redis.Time(t.Context()).Result()
	require.NoError(t, err)
	return now.UnixMicro()
}

// zadd puts a member into the set of chat by hand.
func (s rig) zadd(t testing.TB, chat, score, member string) {
	t.Helper()
	require.NoError(t, s.redis.Do(t.Context(), "ZADD", "chat:"+chat, score, member).Err())
}

// fill puts count messages of ann's into chat by hand, a microsecond apart, and
// gives them, oldest first.
func (s rig) fill(t testing.TB, chat string, count int, text func(i int) string) []Entry {
	t.Helper()
	const start = 1763990000000000
	all := make([]Entry, count)
	pipe := s.redis.Pipeline()
	for i := range all {
		all[i] = Entry{"ann", text(i), start + int64(i)}
		m := Message{id: strconv.Itoa(i), sender: "ann", text: all[i].Text}
		pipe.ZAdd(t.Context(), "chat:"+chat, redis.Z{Score: float64(all[i].Time), Member: appendMember(nil, m)})
		if pipe.Len() == 100 || i == count-1 {
			_, err := pipe.Exec(t.Context())
			require.NoError(t, err)
		}
	}
	return all
}

// closedAfter is closed when all are done.
func closedAfter(all *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	return done
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// requireMany waits until n have been sent. It fails the test if all senders are
// done before.
func requireMany(t testing.TB, n int, sent, done <-chan struct{}) {
	t.Helper()
	for i := range n {
		select {
		case <-sent:
		case <-done:
			require.FailNow(t, "all senders have given up", "after %d messages", i)
		}
	}
}

// eventually polls until check finds nothing wrong.
func eventually(t testing.TB, check func(t *assert.CollectT)) {
	t.Helper()
	require.EventuallyWithT(t, check, patience, 10*time.Millisecond)
}
