package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSend_IdenticalMessagesAllArriveInOneOrder(t *testing.T) {
	const clients, each = 20, 10
	chat, sender, _ := newChat(t)
	var sending sync.WaitGroup
	for range clients {
		sending.Go(func() {
			for range each {
				status, err := post(shared.URL(), chat, "the same", sender)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, status)
			}
		})
	}
	sending.Wait()

	first := pullAll(t, shared.URL(), chat)
	require.Len(t, first, clients*each)
	for i, m := range first {
		assert.Equal(t, message{chat, "the same", sender, m.SendTime}, m)
		if i > 0 {
			assert.GreaterOrEqual(t, m.SendTime, first[i-1].SendTime)
		}
	}
}

func TestPull_ShowsTheSameOrderEveryTime(t *testing.T) {
	const n = 200
	chat, a, b := newChat(t)
	var sending sync.WaitGroup
	for _, sender := range []string{a, b} {
		sending.Go(func() {
			for i := range n / 2 {
				send(t, shared.URL(), chat, fmt.Sprint(i), sender)
			}
		})
	}
	sending.Wait()

	first := pullAll(t, shared.URL(), chat)
	require.Len(t, first, n)
	for range 5 {
		assert.Equal(t, first, pullAll(t, shared.URL(), chat))
	}
	reversed := pull(t, shared.URL(), chat, "&reverse=true&limit=1000")
	require.Len(t, reversed.Messages, n)
	for i, m := range reversed.Messages {
		assert.Equal(t, first[n-1-i], m)
	}
	next := map[string]int{}
	for _, m := range first {
		assert.Equal(t, fmt.Sprint(next[m.Sender]), m.Text, "what one member says after another message comes after it")
		next[m.Sender]++
	}
}

func TestPull_GivesTheChatAsTheCallerWroteIt(t *testing.T) {
	chat, a, b := newChat(t)
	send(t, shared.URL(), chat, "hello", strings.ToUpper(a))
	swapped := strings.ToUpper(b) + ":" + a
	p := pull(t, shared.URL(), swapped, "")
	require.Len(t, p.Messages, 1)
	assert.Equal(t, message{swapped, "hello", strings.ToUpper(a), p.Messages[0].SendTime}, p.Messages[0])
}

func TestPull_EmptyChatShowsEveryField(t *testing.T) {
	chat, _, _ := newChat(t)
	status, body, err := get(shared.URL(), "chat="+chat)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, `{"messages":[],"has_more":false,"next_cursor":0,"total":0}`, string(body))
}

func TestSend_RetryWithTheSameKeyStoresNothingTwice(t *testing.T) {
	chat, sender, _ := newChat(t)
	for range 3 {
		send(t, shared.URL(), chat, "once", sender, "Idempotency-Key", "key-1")
	}
	send(t, shared.URL(), chat, "once", sender, "Idempotency-Key", "key-2")
	send(t, shared.URL(), chat, "another", sender, "Idempotency-Key", "key-1")
	send(t, shared.URL(), chat, "once", sender)
	send(t, shared.URL(), chat, "once", sender)
	var texts []string
	for _, m := range pullAll(t, shared.URL(), chat) {
		texts = append(texts, m.Text)
	}
	assert.Equal(t, []string{"once", "once", "another", "once", "once"}, texts)
}

func TestBadInput_IsRefusedWithAProblemAndReachesNoRedis(t *testing.T) {
	calls := func() string {
		var scripts []string
		for _, p := range shared.Redis {
			db := redis.NewClient(&redis.Options{Addr: p.Addr})
			stats, err := db.Info(t.Context(), "commandstats").Result()
			require.NoError(t, err)
			db.Close()
			for line := range strings.Lines(stats) {
				if strings.HasPrefix(line, "cmdstat_eval") {
					name, rest, _ := strings.Cut(line, ":")
					n, _, _ := strings.Cut(rest, ",")
					scripts = append(scripts, p.Name+" "+name+" "+n)
				}
			}
		}
		return strings.Join(scripts, "; ")
	}
	before := calls()
	for _, test := range []struct{ body, detail string }{
		{``, "the body is empty"},
		{`{`, "the body"},
		{`[]`, "the body"},
		{`{"text":"hello","sender":"jack"}`, "chat: is required"},
		{`{"chat":"jack","text":"hello","sender":"jack"}`, "chat: must be two names"},
		{`{"chat":"a:b:c","text":"hello","sender":"a"}`, "chat: must be two names"},
		{`{"chat":"jack:marcus","sender":"jack"}`, "text: is required"},
		{`{"chat":"jack:marcus","text":"hello"}`, "sender: is required"},
		{`{"chat":"jack:marcus","text":"hello","sender":"bob"}`, `sender: "bob" is not a member of the chat "jack:marcus"`},
		{`{"chat":"jack:marcus","text":7,"sender":"jack"}`, "text: must be a string"},
		{`{"chat":"jack:marcus","text":"` + strings.Repeat("x", 65537) + `","sender":"jack"}`, "text: has 65537 bytes"},
	} {
		resp, err := client.Post(shared.URL()+"/api/send", "", strings.NewReader(test.body))
		require.NoError(t, err)
		var p problem
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&p), test.body)
		resp.Body.Close()
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, test.body)
		assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
		assert.Equal(t, problem{"about:blank", "Bad Request", 400, p.Detail}, p)
		assert.Contains(t, p.Detail, test.detail)
	}
	for _, query := range []string{"", "chat=jack", "chat=a:b&cursor=-1", "chat=a:b&limit=-1", "chat=a:b&total=-1", "chat=a:b&limit=ten", "chat=a:b&reverse=1"} {
		status, body, err := get(shared.URL(), query)
		require.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, status, "%s: %s", query, body)
	}
	assert.Equal(t, before, calls(), "scripts that Redis was asked to run")
}

func TestRedis_HoldsOneSortedSetAChat(t *testing.T) {
	chat, a, b := newChat(t)
	send(t, shared.URL(), strings.ToUpper(chat), `say "hi" <&>`+"\n", a, "Idempotency-Key", "k")
	db := shared.RedisClient()
	t.Cleanup(func() { db.Close() })
	entries, err := db.ZRangeWithScores(t.Context(), "chat:"+strings.ToLower(a+":"+b), 0, -1).Result()
	require.NoError(t, err)
	require.Len(t, entries, 1)
	assert.Equal(t, `{"id":"k","sender":"`+a+`","text":"say \"hi\" <&>\u000a"}`, entries[0].Member)
	sent := pullAll(t, shared.URL(), chat)[0].SendTime
	assert.Equal(t, sent, int64(entries[0].Score)/1e6, "the score is in microseconds")
}
