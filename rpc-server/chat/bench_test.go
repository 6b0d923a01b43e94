package chat

import (
	"fmt"
	"strconv"
	"testing"
)

func BenchmarkAppendMember(b *testing.B) {
	for _, text := range []string{"How about lunch at noon?", a(64 << 10)} {
		b.Run(fmt.Sprintf("bytes=%d", len(text)), func(b *testing.B) {
			m := newMessage(b, newChat(), "ann", text)
			var member []byte
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				member = appendMember(member[:0], m)
			}
		})
	}
}

// BenchmarkStore_Append measures acknowledged, flushed messages from many
// senders at a time, each in a chat of its own.
func BenchmarkStore_Append(b *testing.B) {
	s := newRig(b, sharedRedis(b), patience)
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		chat := newChat()
		for pb.Next() {
			m, err := NewMessage(chat, "How about lunch at noon?", "ann", nil, maxText)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := s.Append(b.Context(), m); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkStore_Page measures the newest messages of a chat of a thousand.
func BenchmarkStore_Page(b *testing.B) {
	for _, limit := range []int32{10, 1000} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			s := newRig(b, sharedRedis(b), patience)
			chat := newChat()
			s.fill(b, chat, 1000, func(i int) string { return "How about lunch at noon? " + strconv.Itoa(i) })
			q := query(b, chat, 0, limit, true, 0)
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Page(b.Context(), q); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
