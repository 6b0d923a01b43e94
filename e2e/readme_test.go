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
	text, err := os.ReadFile("../README.md")
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
	assert.Equal(t, 7, ran)
	assert.Equal(t, 2, compared)
	assert.Len(t, pullAll(t, s.URL(), "jack:marcus"), 2, "hello, and what was sent twice with one key")
}

// setting is a setting as --help or the README has it.
type setting struct{ name, fallback string }

// settingsOf are those that --help shows.
func settingsOf(t *testing.T, server string) []setting {
	t.Helper()
	status, help := command(t, nil, server, "--help")
	require.Zero(t, status)
	help = strings.Join(strings.Fields(help), " ")
	var all []setting
	for _, flag := range regexp.MustCompile(`--[a-z-]+(?:=(\S+))? (?:[^$-]|-[^-])*?\(\$([A-Z_]+)\)`).FindAllStringSubmatch(help, -1) {
		fallback := strings.Trim(flag[1], `",.`)
		if strings.ToUpper(fallback) == fallback && !strings.ContainsAny(fallback, "0123456789") {
			fallback = "" // a placeholder
		}
		all = append(all, setting{flag[2], fallback})
	}
	return all
}

func TestReadme_ListsEverySettingWithItsDefault(t *testing.T) {
	tables := readme(t, "Settings")
	for _, server := range []string{"http-server", "rpc-server"} {
		_, table, found := strings.Cut(tables, "| "+server+" |")
		require.True(t, found)
		table, _, _ = strings.Cut(table, "\n\n")
		var listed []setting
		for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| (?:`(.*?)`)? *\\|").FindAllStringSubmatch(table, -1) {
			fallback := row[2]
			if fallback == "false" {
				fallback = "" // --help shows none for a switch
			}
			listed = append(listed, setting{row[1], fallback})
		}
		assert.NotEmpty(t, listed)
		assert.ElementsMatch(t, settingsOf(t, server), listed, server)
	}
}

func TestSettings_SharedNamesMeanTheSame(t *testing.T) {
	ofGateway := map[string]string{}
	for _, s := range settingsOf(t, "http-server") {
		ofGateway[s.name] = s.fallback
	}
	var shared []string
	for _, s := range settingsOf(t, "rpc-server") {
		fallback, both := ofGateway[s.name]
		if both && !strings.HasSuffix(s.name, "LISTEN") { // each has an address of its own
			assert.Equal(t, fallback, s.fallback, s.name)
			shared = append(shared, s.name)
		}
	}
	assert.ElementsMatch(t, []string{"PPROF", "LOG_LEVEL", "MAX_TEXT_BYTES", "ETCD_ENDPOINTS", "ETCD_USERNAME", "ETCD_PASSWORD_FILE", "ETCD_TLS", "ETCD_TLS_CA_FILE", "ETCD_TLS_CERT_FILE", "ETCD_TLS_KEY_FILE", "MAX_IN_FLIGHT", "LEAVE_WAIT", "DRAIN_TIMEOUT", "GOGC"}, shared)
}

// TestSecurity_EachRowOfTheThreatModelNamesATestThatExists reads SECURITY.md.
func TestSecurity_EachRowOfTheThreatModelNamesATestThatExists(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "|---|---|---|---|\n")
	require.True(t, found)
	var tests strings.Builder
	for _, folder := range []string{".", "deploy", "../http-server/gateway", "../http-server/backend", "../http-server/edge", "../rpc-server/chat"} {
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
