package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/internal/etcd"
	"im/internal/settings"
)

// The tests of this file set environment variables, which are the whole
// process's: they do not run in parallel.

// variables are those that parseConfig reads.
var variables = []string{
	"LISTEN", "ADVERTISE", "ADMIN_LISTEN", "PPROF", "LOG_LEVEL", "MAX_TEXT_BYTES", "ETCD_ENDPOINTS",
	"ETCD_USERNAME", "ETCD_PASSWORD_FILE", "ETCD_TLS", "ETCD_TLS_CA_FILE", "ETCD_TLS_CERT_FILE", "ETCD_TLS_KEY_FILE",
	"REDIS_ADDRS", "REDIS_USERNAME", "REDIS_PASSWORD_FILE", "REDIS_TLS", "REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE", "REDIS_MASTER_NAME", "REDIS_SENTINEL_PASSWORD_FILE", "REDIS_REPLICAS", "REDIS_TIMEOUT", "REDIS_QUEUE", "MAX_IN_FLIGHT",
	"LEAVE_WAIT", "DRAIN_TIMEOUT", "GOGC",
}

// setenv sets these variables alone, as long as the test runs.
func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for _, name := range variables {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	for name, value := range env {
		require.Contains(t, variables, name)
		t.Setenv(name, value)
	}
}

func defaults() *config {
	return &config{
		Listen:       ":8888",
		Common:       settings.Common{AdminListen: "127.0.0.1:8889", GCPercent: 400, Command: "serve"},
		MaxTextBytes: 65536,
		Etcd:         etcd.Settings{Endpoints: []string{"localhost:2379"}},
		RedisAddrs:   []string{"localhost:6379"},
		RedisTimeout: 250 * time.Millisecond,
		RedisQueue:   2000,
		MaxInFlight:  1000,
		LeaveWait:    2 * time.Second,
		DrainTimeout: 5 * time.Second,
	}
}

func TestParseConfig_WithNothingSetWorksFromACheckout(t *testing.T) {
	setenv(t, nil)
	cfg, err := parseConfig(nil)
	require.NoError(t, err)
	assert.Equal(t, defaults(), &cfg)
}

func TestParseConfig_EachSettingIsAFlagAndAVariable(t *testing.T) {
	tests := map[string]struct {
		flag, variable, value string
		want                  func(*config)
	}{
		"listen":              {"--listen", "LISTEN", "127.0.0.1:1", func(c *config) { c.Listen = "127.0.0.1:1" }},
		"advertise":           {"--advertise", "ADVERTISE", "rpc:1", func(c *config) { c.Advertise = "rpc:1" }},
		"admin listen":        {"--admin-listen", "ADMIN_LISTEN", ":2", func(c *config) { c.AdminListen = ":2" }},
		"pprof":               {"--pprof", "PPROF", "true", func(c *config) { c.Pprof = true }},
		"log level":           {"--log-level", "LOG_LEVEL", "warn", func(c *config) { c.LogLevel = slog.LevelWarn }},
		"max text bytes":      {"--max-text-bytes", "MAX_TEXT_BYTES", "1", func(c *config) { c.MaxTextBytes = 1 }},
		"one etcd endpoint":   {"--etcd-endpoints", "ETCD_ENDPOINTS", "etcd:1", func(c *config) { c.Etcd.Endpoints = []string{"etcd:1"} }},
		"some etcd endpoints": {"--etcd-endpoints", "ETCD_ENDPOINTS", "a:1,b:2", func(c *config) { c.Etcd.Endpoints = []string{"a:1", "b:2"} }},
		"redis addrs":         {"--redis-addrs", "REDIS_ADDRS", "a:1,b:2", func(c *config) { c.RedisAddrs = []string{"a:1", "b:2"} }},
		"redis username":      {"--redis-username", "REDIS_USERNAME", "im", func(c *config) { c.RedisUsername = "im" }},
		"redis master name":   {"--redis-master-name", "REDIS_MASTER_NAME", "im", func(c *config) { c.RedisMasterName = "im" }},
		"redis replicas":      {"--redis-replicas", "REDIS_REPLICAS", "2", func(c *config) { c.RedisReplicas = 2 }},
		"redis tls":           {"--redis-tls", "REDIS_TLS", "true", func(c *config) { c.RedisTLS = true }},
		"redis tls ca":        {"--redis-tls-ca-file", "REDIS_TLS_CA_FILE", "/ca", func(c *config) { c.RedisTLSFiles.CAFile = "/ca" }},
		"redis tls cert":      {"--redis-tls-cert-file", "REDIS_TLS_CERT_FILE", "/c", func(c *config) { c.RedisTLSFiles.CertFile = "/c" }},
		"redis tls key":       {"--redis-tls-key-file", "REDIS_TLS_KEY_FILE", "/k", func(c *config) { c.RedisTLSFiles.KeyFile = "/k" }},
		"etcd username":       {"--etcd-username", "ETCD_USERNAME", "im", func(c *config) { c.Etcd.Username = "im" }},
		"etcd tls":            {"--etcd-tls", "ETCD_TLS", "true", func(c *config) { c.Etcd.TLS = true }},
		"etcd tls ca":         {"--etcd-tls-ca-file", "ETCD_TLS_CA_FILE", "/ca", func(c *config) { c.Etcd.TLSFiles.CAFile = "/ca" }},
		"etcd tls cert":       {"--etcd-tls-cert-file", "ETCD_TLS_CERT_FILE", "/c", func(c *config) { c.Etcd.TLSFiles.CertFile = "/c" }},
		"etcd tls key":        {"--etcd-tls-key-file", "ETCD_TLS_KEY_FILE", "/k", func(c *config) { c.Etcd.TLSFiles.KeyFile = "/k" }},
		"redis timeout":       {"--redis-timeout", "REDIS_TIMEOUT", "1m1s", func(c *config) { c.RedisTimeout = 61 * time.Second }},
		"redis queue":         {"--redis-queue", "REDIS_QUEUE", "2", func(c *config) { c.RedisQueue = 2 }},
		"max in flight":       {"--max-in-flight", "MAX_IN_FLIGHT", "1", func(c *config) { c.MaxInFlight = 1 }},
		"leave wait":          {"--leave-wait", "LEAVE_WAIT", "0s", func(c *config) { c.LeaveWait = 0 }},
		"drain timeout":       {"--drain-timeout", "DRAIN_TIMEOUT", "1ns", func(c *config) { c.DrainTimeout = 1 }},
		"gogc":                {"--gogc", "GOGC", "100", func(c *config) { c.GCPercent = 100 }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := defaults()
			test.want(want)

			setenv(t, nil)
			cfg, err := parseConfig([]string{test.flag + "=" + test.value})
			require.NoError(t, err)
			assert.Equal(t, want, &cfg, "the flag")

			setenv(t, map[string]string{test.variable: test.value})
			cfg, err = parseConfig(nil)
			require.NoError(t, err)
			assert.Equal(t, want, &cfg, "the variable")
		})
	}
}

