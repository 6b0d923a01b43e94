package check

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// liar is a gateway that keeps messages in memory and, once, does not.
type liar struct {
	mu       sync.Mutex
	keys     map[string]bool
	messages map[string][]map[string]any // of a chat
	sends    int
	pulls    int
	shown    int // how many messages there were at the last pull

	store func(l *liar, sends int, chat string, m map[string]any) // nil appends
	show  func(l *liar, pulls, cursor int, page []map[string]any, reverse bool) []map[string]any
	// answer gives the status of a send that was stored; nil is always 200.
	answer func(sends int) int
	// breaks tells whether a request to send fails, and whether it is stored all
	// the same; nil is never.
	breaks   func(request int) (fails, stored bool)
	requests int
	// list changes a member's list; nil leaves it as it is.
	list  func(chats []map[string]any) []map[string]any
	lists int
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.URL.Path == "/api/send" {
		var m map[string]any
		json.NewDecoder(r.Body).Decode(&m)
		m["send_time"] = time.Now().Unix()
		chat, key := m["chat"].(string), r.Header.Get("Idempotency-Key")
		if l.requests++; l.breaks != nil {
			if fails, stored := l.breaks(l.requests); fails {
				w.WriteHeader(503)
				if !stored {
					return
				}
			}
		}
		if key == "" || !l.keys[key] {
			l.sends++
			if l.store == nil {
				l.append(chat, m)
			} else {
				l.store(l, l.sends, chat, m)
			}
			l.keys[key] = true
		}
		if l.answer != nil {
			w.WriteHeader(l.answer(l.sends))
		}
		return
	}
	q := r.URL.Query()
	if r.URL.Path == "/api/chats" {
		l.lists++
		json.NewEncoder(w).Encode(l.chatsOf(q.Get("member")))
		return
	}
	there := slices.Clone(l.messages[q.Get("chat")])
	l.shown = len(there)
	total, cursor, reverse := len(there), number(q.Get("cursor")), q.Get("reverse") == "true"
	if reverse {
		if pin := number(q.Get("total")); pin > 0 && pin < total {
			total = pin
		}
		there = there[:total]
		slices.Reverse(there)
	}
	page := there[min(cursor, len(there)):min(cursor+number(q.Get("limit")), len(there))]
	next := cursor + len(page)
	if l.pulls++; l.show != nil {
		page = l.show(l, l.pulls, cursor, page, reverse)
	}
	json.NewEncoder(w).Encode(map[string]any{"messages": page, "has_more": next < total, "next_cursor": next, "total": total})
}

// chatsOf is the list of a member.
func (l *liar) chatsOf(member string) map[string]any {
	chats, total := []map[string]any{}, 0
	for chat, messages := range l.messages {
		first, second, _ := strings.Cut(chat, ":")
		if len(messages) == 0 || member != first && member != second {
			continue
		}
		unread := 0
		for _, m := range slices.Backward(messages) {
			if m["sender"] == member || unread == 100 {
				break
			}
			unread++
		}
		total += len(messages)
		chats = append(chats, map[string]any{"chat": chat, "total": len(messages), "unread": unread, "last": messages[len(messages)-1]})
	}
	slices.SortFunc(chats, func(a, b map[string]any) int {
		return cmp.Compare(b["last"].(map[string]any)["send_time"].(int64), a["last"].(map[string]any)["send_time"].(int64))
	})
	if l.list != nil {
		chats = l.list(chats)
	}
	return map[string]any{"chats": chats, "has_more": false, "next_cursor": len(chats), "total": total}
}

func (l *liar) append(chat string, m map[string]any) { l.messages[chat] = append(l.messages[chat], m) }

func number(s string) int { n, _ := strconv.Atoi(s); return n }

func newLiar() *liar { return &liar{keys: map[string]bool{}, messages: map[string][]map[string]any{}} }

func serve(t *testing.T, l *liar) string {
	t.Helper()
	srv := httptest.NewServer(l)
	t.Cleanup(srv.Close)
	return srv.URL
}

// lie is the send or, with a page of some length, the pull that is lied about.
const lie = 100

