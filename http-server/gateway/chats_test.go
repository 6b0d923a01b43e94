package gateway

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"im/http-server/backend/backendtest"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
)

// listsOf is an rpc-server with one chat of marcus, whose messages are counted.
type listsOf struct{ *chatOf }

func (s *listsOf) Chats(_ context.Context, req *rpc.ChatsRequest) (*rpc.ChatsResponse, error) {
	s.Lists <- req
	if s.before != nil {
		s.before()
	}
	if code := s.Code.Load(); code != 0 {
		return &rpc.ChatsResponse{Code: code, Msg: "reason"}, nil
	}
	total := s.count.Load()
	resp := &rpc.ChatsResponse{Chats: []*rpc.Chat{}, HasMore: new(false), NextCursor: new(int64(1)), Total: &total}
	for n := range min(total, int64(req.Limit)) {
		resp.Chats = append(resp.Chats, &rpc.Chat{Chat: fmt.Sprintf("%d:marcus", n), Total: 1, Last: &rpc.Message{Chat: "jack:marcus", Text: "hello", Sender: "jack"}})
	}
	if s.after != nil {
		s.after()
	}
	return resp, nil
}

// listAt returns the base URL of a gateway that asks s, whose stream is open.
func listAt(t *testing.T, s *listsOf, change func(*bounds)) string {
	t.Helper()
	return waitAtServer(t, s.chatOf, s, change)
}

func TestChats_AreThoseOfTheRPCServer(t *testing.T) {
	t.Parallel()
	s := backendtest.New()
	s.List = &rpc.ChatsResponse{
		Chats: []*rpc.Chat{{
			Chat: "jack:marcus", Total: 7, Mark: 3, Unread: 2,
			Last: &rpc.Message{Chat: "jack:marcus", Text: "<hi>", Sender: "Jack", SendTime: 5},
		}},
		HasMore: new(true), NextCursor: new(int64(4)), Total: new(int64(9)),
	}
	base := serveClient(t, dial(t, time.Second, backendtest.Serve(t, s)), nil)
	want := &api.ChatsResponse{
		Chats: []*api.Chat{{
			Chat: "jack:marcus", Total: 7, Read: 3, Unread: 2,
			Last: &api.Message{Chat: "jack:marcus", Text: "<hi>", Sender: "Jack", SendTime: 5},
		}},
		HasMore: true, NextCursor: 4, Total: 9,
	}
	body, err := proto.Marshal(&api.ChatsRequest{Member: "Marcus", Cursor: 3, Limit: 1, Total: 8})
	require.NoError(t, err)
	for name, r := range map[string]struct {
		query, body string
		headers     []string
	}{
		"query":    {query: "?member=Marcus&cursor=3&limit=1&total=8&unknown=1"},
		"JSON":     {body: `{"member":"Marcus","cursor":3,"limit":1,"total":8}`},
		"protobuf": {body: string(body), headers: []string{"Content-Type", "application/protobuf"}},
	} {
		for _, accept := range []string{"application/json", "application/x-protobuf"} {
			resp, answer := call(t, "GET", base+"/api/chats"+r.query, r.body, append(r.headers, "Accept", accept)...)
			require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", name, answer)
			assert.Equal(t, accept, resp.Header.Get("Content-Type"))
			asked := backendtest.Receive(t, s.Lists)
			assert.Equal(t, []any{"Marcus", int64(3), int32(1)}, []any{asked.Member, asked.Cursor, asked.Limit})
			if accept == "application/json" {
				assert.Equal(t, `{"chats":[{"chat":"jack:marcus","total":7,"read":3,"unread":2,"last":{"chat":"jack:marcus","text":"<hi>","sender":"Jack","send_time":5}}],"has_more":true,"next_cursor":4,"total":9}`, string(answer))
				continue
			}
			var got api.ChatsResponse
			require.NoError(t, proto.Unmarshal(answer, &got))
			assert.True(t, proto.Equal(want, &got), "%v", &got)
		}
	}
	nobody := backendtest.New()
	nobody.List = &rpc.ChatsResponse{}
	base = serveClient(t, dial(t, time.Second, backendtest.Serve(t, nobody)), nil)
	_, answer := call(t, "GET", base+"/api/chats?member=nobody", "")
	assert.Equal(t, `{"chats":[],"has_more":false,"next_cursor":0,"total":0}`, string(answer))
}

