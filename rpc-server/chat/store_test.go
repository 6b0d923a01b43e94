package chat

import (
	"context"
	"crypto/rand"
	"math"
	"slices"
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

// The tests of this file run on the stand-in and on a real Redis: what is true of
// one is true of the other.

func TestAppend_ThenPageShowsIt(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		first := s.append(t, newMessage(t, chat, "ann", "hello"))
		second := s.append(t, newMessage(t, chat, "ANN", "<b>\"\\\n\u2028🙂</b>"))
		assert.Less(t, first, second)
		assert.Equal(t, Page{
			Entries:    []Entry{{"ann", "hello", first}, {"ANN", "<b>\"\\\n\u2028🙂</b>", second}},
			NextCursor: 2,
			Total:      2,
		}, s.page(t, chat, 0, 10, false, 0))
	})
}

func TestAppend_GivesTheTimeOfRedis(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		before := s.clock(t)
		got := s.append(t, newMessage(t, newChat(), "ann", "hello"))
		after := s.clock(t)
		assert.LessOrEqual(t, before, got)
		assert.LessOrEqual(t, got, after)
	})
}

func TestAppend_EqualTextsAreTwoMessages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		first := s.append(t, newMessage(t, chat, "ann", "hello"))
		second := s.append(t, newMessage(t, chat, "ann", "hello"))
		assert.Less(t, first, second)
		assert.Equal(t, []Entry{{"ann", "hello", first}, {"ann", "hello", second}}, s.all(t, chat))
	})
}

func TestAppend_TheSameKeyTwiceIsOneMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		ann, zoe, _ := strings.Cut(chat, ":")
		otherwise := strings.ToUpper(zoe) + ":" + ann
		first := s.append(t, keyed(t, chat, "ann", "hello", "k"))
		between := s.append(t, newMessage(t, chat, "ann", "between"))
		assert.Equal(t, first, s.append(t, keyed(t, chat, "ann", "hello", "k")))
		assert.Equal(t, first, s.append(t, keyed(t, otherwise, "ann", "hello", "k")), "the chat written otherwise")
		assert.Equal(t, []Entry{{"ann", "hello", first}, {"ann", "between", between}}, s.all(t, chat))
	})
}

func TestAppend_TheSameKeyWithOtherWordsIsAnotherMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		want := []Entry{
			{"ann", "hello", s.append(t, keyed(t, chat, "ann", "hello", "k"))},
			{"ann", "Hello", s.append(t, keyed(t, chat, "ann", "Hello", "k"))},
			{"Ann", "hello", s.append(t, keyed(t, chat, "Ann", "hello", "k"))},
			{"ann", "hello", s.append(t, keyed(t, chat, "ann", "hello", "K"))},
		}
		assert.Equal(t, want, s.all(t, chat))

		other := newChat()
		s.append(t, keyed(t, other, "ann", "hello", "k"))
		assert.Len(t, s.all(t, other), 1, "the same key in another chat")
	})
}

func TestAppend_ConcurrentEqualSendsAllArriveOnceInOneOrder(t *testing.T) {
	t.Parallel()
	const senders, each = 20, 10
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		var (
			all   sync.WaitGroup
			mu    sync.Mutex
			times []int64
		)
		for range senders {
			all.Go(func() {
				for range each {
					m, err := NewMessage(chat, "the same", "ann", nil, maxText)
					if !assert.NoError(t, err) {
						return
					}
					got, err := s.Append(t.Context(), m)
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					times = append(times, got)
					mu.Unlock()
				}
			})
		}
		// Meanwhile somebody reads along, from where the last page ended.
		var seen []Entry
		for done := closedAfter(&all); ; {
			page := s.page(t, chat, int64(len(seen)), 7, false, 0)
			seen = append(seen, page.Entries...)
			if len(page.Entries) == 0 && isClosed(done) {
				break
			}
		}
		seen = append(seen, s.page(t, chat, int64(len(seen)), 1000, false, 0).Entries...)

		slices.Sort(times)
		want := make([]Entry, senders*each)
		for i := range want {
			want[i] = Entry{"ann", "the same", times[i]}
		}
		require.Len(t, slices.Compact(slices.Clone(times)), senders*each, "each send has a time of its own")
		assert.Equal(t, want, seen, "reading along")
		backwards := slices.Clone(want)
		slices.Reverse(backwards)
		for _, limit := range []int32{1, 16, 17, 1000} {
			assert.Equal(t, want, s.pull(t, chat, limit, false), "pages of %d", limit)
			assert.Equal(t, backwards, s.pull(t, chat, limit, true), "pages of %d in reverse", limit)
		}
	})
}

func TestAppend_ConcurrentRetriesAreOneMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		var (
			all   sync.WaitGroup
			times [20]int64
		)
		for i := range times {
			m := keyed(t, chat, "ann", "hello", "k")
			all.Go(func() {
				got, err := s.Append(t.Context(), m)
				assert.NoError(t, err)
				times[i] = got
			})
		}
		all.Wait()
		for _, got := range times {
			assert.Equal(t, times[0], got)
		}
		assert.Equal(t, []Entry{{"ann", "hello", times[0]}}, s.all(t, chat))
	})
}

func TestAppend_LeavesTheCanonicalMemberAndMicrosecondsInRedis(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		partner := "zoe-" + rand.Text()
		got := s.append(t, keyed(t, strings.ToUpper(partner)+":Ann", "ANN", "a \"b\"\n<c>", "k"))

		key := "chat:ann:" + strings.ToLower(partner)
		lies, err := s.redis.ZRangeWithScores(t.Context(), key, 0, -1).Result()
		require.NoError(t, err)
		assert.Equal(t, []redis.Z{{
			Score:  float64(got),
			Member: `{"id":"k","sender":"ANN","text":"a \"b\"\u000a<c>"}`,
		}}, lies)
		expires, err := s.redis.TTL(t.Context(), key).Result()
		require.NoError(t, err)
		assert.Equal(t, time.Duration(-1), expires, "must not expire")
	})
}

// Round numbers are those that Lua and Redis like to write with an exponent,
// long ones those that they like to round.
func TestTimes_ComeBackExact(t *testing.T) {
	t.Parallel()
	for _, want := range []int64{1763990000000000, 1763990000000456, 1700000000000000, 9007199254740991} {
		t.Run(strconv.FormatInt(want, 10), func(t *testing.T) {
			onBoth(t, func(t *testing.T, s rig) {
				chat := newChat()
				s.zadd(t, chat, strconv.FormatInt(want, 10), `{"id":"k","sender":"ann","text":"hello"}`)
				assert.Equal(t, []Entry{{"ann", "hello", want}}, s.page(t, chat, 0, 1, false, 0).Entries)
				assert.Equal(t, []Entry{{"ann", "hello", want}}, s.page(t, chat, 0, 1, true, 0).Entries)
				assert.Equal(t, want, s.append(t, keyed(t, chat, "ann", "hello", "k")))
				assert.Len(t, s.all(t, chat), 1)
			})
		})
	}
}

func TestAppend_KeepsTheOrderWhenTheClockGoesBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		last := s.clock(t) + time.Hour.Microseconds()
		s.zadd(t, chat, strconv.FormatInt(last, 10), `{"id":"k","sender":"ann","text":"0"}`)

		want := []Entry{{"ann", "0", last}}
		for i := int64(1); i <= 20; i++ {
			text := strconv.FormatInt(i, 10)
			assert.Equal(t, last+i, s.append(t, newMessage(t, chat, "ann", text)))
			want = append(want, Entry{"ann", text, last + i})
		}
		assert.Equal(t, last, s.append(t, keyed(t, chat, "ann", "0", "k")), "a retry keeps its time")
		assert.Equal(t, want, s.all(t, chat))
	})
}

func TestPage_IsTheSameAsInAPlainSlice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		const count = 35 // two chunks of the script and a piece
		chat := newChat()
		all := s.fill(t, chat, count, func(i int) string { return strconv.Itoa(i) })

		cursors := []int64{0, 1, 16, count - 1, count, count + 1, 1 << 53, math.MaxInt64}
		limits := []int32{0, 1, 16, 17, count, 1001, math.MaxInt32}
		totals := []int64{0, 1, 17, count - 1, count, count + 1, 1 << 53, math.MaxInt64}
		for _, cursor := range cursors {
			for _, limit := range limits {
				for _, total := range totals {
					for _, reverse := range []bool{false, true} {
						require.Equal(t, plainPage(all, cursor, limit, reverse, total), s.page(t, chat, cursor, limit, reverse, total),
							"cursor %d, limit %d, reverse %t, total %d", cursor, limit, reverse, total)
					}
				}
			}
		}
	})
}

