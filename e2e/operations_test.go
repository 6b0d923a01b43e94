package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// procedures returns the commands below a heading of docs/operations.md, a string for each
// block.
func procedures(t *testing.T, heading string) (blocks []string) {
	t.Helper()
	part := section(t, "../docs/operations.md", heading)
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(part, -1) {
		blocks = append(blocks, block[1])
	}
	return blocks
}

// follow runs a procedure as it is written, in the folder of a Redis.
func follow(t *testing.T, procedure, dir, redis string) {
	t.Helper()
	_, port, err := net.SplitHostPort(redis)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", strings.ReplaceAll(procedure, "redis-cli", "redis-cli -e -p "+port))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", procedure, out)
}

// operated returns a Redis whose configuration file has these lines, and a system that uses
// it.
func operated(t *testing.T, lines string) (redis *stack.Process, dir string, s *stack.Stack) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "redis.conf"), []byte("bind 127.0.0.1\ndir "+dir+"\n"+lines), 0o644))
	redis = stack.Program("redis", filepath.Join(dir, "redis.log"), "sh", "-c", "exec redis-server "+dir+`/redis.conf --port "${0##*:}"`)
	require.NoError(t, redis.Start())
	t.Cleanup(redis.Kill)
	require.NoError(t, redis.Wait(t.Context()))
	o := options(t.TempDir())
	o.RedisAddrs, o.RPCServers = redis.Addr, 1
	s, err := stack.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	return redis, dir, s
}

func TestOperations_ARedisWithSnapshotsIsMadeDurableAndLosesNothing(t *testing.T) {
	t.Parallel()
	redis, dir, s := operated(t, "appendonly no\nsave 3600 1\n")
	send(t, s.URL(), "jack:marcus", "before", "jack")
	weak := func() int { return len(logged(t, s.RPCServers[0], "redis may lose acknowledged messages")) }
	eventually(t, func() bool { return weak() > 0 }, "rpc-server says so")

	blocks := procedures(t, "Make Redis durable")
	require.Len(t, blocks, 1)
	follow(t, blocks[0], dir, redis.Addr)
	eventually(t, func() bool { return readyz(t, s.RPCServers[0]).Parts["durability"].OK }, "it is durable")
	send(t, s.URL(), "jack:marcus", "after", "jack")
	redis.Kill()
	require.NoError(t, redis.Start())
	require.NoError(t, redis.Wait(t.Context()))
	eventually(t, func() bool { return readyz(t, s.RPCServers[0]).Ready }, "Redis is back")
	assert.Len(t, pullAll(t, s.URL(), "jack:marcus"), 2)
	control := goredis.NewClient(&goredis.Options{Addr: redis.Addr})
	defer control.Close()
	for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no", "maxmemory-policy": "noeviction"} {
		got, err := control.ConfigGet(t.Context(), name).Result()
		require.NoError(t, err)
		assert.Equal(t, want, got[name], "its file has the setting")
	}
}

func TestOperations_ABackupIsRestored(t *testing.T) {
	t.Parallel()
	redis, dir, s := operated(t, "appendonly yes\nappendfsync always\nno-appendfsync-on-rewrite no\nmaxmemory-policy noeviction\nsave \"\"\n")
	blocks := procedures(t, "Backup and restore")
	require.Len(t, blocks, 2)
	backup, restore := blocks[0], blocks[1]

	follow(t, backup, dir, redis.Addr) // of nothing yet
	require.NoError(t, os.Rename(filepath.Join(dir, "backup"), filepath.Join(dir, "older")))
	send(t, s.URL(), "jack:marcus", "kept", "jack")
	follow(t, backup, dir, redis.Addr)
	send(t, s.URL(), "jack:marcus", "later", "jack")
	require.NoError(t, redis.Stop())
	follow(t, restore, dir, redis.Addr)
	require.NoError(t, redis.Start())
	require.NoError(t, redis.Wait(t.Context()))
	eventually(t, func() bool { return readyz(t, s.RPCServers[0]).Ready }, "Redis is back")
	p := pull(t, s.URL(), "jack:marcus", "&cursor=2")
	assert.Equal(t, int64(1), p.Total, "below the cursor: the chat went back")
	assert.Len(t, pullAll(t, s.URL(), "jack:marcus"), 1)
}
