package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"im/http-server/backend/backendtest"
	"im/http-server/edge"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// raw writes bytes on a connection and gives the answers until the server closes it,
// or until it has so many.
func raw(t *testing.T, base, bytes string, most int) []*http.Response {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	go io.WriteString(c, bytes) // fails where the server has refused already
	var answers []*http.Response
	for in := bufio.NewReader(c); len(answers) < most; {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			require.NotErrorIs(t, err, net.ErrClosed)
			var late net.Error
			require.False(t, errors.As(err, &late) && late.Timeout(), "the connection stays open")
			return answers
		}
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body = io.NopCloser(strings.NewReader(string(body)))
		answers = append(answers, resp)
	}
	return answers
}

func TestStrict_ARequestWhoseEndIsInDoubtIsTheLastOfItsConnection(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	n := fmt.Sprint(len(sendBody))
	smuggled := "POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: " + n + "\r\n\r\n" + sendBody
	for name, test := range map[string]struct{ fields, body string }{
		"two lengths":                   {"Content-Length: " + n + "\r\nContent-Length: 0\r\n", sendBody},
		"two equal lengths":             {"Content-Length: " + n + "\r\nContent-Length: " + n + "\r\n", sendBody},
		"two lengths, in another case":  {"Content-Length: " + n + "\r\ncontent-LENGTH: 0\r\n", sendBody},
		"a list of lengths":             {"Content-Length: " + n + ", " + n + "\r\n", sendBody},
		"a length with a sign":          {"Content-Length: +" + n + "\r\n", sendBody},
		"a negative length":             {"Content-Length: -1\r\n", ""},
		"a length in hexadecimal":       {"Content-Length: 0x10\r\n", sendBody},
		"an empty length":               {"Content-Length:\r\n", ""},
		"a length and chunks":           {"Content-Length: " + n + "\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"},
		"chunks and a length":           {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"},
		"chunks twice":                  {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"},
		"chunks and identity":           {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"},
		"identity and a length":         {"Transfer-Encoding: identity\r\nContent-Length: " + n + "\r\n", sendBody},
		"another coding":                {"Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"},
		"nearly chunked":                {"Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"},
		"chunked in quotes":             {"Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"},
		"a space before the colon":      {"Transfer-Encoding : chunked\r\n", "0\r\n\r\n"},
		"a tab before the colon":        {"Content-Length\t: " + n + "\r\n", sendBody},
		"a vertical tab in a value":     {"Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"},
		"a zero byte in a name":         {"Content-Length\x00: " + n + "\r\n", sendBody},
		"a folded line":                 {"X-A: b\r\n Content-Length: " + n + "\r\n", ""},
		"a folded line at first":        {" X-A: b\r\n", ""},
		"a line without a colon":        {"Content-Length\r\n", ""},
		"a line that is a colon":        {": x\r\n", ""},
		"a lone carriage return":        {"X-A: b\rContent-Length: " + n + "\r\n", sendBody},
		"two hosts":                     {"Host: other\r\nContent-Length: " + n + "\r\n", sendBody},
		"a chunk's size with a sign":    {"Transfer-Encoding: chunked\r\n", "+0\r\n\r\n"},
		"a chunk's size in other words": {"Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"},
		"a chunk longer than its size":  {"Transfer-Encoding: chunked\r\n", "1\r\nabc\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := raw(t, base, "POST /api/send HTTP/1.1\r\nHost: im\r\n"+test.fields+"\r\n"+test.body+smuggled, 3)
			require.Len(t, answers, 1, "what follows is not answered")
			assert.Equal(t, http.StatusBadRequest, answers[0].StatusCode)
			assert.True(t, answers[0].Close)
		})
	}
	t.Cleanup(func() { assert.Empty(t, b.Sends) })
}

func TestStrict_OlderAndImpatientClientsAreServed(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	n := fmt.Sprint(len(sendBody))
	chunked := fmt.Sprintf("Transfer-Encoding: CHUNKED\r\n\r\n%x\r\n%s\r\n0\r\nX-Trailer: x\r\n\r\n", len(sendBody), sendBody)
	for name, test := range map[string]struct {
		request  string
		statuses []int
		sends    int
	}{
		"HTTP/1.0":                 {"GET /ping HTTP/1.0\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200}, 0},
		"HTTP/1.0, kept alive":     {"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200, 200}, 0},
		"HTTP/1.0, a body":         {"POST /api/send HTTP/1.0\r\nContent-Length: " + n + "\r\n\r\n" + sendBody, []int{200}, 1},
		"HTTP/1.0, chunks":         {"POST /api/send HTTP/1.0\r\nConnection: keep-alive\r\n" + chunked, []int{400}, 0},
		"chunks":                   {"POST /api/send HTTP/1.1\r\nHost: im\r\nConnection: close\r\n" + chunked, []int{200}, 1},
		"an absolute URL":          {"GET http://example.com/ping HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n", []int{200}, 0},
		"lines without CR":         {"GET /ping HTTP/1.1\nHost: im\nConnection: close\n\n", []int{200}, 0},
		"close in another case":    {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: Close\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200}, 0},
		"close in a list":          {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: TE, close\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200}, 0},
		"close after keep-alive":   {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: keep-alive, CLOSE\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200}, 0},
		"close on another line":    {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: close\r\nConnection: TE\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200}, 0},
		"an option that begins so": {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: close-me\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200, 200}, 0},
		"an empty line first":      {"\r\nGET /ping HTTP/1.1\r\nHost: im\r\n\r\n\r\nGET /ping HTTP/1.0\r\n\r\n", []int{200, 200}, 0},
		"an empty line after a body": {"POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: " + n + "\r\n\r\n" + sendBody + "\r\n" +
			"GET /ping HTTP/1.0\r\n\r\n", []int{200, 200}, 1},
		"no Host":                   {"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n", []int{400}, 0},
		"HTTP/2's preface":          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{404}, 0},
		"no HTTP":                   {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", []int{400}, 0},
		"a long line":               {"GET /" + strings.Repeat("a", edge.MaxHeaderBytes) + " HTTP/1.1\r\nHost: im\r\n\r\n", []int{431}, 0},
		"a long field":              {"GET /ping HTTP/1.1\r\nHost: im\r\nX-A: " + strings.Repeat("a", edge.MaxHeaderBytes) + "\r\n\r\n", []int{431}, 0},
		"fields without end":        {"GET /ping HTTP/1.1\r\nHost: im\r\n" + strings.Repeat("X-A: b\r\n", edge.MaxHeaderBytes), []int{431}, 0},
		"thousands of fields":       {"GET /ping HTTP/1.1\r\nHost: im\r\nConnection: close\r\n" + strings.Repeat("A: b\r\n", 5000) + "\r\n", []int{200}, 0},
		"a body for who wants none": {"GET /ping HTTP/1.1\r\nHost: im\r\nContent-Length: 3\r\n\r\nabcGET /ping HTTP/1.0\r\n\r\n", []int{200, 200}, 0},
		"pipelined": {"GET /ping HTTP/1.1\r\nHost: im\r\n\r\nPOST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: " + n + "\r\n\r\n" + sendBody +
			"GET /nowhere HTTP/1.1\r\nHost: im\r\n\r\nGET /api/pull?chat=jack:marcus HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n", []int{200, 200, 404, 200}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var statuses []int
			for _, resp := range raw(t, base, test.request, 10) {
				statuses = append(statuses, resp.StatusCode)
			}
			assert.Equal(t, test.statuses, statuses)
			assert.Len(t, b.Sends, test.sends)
			for len(b.Sends) > 0 {
				<-b.Sends
			}
		})
	}
}

