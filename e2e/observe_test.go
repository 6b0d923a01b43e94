package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"im/e2e/stack"
)

// readiness is what /readyz tells.
type readiness struct {
	status   int
	Ready    bool
	Stopping bool
	Parts    map[string]struct {
		OK    bool
		Since time.Time
		Error string
		About json.RawMessage
	}
}

func readyz(t *testing.T, p *stack.Process) readiness {
	t.Helper()
	resp, err := client.Get("http://" + p.Admin + "/readyz")
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	r := readiness{status: resp.StatusCode}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&r))
	assert.Equal(t, r.Ready, r.status == http.StatusOK)
	return r
}

// TestReadyz_TellsWhichPartIsDownAndSinceWhen stops one part after the other.
func TestReadyz_TellsWhichPartIsDownAndSinceWhen(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers, o.Settings = 1, append(o.Settings, "REQUEST_TIMEOUT=2s") })
	gateway, rpcServer := s.Gateways[0], s.RPCServers[0]
	for _, test := range []struct {
		stopped []*stack.Process
		teller  *stack.Process
		part    string
		ready   bool // while it is down
	}{
		{s.Redis, rpcServer, "redis", false},
		{[]*stack.Process{s.Etcd}, rpcServer, "etcd", true},
		{[]*stack.Process{s.Etcd}, gateway, "etcd", true},
		{s.RPCServers, gateway, "rpc-servers", false},
	} {
		t.Run(test.teller.Name+" without "+test.part, func(t *testing.T) {
			eventually(t, func() bool { return readyz(t, test.teller).Parts[test.part].OK }, "it is up")
			began := time.Now()
			for _, p := range test.stopped {
				require.NoError(t, p.Signal(syscall.SIGSTOP))
			}
			var r readiness
			eventually(t, func() bool { r = readyz(t, test.teller); return !r.Parts[test.part].OK }, "it is down")
			assert.Equal(t, test.ready, r.Ready)
			assert.NotEmpty(t, r.Parts[test.part].Error)
			assert.WithinRange(t, r.Parts[test.part].Since, began, time.Now())
			since := r.Parts[test.part].Since
			time.Sleep(time.Second)
			assert.Equal(t, since, readyz(t, test.teller).Parts[test.part].Since, "it is down since then")

			back := time.Now()
			for _, p := range test.stopped {
				require.NoError(t, p.Signal(syscall.SIGCONT))
			}
			eventually(t, func() bool { r = readyz(t, test.teller); return r.Ready && r.Parts[test.part].OK }, "it is back")
			assert.Empty(t, r.Parts[test.part].Error)
			assert.WithinRange(t, r.Parts[test.part].Since, back, time.Now())
		})
	}
	r := readyz(t, rpcServer)
	assert.Regexp(t, `"key":\s*"kitex/registry-etcd/demo.rpc.server/`+rpcServer.Addr+`"`, string(r.Parts["registration"].About))
	assert.Regexp(t, `"lease":\s*"[0-9a-f]{16}"`, string(r.Parts["registration"].About))
	assert.True(t, r.Parts["durability"].OK, r.Parts["durability"].Error)
	assert.JSONEq(t, `{"appendonly":"yes","appendfsync":"always","no-appendfsync-on-rewrite":"no","maxmemory-policy":"noeviction"}`, string(r.Parts["durability"].About))
	var instances []struct {
		Address string
		Failure *struct{ Error string } `json:"last_failure"`
	}
	require.NoError(t, json.Unmarshal(readyz(t, gateway).Parts["rpc-servers"].About, &instances))
	require.Len(t, instances, 1)
	assert.Equal(t, rpcServer.Addr, instances[0].Address)
	if assert.NotNil(t, instances[0].Failure, "it was stopped") {
		assert.NotEmpty(t, instances[0].Failure.Error)
	}
}

// scrape returns and lints the metrics of a server.
func scrape(t *testing.T, p *stack.Process) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := p.Metrics(t.Context())
	require.NoError(t, err)
	problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(families))).Lint()
	require.NoError(t, err)
	assert.Empty(t, problems, p.Name)
	return families
}

