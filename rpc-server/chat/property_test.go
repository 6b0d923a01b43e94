package chat

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRoom_BehavesLikeAPlainSlice lets chance choose what happens in a room: ever
// new sequences of sends, retries, polls and pages, each compared with what a
// slice that only grows at its end would answer. A sequence that fails is made
// as short as it can be and kept under testdata/rapid.
func TestRoom_BehavesLikeAPlainSlice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		rapid.Check(t, func(rt *rapid.T) {
			chat := newChat()
			// Some messages from the start, for pages of more than one chunk.
			count := rapid.IntRange(0, 40).Draw(rt, "count")
			r := &modelled{
				rig:     s,
				chat:    chat,
				all:     s.fill(t, chat, count, strconv.Itoa),
				keyed:   map[words]int64{},
				pollers: make([]poller, 3),
				pagers:  make([]pager, 2),
			}
			if rapid.Bool().Draw(rt, "the clock went back") {
				last := s.clock(t) + time.Hour.Microseconds()
				s.zadd(t, chat, strconv.FormatInt(last, 10), string(appendMember(nil, Message{id: "last", sender: "ann", text: "later"})))
				r.all = append(r.all, Entry{"ann", "later", last})
			}
			rt.Repeat(map[string]func(*rapid.T){
				"send":            r.send,
				"send with a key": r.sendWithAKey,
				"retry":           r.retry,
				"poll":            r.poll,
				"page back":       r.pageBack,
				"look":            r.look,
			})
			r.finish(rt)
		})
	})
}

// modelled is a room and what it has to be.
type modelled struct {
	rig  rig
	chat string

	all     []Entry         // oldest first
	keyed   map[words]int64 // the times of messages with a key that was chosen
	sent    []sent          // all that was ever sent, retries apart
	pollers []poller
	pagers  []pager
}

// words are what makes messages with a key the same.
type words struct{ key, sender, text string }

type sent struct {
	message Message
	time    int64
}

// poller reads a room forward, from where it ended the last time.
type poller struct {
	cursor int64
	seen   []Entry
}

// pager reads a room back, page by page, from the newest message at its start.
// The zero value has not started.
type pager struct {
	last Page
	want []Entry // newest first
	seen []Entry
}

// say draws a message from a few, so that many are equal.
func (r *modelled) say(t *rapid.T, key *string) Message {
	ann, zoe, _ := strings.Cut(r.chat, ":")
	chat := rapid.SampledFrom([]string{r.chat, zoe + ":" + ann, strings.ToUpper(r.chat)}).Draw(t, "chat")
	sender := rapid.SampledFrom([]string{ann, "Ann", zoe}).Draw(t, "sender")
	text := rapid.SampledFrom([]string{"hello", "Hello", "\"\\\n<🙂>"}).Draw(t, "text")
	m, err := NewMessage(chat, text, sender, key, maxText)
	require.NoError(t, err)
	return m
}

// append stores m, which has to be a new message, at the end.
func (r *modelled) append(t *rapid.T, m Message) int64 {
	got, err := r.rig.Append(t.Context(), m)
	require.NoError(t, err)
	if len(r.all) > 0 {
		require.Greater(t, got, r.all[len(r.all)-1].Time, "times must increase")
	}
	r.all = append(r.all, Entry{m.sender, m.text, got})
	r.sent = append(r.sent, sent{m, got})
	return got
}

func (r *modelled) send(t *rapid.T) { r.append(t, r.say(t, nil)) }

func (r *modelled) sendWithAKey(t *rapid.T) {
	key := rapid.SampledFrom([]string{"k", "K", `"k"`}).Draw(t, "key")
	m := r.say(t, &key)
	w := words{key, m.sender, m.text}
	if want, known := r.keyed[w]; known {
		r.requireKnown(t, m, want)
		return
	}
	r.keyed[w] = r.append(t, m)
}

