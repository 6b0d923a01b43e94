package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"im/e2e/stack"
)

// secured is a system in which everything that can be is encrypted, and asks who calls.
type secured struct {
	*stack.Stack
	authority *stack.Authority
	etcd      *clientv3.Client // of root
	secrets   map[string]string
	options   stack.Options
}

const (
	redisPassword = "the-password-of-redis"
	etcdPassword  = "the-password-of-etcd"
	tokenSecret   = "the-secret-that-tokens-are-signed-with"
)

func startSecured(t *testing.T) *secured {
	t.Helper()
	dir := t.TempDir()
	s := &secured{secrets: map[string]string{}}
	var err error
	s.authority, err = stack.NewAuthority(dir)
	require.NoError(t, err)
	files := map[string]string{}
	for _, name := range []string{"gateway", "redis", "etcd", "ours"} {
		cert, key, err := s.authority.Issue(name)
		require.NoError(t, err)
		files[name], files[name+" key"] = cert, key
	}
	secret := func(name, value string) string {
		s.secrets[name] = value
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		require.NoError(t, os.WriteFile(file, []byte(value+"\n"), 0o600))
		return file
	}
	ours, err := s.authority.Client("ours")
	require.NoError(t, err)
	s.Stack = start(t, func(o *stack.Options) {
		o.Topology, o.RPCServers = stack.Single, 1
		o.RedisTLS, o.RedisPassword = ours, redisPassword
		o.RedisArgs = []string{"--requirepass", redisPassword, "--tls-cert-file", files["redis"], "--tls-key-file", files["redis key"], "--tls-ca-cert-file", s.authority.CAFile}
		o.EtcdArgs = []string{"--cert-file=" + files["etcd"], "--key-file=" + files["etcd key"], "--trusted-ca-file=" + s.authority.CAFile}
		o.Settings = append(o.Settings,
			"TLS_CERT_FILE="+files["gateway"], "TLS_KEY_FILE="+files["gateway key"],
			"AUTH_HMAC_SECRET_FILE="+secret("token secret", tokenSecret),
			"REDIS_TLS=true", "REDIS_TLS_CA_FILE="+s.authority.CAFile, "REDIS_TLS_CERT_FILE="+files["ours"], "REDIS_TLS_KEY_FILE="+files["ours key"],
			"REDIS_PASSWORD_FILE="+secret("redis password", redisPassword),
			"ETCD_TLS=true", "ETCD_TLS_CA_FILE="+s.authority.CAFile, "ETCD_TLS_CERT_FILE="+files["ours"], "ETCD_TLS_KEY_FILE="+files["ours key"],
			"ETCD_USERNAME=im", "ETCD_PASSWORD_FILE="+secret("etcd password", etcdPassword),
		)
		s.options = *o
	})
	root, err := s.authority.Client("etcd")
	require.NoError(t, err)
	s.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{s.Etcd.Addr}, TLS: root, Username: "root", Password: etcdPassword, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { s.etcd.Close() })
	return s
}