func lies() map[string]struct {
	liar *liar
	want Report // counts of what is wrong
} {
	dropped := newLiar()
	dropped.store = func(l *liar, sends int, chat string, m map[string]any) {
		if sends != lie {
			l.append(chat, m)
		}
	}
	doubled := newLiar()
	doubled.store = func(l *liar, sends int, chat string, m map[string]any) {
		l.append(chat, m)
		if sends == lie {
			l.append(chat, m)
		}
	}
	swapped := newLiar()
	done := false
	swapped.store = func(l *liar, sends int, chat string, m map[string]any) {
		l.append(chat, m)
		if n := len(l.messages[chat]); sends >= lie && n-2 >= l.shown && !done { // so that nobody saw them in order
			l.messages[chat][n-1], l.messages[chat][n-2] = l.messages[chat][n-2], l.messages[chat][n-1]
			done = true
		}
	}
	future := newLiar()
	future.store = func(l *liar, sends int, chat string, m map[string]any) {
		if sends == lie {
			m["send_time"] = time.Now().Add(time.Hour).Unix()
		}
		l.append(chat, m)
	}
	foreign := newLiar()
	foreign.store = func(l *liar, sends int, chat string, m map[string]any) {
		l.append(chat, m)
		if sends == lie {
			l.append(chat, map[string]any{"text": "buy now", "send_time": m["send_time"]})
		}
	}
	refused := newLiar()
	refused.answer = func(sends int) int {
		if sends == lie {
			return 400 // and keeps it
		}
		return 200
	}
	skipped := newLiar()
	skipped.show = once(func(page []map[string]any) []map[string]any { return page[1:] })
	repeated := newLiar()
	repeated.show = once(func(page []map[string]any) []map[string]any { return append(page, page[0]) })
	idle := newLiar()
	idle.store = func(*liar, int, string, map[string]any) {}
	idle.answer = func(int) int { return 400 }
	lists := func(change func(chats []map[string]any) []map[string]any) *liar {
		l := newLiar()
		l.list = change
		return l
	}
	field := func(name string, change func(n int) int) *liar {
		return lists(func(chats []map[string]any) []map[string]any {
			for _, c := range chats {
				c[name] = change(c[name].(int))
			}
			return chats
		})
	}
	return map[string]struct {
		liar *liar
		want Report
	}{
		"lists: a chat is missing":   {lists(func([]map[string]any) []map[string]any { return nil }), Report{}},
		"lists: one message too few": {field("total", func(n int) int { return n - 1 }), Report{}},
		"lists: more is unread":      {field("unread", func(n int) int { return n + 1 }), Report{}},
		"lists: another message is the newest": {lists(func(chats []map[string]any) []map[string]any {
			for _, c := range chats {
				c["last"] = map[string]any{"text": "message 0", "send_time": int64(0)}
			}
			return chats
		}), Report{}},
		"honest":                       {newLiar(), Report{}},
		"one is dropped":               {dropped, Report{Lost: 1}},
		"one is doubled":               {doubled, Report{Twice: 1}},
		"two are swapped":              {swapped, Report{Misordered: 1}},
		"one comes from the future":    {future, Report{Misordered: 1}},
		"a foreign one":                {foreign, Report{Unexpected: 1}},
		"one is refused but stored":    {refused, Report{Unexpected: 1}},
		"one is skipped in a page":     {skipped, Report{Gaps: 1}},
		"one is repeated in a page":    {repeated, Report{Repeats: 1}},
		"nothing is ever acknowledged": {idle, Report{}},
	}
}

// once changes the first page of a follower that has a message, after some.
func once(change func([]map[string]any) []map[string]any) func(*liar, int, int, []map[string]any, bool) []map[string]any {
	done := false
	return func(_ *liar, pulls, _ int, page []map[string]any, reverse bool) []map[string]any {
		if done || reverse || len(page) == 0 {
			return page
		}
		done = true
		return change(page)
	}
}

func TestRun_CountsWhatIsWrong(t *testing.T) {
	for name, test := range lies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// One writer, so that each message is sent after the one before was
			// acknowledged; one chat, so that they are neighbours.
			report, err := Run(t.Context(), Options{URLs: []string{serve(t, test.liar)}, Duration: time.Second, Chats: 1, Writers: 1, Repeats: 10, Pollers: 1, Readers: 1})
			require.NoError(t, err)
			t.Log(report)
			assert.Equal(t, test.want, Report{
				Lost: report.Lost, Twice: report.Twice, Misordered: report.Misordered, Unexpected: report.Unexpected,
				Gaps: report.Gaps, Repeats: report.Repeats, WentBack: report.WentBack,
			})
			assert.Equal(t, name == "honest", report.Good())
			if name != "a foreign one" { // of which nobody knows who sent it
				assert.Equal(t, strings.HasPrefix(name, "lists"), len(report.WrongLists) > 0)
			}
			assert.Equal(t, 2, report.Lists)
			if name != "nothing is ever acknowledged" {
				assert.Greater(t, report.Acknowledged, lie)
				assert.NotZero(t, report.Polled)
				assert.NotZero(t, report.Swept)
			}
		})
	}
}