func (r *modelled) retry(t *rapid.T) {
	if len(r.sent) == 0 {
		t.SkipNow() // this step alone
	}
	again := rapid.SampledFrom(r.sent).Draw(t, "again")
	r.requireKnown(t, again.message, again.time)
}

// requireKnown sends m, which has its time already.
func (r *modelled) requireKnown(t *rapid.T, m Message, want int64) {
	got, err := r.rig.Append(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, want, got, "a retry keeps its time")
}

// page reads a page and checks it in every field.
func (r *modelled) page(t *rapid.T, cursor int64, limit int32, reverse bool, total int64) Page {
	q, err := NewQuery(r.chat, cursor, limit, reverse, total)
	require.NoError(t, err)
	page, err := r.rig.Page(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, plainPage(r.all, cursor, limit, reverse, total), page, "cursor %d, limit %d, reverse %t, total %d", cursor, limit, reverse, total)
	for i, e := range page.Entries {
		position := cursor + int64(i)
		if reverse {
			position = page.Total - 1 - position
		}
		require.Equal(t, r.all[position], e, "position %d", position)
	}
	return page
}

func (r *modelled) poll(t *rapid.T) {
	p := &r.pollers[rapid.IntRange(0, len(r.pollers)-1).Draw(t, "poller")]
	r.pollOnce(t, p, rapid.Int32Range(0, 40).Draw(t, "limit"))
}

func (r *modelled) pollOnce(t *rapid.T, p *poller, limit int32) (more bool) {
	page := r.page(t, p.cursor, limit, false, 0)
	p.cursor = page.NextCursor
	p.seen = append(p.seen, page.Entries...)
	require.Equal(t, r.all[:len(p.seen)], append([]Entry{}, p.seen...), "each message once, in order")
	require.Equal(t, len(p.seen) < len(r.all), page.HasMore)
	return page.HasMore
}

func (r *modelled) pageBack(t *rapid.T) {
	p := &r.pagers[rapid.IntRange(0, len(r.pagers)-1).Draw(t, "pager")]
	if !r.pageBackOnce(t, p, rapid.Int32Range(0, 20).Draw(t, "limit")) {
		*p = pager{}
	}
}

func (r *modelled) pageBackOnce(t *rapid.T, p *pager, limit int32) (more bool) {
	if !p.last.HasMore {
		p.want = slices.Clone(r.all)
		slices.Reverse(p.want)
	}
	p.last = r.page(t, p.last.NextCursor, limit, true, p.last.Total)
	p.seen = append(p.seen, p.last.Entries...)
	require.EqualValues(t, len(p.want), p.last.Total, "the pin stays")
	require.Equal(t, p.want[:len(p.seen)], append([]Entry{}, p.seen...), "neither repeats nor gaps")
	require.Equal(t, len(p.seen) < len(p.want), p.last.HasMore)
	return p.last.HasMore
}

// look reads a page that nobody asked for, with numbers of any size.
func (r *modelled) look(t *rapid.T) {
	count := int64(len(r.all))
	number := rapid.OneOf(
		rapid.Int64Range(0, count+2),
		rapid.SampledFrom([]int64{0, 1, count, 1<<52 - 1, 1 << 52, 1 << 53, 1<<53 + 1, math.MaxInt64 - 1, math.MaxInt64}),
	)
	limit := rapid.OneOf(rapid.Int32Range(0, 40), rapid.SampledFrom([]int32{MaxLimit, MaxLimit + 1, math.MaxInt32}))
	r.page(t, number.Draw(t, "cursor"), limit.Draw(t, "limit"), rapid.Bool().Draw(t, "reverse"), number.Draw(t, "total"))
}

// finish lets all who read come to their ends, where everybody has seen all.
func (r *modelled) finish(t *rapid.T) {
	for i := range r.pollers {
		p := &r.pollers[i]
		for r.pollOnce(t, p, MaxLimit) {
		}
		require.Len(t, p.seen, len(r.all))
	}
	for i := range r.pagers {
		p := &r.pagers[i]
		for r.pageBackOnce(t, p, MaxLimit) {
		}
		require.Len(t, p.seen, len(p.want))
	}
}

