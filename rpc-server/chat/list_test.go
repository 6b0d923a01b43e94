package chat

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"im/internal/member"
)

// TestLists_AreThoseOfAPlainModel lets chance choose who sends what to whom, who reads how far,
// and when the process is another one.
func TestLists_AreThoseOfAPlainModel(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		rapid.Check(t, func(rt *rapid.T) {
			suffix := strings.ToLower(newChat()[len("ann:zoe"):])
			m := &talk{rig: rig{open(s.addrs), s.addrs, s.redis}, rooms: map[Room][]Entry{}, marks: map[Member]map[Room]int64{}}
			for _, name := range []string{"ann", "bob", "Zoë", "{x}", "a{b}c", strings.Repeat("Ⱥ", 50)} {
				m.names = append(m.names, name+suffix)
			}
			defer func() { m.rig.Store.Close() }()
			rt.Repeat(map[string]func(*rapid.T){
				"send":         m.send,
				"send much":    func(rt *rapid.T) { m.sendSome(rt, rapid.IntRange(90, 110).Draw(rt, "count")) },
				"read":         m.read,
				"list":         m.list,
				"wait":         m.total,
				"be restarted": m.restart,
			})
			for _, name := range m.names {
				m.check(rt, name, 0, MaxChats)
			}
		})
	})
}

// talk is what several members have said to each other, and what their lists have to be.
type talk struct {
	rig   rig
	names []string
	rooms map[Room][]Entry // oldest first
	marks map[Member]map[Room]int64
}

func (m *talk) name(t *rapid.T, label string) string {
	return rapid.SampledFrom(m.names).Draw(t, label)
}

func (m *talk) send(t *rapid.T) { m.sendSome(t, 1) }

func (m *talk) sendSome(t *rapid.T, count int) {
	from, to := m.name(t, "from"), m.name(t, "to")
	messages := make([]Message, count)
	for i := range messages {
		var err error
		messages[i], err = NewMessage(to+":"+from, fmt.Sprint("text ", i), from, nil, maxText)
		require.NoError(t, err)
	}
	for i, stored := range m.rig.Store.Append(t.Context(), messages...) {
		require.NoError(t, stored.Err)
		room := messages[i].room
		m.rooms[room] = append(m.rooms[room], Entry{from, messages[i].text, stored.Value})
	}
	for _, entries := range m.rooms {
		slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Time, b.Time) })
	}
}

func (m *talk) read(t *rapid.T) {
	name, other := m.name(t, "name"), m.name(t, "other")
	read := rapid.Int64Range(0, 250).Draw(t, "read")
	mark, err := NewMark(other+":"+name, name, read)
	require.NoError(t, err)
	kept, err := m.rig.Mark(t.Context(), mark)
	require.NoError(t, err)
	if m.marks[mark.member] == nil {
		m.marks[mark.member] = map[Room]int64{}
	}
	want := max(m.marks[mark.member][mark.room], min(read, int64(len(m.rooms[mark.room]))))
	m.marks[mark.member][mark.room] = want
	require.Equal(t, want, kept)
}

func (m *talk) list(t *rapid.T) {
	m.check(t, m.name(t, "name"), rapid.Int64Range(0, 6).Draw(t, "cursor"), rapid.Int32Range(0, 6).Draw(t, "limit"))
}

func (m *talk) total(t *rapid.T) {
	name := m.name(t, "name")
	_, want := m.want(t, name)
	who, err := ParseMember(name)
	require.NoError(t, err)
	total, err := m.rig.Total(t.Context(), who)
	require.NoError(t, err)
	require.Equal(t, want, total)
}

func (m *talk) restart(t *rapid.T) {
	before := m.rig.Store
	m.rig.Store = open(m.rig.addrs)
	require.NoError(t, before.Close())
}

func open(addrs string) *Store {
	return Open(redis.UniversalOptions{Addrs: strings.Split(addrs, ",")}, patience, 10000, 0)
}

// want returns the whole list of a member, and its total.
func (m *talk) want(t *rapid.T, name string) (all []Listed, total int64) {
	who := Member{member.Fold(name)}
	for room, entries := range m.rooms {
		if !room.has(name) {
			continue
		}
		l := Listed{Room: room, Total: int64(len(entries)), Read: m.marks[who][room], Last: entries[len(entries)-1]}
		for i := len(entries) - 1; i >= int(l.Read) && member.Fold(entries[i].Sender) != who.name && l.Unread < MaxUnread; i-- {
			l.Unread++
		}
		total += l.Total
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(b.Last.Time, a.Last.Time), cmp.Compare(a.Room.String(), b.Room.String()))
	})
	return all, total
}

