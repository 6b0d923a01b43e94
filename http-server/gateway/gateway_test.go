package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	hertz "github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"im/http-server/backend"
	"im/http-server/backend/backendtest"
	"im/http-server/edge"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
)

// serve starts a gateway in front of b and gives its base URL.
func serve(t *testing.T, b *backendtest.Server) string {
	t.Helper()
	return serveWith(t, b, nil)
}

// serveWith starts a gateway that asks for tokens.
func serveWith(t *testing.T, b *backendtest.Server, a *Auth) string {
	t.Helper()
	return serveClient(t, dialStub(t, b), a)
}

// dialStub starts b and returns a client of it.
func dialStub(t *testing.T, b *backendtest.Server) *backend.Client {
	t.Helper()
	return dial(t, 20*time.Second, backendtest.Serve(t, b))
}

// dial returns a client of rpc-servers that take batches.
func dial(t testing.TB, timeout time.Duration, addresses ...string) *backend.Client {
	t.Helper()
	instances := discovery.SynthesizedResolver{
		ResolveFunc: func(context.Context, string) (discovery.Result, error) {
			return discovery.Result{Instances: backendtest.Instances(addresses...)}, nil
		},
	}
	client, err := backend.Dial(t.Context(), func() (discovery.Resolver, error) { return instances, nil }, timeout, maxInFlight)
	require.NoError(t, err)
	return client
}

// serveClient starts a gateway that asks client.
func serveClient(t *testing.T, client Backend, a *Auth) string {
	t.Helper()
	b := wide()
	b.auth = a
	return serveBounded(t, client, b)
}

// bounds are what else a gateway under test is made with.
type bounds struct {
	auth        *Auth
	https       *tls.Config
	connections *edge.Connections
	idle        time.Duration
	buffers     *edge.Buffers
	origins     []string // for CORS
	waiters     int
	stopping    context.Context
	leaveWait   time.Duration
	made        func(*Gateway) // is told of the gateway; nil is not
}

// wide are bounds that no test meets by chance.
func wide() bounds {
	return bounds{
		connections: edge.NewConnections(1000, time.Minute, time.Minute), idle: time.Minute, buffers: edge.NewBuffers(64 << 20),
		waiters: 500, stopping: context.Background(),
	}
}

func serveBounded(t *testing.T, client Backend, b bounds) string {
	t.Helper()
	l := backendtest.Listen(t)
	gw := newGateway(l, client, b)
	go gw.Run() // until the process ends, as backendtest.Serve
	base := "http://" + l.Addr().String()
	if b.https != nil {
		return strings.Replace(base, "http:", "https:", 1)
	}
	require.Eventually(t, func() bool {
		resp, err := http.Get(base + "/ping")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return base
}

// newGateway returns a server with a gateway that asks client.
func newGateway(l net.Listener, client Backend, b bounds) *hertz.Hertz {
	srv := edge.NewServer(l, b.https, b.connections, b.idle, 10*time.Millisecond)
	g := New(Options{
		Backend: client, Auth: b.auth, MaxBodyBytes: 1 << 20, Buffers: b.buffers, CORSOrigins: b.origins, TLS: b.https != nil,
		MaxWaiters: b.waiters, Stopping: b.stopping, LeaveWait: b.leaveWait,
	})
	if b.made != nil {
		b.made(g)
	}
	g.Route(srv.Engine)
	return srv
}

// call makes a request; headers are pairs. A body of "" is none.
func call(t *testing.T, method, url, body string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, answer
}

// problemIn reads a problem and checks its form.
func problemIn(t *testing.T, resp *http.Response, body []byte) problem {
	t.Helper()
	var p problem
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&p), "%s", body)
	assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	assert.Equal(t, "about:blank", p.Type)
	assert.Equal(t, http.StatusText(resp.StatusCode), p.Title)
	assert.Equal(t, resp.StatusCode, p.Status)
	assert.NotEmpty(t, p.Detail)
	for _, internal := range []string{"api.", "proto:", "json:", "jsontext", "kitex", "rpc error", "goroutine", ".go:", "127.0.0.1"} {
		assert.NotContains(t, strings.ToLower(p.Detail), internal)
	}
	return p
}

