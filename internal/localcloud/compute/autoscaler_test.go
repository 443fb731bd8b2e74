package compute

import (
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/localcloud/store"
)

// TestAutoscalerMetrics shows which metrics an autoscaler may have: those of whole groups. The rest is refused, and not passed over.
func TestAutoscalerMetrics(t *testing.T) {
	const whole = `resource.type = "generic_node"`
	for _, c := range []struct {
		name   string
		metric map[string]any
		says   string // "" = it is taken
	}{
		{"of a group", map[string]any{"metric": "custom.googleapis.com/things", "filter": whole, "singleInstanceAssignment": 5.0}, ""},
		{"without a name", map[string]any{"filter": whole, "singleInstanceAssignment": 5.0}, "metric"},
		{"of each instance", map[string]any{"metric": "custom.googleapis.com/things", "utilizationTarget": 3.0}, "whole groups"},
		{"of both", map[string]any{"metric": "custom.googleapis.com/things", "filter": whole, "singleInstanceAssignment": 5.0, "utilizationTarget": 3.0}, "whole groups"},
		{"of nothing", map[string]any{"metric": "custom.googleapis.com/things", "filter": whole, "singleInstanceAssignment": 0.0}, "greater than 0"},
		{"of no resource", map[string]any{"metric": "custom.googleapis.com/things", "singleInstanceAssignment": 5.0}, "resource type"},
		{"of an instance", map[string]any{"metric": "custom.googleapis.com/things", "filter": `resource.type = "gce_instance"`, "singleInstanceAssignment": 5.0}, "resource type"},
	} {
		body := map[string]any{"target": "group", "autoscalingPolicy": map[string]any{"maxNumReplicas": 3.0, "customMetricUtilizations": []any{c.metric}}}
		err := fillAutoscaler(&Service{store: store.New()}, nil, "a", body, nil)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("a metric %s: %v", c.name, err)
		}
	}
}