func TestRead_IsThatOfTheRPCServer(t *testing.T) {
	t.Parallel()
	s := backendtest.New()
	base := serveClient(t, dial(t, time.Second, backendtest.Serve(t, s)), nil)
	body, err := proto.Marshal(&api.ReadRequest{Chat: "jack:marcus", Member: "Jack", Read: 7})
	require.NoError(t, err)
	for body, mediaType := range map[string]string{`{"chat":"jack:marcus","member":"Jack","read":7}`: "application/json", string(body): "application/x-protobuf"} {
		resp, answer := call(t, "POST", base+"/api/read", body, "Content-Type", mediaType)
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, mediaType, resp.Header.Get("Content-Type"))
		assert.Contains(t, []string{`{"read":7}`, "\b\a"}, string(answer))
		asked := backendtest.Receive(t, s.Reads)
		assert.Equal(t, []any{"jack:marcus", "Jack", int64(7)}, []any{asked.Chat, asked.Member, asked.Mark})
	}
	resp, _ := call(t, "POST", base+"/api/read?chat=jack:marcus&member=jack&read=7", "")
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "a POST has a body")
	assert.Empty(t, s.Reads)
}

// TestLists_AreTheMembersOwn has the lists and marks of one asked for with the token of another.
func TestLists_AreTheMembersOwn(t *testing.T) {
	t.Parallel()
	s := backendtest.New()
	s.List = &rpc.ChatsResponse{}
	a, err := NewAuth(secret, nil, "", "", 0)
	require.NoError(t, err)
	base := serveClient(t, dial(t, time.Second, backendtest.Serve(t, s)), a)
	of := func(name string) string {
		return bearer(t, jwt.SigningMethodHS256, secret, func(c jwt.MapClaims) { c["sub"] = name })
	}
	for name, c := range map[string]struct {
		method, path, body, token string
		status                    int
	}{
		"one's own list":              {"GET", "/api/chats?member=jack", "", of("Jack"), 200},
		"another's list":              {"GET", "/api/chats?member=marcus", "", of("jack"), 403},
		"another's list, waited for":  {"GET", "/api/chats?member=marcus&wait=30", "", of("jack"), 403},
		"another's list, by body":     {"GET", "/api/chats", `{"member":"marcus"}`, of("jack"), 403},
		"a list of nobody":            {"GET", "/api/chats", `{}`, of("jack"), 403},
		"a list without a token":      {"GET", "/api/chats?member=jack", "", "", 401},
		"one's own mark":              {"POST", "/api/read", `{"chat":"jack:marcus","member":"JACK","read":1}`, of("jack"), 200},
		"another's mark in one's own": {"POST", "/api/read", `{"chat":"jack:marcus","member":"marcus","read":1}`, of("jack"), 403},
		"another's mark":              {"POST", "/api/read", `{"chat":"bob:marcus","member":"marcus","read":1}`, of("jack"), 403},
		"a mark without a token":      {"POST", "/api/read", `{"chat":"jack:marcus","member":"jack","read":1}`, "", 401},
	} {
		var headers []string
		if c.token != "" {
			headers = []string{"Authorization", c.token}
		}
		resp, body := call(t, c.method, base+c.path, c.body, headers...)
		assert.Equal(t, c.status, resp.StatusCode, name)
		if c.status == 403 {
			assert.Equal(t, "member: is not whom the token names", problemIn(t, resp, body).Detail, name)
		}
	}
	assert.Len(t, s.Lists, 1, "the rpc-server is asked for one's own alone")
	assert.Len(t, s.Reads, 1)
}

