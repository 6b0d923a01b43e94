package tracing

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStart_IsOnWhereTheVariablesSaySo(t *testing.T) {
	const endpoint, tracesEndpoint = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for name, test := range map[string]struct {
		variables map[string]string
		on        bool
	}{
		"none":                       {nil, false},
		"an endpoint":                {map[string]string{endpoint: "http://127.0.0.1:1"}, true},
		"an endpoint of traces":      {map[string]string{tracesEndpoint: "http://127.0.0.1:1/v1/traces"}, true},
		"the exporter of OTLP":       {map[string]string{endpoint: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "otlp"}, true},
		"no exporter":                {map[string]string{endpoint: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, false},
		"switched off":               {map[string]string{endpoint: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, false},
		"switched off in upper case": {map[string]string{endpoint: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"}, false},
		"not switched off":           {map[string]string{endpoint: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "false"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{endpoint, tracesEndpoint, "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"} {
				t.Setenv(variable, test.variables[variable])
			}
			on, end, err := Start(t.Context(), "test")
			require.NoError(t, err)
			defer end()
			assert.Equal(t, test.on, on)
		})
	}
}
