package chat

import (
	"encoding/json"
	"fmt"
)

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

// parseMember reads what appendMember wrote; of anything else the error wraps
// ErrCorrupt.
func parseMember(member string) (sender, text string, err error) {
	var m struct{ Sender, Text string }
	if err := json.Unmarshal([]byte(member), &m); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return m.Sender, m.Text, nil
}
