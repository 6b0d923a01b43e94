package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// servers are in the order of docs/settings.md.
var servers = []string{"http-server", "rpc-server"}

// settingsTables returns what make generate writes of docs/settings.md.
func settingsTables(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/settings.md")
	require.NoError(t, err)
	_, tables, found := strings.Cut(string(page), "\n## ")
	require.True(t, found)
	return "## " + tables
}

func TestSettings_PageHasWhatTheServersPrint(t *testing.T) {
	var printed []string
	for _, server := range servers {
		status, section := command(t, nil, server, "settings")
		require.Zero(t, status, section)
		printed = append(printed, section)
	}
	assert.Equal(t, strings.Join(printed, "\n"), settingsTables(t), "run make generate")
}

// setting is a setting as --help or docs/settings.md has it.
type setting struct{ name, fallback string }

// settingsOf are those that --help shows.
func settingsOf(t *testing.T, server string) []setting {
	t.Helper()
	status, help := command(t, nil, server, "--help")
	require.Zero(t, status)
	help = strings.Join(strings.Fields(help), " ")
	var all []setting
	for _, flag := range regexp.MustCompile(`--(\[no-\])?[a-z-]+(?:=(\S+))? (?:[^$-]|-[^-])*?\(\$([A-Z_]+)\)`).FindAllStringSubmatch(help, -1) {
		fallback := strings.Trim(flag[2], `",.`)
		if strings.ToUpper(fallback) == fallback && !strings.ContainsAny(fallback, "0123456789") {
			fallback = "" // a placeholder
		}
		if flag[1] != "" {
			fallback = "true" // a switch that is on
		}
		all = append(all, setting{flag[3], fallback})
	}
	return all
}

// TestSettings_PageHasEverySettingWithItsDefault compares the page with --help, which kong
// writes.
func TestSettings_PageHasEverySettingWithItsDefault(t *testing.T) {
	for _, server := range servers {
		_, table, found := strings.Cut(settingsTables(t), "## "+server+"\n")
		require.True(t, found)
		table, _, _ = strings.Cut(table, "\n## ")
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
