package chat

import (
	"errors"
	"strconv"
	"strings"
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
	_, rest, ok := cutField(member, `{"id":"`)
	if ok {
		e.Sender, rest, ok = cutField(rest, `,"sender":"`)
	}
	if ok {
		e.Text, rest, ok = cutField(rest, `,"text":"`)
	}
	if !ok || rest != "}" {
		return Entry{}, ErrCorrupt
	}
	var err error
	if e.Time, err = strconv.ParseInt(score, 10, 64); err == nil {
		return e, nil
	}
	micros, err := strconv.ParseFloat(score, 64) // Redis writes an exponent where that is shorter
	e.Time = int64(micros)
	if err != nil || float64(e.Time) != micros {
		return Entry{}, ErrCorrupt
	}
	return e, nil
}

// cutField reads a string that begins after prefix and ends with a quote, as
// appendEscaped writes it, and gives what follows. ok is false for any other.
func cutField(s, prefix string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, prefix)
	var unescaped []byte
	for ok {
		end := strings.IndexAny(s, `"\`)
		switch {
		case end < 0:
			return "", "", false
		case s[end] == '"' && unescaped == nil: // the rule: nothing is copied
			return s[:end], s[end+1:], true
		case s[end] == '"':
			return string(append(unescaped, s[:end]...)), s[end+1:], true
		}
		unescaped = append(unescaped, s[:end]...)
		switch s = s[end+1:]; {
		case s != "" && (s[0] == '"' || s[0] == '\\'):
			unescaped, s = append(unescaped, s[0]), s[1:]
		case len(s) >= 5 && s[:3] == "u00":
			control, err := strconv.ParseUint(s[3:5], 16, 8)
			unescaped, s, ok = append(unescaped, byte(control)), s[5:], err == nil && control < 0x20
		default:
			ok = false
		}
	}
	return "", "", false
}
