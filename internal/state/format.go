package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/resource"
)

// format is the version that is written. Version 1 had no intent, and said by a flag that a run did not end.
//
// A later difyup adds fields without a new version: what a reader does not know it keeps when it writes. What a reader
// must know, lest it do harm, is named in needs.
const format = 2

// understood are the features that a state may need of its reader.
var understood = []string{}

// file is the state as the object has it.
type file struct {
	Version    int               `json:"version"`
	Needs      []string          `json:"needs,omitempty"`
	Run        string            `json:"run,omitempty"`    // that wrote it
	Serial     int64             `json:"serial,omitempty"` // how often it was written
	Stack      string            `json:"stack"`
	Project    string            `json:"project"`
	Owned      []json.RawMessage `json:"owned"`
	History    []json.RawMessage `json:"history"`
	Intent     json.RawMessage   `json:"intent,omitempty"`
	Schema     json.RawMessage   `json:"schema,omitempty"`
	Pins       []json.RawMessage `json:"pins,omitempty"`
	Enabled    []json.RawMessage `json:"enabled,omitempty"`
	Unfinished bool              `json:"unfinished,omitempty"` // version 1's
}

// fields are those of an object that its reader does not know.
type fields = map[string]json.RawMessage

// errBroken says that an object is not a state at all, so that an older version may take its place.
var errBroken = errors.New("it is not what difyup writes")

// decode reads a state. The error is errBroken, or a fault for a state that is well and not for this difyup.
func (s *Store) decode(raw []byte) (*State, error) {
	broken := func(err error) error { return fmt.Errorf("%w (%w)", errBroken, err) }
	var head struct {
		Version json.RawMessage
		Needs   json.RawMessage
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, broken(err)
	}
	if head.Version == nil {
		return nil, errBroken
	}
	version, err := strconv.Atoi(string(head.Version))
	if err != nil || version < 1 {
		return nil, &fault.Fault{
			Summary: "The state has an unknown format",
			Detail:  fmt.Sprintf("%s says that its version is %.20s; this difyup knows 1 to %d. Something else wrote it.", s.url(stateObject), head.Version, format),
			Remedy:  "Look at its older versions, and copy the last good one over it:\n    gcloud storage ls --all-versions " + s.url(stateObject),
		}
	}
	if version > format {
		return nil, s.newer(fmt.Sprintf("has the format %d; this difyup knows %d", version, format))
	}
	var needs []string
	if head.Needs != nil {
		if err := json.Unmarshal(head.Needs, &needs); err != nil {
			return nil, s.newer("names what a reader must know in a way that this difyup does not")
		}
	}
	for _, n := range needs {
		if !slices.Contains(understood, n) {
			return nil, s.newer(fmt.Sprintf("needs a difyup that knows %.40q", n))
		}
	}
	var f file
	st := &State{needs: needs, version: version, refs: map[resource.ID]fields{}}
	if st.extra, err = take(raw, &f); err != nil {
		return nil, broken(err)
	}
	st.Stack, st.Project, st.run, st.serial = f.Stack, f.Project, f.Run, f.Serial
	for _, item := range f.Owned {
		var ref resource.Ref
		extra, err := take(item, &ref)
		if err != nil {
			return nil, broken(err)
		}
		st.Owned = append(st.Owned, ref)
		if len(extra) > 0 {
			st.refs[ref.ID] = extra
		}
	}
	for _, item := range f.History {
		var r Run
		if r.extra, err = take(item, &r); err != nil {
			return nil, broken(err)
		}
		st.History = append(st.History, r)
	}
	for _, item := range f.Pins {
		var p Pin
		if p.extra, err = take(item, &p); err != nil {
			return nil, broken(err)
		}
		st.Pins = append(st.Pins, p)
	}
	for _, item := range f.Enabled {
		var e Enabled
		if e.extra, err = take(item, &e); err != nil {
			return nil, broken(err)
		}
		st.Enabled = append(st.Enabled, e)
	}
	if given(f.Schema) {
		st.Schema = &Schema{}
		if st.Schema.extra, err = take(f.Schema, st.Schema); err != nil {
			return nil, broken(err)
		}
	}
	switch {
	case given(f.Intent):
		st.Intent = &Intent{}
		if st.Intent.extra, err = take(f.Intent, st.Intent); err != nil {
			return nil, broken(err)
		}
	case f.Unfinished:
		st.Intent = &Intent{Command: "a command of an earlier difyup"}
	}
	return st, s.check(st)
}

