package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
	"im/http-server/edge"
	"im/internal/gen/rpc"
)

// closed waits until the server closes a connection, and gives what it said before.
// Meanwhile more is written again and again, where it is not empty.
func closed(t *testing.T, c net.Conn, more string) string {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	if more != "" {
		go func() {
			for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
				_, err = io.WriteString(c, more)
			}
		}()
	}
	said, err := io.ReadAll(c)
	if late, ok := err.(net.Error); ok {
		require.False(t, late.Timeout(), "the connection stays open; it said %q", said)
	}
	return string(said)
}

// both are the ways to serve: plain text and TLS.
func both() map[string]*tls.Config {
	certified := httptest.NewTLSServer(nil) // has a certificate
	defer certified.Close()
	return map[string]*tls.Config{"plain": nil, "TLS": {Certificates: certified.TLS.Certificates}}
}

// open returns how many connections are open.
func open(c *edge.Connections) int { return int(testutil.ToFloat64(c.Collectors()[1])) }

// TestConnections_HaveAnEnd has clients that want to keep a connection for ever, each in
// another way.
func TestConnections_HaveAnEnd(t *testing.T) {
	b := backendtest.New()
	b.Page = &rpc.PullResponse{HasMore: new(bool), NextCursor: new(int64), Total: new(int64)}
	for range 32 {
		b.Page.Messages = append(b.Page.Messages, &rpc.Message{Chat: "a:b", Sender: "a", Text: strings.Repeat("x", 1<<20)})
	}
	behind := dialStub(t, b)
	for name, https := range both() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bound := wide()
			bound.https, bound.idle = https, 500*time.Millisecond
			bound.connections = edge.NewConnections(1000, 500*time.Millisecond, 5*time.Second)
			bound.buffers = edge.NewBuffers(40 << 20) // one page
			addr := strings.Split(serveBounded(t, behind, bound), "//")[1]
			dial := func() net.Conn {
				c, err := net.Dial("tcp", addr)
				require.NoError(t, err)
				t.Cleanup(func() { c.Close() })
				if https != nil {
					secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
					require.NoError(t, secure.Handshake())
					return secure
				}
				return c
			}
			request := func(c net.Conn, bytes string) *http.Response {
				_, err := io.WriteString(c, bytes)
				require.NoError(t, err)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				return resp
			}
			const ping = "GET /ping HTTP/1.1\r\nHost: im\r\n\r\n"

			silent, err := net.Dial("tcp", addr) // not even a handshake
			require.NoError(t, err)
			assert.Empty(t, closed(t, silent, ""), "nothing said")

			idle := dial()
			assert.Equal(t, 200, request(idle, ping).StatusCode)
			assert.Empty(t, closed(t, idle, ""), "nothing more said")

			head := dial()
			_, err = io.WriteString(head, "GET /ping HTTP/1.1\r\nHost: im\r\nX-A: ")
			require.NoError(t, err)
			assert.NotContains(t, closed(t, head, "x"), "200 OK", "a head byte by byte")

			second := dial()
			assert.Equal(t, 200, request(second, ping).StatusCode)
			assert.NotContains(t, closed(t, second, "G"), "200 OK", "a second head byte by byte")

			body := dial()
			_, err = io.WriteString(body, "POST /api/send HTTP/1.1\r\nHost: im\r\nContent-Length: 1000000\r\n\r\n{")
			require.NoError(t, err)
			assert.Contains(t, closed(t, body, "x"), "HTTP/1.1 408 ", "a body byte by byte")
			chunks := dial()
			_, err = io.WriteString(chunks, "POST /api/send HTTP/1.1\r\nHost: im\r\nTransfer-Encoding: chunked\r\n\r\n")
			require.NoError(t, err)
			assert.Contains(t, closed(t, chunks, "1\r\nx\r\n"), "HTTP/1.1 408 ", "a body chunk by chunk")

			deaf := dial()
			_, err = io.WriteString(deaf, "GET /api/pull?chat=a:b HTTP/1.1\r\nHost: im\r\n\r\n")
			require.NoError(t, err)
			<-b.Pulls
			backendtest.Eventually(t, func() bool { return open(bound.connections) == 0 }) // an answer that is not read

			assert.Equal(t, 200, request(dial(), "GET /api/pull?chat=a:b HTTP/1.1\r\nHost: im\r\n\r\n").StatusCode, "there is room for large pages again")
		})
	}
}

func TestConnections_WhoWaitedLongMakesRoomForANewOne(t *testing.T) {
	for name, https := range both() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bound := wide()
			const most = 5
			bound.https, bound.connections = https, edge.NewConnections(most, time.Minute, time.Minute)
			base := serveBounded(t, panicking{}, bound)
			http.DefaultClient.CloseIdleConnections()
			backendtest.Eventually(t, func() bool { return open(bound.connections) == 0 })
			for range most {
				c, err := net.Dial("tcp", strings.Split(base, "//")[1])
				require.NoError(t, err)
				defer c.Close()
			}
			backendtest.Eventually(t, func() bool { return open(bound.connections) == most })
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			backendtest.Eventually(t, func() bool { // a second later
				resp, err := client.Get(base + "/ping")
				if err == nil {
					resp.Body.Close()
				}
				return err == nil
			})
			assert.LessOrEqual(t, open(bound.connections), most)
			assert.Greater(t, testutil.ToFloat64(bound.connections.Collectors()[0]), 1.0, "new ones before, and then an old one")
		})
	}
}
