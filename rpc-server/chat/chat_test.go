package chat

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseRoom_NeitherCaseNorOrderMakesAnotherRoom(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ chat, room string }{
		"as it is":                    {"jack:marcus", "jack:marcus"},
		"other order":                 {"marcus:jack", "jack:marcus"},
		"other case":                  {"Jack:MARCUS", "jack:marcus"},
		"other order and case":        {"MARCUS:jAcK", "jack:marcus"},
		"oneself":                     {"jack:jack", "jack:jack"},
		"oneself in two cases":        {"jack:Jack", "jack:jack"},
		"sorted after folding":        {"a:B", "a:b"},
		"sorted as bytes":             {"é:z", "z:é"},
		"one byte a member":           {"a:b", "a:b"},
		"not trimmed":                 {" jack : marcus ", " jack : marcus "},
		"spaces are a name":           {" :  ", " :  "},
		"composed":                    {"\u00e9:x", "x:\u00e9"},
		"decomposed is another":       {"e\u0301:x", "e\u0301:x"},
		"full width is another":       {"ｊ:x", "x:ｊ"},
		"dotted capital I":            {"İ:x", "x:İ"},
		"Kelvin sign":                 {"\u212aim:x", "x:\u212aim"},
		"capital sharp s":             {"ẞ:x", "x:ẞ"},
		"sharp s is not ss":           {"ß:ss", "ss:ß"},
		"no final sigma":              {"ΟΔΟΣ:x", "x:οδοσ"},
		"title-case letter":           {"ǅ:x", "x:ǅ"},
		"emoji":                       {"🙂:x", "x:🙂"},
		"replacement character":       {"\ufffd:x", "x:\ufffd"},
		"no-break space":              {"\u00a0:x", "x:\u00a0"},
		"format and line separators":  {"\u200b:\u2028", "\u200b:\u2028"},
		"quotes and backslashes":      {`"\":'`, `"\":'`},
		"128 bytes a member":          {a(128) + ":" + strings.Repeat("b", 128), a(128) + ":" + strings.Repeat("b", 128)},
		"128 bytes of two each":       {strings.Repeat("é", 64) + ":x", "x:" + strings.Repeat("é", 64)},
		"128 bytes that grow to 192":  {strings.Repeat("Ⱥ", 64) + ":x", "x:" + strings.Repeat("ⱥ", 64)},
		"126 bytes that shrink to 84": {strings.Repeat("Ɫ", 42) + ":x", "x:" + strings.Repeat("ɫ", 42)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			room, err := ParseRoom(test.chat)
			require.NoError(t, err)
			assert.Equal(t, test.room, room.String())
		})
	}
}

func TestParseRoom_RefusesWhatIsNoPairOfNames(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"empty":                              "",
		"no colon":                           "jack",
		"a colon alone":                      ":",
		"first member empty":                 ":marcus",
		"second member empty":                "jack:",
		"two colons":                         "jack:marcus:ann",
		"two colons in a row":                "jack::marcus",
		"colon in front":                     ":jack:marcus",
		"colon behind":                       "jack:marcus:",
		"full-width colon":                   "jack：marcus",
		"first member of 129 bytes":          a(129) + ":b",
		"second member of 129 bytes":         "b:" + a(129),
		"129 bytes in 65 characters":         strings.Repeat("é", 64) + "a:b",
		"129 bytes that would shrink to 43":  strings.Repeat("\u212a", 43) + ":b",
		"a megabyte":                         a(1<<20) + ":b",
		"byte that is not UTF-8":             "jack\xff:marcus",
		"character that is cut":              "jack:\xe2\x82",
		"overlong form":                      "\xc0\xaf:marcus",
		"surrogate":                          "\xed\xa0\x80:marcus",
		"NUL":                                "ja\x00ck:marcus",
		"tab":                                "jack\t:marcus",
		"line feed":                          "jack:marcus\n",
		"unit separator, the last below ' '": "jack:\x1fmarcus",
		"DEL":                                "jack\x7f:marcus",
		"U+0080, the first above ASCII":      "jack\u0080:marcus",
		"U+0085, next line":                  "jack:\u0085marcus",
		"U+009F, the last":                   "jack:marcus\u009f",
	}
	for name, chat := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			room, err := ParseRoom(chat)
			assert.Zero(t, room)
			requireInvalid(t, "chat: ", err)
			assert.Less(t, len(err.Error()), 2000, "a long name must not come back whole")
		})
	}
}

