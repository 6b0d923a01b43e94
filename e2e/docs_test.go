package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDocs_EveryLinkToAFileOrFolderLeadsThere(t *testing.T) {
	pages, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	more, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	links := 0
	for _, page := range append(pages, more...) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, err := url.PathUnescape(link[1])
			require.NoError(t, err, "%s: %s", page, link[1])
			_, err = os.Stat(filepath.Join(filepath.Dir(page), path))
			assert.NoError(t, err, page)
			links++
		}
	}
	assert.Greater(t, links, 50)
}
