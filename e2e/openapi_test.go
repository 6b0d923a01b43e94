package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

const (
	inProtobuf = "application/x-protobuf"
	inProblem  = "application/problem+json"
)

func init() {
	for _, mediaType := range []string{inProtobuf, "application/protobuf"} {
		openapi3filter.RegisterBodyDecoder(mediaType, openapi3filter.FileBodyDecoder) // bytes, to OpenAPI
	}
}

// contract is openapi.yaml as a gateway serves it: what HTTP clients are told.
type contract struct {
	*openapi3.T
	router routers.Router
}

func contractOf(t *testing.T, base string) contract {
	t.Helper()
	resp, text := do(t, newRequest(t, "GET", base+"/openapi.yaml", ""))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	doc, err := openapi3.NewLoader().LoadFromData(text)
	require.NoError(t, err)
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return contract{doc, router}
}

// route is where the operation with this id is.
func (c contract) route(t *testing.T, id string) *routers.Route {
	t.Helper()
	for path, item := range c.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == id {
				return &routers.Route{Spec: c.T, Path: path, PathItem: item, Method: method, Operation: op}
			}
		}
	}
	require.Fail(t, "no operation has this id", id)
	return nil
}

// allows is nil for a request that the document describes.
func (c contract) allows(req *http.Request) error {
	route, params, err := c.router.FindRoute(req)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateRequest(req.Context(), &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{SkipSettingDefaults: true, RejectWhenRequestBodyNotSpecified: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	})
}

// check checks that an answer is one that the document describes for the route.
func (c contract) check(t *testing.T, route *routers.Route, resp *http.Response, body []byte) {
	t.Helper()
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: resp.Request, Route: route},
		Status:                 resp.StatusCode,
		Header:                 resp.Header,
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	}
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), input.SetBodyBytes(body)))
	described := route.Operation.Responses.Status(resp.StatusCode).Value
	if len(described.Content) == 0 {
		assert.Empty(t, body)
	}
	known := []string{"Content-Length", "Content-Type", "Date"}
	for _, name := range []string{"Cache-Control", "Content-Security-Policy", "X-Content-Type-Options"} {
		known = append(known, name) // of every answer
		assert.Contains(t, c.Info.Description, "`"+name+": "+resp.Header.Get(name)+"`")
	}
	for name := range described.Headers {
		known = append(known, http.CanonicalHeaderKey(name))
	}
	for name := range resp.Header {
		assert.Contains(t, known, name)
	}
	if resp.StatusCode >= 400 {
		var p problem
		require.NoError(t, json.Unmarshal(body, &p))
		assert.Equal(t, resp.StatusCode, p.Status)
	}
}

// example is that of an answer, as JSON or, in protobuf, as its bytes; nil if
// there is none of the name.
func example(t *testing.T, response *openapi3.ResponseRef, mediaType, name string) []byte {
	t.Helper()
	content := response.Value.Content[mediaType]
	if content == nil || content.Examples[name] == nil {
		return nil
	}
	return exampleBody(t, mediaType, content.Examples[name].Value.Value)
}

func exampleBody(t *testing.T, mediaType string, value any) []byte {
	t.Helper()
	if strings.HasSuffix(mediaType, "protobuf") {
		return []byte(value.(string))
	}
	body, err := json.Marshal(value)
	require.NoError(t, err)
	return body
}

// newRequest makes a request; headers are pairs. A body is JSON unless they say
// otherwise, and "" is none.
func newRequest(t *testing.T, method, url, body string, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// begin sends a request whose body is said to have size bytes, but only the first
// 16 KiB of them, body and spaces: the gateway answers once it has half of that,
// and the answer cannot get lost in a connection that is closed while the body is
// still being written.
func begin(t *testing.T, req *http.Request, body string, size int) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", req.URL.Host, client.Timeout)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(client.Timeout)))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", req.Method, req.URL.RequestURI(), req.URL.Host, size)
	require.NoError(t, req.Header.Write(conn))
	fmt.Fprintf(conn, "\r\n%-16384s", body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, answer
}

func do(t *testing.T, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, body
}

