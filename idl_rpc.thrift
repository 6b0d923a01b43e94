// What http-server and rpc-server say to each other. Any Thrift binary
// client, framed or buffered, may speak it too.
namespace go rpc

// Code is what the Code field of a response holds: OK, or the HTTP status that
// the gateway answers.
enum Code {
    OK          = 0   // done
    INVALID     = 400 // the request breaks a rule; Msg says which, for the caller
    INTERNAL    = 500 // a defect on the server's side; its log says what
    UNAVAILABLE = 503 // the store cannot be reached or refuses; try again later
    DEADLINE    = 504 // time ran out; a message may or may not have been stored
}

// TAG_BATCHES is the tag of an rpc-server's entry in etcd that says that it serves
// SendMany and PullMany; a server of an older version does not.
const string TAG_BATCHES = "batches"

// TAG_HINTS is the tag of one that serves Listen and Totals.
const string TAG_HINTS = "hints"

// TAG_CHATS is the tag of one that serves Chats and Read, and Totals of members.
const string TAG_CHATS = "chats"

// MSG_OVERLOAD is the Msg of a call that is UNAVAILABLE because of MAX_IN_FLIGHT or
// REDIS_QUEUE: the server is well, and has no room.
const string MSG_OVERLOAD = "the server has no room for more calls"

// UNKNOWN_TOTAL is the total of a name that is not valid, or whose messages cannot be counted
// now.
const i64 UNKNOWN_TOTAL = -1

struct Message {
    1: string Chat     // "<member1>:<member2>"; neither case nor order matters
    2: string Text     // not empty
    3: string Sender   // one of the two members
    4: i64    SendTime // Unix seconds; ignored in a SendRequest
}

struct SendRequest {
    1: required Message message
    // Key makes a repeated send store nothing twice: 1 to 128 visible ASCII
    // characters. Without one every send is a message of its own.
    2: optional string  Key
    3: optional string  RequestID   // for the log
    4: optional string  Traceparent // for spans (W3C Trace Context), as is Tracestate
    5: optional string  Tracestate
}

struct SendResponse {
    1: required i32    Code
    2: required string Msg
}

struct PullRequest {
    1: required string Chat
    2: required i64    Cursor  // 0-based position of the first message of the page
    3: required i32    Limit   // messages a page; 0 means 10, at most 1000 are served
    4: optional bool   Reverse // count from the newest message instead of the oldest
    5: optional i64    Total   // with Reverse: the number positions are counted back from; 0 means all
    6: optional string RequestID
    7: optional string Traceparent
    8: optional string Tracestate
}

struct PullResponse {
    1: required i32           Code
    2: required string        Msg
    3: optional list<Message> Messages
    4: optional bool          HasMore    // whether NextCursor opens another page
    5: optional i64           NextCursor // Cursor + the number of messages
    6: optional i64           Total      // messages in the chat; with Reverse, the number counted back from
}

// Interest is what a gateway waits for, as it changes: names of rooms, as a Hint has
// them, and of members, in which there is no colon. The first one of a stream is the whole.
struct Interest {
    1: required list<string> Added
    2: required list<string> Removed
    // Version counts the gateway's Interests. It comes back in Hints once what was added is
    // heard of: what is stored from then on has a Hint.
    3: required i64          Version
}

struct ChatsRequest {
    1: required string Member // whose chats; case does not matter
    2: required i64    Cursor // 0-based place of the first chat, of that with the newest message
    3: required i32    Limit  // chats a page; 0 means 10, at most 100 are served
    4: optional string RequestID   // for the log
    5: optional string Traceparent // for spans (W3C Trace Context), as is Tracestate
    6: optional string Tracestate
}

struct Chat {
    1: required string  Chat   // the one name of its room
    2: required i64     Total  // messages in it
    3: required i64     Mark   // of which the member has read so many
    4: required i32     Unread // of others, behind that mark and the member's own last one; 100 is 100 or more
    5: required Message Last   // its newest message
}

struct ChatsResponse {
    1: required i32        Code
    2: required string     Msg
    3: optional list<Chat> Chats
    4: optional bool       HasMore
    5: optional i64        NextCursor
    6: optional i64        Total // messages in all chats of the member
    7: optional i64        Count // of these chats
}

struct ReadRequest {
    1: required string Chat
    2: required string Member // one of its two, who has read
    3: required i64    Mark   // so many of its messages
    4: optional string RequestID   // for the log
    5: optional string Traceparent // for spans (W3C Trace Context), as is Tracestate
    6: optional string Tracestate
}

struct ReadResponse {
    1: required i32    Code
    2: required string Msg
    3: optional i64    Mark // how many the member has read, as it is kept
}

// Hints tell of messages just stored in rooms that are waited for, or one of whose members
// is. One without any is a heartbeat, which comes each second, and at first.
struct Hints {
    1: required list<Hint> Hints
    2: required i64        Version // of the last Interest
}

struct Hint {
    1: required string Room // the room's one name
    2: required i64    Time // of the message, in microseconds since the Unix epoch
}

service IMService {
    SendResponse Send(1: SendRequest req)
    PullResponse Pull(2: PullRequest req) // the 2 is part of the wire

    // SendMany and PullMany are for calls that are made at the same time. They
    // return an answer for each, in the order of the requests, each with a Code
    // of its own.
    list<SendResponse> SendMany(1: list<SendRequest> reqs)

    // PullMany reads the first 64 KiB of each page. A page that is longer has
    // HasMore and no Messages: Pull reads it.
    list<PullResponse> PullMany(1: list<PullRequest> reqs)

    // Totals counts the messages of chats, and those in all chats of members, who are names
    // without a colon, in their order; some may be UNKNOWN_TOTAL.
    list<i64> Totals(1: list<string> names)

    // Chats lists the chats of a member in which somebody wrote, that with the newest message
    // first. Those of a gateway are made where the rpc-server has TAG_CHATS, as are those of Read.
    ChatsResponse Chats(1: ChatsRequest req)

    // Read moves the mark of how far a member has read a chat. It only grows.
    ReadResponse Read(1: ReadRequest req)

    // Listen is a stream (TTHeader) that a gateway keeps open to each rpc-server that has
    // TAG_HINTS. Hints may be lost.
    Hints Listen(1: Interest interest) (streaming.mode="bidirectional")
}
