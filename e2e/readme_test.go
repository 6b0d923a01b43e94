package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readme gives the part of the README below a heading.
func readme(t *testing.T, heading string) string {
	t.Helper()
	return section(t, "../README.md", heading)
}

// section gives the part of a page below a heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	_, part, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.True(t, found, heading)
	part, _, _ = strings.Cut(part, "\n## ")
	return part
}

func TestReadme_CurlLinesGiveTheAnswersBesideThem(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	sendTime := regexp.MustCompile(`"send_time":\d+`)
	var answer string
	var ran, compared int
	for _, block := range regexp.MustCompile("(?s)```(sh|json)\n(.*?)```").FindAllStringSubmatch(readme(t, "API"), -1) {
		switch language, text := block[1], block[2]; language {
		case "json":
			want, got := sendTime.ReplaceAllString(strings.TrimSpace(text), `"send_time":0`), sendTime.ReplaceAllString(answer, `"send_time":0`)
			assert.Equal(t, want, got)
			compared++
		case "sh":
			for line := range strings.Lines(text) {
				out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer("curl ", "curl -sS ", "localhost:8080", s.Gateways[0].Addr).Replace(line)).CombinedOutput()
				require.NoError(t, err, "%s: %s", line, out)
				answer = string(out)
				ran++
			}
		}
	}
	assert.Equal(t, 11, ran)
	assert.Equal(t, 3, compared)
	assert.Len(t, pullAll(t, s.URL(), "jack:marcus"), 2, "hello, and what was sent twice with one key")
}

// TestReadme_ProtobufLinesGiveThePage runs the one block of the API part that needs protoc.
func TestReadme_ProtobufLinesGiveThePage(t *testing.T) {
	if _, err := exec.LookPath("protoc"); err != nil {
		t.Skip("protoc is not installed")
	}
	t.Parallel()
	s := start(t, nil)
	send(t, s.URL(), "jack:marcus", "hello", "jack")
	blocks := regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(readme(t, "API"), -1)
	require.Len(t, blocks, 1)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer("curl ", "curl -sS ", "localhost:8080", s.Gateways[0].Addr).Replace(blocks[0][1]))
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	sendTime := regexp.MustCompile(`send_time: \d+`)
	assert.Equal(t, "messages {\n  chat: \"jack:marcus\"\n  text: \"hello\"\n  sender: \"jack\"\n  send_time: 0\n}\nnext_cursor: 1\ntotal: 1\n", sendTime.ReplaceAllString(string(out), "send_time: 0"))
}

// TestSecurity_EachRowOfTheThreatModelNamesATestThatExists reads SECURITY.md.
func TestSecurity_EachRowOfTheThreatModelNamesATestThatExists(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "|---|---|---|---|\n")
	require.True(t, found)
	var tests strings.Builder
	for _, folder := range []string{".", "deploy", "../http-server/gateway", "../http-server/backend", "../http-server/edge", "../rpc-server/chat", "../internal/member"} {
		files, err := filepath.Glob(folder + "/*_test.go")
		require.NoError(t, err)
		for _, file := range files {
			code, err := os.ReadFile(file)
			require.NoError(t, err)
			tests.Write(code)
		}
	}
	rows := strings.Split(strings.TrimSpace(table), "\n")
	assert.Greater(t, len(rows), 15)
	for _, row := range rows {
		cells := strings.Split(row, "|")
		require.Len(t, cells, 6, row)
		for name := range strings.SplitSeq(cells[4], ",") {
			assert.Contains(t, tests.String(), "\nfunc "+strings.TrimSpace(name)+"(t *testing.T) {\n", row)
		}
	}
}
