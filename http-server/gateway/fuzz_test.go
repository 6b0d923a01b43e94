package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"im/http-server/backend/backendtest"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
)

// Every go test runs the targets of this file on their seeds and on the inputs
// under testdata/fuzz. One target at a time looks for more:
//
//	go test -run '^$' -fuzz '^FuzzDecodeJSON$' .
//
// A target compares the code with other means to the same end.

func FuzzDecodeJSON(f *testing.F) {
	for _, body := range []string{
		sendBody,
		`{"chat":"jack:marcus","cursor":5,"limit":20,"reverse":true,"total":9}`,
		`{"chat":null,"cursor":null,"limit":null,"reverse":null,"total":null}`,
		`{"CHAT":"x","Text":7,"ch\u0061t":"y"}`,
		`{"chat":"x","ch\u0061t":"y"}`,
		`{"more":{"a":1,"a":2}}`,
		`{"more":[{}, 1e999, -0]} `,
		`{"cursor":-0,"limit":1e3,"total":1.0}`,
		`{"cursor":9223372036854775808,"limit":-2147483648,"total":-9223372036854775808}`,
		`{"text":"\ud83d\ude00\ud83d"}`,
		`{"text":"` + awkward[:20] + `"}`,
		"{\"text\":\"\xff\"}", "{\"\xff\":1}", `{"a/b~":`, `{"\n":x}`, `{"` + strings.Repeat("é", 30) + `":x}`, `{"` + strings.Repeat("x", 400) + `":x}`,
		``, ` `, `null`, `[]`, `"x"`, `{`, `{}{}`, `{"chat":{"chat":[`, `{"chat":"\x"}`, "\ufeff{}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		read, ok := readJSON(body)
		// Where a surrogate stands alone encoding/json reads U+FFFD.
		surrogates := bytes.Contains(bytes.ToLower(body), []byte(`\ud`))
		var sent api.SendRequest
		var asked api.PullRequest
		for req, want := range map[proto.Message]proto.Message{&sent: read.send(), &asked: read.pull()} {
			valid := ok && want.ProtoReflect().IsValid()
			err := decodeJSON(bytes.Clone(body), req)
			if err == nil {
				require.True(t, valid, "%q is no %T", body, req)
				require.True(t, proto.Equal(want, req), "want %v, got %v", want, req)
				continue
			}
			require.True(t, !valid || surrogates, "%q is a %T: %v", body, req, err)
			requireBadRequest(t, err, string(body))
		}
	})
}

// members are those of a JSON object, by their names.
type members map[string]json.RawMessage

// readJSON reads an object with encoding/json. It is not ok where a name is given
// twice, anywhere.
func readJSON(body []byte) (read members, ok bool) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return read, json.Unmarshal(body, &read) == nil && !repeatsAName(d)
}

// repeatsAName tells whether the value that d comes to, which is valid, has an
// object with two members of one name.
func repeatsAName(d *json.Decoder) bool {
	start, _ := d.Token()
	if start != json.Delim('{') && start != json.Delim('[') {
		return false
	}
	names := map[json.Token]bool{}
	for d.More() {
		if start == json.Delim('{') {
			name, _ := d.Token()
			if names[name] {
				return true
			}
			names[name] = true
		}
		if repeatsAName(d) {
			return true
		}
	}
	d.Token() // the end
	return false
}

// send is nil where a member has a wrong type.
func (m members) send() *api.SendRequest {
	var req api.SendRequest
	if !m.text("chat", &req.Chat) || !m.text("text", &req.Text) || !m.text("sender", &req.Sender) {
		return nil
	}
	return &req
}

// pull is nil where a member has a wrong type.
func (m members) pull() *api.PullRequest {
	var req api.PullRequest
	limit := int64(0)
	if !m.text("chat", &req.Chat) || !m.integer("cursor", 64, &req.Cursor) || !m.integer("limit", 32, &limit) ||
		!m.integer("total", 64, &req.Total) || !slices.Contains([]string{"", "null", "true", "false"}, string(m["reverse"])) {
		return nil
	}
	req.Limit, req.Reverse = int32(limit), string(m["reverse"]) == "true"
	return &req
}

