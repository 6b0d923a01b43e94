package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// command runs one of the binaries to its end and gives its status and output. One that
// does not end within half a minute is killed, and has the status -1.
func command(t *testing.T, env []string, name string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Env = append(cmd.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestStart_WrongSettingEndsTheProcessWithOneLineThatNamesIt(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	for _, test := range []struct{ server, set, named string }{
		{"http-server", "LISTEN=" + taken.Addr().String(), "LISTEN"},
		{"rpc-server", "LISTEN=" + taken.Addr().String(), "LISTEN"},
		{"http-server", "ADMIN_LISTEN=" + taken.Addr().String(), "ADMIN_LISTEN"},
		{"rpc-server", "ADMIN_LISTEN=nowhere", "ADMIN_LISTEN"},
		{"http-server", "REQUEST_TIMEOUT=soon", "REQUEST_TIMEOUT"},
		{"http-server", "LOG_LEVEL=loud", "LOG_LEVEL"},
		{"http-server", "MAX_BODY_BYTES=4096", "MAX_BODY_BYTES"},
		{"rpc-server", "REDIS_PASSWORD_FILE=/nowhere", "REDIS_PASSWORD_FILE"},
		{"rpc-server", "REDIS_TIMEOUT=0s", "REDIS_TIMEOUT"},
		{"http-server", "MAX_IN_FLIGHT=0", "MAX_IN_FLIGHT"},
		{"rpc-server", "MAX_IN_FLIGHT=-1", "MAX_IN_FLIGHT"},
		{"rpc-server", "ADVERTISE=here", "ADVERTISE"},
		{"http-server", "MAX_CONNECTIONS=0", "MAX_CONNECTIONS"},
		{"http-server", "READ_TIMEOUT=0s", "READ_TIMEOUT"},
		{"http-server", "MAX_BUFFER_BYTES=8000000", "MAX_BUFFER_BYTES"},
		{"http-server", "CORS_ORIGINS=example.com", "CORS_ORIGINS"},
		{"http-server", "CORS_ORIGINS=https://example.com/", "CORS_ORIGINS"},
		// Whatever is wrong with a file, there is no plain text instead.
		{"http-server", "TLS_CERT_FILE=/nowhere", "TLS_CERT_FILE"},
		{"http-server", "TLS_KEY_FILE=/nowhere", "TLS_CERT_FILE"},
		{"http-server", "TLS_KEY_FILE=/nowhere TLS_CERT_FILE=/nowhere", "TLS_CERT_FILE"},
		{"http-server", "TLS_KEY_FILE=main_test.go TLS_CERT_FILE=main_test.go", "TLS_CERT_FILE"},
		{"http-server", "ETCD_TLS_CA_FILE=/nowhere", "ETCD_TLS"},
		{"http-server", "ETCD_TLS=true ETCD_TLS_CA_FILE=/nowhere", "ETCD_TLS_CA_FILE"},
		{"rpc-server", "ETCD_TLS=true ETCD_TLS_CA_FILE=main_test.go", "ETCD_TLS_CA_FILE"},
		{"rpc-server", "ETCD_TLS=true ETCD_TLS_CERT_FILE=/nowhere", "ETCD_TLS_CERT_FILE"},
		{"rpc-server", "ETCD_USERNAME=im", "ETCD_USERNAME"},
		{"http-server", "ETCD_PASSWORD_FILE=main_test.go", "ETCD_USERNAME"},
		{"http-server", "ETCD_PASSWORD_FILE=/nowhere", "ETCD_PASSWORD_FILE"},
		{"rpc-server", "REDIS_TLS_CERT_FILE=/nowhere", "REDIS_TLS"},
		{"rpc-server", "REDIS_TLS=true REDIS_TLS_CA_FILE=/nowhere", "REDIS_TLS_CA_FILE"},
		{"rpc-server", "REDIS_TLS=true REDIS_TLS_KEY_FILE=/nowhere REDIS_TLS_CERT_FILE=/nowhere", "REDIS_TLS_CERT_FILE"},
	} {
		t.Run(test.server+" "+test.set, func(t *testing.T) {
			t.Parallel()
			env := append([]string{"LISTEN=127.0.0.1:0", "ADMIN_LISTEN=127.0.0.1:0", "LEAVE_WAIT=0s"}, strings.Fields(test.set)...)
			status, out := command(t, env, test.server)
			assert.Equal(t, 1, status, out)
			var errors []string
			for line := range strings.Lines(out) {
				var l struct{ Level, Msg string }
				require.NoError(t, json.Unmarshal([]byte(line), &l), line)
				if l.Level == "ERROR" {
					errors = append(errors, l.Msg)
				}
			}
			require.Len(t, errors, 1)
			assert.Contains(t, errors[0], test.named)
		})
	}
}

func TestStart_UnknownFlagEndsTheProcessWithStatusOne(t *testing.T) {
	for _, server := range []string{"http-server", "rpc-server"} {
		status, out := command(t, nil, server, "--lisen=:1")
		assert.Equal(t, 1, status)
		assert.Contains(t, out, "unknown flag --lisen")
	}
}

func TestHelp_ShowsEverySettingAndTheHealthcheck(t *testing.T) {
	for _, server := range []string{"http-server", "rpc-server"} {
		status, out := command(t, nil, server, "--help")
		assert.Zero(t, status)
		for _, want := range []string{"--listen", "$LISTEN", "--etcd-endpoints", "$ETCD_ENDPOINTS", "healthcheck"} {
			assert.Contains(t, out, want)
		}
	}
}

func TestHealthcheck_TellsWhetherTheServerIsReady(t *testing.T) {
	for server, p := range map[string]*stack.Process{"rpc-server": shared.RPCServers[0], "http-server": shared.Gateways[0]} {
		status, out := command(t, []string{"ADMIN_LISTEN=" + p.Admin}, server, "healthcheck")
		assert.Zero(t, status, out)
		status, out = command(t, []string{"ADMIN_LISTEN=127.0.0.1:1"}, server, "healthcheck")
		assert.Equal(t, 1, status)
		assert.Contains(t, out, "127.0.0.1:1")
	}
}

// TestStop_AGatewayTellsThatItLeavesAndServesOn stops a gateway: what asks for its
// health learns so at once, while requests are served, each the last of its
// connection, and then the process ends well.
func TestStop_AGatewayTellsThatItLeavesAndServesOn(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *stack.Options) { o.RPCServers = 1 })
	gateway := s.Gateways[0]
	chat, sender, _ := newChat(t)
	require.NoError(t, gateway.Signal(syscall.SIGTERM))
	eventually(t, func() bool { return stack.Ready(t.Context(), gateway.Admin) != nil }, "it is not ready")
	resp, err := client.Post(s.URL()+"/api/send", "application/json", strings.NewReader(`{"chat":"`+chat+`","text":"hello","sender":"`+sender+`"}`))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.True(t, resp.Close, "the connection is not to be used again")
	<-gateway.Done()
	assert.Zero(t, gateway.ExitCode())
}