// TestRoom_EverybodySeesEachMessageOnceWhileAllTalk has every message sent by
// several at a time, as retries are that overtake what they repeat.
func TestRoom_EverybodySeesEachMessageOnceWhileAllTalk(t *testing.T) {
	t.Parallel()
	const messages, senders, pollers, pagers = 80, 6, 3, 2
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		times := make([][]int64, senders) // of each message, as each sender was told
		var sending, reading sync.WaitGroup
		for i := range times {
			times[i] = make([]int64, messages)
			sending.Go(func() {
				for n := range messages {
					n = (n + i%2) % messages // half of the senders are a message ahead
					key := strconv.Itoa(n)
					m, err := NewMessage(chat, "hello", "ann", &key, maxText)
					if !assert.NoError(t, err) {
						return
					}
					for range 1 + (n+i)%2 {
						got, err := s.Append(t.Context(), m)
						if !assert.NoError(t, err) {
							return
						}
						if times[i][n] != 0 {
							assert.Equal(t, times[i][n], got, "a retry keeps its time")
						}
						times[i][n] = got
					}
				}
			})
		}
		sent := closedAfter(&sending)

		polled := make([][]Entry, pollers)
		for i := range polled {
			reading.Go(func() {
				for cursor := int64(0); ; {
					end := isClosed(sent)
					page, ok := s.readOn(t, chat, cursor, int32(1+5*i), false, 0)
					if !ok {
						return
					}
					cursor = page.NextCursor
					polled[i] = append(polled[i], page.Entries...)
					if end && !page.HasMore {
						return
					}
				}
			})
		}
		pagedBack := make([][][]Entry, pagers) // each from its first page to its last
		for i := range pagedBack {
			reading.Go(func() {
				for !isClosed(sent) {
					var back []Entry
					last := Page{HasMore: true}
					for last.HasMore {
						page, ok := s.readOn(t, chat, last.NextCursor, int32(2+6*i), true, last.Total)
						if !ok || !assert.True(t, last.Total == 0 || page.Total == last.Total, "the pin stays") {
							return
						}
						back, last = append(back, page.Entries...), page
					}
					if !assert.EqualValues(t, last.Total, len(back), "all that was there at the first page") {
						return
					}
					pagedBack[i] = append(pagedBack[i], back)
				}
			})
		}
		<-sent
		reading.Wait()

		for i, told := range times {
			assert.Equal(t, times[0], told, "sender %d was told other times", i)
		}
		slices.Sort(times[0])
		require.Len(t, slices.Compact(slices.Clone(times[0])), messages, "each message has a time of its own")
		var want []Entry
		for _, sent := range times[0] {
			want = append(want, Entry{"ann", "hello", sent})
		}
		require.Equal(t, want, s.all(t, chat))
		for i, seen := range polled {
			assert.Equal(t, want, seen, "poller %d", i)
		}
		for i, backs := range pagedBack {
			for _, back := range backs {
				slices.Reverse(back)
				require.Equal(t, want[:len(back)], append([]Entry{}, back...), "pager %d", i)
			}
		}
	})
}

// readOn reads a page for one who goes on at its next_cursor; with ok false that
// would not end well. Unlike page it may run in any goroutine.
func (s rig) readOn(t *testing.T, chat string, cursor int64, limit int32, reverse bool, total int64) (page Page, ok bool) {
	t.Helper()
	q, err := NewQuery(chat, cursor, limit, reverse, total)
	if !assert.NoError(t, err) {
		return Page{}, false
	}
	page, err = s.Page(t.Context(), q)
	ok = assert.NoError(t, err) &&
		assert.Equal(t, cursor+int64(len(page.Entries)), page.NextCursor) &&
		assert.False(t, page.HasMore && len(page.Entries) == 0, "an empty page must be the last")
	return page, ok
}