func (m members) text(name string, into *string) bool {
	return m[name] == nil || json.Unmarshal(m[name], into) == nil
}

func (m members) integer(name string, bits int, into *int64) bool {
	if m[name] == nil || string(m[name]) == "null" {
		return true
	}
	n, err := strconv.ParseInt(string(m[name]), 10, bits)
	*into = n
	return err == nil
}

// requireBadRequest checks that err is a problem of the caller's, in words for
// the caller. input is what the caller sent.
func requireBadRequest(t *testing.T, err error, input string) {
	t.Helper()
	var p *problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, problem{Type: "about:blank", Title: "Bad Request", Status: 400, Detail: p.Detail}, *p)
	requireReadable(t, p.Detail, input)
}

// requireReadable checks that detail is a short text with nothing internal, other
// than what the caller sent.
func requireReadable(t *testing.T, detail, input string) {
	t.Helper()
	require.NotEmpty(t, detail)
	require.True(t, utf8.ValidString(detail), "%q", detail)
	require.Less(t, len(detail), 300, "%q", detail)
	input = strings.ToLower(input)
	if strings.ContainsAny(input, `\%`) {
		return // who knows what it says there
	}
	for _, internal := range []string{"api.sendrequest", "api.pullrequest", "proto:", "json:", "jsontext", "kitex", "rpc error", "goroutine", ".go:", "127.0.0.1"} {
		if !strings.Contains(input, internal) {
			require.NotContains(t, strings.ToLower(detail), internal)
		}
	}
}

func FuzzDecodeProtobuf(f *testing.F) {
	for _, req := range []proto.Message{
		&api.SendRequest{Chat: "jack:marcus", Text: "hello", Sender: "jack"},
		&api.PullRequest{Chat: "jack:marcus", Cursor: 5, Limit: 20, Reverse: true, Total: 9},
		&api.PullRequest{Cursor: -1 << 63, Limit: -1 << 31, Total: 1<<63 - 1},
	} {
		body, err := proto.Marshal(req)
		require.NoError(f, err)
		f.Add(body)
		f.Add(append(body, body...))
		f.Add(body[:len(body)-1])
	}
	for _, body := range []string{
		"", "\x7a\x01x", "\x0a\x01\xff", "\x12\x01\xff", "\x1a\x01\xff\x7a\x01x", "\x0a\x05ab", "\x08\x01", "\x0b\x0c", "\x0b\x13\x0c",
		"\x00", "\x02\x00", "\x07", "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "\x20\x02", sendBody,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, req := range []proto.Message{&api.SendRequest{}, &api.PullRequest{}} {
			// The slow way, which shares no table with the generated types.
			want := dynamicpb.NewMessage(req.ProtoReflect().Descriptor())
			wantErr := proto.Unmarshal(body, want)
			err := decodeProtobuf(bytes.Clone(body), req)
			require.Equal(t, wantErr == nil, err == nil, "%v but %v", wantErr, err)
			if err == nil {
				want.SetUnknown(nil)
				req.ProtoReflect().SetUnknown(nil)
				require.True(t, proto.Equal(want, req), "want %v, got %v", want, req)
				continue
			}
			requireBadRequest(t, err, string(body))
			descriptor := req.ProtoReflect().Descriptor()
			details := []string{"the body is not a protobuf message " + string(descriptor.Name())}
			for _, field := range []protoreflect.Name{"chat", "text", "sender"} {
				if descriptor.Fields().ByName(field) != nil {
					details = append(details, string(field)+": is not valid UTF-8")
				}
			}
			require.Contains(t, details, err.Error())
		}
	})
}