func TestAdmin_ServesHealthAndProfilesOnlyWhenWanted(t *testing.T) {
	t.Parallel()
	status := func(admin, path string) int {
		resp, err := client.Get("http://" + admin + path)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	profiled := start(t, func(o *stack.Options) { o.RPCServers, o.Settings = 1, append(o.Settings, "PPROF=true") })
	for _, p := range append(profiled.RPCServers, profiled.Gateways...) {
		assert.Equal(t, http.StatusOK, status(p.Admin, "/healthz"))
		assert.Equal(t, http.StatusOK, status(p.Admin, "/debug/pprof/"))
	}
	for _, p := range append(shared.RPCServers, shared.Gateways...) {
		assert.Equal(t, http.StatusNotFound, status(p.Admin, "/debug/pprof/"))
	}
}

func TestRPCServer_SaysWhichRedisSettingsMayLoseMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	weak, err := stack.Redis(filepath.Join(dir, "weak"), filepath.Join(dir, "weak.log"), "--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru")
	require.NoError(t, err)
	require.NoError(t, weak.Start())
	t.Cleanup(func() { assert.NoError(t, weak.Stop()) })
	require.NoError(t, weak.Wait(t.Context()))

	o := options(dir)
	o.RedisAddrs, o.RPCServers = weak.Addr, 1
	s, err := stack.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	eventually(t, func() bool { return len(logged(t, s.RPCServers[0], `"level":"ERROR"`)) == 2 }, "an error for each setting")
	complaints := strings.Join(logged(t, s.RPCServers[0], `"level":"ERROR"`), "")
	assert.Contains(t, complaints, `appendfsync is \"everysec\", not \"always\"`)
	assert.Contains(t, complaints, `maxmemory-policy is \"allkeys-lru\", not \"noeviction\"`)
}

func TestLogs_AreJSON(t *testing.T) {
	for _, p := range append(shared.RPCServers, shared.Gateways...) {
		lines := logged(t, p, "")
		assert.NotEmpty(t, lines)
		for _, line := range lines {
			assert.True(t, json.Valid([]byte(line)), line)
		}
	}
}