// plainPage is what the page of a room with these messages, oldest first, has to
// be.
func plainPage(all []Entry, cursor int64, limit int32, reverse bool, total int64) Page {
	if reverse {
		if total != 0 && total <= int64(len(all)) {
			all = all[:total]
		}
		all = slices.Clone(all)
		slices.Reverse(all)
	}
	if limit == 0 {
		limit = 10
	}
	rest := all[min(cursor, int64(len(all))):]
	page := rest[:min(int(limit), len(rest))]
	return Page{
		Entries:    append([]Entry{}, page...),
		HasMore:    len(page) < len(rest),
		NextCursor: cursor + int64(len(page)),
		Total:      int64(len(all)),
	}
}

func TestPage_OfAnEmptyRoomIsEmptyAndNotNil(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		for _, reverse := range []bool{false, true} {
			for _, number := range []int64{0, 1, 1000, math.MaxInt64} {
				page := s.page(t, chat, number, 10, reverse, number)
				assert.NotNil(t, page.Entries)
				assert.Equal(t, Page{Entries: []Entry{}, NextCursor: number}, page)
			}
		}
	})
}

func TestPage_ReverseStaysPutWhileMessagesArrive(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		want := s.fill(t, chat, 25, func(i int) string { return strconv.Itoa(i) })
		slices.Reverse(want)

		first := s.page(t, chat, 0, 4, true, 0)
		got := first.Entries
		var arrived []Entry
		for page := first; page.HasMore; {
			for range 3 {
				sent := s.append(t, newMessage(t, chat, "ann", "new"))
				arrived = append(arrived, Entry{"ann", "new", sent})
			}
			page = s.page(t, chat, page.NextCursor, 4, true, page.Total)
			assert.Equal(t, first.Total, page.Total)
			got = append(got, page.Entries...)
		}
		assert.Equal(t, want, got)

		later := s.page(t, chat, first.Total, 1000, false, 0)
		assert.Equal(t, arrived, later.Entries, "the total of the first page is the cursor to poll forward from")
	})
}

func TestPage_PositionsInReverseAreTotalMinusOneMinusCursor(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		all := s.fill(t, chat, 20, func(i int) string { return strconv.Itoa(i) })
		for _, total := range []int64{0, 1, 7, 20, 21} {
			for cursor := range int64(20) {
				page := s.page(t, chat, cursor, 5, true, total)
				for i, e := range page.Entries {
					assert.Equal(t, all[page.Total-1-cursor-int64(i)], e)
				}
			}
		}
	})
}

func TestPage_TellsByTotalThatAChatWentBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		s.fill(t, chat, 5, func(i int) string { return strconv.Itoa(i) })
		cursor := s.page(t, chat, 0, 10, false, 0).NextCursor
		require.NoError(t, s.redis.ZRemRangeByRank(t.Context(), "chat:"+chat, 3, -1).Err())
		assert.Equal(t, Page{Entries: []Entry{}, NextCursor: cursor, Total: 3}, s.page(t, chat, cursor, 10, false, 0))
	})
}

func TestPage_HoldsAtMostAThousandMessages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		all := s.fill(t, chat, 1010, func(i int) string { return strconv.Itoa(i) })

		page := s.page(t, chat, 0, math.MaxInt32, false, 0)
		assert.Equal(t, Page{all[:1000], true, 1000, 1010}, page)
		page = s.page(t, chat, 1000, 1001, false, 0)
		assert.Equal(t, Page{all[1000:], false, 1010, 1010}, page)
	})
}

func TestPage_EndsBeforeItHasTooManyBytes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		memberBytes int
		entries     int // of a page that is not the last
	}{
		"just fits":       {64 << 10, 64},
		"a byte too many": {64<<10 + 1, 63},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s rig) {
				const count = 70
				chat := newChat()
				all := s.fill(t, chat, count, func(i int) string {
					member := appendMember(nil, Message{id: strconv.Itoa(i), sender: "ann"})
					return a(test.memberBytes - len(member))
				})
				for _, reverse := range []bool{false, true} {
					var got []Entry
					page := Page{HasMore: true}
					for page.HasMore {
						page = s.page(t, chat, page.NextCursor, 1000, reverse, 0)
						want := min(test.entries, count-len(got))
						require.Len(t, page.Entries, want)
						got = append(got, page.Entries...)
						require.Equal(t, len(got) < count, page.HasMore)
						require.EqualValues(t, count, page.Total)
					}
					if reverse {
						slices.Reverse(got)
					}
					require.True(t, slices.Equal(all, got), "must be all messages in order")

					page = s.page(t, chat, 0, 5, reverse, 0)
					require.Len(t, page.Entries, 5, "a limit below the budget counts")
				}
			})
		})
	}
}