func FuzzDecodeQuery(f *testing.F) {
	for _, query := range []string{
		"", "chat=jack:marcus", "chat=jack:marcus&cursor=5&limit=20&reverse=true&total=9", "chat=j%61ck%3Amarcus+b&more=1&more=2",
		"chat", "chat=a=b", "=x&chat=%ff", "%63hat=x", "chat=x&chat=x", "chat=x&ch%61t=x", "chat=%zz", "chat=%", "a;b", "chat=x&&&", "Chat=x",
		"cursor=9223372036854775807&total=-9223372036854775808", "cursor=9223372036854775808", "limit=-2147483648", "limit=2147483648",
		"limit=", "limit=007", "limit=0x10", "cursor=0x10", "total=0b1", "limit=1e3", "limit=1_000", "limit=+5", "limit=5+", "total=\u0663", "reverse=false", "reverse=", "reverse=1", "reverse=True",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		var req api.PullRequest
		err := decodeQuery(query, &req)
		want, faults := readQuery(query)
		if len(faults) == 0 {
			require.NoError(t, err)
			require.True(t, proto.Equal(want, &req), "%v, not %v", &req, want)
			return
		}
		requireBadRequest(t, err, query)
		require.Contains(t, faults, err.Error())
	})
}

// readQuery reads a query string by hand. faults are the errors that fit it.
func readQuery(query string) (req *api.PullRequest, faults []string) {
	given := map[string][]string{}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(name)
		value, valueErr := url.QueryUnescape(value)
		if nameErr != nil || valueErr != nil || strings.Contains(pair, ";") {
			return nil, []string{"the query string is not well encoded"}
		}
		given[name] = append(given[name], value)
	}
	for _, name := range []string{"chat", "cursor", "limit", "reverse", "total"} {
		if len(given[name]) > 1 {
			faults = append(faults, name+": is given more than once")
		}
	}
	integer := func(name string, bits int) int64 {
		if len(given[name]) != 1 {
			return 0
		}
		var n big.Int
		text := given[name][0]
		least := new(big.Int).Lsh(big.NewInt(-1), uint(bits-1))
		if !decimal.MatchString(text) {
			faults = append(faults, name+": must be an integer of "+strconv.Itoa(bits)+" bits")
		} else if n.SetString(text, 10); n.Cmp(least) < 0 || n.Cmp(new(big.Int).Not(least)) > 0 {
			faults = append(faults, name+": must be an integer of "+strconv.Itoa(bits)+" bits")
		}
		return n.Int64()
	}
	req = &api.PullRequest{Cursor: integer("cursor", 64), Limit: int32(integer("limit", 32)), Total: integer("total", 64)}
	if len(given["chat"]) == 1 {
		req.Chat = given["chat"][0]
	}
	if reverse := given["reverse"]; len(reverse) == 1 {
		if req.Reverse = reverse[0] == "true"; !req.Reverse && reverse[0] != "false" {
			faults = append(faults, "reverse: must be true or false")
		}
	}
	return req, faults
}

var decimal = regexp.MustCompile(`^[+-]?[0-9]+$`)

func FuzzAccept(f *testing.F) {
	for _, accept := range []string{
		"", "application/json", "application/x-protobuf", "Application/Protobuf; charset=x", "*/*", "application/*;q=0.1", "text/html",
		"application/json;q=0.5, application/x-protobuf", "application/json, application/x-protobuf;q=0.9", "application/json;q=0, application/protobuf;q=0.001",
		"application/json;q=0.5, */*", "application/x-protobuf, */*;q=0.1", "application/x-protobuf;q=NaN", "application/json;q=Inf", "application/json;q=-1",
		`application/json;x="q=1,application/protobuf";q=0.5`, ",;=, ,", "application/json;q=0.5;q=0.6", "\xff/*", "application/json;q=1e-400",
	} {
		for _, own := range []string{"", "application/x-protobuf"} {
			f.Add(accept, "", own)
			f.Add(accept, "application/json;q=0.7", own)
		}
	}
	f.Fuzz(func(t *testing.T, first, second, contentType string) {
		ask := func(lines ...string) format {
			var c app.RequestContext
			c.Request.Header.SetContentTypeBytes([]byte(contentType))
			for _, line := range lines {
				c.Request.Header.Add("Accept", line)
			}
			return answerFormat(&c)
		}
		own, _ := formatOf(contentType)
		require.Contains(t, []format{formatJSON, formatProtobuf}, own)
		require.Equal(t, own, ask())

		got := ask(first, second)
		require.Contains(t, []format{formatJSON, formatProtobuf}, got)
		options := strings.Split(first+","+second, ",")
		require.Equal(t, got, ask(strings.Join(options, ",")), "two lines are one list")
		slices.Reverse(options)
		require.Equal(t, got, ask(options...), "the order does not matter")

		best := map[format]float64{}
		for _, option := range options {
			simple := simpleOption.FindStringSubmatch(option)
			if simple == nil {
				return // the rest is for those that are written by the book
			}
			wants, q := own, 1.0
			switch strings.ToLower(simple[1]) {
			case "application/json":
				wants = formatJSON
			case "application/x-protobuf", "application/protobuf":
				wants = formatProtobuf
			case "*/*", "application/*":
			default:
				continue
			}
			if simple[2] != "" {
				q, _ = strconv.ParseFloat(simple[2], 64)
			}
			best[wants] = max(best[wants], q)
		}
		want := own
		if other := formatJSON + formatProtobuf - own; best[other] > best[own] {
			want = other
		}
		require.Equal(t, want, got)
	})
}

