package chat

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/internal/member"
)

// Every go test runs the targets of this file on their seeds and on the inputs
// under testdata/fuzz. One target at a time looks for more:
//
//	go test -run '^$' -fuzz '^FuzzParseRoom$' .
//
// A target compares the code with its rule written again, as plainly as can be.

func FuzzParseRoom(f *testing.F) {
	for _, chat := range []string{
		"jack:marcus", "Marcus:JACK", "jack:jack", "jack", ":", ":marcus", "jack:", "a:b:c", "", " : ",
		"İ:\u212a", "ß:ẞ", "ſ:s", "µ:μ", "ǅ:ǆ", "ΟΔΟΣ:ς", "é:e\u0301", "\ufffd:\xff", "a:\u0085", "a\x7f:b", "a:\xed\xa0\x80", "🙂:x",
		a(member.MaxBytes) + ":" + a(member.MaxBytes+1), strings.Repeat("Ⱥ", member.MaxBytes/2) + ":ⱥ",
	} {
		f.Add(chat)
	}
	f.Fuzz(func(t *testing.T, chat string) {
		room, err := ParseRoom(chat)
		first, second, ok := plainMembers(chat, member.MaxBytes)
		if !ok {
			assert.Zero(t, room)
			requireInvalid(t, "chat: ", err)
			requireReadable(t, err)
			return
		}
		require.NoError(t, err)

		want := []string{member.Fold(first), member.Fold(second)}
		slices.Sort(want)
		name := room.String()
		require.Equal(t, strings.Join(want, ":"), name)
		_, _, ok = plainMembers(name, len(name))
		require.True(t, ok, "folding must break no rule but that of the length: %q", name)

		for _, spelling := range []string{
			name,
			second + ":" + first,
			otherCase(first) + ":" + second,
			otherCase(second) + ":" + otherCase(first),
		} {
			if _, _, ok := plainMembers(spelling, member.MaxBytes); !ok {
				continue // a letter may have more bytes in the other case
			}
			same, err := ParseRoom(spelling)
			require.NoError(t, err)
			require.Equal(t, room, same, "%q and %q", chat, spelling)
		}
		for _, member := range []string{first, second, otherCase(first), otherCase(second), want[0], want[1]} {
			require.True(t, room.has(member), "%q in %q", member, chat)
		}
		require.False(t, room.has(""))
		require.False(t, room.has(chat))
		require.False(t, room.has(first+" "+second))
	})
}

// plainMembers is the rule of a chat whose members have at most most bytes each,
// as a loop.
func plainMembers(chat string, most int) (first, second string, ok bool) {
	colon := -1
	for i, r := range chat {
		switch {
		case r < ' ', 0x7f <= r && r <= 0x9f: // control characters
			return "", "", false
		case r == utf8.RuneError && !strings.HasPrefix(chat[i:], "\ufffd"): // broken UTF-8
			return "", "", false
		case r == ':' && colon >= 0:
			return "", "", false
		case r == ':':
			colon = i
		}
	}
	if colon < 0 {
		return "", "", false
	}
	first, second = chat[:colon], chat[colon+1:]
	return first, second, 0 < len(first) && len(first) <= most && 0 < len(second) && len(second) <= most
}

// otherCase is s with each letter in another case, as far as folding brings both to the
// same: the upper case of µ is that of another letter.
func otherCase(s string) string {
	return strings.Map(func(r rune) rune {
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			if member.Fold(string(other)) == member.Fold(string(r)) {
				return other
			}
		}
		return r
	}, s)
}

func FuzzNewMessage(f *testing.F) {
	const most = 50 // bytes of text, few enough to be passed by chance
	f.Add("jack:marcus", "hello", "jack", "k-1", true)
	f.Add("jack:marcus", "hello", "MARCUS", "", false)
	f.Add("jack:marcus", "hello", "ann", "k-1", true)
	f.Add("jack:marcus", "", "jack", "", true)
	f.Add("jack:marcus", a(most), "jack", a(128), true)
	f.Add("jack:marcus", a(most+1), "", a(129), true)
	f.Add("\ufffd:marcus", "\x00\u2028", "\xff", "k 1", true)
	f.Add("jack", "hello\xff", "jack", "k\n", true)
	f.Add("kim:marcus", "hello", "\u212aim", `"k"`, true)
	f.Fuzz(func(t *testing.T, chat, text, sender, key string, withKey bool) {
		wrong := map[string]bool{
			"text":            text == "" || len(text) > most || !utf8.ValidString(text),
			"Idempotency-Key": withKey && !plainKey(key),
		}
		first, second, ok := plainMembers(chat, member.MaxBytes)
		if wrong["chat"] = !ok; ok {
			name := member.Fold(sender)
			wrong["sender"] = !utf8.ValidString(sender) || name != member.Fold(first) && name != member.Fold(second)
		}

		given := &key
		if !withKey {
			given = nil
		}
		m, err := NewMessage(chat, text, sender, given, most)
		if wrong["chat"] || wrong["sender"] || wrong["text"] || wrong["Idempotency-Key"] {
			assert.Zero(t, m)
			requireInvalid(t, "", err)
			requireReadable(t, err)
			field, _, _ := strings.Cut(err.Error(), ": ")
			require.True(t, wrong[field], "%q breaks no rule: %v", field, err)
			return
		}
		require.NoError(t, err)

		room, err := ParseRoom(chat)
		require.NoError(t, err)
		if !withKey {
			key = m.id
			require.True(t, plainKey(key), "the fresh key %q", key)
		}
		require.Equal(t, Message{room, key, sender, text}, m)
	})
}