func TestOpenAPI_ServedDocumentIsTheValidOneOfTheCheckout(t *testing.T) {
	written, err := os.ReadFile("../http-server/gateway/openapi.yaml")
	require.NoError(t, err)
	resp, served := do(t, newRequest(t, "GET", shared.URL()+"/openapi.yaml", ""))
	assert.Equal(t, "application/yaml", resp.Header.Get("Content-Type"))
	assert.Equal(t, string(written), string(served))

	c := contractOf(t, shared.URL())
	assert.Equal(t, "3.1.0", c.OpenAPI)
	assert.NoError(t, c.Validate(t.Context()))
}

func TestOpenAPI_ExamplesAndDefaultsAreValidAgainstTheirSchemas(t *testing.T) {
	c := contractOf(t, shared.URL())
	checked := 0
	valid := func(where string, schema *openapi3.SchemaRef, value any) {
		assert.NoError(t, schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020()), where)
		checked++
	}
	examples := func(where string, schema *openapi3.SchemaRef, one any, more openapi3.Examples) {
		if one != nil {
			valid(where, schema, one)
		}
		for name, example := range more {
			valid(where+" "+name, schema, example.Value.Value)
		}
	}
	content := func(where string, content openapi3.Content) {
		for mediaType, described := range content {
			examples(where+" "+mediaType, described.Schema, described.Example, described.Examples)
		}
	}
	require.NoError(t, c.WalkSchemas(func(where string, schema *openapi3.SchemaRef) error {
		for _, example := range schema.Value.Examples {
			valid(where, schema, example)
		}
		if schema.Value.Default != nil {
			valid(where, schema, schema.Value.Default)
		}
		return nil
	}))
	require.NoError(t, c.WalkParameters(func(where string, p *openapi3.ParameterRef) error {
		examples(where, p.Value.Schema, p.Value.Example, p.Value.Examples)
		return nil
	}))
	for name, header := range c.Components.Headers {
		examples(name, header.Value.Schema, header.Value.Example, header.Value.Examples)
	}
	for path, item := range c.Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody != nil {
				content(method+" "+path, op.RequestBody.Value.Content)
			}
			for status, response := range op.Responses.Map() {
				content(method+" "+path+" "+status, response.Value.Content)
			}
		}
	}
	assert.Greater(t, checked, 80)
}

