//go:build linux

package sabotage_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/smoke"
)

const (
	email  = "owner@example.com"
	secret = "0wnerOfEverything"
)

func (s *stack) options() smoke.Options {
	o := smoke.Options{
		URL: s.url, TLS: &tls.Config{InsecureSkipVerify: true}, Version: dify.Default, Email: email, Password: secret, Setup: true,
		InitPassword: func(context.Context) (string, error) { return s.secrets[dify.InitPassword], nil },
	}
	for _, in := range s.instances {
		o.Instances = append(o.Instances, in.name)
	}
	return o
}

// prove runs smoke, and gives how each row ended.
func (s *stack) prove(t *testing.T, o smoke.Options) (*smoke.Report, map[string]string) {
	t.Helper()
	report, err := smoke.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ended := map[string]string{}
	for _, r := range report.Rows {
		ended[r.ID] = string(r.Status)
		if r.Fault != nil {
			t.Logf("%s: %s", r.ID, r.Fault.Error())
		}
	}
	return report, ended
}

// all is how every row ends, apart from those given.
func all(but map[string]string) map[string]string {
	want := map[string]string{}
	for _, id := range []string{
		"reach", "instances", "web", "database", "setup", "login", "profile", "session", "upload", "preview", "secret", "dataset", "index", "retrieve", "hook", "plugins", "callback",
		"vectors", "closed", "clean-up",
	} {
		want[id] = string(smoke.Passed)
	}
	for id, how := range but {
		want[id] = how
	}
	return want
}

// TestWhole proves whole stacks of 1, 2 and 5 instances, twice each: when nobody has set Dify up, and again. Nothing is
// left afterwards but the account and the workspace's key.
func TestWhole(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := w.newStack(t, size)
			s.start(t)
			for range 2 {
				report, ended := s.prove(t, s.options())
				if d := cmp.Diff(all(nil), ended); d != "" || !report.OK || !report.StandIn || report.Version != dify.Default || len(report.Instances) != size {
					t.Errorf("ok %t, stand-in %t, Dify %s, %v; rows (-want +got):\n%s", report.OK, report.StandIn, report.Version, report.Instances, d)
				}
			}
			s.clean(t)
		})
	}
}

// TestInterrupted ends runs at a row each: what they had made is removed, and the report says how far they came. Files that
// had not come into a data set yet are left: the report says that too.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 2)
	s.start(t)
	loose := 0
	for at, files := range map[string]int{"reach": 0, "dataset": 1, "index": 1, "callback": 0, "vectors": 0, "clean-up": 0} {
		loose += files
		ctx, cancel := context.WithCancel(t.Context())
		o := s.options()
		o.Begin = func(r smoke.Row) {
			if r.ID == at {
				cancel()
			}
		}
		report, err := smoke.Run(ctx, o)
		cancel()
		if at == "clean-up" { // everything had been proven
			if err != nil || !report.OK {
				t.Errorf("interrupted while cleaning up: ok %t, %v", report.OK, err)
			}
			continue
		}
		last := report.Rows[len(report.Rows)-1]
		if says := strings.Contains(last.Detail, fmt.Sprintf("%d uploaded file", files)); says != (files > 0) {
			t.Errorf("interrupted at %s, with %d files left, it says %q", at, files, last.Detail)
		}
		for _, row := range report.Rows {
			if row.Status == smoke.Failed || row.ID == at && (row.Status != smoke.NotRun || row.Detail != "interrupted") {
				t.Errorf("interrupted at %s: %s is %s: %s", at, row.ID, row.Status, row.Detail)
			}
		}
		if !errors.Is(err, context.Canceled) || report.OK || last.ID != "clean-up" || last.Status != smoke.Passed {
			t.Errorf("interrupted at %s: ok %t, %v, last row %s %s %v", at, report.OK, err, last.ID, last.Status, last.Fault)
		}
	}
	s.cleanBut(t, loose)
}

// TestLostAnswers has what smoke makes be made, and the answers that say so be lost: it is removed all the same.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 1)
	s.start(t)
	for row, path := range map[string]string{"dataset": "/console/api/datasets", "secret": "/console/api/apps"} {
		s.mu.Lock()
		s.lost = path
		s.mu.Unlock()
		report, ended := s.prove(t, s.options())
		if last := report.Rows[len(report.Rows)-1]; report.OK || report.Failure().ID != row || last.Status != smoke.Passed || !strings.Contains(last.Detail, "removed ") {
			t.Errorf("without answers to POST %s: %v, %s", path, ended, last.Detail)
		}
	}
	s.cleanBut(t, 1)
}

