package stack

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBuildServers_BuildsBothLayoutsWithTheirProfiles builds programs that do nothing in
// the places of the servers: in one module or, as in older revisions, in one each.
func TestBuildServers_BuildsBothLayoutsWithTheirProfiles(t *testing.T) {
	profile, err := os.ReadFile("../../default.pgo")
	require.NoError(t, err)
	for name, profileOf := range map[string]map[string]string{
		"one module":    {"http-server": ".", "rpc-server": "."},
		"a module each": {"http-server": "http-server", "rpc-server": "rpc-server"},
	} {
		t.Run(name, func(t *testing.T) {
			root, bin := t.TempDir(), filepath.Join(t.TempDir(), "bin")
			for server, module := range profileOf {
				require.NoError(t, os.MkdirAll(filepath.Join(root, server), 0o755))
				for path, text := range map[string]string{
					filepath.Join(server, "main.go"):     "package main\n\nfunc main() {}\n",
					filepath.Join(module, "go.mod"):      "module im\n",
					filepath.Join(module, "default.pgo"): string(profile),
				} {
					require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o644))
				}
			}
			var told []string
			require.NoError(t, buildServers(t.Context(), root, bin, Shipped, func(what string) { told = append(told, what) }))
			assert.NotEmpty(t, told)
			for server, module := range profileOf {
				info, err := buildinfo.ReadFile(filepath.Join(bin, server))
				require.NoError(t, err)
				assert.Contains(t, info.Settings, debug.BuildSetting{Key: "-pgo", Value: filepath.Join(root, module, "default.pgo")})
			}

			require.NoError(t, os.WriteFile(filepath.Join(root, "http-server", "main.go"), []byte("package main\n\nfunc main() { nothing() }\n"), 0o644))
			err := buildServers(t.Context(), root, bin, Shipped, func(string) {})
			assert.ErrorContains(t, err, "undefined: nothing")
		})
	}
}
