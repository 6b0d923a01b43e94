package chat

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// metrics are those of a store. A client is "sends" or "pulls".
type metrics struct {
	duration *prometheus.HistogramVec // by client
	failures *prometheus.CounterVec   // by client
	batch    prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "redis_round_trip_duration_seconds", Help: "Time of a round trip to Redis.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 13),
		}, []string{"client"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "redis_round_trip_failures_total", Help: "Round trips to Redis that ended with an error of the connection or of a command.",
		}, []string{"client"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "redis_batch_commands", Help: "Sends that share a round trip, and so one flush to disk.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
	}
	for _, client := range []string{"sends", "pulls"} { // so that a rate has a 0 to begin with
		m.duration.WithLabelValues(client)
		m.failures.WithLabelValues(client)
	}
	return m
}

// Collectors are the metrics of the store.
func (s *Store) Collectors() []prometheus.Collector {
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "redis_queue_commands", Help: "Messages that wait for Redis or its replicas."},
		func() float64 { return float64(s.appends.waiting.Load()) })
	return []prometheus.Collector{s.metrics.duration, s.metrics.failures, s.metrics.batch, waiting, pools{s}}
}

// hook is told of each round trip of a client.
type hook func(ctx context.Context, began time.Time, cmds []redis.Cmder, err error)

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmd)
		h(ctx, began, []redis.Cmder{cmd}, err)
		return err
	}
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmds)
		h(ctx, began, cmds, err)
		return err
	}
}

// observe counts a round trip of a client. Those of greetings, health checks and the like
// do not count.
func (m *metrics) observe(client string, began time.Time, cmds []redis.Cmder, err error) {
	scripts, sends := 0, 0
	for _, cmd := range cmds {
		if strings.HasPrefix(cmd.Name(), "eval") {
			scripts++
			if name := cmd.Args()[1]; name == appendScript.hash || name == appendScript.source {
				sends++
			}
		}
	}
	if scripts == 0 {
		return
	}
	m.duration.WithLabelValues(client).Observe(time.Since(began).Seconds())
	if sends > 0 {
		m.batch.Observe(float64(sends))
	}
	for _, usual := range []string{"NOSCRIPT", "MOVED", "ASK"} { // by which a command finds its way
		if redis.HasErrorPrefix(err, usual) {
			return
		}
	}
	if err != nil {
		m.failures.WithLabelValues(client).Inc()
	}
}

// pools collects the state of both connection pools.
type pools struct{ *Store }

var (
	poolConnections = prometheus.NewDesc("redis_pool_connections", "Connections to Redis.", []string{"client", "state"}, nil)
	poolTimeouts    = prometheus.NewDesc("redis_pool_timeouts_total", "Waits for a connection to Redis that took too long.", []string{"client"}, nil)
)

func (p pools) Describe(descs chan<- *prometheus.Desc) {
	descs <- poolConnections
	descs <- poolTimeouts
}

func (p pools) Collect(metrics chan<- prometheus.Metric) {
	for name, client := range map[string]redis.UniversalClient{"sends": p.sends, "pulls": p.pulls} {
		stats := *client.PoolStats()
		if pipelines := stats.PipelineStats; pipelines != nil { // pipelines have connections of their own
			stats.IdleConns += pipelines.IdleConns
			stats.TotalConns += pipelines.TotalConns
			stats.Timeouts += pipelines.Timeouts
		}
		metrics <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.IdleConns), name, "idle")
		metrics <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.TotalConns-stats.IdleConns), name, "used")
		metrics <- prometheus.MustNewConstMetric(poolTimeouts, prometheus.CounterValue, float64(stats.Timeouts), name)
	}
}