func TestNewMessage_KeepsWhatWasSaid(t *testing.T) {
	t.Parallel()
	visible := ""
	for c := byte('!'); c <= '~'; c++ {
		visible += string(c)
	}
	tests := map[string]struct{ chat, text, sender, key string }{
		"first member":                {"jack:marcus", "hello", "jack", "1"},
		"second member":               {"jack:marcus", "hello", "marcus", "1"},
		"sender in another case":      {"jack:marcus", "hello", "JACK", "1"},
		"chat in another case":        {"JACK:marcus", "hello", "jack", "1"},
		"sender with a Kelvin sign":   {"\u212aim:marcus", "hello", "\u212aim", "1"},
		"sender U+FFFD":               {"\ufffd:marcus", "hello", "\ufffd", "1"},
		"oneself":                     {"jack:jack", "hello", "jack", "1"},
		"text of one byte":            {"jack:marcus", "h", "jack", "1"},
		"text of the most bytes":      {"jack:marcus", a(maxText), "jack", "1"},
		"text of the most bytes, é":   {"jack:marcus", strings.Repeat("é", maxText/2), "jack", "1"},
		"text of spaces":              {"jack:marcus", "  ", "jack", "1"},
		"text of control characters":  {"jack:marcus", "\x00\r\n\x7f\u0085", "jack", "1"},
		"text of marks":               {"jack:marcus", "\ufeff\u2028🙂", "jack", "1"},
		"key of 128 characters":       {"jack:marcus", "hello", "jack", a(128)},
		"key of each visible":         {"jack:marcus", "hello", "jack", visible},
		"key in quotes":               {"jack:marcus", "hello", "jack", `"k"`},
		"key of a quote":              {"jack:marcus", "hello", "jack", `"`},
		"key that looks like a chat":  {"jack:marcus", "hello", "jack", "jack:marcus"},
		"key at the edges of visible": {"jack:marcus", "hello", "jack", "!~"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			room, err := ParseRoom(test.chat)
			require.NoError(t, err)
			m, err := NewMessage(test.chat, test.text, test.sender, &test.key, maxText)
			require.NoError(t, err)
			assert.Equal(t, Message{room, test.key, test.sender, test.text}, m)
		})
	}
}

func TestNewMessage_NamesTheFieldThatBreaksARule(t *testing.T) {
	t.Parallel()
	const good = "jack:marcus"
	tests := map[string]struct{ field, chat, text, sender, key string }{
		"chat empty":                          {"chat: ", "", "hello", "jack", "1"},
		"chat of one":                         {"chat: ", "jack", "hello", "jack", "1"},
		"chat that is not UTF-8":              {"chat: ", "jack:\xff", "hello", "jack", "1"},
		"sender empty":                        {"sender: ", good, "hello", "", "1"},
		"sender not a member":                 {"sender: ", good, "hello", "ann", "1"},
		"sender part of a member":             {"sender: ", good, "hello", "jac", "1"},
		"sender with a Kelvin sign":           {"sender: ", "kim:marcus", "hello", "\u212aim", "1"},
		"sender with a space":                 {"sender: ", good, "hello", "jack ", "1"},
		"sender the whole chat":               {"sender: ", good, "hello", good, "1"},
		"sender decomposed":                   {"sender: ", "\u00e9:marcus", "hello", "e\u0301", "1"},
		"sender that is not UTF-8":            {"sender: ", "\ufffd:marcus", "hello", "\xff", "1"},
		"sender cut where U+FFFD is expected": {"sender: ", "a\ufffd:marcus", "hello", "a\xe2\x82", "1"},
		"sender of a megabyte":                {"sender: ", good, "hello", a(1 << 20), "1"},
		"text empty":                          {"text: ", good, "", "jack", "1"},
		"text a byte too long":                {"text: ", good, a(maxText + 1), "jack", "1"},
		"text a byte too long in é":           {"text: ", good, strings.Repeat("é", maxText/2) + "a", "jack", "1"},
		"text that is not UTF-8":              {"text: ", good, "hello\xff", "jack", "1"},
		"text that is cut":                    {"text: ", good, "\xf0\x9f\x99", "jack", "1"},
		"text with a surrogate":               {"text: ", good, "\xed\xa0\x80", "jack", "1"},
		"key empty":                           {"Idempotency-Key: ", good, "hello", "jack", ""},
		"key of 129 characters":               {"Idempotency-Key: ", good, "hello", "jack", a(129)},
		"key with a space inside":             {"Idempotency-Key: ", good, "hello", "jack", "a b"},
		"key with a space behind":             {"Idempotency-Key: ", good, "hello", "jack", "a "},
		"key with a tab":                      {"Idempotency-Key: ", good, "hello", "jack", "a\tb"},
		"key with a line feed":                {"Idempotency-Key: ", good, "hello", "jack", "a\n"},
		"key with NUL":                        {"Idempotency-Key: ", good, "hello", "jack", "\x00"},
		"key with DEL":                        {"Idempotency-Key: ", good, "hello", "jack", "a\x7f"},
		"key with é":                          {"Idempotency-Key: ", good, "hello", "jack", "é"},
		"key that is not UTF-8":               {"Idempotency-Key: ", good, "hello", "jack", "a\xff"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := NewMessage(test.chat, test.text, test.sender, &test.key, maxText)
			assert.Zero(t, m)
			requireInvalid(t, test.field, err)
			assert.Less(t, len(err.Error()), 2000, "long input must not come back whole")
		})
	}
}

