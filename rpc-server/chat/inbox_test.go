package chat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/internal/member"
)

// inbox returns the rooms in a member's inbox.
func (s rig) inbox(t testing.TB, name string) []string {
	t.Helper()
	rooms, err := s.redis.SMembers(t.Context(), "inbox:"+name).Result()
	require.NoError(t, err)
	return rooms
}

func TestInbox_HasARoomBeforeItsFirstMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		_, zoe, _ := strings.Cut(chat, ":")
		s.lookAtServers(t.Context()) // else each first connection to one has everything forgotten
		var puts, appends, before atomic.Int64
		addHook(s.sends, beforePipeline(func(cmds []redis.Cmder) {
			for _, cmd := range cmds {
				switch script := fmt.Sprint(cmd.Args()...); {
				case strings.Contains(script, inboxScript.hash):
					puts.Add(1)
				case strings.Contains(script, appendScript.hash):
					if appends.Add(1) == 1 {
						before.Store(int64(len(s.inbox(t, zoe))))
					}
				}
			}
		}))
		s.append(t, newMessage(t, chat, "ann", "first"))
		assert.EqualValues(t, 1, before.Load())
		assert.Equal(t, []string{chat}, s.inbox(t, zoe))
		assert.Contains(t, s.inbox(t, "ann"), chat)
		assert.GreaterOrEqual(t, puts.Load(), int64(4), "both, and again, since the message is the first")
		known := puts.Load()
		for range 5 {
			s.append(t, newMessage(t, chat, "ann", "another"))
		}
		assert.Equal(t, known, puts.Load(), "what is known is not put")
	})
}

// TestInbox_AFirstMessageWritesItAgain takes away everything that Redis has, which the process
// does not notice.
func TestInbox_AFirstMessageWritesItAgain(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	chat := newChat()
	_, zoe, _ := strings.Cut(chat, ":")
	s.append(t, newMessage(t, chat, "ann", "first"))
	client := server.client()
	defer client.Close()
	require.NoError(t, client.FlushAll(t.Context()).Err())
	m := keyed(t, chat, "ann", "second", "k")
	s.append(t, m)
	assert.Equal(t, []string{chat}, s.inbox(t, zoe))
	require.NoError(t, client.Del(t.Context(), "inbox:"+zoe).Err())
	s.append(t, m)
	assert.Equal(t, []string{chat}, s.inbox(t, zoe), "so does one that is sent again")
}

// TestInbox_WhatAnotherServerLacksIsPutAgain has Redis lose inboxes, and start again, while the
// process believes that they are there.
func TestInbox_WhatAnotherServerLacksIsPutAgain(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	chat := newChat()
	_, zoe, _ := strings.Cut(chat, ":")
	s.append(t, newMessage(t, chat, "ann", "first"))
	client := server.client()
	defer client.Close()
	require.NoError(t, client.Del(t.Context(), "inbox:"+zoe).Err())
	time.Sleep(2 * lookInterval)
	require.Empty(t, s.inbox(t, zoe), "nobody notices")
	server.kill()
	require.NoError(t, server.start())
	eventually(t, func(t *assert.CollectT) {
		rooms, err := client.SMembers(context.Background(), "inbox:"+zoe).Result()
		assert.NoError(t, err)
		assert.Equal(t, []string{chat}, rooms)
	})
}

// TestInbox_WhoTakesNoWritesIsNoOtherServer has connections lead to a replica, too.
func TestInbox_WhoTakesNoWritesIsNoOtherServer(t *testing.T) {
	t.Parallel()
	if *onCluster {
		t.Skip("has no REPLICAOF")
	}
	master, replica := ownRedis(t), ownRedis(t)
	host, port, _ := strings.Cut(master.addr, ":")
	client := replica.client()
	defer client.Close()
	require.NoError(t, client.ReplicaOf(t.Context(), host, port).Err())
	b := newInboxes()
	other := redis.NewClient(&redis.Options{Addr: replica.addr, OnConnect: b.onConnect})
	defer other.Close()
	require.NoError(t, other.Ping(t.Context()).Err())
	assert.Empty(t, b.servers)
	own := redis.NewClient(&redis.Options{Addr: master.addr, OnConnect: b.onConnect})
	defer own.Close()
	require.NoError(t, own.Ping(t.Context()).Err())
	assert.Len(t, b.servers, 1)
	assert.Len(t, b.servers[0], 40)
}