func TestStrict_APathIsServedAsItIsWrittenOnly(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	for _, path := range []string{
		"/api/%73end", "/api//send", "//api/send", "/api/./send", "/x/../api/send", "/api/send/", "/api/send;x", "/api/send%00", "/api/send%20", "/api%2fsend",
		"/api/send%3F", "/API/send", `\api\send`, "/api/send/..;/send", "/%2e%2e/api/send", "/..%2fapi/send", "http://im/x/../api/send", "api/send", "*",
		"/metrics", "/readyz", "/healthz", "/loglevel", "/debug/pprof/", "/ping/../metrics", "/favicon.ico", "/.git/config",
	} {
		answers := raw(t, base, "POST "+path+" HTTP/1.1\r\nHost: im\r\nContent-Length: "+fmt.Sprint(len(sendBody))+"\r\nConnection: close\r\n\r\n"+sendBody, 2)
		require.Len(t, answers, 1, path)
		assert.Equal(t, http.StatusNotFound, answers[0].StatusCode, path)
		assert.Equal(t, "application/problem+json", answers[0].Header.Get("Content-Type"), path)
	}
	assert.Empty(t, b.Sends)
}

func TestAnswers_TellBrowsersToKeepNothingAndGuessNothing(t *testing.T) {
	base := serve(t, backendtest.New())
	for _, request := range []struct{ method, path, body string }{
		{"GET", "/ping", ""}, {"OPTIONS", "/api/send", ""}, {"GET", "/openapi.yaml", ""}, {"POST", "/api/send", sendBody}, {"GET", "/api/pull?chat=a:b", ""},
		{"GET", "/nowhere", ""}, {"PUT", "/ping", ""}, {"POST", "/api/send", "x"},
	} {
		resp, _ := call(t, request.method, base+request.path, request.body, "Origin", "https://example.com")
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), request.path)
		assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"), request.path)
		assert.Equal(t, "default-src 'none'; frame-ancestors 'none'", resp.Header.Get("Content-Security-Policy"), request.path)
		assert.NotContains(t, resp.Header, "Server", request.path)
		for name := range resp.Header {
			assert.NotContains(t, name, "Access-Control", "%s: CORS is off", request.path)
		}
	}
}

