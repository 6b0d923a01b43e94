package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"im/http-server/backend/backendtest"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
)

// awkward is text that careless encoders change.
const awkward = "\U0001F600 \u202e\u200f<>&\"'\\/\n\r\t\x00\x1f\x7f\u2028\u2029\ufeff\ufffd e\u0301"

// pages are answers of rpc-server, and the JSON that the gateway makes of them.
var pages = map[string]struct {
	page *rpc.PullResponse
	json string
}{
	"zero values": {
		&rpc.PullResponse{},
		`{"messages":[],"has_more":false,"next_cursor":0,"total":0}`,
	},
	"zero values in a message": {
		&rpc.PullResponse{Messages: []*rpc.Message{{}}},
		`{"messages":[{"chat":"","text":"","sender":"","send_time":0}],"has_more":false,"next_cursor":0,"total":0}`,
	},
	"large numbers": {
		&rpc.PullResponse{HasMore: new(true), NextCursor: new(int64(1<<63 - 1)), Total: new(int64(1<<53 + 1))},
		`{"messages":[],"has_more":true,"next_cursor":9223372036854775807,"total":9007199254740993}`,
	},
	"two messages": {
		&rpc.PullResponse{Messages: []*rpc.Message{
			{Chat: "Jack:marcus", Text: "hello", Sender: "JACK", SendTime: 1763990000},
			{Chat: "Jack:marcus", Text: "<b>&</b>", Sender: "marcus", SendTime: 1763990001},
		}, NextCursor: new(int64(2)), Total: new(int64(2))},
		`{"messages":[{"chat":"Jack:marcus","text":"hello","sender":"JACK","send_time":1763990000},` +
			`{"chat":"Jack:marcus","text":"<b>&</b>","sender":"marcus","send_time":1763990001}],"has_more":false,"next_cursor":2,"total":2}`,
	},
}

func TestPull_JSONAndProtobufSayTheSame(t *testing.T) {
	for name, golden := range pages {
		t.Run(name, func(t *testing.T) {
			b := backendtest.New()
			b.Page = golden.page
			base := serve(t, b)

			resp, inJSON := call(t, "GET", base+"/api/pull?chat=a:b", "")
			assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			assert.Equal(t, golden.json, string(inJSON))

			resp, inProtobuf := call(t, "GET", base+"/api/pull?chat=a:b", "", "Accept", "application/x-protobuf")
			assert.Equal(t, "application/x-protobuf", resp.Header.Get("Content-Type"))
			var got api.PullResponse
			require.NoError(t, proto.Unmarshal(inProtobuf, &got))
			assert.Equal(t, golden.page.GetHasMore(), got.HasMore)
			assert.Equal(t, golden.page.GetNextCursor(), got.NextCursor)
			assert.Equal(t, golden.page.GetTotal(), got.Total)
			require.Len(t, got.Messages, len(golden.page.Messages))
			for i, m := range golden.page.Messages {
				assert.Equal(t, []any{m.Chat, m.Text, m.Sender, m.SendTime},
					[]any{got.Messages[i].Chat, got.Messages[i].Text, got.Messages[i].Sender, got.Messages[i].SendTime})
			}
		})
	}
}

func TestText_GoesThroughByteForByte(t *testing.T) {
	b := backendtest.New()
	b.Page = &rpc.PullResponse{Messages: []*rpc.Message{{Text: awkward}}}
	base := serve(t, b)
	inJSON, err := json.Marshal(map[string]string{"chat": "a:b", "sender": "a", "text": awkward})
	require.NoError(t, err)
	inProtobuf, err := proto.Marshal(&api.SendRequest{Chat: "a:b", Sender: "a", Text: awkward})
	require.NoError(t, err)
	for contentType, body := range map[string][]byte{"application/json": inJSON, "application/protobuf": inProtobuf} {
		resp, answer := call(t, "POST", base+"/api/send", string(body), "Content-Type", contentType)
		require.Equal(t, 200, resp.StatusCode, "%s", answer)
		assert.Equal(t, awkward, (<-b.Sends).Message.Text)
	}
	_, answer := call(t, "GET", base+"/api/pull?chat=a:b", "")
	var page struct{ Messages []struct{ Text string } }
	require.NoError(t, json.Unmarshal(answer, &page))
	assert.Equal(t, awkward, page.Messages[0].Text)
}