// value sums a counter or gauge over the servers and over all labels but those
// given, which are pairs.
func value(t *testing.T, servers []*stack.Process, name string, labels ...string) (sum float64) {
	t.Helper()
	for _, p := range servers {
		v, err := p.Metric(t.Context(), name, labels...)
		require.NoError(t, err)
		sum += v
	}
	return sum
}

func TestMetrics_AreExact(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	chat, sender, _ := newChat(t)
	var sending sync.WaitGroup
	for range 10 {
		sending.Go(func() {
			for i := range 110 {
				from, want := sender, http.StatusOK
				if i%11 == 0 {
					from, want = "a stranger", http.StatusBadRequest
				}
				status, err := post(s.URL(), chat, "hello", from)
				assert.NoError(t, err)
				assert.Equal(t, want, status)
			}
		})
	}
	sending.Wait()
	require.Len(t, pullAll(t, s.URL(), chat), 1000)
	resp, err := client.Get(s.URL() + "/nowhere")
	require.NoError(t, err)
	resp.Body.Close()

	gateways, rpcServers := s.Gateways, s.RPCServers
	for _, test := range []struct {
		servers []*stack.Process
		name    string
		labels  []string
		want    float64
	}{
		{gateways, "http_requests_total", []string{"route", "/api/send", "method", "POST", "status", "200"}, 1000},
		{gateways, "http_requests_total", []string{"route", "/api/send", "status", "400"}, 100},
		{gateways, "http_requests_total", []string{"route", "/api/pull", "status", "200"}, 1},
		{gateways, "http_requests_total", []string{"route", "none", "method", "none", "status", "404"}, 1},
		{gateways, "http_request_duration_seconds", []string{"route", "/api/send"}, 1100},
		{gateways, "http_requests_in_flight", nil, 0},
		{gateways, "http_requests_shed_total", nil, 0},
		{gateways, "http_connections_closed_total", nil, 0},
		{gateways, "rpc_client_calls_total", []string{"method", "Send", "code", "OK"}, 1000},
		{gateways, "rpc_client_calls_total", []string{"method", "Send", "code", "INVALID"}, 100},
		{gateways, "rpc_client_call_duration_seconds", []string{"method", "Pull"}, 1},
		{gateways, "rpc_client_instances_known", nil, 2},
		{gateways, "rpc_client_instances_set_aside", nil, 0},
		{gateways, "part_up", []string{"part", "rpc-servers"}, 1},
		{rpcServers, "rpc_server_calls_total", []string{"method", "Send", "code", "OK"}, 1000},
		{rpcServers, "rpc_server_calls_total", []string{"method", "Send", "code", "INVALID"}, 100},
		{rpcServers, "rpc_server_call_duration_seconds", []string{"method", "Send"}, 1100},
		{rpcServers, "rpc_server_calls_in_flight", nil, 0},
		{rpcServers, "part_up", nil, 8},
	} {
		assert.Equal(t, test.want, value(t, test.servers, test.name, test.labels...), "%s %s", test.name, test.labels)
	}
	shared := scrape(t, gateways[0])["rpc_client_batch_calls"].Metric[0].Histogram
	assert.GreaterOrEqual(t, shared.GetSampleSum(), 1101.0, "calls")
	assert.Less(t, float64(shared.GetSampleCount()), shared.GetSampleSum(), "some share a batch")
	assert.GreaterOrEqual(t, value(t, gateways, "rpc_client_queue_duration_seconds"), 1101.0)
	assert.GreaterOrEqual(t, value(t, gateways, "rpc_client_attempts_total", "outcome", "answered"), float64(shared.GetSampleCount()))
	batched := 0.0
	for _, p := range rpcServers {
		batched += scrape(t, p)["redis_batch_commands"].Metric[0].Histogram.GetSampleSum()
	}
	assert.GreaterOrEqual(t, batched, 1000.0)
}