func FuzzKey(f *testing.F) {
	for _, key := range []string{"", "k", "!~", " k", "k ", "a b", "k\n", "\nk", "k\r", "k\x00", "k\x7f", "é", "\xff", `"k"`, a(128), a(129)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		m, err := NewMessage("jack:marcus", "hello", "jack", &key, maxText)
		if !plainKey(key) {
			assert.Zero(t, m)
			requireInvalid(t, "Idempotency-Key: ", err)
			requireReadable(t, err)
			return
		}
		require.NoError(t, err)
		require.Equal(t, key, m.id)
	})
}

// plainKey is the rule of a key as a loop.
func plainKey(key string) bool {
	for i := range len(key) {
		if key[i] <= ' ' || key[i] >= 0x7f {
			return false
		}
	}
	return 1 <= len(key) && len(key) <= 128
}

// requireReadable checks that err is a text that may go into an answer.
func requireReadable(t *testing.T, err error) {
	t.Helper()
	require.True(t, utf8.ValidString(err.Error()), "%q", err.Error())
	require.NotContains(t, err.Error(), "\n")
	require.Less(t, len(err.Error()), 2000)
}

// FuzzMember_HasOneForm shows that the bytes of a message are its only ones, and
// no other message's: a strict reader of that one form gets back what went in.
func FuzzMember_HasOneForm(f *testing.F) {
	for _, golden := range goldenMembers {
		f.Add(golden.id, golden.sender, golden.text, golden.id, golden.sender, golden.text+" ")
	}
	f.Add("k", "jack", `a","text":"b`, "k", `jack","text":"a`, "b")
	f.Add("k", "jack", "\n", "k", "jack", `\n`)
	f.Add("k", "jack", "\x1f", "k", "jack", `\u001f`)
	f.Add("k", "jack", "é", "k", "jack", "e\u0301")
	f.Add("1", "2", "", "", "12", "")
	f.Fuzz(func(t *testing.T, id, sender, text, id2, sender2, text2 string) {
		m, other := Message{id: id, sender: sender, text: text}, Message{id: id2, sender: sender2, text: text2}
		member, otherMember := appendMember(nil, m), appendMember(nil, other)
		require.Equal(t, m == other, string(member) == string(otherMember), "%q and %q", m, other)
		require.Equal(t, string(member)+string(otherMember), string(appendMember(slices.Clip(member), other)), "must append")

		for _, m := range []Message{m, other} {
			member := string(appendMember(nil, m))
			read, err := readMember(member)
			require.NoError(t, err, "%q", member)
			require.Equal(t, m, read)
			if utf8.ValidString(m.id + " " + m.sender + " " + m.text) {
				require.True(t, json.Valid([]byte(member)), "%q", member)
				e, err := parseEntry(member, "-9223372036854775808")
				require.NoError(t, err)
				require.Equal(t, Entry{m.sender, m.text, -1 << 63}, e)
			}
		}
	})
}

// readMember reads the one form of a message and takes no other JSON.
func readMember(member string) (m Message, err error) {
	rest := member
	for _, part := range []struct {
		before string
		into   *string
	}{{`{"id":"`, &m.id}, {`","sender":"`, &m.sender}, {`","text":"`, &m.text}} {
		after, found := strings.CutPrefix(rest, part.before)
		if !found {
			return Message{}, fmt.Errorf("%q does not begin with %q", rest, part.before)
		}
		if *part.into, rest, err = readEscaped(after); err != nil {
			return Message{}, err
		}
	}
	if rest != `"}` {
		return Message{}, fmt.Errorf("ends with %q", rest)
	}
	return m, nil
}

// readEscaped reads up to a quote.
func readEscaped(s string) (raw, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i:], nil
		case c < ' ':
			return "", "", fmt.Errorf("%q is not escaped", c)
		case c != '\\':
			b.WriteByte(c)
		case strings.HasPrefix(s[i:], `\"`), strings.HasPrefix(s[i:], `\\`):
			i++
			b.WriteByte(s[i])
		default:
			var control byte
			end := min(i+len(`\u0000`), len(s))
			if _, err := fmt.Sscanf(s[i:end], `\u00%02x`, &control); err != nil {
				return "", "", fmt.Errorf("escape %q: %w", s[i:end], err)
			}
			if s[i:end] != fmt.Sprintf(`\u00%02x`, control) || control >= ' ' {
				return "", "", fmt.Errorf("escape %q", s[i:end])
			}
			b.WriteByte(control)
			i = end - 1
		}
	}
	return "", "", fmt.Errorf("%q has no end", s)
}
