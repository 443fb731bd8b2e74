package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ID names a resource within a stack: the kind's name, a slash, and the resource's own name, which for a nested
// resource includes its parents' ("sql.databases/demo-main/dify").
type ID string

// Path points into a body: "settings.tier", "backends[].group", "ipAddresses[type=PRIVATE].ipAddress".
type Path string

// Dialect is how a service reports long work.
type Dialect string

// The dialects: Compute's operations (with wait), Cloud SQL's, google.longrunning's, and answers that are final.
const (
	Sync        Dialect = ""
	Compute     Dialect = "compute"
	SQL         Dialect = "sql"
	LongRunning Dialect = "longrunning"
)

// API is a Google service as the REST driver needs to know it.
type API struct {
	Name      string  // "compute": the endpoint override's key
	Host      string  // "https://compute.googleapis.com/"
	Base      string  // "compute/v1/": between the host and a collection
	Operation Dialect // how its mutations report
}

// Site is where Google's links to resources begin, whichever host serves them.
const Site = "https://www.googleapis.com/"

// Update is how a kind changes in place.
type Update string

// The ways to update.
const (
	Replace   Update = ""          // it cannot: any change needs a new one
	Patch     Update = "patch"     // PATCH of the changed top-level fields (merge, lists replaced whole)
	PatchMask Update = "patchmask" // PATCH with ?updateMask=, all changed fields in one request
	PatchEach Update = "patcheach" // PATCH with ?updateMask=, one field to a request (Memorystore)
)

// Kind is a type of Google resource, as data. Fields hold facts of Google's API, checked by TestKinds against the
// discovery documents; behaviour that differs by steps belongs in a Driver.
type Kind struct {
	Name        string // "compute.healthChecks"
	API         *API
	Collection  string // "projects/{project}/global/healthChecks", below API.Base
	CreateParam string // query parameter that carries the name at creation ("instanceId"); "" = in the body
	PatchParam  string // query parameter that carries the name in a PATCH of the collection ("autoscaler")
	List        string // field of a list answer that holds the items ("items"); "" = the kind cannot be listed
	Update      Update
	Immutable   []Path          // changing one of these needs a new resource
	Sets        []Path          // lists whose order means nothing
	Ignored     []Path          // wanted at creation, not compared: Google or another resource changes them
	Secret      []Path          // never printed, never compared; as an output, asked for with a call of its own
	Fingerprint Path            // optimistic lock sent back in an update
	Ready       map[Path]string // what a resource in use must show, e.g. state = RUNNABLE
	Holds       Holding         // what is never replaced or deleted unless named
	Mark        Marking         // how it shows whose it is
	Driver      string          // "" = REST
}

// Holding is what is lost with a resource.
type Holding int

// What a resource holds. Keys are what the data of others is read with: they are deleted after it. Machines use the data of others:
// they are deleted before it, and can be had anew.
const (
	Nothing Holding = iota
	Data
	Keys
	Machines
)

// HoldsData says whether something is lost with a resource of the kind.
func (k *Kind) HoldsData() bool { return k.Holds == Data || k.Holds == Keys }

// Resource is one wanted object.
type Resource struct {
	Kind   *Kind
	Name   string            // within the kind: "demo-lb", "demo-main/dify"
	Params map[string]string // fills Kind.Collection: project, region, instance, …
	Body   map[string]any    // as JSON decodes it, every managed field present
	Needs  []ID              // order that no field shows
	// References are the fields of Body that other resources fill, made with Refer and Take.
	References []Reference
}

// Of is a Kind whose bodies are T, so that a wrong body does not compile.
type Of[T any] struct{ *Kind }

// New makes a resource of this kind. The body's JSON form is what is wanted of Google: fields named in
// ForceSendFields are managed even when empty. Params fill the kind's collection; the resource's ID is made of the
// kind's name and name.
func (k Of[T]) New(name string, params map[string]string, body *T) *Resource {
	raw, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("resource: %s %s: %v. This is a bug in difyup.", k.Name, name, err))
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		panic(fmt.Sprintf("resource: %s %s: %v. This is a bug in difyup.", k.Name, name, err))
	}
	return &Resource{Kind: k.Kind, Name: name, Params: maps.Clone(params), Body: m}
}

// ID gives the resource's ID.
func (r *Resource) ID() ID { return ID(r.Kind.Name + "/" + r.Name) }

// Leaf is the last part of the name: what the resource is called inside its collection.
func (r *Resource) Leaf() string { return r.Name[strings.LastIndex(r.Name, "/")+1:] }

// CollectionPath is the collection with its parameters filled in, relative to the API's base.
func (r *Resource) CollectionPath() string { return Expand(r.Kind.Collection, r.Params) }

// Link is the resource's relative self link, "projects/p/global/networks/n": known before it exists.
func (r *Resource) Link() string { return r.CollectionPath() + "/" + r.Leaf() }

// URL is the link as Google writes it: "https://www.googleapis.com/compute/v1/projects/p/global/networks/n". Compute takes
// it everywhere, and in some fields takes nothing shorter.
func (r *Resource) URL() string { return Site + r.Kind.API.Base + r.Link() }

// After adds order that no field shows, and returns r.
func (r *Resource) After(others ...*Resource) *Resource {
	for _, o := range others {
		if o != nil && !slices.Contains(r.Needs, o.ID()) {
			r.Needs = append(r.Needs, o.ID())
		}
	}
	return r
}

// MissingParams gives the parameters of the collection that the resource lacks.
func (r *Resource) MissingParams() []string {
	var missing []string
	for rest := r.Kind.Collection; ; {
		_, after, ok := strings.Cut(rest, "{")
		name, after, _ := strings.Cut(after, "}")
		if !ok {
			return missing
		}
		if r.Params[name] == "" {
			missing = append(missing, name)
		}
		rest = after
	}
}

// Expand fills {name} parts of a template. A missing parameter panics: templates and parameters are ours.
func Expand(template string, params map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(template, '{')
		if i < 0 {
			b.WriteString(template)
			return b.String()
		}
		j := i + strings.IndexByte(template[i:], '}')
		v, ok := params[template[i+1:j]]
		if !ok {
			panic(fmt.Sprintf("resource: no parameter %q for %q. This is a bug in difyup.", template[i+1:j], template))
		}
		b.WriteString(template[:i] + v)
		template = template[j+1:]
	}
}