// TestDashboardAndAlerts_NameOnlyMetricsThatExist looks up each in what the servers
// serve.
func TestDashboardAndAlerts_NameOnlyMetricsThatExist(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	chat, sender, _ := newChat(t)
	send(t, s.URL(), chat, "hello", sender)
	pullAll(t, s.URL(), chat)
	served := map[string]bool{}
	for _, p := range append(s.RPCServers, s.Gateways...) {
		for name, family := range scrape(t, p) {
			served[name] = true
			if family.GetType() == dto.MetricType_HISTOGRAM {
				served[name+"_bucket"], served[name+"_sum"], served[name+"_count"] = true, true, true
			}
		}
	}
	served["up"] = true // Prometheus's own
	for file, expression := range map[string]*regexp.Regexp{
		"../docs/grafana-dashboard.json": regexp.MustCompile(`"expr": "((?:[^"\\]|\\.)*)"`),
		"../docs/alerts.yaml":            regexp.MustCompile(`(?m)^ +expr: (.*)$`),
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.HasSuffix(file, ".json") {
			assert.True(t, json.Valid(text), file)
		}
		found := expression.FindAllStringSubmatch(string(text), -1)
		assert.Greater(t, len(found), 5, file)
		for _, e := range found {
			plain := regexp.MustCompile(`\\?"[^"]*"|\{[^}]*\}|\[[^\]]*\]|(?:by|on) \([^)]*\)`).ReplaceAllString(e[1], "")
			names := regexp.MustCompile(`[a-z][a-z_]*[a-z](?: *\()?`).FindAllString(plain, -1)
			assert.NotEmpty(t, names, e[1])
			for _, name := range names {
				if !strings.HasSuffix(name, "(") && name != "and" && name != "or" && name != "unless" {
					assert.True(t, served[name], "%s: nobody serves %s", file, name)
				}
			}
		}
	}
}

// traces is an OpenTelemetry collector.
type traces struct {
	mu    sync.Mutex
	spans []span
}

type span struct {
	service string
	*spans.Span
}

func (c *traces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range request.ResourceSpans {
		service := ""
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span{service, s})
			}
		}
	}
}

// of gives the spans of a trace by their service and kind.
func (c *traces) of(trace string) map[string]span {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]span{}
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			found[s.service+" "+s.Kind.String()] = s
		}
	}
	return found
}

// startTraced starts a system of one rpc-server whose spans c gets.
func startTraced(t *testing.T) (s *stack.Stack, c *traces) {
	t.Helper()
	c = new(traces)
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	return start(t, func(o *stack.Options) {
		o.RPCServers = 1
		o.Settings = append(o.Settings, "OTEL_EXPORTER_OTLP_ENDPOINT="+srv.URL, "OTEL_BSP_SCHEDULE_DELAY=100")
	}), c
}

// TestTracing_OneTraceLeadsFromTheClientToRedis sends with a trace context (W3C),
// and sees that the request's ids are in the logs of both servers too.
func TestTracing_OneTraceLeadsFromTheClientToRedis(t *testing.T) {
	t.Parallel()
	s, c := startTraced(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	chat, sender, _ := newChat(t)
	send(t, s.URL(), chat, "secret text", sender, "traceparent", "00-"+trace+"-"+parent+"-01", "X-Request-Id", "this-request", "Idempotency-Key", "secret-key")

	var found map[string]span
	eventually(t, func() bool { found = c.of(trace); return len(found) == 4 }, "all spans are there")
	for _, step := range []struct{ span, parent string }{
		{"im-http-server SPAN_KIND_CLIENT", "im-http-server SPAN_KIND_SERVER"},
		{"im-rpc-server SPAN_KIND_SERVER", "im-http-server SPAN_KIND_CLIENT"},
		{"im-rpc-server SPAN_KIND_CLIENT", "im-rpc-server SPAN_KIND_SERVER"},
	} {
		require.Contains(t, found, step.span)
		require.Contains(t, found, step.parent)
		assert.Equal(t, found[step.parent].SpanId, found[step.span].ParentSpanId, step.span)
	}
	assert.Equal(t, parent, hex.EncodeToString(found["im-http-server SPAN_KIND_SERVER"].ParentSpanId))
	assert.Equal(t, "append", found["im-rpc-server SPAN_KIND_CLIENT"].Name)

	status, err := post(s.URL(), chat, "", sender, "traceparent", "00-"+trace+"-"+parent+"-01", "X-Request-Id", "this-request")
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, status)
	for _, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
		refused := 0
		for _, line := range logged(t, p, `"request_id":"this-request"`) {
			assert.Contains(t, line, `"trace_id":"`+trace+`"`)
			refused += strings.Count(line, `"refused"`)
		}
		assert.Equal(t, 1, refused, p.Name)
		assert.Empty(t, logged(t, p, "secret"), "neither texts nor keys are logged")
	}
	assert.Len(t, logged(t, s.Gateways[0], `"answered"`), 2, "a line for each request")
}

