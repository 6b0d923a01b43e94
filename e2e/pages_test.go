package e2e

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPages_NothingRepeatsOrIsLeftOutWhileWritersRun(t *testing.T) {
	const writers, each = 4, 150
	chat, a, b := newChat(t)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				status, err := post(shared.URL(), chat, fmt.Sprintf("%d-%d", w, i), []string{a, b}[w%2])
				assert.NoError(t, err)
				assert.Equal(t, http.StatusOK, status)
			}
		})
	}
	over := make(chan struct{})
	go func() { writing.Wait(); close(over) }()

	var reading sync.WaitGroup
	polled := make([][]message, 3)
	for i := range polled { // forward, by next_cursor
		reading.Go(func() {
			var cursor int64
			for {
				last := false
				select {
				case <-over:
					last = true
				default:
				}
				p := pull(t, shared.URL(), chat, fmt.Sprintf("&cursor=%d&limit=%d", cursor, 7*i+3))
				assert.Equal(t, cursor+int64(len(p.Messages)), p.NextCursor)
				assert.Equal(t, p.NextCursor < p.Total, p.HasMore)
				polled[i] = append(polled[i], p.Messages...)
				cursor = p.NextCursor
				if last && !p.HasMore {
					return
				}
			}
		})
	}
	type back struct {
		pin      int64
		messages []message
	}
	var backs []back
	reading.Go(func() { // in reverse, by next_cursor and total, again and again
		for {
			p := pull(t, shared.URL(), chat, "&reverse=true&limit=20")
			way := back{p.Total, p.Messages}
			for p.HasMore {
				p = pull(t, shared.URL(), chat, fmt.Sprintf("&reverse=true&limit=20&cursor=%d&total=%d", p.NextCursor, p.Total))
				assert.Equal(t, way.pin, p.Total)
				way.messages = append(way.messages, p.Messages...)
			}
			backs = append(backs, way)
			select {
			case <-over:
				return
			default:
			}
		}
	})
	reading.Wait()

	all := pullAll(t, shared.URL(), chat)
	require.Len(t, all, writers*each)
	for _, seen := range polled {
		assert.Equal(t, all, seen)
	}
	for _, way := range backs {
		slices.Reverse(way.messages)
		assert.Equal(t, all[:way.pin], append([]message{}, way.messages...))
	}
	t.Logf("%d ways back while the chat grew to %d", len(backs), len(all))
}

func TestPages_EndBefore4MiB(t *testing.T) {
	const n = 70
	chat, sender, _ := newChat(t)
	for i := range n {
		send(t, shared.URL(), chat, fmt.Sprintf("%02d", i)+strings.Repeat("x", 65534), sender)
	}
	for _, direction := range []string{"", "&reverse=true"} {
		var all []message
		cursor := int64(0)
		for pages := 0; ; pages++ {
			p := pull(t, shared.URL(), chat, fmt.Sprintf("&limit=1000&cursor=%d%s", cursor, direction))
			stored := 0
			for _, m := range p.Messages {
				stored += len(`{"id":"","sender":"","text":""}`) + 26 + len(m.Sender) + len(m.Text)
			}
			assert.LessOrEqual(t, stored, 4<<20)
			all, cursor = append(all, p.Messages...), p.NextCursor
			if !p.HasMore {
				assert.Equal(t, 1, pages, "two pages hold all")
				break
			}
			assert.Greater(t, stored+65536+200, 4<<20, "one more would not have fitted")
		}
		require.Len(t, all, n)
		if direction != "" {
			slices.Reverse(all)
		}
		for i, m := range all {
			assert.Equal(t, fmt.Sprintf("%02d", i), m.Text[:2])
		}
	}
}

func TestPages_LimitsAndCursorsAtTheirEnds(t *testing.T) {
	const n = 1005
	chat, sender, _ := newChat(t)
	var sending sync.WaitGroup
	for range 20 {
		sending.Go(func() {
			for range n/20 + 1 {
				post(shared.URL(), chat, "hello", sender)
			}
		})
	}
	sending.Wait()
	total := pull(t, shared.URL(), chat, "").Total
	require.GreaterOrEqual(t, total, int64(n))
	for _, test := range []struct {
		query string
		want  page // with as many messages as it has
		n     int
	}{
		{"", page{HasMore: true, NextCursor: 10, Total: total}, 10},
		{"&limit=0", page{HasMore: true, NextCursor: 10, Total: total}, 10},
		{"&limit=1", page{HasMore: true, NextCursor: 1, Total: total}, 1},
		{"&limit=1000", page{HasMore: true, NextCursor: 1000, Total: total}, 1000},
		{"&limit=1001", page{HasMore: true, NextCursor: 1000, Total: total}, 1000},
		{"&limit=2147483647", page{HasMore: true, NextCursor: 1000, Total: total}, 1000},
		{fmt.Sprintf("&limit=20&cursor=%d", total-20), page{NextCursor: total, Total: total}, 20},
		{fmt.Sprintf("&cursor=%d", total), page{NextCursor: total, Total: total}, 0},
		{fmt.Sprintf("&cursor=%d", total+7), page{NextCursor: total + 7, Total: total}, 0},
		{fmt.Sprintf("&cursor=%d", math.MaxInt64), page{NextCursor: math.MaxInt64, Total: total}, 0},
		{fmt.Sprintf("&reverse=true&cursor=%d&total=%d", math.MaxInt64, math.MaxInt64), page{NextCursor: math.MaxInt64, Total: total}, 0},
		{"&reverse=true&total=5", page{NextCursor: 5, Total: 5}, 5},
		{"&reverse=true&total=5&cursor=2&limit=2", page{HasMore: true, NextCursor: 4, Total: 5}, 2},
		{fmt.Sprintf("&reverse=true&total=%d&limit=1", total+1), page{HasMore: true, NextCursor: 1, Total: total}, 1},
		{"&total=5", page{HasMore: true, NextCursor: 10, Total: total}, 10},
	} {
		p := pull(t, shared.URL(), chat, test.query)
		assert.Len(t, p.Messages, test.n, test.query)
		p.Messages = nil
		assert.Equal(t, test.want, p, test.query)
	}
}