func (m *talk) check(t *rapid.T, name string, cursor int64, limit int32) {
	all, total := m.want(t, name)
	q, err := NewListQuery(strings.ToUpper(name), cursor, limit)
	require.NoError(t, err)
	got, err := m.rig.Chats(t.Context(), q)
	require.NoError(t, err)
	first := min(int(cursor), len(all))
	last := min(first+int(q.limit), len(all))
	want := List{Chats: append([]Listed{}, all[first:last]...), NextCursor: cursor + int64(last-first), Total: total, Count: int64(len(all))}
	want.HasMore = want.NextCursor < want.Count
	require.Equal(t, want, got, "%s from %d, %d chats", name, cursor, limit)
}

// addHook adds a hook to a client of Redis or, of a Redis Cluster, to that of each node.
func addHook(client redis.UniversalClient, h redis.Hook) {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		client.AddHook(h)
		return
	}
	cluster.ForEachShard(context.Background(), func(_ context.Context, node *redis.Client) error {
		node.AddHook(h)
		return nil
	})
	cluster.OnNewNode(func(node *redis.Client) { node.AddHook(h) })
}

// beforePipeline is called before each pipeline.
type beforePipeline func(cmds []redis.Cmder)

func (f beforePipeline) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f beforePipeline) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f beforePipeline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		f(cmds)
		return next(ctx, cmds)
	}
}

// TestChats_WhatTheyLackIsAboveTheirTotal stores a message, in a chat that is there or in a new
// one, at each step in which a list is read.
func TestChats_WhatTheyLackIsAboveTheirTotal(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{false, true} {
		t.Run(fmt.Sprintf("new chat=%t", fresh), func(t *testing.T) {
			t.Parallel()
			for step := int64(1); ; step++ {
				s, writer := newRig(t, sharedRedis(t), patience), newRig(t, sharedRedis(t), patience)
				chat := newChat()
				_, zoe, _ := strings.Cut(chat, ":")
				writer.append(t, newMessage(t, chat, "ann", "first"))
				other := chat
				if fresh {
					other = "bob:" + zoe
				}
				var steps atomic.Int64
				addHook(s.pulls, beforePipeline(func([]redis.Cmder) {
					if steps.Add(1) == step {
						writer.append(t, newMessage(t, other, zoe, "second"))
					}
				}))
				q, err := NewListQuery(zoe, 0, 0)
				require.NoError(t, err)
				list, err := s.Chats(t.Context(), q)
				require.NoError(t, err)
				who, err := ParseMember(zoe)
				require.NoError(t, err)
				now, err := writer.Total(t.Context(), who)
				require.NoError(t, err)
				var sum int64
				for _, c := range list.Chats {
					sum += c.Total
					want := "first"
					if c.Total == 2 || fresh && c.Room.String() == other {
						want = "second"
					}
					assert.Equal(t, want, c.Last.Text, "step %d", step)
				}
				assert.Equal(t, sum, list.Total)
				if steps.Load() < step {
					assert.Greater(t, step, int64(4), "there are more steps")
					assert.EqualValues(t, 1, now, "nothing was stored: all steps are done")
					return
				}
				assert.EqualValues(t, 2, now)
				assert.LessOrEqual(t, list.Total, now)
			}
		})
	}
}

func TestMark_OnlyGrowsAndEndsAtTheTotal(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		s.fill(t, chat, 5, strconv.Itoa)
		move := func(read int64) int64 {
			mark, err := NewMark(chat, "ANN", read)
			require.NoError(t, err)
			kept, err := s.Mark(t.Context(), mark)
			require.NoError(t, err)
			return kept
		}
		for _, step := range []struct{ read, kept int64 }{{0, 0}, {2, 2}, {1, 2}, {0, 2}, {5, 5}, {6, 5}, {math.MaxInt64, 5}, {3, 5}} {
			assert.Equal(t, step.kept, move(step.read), "read %d", step.read)
		}
		require.NoError(t, s.redis.ZRemRangeByRank(t.Context(), "chat:"+chat, 3, 4).Err())
		assert.EqualValues(t, 3, move(1), "the chat went back: what is above its total counts as that")
		kept, err := s.redis.HGet(t.Context(), "read:ann", chat).Result()
		require.NoError(t, err)
		assert.Equal(t, "3", kept, "and is lowered")
		require.NoError(t, s.redis.Del(t.Context(), "chat:"+chat).Err())
		assert.Zero(t, move(1))
		assert.False(t, s.redis.HExists(t.Context(), "read:ann", chat).Val(), "0 is not kept")
	})
}

