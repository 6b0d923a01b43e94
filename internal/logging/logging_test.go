package logging

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLog_LinesOfTheFrameworksKeepTheirLevel(t *testing.T) {
	for _, test := range []struct{ level, text, want string }{
		{"Info", "all is well", "INFO"},
		{"Notice", "something changed", "INFO"},
		{"Warn", "this is odd", "WARN"},
		{"Error", "this is [really] wrong", "ERROR"},
	} {
		var log bytes.Buffer
		To(&log)
		Framework.Write([]byte("2026/01/02 03:04:05.678901 file.go:9: [" + test.level + "] " + test.text + "\n"))
		var line struct{ Level, Msg string }
		require.NoError(t, json.Unmarshal(log.Bytes(), &line), test.text)
		assert.Equal(t, test.want, line.Level, test.text)
		assert.Equal(t, test.text, line.Msg)
	}
}
