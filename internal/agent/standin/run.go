package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

// A workflow runs in a worker, which may be another instance's, as in Dify since 1.13: the API enqueues it and streams the
// events that the worker publishes in Redis. The stand-in's nodes do nothing, for as many milliseconds as their data say in
// "standin_milliseconds".

const workflowQueue = "workflow_based_app_execution"

// event is one of a run's.
type event struct {
	Event string         `json:"event"`
	Run   string         `json:"workflow_run_id"`
	Data  map[string]any `json:"data"`
}

const lastEvent = "workflow_finished"

func channel(run string) string { return "standin:run:" + run }

// postRun runs an app's draft, and streams what happens as server-sent events.
func (a *api) postRun(w http.ResponseWriter, r *http.Request, u user) error {
	app, _, _, err := a.app(r, u)
	if err != nil {
		return err
	}
	var in struct{ Inputs map[string]any }
	if err := read(r, &in); err != nil {
		return err
	}
	t := task{Name: "run", ID: newID(), Tenant: u.tenant, App: app}
	events := a.events.Subscribe(r.Context(), channel(t.ID))
	defer events.Close()
	if _, err := events.Receive(r.Context()); err != nil { // that the subscription is there: no event may be missed
		return err
	}
	if err := a.enqueue(r.Context(), workflowQueue, t); err != nil {
		return err
	}
	w.Header().Set(notDify, "this is the stand-in of difyup, not Dify")
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	flush := http.NewResponseController(w).Flush
	ping := time.NewTicker(10 * time.Second) // as Dify does
	defer ping.Stop()
	send := func(text string) error {
		if _, err := fmt.Fprintf(w, "%s\n\n", text); err != nil {
			return err
		}
		return flush()
	}
	if send("event: ping") != nil {
		return nil // the client is gone
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-ping.C:
			if send("event: ping") != nil {
				return nil
			}
		case m, ok := <-events.Channel():
			if !ok {
				return nil // the answer breaks off, and the client sees that
			}
			if send("data: "+m.Payload) != nil {
				return nil
			}
			var e event
			if json.Unmarshal([]byte(m.Payload), &e) == nil && e.Event == lastEvent {
				return nil
			}
		}
	}
}

// stream serves a handler that writes its answer itself, unless it gives an error before it has begun to.
func (a *api) stream(h func(w http.ResponseWriter, r *http.Request, u user) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := a.login(r)
		if err == nil {
			err = h(w, r, u)
		}
		if err != nil {
			a.serve(func(http.ResponseWriter, *http.Request) (answer, error) { return answer{}, err }).ServeHTTP(w, r)
		}
	})
}

// execute runs the nodes of an app's draft.
func (w *worker) execute(ctx context.Context, t task) error {
	say := func(name string, data map[string]any) error {
		raw, err := json.Marshal(event{name, t.ID, data})
		if err != nil {
			return err
		}
		return w.events.do(ctx, func(ctx context.Context) error { return w.events.Publish(ctx, channel(t.ID), raw).Err() })
	}
	var raw string
	err := w.row(ctx, []any{&raw}, `SELECT graph::text FROM standin_workflows WHERE app_id = $1`, t.App)
	if err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			err = errors.New("the app has no draft")
		}
		return errors.Join(err, say(lastEvent, map[string]any{"status": "failed", "error": w.env.hide(err)}))
	}
	var graph struct {
		Nodes []struct {
			ID   string
			Data struct {
				Milliseconds int `json:"standin_milliseconds"`
			}
		}
	}
	if err := json.Unmarshal([]byte(raw), &graph); err != nil {
		return err
	}
	if err := say("workflow_started", map[string]any{}); err != nil {
		return err
	}
	for _, n := range graph.Nodes {
		if err := say("node_started", map[string]any{"node_id": n.ID}); err != nil {
			return err
		}
		timer := time.NewTimer(time.Duration(n.Data.Milliseconds) * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		if err := say("node_finished", map[string]any{"node_id": n.ID, "status": "succeeded"}); err != nil {
			return err
		}
	}
	return say(lastEvent, map[string]any{"status": "succeeded"})
}