// maxInFlight is how many calls the gateways under test make at a time.
const maxInFlight = 20

const sendBody = `{"chat":"jack:marcus","text":"hello","sender":"jack"}`

func TestPing_Pongs(t *testing.T) {
	resp, body := call(t, "GET", serve(t, backendtest.New())+"/ping", "")
	assert.Equal(t, 200, resp.StatusCode)
	assert.JSONEq(t, `{"message":"pong"}`, string(body))
}

func TestSend_PassesOnWhatWasSentAndAnswersNothing(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	inProtobuf, err := proto.Marshal(&api.SendRequest{Chat: "jack:marcus", Text: "hello", Sender: "jack"})
	require.NoError(t, err)
	for name, request := range map[string]struct {
		body    string
		headers []string
	}{
		"no Content-Type":       {sendBody, nil},
		"curl's Content-Type":   {sendBody, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		"JSON":                  {sendBody, []string{"Content-Type", "application/json; charset=utf-8"}},
		"multipart":             {sendBody, []string{"Content-Type", "multipart/form-data; boundary=x"}},
		"unknown fields":        {`{"chat":"jack:marcus","more":[{}],"text":"hello","sender":"jack"}`, nil},
		"protobuf":              {string(inProtobuf), []string{"Content-Type", "application/x-protobuf"}},
		"protobuf, other name":  {string(inProtobuf), []string{"Content-Type", "Application/Protobuf; v=1"}},
		"protobuf, more fields": {string(inProtobuf) + "\x7a\x01x", []string{"Content-Type", "application/x-protobuf"}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := call(t, "POST", base+"/api/send", request.body, request.headers...)
			require.Equal(t, 200, resp.StatusCode, "%s", body)
			assert.Empty(t, body)
			asked := <-b.Sends
			assert.Equal(t, &rpc.Message{Chat: "jack:marcus", Text: "hello", Sender: "jack"}, asked.Message)
			assert.Len(t, asked.GetKey(), 26, "a fresh key")
		})
	}
}

func TestSend_KeyIsTheCallersOrFresh(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	for _, key := range []string{"k", `"quoted"`, strings.Repeat("k", 129), ""} {
		resp, _ := call(t, "POST", base+"/api/send", sendBody, "Idempotency-Key", key)
		require.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, key, (<-b.Sends).GetKey(), "rpc-server says whether it is a good one")
	}
	call(t, "POST", base+"/api/send", sendBody)
	call(t, "POST", base+"/api/send", sendBody)
	assert.NotEqual(t, (<-b.Sends).GetKey(), (<-b.Sends).GetKey())

	resp, body := call(t, "POST", base+"/api/send", sendBody, "Idempotency-Key", "k", "idempotency-key", "k")
	assert.Equal(t, 400, resp.StatusCode)
	assert.Equal(t, "Idempotency-Key: is given more than once", problemIn(t, resp, body).Detail)
	assert.Empty(t, b.Sends)
}

