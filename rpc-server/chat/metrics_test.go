package chat

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gathered gives a metric of the store by its name and the value of its label;
// "" is one without labels.
func (s rig) gathered(t *testing.T, name, label string) *dto.Metric {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collectors()...)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				return m
			}
		}
	}
	require.Fail(t, "no such metric", "%s of %q", name, label)
	return nil
}

func TestCollectors_CountRoundTripsAndWhatSharesThem(t *testing.T) {
	server := miniredis.RunT(t)
	s := newRig(t, server.Addr(), patience)
	chat := newChat()
	for range 3 {
		s.append(t, newMessage(t, chat, "ann", "hello"))
	}
	s.pull(t, chat, 10, false)

	batches := s.gathered(t, "redis_batch_commands", "").Histogram
	assert.GreaterOrEqual(t, batches.GetSampleSum(), 3.0, "three sends and the script")
	assert.Less(t, batches.GetSampleCount(), s.gathered(t, "redis_round_trip_duration_seconds", "sends").Histogram.GetSampleCount(), "those to inboxes have no send")
	assert.NotZero(t, s.gathered(t, "redis_round_trip_duration_seconds", "pulls").Histogram.GetSampleCount())
	assert.Zero(t, s.gathered(t, "redis_queue_commands", "").Gauge.GetValue())
	assert.NotZero(t, s.gathered(t, "redis_pool_connections", "pulls").Gauge.GetValue())

	server.Close()
	s.requireUnavailable(t, chat)
	assert.NotZero(t, s.gathered(t, "redis_round_trip_failures_total", "sends").Counter.GetValue())
	assert.NotZero(t, s.gathered(t, "redis_round_trip_failures_total", "pulls").Counter.GetValue())
}
