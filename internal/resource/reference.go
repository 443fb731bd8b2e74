package resource

// Output is a value that Google decides for a resource and shows in its live body: an address, a connection's name.
type Output struct {
	Of   ID
	Path Path // in the live body of Of
}

// Reference is a field of a resource that another one fills. It stands beside the body: what a body's strings say means
// nothing to the engine, whoever wrote them.
type Reference struct {
	At Path // in the body: "backends[0].group"
	To ID
	// Output is where Google shows the value in To's live body. "" = At is a link, which is in the body already.
	Output Path
}

// Unknown stands in a body for a value that Google has not decided yet.
type Unknown struct{}

// String is what people are shown in place of the value.
func (Unknown) String() string { return "(known after apply)" }

// MarshalText has it be shown in JSON too.
func (u Unknown) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Output names a value that Google decides for r.
func (r *Resource) Output(p Path) Output { return Output{Of: r.ID(), Path: p} }

// Refer puts a link of another resource, its Link, its URL or what is made of them, at a path of r's body, and makes
// an edge to it. It returns r.
func (r *Resource) Refer(at Path, to *Resource, link string) *Resource {
	return r.set(Reference{At: at, To: to.ID()}, link)
}

// Take has the value of an output be put at a path of r's body when a step runs; until then the body says Unknown there.
// It returns r.
func (r *Resource) Take(at Path, from Output) *Resource {
	return r.set(Reference{At: at, To: from.Of, Output: from.Path}, Unknown{})
}

func (r *Resource) set(ref Reference, value any) *Resource {
	r.References = append(r.References, ref)
	r.Body, _ = put(r.Body, ref.At, value).(map[string]any)
	return r
}

// Resolve gives a copy of r's body with the outputs it takes, as value gives them. It stops at value's first error.
func (r *Resource) Resolve(value func(Output) (any, error)) (map[string]any, error) {
	body := Clone(r.Body)
	for _, ref := range r.References {
		if ref.Output == "" {
			continue
		}
		v, err := value(Output{Of: ref.To, Path: ref.Output})
		if err != nil {
			return nil, err
		}
		body, _ = put(body, ref.At, v).(map[string]any)
	}
	return body, nil
}

// Known gives a copy of r's body with the outputs that the live bodies show. The others stay Unknown.
func (r *Resource) Known(live map[ID]map[string]any) map[string]any {
	body, _ := r.Resolve(func(o Output) (any, error) {
		if v, ok := Lookup(live[o.Of], o.Path); ok {
			return v, nil
		}
		return Unknown{}, nil
	})
	return body
}