func TestNewMark_RefusesWhatIsNoMark(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		chat, member string
		read         int64
		reason       string
	}{
		"negative":      {"jack:marcus", "jack", -1, "read: must not be negative, but is -1"},
		"of another":    {"jack:marcus", "bob", 1, `member: "bob" is not a member of the chat "jack:marcus"`},
		"of nobody":     {"jack:marcus", "", 1, "member: is required"},
		"of two":        {"jack:marcus", "jack:marcus", 1, `member: must be one name, without a colon, not "jack:marcus"`},
		"in no chat":    {"jack", "jack", 1, `chat: must be two names with one colon between them, as in "jack:marcus", not "jack"`},
		"control":       {"jack:marcus", "ja\nck", 1, `member: has a control character: "ja\nck"`},
		"not UTF-8":     {"jack:marcus", "\xff", 1, "member: is not valid UTF-8"},
		"of a long one": {"jack:marcus", strings.Repeat("x", 129), 1, fmt.Sprintf("member: has more than 128 bytes: %q", strings.Repeat("x", 129))},
	} {
		_, err := NewMark(c.chat, c.member, c.read)
		assert.EqualError(t, err, c.reason, name)
	}
	for _, reason := range []struct {
		cursor int64
		limit  int32
		want   string
	}{{-1, 0, "cursor: must not be negative, but is -1"}, {0, -1, "limit: must not be negative, but is -1"}} {
		_, err := NewListQuery("jack", reason.cursor, reason.limit)
		assert.EqualError(t, err, reason.want)
	}
}

// TestChats_LongTextsMakeShortPages has more bytes of newest messages than a page may hold.
func TestChats_LongTextsMakeShortPages(t *testing.T) {
	t.Parallel()
	s := newRig(t, sharedRedis(t), patience)
	_, zoe, _ := strings.Cut(newChat(), ":")
	text := strings.Repeat("x", maxText)
	const chats = 100
	for i := range chats {
		s.append(t, newMessage(t, fmt.Sprintf("%d:%s", i, zoe), zoe, text))
	}
	var seen []string
	list := List{HasMore: true}
	for pages := 0; list.HasMore; pages++ {
		q, err := NewListQuery(zoe, list.NextCursor, MaxChats)
		require.NoError(t, err)
		list, err = s.Chats(t.Context(), q)
		require.NoError(t, err)
		assert.Less(t, len(list.Chats), chats)
		assert.EqualValues(t, chats, list.Total)
		for _, c := range list.Chats {
			seen = append(seen, c.Room.String())
		}
	}
	slices.Sort(seen)
	assert.Len(t, slices.Compact(seen), chats)
}

// TestChats_HoldRedisForAMomentOnly is not parallel: it measures, as TestPage_HoldsRedisForAMomentOnly
// does.
func TestChats_HoldRedisForAMomentOnly(t *testing.T) {
	const chats, messages, attempts = 100, 20, 5
	const allowed = 50 * time.Millisecond
	server := ownRedis(t)
	client := server.client()
	defer client.Close()
	s := newRig(t, server.addrs(), patience)
	text := strings.Repeat("x", maxText)
	for i := range chats {
		batch := make([]Message, messages)
		for n := range batch {
			batch[n] = newMessage(t, fmt.Sprintf("ann:%d", i), strconv.Itoa(i), text)
		}
		for _, stored := range s.Store.Append(t.Context(), batch...) {
			require.NoError(t, stored.Err)
		}
	}
	require.NoError(t, client.ConfigSet(t.Context(), "slowlog-log-slower-than", strconv.FormatInt(allowed.Microseconds(), 10)).Err())
	var slow []redis.SlowLog
	for range attempts {
		require.NoError(t, client.Do(t.Context(), "SLOWLOG", "RESET").Err())
		list := List{HasMore: true}
		for list.HasMore {
			q, err := NewListQuery("ann", list.NextCursor, MaxChats)
			require.NoError(t, err)
			list, err = s.Chats(t.Context(), q)
			require.NoError(t, err)
			for _, c := range list.Chats {
				require.Equal(t, messages, c.Unread)
			}
		}
		var err error
		slow, err = client.SlowLogGet(t.Context(), 10).Result()
		require.NoError(t, err)
		if len(slow) == 0 {
			return
		}
	}
	assert.Empty(t, slow, "each time a command took longer than %s", allowed)
}
