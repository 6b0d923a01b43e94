package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// ErrCorrupt is the error of a room that holds what this package did not write.
var ErrCorrupt = errors.New("room holds foreign data")

// appendMember writes the one and only form of a message in Redis:
//
//	{"id":…,"sender":…,"text":…}
//
// without spaces, as raw UTF-8, where only the quote, the backslash and bytes
// below 0x20 are escaped, the last as \u00xx in lower-case hex. A retry is a
// no-op because it comes to the same bytes: they must never change.
func appendMember(b []byte, m Message) []byte {
	b = append(b, `{"id":"`...)
	b = appendEscaped(b, m.id)
	b = append(b, `","sender":"`...)
	b = appendEscaped(b, m.sender)
	b = append(b, `","text":"`...)
	b = appendEscaped(b, m.text)
	return append(b, `"}`...)
}

func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if c < 0x20 {
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		} else {
			b = append(b, '\\', c)
		}
	}
	return append(b, s[from:]...)
}

// parseEntry reads what appendMember wrote, and its score.
func parseEntry(member, score string) (Entry, error) {
	var e Entry
	err := json.Unmarshal([]byte(member), &e)
	if err == nil {
		e.Time, err = strconv.ParseInt(score, 10, 64)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return e, nil
}