func TestAnswer_IsInTheTypeThatAcceptPrefers(t *testing.T) {
	b := backendtest.New()
	b.Page = &rpc.PullResponse{}
	base := serve(t, b)
	const jsonType, protobufType = "application/json", "application/x-protobuf"
	inProtobuf, err := proto.Marshal(&api.PullRequest{Chat: "a:b"})
	require.NoError(t, err)
	for _, test := range []struct {
		accept                     []string
		jsonRequest, protobufReply string
	}{
		{nil, jsonType, protobufType},
		{[]string{""}, jsonType, protobufType},
		{[]string{"application/json"}, jsonType, jsonType},
		{[]string{"application/x-protobuf"}, protobufType, protobufType},
		{[]string{"application/protobuf"}, protobufType, protobufType},
		{[]string{"Application/Protobuf; charset=x"}, protobufType, protobufType},
		{[]string{"*/*"}, jsonType, protobufType},
		{[]string{"text/html"}, jsonType, protobufType},
		{[]string{"text/html, application/x-protobuf;q=0.1"}, protobufType, protobufType},
		{[]string{"application/json;q=0.5, application/x-protobuf"}, protobufType, protobufType},
		{[]string{"application/json, application/x-protobuf;q=0.9"}, jsonType, jsonType},
		{[]string{"application/json;q=0.9", "application/protobuf"}, protobufType, protobufType},
		{[]string{"application/json, application/x-protobuf"}, jsonType, protobufType},
		{[]string{"application/json;q=0.2, application/x-protobuf;q=0.2"}, jsonType, protobufType},
		{[]string{"application/json, text/plain, */*"}, jsonType, protobufType},
		{[]string{"application/json;q=0.5, */*"}, jsonType, protobufType},
		{[]string{"application/x-protobuf, */*;q=0.1"}, protobufType, protobufType},
		{[]string{"application/json;q=0"}, jsonType, protobufType},
		{[]string{"text/*, application/json"}, jsonType, jsonType},
		{[]string{"application/*;q=0.5, application/json;q=0.2"}, jsonType, protobufType},
		{[]string{"application/json;q=7, application/x-protobuf"}, jsonType, protobufType},
		{[]string{"application/x-protobuf;q=broken"}, protobufType, protobufType},
		{[]string{",;=, ,"}, jsonType, protobufType},
	} {
		var headers []string
		for _, a := range test.accept {
			headers = append(headers, "Accept", a)
		}
		resp, _ := call(t, "GET", base+"/api/pull?chat=a:b", "", headers...)
		require.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, test.jsonRequest, resp.Header.Get("Content-Type"), "JSON request, Accept: %q", test.accept)
		resp, _ = call(t, "GET", base+"/api/pull", string(inProtobuf), append(headers, "Content-Type", protobufType)...)
		require.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, test.protobufReply, resp.Header.Get("Content-Type"), "protobuf request, Accept: %q", test.accept)
	}
}

func TestRequestID_IsTakenOverWhenSaneElseMade(t *testing.T) {
	base := serve(t, backendtest.New())
	for _, path := range []string{"/ping", "/api/pull?chat=a:b", "/api/pull?limit=x", "/nowhere"} {
		for id, sane := range map[string]bool{
			"abc-123":                true,
			strings.Repeat("x", 128): true,
			"":                       false,
			strings.Repeat("x", 129): false,
			"with space":             false,
			"caf\u00e9":              false,
		} {
			resp, _ := call(t, "GET", base+path, "", "X-Request-Id", id)
			got := resp.Header.Get("X-Request-Id")
			assert.Equal(t, sane, got == id, "%s %q: %q", path, id, got)
			assert.NotEmpty(t, got)
		}
	}
	first, _ := call(t, "GET", base+"/ping", "")
	second, _ := call(t, "GET", base+"/ping", "")
	assert.NotEqual(t, first.Header.Get("X-Request-Id"), second.Header.Get("X-Request-Id"))
}

// connection is a raw one, for what http.Client does not do.
type connection struct {
	net.Conn
	answers *bufio.Reader
}

func connect(t *testing.T, base string) *connection {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return &connection{conn, bufio.NewReader(conn)}
}

// ask writes a raw request, which may go wrong where the server closes early,
// and reads the answer.
func (c *connection) ask(t *testing.T, request string) (*http.Response, []byte) {
	t.Helper()
	go io.WriteString(c, request)
	resp, err := http.ReadResponse(c.answers, nil)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, body
}

func (c *connection) closed(t *testing.T) {
	t.Helper()
	_, err := io.Copy(io.Discard, c.answers)
	if err != nil {
		assert.ErrorContains(t, err, "reset")
	}
}