func TestPull_PassesOnWhatWasAsked(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	inProtobuf, err := proto.Marshal(&api.PullRequest{Chat: "jack:marcus", Cursor: 5, Limit: 20, Reverse: true, Total: 9})
	require.NoError(t, err)
	yes, no := true, false
	five, nine, none := int64(5), int64(9), int64(0)
	full := &rpc.PullRequest{Chat: "jack:marcus", Cursor: five, Limit: 20, Reverse: &yes, Total: &nine}
	plain := &rpc.PullRequest{Chat: "jack:marcus", Reverse: &no, Total: &none}
	for name, request := range map[string]struct {
		query, body string
		headers     []string
		want        *rpc.PullRequest
	}{
		"query":                 {"?chat=jack:marcus&cursor=5&limit=20&reverse=true&total=9", "", nil, full},
		"encoded query":         {"?chat=j%61ck%3Amarcus", "", nil, plain},
		"plus is a space":       {"?chat=jack+b:marcus", "", nil, &rpc.PullRequest{Chat: "jack b:marcus", Reverse: &no, Total: &none}},
		"unknown parameters":    {"?chat=jack:marcus&page=7&page=8", "", nil, plain},
		"false":                 {"?chat=jack:marcus&reverse=false&cursor=0&limit=0&total=0", "", nil, plain},
		"JSON body":             {"", `{"chat":"jack:marcus","cursor":5,"limit":20,"reverse":true,"total":9}`, nil, full},
		"JSON nulls":            {"", `{"chat":"jack:marcus","cursor":null,"limit":null,"reverse":null,"total":null}`, nil, plain},
		"body alone is used":    {"?chat=other:one&limit=7", `{"chat":"jack:marcus"}`, nil, plain},
		"protobuf body":         {"", string(inProtobuf), []string{"Content-Type", "application/protobuf"}, full},
		"query beside protobuf": {"?chat=jack:marcus", "", []string{"Content-Type", "application/protobuf"}, plain},
		"largest numbers": {"?chat=jack:marcus&cursor=9223372036854775807&limit=2147483647", "", nil,
			&rpc.PullRequest{Chat: "jack:marcus", Cursor: 1<<63 - 1, Limit: 1<<31 - 1, Reverse: &no, Total: &none}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := call(t, "GET", base+"/api/pull"+request.query, request.body, request.headers...)
			require.Equal(t, 200, resp.StatusCode, "%s", body)
			asked := <-b.Pulls
			assert.Equal(t, resp.Header.Get("X-Request-Id"), asked.GetRequestID())
			asked.RequestID = nil
			assert.Equal(t, request.want, asked)
		})
	}
}

