package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// When /alive says no. What replacing an instance cannot help is never a reason: a whole fleet would be replaced, again and
// again, because of one store.
const (
	// A new instance says no until it is ready, since a rolling update takes an old one away when a new one says yes. But healing
	// must not replace it for what it waits for; it leaves a new instance alone for longer than this (healing_delay_seconds).
	BootPatience = 20 * time.Minute
	// In a rehearsal, where Google's times are scaled, healing leaves it alone for 90 s at least.
	shortestBoot = time.Minute

	silentFor     = 10 * time.Minute // though every store could be reached
	silentThrough = 3                // restarts of the runtime, or minutes in which it could not be started
	// What was found of the stores longer ago says nothing: the checks are a minute apart.
	storesKnown = 3 * time.Minute
)

// facts are what is known of an instance when it is asked whether it is alive.
type facts struct {
	Up       time.Duration // since the machine began, or else the agent
	Ready    bool          // it was ready for traffic once
	Stores   bool          // the agent itself reached all that Dify needs when it last tried, which was lately
	Silent   time.Duration // the runtime has not answered, and the stores could be reached, for so long
	Restarts int           // of the runtime in that time
}

// alive says whether the instance is to be kept, and if not, why. boot is how long a new one may say no.
func (f facts) alive(boot time.Duration) (bool, string) {
	switch {
	case f.Stores && f.Silent >= silentFor && f.Restarts >= silentThrough:
		return false, fmt.Sprintf("every store can be reached, and the runtime has not answered for %s and %d restarts", f.Silent.Truncate(time.Second), f.Restarts)
	case !f.Ready && f.Up < boot:
		return false, "it was not ready yet"
	}
	return true, ""
}

// vitals gathers the facts.
type vitals struct {
	mark  string // a file that is there when the instance was ready once, however often the agent began; "" = none
	log   *slog.Logger
	began time.Time

	mu       sync.Mutex
	ready    bool
	reached  time.Time // when all stores were last found well; zero when they are not
	since    time.Time // when the runtime last answered, or something else was the cause that it did not
	restarts int       // since then
}

// newVitals has what must outlive the agent in a directory; "" = nothing does. Up is how long the machine has been up: healing counts
// from when that was made, long before Docker is there and the agent.
func newVitals(dir string, up time.Duration, log *slog.Logger) *vitals {
	v := &vitals{log: log, began: time.Now().Add(-up), since: time.Now()}
	if dir == "" {
		return v
	}
	v.mark = filepath.Join(dir, "ready")
	_, err := os.Stat(v.mark)
	v.ready = err == nil
	// A machine that is started again is as old as before.
	file := filepath.Join(dir, "began")
	raw, err := os.ReadFile(file)
	if err == nil {
		var first time.Time
		if first, err = time.Parse(time.RFC3339, string(raw)); err == nil && first.Before(v.began) {
			v.began = first
			return v
		}
	}
	if err = os.MkdirAll(dir, 0o700); err == nil {
		err = os.WriteFile(file, []byte(v.began.UTC().Format(time.RFC3339)), 0o600)
	}
	if err != nil {
		log.Warn("how old the instance is, is forgotten when the agent ends", "error", err)
	}
	return v
}

// answered notes that the runtime answers.
func (v *vitals) answered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.since, v.restarts = time.Now(), 0
}

// served notes that the instance is ready for traffic.
func (v *vitals) served() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ready {
		return
	}
	v.ready = true
	if v.mark == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(v.mark), 0o700)
	if err == nil {
		err = os.WriteFile(v.mark, nil, 0o600)
	}
	if err != nil {
		v.log.Warn("that the instance was ready once is forgotten when the agent ends", "error", err)
	}
}

// restarted notes that the runtime is started again, because it ended or did not answer, or that it cannot be.
func (v *vitals) restarted() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.restarts++
}

// stores notes whether all that Dify needs could be reached.
func (v *vitals) stores(well bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if well {
		v.reached = time.Now()
		return
	}
	v.reached, v.since, v.restarts = time.Time{}, time.Now(), 0
}

func (v *vitals) facts() facts {
	v.mu.Lock()
	defer v.mu.Unlock()
	return facts{
		Up: time.Since(v.began), Ready: v.ready, Stores: !v.reached.IsZero() && time.Since(v.reached) <= storesKnown,
		Silent: time.Since(v.since), Restarts: v.restarts,
	}
}
