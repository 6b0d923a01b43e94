// Package chat is the domain: rooms of two members, their messages, and pages
// of them, kept in Redis as one sorted set a room.
//
// Values are parsed, not validated: a Room, Message or Query that exists obeys
// every rule, and nothing later checks again. The package knows neither Thrift
// nor HTTP. What is wrong with foreign input is told in an InvalidError, whose
// text is for the caller.
package chat

import (
	"crypto/rand"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"im/internal/member"
)

const (
	// DefaultLimit is the number of messages of a page whose query says 0.
	DefaultLimit = 10
	// MaxLimit is the most messages of a page; a larger limit is served as this.
	MaxLimit = 1000
	// MaxChats is the most chats of a list; a larger limit is served as this.
	MaxChats = 100
	// MaxUnread is where counting of what is unread ends.
	MaxUnread = 100
)

// InvalidError says which rule the caller's input breaks, in words for the
// caller. It begins with the name of the field.
type InvalidError string

func (e InvalidError) Error() string { return string(e) }

func invalid(format string, args ...any) error {
	return InvalidError(fmt.Sprintf(format, args...))
}

// Room is where two members talk. Neither case nor order makes another room:
// "Jack:marcus" and "marcus:jack" are one. A member may talk to itself.
type Room struct {
	members [2]string // folded and sorted
}

// ParseRoom reads "<member1>:<member2>". The error is an InvalidError.
func ParseRoom(chat string) (Room, error) { return parseRoom(chat, member.MaxBytes) }

// ParseFoldedRoom reads a room that may be folded, and so longer than its members write it. The
// error is an InvalidError.
func ParseFoldedRoom(chat string) (Room, error) { return parseRoom(chat, member.MaxFoldedBytes) }

func parseRoom(chat string, maxBytes int) (Room, error) {
	if chat == "" {
		return Room{}, invalid(`chat: is required, as "<member1>:<member2>"`)
	}
	if err := checkText("chat", chat); err != nil {
		return Room{}, err
	}
	a, b, _ := strings.Cut(chat, ":")
	if a == "" || b == "" || strings.Contains(b, ":") {
		return Room{}, invalid(`chat: must be two names with one colon between them, as in "jack:marcus", not %s`, quote(chat))
	}
	if len(a) > maxBytes || len(b) > maxBytes {
		return Room{}, invalid("chat: a member has more than %d bytes: %s", maxBytes, quote(chat))
	}
	a, b = member.Pair(a, b)
	return Room{[2]string{a, b}}, nil
}

func checkText(field, s string) error {
	if !utf8.ValidString(s) {
		return invalid("%s: is not valid UTF-8", field)
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return invalid("%s: has a control character: %s", field, quote(s))
	}
	return nil
}

// Member is one who talks in rooms.
type Member struct {
	name string // folded
}

// ParseMember reads a name. The error is an InvalidError.
func ParseMember(name string) (Member, error) { return parseMember(name, member.MaxBytes) }

// ParseFoldedMember reads a name that may be folded, and so longer than its member writes it. The
// error is an InvalidError.
func ParseFoldedMember(name string) (Member, error) { return parseMember(name, member.MaxFoldedBytes) }

func parseMember(name string, maxBytes int) (Member, error) {
	if name == "" {
		return Member{}, invalid("member: is required")
	}
	if err := checkText("member", name); err != nil {
		return Member{}, err
	}
	if strings.Contains(name, ":") {
		return Member{}, invalid("member: must be one name, without a colon, not %s", quote(name))
	}
	if len(name) > maxBytes {
		return Member{}, invalid("member: has more than %d bytes: %s", maxBytes, quote(name))
	}
	return Member{member.Fold(name)}, nil
}

// Members returns the names of the two, folded and sorted.
func (r Room) Members() (first, second string) { return r.members[0], r.members[1] }

// String is the room's one name: both members folded, sorted, joined by a colon.
func (r Room) String() string { return r.members[0] + ":" + r.members[1] }

// has reports whether sender is a member. A sender that is not valid UTF-8 is
// none: Fold would turn its broken bytes into U+FFFD, which a name may hold.
func (r Room) has(sender string) bool {
	name := member.Fold(sender)
	return utf8.ValidString(sender) && (name == r.members[0] || name == r.members[1])
}

// Message is what a member says in a room.
type Message struct {
	room   Room
	id     string
	sender string
	text   string
}

// NewMessage checks what sender says in chat; text may have up to maxText bytes.
// A key makes a repeated message the same one; with nil it is like no other. The
// error is an InvalidError.
func NewMessage(chat, text, sender string, key *string, maxText int) (Message, error) {
	room, err := ParseRoom(chat)
	if err != nil {
		return Message{}, err
	}
	if sender == "" {
		return Message{}, invalid("sender: is required")
	}
	if !room.has(sender) {
		return Message{}, invalid("sender: %s is not a member of the chat %s", quote(sender), quote(chat))
	}
	if text == "" {
		return Message{}, invalid("text: is required")
	}
	if len(text) > maxText {
		return Message{}, invalid("text: has %d bytes, at most %d are allowed", len(text), maxText)
	}
	if !utf8.ValidString(text) {
		return Message{}, invalid("text: is not valid UTF-8")
	}
	id := rand.Text()
	if key != nil {
		if id = *key; !validKey(id) {
			return Message{}, invalid("Idempotency-Key: must be 1 to 128 visible ASCII characters")
		}
	}
	return Message{room, id, sender, text}, nil
}