// simpleOption matches an option of Accept with no other parameter than q and no
// wildcard of other types than ours.
var simpleOption = regexp.MustCompile(`^ *([A-Za-z-]+/[A-Za-z-]+|\*/\*|(?i:application)/\*)(?: *; *[qQ]=(0(?:\.[0-9]{1,3})?|1(?:\.0{1,3})?))? *$`)

func FuzzRequest(f *testing.F) {
	const protobuf = "Content-Type: application/x-protobuf\r\n"
	for _, request := range []struct{ method, target, headers, body string }{
		{"GET", "/ping", "", ""},
		{"POST", "/api/send", "", sendBody},
		{"POST", "/api/send", "Idempotency-Key: k\r\nX-Request-Id: 7\r\n", sendBody},
		{"POST", "/api/send", "Idempotency-Key: k\r\nidempotency-key: k\r\n", sendBody},
		{"POST", "/api/send", protobuf, "\x0a\x03a:b\x12\x01x\x1a\x01a"},
		{"POST", "/api/send", protobuf, "\x12\x01\xff"},
		{"POST", "/api/send", "Content-Type: multipart/form-data\r\nContent-Encoding: gzip\r\n", sendBody},
		{"POST", "/api/send", "Connection: close\r\nExpect: 100-continue\r\n", `{"chat":`},
		{"GET", "/api/pull?chat=jack:marcus&cursor=5&limit=20&reverse=true&total=9", "Accept: application/x-protobuf\r\n", ""},
		{"GET", "/api/pull?chat=%ff", "", ""},
		{"GET", "/api/pull?chat=a;b", "", ""},
		{"GET", "/api/pull", "", `{"chat":"jack:marcus","reverse":true}`},
		{"GET", "/api/pull?limit=7", protobuf + "Accept: */*, application/json;q=0.1\r\n", "\x0a\x03a:b\x18\x14"},
		{"GET", "/api/pull/", "Range: bytes=0-1\r\nIf-None-Match: *\r\n", ""},
		{"GET", "//api/../api/./pull?", "Host: x\r\nCookie: a=b\r\n", ""},
		{"GET", "/%61pi/pull?chat=x#y", "Upgrade: websocket\r\nConnection: Upgrade\r\n", ""},
		{"GET", "/%zz", "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n", ""},
		{"HEAD", "/api/pull?chat=x", "", ""},
		{"OPTIONS", "/api/send", "Origin: http://x\r\nAccess-Control-Request-Method: POST\r\n", ""},
		{"PUT", "/api/pull", "Te: trailers\r\n", "x"},
		{"TRACE", "/", "", ""},
		{"CONNECT", "/api/pull?chat=x", "", ""},
		{"b!", "/\x7f", "A: \xff\t\r\n", "\x00"},
	} {
		f.Add(request.method, request.target, request.headers, []byte(request.body))
	}
	base := serveEcho(f)
	asking := &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f.Cleanup(asking.CloseIdleConnections)
	f.Fuzz(func(t *testing.T, method, target, headers string, body []byte) {
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		req, err := http.NewRequestWithContext(t.Context(), method, base+target, bytes.NewReader(body))
		if err != nil {
			return // no request
		}
		header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(headers + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil {
			return
		}
		req.Header = http.Header(header)
		resp, err := asking.Do(req)
		if err != nil && strings.Contains(err.Error(), "net/http: invalid header") {
			return
		}
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Regexp(t, validID, resp.Header.Get("X-Request-Id"))

		if resp.StatusCode != http.StatusOK {
			require.True(t, 400 <= resp.StatusCode && resp.StatusCode < 500, "%s: %q", resp.Status, answer)
			if method == "HEAD" {
				return // an answer without a body
			}
			var p problem
			require.NoError(t, json.Unmarshal(answer, &p), "%q", answer)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.Equal(t, newProblem(resp.StatusCode, p.Detail, nil), &p)
			requireReadable(t, p.Detail, target+headers+string(body))
			return
		}
		switch {
		case method == "POST", method == "HEAD":
			require.Empty(t, answer)
		case string(answer) == `{"message":"pong"}`:
		case resp.Header.Get("Content-Type") == "application/yaml": // the description of the API
		default:
			requirePage(t, req, body, resp.Header.Get("Content-Type"), answer)
		}
	})
}

// requirePage checks that an answer is what echo makes of the request.
func requirePage(t *testing.T, req *http.Request, body []byte, contentType string, answer []byte) {
	t.Helper()
	asked := &api.PullRequest{}
	switch own, _ := formatOf(req.Header.Get("Content-Type")); {
	case len(body) == 0:
		asked, _ = readQuery(req.URL.RawQuery)
	case own == formatProtobuf:
		require.NoError(t, proto.Unmarshal(body, asked))
	default:
		read, _ := readJSON(body)
		asked = read.pull()
	}
	require.NotNil(t, asked)
	want := &api.PullResponse{
		Messages:   []*api.Message{{Chat: asked.Chat, Text: awkward, SendTime: int64(asked.Limit)}},
		HasMore:    asked.Reverse,
		NextCursor: asked.Cursor,
		Total:      asked.Total,
	}
	got := &api.PullResponse{}
	if contentType == "application/x-protobuf" {
		require.NoError(t, proto.Unmarshal(answer, got))
	} else {
		require.Equal(t, "application/json", contentType)
		d := json.NewDecoder(bytes.NewReader(answer))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(got))
	}
	require.True(t, proto.Equal(want, got), "want %v, got %v", want, got)
}