// TestRun_TakesAFailureForUnknown has every tenth send answered with 503, every
// second time after the message was stored: neither way is a broken promise.
func TestRun_TakesAFailureForUnknown(t *testing.T) {
	l := newLiar()
	l.breaks = func(request int) (fails, stored bool) { return request%10 == 0, request%20 == 0 }
	report, err := Run(t.Context(), Options{URLs: []string{serve(t, l)}, Duration: time.Second, Chats: 3, Rate: 300, Patience: time.Second, Repeats: 10, Pollers: 1, Readers: 1})
	require.NoError(t, err)
	t.Log(report)
	assert.True(t, report.Good())
	assert.NotZero(t, report.Unknown)
	assert.GreaterOrEqual(t, len(report.Failures), report.Unknown)
	assert.Equal(t, report.Sent, report.Acknowledged+report.Unknown)
}

// TestRun_ShowsEachRequest counts what an observer is called with, of which some fail.
func TestRun_ShowsEachRequest(t *testing.T) {
	l := newLiar()
	l.breaks = func(request int) (fails, stored bool) { return request%10 == 0, false }
	var mu sync.Mutex
	calls, failed := map[string]int{}, 0
	report, err := Run(t.Context(), Options{
		URLs: []string{serve(t, l)}, Duration: time.Second, Chats: 3, Writers: 1, Pollers: 1, Readers: 1,
		Observe: func(r Request) {
			mu.Lock()
			defer mu.Unlock()
			calls[r.Call]++
			if r.Status != http.StatusOK {
				failed++
			}
			assert.Equal(t, r.Call != "chats", strings.Contains(r.Chat, ":"))
			assert.Positive(t, r.Took)
		},
	})
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"send": l.requests, "pull": l.pulls, "chats": l.lists}, calls)
	assert.Len(t, report.Failures, failed)
	assert.NotZero(t, failed)
}

// TestRun_AsksTheNextGatewayWhereOneIsDown has one at whose address nobody listens.
func TestRun_AsksTheNextGatewayWhereOneIsDown(t *testing.T) {
	report, err := Run(t.Context(), Options{URLs: []string{"http://127.0.0.1:1", serve(t, newLiar())}, Duration: time.Second, Chats: 3, Writers: 2, Pollers: 1, Readers: 1})
	require.NoError(t, err)
	assert.True(t, report.Good())
	assert.Empty(t, report.Failures)
}

// TestRun_DialsAgainWhileConnectionsAreRefused has a gateway that begins to listen later, as
// one behind a Service whose other pods have just died.
func TestRun_DialsAgainWhileConnectionsAreRefused(t *testing.T) {
	for dials, failed := range map[int]bool{1: true, 20: false} {
		report, err := Run(t.Context(), Options{
			URLs: []string{"http://127.0.0.1:1", "http://127.0.0.1:1", serve(t, newLiar())}, Dials: dials, Unkept: true,
			Duration: time.Second, Chats: 3, Writers: 1, Pollers: 1,
		})
		require.NoError(t, err)
		assert.True(t, report.Good())
		assert.Equal(t, failed, len(report.Failures) > 0, "%d dials: %v", dials, report.Failures)
	}
}

// TestCommand_ExitsWithOneWhereAPromiseIsBroken runs the command itself.
func TestCommand_ExitsWithOneWhereAPromiseIsBroken(t *testing.T) {
	command := filepath.Join(t.TempDir(), "check")
	out, err := exec.Command("go", "build", "-o", command, "../cmd/check").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, test := range lies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(command, "--url="+serve(t, test.liar), "--duration=1s", "--chats=1", "--writers=1", "--pollers=1", "--readers=1")
			out, _ := cmd.CombinedOutput()
			want := 1
			if name == "honest" {
				want = 0
			}
			assert.Equal(t, want, cmd.ProcessState.ExitCode(), "%s", out)
		})
	}
}