func TestOpenAPI_DescribesEveryCallAndStatusOfTheReadme(t *testing.T) {
	c := contractOf(t, shared.URL())
	api := readme(t, "API")
	calls := regexp.MustCompile("(?m)^\\| `([A-Z]+) (/\\S+)` \\|").FindAllStringSubmatch(api, -1)
	assert.Len(t, calls, 5)
	for _, call := range calls {
		item := c.Paths.Value(call[2])
		require.NotNil(t, item, call[2])
		assert.Equal(t, []string{call[1]}, slices.Collect(maps.Keys(item.Operations())))
	}

	var errors []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d{3}(?:, \d{3})*) \|`).FindAllStringSubmatch(api, -1) {
		errors = append(errors, strings.Split(row[1], ", ")...)
	}
	assert.Greater(t, len(errors), 5)
	own := []string{"404", "405", "500"} // of a gateway that asks nobody
	for id, want := range map[string][]string{"ping": own, "openapi": own, "send": errors, "pull": errors, "chats": errors, "read": errors} {
		responses := c.route(t, id).Operation.Responses.Map()
		assert.ElementsMatch(t, append([]string{"200"}, want...), slices.Collect(maps.Keys(responses)), id)
		for status, response := range responses {
			assert.Contains(t, response.Value.Headers, "X-Request-Id", id+" "+status)
			_, retry := response.Value.Headers["Retry-After"]
			assert.Equal(t, status == "503" || status == "504", retry, id+" "+status)
			_, challenge := response.Value.Headers["WWW-Authenticate"]
			assert.Equal(t, status == "401", challenge, id+" "+status)
			_, allow := response.Value.Headers["Allow"]
			assert.Equal(t, status == "405", allow, id+" "+status)
		}
	}
	var listed []string
	for _, status := range c.Components.Schemas["Problem"].Value.Properties["status"].Value.Enum {
		listed = append(listed, strconv.Itoa(int(status.(float64))))
	}
	assert.ElementsMatch(t, errors, listed)
}

func TestOpenAPI_AnswersAreThoseDescribed(t *testing.T) {
	c := contractOf(t, shared.URL())
	chat, sender, _ := newChat(t)
	good := `{"chat":"` + chat + `","text":"hello","sender":"` + sender + `"}`
	bad := func(fields string) string { return "{" + fields + "}" }
	type request struct {
		operation string
		what      string // of an error, the name of its example
		query     string
		body      string
		headers   []string
		announced int // bytes that the body is said to have; 0 means those it has
		status    int
		// allowed is whether the document's schemas, too, find nothing wrong with it.
		allowed      bool
		method, path string // empty means the operation's
		asks         bool   // the gateway for tokens
	}
	requests := []request{
		{operation: "ping", what: "pong", status: 200, allowed: true},
		{operation: "ping", what: "with an id", headers: []string{"X-Request-Id", "4f1c9a7e"}, status: 200, allowed: true},
		{operation: "ping", what: "with a bad id", headers: []string{"X-Request-Id", "4f 1c"}, status: 200, allowed: true},
		{operation: "openapi", what: "itself", status: 200, allowed: true},

		{operation: "send", what: "JSON", body: good, status: 200, allowed: true},
		{operation: "send", what: "JSON with a charset", body: good, headers: []string{"Content-Type", "application/json; charset=utf-8"}, status: 200, allowed: true},
		{operation: "send", what: "JSON by another name", body: good, headers: []string{"Content-Type", "text/plain"}, status: 200},
		{operation: "send", what: "with a key", body: good, headers: []string{"Idempotency-Key", `"k"`}, status: 200, allowed: true},
		{operation: "send", what: "protobuf", body: "\n\x03a:b\x12\x05hello\x1a\x01a", headers: []string{"Content-Type", inProtobuf}, status: 200, allowed: true},
		{operation: "send", what: "protobuf by its other name", body: "\n\x03a:b\x12\x05hello\x1a\x01a", headers: []string{"Content-Type", "Application/Protobuf; v=1"}, status: 200, allowed: true},
		{operation: "send", what: "with an answer in protobuf", body: good, headers: []string{"Accept", inProtobuf}, status: 200, allowed: true},

		{operation: "send", what: "emptyBody", status: 400},
		{operation: "send", what: "notJSON", body: "hello", status: 400},
		{operation: "send", what: "notAnObject", body: `[]`, status: 400},
		{operation: "send", what: "notProtobuf", body: good, headers: []string{"Content-Type", inProtobuf}, status: 400, allowed: true},
		{operation: "send", what: "notUTF8", body: "\x12\x01\xff", headers: []string{"Content-Type", inProtobuf}, status: 400, allowed: true},
		{operation: "send", what: "wrongType", body: bad(`"chat":"jack:marcus","text":7,"sender":"jack"`), status: 400},
		{operation: "send", what: "fieldTwice", body: bad(`"chat":"jack:marcus","text":"hello","text":"hi","sender":"jack"`), status: 400, allowed: true},
		{operation: "send", what: "noChat", body: bad(`"text":"hello","sender":"jack"`), status: 400},
		{operation: "send", what: "oneName", body: bad(`"chat":"jack","text":"hello","sender":"jack"`), status: 400},
		{operation: "send", what: "controlCharacter", body: bad(`"chat":"jack:marcus\u0007","text":"hello","sender":"jack"`), status: 400},
		{operation: "send", what: "noText", body: bad(`"chat":"jack:marcus","text":"","sender":"jack"`), status: 400},
		{operation: "send", what: "longText", body: bad(`"chat":"jack:marcus","text":"` + strings.Repeat("x", 65537) + `","sender":"jack"`), status: 400, allowed: true},
		{operation: "send", what: "noSender", body: bad(`"chat":"jack:marcus","text":"hello"`), status: 400},
		{operation: "send", what: "notAMember", body: bad(`"chat":"jack:marcus","text":"hello","sender":"bob"`), status: 400, allowed: true},
		{operation: "send", what: "badKey", body: good, headers: []string{"Idempotency-Key", "k 1"}, status: 400},
		{operation: "send", what: "keyTwice", body: good, headers: []string{"Idempotency-Key", "k", "Idempotency-Key", "k"}, status: 400, allowed: true},
		{operation: "send", what: "bodyTooLarge", body: good, announced: 1<<20 + 1, status: 413, allowed: true},
		{operation: "send", what: "bodyCoded", body: good, headers: []string{"Content-Encoding", "gzip"}, status: 415, allowed: true},

		{operation: "pull", what: "messages", query: "chat=" + chat, status: 200, allowed: true},
		{operation: "pull", what: "every parameter", query: "chat=" + chat + "&cursor=1&limit=2&reverse=true&total=3", status: 200, allowed: true},
		{operation: "pull", what: "largest numbers", query: "chat=" + chat + "&cursor=9223372036854775807&limit=2147483647", status: 200, allowed: true},
		{operation: "pull", what: "unknown parameter", query: "chat=" + chat + "&page=7", status: 200, allowed: true},
		{operation: "pull", what: "empty chat", query: "chat=nobody-here:" + sender, status: 200, allowed: true},
		{operation: "pull", what: "an answer in protobuf", query: "chat=" + chat, headers: []string{"Accept", "application/protobuf"}, status: 200, allowed: true},
		{operation: "pull", what: "by body", body: `{"chat":"` + chat + `"}`, status: 200},

		{operation: "pull", what: "noChat", status: 400},
		{operation: "pull", what: "oneName", query: "chat=jack", status: 400},
		{operation: "pull", what: "longMember", query: "chat=" + strings.Repeat("j", 129) + ":marcus", status: 400},
		{operation: "pull", what: "negativeCursor", query: "chat=jack:marcus&cursor=-1", status: 400},
		{operation: "pull", what: "negativeLimit", query: "chat=jack:marcus&limit=-1", status: 400},
		{operation: "pull", what: "negativeTotal", query: "chat=jack:marcus&total=-1", status: 400},
		{operation: "pull", what: "wrongInteger", query: "chat=jack:marcus&cursor=two", status: 400},
		{operation: "pull", what: "emptyValue", query: "chat=jack:marcus&limit=", status: 400},
		{operation: "pull", what: "negativeWait", query: "chat=jack:marcus&wait=-1", status: 400},
		{operation: "pull", what: "waitInReverse", query: "chat=jack:marcus&wait=1&reverse=true", status: 400, allowed: true},
		{operation: "pull", what: "wrongBoolean", query: "chat=jack:marcus&reverse=yes", status: 400},
		{operation: "pull", what: "parameterTwice", query: "chat=jack:marcus&limit=5&limit=6", status: 400, allowed: true},
		{operation: "pull", what: "badEncoding", query: "chat=%zz", status: 400},
		{operation: "pull", what: "notProtobuf", body: good, headers: []string{"Content-Type", inProtobuf}, status: 400},
		{operation: "pull", what: "bodyTooLarge", body: good, announced: 1<<20 + 1, status: 413},
		{operation: "pull", what: "bodyCoded", body: good, headers: []string{"Content-Encoding", "gzip"}, status: 415},

		{operation: "chats", what: "chats", query: "member=" + sender, status: 200, allowed: true},
		{operation: "chats", what: "every parameter", query: "member=" + sender + "&limit=1&total=7&wait=1", status: 200, allowed: true},
		{operation: "chats", what: "an answer in protobuf", query: "member=" + sender, headers: []string{"Accept", inProtobuf}, status: 200, allowed: true},
		{operation: "chats", what: "by body", body: `{"member":"` + sender + `"}`, status: 200},
		{operation: "chats", what: "noMember", status: 400},
		{operation: "chats", what: "twoNames", query: "member=jack:marcus", status: 400},
		{operation: "chats", what: "negativeTotal", query: "member=jack&total=-1", status: 400},
		{operation: "chats", what: "negativeWait", query: "member=jack&wait=-1", status: 400},
		{operation: "chats", what: "waitWithCursor", query: "member=jack&wait=1&cursor=1", status: 400, allowed: true},
		{operation: "chats", what: "bodyTooLarge", body: good, announced: 1<<20 + 1, status: 413},
		{operation: "chats", what: "bodyCoded", body: good, headers: []string{"Content-Encoding", "gzip"}, status: 415},

		{operation: "read", what: "all", body: `{"chat":"` + chat + `","member":"` + sender + `","read":1}`, status: 200, allowed: true},
		{operation: "read", what: "noMember", body: `{"chat":"jack:marcus","read":1}`, status: 400},
		{operation: "read", what: "stranger", body: `{"chat":"jack:marcus","member":"bob","read":1}`, status: 400, allowed: true},
		{operation: "read", what: "negativeRead", body: `{"chat":"jack:marcus","member":"jack","read":-1}`, status: 400},
		{operation: "read", what: "wrongRead", body: `{"chat":"jack:marcus","member":"jack","read":"1"}`, status: 400},
		{operation: "read", what: "bodyTooLarge", body: `{"chat":"jack:marcus","member":"jack","read":1}`, announced: 1<<20 + 1, status: 413, allowed: true},
		{operation: "read", what: "bodyCoded", body: `{"chat":"jack:marcus","member":"jack","read":1}`, headers: []string{"Content-Encoding", "gzip"}, status: 415, allowed: true},
	}
	secret := "a secret of 32 bytes or more, which nobody knows"
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(secret), 0o600))
	asking := start(t, func(o *stack.Options) {
		o.Settings = append(o.Settings, "AUTH_HMAC_SECRET_FILE="+file, "READ_TIMEOUT=2s")
	})
	token, err := exec.Command("go", "run", "./cmd/token", "--secret-file="+file, "--sub="+sender).Output()
	require.NoError(t, err)
	bearer := []string{"Authorization", "Bearer " + strings.TrimSpace(string(token))}
	for operation, of := range map[string]func(chat, member string) (query, body string){
		"send": func(chat, member string) (string, string) {
			return "", `{"chat":"` + chat + `","text":"hello","sender":"` + member + `"}`
		},
		"pull":  func(chat, _ string) (string, string) { return "chat=" + chat, "" },
		"chats": func(_, member string) (string, string) { return "member=" + member, "" },
		"read": func(chat, member string) (string, string) {
			return "", `{"chat":"` + chat + `","member":"` + member + `","read":0}`
		},
	} {
		requests = append(requests, request{operation: operation, what: "bodyTooSlow", asks: true, headers: bearer, announced: 20_000, status: 408})
		own, ownBody := of(chat, sender)
		other, otherBody := of("jack:marcus", "jack")
		forbidden := map[string]string{"send": "notTheSender", "pull": "notInTheChat", "chats": "notTheMember", "read": "notTheMember"}[operation]
		requests = append(requests,
			request{operation: operation, what: "with a token", query: own, body: ownBody, headers: bearer, asks: true, status: 200, allowed: true},
			request{operation: operation, what: "noToken", query: own, body: ownBody, asks: true, status: 401, allowed: true},
			request{operation: operation, what: "badToken", query: own, body: ownBody, headers: []string{"Authorization", "Bearer x"}, asks: true, status: 401, allowed: true},
			request{operation: operation, what: forbidden, query: other, body: otherBody, headers: bearer, asks: true, status: 403, allowed: true})
	}
	for _, operation := range []string{"ping", "openapi", "send", "pull", "chats", "read"} {
		requests = append(requests,
			request{operation: operation, what: "notFound", path: c.route(t, operation).Path + "/", status: 404},
			request{operation: operation, what: "methodNotAllowed", method: "DELETE", status: 405})
	}

	given := map[string]bool{}
	for _, r := range requests {
		t.Run(r.operation+" "+r.what, func(t *testing.T) {
			route := c.route(t, r.operation)
			method, path := route.Method, route.Path
			if r.method != "" {
				method = r.method
			}
			if r.path != "" {
				path = r.path
			}
			base := shared.URL()
			if r.asks {
				base = asking.URL()
			}
			req := newRequest(t, method, base+path+"?"+r.query, r.body, r.headers...)
			assert.Equal(t, r.allowed, c.allows(req) == nil, "by the document: %v", c.allows(req))

			var resp *http.Response
			var body []byte
			if r.announced > 0 {
				resp, body = begin(t, req, r.body, r.announced)
			} else {
				resp, body = do(t, req)
			}
			require.Equal(t, r.status, resp.StatusCode, "%s", body)
			c.check(t, route, resp, body)
			if r.status >= 400 {
				want := example(t, route.Operation.Responses.Status(r.status), inProblem, r.what)
				require.NotNil(t, want, "an example of it")
				assert.JSONEq(t, string(want), string(body))
				given[r.operation+" "+r.what] = true
			}
			if r.status == 405 {
				assert.Equal(t, map[string]string{"GET": "GET, HEAD", "POST": "POST"}[route.Method], resp.Header.Get("Allow"))
			}
		})
	}
	for _, operation := range []string{"ping", "openapi", "send", "pull", "chats", "read"} {
		for status, response := range c.route(t, operation).Operation.Responses.Map() {
			if strings.HasPrefix(status, "4") {
				for name := range response.Value.Content[inProblem].Examples {
					assert.True(t, given[operation+" "+name], "no request here gives the example %s %s", operation, name)
				}
			}
		}
	}
}

// exampleRequest is what the examples of one name make.
type exampleRequest struct {
	name string
	*http.Request
}

// exampleRequests are the requests of a route's examples, by name.
func exampleRequests(t *testing.T, base string, route *routers.Route) []exampleRequest {
	t.Helper()
	named := map[string]bool{}
	for _, p := range route.Operation.Parameters {
		for name := range p.Value.Examples {
			named[name] = true
		}
	}
	bodies := openapi3.Content{"": {}} // of a request without one
	if route.Operation.RequestBody != nil {
		bodies = route.Operation.RequestBody.Value.Content
	}
	for _, described := range bodies {
		for name := range described.Examples {
			named[name] = true
		}
	}

	var requests []exampleRequest
	for _, name := range slices.Sorted(maps.Keys(named)) {
		made := len(requests)
		for mediaType, described := range bodies {
			var body []byte
			if mediaType != "" {
				if described.Examples[name] == nil {
					continue
				}
				body = exampleBody(t, mediaType, described.Examples[name].Value.Value)
			}
			query, headers := url.Values{}, []string{"Content-Type", mediaType}
			for _, p := range route.Operation.Parameters {
				if example := p.Value.Examples[name]; example != nil {
					value, err := json.Marshal(example.Value.Value)
					require.NoError(t, err)
					switch text := strings.Trim(string(value), `"`); p.Value.In {
					case "query":
						query.Set(p.Value.Name, text)
					case "header":
						headers = append(headers, p.Value.Name, text)
					}
				}
			}
			req := newRequest(t, route.Method, base+route.Path+"?"+query.Encode(), string(body), headers...)
			requests = append(requests, exampleRequest{name, req})
		}
		require.Greater(t, len(requests), made, "the example %s has parameters, but no body", name)
	}
	return requests
}