func TestParseConfig_AFlagBeatsAVariable(t *testing.T) {
	setenv(t, map[string]string{"LISTEN": ":1"})
	cfg, err := parseConfig([]string{"--listen", ":2"})
	require.NoError(t, err)
	assert.Equal(t, ":2", cfg.Listen)
}

func TestParseConfig_AnEmptyVariableCountsAsUnset(t *testing.T) {
	setenv(t, nil)
	for _, name := range variables {
		t.Setenv(name, "")
	}
	cfg, err := parseConfig(nil)
	require.NoError(t, err)
	assert.Equal(t, defaults(), &cfg)
}

func TestParseConfig_KnowsItsCommands(t *testing.T) {
	setenv(t, nil)
	for command, args := range map[string][]string{
		"serve":       {"serve", "--listen", ":1"},
		"healthcheck": {"healthcheck", "--admin-listen", ":1"},
		"reindex":     {"reindex", "--redis-addrs", "localhost:1"},
	} {
		cfg, err := parseConfig(args)
		require.NoError(t, err)
		assert.Equal(t, command, cfg.Command)
	}
}

func TestParseConfig_NamesTheVariableThatIsWrong(t *testing.T) {
	for name, value := range map[string]string{
		"LOG_LEVEL":           "loud",
		"PPROF":               "perhaps",
		"MAX_TEXT_BYTES":      "64k",
		"REDIS_PASSWORD_FILE": filepath.Join(t.TempDir(), "missing"),
		"REDIS_REPLICAS":      "all",
		"REDIS_TLS":           "perhaps",
		"REDIS_TIMEOUT":       "250",
		"REDIS_QUEUE":         "many",
		"MAX_IN_FLIGHT":       "many",
		"LEAVE_WAIT":          "soon",
		"DRAIN_TIMEOUT":       "1 minute",
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, map[string]string{name: value})
			_, err := parseConfig(nil)
			require.ErrorContains(t, err, name)
			assert.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestParseConfig_NamesTheFlagThatIsWrong(t *testing.T) {
	setenv(t, nil)
	for arg, named := range map[string]string{
		"--log-level=loud":               "--log-level",
		"--max-text-bytes=64k":           "--max-text-bytes",
		"--redis-timeout=250":            "--redis-timeout",
		"--redis-queue=many":             "--redis-queue",
		"--leave-wait=soon":              "--leave-wait",
		"--drain-timeout=later":          "--drain-timeout",
		"--no-such-flag":                 "--no-such-flag",
		"no-such-command":                "no-such-command",
		"--redis-password-file=/no/file": "--redis-password-file",
	} {
		t.Run(named, func(t *testing.T) {
			_, err := parseConfig([]string{arg})
			require.ErrorContains(t, err, named)
			assert.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestParseConfig_NamesTheSettingThatIsOutOfRange(t *testing.T) {
	for name, values := range map[string][]string{
		"ADVERTISE":      {"rpc.example", "2001:db8::1", "http://rpc.example:80", ":8888", "rpc.example:", "rpc.example:port"},
		"REDIS_ADDRS":    {"redis", "redis:", ":6379", "a:1,b", "a:1, b:2", "redis://a:1", "2001:db8::1"},
		"MAX_TEXT_BYTES": {"0", "-1"},
		"REDIS_TIMEOUT":  {"0s", "-1s"},
		"REDIS_QUEUE":    {"0", "-1"},
		"REDIS_REPLICAS": {"-1"},
		"MAX_IN_FLIGHT":  {"0", "-1"},
		"DRAIN_TIMEOUT":  {"0s", "-1s"},
	} {
		for _, value := range values {
			t.Run(name+"="+value, func(t *testing.T) {
				setenv(t, map[string]string{name: value})
				_, err := parseConfig(nil)
				require.ErrorContains(t, err, name+": ")
			})
		}
	}
}

// redisOf is what a good config says of Redis.
func redisOf(t *testing.T, cfg config) redis.UniversalOptions {
	t.Helper()
	o, err := cfg.redis()
	require.NoError(t, err)
	return o
}

func TestParseConfig_ReadsThePasswordFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("from a file"), 0o600))

	setenv(t, nil)
	cfg, err := parseConfig([]string{"--redis-password-file", path})
	require.NoError(t, err)
	assert.Equal(t, "from a file", redisOf(t, cfg).Password, "the flag")

	setenv(t, map[string]string{"REDIS_PASSWORD_FILE": path})
	cfg, err = parseConfig(nil)
	require.NoError(t, err)
	assert.Equal(t, "from a file", redisOf(t, cfg).Password, "the variable")
}

func TestConfig_ThePasswordEndsBeforeTheNewline(t *testing.T) {
	for name, test := range map[string]struct{ file, password string }{
		"no newline":    {"secret", "secret"},
		"newline":       {"secret\n", "secret"},
		"of Windows":    {"secret\r\n", "secret"},
		"inner newline": {"sec\nret\n", "sec\nret"},
		"spaces stay":   {" secret \n", " secret "},
		"empty":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, []byte(test.file), 0o600))
			setenv(t, map[string]string{"REDIS_PASSWORD_FILE": path, "REDIS_SENTINEL_PASSWORD_FILE": path, "REDIS_MASTER_NAME": "im"})
			cfg, err := parseConfig(nil)
			require.NoError(t, err)
			assert.Equal(t, test.password, redisOf(t, cfg).Password)
			assert.Equal(t, test.password, redisOf(t, cfg).SentinelPassword)
		})
	}
	assert.Empty(t, redisOf(t, *defaults()).Password, "no file")
	assert.Empty(t, redisOf(t, *defaults()).SentinelPassword, "no file")
}

