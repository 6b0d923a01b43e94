package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// list is what GET /api/chats answers.
type list struct {
	Chats []struct {
		Chat   string
		Total  int64
		Read   int64
		Unread int32
		Last   struct{ Chat, Text, Sender string }
	}
	HasMore    bool  `json:"has_more"`
	NextCursor int64 `json:"next_cursor"`
	Total      int64
}

// chatsOf lists the chats of a member, and tells how long that took.
func chatsOf(t *testing.T, base, member, query string) (l list, took time.Duration) {
	t.Helper()
	began := time.Now()
	resp, err := waiting.Get(base + "/api/chats?member=" + url.QueryEscape(member) + query)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&l))
	return l, time.Since(began)
}

// read moves a mark, and returns what is kept.
func read(t *testing.T, base, chat, member string, n int64) int64 {
	t.Helper()
	body, err := json.Marshal(map[string]any{"chat": chat, "member": member, "read": n})
	require.NoError(t, err)
	resp, answer := do(t, newRequest(t, "POST", base+"/api/read", string(body)))
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", answer)
	var kept struct{ Read int64 }
	require.NoError(t, json.Unmarshal(answer, &kept))
	return kept.Read
}

// TestChats_TellWhoWroteAndWhatIsUnread has three talk, over two gateways.
func TestChats_TellWhoWroteAndWhatIsUnread(t *testing.T) {
	t.Parallel()
	s := twoByTwo(t)
	here, there := "http://"+s.Gateways[0].Addr, "http://"+s.Gateways[1].Addr
	const marcus = "Marcus İ & co"
	l, _ := chatsOf(t, here, marcus, "")
	assert.Empty(t, l.Chats)

	answers := make(chan list, 1)
	go func() {
		l, _ := chatsOf(t, there, marcus, "&total=0&wait=30")
		answers <- l
	}()
	eventually(t, func() bool { return waiters(t, s.Gateways[1]) == 1 }, "nobody waits")
	began := time.Now()
	send(t, here, "jack:"+marcus, "hello", "jack") // a new chat
	l = <-answers
	assert.Less(t, time.Since(began), 5*time.Second)
	require.Len(t, l.Chats, 1)
	jacks := l.Chats[0].Chat
	assert.Equal(t, "jack:marcus İ & co", jacks)
	assert.EqualValues(t, 1, l.Chats[0].Unread)
	assert.Equal(t, "hello", l.Chats[0].Last.Text)

	for range 120 {
		send(t, there, marcus+":Bob", "lunch?", "bob")
	}
	send(t, here, jacks, "are you there?", "Jack")
	l, _ = chatsOf(t, here, strings.ToUpper("marcus")+" İ & CO", "&limit=1")
	require.Len(t, l.Chats, 1)
	assert.Equal(t, jacks, l.Chats[0].Chat, "the one with the newest message first")
	assert.EqualValues(t, 2, l.Chats[0].Unread)
	assert.True(t, l.HasMore)
	assert.EqualValues(t, 122, l.Total)
	l, _ = chatsOf(t, here, marcus, fmt.Sprintf("&cursor=%d", l.NextCursor))
	require.Len(t, l.Chats, 1)
	bobs := l.Chats[0].Chat
	assert.EqualValues(t, 100, l.Chats[0].Unread, "100 or more")
	assert.False(t, l.HasMore)

	assert.EqualValues(t, 110, read(t, there, bobs, marcus, 110))
	assert.EqualValues(t, 110, read(t, here, bobs, marcus, 5), "a mark only grows")
	assert.EqualValues(t, 120, read(t, here, "bob:"+marcus, "bob", 1000), "and ends at the total")
	send(t, there, jacks, "yes", marcus)
	l, _ = chatsOf(t, here, marcus, "")
	require.Len(t, l.Chats, 2)
	assert.Equal(t, []int32{0, 10}, []int32{l.Chats[0].Unread, l.Chats[1].Unread}, "who answers has read")
	assert.Equal(t, []int64{0, 110}, []int64{l.Chats[0].Read, l.Chats[1].Read})
	l, _ = chatsOf(t, there, "jack", "")
	assert.EqualValues(t, 1, l.Chats[0].Unread)
	assert.Zero(t, l.Chats[0].Read, "nobody sees another's mark")

	total := l.Total
	l, took := chatsOf(t, there, "jack", fmt.Sprintf("&total=%d&wait=1", total))
	assert.GreaterOrEqual(t, took, time.Second, "nothing came")
	assert.Equal(t, total, l.Total)
}