// TestTracing_CallsThatShareABatchHaveTracesOfTheirOwn sends many messages at the same
// time, each with a trace context and a request id.
func TestTracing_CallsThatShareABatchHaveTracesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s, c := startTraced(t)
	const calls, parent = 64, "b7ad6b7169203331"
	chat, sender, _ := newChat(t)
	traceOf := func(i int) string { return fmt.Sprintf("0af7651916cd43dd8448eb21%08x", i) }
	var sending sync.WaitGroup
	for i := range calls {
		sending.Go(func() {
			text := "hello"
			if i%2 == 1 {
				text = "" // each server logs that it is refused
			}
			_, err := post(s.URL(), chat, text, sender, "traceparent", "00-"+traceOf(i)+"-"+parent+"-01", "X-Request-Id", fmt.Sprintf("request-%d.", i))
			assert.NoError(t, err)
		})
	}
	sending.Wait()
	batches := scrape(t, s.Gateways[0])["rpc_client_batch_calls"].Metric[0].Histogram
	require.Less(t, float64(batches.GetSampleCount()), batches.GetSampleSum(), "some share a batch")
	for i := range calls {
		if i%2 == 1 {
			for _, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
				for _, line := range logged(t, p, fmt.Sprintf(`"request_id":"request-%d."`, i)) {
					assert.Contains(t, line, `"trace_id":"`+traceOf(i)+`"`)
				}
				assert.NotEmpty(t, logged(t, p, fmt.Sprintf(`"request_id":"request-%d."`, i)), p.Name)
			}
			continue
		}
		var found map[string]span
		eventually(t, func() bool { found = c.of(traceOf(i)); return len(found) == 4 }, "all spans are there")
		at := parent
		for _, step := range []string{"im-http-server SPAN_KIND_SERVER", "im-http-server SPAN_KIND_CLIENT", "im-rpc-server SPAN_KIND_SERVER", "im-rpc-server SPAN_KIND_CLIENT"} {
			require.Contains(t, found, step)
			assert.Equal(t, at, hex.EncodeToString(found[step].ParentSpanId), step)
			at = hex.EncodeToString(found[step].SpanId)
		}
	}
}

func TestTracing_IsOffWithoutAnEndpoint(t *testing.T) {
	chat, sender, _ := newChat(t)
	send(t, shared.URL(), chat, "hello", sender, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Request-Id", "untraced")
	lines := logged(t, shared.Gateways[0], `"request_id":"untraced"`)
	require.Len(t, lines, 1)
	assert.NotContains(t, lines[0], "trace_id")
}

func TestLogLevel_ChangesWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers, o.Settings = 1, append(o.Settings, "LOG_LEVEL=info") })
	put := func(p *stack.Process, level string) int {
		req, err := http.NewRequest(http.MethodPut, "http://"+p.Admin+"/loglevel", strings.NewReader(level))
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	chat, sender, _ := newChat(t)
	refuse := func() {
		status, err := post(s.URL(), chat, "", sender)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status)
	}
	refused := func(p *stack.Process) (count int) {
		for _, line := range logged(t, p, `"refused"`) {
			count += strings.Count(line, `"request_id"`) // else it was the gateway's own look
		}
		return count
	}
	refuse()
	for _, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
		assert.Zero(t, refused(p))
		assert.Equal(t, http.StatusBadRequest, put(p, "loud"))
		assert.Equal(t, http.StatusOK, put(p, "debug"))
	}
	refuse()
	for _, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
		assert.Equal(t, 1, refused(p))
		assert.Equal(t, http.StatusOK, put(p, "info"))
	}
	refuse()
	for _, p := range []*stack.Process{s.Gateways[0], s.RPCServers[0]} {
		assert.Equal(t, 1, refused(p))
	}
}
