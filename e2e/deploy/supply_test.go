package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSupply_ImagesHaveNothingButTheServer reads the Dockerfile: the images that are left
// are made from nothing, and so have no shell.
func TestSupply_ImagesHaveNothingButTheServer(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	froms := regexp.MustCompile(`(?m)^FROM (.+)$`).FindAllStringSubmatch(string(text), -1)
	require.Len(t, froms, 4)
	assert.Equal(t, "scratch AS server", froms[1][1])
	for i, server := range []string{"http-server", "rpc-server"} {
		assert.Equal(t, "server AS "+server, froms[2+i][1])
	}
}

// TestSupply_ImagesAreBuiltWithTheProfile reads the Dockerfile: what is shipped is what is
// measured.
func TestSupply_ImagesAreBuiltWithTheProfile(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^RUN .*\bgo build .* -pgo=default\.pgo .* \./http-server \./rpc-server$`, string(text))
}

// TestSupply_ABuildSeesNothingButWhatTheServersAreMadeOf reads .dockerignore: it leaves
// out all but what it names, since .data holds messages.
func TestSupply_ABuildSeesNothingButWhatTheServersAreMadeOf(t *testing.T) {
	text, err := os.ReadFile("../../.dockerignore")
	require.NoError(t, err)
	rules := regexp.MustCompile(`(?m)^[^#\s].*$`).FindAllString(string(text), -1)
	require.NotEmpty(t, rules)
	assert.Equal(t, "*", rules[0])
	var let []string
	for _, rule := range rules {
		if name, found := strings.CutPrefix(rule, "!"); found {
			let = append(let, name)
		}
	}
	assert.ElementsMatch(t, []string{"go.mod", "go.sum", "default.pgo", "docs.go", "README.md", "docs/im.postman_collection.json", "http-server", "rpc-server", "internal"}, let)
}

// TestSupply_EachModuleIsKeptUpToDate reads dependabot.yml.
func TestSupply_EachModuleIsKeptUpToDate(t *testing.T) {
	var modules []string
	for _, pattern := range []string{"go.mod", "*/go.mod", "tools/*/go.mod"} {
		files, err := filepath.Glob("../../" + pattern)
		require.NoError(t, err)
		for _, file := range files {
			folder, err := filepath.Rel("../..", filepath.Dir(file))
			require.NoError(t, err)
			modules = append(modules, strings.TrimSuffix("/"+folder, "."))
		}
	}
	assert.Greater(t, len(modules), 8)
	text, err := os.ReadFile("../../.github/dependabot.yml")
	require.NoError(t, err)
	_, list, found := strings.Cut(string(text), "directories:\n")
	require.True(t, found)
	list, _, _ = strings.Cut(list, "schedule:")
	assert.ElementsMatch(t, modules, regexp.MustCompile(`/\S*`).FindAllString(list, -1))
}

// TestSupply_ActionsArePinnedByHash reads the workflows: a tag could be moved to other
// code.
func TestSupply_ActionsArePinnedByHash(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		uses := regexp.MustCompile(`(?m)^\s*(?:- )?uses: (.+)$`).FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, uses, file)
		for _, action := range uses {
			assert.Regexp(t, `^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`, action[1], file)
		}
	}
}
