package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSupply_ImagesHaveNothingButTheServer reads the Dockerfiles: the image that is left
// is made from nothing, and so has no shell.
func TestSupply_ImagesHaveNothingButTheServer(t *testing.T) {
	for _, server := range []string{"http-server", "rpc-server"} {
		text, err := os.ReadFile("../../" + server + "/Dockerfile")
		require.NoError(t, err)
		froms := regexp.MustCompile(`(?m)^FROM (.+)$`).FindAllStringSubmatch(string(text), -1)
		require.Len(t, froms, 2)
		assert.Equal(t, "scratch", froms[1][1], server)
	}
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
