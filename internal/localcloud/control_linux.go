package localcloud

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/difyup/difyup/internal/localcloud/faults"
)

// control serves what is the local cloud's own, to its owner. No fault ever meets these requests.
func (c *cloud) control() {
	c.front.HandleHTTP("GET /local/v1/status", http.HandlerFunc(c.status))
	c.front.HandleHTTP("GET /local/v1/dump", http.HandlerFunc(c.dump))
	c.front.HandleHTTP("GET /local/v1/faults", http.HandlerFunc(c.listFaults))
	c.front.HandleHTTP("POST /local/v1/faults", http.HandlerFunc(c.addFault))
	c.front.HandleHTTP("DELETE /local/v1/faults", http.HandlerFunc(c.clearFaults))
	c.front.HandleHTTP("POST /local/v1/keep", http.HandlerFunc(c.keep))
	c.front.HandleHTTP("POST /local/v1/shutdown", http.HandlerFunc(c.shutdown))
}

func (c *cloud) listFaults(w http.ResponseWriter, _ *http.Request) { c.answer(w, c.faults.List()) }

func (c *cloud) addFault(w http.ResponseWriter, r *http.Request) {
	var rule faults.Rule
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&rule); err != nil {
		http.Error(w, fmt.Sprintf("the rule cannot be read: %v", err), http.StatusBadRequest)
		return
	}
	if err := rule.Check(c.front.MethodIDs()); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.answer(w, c.faults.Add(rule))
}

func (c *cloud) clearFaults(w http.ResponseWriter, r *http.Request) {
	id := 0
	if text := r.URL.Query().Get("id"); text != "" {
		var err error
		if id, err = strconv.Atoi(text); err != nil || id < 1 {
			http.Error(w, fmt.Sprintf("%q is no rule's number", text), http.StatusBadRequest)
			return
		}
	}
	c.answer(w, map[string]int{"cleared": c.faults.Clear(id, r.URL.Query().Get("name"))})
}

// dump answers with all that the cloud knows, but for what is secret.
func (c *cloud) dump(w http.ResponseWriter, _ *http.Request) {
	d := Dump{Collections: map[string]map[string]map[string]any{}, Secrets: c.secrets.Dump(), Objects: c.storage.Dump()}
	for _, name := range c.store.Names() {
		all := map[string]map[string]any{}
		collection := c.store.Collection(name)
		for _, key := range collection.Keys("") {
			if b, ok := collection.Get(key); ok {
				all[key] = b
			}
		}
		d.Collections[name] = all
	}
	c.answer(w, d)
}

func (c *cloud) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		c.opts.Log.Debug("answer", "error", err)
	}
}