func TestInboxes_RememberForAWhile(t *testing.T) {
	t.Parallel()
	m := newMessage(t, "ann:zoe", "ann", "hello")
	knows := func(b *inboxes) bool {
		known, unknown := b.split([]Message{m})
		require.Equal(t, 1, len(known)+len(unknown))
		return len(known) == 1
	}
	b := newInboxes()
	assert.False(t, knows(b))
	assert.True(t, b.remember(0, []Room{m.room}))
	assert.True(t, knows(b))
	b.serve([]string{"a"}, true)
	assert.False(t, knows(b), "the first server that is seen is another one than before")
	assert.Equal(t, []Room{m.room}, b.takeAgain())
	assert.False(t, b.remember(0, []Room{m.room}), "everything was forgotten meanwhile")
	assert.True(t, b.remember(1, []Room{m.room}))
	for _, all := range []bool{true, false} {
		b.serve([]string{"a"}, all)
		assert.True(t, knows(b))
	}
	b.serve([]string{"b"}, false)
	assert.False(t, knows(b), "another server")

	b.remember(2, []Room{m.room})
	b.serve([]string{"a", "b"}, true)
	assert.True(t, knows(b))
	b.serve([]string{"b"}, true)
	assert.False(t, knows(b), "one server less: others serve what it did")

	b.remember(3, []Room{m.room})
	b.turn(b.turned.Add(rememberedTime/2), false)
	assert.True(t, knows(b))
	b.turn(b.turned.Add(rememberedTime/2), false)
	assert.False(t, knows(b), "it was long ago")

	b.remember(3, []Room{m.room})
	for n := range maxRemembered + 1 {
		b.remember(3, []Room{{[2]string{"n", strconv.Itoa(n)}}})
	}
	assert.LessOrEqual(t, len(b.put)+len(b.older), maxRemembered)
	assert.False(t, knows(b), "too many came after it")
}

// TestReindex_PutsWhatIsMissing has chats of a version that knew no inboxes, and is interrupted.
func TestReindex_PutsWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := ownRedis(t)
	s := newRig(t, server.addrs(), patience)
	const chats = 5000
	pipe := s.redis.Pipeline()
	for i := range chats {
		pipe.ZAdd(t.Context(), "chat:"+member.Room("ann", strconv.Itoa(i)), redis.Z{Score: 1, Member: `{"id":"1","sender":"ann","text":"hello"}`})
	}
	pipe.Set(t.Context(), "chat:foreign", "", 0)
	_, err := pipe.Exec(t.Context())
	require.NoError(t, err)

	ctx, interrupt := context.WithCancel(t.Context())
	put := 0
	err = s.Reindex(ctx, func(rooms int) {
		if put = rooms; put > chats/2 {
			interrupt()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, put, chats)
	again := 0
	require.NoError(t, s.Reindex(t.Context(), func(rooms int) { again = rooms }))
	assert.Less(t, again, chats, "it goes on from there")
	assert.Len(t, s.inbox(t, "ann"), chats)
	for i := range 20 {
		require.Equal(t, []string{member.Room("ann", strconv.Itoa(i))}, s.inbox(t, strconv.Itoa(i)))
	}
	assert.Zero(t, s.redis.Exists(t.Context(), "reindex").Val())
	q, err := NewListQuery("ann", 0, 3)
	require.NoError(t, err)
	list, err := s.Chats(t.Context(), q)
	require.NoError(t, err)
	assert.EqualValues(t, chats, list.Total)
}

// crashEnv has where the process of TestInbox_ACrashLeavesNoMessageThatIsInNoList crashes: the
// address of Redis, the prefix of the chats, the script before which it does, and the pipeline.
const crashEnv = "IM_TEST_CRASH"

// TestInbox_ACrashLeavesNoMessageThatIsInNoList has processes end right before or after each
// thing that they write.
func TestInbox_ACrashLeavesNoMessageThatIsInNoList(t *testing.T) {
	if crash := os.Getenv(crashEnv); crash != "" {
		crashing(t, strings.Split(crash, " "))
		return
	}
	t.Parallel()
	s := newRig(t, sharedRedis(t), patience)
	for at := 1; ; at++ {
		_, zoe, _ := strings.Cut(newChat(), ":")
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-cluster="+strconv.FormatBool(*onCluster))
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", crashEnv, s.addrs, zoe, at))
		out, err := cmd.CombinedOutput()
		crashed := cmd.ProcessState.ExitCode() == 3
		require.True(t, err == nil || crashed, "%s", out)

		var stored int64
		for i := range 3 {
			room := fmt.Sprintf("%d:%s", i, zoe)
			count, err := s.redis.ZCard(t.Context(), "chat:"+room).Result()
			require.NoError(t, err)
			if stored += count; count > 0 {
				assert.Contains(t, s.inbox(t, zoe), room, "pipeline %d", at)
				assert.Contains(t, s.inbox(t, strconv.Itoa(i)), room, "pipeline %d", at)
			}
		}
		q, err := NewListQuery(zoe, 0, 0)
		require.NoError(t, err)
		list, err := s.Chats(t.Context(), q)
		require.NoError(t, err)
		assert.Equal(t, stored, list.Total)
		for _, c := range list.Chats {
			assert.NotZero(t, c.Total, "no empty room is shown")
		}
		if !crashed {
			assert.EqualValues(t, 3, stored, "all is written: no more places to crash at")
			return
		}
	}
}

// crashing sends first messages, and ends the process before its nth pipeline.
func crashing(t *testing.T, args []string) {
	s := newRig(t, args[0], patience)
	n, err := strconv.ParseInt(args[2], 10, 64)
	require.NoError(t, err)
	var pipelines atomic.Int64
	addHook(s.sends, beforePipeline(func(cmds []redis.Cmder) {
		if strings.HasPrefix(cmds[0].Name(), "eval") && pipelines.Add(1) == n {
			os.Exit(3)
		}
	}))
	for i := range 3 {
		s.append(t, newMessage(t, fmt.Sprintf("%d:%s", i, args[1]), args[1], "hello"))
	}
}