// askForPasswords makes etcd do so: "im" may read and write what is the servers'.
func (s *secured) askForPasswords(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	_, err := s.etcd.RoleAdd(ctx, "servers")
	require.NoError(t, err)
	_, err = s.etcd.RoleGrantPermission(ctx, "servers", "kitex/registry-etcd/", clientv3.GetPrefixRangeEnd("kitex/registry-etcd/"), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	for user, role := range map[string]string{"im": "servers", "root": "root"} {
		_, err = s.etcd.UserAdd(ctx, user, etcdPassword)
		require.NoError(t, err)
		_, err = s.etcd.UserGrantRole(ctx, user, role)
		require.NoError(t, err)
	}
	_, err = s.etcd.AuthEnable(ctx)
	require.NoError(t, err)
}

// https is a client that trusts the authority.
func (s *secured) https(t *testing.T) *http.Client {
	t.Helper()
	config, err := s.authority.Client("")
	require.NoError(t, err)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func (s *secured) url() string { return "https://" + s.Gateways[0].Addr }

// as makes a request by which jack sends or, with no body, pulls.
func (s *secured) as(t *testing.T, authorization, body string) (*http.Response, string) {
	t.Helper()
	method, url := http.MethodGet, s.url()+"/api/pull?chat=jack:marcus"
	if body != "" {
		method, url = http.MethodPost, s.url()+"/api/send"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", authorization)
	resp, err := s.https(t).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(answer)
}

func tokenOf(t *testing.T, sub, secret string) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": sub, "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
	require.NoError(t, err)
	return token
}

const hello = `{"chat":"jack:marcus","text":"hello","sender":"jack"}`

func TestSecure_EverythingIsEncryptedAndAsksWhoCalls(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.askForPasswords(t)
	jack := tokenOf(t, "jack", tokenSecret)
	s.secrets["token"] = jack
	works := func(messages int) {
		t.Helper()
		resp, body := s.as(t, "Bearer "+jack, hello)
		require.Equal(t, http.StatusOK, resp.StatusCode, body)
		assert.Equal(t, "max-age=31536000", resp.Header.Get("Strict-Transport-Security"))
		_, body = s.as(t, "Bearer "+jack, "")
		assert.Equal(t, messages, strings.Count(body, `"text":"hello"`), body)
	}
	works(1)
	ready := func() {
		t.Helper()
		for _, p := range append(s.RPCServers, s.Gateways...) {
			eventually(t, func() bool {
				for _, part := range readyz(t, p).Parts {
					if !part.OK {
						return false
					}
				}
				return true
			}, p.Name+" has all its parts")
		}
	}
	ready() // each has been asked for its password

	t.Run("nobody gets in without", func(t *testing.T) {
		_, err := client.Get("http://" + s.Gateways[0].Addr + "/ping")
		assert.Error(t, err, "the gateway answers plain text")
		_, err = (&http.Client{Timeout: 10 * time.Second}).Get(s.url() + "/ping")
		assert.ErrorContains(t, err, "certificate", "another authority's clients")
		old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		_, err = tls.Dial("tcp", s.Gateways[0].Addr, old)
		assert.ErrorContains(t, err, "protocol version")

		ours, err := s.authority.Client("ours")
		require.NoError(t, err)
		nobody, err := s.authority.Client("")
		require.NoError(t, err)
		for what, o := range map[string]*redis.Options{
			"plain text":     {Password: redisPassword},
			"no certificate": {Password: redisPassword, TLSConfig: nobody},
			"no password":    {TLSConfig: ours},
		} {
			o.Addr, o.MaxRetries = s.Redis[0].Addr, -1
			c := redis.NewClient(o)
			assert.Error(t, c.Ping(t.Context()).Err(), "Redis takes "+what)
			c.Close()
		}
		for what, config := range map[string]clientv3.Config{
			"plain text":     {Username: "im", Password: etcdPassword},
			"no certificate": {Username: "im", Password: etcdPassword, TLS: nobody},
			"no password":    {TLS: ours},
		} {
			config.Endpoints, config.Logger, config.DialTimeout = []string{s.Etcd.Addr}, zap.NewNop(), time.Second
			assert.Error(t, reads(t, config), "etcd takes "+what)
		}
	})

	t.Run("a server that begins, and one whose etcd does", func(t *testing.T) {
		for _, p := range append(s.RPCServers, s.Gateways...) {
			require.NoError(t, p.Stop())
			require.NoError(t, p.Start())
		}
		for _, p := range append(s.RPCServers, s.Gateways...) {
			require.NoError(t, p.Wait(t.Context()))
		}
		works(2)
		s.Etcd.Kill() // it forgets the tokens that it gave
		require.NoError(t, s.Etcd.Start())
		require.NoError(t, s.Etcd.Wait(t.Context()))
		ready()
		works(3)
	})

	t.Run("a password that is wrong, or a certificate of somebody else", func(t *testing.T) {
		other, err := stack.NewAuthority(t.TempDir())
		require.NoError(t, err)
		wrong := filepath.Join(t.TempDir(), "wrong")
		require.NoError(t, os.WriteFile(wrong, []byte("wrong"), 0o600))
		for setting, part := range map[string]string{
			"REDIS_TLS_CA_FILE=" + other.CAFile: "redis", "REDIS_PASSWORD_FILE=" + wrong: "redis", "REDIS_TLS=": "redis",
			"ETCD_TLS_CA_FILE=" + other.CAFile: "etcd", "ETCD_PASSWORD_FILE=" + wrong: "etcd",
		} {
			env := []string{setting}
			if setting == "REDIS_TLS=" {
				env = append(env, "REDIS_TLS_CA_FILE=", "REDIS_TLS_CERT_FILE=", "REDIS_TLS_KEY_FILE=")
			}
			p := s.AddRPCServer()
			p.Setenv(env...)
			require.NoError(t, p.Start())
			eventually(t, func() bool {
				resp, err := client.Get("http://" + p.Admin + "/healthz")
				if err != nil {
					return false // it has only just begun
				}
				resp.Body.Close()
				return len(logged(t, p, `"`+part+` is down"`)) == 1
			}, setting+" is told")
			r := readyz(t, p)
			assert.False(t, r.Ready, setting)
			assert.False(t, r.Parts[part].OK, setting)
			require.NoError(t, p.Stop())
		}
	})

	t.Run("a certificate that changes", func(t *testing.T) {
		serial := func() string {
			config, err := s.authority.Client("")
			require.NoError(t, err)
			c, err := tls.Dial("tcp", s.Gateways[0].Addr, config)
			require.NoError(t, err)
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		before := serial()
		cert, _, err := s.authority.Issue("gateway")
		require.NoError(t, err)
		eventually(t, func() bool { return serial() != before }, "it is the new one")
		now := serial()
		require.NoError(t, os.WriteFile(cert, []byte("half a certifi"), 0o644))
		eventually(t, func() bool { serial(); return len(logged(t, s.Gateways[0], "the one before stays")) == 1 }, "it says so")
		assert.Equal(t, now, serial())
		works(4)
	})

	t.Run("no secret is shown", func(t *testing.T) {
		forged := tokenOf(t, "jack", "another-secret-of-more-than-32-bytes")
		var shown bytes.Buffer
		for _, authorization := range []string{"Bearer " + forged, "Bearer " + jack + "x", "Basic " + jack, "Bearer " + tokenOf(t, "bob", tokenSecret)} {
			for _, body := range []string{hello, ""} {
				resp, answer := s.as(t, authorization, body)
				assert.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, resp.StatusCode)
				shown.WriteString(answer)
				fmt.Fprintln(&shown, resp.Header)
			}
		}
		for _, server := range []string{"http-server", "rpc-server"} {
			_, help := command(t, s.options.Settings, server, "--help")
			shown.WriteString(help)
		}
		for _, p := range append(s.RPCServers, s.Gateways...) {
			for _, path := range []string{"/readyz", "/metrics", "/healthz"} {
				if resp, err := client.Get("http://" + p.Admin + path); err == nil { // not the ones that were stopped
					io.Copy(&shown, resp.Body)
					resp.Body.Close()
				}
			}
			log, err := os.ReadFile(p.Log)
			require.NoError(t, err)
			shown.Write(log)
		}
		s.secrets["forged token"] = forged
		for what, secret := range s.secrets {
			assert.NotContains(t, shown.String(), secret, "the "+what)
		}
		assert.Contains(t, shown.String(), `"answered"`, "the logs are those of debug level")
	})
}

// reads tells whether etcd gives the servers' addresses to a client.
func reads(t *testing.T, config clientv3.Config) error {
	t.Helper()
	c, err := clientv3.New(config)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = c.Get(ctx, "kitex/registry-etcd/", clientv3.WithPrefix())
	return err
}