func TestBadRequests_NameWhatIsWrongAndReachNoRPCServer(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	const protobuf = "application/x-protobuf"
	for _, test := range []struct{ method, path, body, contentType, detail string }{
		{"POST", "/api/send", "", "", "the body is empty"},
		{"POST", "/api/send", " ", "", "the body: is not valid JSON"},
		{"POST", "/api/send", "hello", "", "the body: is not valid JSON at byte 0"},
		{"POST", "/api/send", `"hello"`, "", "the body: must be an object"},
		{"POST", "/api/send", `[]`, "", "the body: must be an object"},
		{"POST", "/api/send", `{"chat":7}`, "", "chat: must be a string"},
		{"POST", "/api/send", `{"text":["x"]}`, "", "text: must be a string"},
		{"POST", "/api/send", `{"sender":{}}`, "", "sender: must be a string"},
		{"POST", "/api/send", `{"sender":true}`, "", "sender: must be a string"},
		{"POST", "/api/send", sendBody + sendBody, "", "the body: is not valid JSON at byte 53"},
		{"POST", "/api/send", sendBody + "x", "", "the body: is not valid JSON at byte 53"},
		{"POST", "/api/send", `{"chat":"a:b","chat":"a:b"}`, "", "chat: is given more than once"},
		{"POST", "/api/send", `{"x~/y":1,"x~/y":2}`, "", "the body: is given more than once"},
		{"POST", "/api/send", `{"must be\nx":}`, "", "the body: is not valid JSON at byte 14"},
		{"POST", "/api/send", `{"text":"` + "\xff" + `"}`, "", "text: is not valid JSON"},
		{"POST", "/api/send", `{"text":"\ud800"}`, "", "text: is not valid JSON"},
		{"POST", "/api/send", `{"text":"\udc00\ud800"}`, "", "text: is not valid JSON"},
		{"POST", "/api/send", `{"text":"` + "\n" + `"}`, "", "text: is not valid JSON"},
		{"POST", "/api/send", `{"more":` + strings.Repeat("[", 500_000), "", "is not valid JSON"},
		{"POST", "/api/send", strings.Repeat(`{"chat":`, 100_000), "", "chat: is not valid JSON"},
		{"POST", "/api/send", `{"text":"\`, "", "text: is not valid JSON"},
		{"POST", "/api/send", sendBody, protobuf, "the body is not a protobuf message"},
		{"POST", "/api/send", "\x12\x01\xff", protobuf, "text: is not valid UTF-8"},
		{"POST", "/api/send", "\x0a\x05ab", protobuf, "the body is not a protobuf message"},
		{"GET", "/api/pull", `{"chat":"a:b","cursor":"5"}`, "", "cursor: must be an integer of 64 bits"},
		{"GET", "/api/pull", `{"chat":"a:b","cursor":1.5}`, "", "cursor: must be an integer of 64 bits"},
		{"GET", "/api/pull", `{"chat":"a:b","cursor":9223372036854775808}`, "", "cursor: must be an integer of 64 bits"},
		{"GET", "/api/pull", `{"chat":"a:b","limit":2147483648}`, "", "limit: must be an integer of 32 bits"},
		{"GET", "/api/pull", `{"chat":"a:b","limit":1e3}`, "", "limit: must be an integer of 32 bits"},
		{"GET", "/api/pull", `{"chat":"a:b","reverse":1}`, "", "reverse: must be true or false"},
		{"GET", "/api/pull", `{"chat":"a:b","reverse":"true"}`, "", "reverse: must be true or false"},
		{"GET", "/api/pull?chat=a:b", `{`, "", "the body: is not valid JSON"},
		{"GET", "/api/pull?chat=a:b&limit=", "", "", `limit: must be an integer of 32 bits`},
		{"GET", "/api/pull?chat=a:b&limit=2147483648", "", "", "limit: must be an integer of 32 bits"},
		{"GET", "/api/pull?chat=a:b&limit=0x10", "", "", "limit: must be an integer of 32 bits"},
		{"GET", "/api/pull?chat=a:b&limit=+5", "", "", "limit: must be an integer of 32 bits"},
		{"GET", "/api/pull?chat=a:b&cursor=9223372036854775808", "", "", "cursor: must be an integer of 64 bits"},
		{"GET", "/api/pull?chat=a:b&total=x", "", "", "total: must be an integer of 64 bits"},
		{"GET", "/api/pull?chat=a:b&reverse=", "", "", `reverse: must be true or false`},
		{"GET", "/api/pull?chat=a:b&reverse=TRUE", "", "", `reverse: must be true or false`},
		{"GET", "/api/pull?chat=a:b&reverse=1", "", "", "reverse: must be true or false"},
		{"GET", "/api/pull?chat=a:b&chat=a:b", "", "", "chat: is given more than once"},
		{"GET", "/api/pull?chat=%zz", "", "", "the query string is not well encoded"},
		{"GET", "/api/pull?chat=a:b&more=%a", "", "", "the query string is not well encoded"},
	} {
		var headers []string
		if test.contentType != "" {
			headers = []string{"Content-Type", test.contentType}
		}
		resp, body := call(t, test.method, base+test.path, test.body, headers...)
		what := test.path + " " + test.body[:min(len(test.body), 60)]
		assert.Equal(t, 400, resp.StatusCode, what)
		assert.Contains(t, problemIn(t, resp, body).Detail, test.detail, what)
	}
	assert.Empty(t, b.Sends)
	assert.Empty(t, b.Pulls)
}

func TestErrors_CodeOfTheRPCServerBecomesAStatus(t *testing.T) {
	b := backendtest.New()
	base := serve(t, b)
	for _, test := range []struct {
		code       rpc.Code
		status     int
		retryAfter string
	}{
		{rpc.Code_INVALID, 400, ""},
		{rpc.Code_INTERNAL, 500, ""},
		{rpc.Code_UNAVAILABLE, 503, "1"},
		{rpc.Code_DEADLINE, 504, "1"},
		{rpc.Code(1), 500, ""},
	} {
		b.Code.Store(int32(test.code))
		for _, request := range []struct{ method, path, body string }{{"POST", "/api/send", sendBody}, {"GET", "/api/pull?chat=a:b", ""}} {
			resp, body := call(t, request.method, base+request.path, request.body, "Accept", "application/x-protobuf")
			assert.Equal(t, test.status, resp.StatusCode)
			assert.Equal(t, test.retryAfter, resp.Header.Get("Retry-After"))
			detail := problemIn(t, resp, body).Detail
			assert.Equal(t, test.code == rpc.Code_INVALID, detail == "reason", "only what the caller can mend is passed on")
		}
	}
}

func TestErrors_EveryRequestIsAnsweredWithAProblem(t *testing.T) {
	base := serve(t, backendtest.New())
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/ping/", 404, ""},
		{"GET", "/Ping", 404, ""},
		{"GET", "/api", 404, ""},
		{"GET", "/api/pull/..", 404, ""},
		{"POST", "/api/send%2F", 404, ""},
		{"POST", "/ping", 405, "GET, HEAD"},
		{"GET", "/api/send", 405, "POST"},
		{"PUT", "/api/pull", 405, "GET, HEAD"},
		{"HEAD", "/api/send", 405, "POST"},
		{"HEAD", "/nowhere", 404, ""},
		{"OPTIONS", "/api/send", 405, "POST"},
		{"BREW", "/api/send", 405, "POST"},
	} {
		resp, body := call(t, test.method, base+test.path, "")
		assert.Equal(t, test.status, resp.StatusCode, test.method+" "+test.path)
		assert.Equal(t, test.allow, resp.Header.Get("Allow"), test.method+" "+test.path)
		if test.method == "HEAD" {
			assert.Empty(t, body)
			continue
		}
		problemIn(t, resp, body)
	}
}

func TestHead_IsGetWithoutABody(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	base := serve(t, b)
	for path, status := range map[string]int{"/ping": 200, "/openapi.yaml": 200, "/api/pull?chat=jack:marcus": 200, "/api/pull?chat=jack:marcus&limit=x": 400} {
		head, none := call(t, "HEAD", base+path, "")
		assert.Equal(t, status, head.StatusCode, path)
		assert.Empty(t, none, path)
		assert.Empty(t, b.Pulls, "nobody is asked")
		got, body := call(t, "GET", base+path, "")
		assert.Equal(t, got.Header.Get("Content-Type"), head.Header.Get("Content-Type"), path)
		if head.ContentLength >= 0 { // RFC 9110, 8.6
			assert.EqualValues(t, len(body), head.ContentLength, path)
		}
		backendtest.Drained(b.Pulls)
	}
	resp, _ := call(t, "HEAD", base+"/api/pull?chat=jack:marcus", "", "Accept", "application/protobuf")
	assert.Equal(t, "application/x-protobuf", resp.Header.Get("Content-Type"))
}

func TestErrors_ABodyWithAContentCodingIsRefused(t *testing.T) {
	t.Parallel()
	b := backendtest.New()
	base := serve(t, b)
	for coding, status := range map[string]int{"gzip": 415, "GZIP, identity": 415, "br": 415, "identity": 200, "Identity": 200} {
		resp, body := call(t, "POST", base+"/api/send", sendBody, "Content-Encoding", coding)
		assert.Equal(t, status, resp.StatusCode, coding)
		if status == 200 {
			<-b.Sends
			continue
		}
		assert.Equal(t, "identity", resp.Header.Get("Accept-Encoding"), coding)
		assert.Contains(t, problemIn(t, resp, body).Detail, "Content-Encoding")
	}
	resp, _ := call(t, "GET", base+"/api/pull?chat=jack:marcus", "", "Content-Encoding", "gzip")
	assert.Equal(t, 200, resp.StatusCode, "there is no body")
	assert.Empty(t, b.Sends)
}

// panicking is a client with a defect.
type panicking struct{ Backend }

func TestErrors_PanicIsAProblemAndTheServerLives(t *testing.T) {
	base := serveClient(t, panicking{}, nil)
	for range 2 {
		resp, body := call(t, "POST", base+"/api/send", sendBody)
		assert.Equal(t, 500, resp.StatusCode)
		problemIn(t, resp, body)
	}
}

func TestErrors_NoRPCServerIsUnavailable(t *testing.T) {
	l := backendtest.Listen(t)
	nobody := l.Addr().String()
	require.NoError(t, l.Close())
	resp, body := call(t, "POST", serveClient(t, dial(t, time.Second, nobody), nil)+"/api/send", sendBody)
	assert.Equal(t, 503, resp.StatusCode)
	problemIn(t, resp, body)
}

func TestErrors_SlowRPCServerIsTooLate(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	defer close(b.Hold)
	resp, body := call(t, "POST", serveClient(t, dial(t, 150*time.Millisecond, backendtest.Serve(t, b)), nil)+"/api/send", sendBody)
	assert.Equal(t, 504, resp.StatusCode)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	problemIn(t, resp, body)
}

func TestLimit_TheExcessIsRefusedAtOnceAndNothingElse(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	base := serve(t, b)
	statuses := make(chan int)
	for range maxInFlight {
		go func() {
			status := 503
			for status == 503 { // where a pull below took the last place
				resp, err := http.Post(base+"/api/send", "application/json", strings.NewReader(sendBody))
				if err != nil {
					status = 0
					break
				}
				resp.Body.Close()
				status = resp.StatusCode
			}
			statuses <- status
		}()
	}
	backendtest.Eventually(t, func() bool {
		resp, _ := call(t, "GET", base+"/api/pull?chat=a:b", "")
		return resp.StatusCode == 503
	})
	for _, request := range []struct{ method, path, body string }{{"POST", "/api/send", sendBody}, {"GET", "/api/pull?chat=a:b", ""}} {
		resp, body := call(t, request.method, base+request.path, request.body)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "1", resp.Header.Get("Retry-After"))
		problemIn(t, resp, body)
	}
	resp, _ := call(t, "GET", base+"/ping", "")
	assert.Equal(t, 200, resp.StatusCode, "what costs nothing is served")

	close(b.Hold)
	for range maxInFlight {
		assert.Equal(t, 200, <-statuses)
	}
	resp, _ = call(t, "POST", base+"/api/send", sendBody)
	assert.Equal(t, 200, resp.StatusCode)
}

// TestBatch_ARetryHasTheKeyOfTheCall has one rpc-server that is unavailable, and one whose
// connections break, beside one that is well.
func TestBatch_ARetryHasTheKeyOfTheCall(t *testing.T) {
	cut, well := backendtest.New(), backendtest.New()
	cut.Code.Store(int32(rpc.Code_UNAVAILABLE))
	broken := backendtest.Listen(t)
	defer broken.Close()
	go func() {
		for {
			conn, err := broken.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	base := serveClient(t, dial(t, 15*time.Second, backendtest.Serve(t, cut), broken.Addr().String(), backendtest.Serve(t, well)), nil)
	backendtest.Together(maxInFlight, func(int) {
		resp, _ := call(t, "POST", base+"/api/send", sendBody)
		assert.Equal(t, 200, resp.StatusCode)
	})
	stored := map[string]bool{}
	for _, req := range backendtest.Drained(well.Sends) {
		assert.False(t, stored[req.GetKey()], "each call has a key of its own")
		stored[req.GetKey()] = true
	}
	assert.Len(t, stored, maxInFlight)
	for _, req := range backendtest.Drained(cut.Sends) {
		assert.True(t, stored[req.GetKey()], "the retry has the same key")
	}
}