func TestPage_ServesAMessageAboveTheBudgetAlone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		large := a(MaxPageBytes + 1)
		for _, text := range []string{"before", large, "after"} {
			m, err := NewMessage(chat, text, "ann", nil, len(large))
			require.NoError(t, err)
			s.append(t, m)
		}
		sizes := func(reverse bool) (sizes []int) {
			page := Page{HasMore: true}
			for page.HasMore {
				page = s.page(t, chat, page.NextCursor, 10, reverse, 0)
				require.Len(t, page.Entries, 1)
				sizes = append(sizes, len(page.Entries[0].Text))
			}
			return sizes
		}
		assert.Equal(t, []int{len("before"), len(large), len("after")}, sizes(false))
		assert.Equal(t, []int{len("after"), len(large), len("before")}, sizes(true))
	})
}

func TestStore_GoesOnWhenRedisForgetsTheScripts(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 25
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		q := query(t, chat, 0, 10, true, 0)
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range each {
					m, err := NewMessage(chat, "hello", "ann", nil, maxText)
					assert.NoError(t, err)
					_, err = s.Append(t.Context(), m)
					assert.NoError(t, err)
					_, err = s.Page(t.Context(), q)
					assert.NoError(t, err)
				}
			})
		}
		for done := closedAfter(&all); !isClosed(done); {
			require.NoError(t, s.redis.ScriptFlush(t.Context()).Err())
		}
		assert.Len(t, s.all(t, chat), callers*each)
	})
}

// TestPage_IsOfOneInstantHoweverManyBytesItHas has messages arrive while a page is
// read that takes many parts.
func TestPage_IsOfOneInstantHoweverManyBytesItHas(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		const count = 40
		chat := newChat()
		all := s.fill(t, chat, count, func(i int) string { return a(partBytes/8+i) + "\n" })
		done := make(chan struct{})
		defer func() { <-done }()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				_, err := s.Append(t.Context(), newMessage(t, chat, "ann", "hello"))
				assert.NoError(t, err)
			}
		}()
		for range 5 {
			page := s.page(t, chat, 0, count, false, 0)
			assert.True(t, slices.Equal(all, page.Entries), "forward")
			page = s.page(t, chat, 0, count-1, true, count)
			slices.Reverse(page.Entries)
			assert.True(t, slices.Equal(all[1:], page.Entries), "in reverse")
			assert.True(t, page.HasMore)
		}
	})
}

