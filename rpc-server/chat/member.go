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

// parseEntry reads what appendMember wrote, and its score as Redis writes it.
func parseEntry(member, score string) (Entry, error) {
	micros, err := strconv.ParseFloat(score, 64) // Redis writes an exponent where that is shorter
	if err != nil {
		return Entry{}, ErrCorrupt
	}
	return newEntry(member, micros)
}

// newEntry is parseEntry for a score that is a number already.
func newEntry(member string, score float64) (Entry, error) {
	e := Entry{Time: int64(score)}
	_, rest, ok := cutField(member, `{"id":"`)
	if ok {
		e.Sender, rest, ok = cutField(rest, `,"sender":"`)
	}
	if ok {
		e.Text, rest, ok = cutField(rest, `,"text":"`)
	}
	if !ok || rest != "}" || float64(e.Time) != score {
		return Entry{}, ErrCorrupt
	}
	return e, nil
}

// senderOf reads the sender of a member, of which it needs no more than the beginning.
func senderOf(beginning string) (string, error) {
	_, rest, ok := cutField(beginning, `{"id":"`)
	sender := ""
	if ok {
		sender, _, ok = cutField(rest, `,"sender":"`)
	}
	if !ok {
		return "", ErrCorrupt
	}
	return sender, nil
}

// cutField reads a string that begins after prefix and ends with a quote, as
// appendEscaped writes it, and returns what follows. ok is false for any other.
func cutField(s, prefix string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, prefix)
	var unescaped []byte
	quote := -1 // the index of the next one; negative if it is not known
	for ok {
		if quote < 0 {
			if quote = strings.IndexByte(s, '"'); quote < 0 {
				return "", "", false
			}
		}
		escape := strings.IndexByte(s[:quote], '\\')
		switch {
		case escape < 0 && unescaped == nil: // nearly always: nothing is copied
			return s[:quote], s[quote+1:], true
		case escape < 0:
			return string(append(unescaped, s[:quote]...)), s[quote+1:], true
		}
		unescaped = append(unescaped, s[:escape]...)
		s, quote = s[escape+1:], quote-escape-1
		switch {
		case s[0] == '"' || s[0] == '\\':
			unescaped, s, quote = append(unescaped, s[0]), s[1:], quote-1
		case len(s) >= 5 && s[:3] == "u00":
			control, err := strconv.ParseUint(s[3:5], 16, 8)
			unescaped, s, quote, ok = append(unescaped, byte(control)), s[5:], quote-5, err == nil && control < 0x20
		default:
			ok = false
		}
	}
	return "", "", false
}