func TestConfig_RedisIsWhereTheSettingsSay(t *testing.T) {
	setenv(t, map[string]string{"REDIS_ADDRS": "a:1,b:2", "REDIS_USERNAME": "im"})
	cfg, err := parseConfig(nil)
	require.NoError(t, err)
	o := redisOf(t, cfg)
	assert.Equal(t, []string{"a:1", "b:2"}, o.Addrs)
	assert.Equal(t, "im", o.Username)
	assert.Empty(t, o.MasterName)
	assert.Nil(t, o.TLSConfig)

	cfg, err = parseConfig([]string{"--redis-master-name=chats"})
	require.NoError(t, err)
	assert.Equal(t, "chats", redisOf(t, cfg).MasterName)

	cfg, err = parseConfig([]string{"--redis-tls"})
	require.NoError(t, err)
	o = redisOf(t, cfg)
	require.NotNil(t, o.TLSConfig)
	assert.Nil(t, o.TLSConfig.RootCAs, "checked against the system's certificates")
	assert.False(t, o.TLSConfig.InsecureSkipVerify)
}

func TestConfig_SaysWhatIsInsecure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("secret"), 0o600))
	tests := map[string]struct {
		args []string
		want []string // words of each
	}{
		"within this machine": {[]string{"--listen=127.0.0.1:1", "--redis-addrs=localhost:1,[::1]:1", "--etcd-endpoints=http://127.0.0.2:1", "--pprof"}, nil},
		"all":                 {[]string{"--redis-addrs=127.0.0.1:1,redis:1", "--etcd-endpoints=etcd:1", "--pprof", "--admin-listen=:1"}, []string{"password nor", "ETCD_TLS", "REDIS_PASSWORD", "REDIS_TLS", "PPROF", "LISTEN"}},
		"as good as it gets": {[]string{"--redis-addrs=redis:1", "--etcd-endpoints=https://etcd:1", "--redis-tls", "--etcd-tls",
			"--redis-password-file=" + file, "--etcd-password-file=" + file, "--etcd-username=im"}, []string{"LISTEN"}},
		"a certificate for etcd": {[]string{"--listen=127.0.0.1:1", "--etcd-endpoints=etcd:1", "--etcd-tls", "--etcd-tls-cert-file=" + file}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			setenv(t, nil)
			cfg, err := parseConfig(test.args)
			require.NoError(t, err)
			said := cfg.insecure()
			require.Len(t, said, len(test.want), "%q", said)
			for _, words := range test.want {
				assert.True(t, slices.ContainsFunc(said, func(line string) bool { return strings.Contains(line, words) }), "%s in %q", words, said)
			}
		})
	}
}