func TestPage_OfForeignDataIsCorrupt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ score, member string }{
		"no JSON":         {"1763990000000000", "hello"},
		"cut JSON":        {"1763990000000000", `{"id":"k","sender":"ann"`},
		"a list":          {"1763990000000000", `["k","ann","hello"]`},
		"a number":        {"1763990000000000", "7"},
		"text no string":  {"1763990000000000", `{"id":"k","sender":"ann","text":7}`},
		"an empty object": {"1763990000000000", `{}`},
		"null":            {"1763990000000000", `null`},
		"another order":   {"1763990000000000", `{"sender":"ann","id":"k","text":"hello"}`},
		"spaces":          {"1763990000000000", `{"id": "k", "sender": "ann", "text": "hello"}`},
		"more fields":     {"1763990000000000", `{"id":"k","sender":"ann","text":"hello","to":"zoe"}`},
		"more behind":     {"1763990000000000", `{"id":"k","sender":"ann","text":"hello"} `},
		"another escape":  {"1763990000000000", `{"id":"k","sender":"ann","text":"\u0041"}`},
		"a short escape":  {"1763990000000000", `{"id":"k","sender":"ann","text":"\n"}`},
		"a cut escape":    {"1763990000000000", `{"id":"k","sender":"ann","text":"\u000`},
		"no hex":          {"1763990000000000", `{"id":"k","sender":"ann","text":"\u00+1"}`},
		"half a score":    {"1763990000000000.5", `{"id":"k","sender":"ann","text":"hello"}`},
		"endless score":   {"inf", `{"id":"k","sender":"ann","text":"hello"}`},
		"endlessly early": {"-inf", `{"id":"k","sender":"ann","text":"hello"}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s rig) {
				chat := newChat()
				s.zadd(t, chat, test.score, test.member)
				_, err := s.Page(t.Context(), query(t, chat, 0, 10, false, 0))
				assert.ErrorIs(t, err, ErrCorrupt)
				assert.NotErrorIs(t, err, ErrUnavailable)
			})
		})
	}
}

func TestStore_AKeyOfAnotherTypeIsADefect(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		require.NoError(t, s.redis.Set(t.Context(), "chat:"+chat, "x", 0).Err())
		for _, err := range s.errors(t.Context(), t, chat) {
			assert.ErrorContains(t, err, "WRONGTYPE")
			assert.NotErrorIs(t, err, ErrUnavailable)
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			assert.NotErrorIs(t, err, context.Canceled)
		}
	})
}

func TestStore_AContextThatHasEndedIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		late, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()

		chat := newChat()
		for ctx, want := range map[context.Context]error{canceled: context.Canceled, late: context.DeadlineExceeded} {
			for _, err := range s.errors(ctx, t, chat) {
				assert.ErrorIs(t, err, want)
				assert.NotErrorIs(t, err, ErrUnavailable)
			}
		}
	})
}

func TestStore_IsUnavailableOnceItIsClosed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		s.append(t, newMessage(t, chat, "ann", "hello"))
		require.NoError(t, s.Close())
		s.requireUnavailable(t, chat)
	})
}

func TestClose_StoresWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	const senders, enough = 8, 50
	onBoth(t, func(t *testing.T, s rig) {
		chat := newChat()
		var (
			all   sync.WaitGroup
			mu    sync.Mutex
			acked []int64
		)
		sent := make(chan struct{}, enough)
		for range senders {
			all.Go(func() {
				for {
					m, err := NewMessage(chat, "hello", "ann", nil, maxText)
					if !assert.NoError(t, err) {
						return
					}
					got, err := s.Append(t.Context(), m)
					if err != nil {
						assert.ErrorIs(t, err, ErrUnavailable)
						return
					}
					mu.Lock()
					acked = append(acked, got)
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
		require.NoError(t, s.Close())
		<-done

		other := newRig(t, s.addrs, patience)
		var stored []int64
		for _, e := range other.all(t, chat) {
			stored = append(stored, e.Time)
		}
		assert.Subset(t, stored, acked)
	})
}

// TestStore_TellsARefusalForNowFromADefect holds the list of what Redis says
// when it will not serve for now. Only the stand-in says whatever one likes.
func TestStore_TellsARefusalForNowFromADefect(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{ // whether it is unavailable
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": true,
		"CLUSTERDOWN The cluster is down":                                                              true,
		"LOADING Redis is loading the dataset in memory":                                               true,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":             true,
		"MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.":       true,
		"NOAUTH Authentication required.":                                                              true,
		"NOPERM User im has no permissions to run the 'zadd' command":                                  true,
		"WRONGPASS invalid username-password pair or user is disabled.":                                true,
		"NOREPLICAS Not enough good replicas to write.":                                                true,
		"NOSCRIPT No matching script. Please use EVAL.":                                                true,
		"OOM command not allowed when used memory > 'maxmemory'.":                                      true,
		"READONLY You can't write against a read only replica.":                                        true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                      true,
		"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": true,
		"ERR max number of clients reached":                                                            true,

		"ASK 1 127.0.0.1:1":                              false, // of a Redis Cluster, which this is said not to be
		"MOVED 1 127.0.0.1:1":                            false,
		"ERR unknown command 'evalsha'":                  false,
		"WRONGTYPE Operation against a key":              false,
		"ERR value is not an integer or out of range":    false,
		"ERR Error running script: BUSY is not in front": false,
	}
	for reply, unavailable := range tests {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			server := miniredis.RunT(t)
			s := newRig(t, server.Addr(), patience)
			chat := newChat()
			s.append(t, newMessage(t, chat, "ann", "hello")) // also connects
			s.page(t, chat, 0, 10, false, 0)

			server.SetError(reply)
			if unavailable {
				s.requireUnavailable(t, chat)
				return
			}
			for _, err := range s.errors(t.Context(), t, chat) {
				assert.Error(t, err)
				assert.NotErrorIs(t, err, ErrUnavailable)
			}
		})
	}
}
