package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// measureEvery is how often metrics are written. Cloud Monitoring takes a point of a series every 5 s, and an autoscaler looks once a minute.
const measureEvery = 30 * time.Second

// measure writes the instance's metrics until ctx ends. What cannot be written is told once; there is nothing to be caught up on.
func (a *agent) measure(ctx context.Context, secrets map[string]string) {
	broker := a.redisOptions(secrets)
	broker.DB = dify.BrokerDatabase
	queue := redis.NewClient(broker)
	defer queue.Close()
	said := ""
	for {
		err := a.writeMetrics(ctx, queue)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && said != "":
			a.log.Info("metrics are written again")
			said = ""
		case err != nil && err.Error() != said:
			said = err.Error()
			a.log.Warn("metrics cannot be written", "because", hide(err, secrets))
		}
		if sleep(ctx, a.scaled(measureEvery, time.Second)) != nil {
			return
		}
	}
}

// series is one point of a time series, as Cloud Monitoring takes it.
type series struct {
	Metric    labelled `json:"metric"`
	Resource  labelled `json:"resource"`
	Kind      string   `json:"metricKind"`
	ValueType string   `json:"valueType"`
	Points    [1]point `json:"points"`
}

type labelled struct {
	Type   string            `json:"type"`
	Labels map[string]string `json:"labels,omitempty"`
}

type point struct {
	Interval struct {
		End string `json:"endTime"`
	} `json:"interval"`
	Value struct {
		Int string `json:"int64Value"`
	} `json:"value"`
}

// gauge is a whole number at a time.
func gauge(at time.Time, metric string, labels map[string]string, resource labelled, n int64) series {
	s := series{Metric: labelled{dify.MetricPrefix + metric, labels}, Resource: resource, Kind: "GAUGE", ValueType: "INT64"}
	s.Points[0].Interval.End, s.Points[0].Value.Int = at.UTC().Format(time.RFC3339Nano), strconv.FormatInt(n, 10)
	return s
}

// writeMetrics writes what is measured now: of this instance, and of the stack's queues where its scheduler runs, since a series may have one writer.
func (a *agent) writeMetrics(ctx context.Context, queue *redis.Client) error {
	now := time.Now()
	this := labelled{"gce_instance", map[string]string{"project_id": a.settings.Project, "instance_id": a.id, "zone": path.Base(a.zone)}}
	labels := func(more ...string) map[string]string {
		all := map[string]string{"stack": a.settings.Stack, "instance": a.name}
		for pair := range slices.Chunk(more, 2) {
			all[pair[0]] = pair[1]
		}
		return all
	}
	all := []series{gauge(now, "requests_in_flight", labels(), this, int64(a.door.InHand()))}
	for phase, took := range a.report.phases() {
		all = append(all, gauge(now, "boot_phase_seconds", labels("phase", string(phase)), this, int64(took.Seconds())))
	}
	// What cannot be measured keeps nothing else from being told.
	states, missing := a.runtime.States(ctx)
	if missing == nil {
		a.report.containers(states)
	}
	for _, n := range slices.Sorted(maps.Keys(states)) {
		well := int64(0)
		if states[n].Well {
			well = 1
		}
		all = append(all, gauge(now, "container_healthy", labels("container", string(n)), this, well),
			gauge(now, "container_restarts", labels("container", string(n)), this, int64(states[n].Restarts)))
	}
	if a.report.schedules(a.name) {
		n, err := waiting(ctx, queue)
		missing = errors.Join(missing, err)
		stack := labelled{dify.QueueResource, map[string]string{"project_id": a.settings.Project, "location": a.settings.Region, "namespace": dify.QueueNamespace, "node_id": a.settings.Stack}}
		s := gauge(now, "", nil, stack, n)
		s.Metric = labelled{Type: dify.QueueLength}
		if err == nil {
			all = append(all, s)
		}
	}
	raw, err := json.Marshal(map[string]any{"timeSeries": all})
	if err != nil {
		return err
	}
	_, err = a.google.call(ctx, a.endpoint, request{
		Host: "monitoring.googleapis.com", Method: http.MethodPost, Path: "/v3/projects/" + url.PathEscape(a.settings.Project) + "/timeSeries", What: "Cloud Monitoring",
		Type: "application/json", Body: raw,
	})
	return errors.Join(missing, err)
}

// waiting gives how many tasks wait for a worker.
func waiting(ctx context.Context, queue *redis.Client) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, stores.Patience)
	defer cancel()
	pipe := queue.Pipeline()
	var lengths []*redis.IntCmd
	for _, name := range dify.Queues() {
		lengths = append(lengths, pipe.LLen(ctx, name))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	total := int64(0)
	for _, n := range lengths {
		total += n.Val()
	}
	return total, nil
}