// Room is where the message is said.
func (m Message) Room() Room { return m.room }

// validKey knows 1 to 128 visible ASCII characters.
func validKey(key string) bool {
	return len(key) >= 1 && len(key) <= 128 && !strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' })
}

// Query asks for a page of a room. Build it with NewQuery.
type Query struct {
	room    Room
	cursor  int64
	limit   int64
	reverse bool
	total   int64
}

// NewQuery checks what a caller asks for: limit messages (0 means DefaultLimit)
// from the 0-based position cursor on, counted from the oldest message or, with
// reverse, back from the total-th (0 means the newest). The error is an
// InvalidError.
func NewQuery(chat string, cursor int64, limit int32, reverse bool, total int64) (Query, error) {
	room, err := ParseRoom(chat)
	if err != nil {
		return Query{}, err
	}
	if cursor < 0 {
		return Query{}, invalid("cursor: must not be negative, but is %d", cursor)
	}
	if limit < 0 {
		return Query{}, invalid("limit: must not be negative, but is %d", limit)
	}
	if total < 0 {
		return Query{}, invalid("total: must not be negative, but is %d", total)
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	return Query{room, cursor, min(int64(limit), MaxLimit), reverse, total}, nil
}

// Entry is a message as it lies in its room.
type Entry struct {
	Sender string
	Text   string
	// Time is when the message was stored, in microseconds since the Unix epoch.
	// It strictly increases within a room.
	Time int64
}

// Page is a run of messages of a room at one instant.
type Page struct {
	Entries []Entry
	// HasMore reports whether there is another page at NextCursor.
	HasMore bool
	// NextCursor is the query's cursor plus the number of entries.
	NextCursor int64
	// Total is the number of messages in the room or, in reverse, the number that
	// positions are counted back from: the query's total, if that is neither 0 nor
	// above what the room has.
	Total int64
}

// ListQuery asks for some of a member's chats. Build it with NewListQuery.
type ListQuery struct {
	member Member
	cursor int64
	limit  int64
}

// NewListQuery checks what a caller asks for: limit chats (0 means DefaultLimit) from the
// 0-based place cursor on, counted from the one with the newest message. The error is an
// InvalidError.
func NewListQuery(name string, cursor int64, limit int32) (ListQuery, error) {
	m, err := ParseMember(name)
	if err != nil {
		return ListQuery{}, err
	}
	if cursor < 0 {
		return ListQuery{}, invalid("cursor: must not be negative, but is %d", cursor)
	}
	if limit < 0 {
		return ListQuery{}, invalid("limit: must not be negative, but is %d", limit)
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	return ListQuery{m, cursor, min(int64(limit), MaxChats)}, nil
}

// Listed is a chat in a member's list.
type Listed struct {
	Room  Room
	Total int64 // messages in it
	// Read is how many of them the member has read.
	Read int64
	// Unread is how many messages of the other one are behind Read and behind the member's
	// own last message; MaxUnread means that many or more.
	Unread int
	Last   Entry // the newest message
}

// List is a run of a member's chats, the one with the newest message first.
type List struct {
	Chats []Listed
	// HasMore reports whether there is another page at NextCursor.
	HasMore bool
	// NextCursor is the query's cursor plus the number of chats.
	NextCursor int64
	// Total is the number of messages in all chats of the member. It was counted before
	// anything else was read, so that what the list lacks is above it.
	Total int64
	Count int64 // of these chats
}

// Mark is how far a member has read a room. Build it with NewMark.
type Mark struct {
	room   Room
	member Member
	read   int64
}

// NewMark checks that name is a member of chat, which has read so many of its messages. The
// error is an InvalidError.
func NewMark(chat, name string, read int64) (Mark, error) {
	room, err := ParseRoom(chat)
	if err != nil {
		return Mark{}, err
	}
	m, err := ParseMember(name)
	if err != nil {
		return Mark{}, err
	}
	if !room.has(name) {
		return Mark{}, invalid("member: %s is not a member of the chat %s", quote(name), quote(chat))
	}
	if read < 0 {
		return Mark{}, invalid("read: must not be negative, but is %d", read)
	}
	return Mark{room, m, read}, nil
}

// quote shows foreign text in an error, cut where it would grow too long.
func quote(s string) string {
	const most = 2*member.MaxBytes + 1
	if len(s) > most {
		return fmt.Sprintf("%q and %d bytes more", s[:most], len(s)-most)
	}
	return fmt.Sprintf("%q", s)
}
