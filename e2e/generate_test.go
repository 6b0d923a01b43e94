package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// generated are the folders that make generate writes.
var generated = []string{"internal/gen", "e2e/thrift_gen"}

// protocVersion is the one line of generated code that tells of the machine.
var protocVersion = regexp.MustCompile(`(?m)^//\s+protoc\s+v.*\n`)

func TestGenerate_CommittedCodeIsWhatTheIDLsGive(t *testing.T) {
	for _, tool := range []string{"protoc", "thrift"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	version, err := exec.Command("thrift", "-version").Output()
	require.NoError(t, err)
	header, err := os.ReadFile("thrift_gen/rpc/idl_rpc.go")
	require.NoError(t, err)
	number := strings.TrimPrefix(strings.TrimSpace(string(version)), "Thrift version ")
	if !strings.Contains(string(header), "("+number+")") {
		t.Skip("thrift is version " + number + ", whose code is another")
	}

	copied := t.TempDir()
	for _, path := range []string{"Makefile", "idl_http.proto", "idl_rpc.thrift", "tools", "go.mod"} {
		from, to := filepath.Join("..", path), filepath.Join(copied, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		if info, err := os.Stat(from); err == nil && info.IsDir() {
			require.NoError(t, os.CopyFS(to, os.DirFS(from)))
			continue
		}
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, text, 0o644))
	}
	generate := exec.CommandContext(t.Context(), "make", "-C", copied, "generate/code")
	out, err := generate.CombinedOutput()
	require.NoError(t, err, "%s", out)

	for _, dir := range generated {
		want, got := sources(t, filepath.Join(copied, dir)), sources(t, filepath.Join("..", dir))
		assert.NotEmpty(t, want)
		for file := range want {
			assert.Equal(t, want[file], got[file], "%s/%s: run make generate", dir, file)
		}
		assert.Len(t, got, len(want), "%s has files that nothing generates", dir)
	}
}

// sources are the files below dir, without the line that tells of the machine.
func sources(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = protocVersion.ReplaceAllString(string(text), "")
		return err
	}))
	return files
}
