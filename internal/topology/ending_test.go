package topology_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	difyup "github.com/difyup/difyup/internal/agent"
	"github.com/difyup/difyup/internal/dify"
)

// reboot is how long nobody may answer while a machine ends and starts again: some 40 s to Docker, and the agent after it.
const reboot = 100 * time.Second

// TestEnding checks that what Google and systemd are told fits the times by which an instance ends, and begins.
func TestEnding(t *testing.T) {
	unit := regexp.MustCompile(`(?m)^ +TimeoutStopSec=(\d+)$`)
	raw, err := os.ReadFile("user-data.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := unit.FindAllSubmatch(raw, -1)
	if len(found) != 1 {
		t.Fatalf("TimeoutStopSec stands in user-data.yaml %d times", len(found))
	}
	if n, err := strconv.Atoi(string(found[0][1])); err != nil || time.Duration(n)*time.Second != dify.StopTime {
		t.Errorf("systemd gives the agent %d s, %v; it counts on %s", n, err, dify.StopTime)
	}
	checks := 0
	for _, r := range build(t, "difyup.yaml", []byte("stack: demo\nproject: my-project\nregion: asia-northeast1\n")).Resources() {
		raw, err := json.Marshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			Interval int                           `json:"checkIntervalSec"`
			Timeout  int                           `json:"timeoutSec"`
			Fails    int                           `json:"unhealthyThreshold"`
			HTTP     *struct{ RequestPath string } `json:"httpHealthCheck"`
			Draining *struct {
				Timeout int `json:"drainingTimeoutSec"`
			} `json:"connectionDraining"`
			Healing []struct {
				Delay int `json:"initialDelaySec"`
			} `json:"autoHealingPolicies"`
		}
		if json.Unmarshal(raw, &body) != nil {
			continue // another kind has another type there
		}
		seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
		if body.HTTP != nil && body.HTTP.RequestPath == "/health" {
			checks++
			if got := seconds(body.Interval*body.Fails + body.Timeout); got > dify.NoticeTime {
				t.Errorf("the load balancer notices after %s that an instance leaves; it goes on serving for %s", got, dify.NoticeTime)
			}
		}
		if body.HTTP != nil && body.HTTP.RequestPath == "/alive" {
			checks++
			if got := seconds(body.Interval * body.Fails); got < reboot {
				t.Errorf("healing replaces an instance that is silent for %s; its machine may take %s to start again", got, reboot)
			}
		}
		if body.Draining != nil {
			checks++
			if got := seconds(body.Draining.Timeout); got < dify.DrainTime {
				t.Errorf("the load balancer cuts requests off after %s; the instance serves them for %s", got, dify.DrainTime)
			}
		}
		if len(body.Healing) > 0 {
			checks++
			// Some probes must have said yes by then.
			if got := seconds(body.Healing[0].Delay); got < difyup.BootPatience+time.Minute {
				t.Errorf("healing leaves a new instance alone for %s; one that waits says so after %s", got, difyup.BootPatience)
			}
		}
	}
	if checks != 4 {
		t.Errorf("%d of 4 were found", checks)
	}
}