func TestChats_WaitUntilTheTotalIsAnotherOne(t *testing.T) {
	t.Parallel()
	s := &listsOf{newChatOf()}
	s.count.Store(3)
	base := listAt(t, s, nil)
	list := func(query string) (*http.Response, string, time.Duration) {
		began := time.Now()
		resp, body := call(t, "GET", base+"/api/chats?member=Marcus&limit=5&"+query, "")
		return resp, string(body), time.Since(began)
	}
	_, body, took := list("total=2&wait=30")
	assert.Contains(t, body, `"total":3}`)
	assert.Less(t, took, soon)
	_, body, took = list("total=4&wait=30")
	assert.Contains(t, body, `"total":3}`, "there are fewer than the caller saw")
	assert.Less(t, took, soon)
	_, body, took = list("total=3&wait=1")
	assert.Contains(t, body, `"total":3}`, "nothing came")
	assert.GreaterOrEqual(t, took, time.Second)

	answers := make(chan string, 1)
	go func() {
		_, body, _ := list("total=3&wait=30")
		answers <- body
	}()
	s.waitUntil(t, 1)
	s.Hints <- "jack:bob"
	s.store()
	assert.Contains(t, backendtest.Receive(t, answers), `"total":4}`)
	for query, detail := range map[string]string{
		"wait=-1":                "wait: must not be negative",
		"wait=1&cursor=1":        "wait: must not be given with cursor",
		"total=-1":               "total: must not be negative, but is -1",
		"wait=1.5":               "wait: must be an integer of 32 bits",
		"cursor=x":               "cursor: must be an integer of 64 bits",
		"member=marcus":          "member: is given more than once",
		"limit=2147483648&total": "",
	} {
		resp, body, _ := list(query)
		assert.Equal(t, 400, resp.StatusCode, query)
		assert.Contains(t, problemIn(t, resp, []byte(body)).Detail, detail)
	}
}

// TestChats_MissNothingWhileTheyAreRead stores a message at each moment of a wait, as
// TestWait_MissesNothing does.
func TestChats_MissNothingWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(s *chatOf, once func()){
		"between registering and the look": func(s *chatOf, once func()) { s.before = once },
		"between the look and the wait":    func(s *chatOf, once func()) { s.after = once },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &listsOf{newChatOf()}
			s.count.Store(1)
			var once sync.Once
			when(s.chatOf, func() { once.Do(s.store) })
			base := listAt(t, s, nil)
			began := time.Now()
			_, body := call(t, "GET", base+"/api/chats?member=marcus&total=1&wait=30", "")
			assert.Contains(t, string(body), `"total":2}`)
			assert.Less(t, time.Since(began), soon)
		})
	}
}

// TestChats_ThoseWhoWaitLookTogether has many wait for one list, which gets many messages.
func TestChats_ThoseWhoWaitLookTogether(t *testing.T) {
	t.Parallel()
	s := &listsOf{newChatOf()}
	s.count.Store(1)
	base := listAt(t, s, nil)
	const waiters = 50
	var all sync.WaitGroup
	for i := range waiters {
		if i%10 == 0 { // all their first looks at a time are too many
			s.waitUntil(t, i)
		}
		all.Go(func() {
			limit := 1 + i%2
			resp, body := call(t, "GET", fmt.Sprintf("%s/api/chats?member=MARCUS&total=1&wait=30&limit=%d", base, limit), "")
			var list struct {
				Chats      []any `json:"chats"`
				NextCursor int   `json:"next_cursor"`
				HasMore    bool  `json:"has_more"`
			}
			assert.Equal(t, 200, resp.StatusCode)
			assert.NoError(t, json.Unmarshal(body, &list))
			assert.Len(t, list.Chats, limit, "each as many as it asked for")
		})
	}
	s.waitUntil(t, waiters)
	backendtest.Drained(s.Lists)
	began := time.Now()
	for range 20 {
		s.Hints <- "jack:marcus" // of messages that are not counted yet
		time.Sleep(20 * time.Millisecond)
	}
	s.store()
	all.Wait()
	looks := backendtest.Drained(s.Lists)
	assert.LessOrEqual(t, len(looks), int(time.Since(began)/(100*time.Millisecond))+2, "a look in 100 ms")
	for _, req := range looks {
		assert.Equal(t, "MARCUS", req.Member, "as it was sent: folded, a name may be too long")
	}
}