func post(body string, headers ...string) string {
	return fmt.Sprintf("POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(headers, "\r\n")+strings.Repeat("\r\n", min(len(headers), 1)), body)
}

func TestConnection_SurvivesARefusal(t *testing.T) {
	c := connect(t, serve(t, backendtest.New()))
	for _, request := range []struct {
		raw    string
		status int
	}{
		{post(`{"chat":`), 400},
		{post(sendBody), 200},
		{"GET /nowhere HTTP/1.1\r\nHost: im\r\nContent-Length: 5\r\n\r\nhello", 404},
		{"DELETE /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: 5\r\n\r\nhello", 405},
		{post(sendBody, "Idempotency-Key: a", "Idempotency-Key: b"), 400},
		{post("hello", "Content-Type: application/x-protobuf"), 400},
		{post(sendBody), 200},
		{"GET /ping HTTP/1.1\r\nHost: im\r\n\r\n", 200},
	} {
		resp, body := c.ask(t, request.raw)
		assert.Equal(t, request.status, resp.StatusCode, "%s: %s", request.raw, body)
	}
}

func TestBody_MayBeChunked(t *testing.T) {
	b := backendtest.New()
	c := connect(t, serve(t, b))
	for range 2 {
		var chunked strings.Builder
		for _, r := range sendBody {
			fmt.Fprintf(&chunked, "1\r\n%c\r\n", r)
		}
		resp, body := c.ask(t, "POST /api/send HTTP/1.1\r\nHost: im\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked.String()+"0\r\n\r\n")
		require.Equal(t, 200, resp.StatusCode, "%s", body)
		assert.Equal(t, "hello", (<-b.Sends).Message.Text)
	}
	resp, body := c.ask(t, "POST /api/send HTTP/1.1\r\nHost: im\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	assert.Equal(t, 400, resp.StatusCode)
	problemIn(t, resp, body)
	c.closed(t)
}

func TestBody_MayWaitFor100Continue(t *testing.T) {
	b := backendtest.New()
	c := connect(t, serve(t, b))
	io.WriteString(c, fmt.Sprintf("POST /api/send HTTP/1.1\r\nHost: im\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(sendBody)))
	line, err := c.answers.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	c.answers.ReadString('\n')
	resp, _ := c.ask(t, sendBody)
	require.Equal(t, 200, resp.StatusCode)
}

func TestBody_LargerThanAllowedIs413AndClosesTheConnection(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	padded := func(size int) string {
		return sendBody + strings.Repeat(" ", size-len(sendBody))
	}
	resp, body := connect(t, base).ask(t, post(padded(1<<20)))
	require.Equal(t, 200, resp.StatusCode, "the largest that is allowed: %s", body)
	<-b.Sends
	for name, request := range map[string]string{
		"by a byte":       post(padded(1<<20 + 1)),
		"by far":          post(padded(9 << 20)),
		"announced alone": "POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: 1099511627776\r\n\r\n" + padded(2<<20),
		"chunked":         "POST /api/send HTTP/1.1\r\nHost: im\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("400\r\n"+strings.Repeat(" ", 1024)+"\r\n", 2048) + "0\r\n\r\n",
		"with a pull":     strings.Replace(post(padded(2<<20)), "POST /api/send", "GET /api/pull", 1),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, base)
			resp, body := c.ask(t, request)
			assert.Equal(t, 413, resp.StatusCode)
			assert.True(t, resp.Close)
			problemIn(t, resp, body)
			c.closed(t)
		})
	}
	assert.Empty(t, b.Sends)
}

func TestBody_LargestTextFitsInAnyEscaping(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	for name, escaped := range map[string]string{"shortest": "x", "longest": `\u0001`} {
		t.Run(name, func(t *testing.T) {
			body := `{"chat":"` + strings.Repeat("a", 128) + ":" + strings.Repeat("b", 128) + `","sender":"` + strings.Repeat("a", 128) + `","text":"` + strings.Repeat(escaped, 65536) + `"}`
			resp, answer := call(t, "POST", base+"/api/send", body)
			require.Equal(t, 200, resp.StatusCode, "%s", answer)
			assert.Len(t, (<-b.Sends).Message.Text, 65536)
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	inProtobuf, err := proto.Marshal(&api.SendRequest{Chat: "jack:marcus", Text: "hello", Sender: "jack"})
	require.NoError(b, err)
	b.Run("JSON", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var req api.SendRequest
			if err := decodeJSON([]byte(sendBody), &req); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var req api.SendRequest
			if err := decodeProtobuf(bytes.Clone(inProtobuf), &req); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecodeQuery(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var req api.PullRequest
		if err := decodeQuery("chat=jack:marcus&limit=20&reverse=true", &req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncode writes a page of ten.
func BenchmarkEncode(b *testing.B) {
	page := &api.PullResponse{HasMore: true, NextCursor: 10, Total: 100}
	for range 10 {
		page.Messages = append(page.Messages, &api.Message{Chat: "jack:marcus", Text: "How about lunch at noon?", Sender: "jack", SendTime: 1795563323})
	}
	for _, accept := range []string{"application/json", "application/x-protobuf"} {
		b.Run(accept, func(b *testing.B) {
			var c app.RequestContext
			c.Request.Header.Set("Accept", accept)
			b.ReportAllocs()
			for b.Loop() {
				if err := encode(&c, page); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