// TestLate proves a stack one of whose instances gets no requests at first, as one does that was slow to answer a probe.
func TestLate(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 2)
	s.late = 65
	s.start(t)
	if report, ended := s.prove(t, s.options()); !report.OK {
		t.Errorf("rows: %v", ended)
	}
}

// TestLeft proves a stack that shrinks meanwhile: an instance that the group gave up need not answer, and one that is still in it must.
func TestLeft(t *testing.T) {
	w := newWorld(t)
	for row, fails := range map[string]bool{"session": false, "secret": false, "profile": true} {
		s := w.newStack(t, 3)
		s.start(t)
		gone := s.instances[2].name
		o := s.options()
		o.Patience = 10 * time.Second
		o.Begin = func(r smoke.Row) {
			if r.ID == row {
				s.shrink()
			}
		}
		o.Left = func(_ context.Context, instances []string) ([]string, error) {
			if d := cmp.Diff([]string{gone}, instances); d != "" {
				t.Errorf("asked after (-want +got):\n%s", d)
			}
			if fails {
				return nil, nil
			}
			return instances, nil
		}
		report, ended := s.prove(t, o)
		switch f := report.Failure(); {
		case fails && (f == nil || f.ID != row || f.Fault.Summary != "An instance gets no requests"):
			t.Errorf("at %s: %+v", row, f)
		case !fails && (!report.OK || len(report.Instances) != 2):
			t.Errorf("at %s: %v, rows: %v", row, report.Instances, ended)
		}
		s.halt(t)
	}
}

// TestPreferred proves a stack of which a client meets some alone, as Google's load balancer has it by default: an instance that is known to
// serve is named, and no failure; one of which that is not known is.
func TestPreferred(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 3)
	s.start(t)
	last := s.instances[2].name
	prove := func(at string, serving func([]string) ([]string, error)) *smoke.Report {
		t.Helper()
		s.mu.Lock()
		s.fewer = false
		s.mu.Unlock()
		o := s.options()
		o.Patience = 2 * time.Second
		o.Begin = func(r smoke.Row) {
			if r.ID == at {
				s.shrink()
			}
		}
		o.Serving = func(_ context.Context, instances []string) ([]string, error) {
			if d := cmp.Diff([]string{last}, instances); d != "" {
				t.Errorf("asked after (-want +got):\n%s", d)
			}
			return serving(instances)
		}
		report, _ := s.prove(t, o)
		return report
	}
	for _, at := range []string{"instances", "session"} {
		report := prove(at, func(all []string) ([]string, error) { return all, nil })
		if d := cmp.Diff([]string{last}, report.Unmet); d != "" || !report.OK || len(report.Instances) != 2 {
			t.Errorf("from %s: ok %t, %v answered, %v did not", at, report.OK, report.Instances, report.Unmet)
		}
		for _, r := range report.Rows {
			if r.Status != smoke.Passed || (r.Warning != "") != (r.ID == at) || r.ID == at && !strings.Contains(r.Warning, "not met: "+last) {
				t.Errorf("from %s: %s is %s, with the warning %q", at, r.ID, r.Status, r.Warning)
			}
			if r.ID == "preview" && r.Detail != "2 of 3 instances" {
				t.Errorf("from %s: %s on %s", at, r.ID, r.Detail)
			}
		}
	}
	for what, serving := range map[string]func([]string) ([]string, error){
		"says nothing":    func([]string) ([]string, error) { return nil, nil },
		"cannot be asked": func([]string) ([]string, error) { return nil, errors.New("403") },
	} {
		if f := prove("instances", serving).Failure(); f == nil || f.ID != "instances" || f.Fault.Summary != "An instance gets no requests" || !strings.Contains(f.Fault.Detail, last) {
			t.Errorf("it %s: %+v", what, f)
		}
	}
}

