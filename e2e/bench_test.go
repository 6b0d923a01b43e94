package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBench runs make bench's program for some seconds, with the shortest rounds. Its figures
// mean nothing here.
func TestBench(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "bench")
	out, err := exec.Command("go", "build", "-o", program, "./cmd/bench").CombinedOutput()
	require.NoError(t, err, "%s", out)
	bench := func(t *testing.T, args ...string) string {
		settings := "LOG_LEVEL=info,REQUEST_TIMEOUT=9s,REDIS_TIMEOUT=2500ms" // for a busy machine
		args = append(args, "--bin="+bin, "--rounds=1", "--duration=1s", "--settings="+settings)
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	t.Run("MeasuresEveryLoad", func(t *testing.T) {
		results := filepath.Join(dir, "benchmarks.md")
		bench(t, "--long=2000", "--many=100", "--waiting=50,60", "--listed=5,20", "--out="+results)
		text, err := os.ReadFile(results)
		require.NoError(t, err)
		for _, load := range []string{"floor", "send", "pull of ten", "one send to four pulls"} {
			assert.Regexp(t, `(?m)^\| `+load+` \| [1-9]\d* \|`, string(text))
		}
		assert.Regexp(t, `(?m)^\| send \| \d+ \| 100\.00 % \|`, string(text), "open loop")
		assert.Contains(t, string(text), "redis")
		for _, store := range []string{"one Redis", "a Redis Cluster", "a Redis Cluster, one replica waited for"} {
			assert.Regexp(t, `(?m)^\| send \| `+store+` \| [1-9]\d* \|`, string(text))
			assert.Regexp(t, `(?m)^\| pull of ten \| `+store+` \| [1-9]\d* \|`, string(text))
		}
		for _, grown := range []string{"append-only file", "pull of ten in the middle", "one hot chat", "pages", "pages of 4 MiB", "number of rpc-servers"} {
			assert.Regexp(t, `(?m)^\|.*`+grown+`.*\| [0-9.]+ \|`, string(text))
		}
		assert.Regexp(t, `(?m)^\| plain text \| 60 \| [0-9.]+ %`, string(text))
		assert.Regexp(t, `(?m)^\| TLS \| 50 \| [0-9.]+ %`, string(text))
		assert.Regexp(t, `(?m)^\| 20 \| [0-9.]+ \|`, string(text), "lists of chats")
		assert.Regexp(t, `each of four more messages takes [1-9]`, string(text))
	})
	t.Run("WritesTheProfileOfBothServers", func(t *testing.T) {
		bench(t, "--pgo")
		out, err := exec.Command("go", "tool", "pprof", "-top", "-trim=false", filepath.Join(dir, "default.pgo")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, pkg := range []string{"im/http-server/", "im/rpc-server/"} {
			assert.Contains(t, string(out), pkg)
		}
	})
	t.Run("ComparesTwoVersions", func(t *testing.T) {
		text := bench(t, "--base-bin="+bin, "--only=^send, open loop$")
		assert.Regexp(t, `(?m)^\| send, open loop \| [1-9]\d* → [1-9]\d* \| \d+\.\d\d \|.* http-server [0-9.]+ → [0-9.]+, `, text)
		assert.NotContains(t, text, "pull of ten", "only what is asked for")
	})
}