// echo is an rpc-server whose pages show what they were asked for. Like the real
// one it takes no chat that is not UTF-8.
type echo struct{ *backendtest.Server }

func (*echo) Send(_ context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	if !utf8.ValidString(req.Message.Chat) {
		return &rpc.SendResponse{Code: int32(rpc.Code_INVALID), Msg: "chat: is not valid UTF-8"}, nil
	}
	return &rpc.SendResponse{}, nil
}

func (*echo) Pull(_ context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	if !utf8.ValidString(req.Chat) {
		return &rpc.PullResponse{Code: int32(rpc.Code_INVALID), Msg: "chat: is not valid UTF-8"}, nil
	}
	return &rpc.PullResponse{
		Messages:   []*rpc.Message{{Chat: req.Chat, Text: awkward, SendTime: int64(req.Limit)}},
		HasMore:    req.Reverse,
		NextCursor: &req.Cursor,
		Total:      req.Total,
	}, nil
}

func (e *echo) SendMany(ctx context.Context, reqs []*rpc.SendRequest) ([]*rpc.SendResponse, error) {
	return backendtest.Each(ctx, reqs, e.Send)
}

func (e *echo) PullMany(ctx context.Context, reqs []*rpc.PullRequest) ([]*rpc.PullResponse, error) {
	return backendtest.Each(ctx, reqs, e.Pull)
}

// serveEcho starts a gateway in front of echo, for all inputs of a target, and
// gives its base URL.
func serveEcho(f *testing.F) string {
	f.Helper()
	front := backendtest.Listen(f)
	gw := newGateway(front, dial(f, 20*time.Second, backendtest.Serve(f, &echo{backendtest.New()})), wide())
	go gw.Run()
	f.Cleanup(func() { gw.Shutdown(context.Background()) })
	base := "http://" + front.Addr().String()
	require.EventuallyWithT(f, func(t *assert.CollectT) {
		resp, err := http.Get(base + "/api/pull?chat=a:b")
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}, 10*time.Second, 10*time.Millisecond)
	return base
}
