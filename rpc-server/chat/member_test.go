package chat

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goldenMembers are messages and the bytes that they are in Redis, for ever:
// other bytes would make a retry a second message.
var goldenMembers = map[string]struct {
	id, sender, text string
	member           string
}{
	"plain": {
		"k-1", "jack", "hello, world",
		`{"id":"k-1","sender":"jack","text":"hello, world"}`,
	},
	"quotes": {
		"k-1", `o"neil`, `say "hi"`,
		`{"id":"k-1","sender":"o\"neil","text":"say \"hi\""}`,
	},
	"backslashes": {
		"k-1", `a\b`, `C:\dir\`,
		`{"id":"k-1","sender":"a\\b","text":"C:\\dir\\"}`,
	},
	"key with quotes": {
		`"7\"`, "jack", "hello",
		`{"id":"\"7\\\"","sender":"jack","text":"hello"}`,
	},
	"every byte below 0x20": {
		"k-1", "jack", "\x00\x01\x02\x03\x04\x05\x06\x07\b\t\n\v\f\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
		`{"id":"k-1","sender":"jack","text":"` +
			`\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008\u0009\u000a\u000b\u000c\u000d\u000e\u000f` +
			`\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"}`,
	},
	"escapes at both ends and in a row": {
		"k-1", "jack", "\n\n middle \"\"\t",
		`{"id":"k-1","sender":"jack","text":"\u000a\u000a middle \"\"\u0009"}`,
	},
	"DEL is raw":             {"k-1", "jack", "a\x7fb", "{\"id\":\"k-1\",\"sender\":\"jack\",\"text\":\"a\x7fb\"}"},
	"slash is raw":           {"k-1", "jack", "a/b", `{"id":"k-1","sender":"jack","text":"a/b"}`},
	"HTML is raw":            {"k-1", "jack", "<a href='x'>&</a>", `{"id":"k-1","sender":"jack","text":"<a href='x'>&</a>"}`},
	"U+0085 is raw":          {"k-1", "jack", "a\u0085b", "{\"id\":\"k-1\",\"sender\":\"jack\",\"text\":\"a\xc2\x85b\"}"},
	"U+2028, U+2029 are raw": {"k-1", "jack", "a\u2028b\u2029", "{\"id\":\"k-1\",\"sender\":\"jack\",\"text\":\"a\xe2\x80\xa8b\xe2\x80\xa9\"}"},
	"U+FFFD is raw":          {"k-1", "\ufffd", "\ufffd", "{\"id\":\"k-1\",\"sender\":\"\xef\xbf\xbd\",\"text\":\"\xef\xbf\xbd\"}"},
	"emoji is raw":           {"k-1", "🙂", "🙂👍🏽", "{\"id\":\"k-1\",\"sender\":\"\xf0\x9f\x99\x82\",\"text\":\"\xf0\x9f\x99\x82\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd\"}"},
	"sender keeps its case":  {"k-1", "JACK", "hello", `{"id":"k-1","sender":"JACK","text":"hello"}`},
	"text that looks escaped": {
		"k-1", "jack", `\u000a`,
		`{"id":"k-1","sender":"jack","text":"\\u000a"}`,
	},
	"text that looks like a member": {
		"k-1", "jack", `","text":"x"}`,
		`{"id":"k-1","sender":"jack","text":"\",\"text\":\"x\"}"}`,
	},
}

func TestAppendMember_WritesTheSameBytesForEver(t *testing.T) {
	t.Parallel()
	for name, golden := range goldenMembers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := Message{id: golden.id, sender: golden.sender, text: golden.text}
			assert.Equal(t, golden.member, string(appendMember(nil, m)))
			assert.Equal(t, "before"+golden.member, string(appendMember([]byte("before"), m)), "must append")
		})
	}
}

func TestParseEntry_ReadsWhatAppendMemberWrote(t *testing.T) {
	t.Parallel()
	for name, golden := range goldenMembers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := parseEntry(golden.member, "1763990000000456")
			require.NoError(t, err)
			assert.Equal(t, Entry{golden.sender, golden.text, 1763990000000456}, e)
		})
	}
}