func TestOpenAPI_ExamplesOfRequestsGetTheAnswersOfTheirNames(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := contractOf(t, s.URL())
	send(t, s.URL(), "jack:marcus", "hello", "jack")
	send(t, s.URL(), "jack:marcus", "hi", "marcus")
	send(t, s.URL(), "jack:marcus", "how are you?", "jack")

	send(t, s.URL(), "bob:marcus", "lunch?", "bob")

	sendTime := regexp.MustCompile(`"send_time":\d+`)
	for _, id := range []string{"pull", "chats", "read"} {
		route := c.route(t, id)
		answers, refusals := route.Operation.Responses.Status(200), route.Operation.Responses.Status(400)
		for mediaType, described := range answers.Value.Content {
			asked := map[string]bool{}
			for _, r := range exampleRequests(t, s.URL(), route) {
				want := example(t, answers, mediaType, r.name)
				if want == nil {
					continue
				}
				assert.NoError(t, c.allows(r.Request), r.name)
				r.Header.Set("Accept", mediaType)
				resp, body := do(t, r.Request)
				require.Equal(t, http.StatusOK, resp.StatusCode, r.name)
				c.check(t, route, resp, body)
				if mediaType == "application/json" {
					want, body = sendTime.ReplaceAll(want, []byte(`"send_time":0`)), sendTime.ReplaceAll(body, []byte(`"send_time":0`))
					assert.JSONEq(t, string(want), string(body), r.name)
				} else {
					assert.Equal(t, string(want), string(body), r.name)
				}
				asked[r.name] = true
			}
			for name := range described.Examples {
				assert.True(t, asked[name], "no request has the name of the answer %s", name)
			}
		}
		for _, r := range exampleRequests(t, s.URL(), route) {
			if want := example(t, refusals, inProblem, r.name); want != nil {
				resp, body := do(t, r.Request)
				assert.Equal(t, http.StatusBadRequest, resp.StatusCode, r.name)
				assert.JSONEq(t, string(want), string(body), r.name)
			} else {
				assert.NotNil(t, example(t, answers, "application/json", r.name), "no answer has the name of the request %s", r.name)
			}
		}
	}
	for schema, id := range map[string]string{"PullRequest": "pull", "ChatsRequest": "chats"} {
		route := c.route(t, id)
		for _, body := range c.Components.Schemas[schema].Value.Examples {
			resp, answer := do(t, newRequest(t, route.Method, s.URL()+route.Path, string(exampleBody(t, "", body))))
			require.Equal(t, http.StatusOK, resp.StatusCode, "%v: %s", body, answer)
			c.check(t, route, resp, answer)
		}
	}

	sending := c.route(t, "send")
	refused := 0
	for _, r := range exampleRequests(t, s.URL(), sending) {
		assert.NoError(t, c.allows(r.Request), r.name)
		resp, body := do(t, r.Request)
		c.check(t, sending, resp, body)
		want := example(t, sending.Operation.Responses.Status(400), inProblem, r.name)
		if want == nil {
			assert.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", r.name, body)
			continue
		}
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, r.name)
		assert.JSONEq(t, string(want), string(body), r.name)
		refused++
	}
	assert.Equal(t, 1, refused)
}