// TestNameless proves a stack whose answers do not say which instance they come from, as other Difys' do not, and which has a
// domain, so that cookies are for https alone.
func TestNameless(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 3)
	s.nameless = true
	s.everywhere("CONSOLE_API_URL", "https://dify.example.com")
	s.everywhere("CONSOLE_WEB_URL", "https://dify.example.com")
	s.start(t)
	o := s.options()
	o.Instances = nil
	report, ended := s.prove(t, o)
	if d := cmp.Diff(all(nil), ended); d != "" || !report.OK || len(report.Instances) != 0 {
		t.Errorf("ok %t, %v; rows (-want +got):\n%s", report.OK, report.Instances, d)
	}
	for _, r := range report.Rows {
		if strings.Contains(r.Detail, "only instance") {
			t.Errorf("%s says how many instances there are: %s", r.ID, r.Detail)
		}
	}
	s.halt(t)
	s.instances[1].set("SECRET_KEY", "another-key")
	s.start(t)
	if report, _ := s.prove(t, o); report.Failure() == nil || report.Failure().ID != "profile" {
		t.Errorf("another SECRET_KEY fails at %+v", report.Failure())
	}
	s.halt(t)
	s.instances[1].set("SECRET_KEY", s.secrets[dify.SecretKey])
	second := w.cache(t, "nameless").String()
	s.instances[1].set("REDIS_HOST", second)
	s.instances[1].set("CELERY_BROKER_URL", "redis://:"+password+"@"+second+":6379/1")
	s.start(t)
	for first := range s.instances { // whichever of them gets the first request, and so the login and the first renewal
		s.mu.Lock()
		s.next = first
		s.mu.Unlock()
		if report, _ := s.prove(t, o); report.Failure() == nil || report.Failure().ID != "session" || report.Failure().Fault.Summary != "The instances do not share one Redis" {
			t.Errorf("a Redis per instance fails at %+v", report.Failure())
		}
	}
}

// TestWrongPassword gives a wrong password more often than Dify forgives, and is told so: the address is locked.
func TestWrongPassword(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 1)
	s.start(t)
	o := s.options()
	if report, ended := s.prove(t, o); !report.OK {
		t.Fatal(ended)
	}
	o.Password = "n0tTheRightOne"
	var said []string
	for range 6 {
		report, _ := s.prove(t, o)
		said = append(said, report.Failure().ID+": "+report.Failure().Fault.Summary)
	}
	const wrong = "login: Wrong e-mail address or password"
	if d := cmp.Diff([]string{wrong, wrong, wrong, wrong, wrong, "login: The account is locked"}, said); d != "" {
		t.Errorf("each run tries once (-want +got):\n%s", d)
	}
}

// TestNotAllowed proves a whole stack with accounts that may not do all of it, and one where nobody may log in by password: that is what is
// said, and no part of the stack is called broken.
func TestNotAllowed(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 1)
	s.start(t)
	if report, ended := s.prove(t, s.options()); !report.OK {
		t.Fatal(ended)
	}
	const failed, notRun, may = string(smoke.Failed), string(smoke.NotRun), "The account may not do this"
	// check has the API run with a setting more.
	check := func(name, value, summary string, want map[string]string) {
		t.Helper()
		what := name + "=" + value
		s.halt(t)
		api := s.instances[0].services[slices.IndexFunc(s.instances[0].services, func(s dify.Service) bool { return s.Name == dify.API })]
		api.Environment[name] = value
		s.start(t)
		report, ended := s.prove(t, s.options())
		if d := cmp.Diff(all(want), ended); d != "" {
			t.Errorf("%s: rows (-want +got):\n%s", what, d)
		}
		for _, r := range report.Rows {
			if r.Status != smoke.Failed {
				continue
			}
			if r.Fault.Summary != summary || !strings.Contains(r.Fault.Detail, "answered 403") || !strings.Contains(r.Fault.Remedy, "difyup smoke --email ADDRESS") {
				t.Errorf("%s: %s says %s: %s %s", what, r.ID, r.Fault.Summary, r.Fault.Detail, r.Fault.Remedy)
			}
		}
	}
	for role, want := range map[string]map[string]string{
		"editor":           {"callback": failed},
		"dataset_operator": {"secret": failed, "callback": notRun},
		"normal":           {"upload": failed, "preview": notRun, "dataset": failed, "secret": failed, "index": notRun, "retrieve": notRun, "callback": notRun, "vectors": notRun},
	} {
		check("STANDIN_ROLE", role, may, want)
	}
	without := map[string]string{"login": failed, "profile": notRun}
	for _, id := range []string{"session", "upload", "preview", "secret", "dataset", "index", "retrieve", "plugins", "callback", "vectors"} {
		without[id] = notRun
	}
	check("ENABLE_EMAIL_PASSWORD_LOGIN", "false", "Password login is switched off", without)
}

