package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// Service serves monitoring v3.
type Service struct {
	server *front.Server

	mu     sync.Mutex
	series map[string]*series // by project number, metric and resource
}

// series is one time series.
type series struct {
	project string
	fields  map[string]string // "metric.type", "metric.labels.x", "resource.type", …
	body    map[string]any    // metric, resource, metricKind, valueType
	points  []point           // the oldest first
}

type point struct {
	at    time.Time
	n     float64
	value map[string]any
}

// What is kept, and what a request may have.
const (
	keep       = 24 * time.Hour
	mostPoints = 3000
	mostSeries = 200
	sampling   = 5 * time.Second
	fresh      = 5 * time.Minute // a value that is older says nothing of now
)

// Register serves Cloud Monitoring on s.
func Register(s *front.Server) *Service {
	v := &Service{server: s, series: map[string]*series{}}
	s.Handle("monitoring.projects.timeSeries.create", v.create)
	s.Handle("monitoring.projects.timeSeries.list", v.list)
	return v
}

var (
	metricTypes = regexp.MustCompile(`^custom\.googleapis\.com/[A-Za-z][A-Za-z0-9_/]*$`)
	resources   = []string{"gce_instance", "generic_node", "generic_task", "global"}
)

// create takes one point for each of several series. What is wrong with one does not keep the others out, as at Google.
func (v *Service) create(_ context.Context, r *front.Request) (any, error) {
	all := body.Maps(r.Body, "timeSeries")
	if len(all) == 0 || len(all) > mostSeries {
		return nil, front.Invalid("Field timeSeries had an invalid value: there must be 1 to %d.", mostSeries)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var wrong []string
	for i, s := range all {
		if err := v.add(v.server.ProjectNumber(r.Path["project"]), s); err != nil {
			wrong = append(wrong, fmt.Sprintf("timeSeries[%d]: %v", i, err))
		}
	}
	if wrong != nil {
		return nil, front.Invalid("One or more TimeSeries could not be written: %s", strings.Join(wrong, "; "))
	}
	return map[string]any{}, nil
}

func (v *Service) add(project string, s map[string]any) error {
	now := time.Now()
	metric, resource := body.String(s, "metric.type"), body.String(s, "resource.type")
	points := body.Maps(s, "points")
	switch {
	case !metricTypes.MatchString(metric):
		return fmt.Errorf("the metric type %q is no custom metric", metric)
	case !slices.Contains(resources, resource):
		return fmt.Errorf("the monitored resource %q cannot be written to", resource)
	case body.String(s, "metricKind") != "GAUGE":
		return fmt.Errorf("the local cloud takes gauges only, not %q", body.String(s, "metricKind"))
	case len(points) != 1:
		return fmt.Errorf("field points had an invalid value: exactly one point must be provided")
	}
	at, err := time.Parse(time.RFC3339Nano, body.String(points[0], "interval.endTime"))
	if err != nil || at.After(now.Add(5*time.Minute)) || at.Before(now.Add(-25*time.Hour)) {
		return fmt.Errorf("the end time of the interval must be within the last 25 hours: %q", body.String(points[0], "interval.endTime"))
	}
	p := point{at: at, value: body.Map(points[0], "value")}
	switch kind := body.String(s, "valueType"); kind {
	case "INT64":
		n, ok := body.Int(p.value, "int64Value")
		if !ok {
			return fmt.Errorf("the value is no int64Value")
		}
		p.n, p.value = float64(n), map[string]any{"int64Value": strconv.FormatInt(n, 10)}
	case "DOUBLE":
		n, ok := p.value["doubleValue"].(float64)
		if !ok {
			return fmt.Errorf("the value is no doubleValue")
		}
		p.n = n
	default:
		return fmt.Errorf("the local cloud takes the value types INT64 and DOUBLE only, not %q", kind)
	}
	fields := map[string]string{"metric.type": metric, "resource.type": resource}
	for _, of := range []string{"metric", "resource"} {
		for key, value := range body.Map(s, of+".labels") {
			fields[of+".labels."+key] = fmt.Sprint(value)
		}
	}
	name, err := json.Marshal([]any{project, fields}) // with sorted keys
	if err != nil {
		return err
	}
	have := v.series[string(name)]
	if have == nil {
		have = &series{project: project, fields: fields, body: map[string]any{
			"metric": body.Map(s, "metric"), "resource": body.Map(s, "resource"), "metricKind": "GAUGE", "valueType": body.String(s, "valueType"),
		}}
		v.series[string(name)] = have
	}
	if n := len(have.points); n > 0 {
		last := have.points[n-1].at
		switch {
		case have.body["valueType"] != body.String(s, "valueType"):
			return fmt.Errorf("value type for metric %s must be %s", metric, have.body["valueType"])
		case !at.After(last):
			return fmt.Errorf("points must be written in order. One or more of the points specified had an older start time than the most recent point")
		case at.Sub(last) < v.server.Scale(sampling):
			return fmt.Errorf("one or more points were written more frequently than the maximum sampling period configured for the metric")
		}
	}
	have.points = append(have.points, p)
	if gone := len(have.points) - mostPoints; gone > 0 {
		have.points = slices.Delete(have.points, 0, gone)
	}
	for key, s := range v.series { // of instances that are long gone
		if now.Sub(s.points[len(s.points)-1].at) > keep {
			delete(v.series, key)
		}
	}
	return nil
}

var condition = regexp.MustCompile(`^\s*((?:metric|resource)\.(?:type|labels?\.[A-Za-z0-9_]+))\s*=\s*("(?:[^"\\]|\\.)*")\s*$`)

// parse reads a filter: equalities with AND between them, which is what autoscalers may have. Anything else is refused.
func parse(filter string) (map[string]string, error) {
	want := map[string]string{}
	for part := range strings.SplitSeq(filter, " AND ") {
		m := condition.FindStringSubmatch(part)
		if m == nil {
			return nil, front.Invalid("Field filter had an invalid value of %q: the local cloud knows equalities with AND between them only.", filter)
		}
		text, err := strconv.Unquote(m[2])
		if err != nil {
			return nil, front.Invalid("Field filter had an invalid value of %q: %v", filter, err)
		}
		want[strings.Replace(m[1], ".label.", ".labels.", 1)] = text
	}
	return want, nil
}

// matching gives the series that a filter is about, in a fixed order.
func (v *Service) matching(project string, want map[string]string) []*series {
	var names []string
	for name, s := range v.series {
		fits := s.project == project
		for field, text := range want {
			fits = fits && s.fields[field] == text
		}
		if fits {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var found []*series
	for _, name := range names {
		found = append(found, v.series[name])
	}
	return found
}

func (v *Service) list(_ context.Context, r *front.Request) (any, error) {
	for key := range r.Query {
		if strings.Contains(strings.ToLower(key), "aggregation") || key == "pageToken" || key == "orderBy" {
			return nil, front.Unserved("The local cloud lists time series without %s.", key)
		}
	}
	if view := r.Query.Get("view"); view != "" && view != "FULL" {
		return nil, front.Unserved("The local cloud lists time series with the view FULL only.")
	}
	want, err := parse(r.Query.Get("filter"))
	if err != nil {
		return nil, err
	}
	if want["metric.type"] == "" {
		return nil, front.Invalid("Field filter had an invalid value of %q: must specify a restriction on \"metric.type\".", r.Query.Get("filter"))
	}
	end, err := instant(r.Query, "interval.endTime")
	if err != nil || end.IsZero() {
		return nil, front.Invalid("Field interval.endTime had an invalid value of %q.", r.Query.Get("interval.endTime"))
	}
	start, err := instant(r.Query, "interval.startTime")
	if err != nil {
		return nil, front.Invalid("Field interval.startTime had an invalid value of %q.", r.Query.Get("interval.startTime"))
	}
	if start.IsZero() {
		start = end
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	found := []any{}
	for _, s := range v.matching(v.server.ProjectNumber(r.Path["project"]), want) {
		points := []any{}
		for _, p := range slices.Backward(s.points) { // the newest first
			if (p.at.After(start) || p.at.Equal(end)) && !p.at.After(end) { // the start is left out, unless it is the end too
				at := p.at.UTC().Format(time.RFC3339Nano)
				points = append(points, map[string]any{"interval": map[string]any{"startTime": at, "endTime": at}, "value": p.value})
			}
		}
		if len(points) > 0 {
			found = append(found, map[string]any{"metric": s.body["metric"], "resource": s.body["resource"], "metricKind": s.body["metricKind"], "valueType": s.body["valueType"], "points": points})
		}
	}
	if len(found) == 0 {
		return map[string]any{}, nil
	}
	return map[string]any{"timeSeries": found}, nil
}

// instant reads a time of a query; the zero one where there is none.
func instant(q url.Values, name string) (time.Time, error) {
	if q.Get(name) == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, q.Get(name))
}

// Newest gives the sum of the newest values of the series of a metric that a filter is about, as an autoscaler sees it. It is not known
// when there is none of the last minutes.
func (v *Service) Newest(project, metric, filter string) (sum float64, known bool) {
	want := map[string]string{}
	if filter != "" {
		var err error
		if want, err = parse(filter); err != nil {
			return 0, false
		}
	}
	want["metric.type"] = metric
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.matching(v.server.ProjectNumber(project), want) {
		if p := s.points[len(s.points)-1]; time.Since(p.at) < fresh {
			sum, known = sum+p.n, true
		}
	}
	return sum, known
}