func TestOpenAPI_AnswersOfAFailingServiceAreThoseDescribed(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	o.RPCServers = 1
	o.Settings = append(o.Settings, "REQUEST_TIMEOUT=3s", "REDIS_TIMEOUT=900ms") // it is waited for twice
	s, err := stack.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	c := contractOf(t, s.URL())

	gives := func(status int, name string) {
		t.Helper()
		for operation, req := range map[string]*http.Request{
			"send":  newRequest(t, "POST", s.URL()+"/api/send", `{"chat":"jack:marcus","text":"hello","sender":"jack"}`),
			"pull":  newRequest(t, "GET", s.URL()+"/api/pull?chat=jack:marcus", "", "Accept", inProtobuf),
			"chats": newRequest(t, "GET", s.URL()+"/api/chats?member=jack", "", "Accept", inProtobuf),
			"read":  newRequest(t, "POST", s.URL()+"/api/read", `{"chat":"jack:marcus","member":"jack","read":1}`),
		} {
			route := c.route(t, operation)
			assert.NoError(t, c.allows(req))
			resp, body := do(t, req)
			require.Equal(t, status, resp.StatusCode, "%s: %s", operation, body)
			c.check(t, route, resp, body)
			assert.JSONEq(t, string(example(t, route.Operation.Responses.Status(status), inProblem, name)), string(body))
		}
	}

	db := s.RedisClient()
	t.Cleanup(func() { db.Close() })
	require.NoError(t, db.Set(t.Context(), "chat:jack:marcus", "no sorted set", 0).Err())
	require.NoError(t, db.SAdd(t.Context(), "inbox:jack", "jack:marcus").Err())
	gives(500, "defect")

	require.NoError(t, s.RPCServers[0].Signal(syscall.SIGSTOP))
	gives(504, "late")

	s.RPCServers[0].Kill()
	gives(503, "unavailable")

	// The gateway alone still answers what it can.
	ping := newRequest(t, "GET", s.URL()+"/ping", "")
	resp, body := do(t, ping)
	c.check(t, c.route(t, "ping"), resp, body)
	for _, complaint := range complaints(o.Logs) {
		assert.Contains(t, complaint, `"level":"ERROR"`, "the defect alone, no panic or data race")
	}
}