// given says whether an optional field has a value.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

func (s *Store) newer(what string) error {
	return &fault.Fault{
		Summary: "The state was written by a newer difyup",
		Detail:  fmt.Sprintf("%s %s.", s.url(stateObject), what),
		Remedy:  "Use that difyup, or a newer one.",
	}
}

// check refuses a state that is not this stack's, or names what no difyup would have made for it: what it says is
// deleted on its word, as far as that goes.
func (s *Store) check(st *State) error {
	if st.Stack != s.stack || st.Project != s.client.Project() {
		return &fault.Fault{
			Summary: "The state is another stack's",
			Detail: fmt.Sprintf("%s is the state of the stack %.80q in the project %.80q, not of %s in %s. Somebody copied it here.",
				s.url(stateObject), st.Stack, st.Project, s.stack, s.client.Project()),
			Remedy: "Look at its older versions, and copy the last good one over it:\n    gcloud storage ls --all-versions " + s.url(stateObject),
		}
	}
	for _, ref := range st.Owned {
		if string(ref.ID) != ref.Kind+"/"+ref.Name || ref.Params["project"] != st.Project || !plain(ref) {
			return &fault.Fault{
				Summary: "The state contradicts itself",
				Detail:  fmt.Sprintf("%s names %.120q, which no difyup recorded like this for %s in %s. Somebody else wrote it.", s.url(stateObject), ref.ID, s.stack, st.Project),
				Remedy:  "Look at its older versions, and copy the last good one over it:\n    gcloud storage ls --all-versions " + s.url(stateObject),
			}
		}
	}
	return nil
}

// plain says whether the parts of a path that a ref gives stay the parts that they are.
func plain(ref resource.Ref) bool {
	if strings.ContainsAny(ref.Name, "?#%\\") || slices.Contains(strings.Split(ref.Name, "/"), "..") {
		return false
	}
	for _, v := range ref.Params {
		if v == "" || strings.ContainsAny(v, "/?#%\\") || strings.Contains(v, "..") {
			return false
		}
	}
	return true
}

// encode gives the state as it is written. The same state gives the same bytes.
func (st *State) encode() ([]byte, error) {
	f := file{
		Version: format, Needs: st.needs, Run: st.run, Serial: st.serial, Stack: st.Stack, Project: st.Project,
		Owned: make([]json.RawMessage, len(st.Owned)), History: make([]json.RawMessage, len(st.History)),
	}
	var err error
	for i, ref := range st.Owned {
		if f.Owned[i], err = give(ref, st.refs[ref.ID]); err != nil {
			return nil, err
		}
	}
	for i, r := range st.History {
		if f.History[i], err = give(r, r.extra); err != nil {
			return nil, err
		}
	}
	if st.Intent != nil {
		if f.Intent, err = give(st.Intent, st.Intent.extra); err != nil {
			return nil, err
		}
	}
	for _, p := range st.Pins {
		raw, err := give(p, p.extra)
		if err != nil {
			return nil, err
		}
		f.Pins = append(f.Pins, raw)
	}
	for _, e := range st.Enabled {
		raw, err := give(e, e.extra)
		if err != nil {
			return nil, err
		}
		f.Enabled = append(f.Enabled, raw)
	}
	if st.Schema != nil {
		if f.Schema, err = give(st.Schema, st.Schema.extra); err != nil {
			return nil, err
		}
	}
	raw, err := give(f, st.extra)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// take decodes a JSON object into a struct, and gives the fields that the struct has not.
func take(raw []byte, out any) (fields, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return nil, errors.New("an object is expected")
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, err
	}
	var all fields
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(out).Elem()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		delete(all, name)
	}
	return all, nil
}

// give encodes a struct and the fields that it has not, which come last and in the order of their names.
func give(v any, extra fields) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return raw, err
	}
	out := bytes.TrimSuffix(raw, []byte("}"))
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), extra[name]...)
	}
	return append(out, '}'), nil
}
