package logging

import "testing"

// TestFilter shows what the local cloud understands of Google's query language, and that it refuses the rest.
func TestFilter(t *testing.T) {
	entry := map[string]any{
		"logName": "projects/p/logs/difyup", "timestamp": "2026-11-28T10:00:00.25Z", "receiveTimestamp": "2026-11-28T10:00:01Z", "severity": "WARNING", "insertId": "i-1",
		"textPayload": `says "Hello"`, "labels": map[string]any{"stack": "demo", "a.b/c": "x"}, "resource": map[string]any{"type": "gce_instance", "labels": map[string]any{"zone": "z-a"}},
	}
	const yes, no, refused = "yes", "no", "refused"
	for filter, want := range map[string]string{
		"":                      yes,
		`labels.stack="demo"`:   yes,
		`labels.stack = demo`:   yes,
		`labels.stack="DEMO"`:   yes,
		`labels.stack="other"`:  no,
		`labels.stack!="other"`: yes,
		`labels."a.b/c"="x"`:    yes,
		`labels.none="x"`:       no,
		`resource.type="gce_instance" AND resource.labels.zone="z-a"`: yes,
		"labels.stack=\"demo\"\nseverity>=ERROR":                      no,
		`severity>=warning`:                                           yes,
		`severity="WARNING" severity<ERROR`:                           yes,
		`severity=("INFO" OR "WARNING")`:                              yes,
		`timestamp>="2026-11-28T10:00:00.250Z"`:                       yes,
		`timestamp>"2026-11-28T10:00:00.250Z"`:                        no,
		`timestamp<"2026-11-28T11:00:01+01:00"`:                       yes,
		`receiveTimestamp<="2026-11-28T10:00:00Z"`:                    no,
		`textPayload:"hello"`:                                         yes,
		`textPayload="says \"hello\""`:                                yes,
		`insertId="i-1" AND logName="projects/p/logs/difyup"`:         yes,

		`NOT labels.stack="demo"`:                     refused,
		`labels.stack="demo" OR labels.stack="x"`:     refused,
		`(labels.stack="demo")`:                       refused,
		`labels.stack=("a" AND "b")`:                  refused,
		`labels.stack=("a"`:                           refused,
		`labels.stack=`:                               refused,
		`labels.stack`:                                refused,
		`"demo"`:                                      refused,
		`labels.stack="demo`:                          refused,
		`labels.stack>"demo"`:                         refused,
		`timestamp>="yesterday"`:                      refused,
		`timestamp:"2026"`:                            refused,
		`severity>=LOUD`:                              refused,
		`jsonPayload.x="y"`:                           refused,
		`textPayload=~"h.*"`:                          refused,
		`labels.stack="demo" AND`:                     refused,
		`AND labels.stack="demo"`:                     refused,
		`labels.stack="demo" AND AND severity="INFO"`: refused,
	} {
		match, err := parse(filter)
		got := refused
		if err == nil {
			if got = no; match(entry) {
				got = yes
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%v)", filter, got, want, err)
		}
	}
}