// TestNotSetUp finds a Dify that nobody has set up, and leaves it so unless it is told otherwise.
func TestNotSetUp(t *testing.T) {
	w := newWorld(t)
	s := w.newStack(t, 2)
	s.start(t)
	o := s.options()
	o.Setup = false
	report, _ := s.prove(t, o)
	if f := report.Failure(); f == nil || f.ID != "setup" || f.Fault.Summary != "Dify is not set up" {
		t.Errorf("got %+v", f)
	}
	o.Setup = true
	o.InitPassword = func(context.Context) (string, error) { return "another", nil }
	report, _ = s.prove(t, o)
	if f := report.Failure(); f == nil || f.ID != "setup" || f.Fault.Summary != "Wrong init password" {
		t.Errorf("got %+v", f)
	}
	if report, ended := s.prove(t, s.options()); !report.OK {
		t.Errorf("then it cannot be set up: %v", ended)
	}
}

// TestSabotage breaks stacks that were whole, in one way each. Each fails first at the row that names what is broken, and
// says what that is.
func TestSabotage(t *testing.T) {
	w := newWorld(t)
	const failed, notRun = string(smoke.Failed), string(smoke.NotRun)
	// What needs somebody who is logged in everywhere.
	signed := func(how map[string]string) map[string]string {
		for _, id := range []string{"session", "upload", "preview", "secret", "dataset", "index", "retrieve", "plugins", "callback", "vectors"} {
			how[id] = notRun
		}
		return how
	}
	for _, tc := range []struct {
		name   string
		breaks func(t *testing.T, s *stack) // changes a stack of two instances that was set up and is halted
		want   map[string]string            // rows that do not end well, and how
		row    string                       // the first that failed
		says   []string                     // in what it tells
	}{
		{
			name: "another SECRET_KEY",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("SECRET_KEY", "another-key")
			},
			want: signed(map[string]string{"profile": failed}), row: "profile",
			says: []string{"The instances have different SECRET_KEYs", "s1-vm-"},
		},
		{
			name: "a Redis per instance",
			breaks: func(t *testing.T, s *stack) {
				second := w.cache(t, "second").String()
				s.instances[1].set("REDIS_HOST", second)
				s.instances[1].set("CELERY_BROKER_URL", "redis://:"+password+"@"+second+":6379/1")
			},
			want: map[string]string{"session": failed}, row: "session", says: []string{"The instances do not share one Redis"},
		},
		{
			name: "no worker",
			breaks: func(_ *testing.T, s *stack) {
				for _, in := range s.instances {
					in.without(dify.Worker)
				}
			},
			want: map[string]string{"index": failed, "retrieve": notRun, "vectors": notRun}, row: "index", says: []string{"No worker takes tasks", "`priority_dataset`", "`dataset`"},
		},
		{
			name: "workers that leave a queue out",
			breaks: func(_ *testing.T, s *stack) {
				for _, in := range s.instances {
					i := slices.IndexFunc(in.services, func(s dify.Service) bool { return s.Name == dify.Worker })
					in.services[i].Environment["CELERY_QUEUES"] = "dataset,mail,schedule_poller,workflow_based_app_execution"
				}
			},
			want: map[string]string{"index": failed, "retrieve": notRun, "vectors": notRun}, row: "index", says: []string{"No worker takes tasks", "`priority_dataset`", "CELERY_QUEUES"},
		},
		{
			name:   "no right to read objects",
			breaks: func(_ *testing.T, s *stack) { s.lack("storage.objects.get") },
			want:   map[string]string{"preview": failed, "secret": failed, "index": failed, "retrieve": notRun, "callback": notRun, "vectors": notRun}, row: "preview",
			says: []string{"cannot read from the bucket", "storage.objects.get"},
		},
		{
			name:   "no right to write objects",
			breaks: func(_ *testing.T, s *stack) { s.lack("storage.objects.create") },
			want:   map[string]string{"upload": failed, "preview": notRun, "index": notRun, "retrieve": notRun, "vectors": notRun}, row: "upload",
			says: []string{"cannot write to the bucket", "storage.objects.create"},
		},
		{
			name:   "no right to see the bucket",
			breaks: func(_ *testing.T, s *stack) { s.lack("storage.buckets.get") },
			want:   map[string]string{"upload": failed, "preview": notRun, "secret": failed, "index": notRun, "retrieve": notRun, "callback": notRun, "vectors": notRun}, row: "upload",
			says: []string{"cannot write to the bucket", "storage.buckets.get"},
		},
		{
			name: "a bucket that is not there",
			breaks: func(_ *testing.T, s *stack) {
				s.everywhere("GOOGLE_STORAGE_BUCKET_NAME", "nowhere")
			},
			want: map[string]string{"upload": failed, "preview": notRun, "secret": failed, "index": notRun, "retrieve": notRun, "callback": notRun, "vectors": notRun}, row: "upload",
			says: []string{"cannot write to the bucket", "nowhere"},
		},
		{
			name: "another bucket on one instance",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("GOOGLE_STORAGE_BUCKET_NAME", s.another())
			},
			// Whether the worker that takes the task sees the file is a matter of luck.
			want: map[string]string{"preview": failed, "secret": failed, "callback": notRun}, row: "preview", says: []string{"cannot read from the bucket what another one wrote"},
		},
		{
			name: "another bucket everywhere",
			breaks: func(_ *testing.T, s *stack) {
				s.everywhere("GOOGLE_STORAGE_BUCKET_NAME", s.another())
			},
			want: map[string]string{"secret": failed, "callback": notRun}, row: "secret", says: []string{"Secrets cannot be decrypted", "private key", "restore that object"},
		},
		{
			name: "keys of daemon and API that differ",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("SERVER_KEY", "another-key")
			},
			want: map[string]string{"plugins": failed, "secret": notRun, "callback": notRun, "vectors": notRun}, row: "plugins", says: []string{"cannot use the plugin daemon", "PLUGIN_DAEMON_KEY", "-vm-2"},
		},
		{
			name: "a wrong inner key",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("DIFY_INNER_API_KEY", "another-key")
			},
			want: map[string]string{"callback": failed}, row: "callback", says: []string{"cannot call the API back", "DIFY_INNER_API_KEY", "-vm-2"},
		},
		{
			name: "a missing extension",
			breaks: func(t *testing.T, s *stack) {
				s.sql(t, s.name+"_vector", `DROP EXTENSION vector CASCADE`, `CREATE ROLE plain LOGIN PASSWORD '`+password+`'`, `GRANT ALL ON SCHEMA public TO plain`)
				s.everywhere("PGVECTOR_USER", "plain")
			},
			want: map[string]string{"vectors": failed}, row: "vectors", says: []string{"The vector database lacks its extension", "CREATE EXTENSION vector"},
		},
		{
			name: "no migration",
			breaks: func(t *testing.T, s *stack) {
				s.sql(t, s.name, `DROP SCHEMA public CASCADE`, `CREATE SCHEMA public`)
			},
			want: signed(map[string]string{"database": failed, "setup": notRun, "login": notRun, "profile": notRun}), row: "database",
			says: []string{"The API cannot use its database", "does not exist"},
		},
		{
			name: "no database for plugins",
			breaks: func(_ *testing.T, s *stack) {
				for _, in := range s.instances {
					i := slices.IndexFunc(in.services, func(s dify.Service) bool { return s.Name == dify.PluginDaemon })
					in.services[i].Environment["DB_DATABASE"] = "nowhere"
				}
			},
			want: map[string]string{"hook": failed, "plugins": failed, "secret": notRun, "callback": notRun, "vectors": notRun}, row: "hook", says: []string{"The plugin daemon does not answer", "a database of its own", "nowhere"},
		},
		{
			name: "no plugin daemon",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].without(dify.PluginDaemon)
			},
			want: map[string]string{"hook": failed, "plugins": failed, "secret": notRun, "callback": notRun, "vectors": notRun}, row: "hook", says: []string{"The plugin daemon does not answer", "502", "-vm-2"},
		},
		{
			name: "no web",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[0].without(dify.Web)
			},
			want: map[string]string{"web": failed}, row: "web", says: []string{"The web interface does not answer", "502", "-vm-1"},
		},
		{
			name: "a web interface that is not told where the API is",
			breaks: func(_ *testing.T, s *stack) {
				s.everywhere("CONSOLE_API_URL", "https://203.0.113.7")
				s.everywhere("CONSOLE_WEB_URL", "https://203.0.113.7")
				i := slices.IndexFunc(s.instances[1].services, func(s dify.Service) bool { return s.Name == dify.Web })
				s.instances[1].services[i].Environment["CONSOLE_API_URL"] = ""
			},
			want: signed(map[string]string{"login": failed, "profile": notRun}), row: "login", says: []string{"A browser cannot log in", "__Host-csrf_token", " /console/api,", "-vm-2"},
		},
		{
			name: "an instance that gets no requests",
			breaks: func(_ *testing.T, s *stack) {
				s.gone = "s-vm-3"
			},
			want: signed(map[string]string{
				"instances": failed, "web": notRun, "database": notRun, "setup": notRun, "login": notRun, "profile": notRun, "hook": notRun,
			}), row: "instances", says: []string{"An instance gets no requests", "s-vm-3"},
		},
		{
			name: "a wrong password of the database",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("DB_PASSWORD", "another-password")
			},
			want: signed(map[string]string{"database": failed, "setup": notRun, "login": notRun, "profile": notRun, "hook": failed}), row: "database",
			says: []string{"The API cannot use its database", "-vm-2"},
		},
		{
			name: "an older release on one instance",
			breaks: func(_ *testing.T, s *stack) {
				s.instances[1].set("STANDIN_VERSION", "1.16.1")
			},
			want: signed(map[string]string{
				"instances": failed, "web": notRun, "database": notRun, "setup": notRun, "login": notRun, "profile": notRun, "hook": notRun,
			}), row: "instances", says: []string{"different versions", "1.16.1"},
		},
	} {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			s := w.newStack(t, 2)
			s.start(t)
			if report, ended := s.prove(t, s.options()); !report.OK {
				t.Fatalf("it was not whole: %v", ended)
			}
			s.halt(t)
			tc.breaks(t, s)
			s.start(t)
			o := s.options()
			if tc.row == "index" || s.gone != "" {
				o.Patience = 2 * time.Second
			}
			if s.gone != "" {
				o.Instances = append(o.Instances, s.gone)
			}
			report, ended := s.prove(t, o)
			want := all(tc.want)
			if tc.name == "another bucket on one instance" {
				for _, id := range []string{"index", "retrieve", "vectors"} {
					delete(want, id)
					delete(ended, id)
				}
			}
			if d := cmp.Diff(want, ended); d != "" || report.OK {
				t.Errorf("ok %t, rows (-want +got):\n%s", report.OK, d)
			}
			failure := report.Failure()
			if failure == nil || failure.ID != tc.row {
				t.Fatalf("the first row that failed is %+v, want %s", failure, tc.row)
			}
			told := strings.Join([]string{failure.Fault.Summary, failure.Fault.Detail, failure.Fault.Remedy}, "\n")
			for _, words := range tc.says {
				if !strings.Contains(told, strings.ReplaceAll(words, "s1-vm-", s.name+"-vm-")) {
					t.Errorf("it does not say %q:\n%s", words, told)
				}
			}
			for _, value := range []string{password, secret, "the-secret-key", "the-plugin-key", "the-inner-key", "the-init-password"} {
				for _, r := range report.Rows {
					if r.Fault != nil && strings.Contains(r.Fault.Error()+r.Fault.Remedy, value) || strings.Contains(r.Detail, value) {
						t.Errorf("the row %s shows %q", r.ID, value)
					}
				}
			}
		})
	}
}

// lack takes a right to the stack's bucket away.
func (s *stack) lack(right string) {
	s.w.store.mu.Lock()
	defer s.w.store.mu.Unlock()
	s.w.store.lacks[s.name] = right
}

// another makes a second bucket and gives its name.
func (s *stack) another() string {
	s.w.store.mu.Lock()
	defer s.w.store.mu.Unlock()
	s.w.store.buckets[s.name+"-other"] = map[string]string{}
	return s.name + "-other"
}

// everywhere sets a setting on all instances, of the services that have it.
func (s *stack) everywhere(name, value string) {
	for _, in := range s.instances {
		in.set(name, value)
	}
}