func TestNewMessage_WithoutKeyIsLikeNoOther(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	for range 1000 {
		m, err := NewMessage("jack:marcus", "hello", "jack", nil, maxText)
		require.NoError(t, err)
		_, err = NewMessage("jack:marcus", "hello", "jack", &m.id, maxText)
		require.NoError(t, err, "an id must be a valid key")
		ids[m.id] = true
	}
	assert.Len(t, ids, 1000)
}

func TestNewQuery_ReadsAZeroLimitAsTheDefaultAndCutsALargeOne(t *testing.T) {
	t.Parallel()
	room, err := ParseRoom("jack:marcus")
	require.NoError(t, err)
	tests := map[string]struct {
		cursor  int64
		limit   int32
		reverse bool
		total   int64
		want    Query
	}{
		"zero values":     {0, 0, false, 0, Query{room, 0, 10, false, 0}},
		"one":             {1, 1, true, 1, Query{room, 1, 1, true, 1}},
		"999":             {0, 999, false, 0, Query{room, 0, 999, false, 0}},
		"1000":            {0, 1000, false, 0, Query{room, 0, 1000, false, 0}},
		"1001":            {0, 1001, false, 0, Query{room, 0, 1000, false, 0}},
		"largest limit":   {0, math.MaxInt32, false, 0, Query{room, 0, 1000, false, 0}},
		"largest numbers": {math.MaxInt64, math.MaxInt32, true, math.MaxInt64, Query{room, math.MaxInt64, 1000, true, math.MaxInt64}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := NewQuery("Marcus:jack", test.cursor, test.limit, test.reverse, test.total)
			require.NoError(t, err)
			assert.Equal(t, test.want, q)
		})
	}
}

func TestNewQuery_NamesTheFieldThatBreaksARule(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		field, chat string
		cursor      int64
		limit       int32
		reverse     bool
		total       int64
	}{
		"chat of one":      {"chat: ", "jack", 0, 0, false, 0},
		"cursor -1":        {"cursor: ", "jack:marcus", -1, 0, false, 0},
		"smallest cursor":  {"cursor: ", "jack:marcus", math.MinInt64, 0, true, 0},
		"limit -1":         {"limit: ", "jack:marcus", 0, -1, false, 0},
		"smallest limit":   {"limit: ", "jack:marcus", 0, math.MinInt32, true, 0},
		"total -1":         {"total: ", "jack:marcus", 0, 0, true, -1},
		"smallest total":   {"total: ", "jack:marcus", 0, 0, true, math.MinInt64},
		"total -1 forward": {"total: ", "jack:marcus", 0, 0, false, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := NewQuery(test.chat, test.cursor, test.limit, test.reverse, test.total)
			assert.Zero(t, q)
			requireInvalid(t, test.field, err)
		})
	}
}

// maxText is the most bytes of a text in tests that do not care.
const maxText = 64 << 10

// a is a text of n bytes.
func a(n int) string { return strings.Repeat("a", n) }

// requireInvalid checks that err is for the caller and begins with field.
func requireInvalid(t *testing.T, field string, err error) {
	t.Helper()
	var invalid InvalidError
	require.ErrorAs(t, err, &invalid)
	require.True(t, strings.HasPrefix(err.Error(), field), "must begin with %q: %q", field, err)
}