func TestCORS_LetsThePagesInThatAreAllowedAndNoOthers(t *testing.T) {
	behind := dialStub(t, backendtest.New())
	some, every := wide(), wide()
	some.origins, every.origins = []string{"https://a.example", "http://localhost:3000"}, []string{"*"}
	someBase, everyBase := serveBounded(t, behind, some), serveBounded(t, behind, every)
	for _, test := range []struct{ base, origin, allowed string }{
		{someBase, "https://a.example", "https://a.example"},
		{someBase, "http://localhost:3000", "http://localhost:3000"},
		{someBase, "http://a.example", ""},
		{someBase, "https://a.example.evil", ""},
		{someBase, "https://b.a.example", ""},
		{someBase, "null", ""},
		{everyBase, "https://b.example", "*"},
	} {
		resp, body := call(t, "GET", test.base+"/api/pull?chat=a:b", "", "Origin", test.origin)
		assert.Equal(t, http.StatusOK, resp.StatusCode, "%s", body)
		assert.Equal(t, test.allowed, resp.Header.Get("Access-Control-Allow-Origin"), test.origin)
		assert.Empty(t, resp.Header.Get("Access-Control-Allow-Credentials"))
		assert.Contains(t, resp.Header.Values("Vary"), "Origin")

		resp, body = call(t, "OPTIONS", test.base+"/api/send", "", "Origin", test.origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,idempotency-key,traceparent,tracestate,baggage")
		assert.Equal(t, test.allowed, resp.Header.Get("Access-Control-Allow-Origin"), test.origin)
		if test.allowed == "" {
			assert.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
			problemIn(t, resp, body)
			continue
		}
		assert.Equal(t, http.StatusNoContent, resp.StatusCode)
		assert.Equal(t, "GET,POST", resp.Header.Get("Access-Control-Allow-Methods"))
		assert.Equal(t, "Authorization,Content-Type,Idempotency-Key,X-Request-Id,Traceparent,Tracestate,Baggage", resp.Header.Get("Access-Control-Allow-Headers"))

		resp, body = call(t, "GET", test.base+"/ping//", "", "Origin", test.origin)
		assert.Equal(t, http.StatusNotFound, resp.StatusCode)
		assert.Equal(t, test.allowed, resp.Header.Get("Access-Control-Allow-Origin"), "the page can read why")
		problemIn(t, resp, body)
	}
}
