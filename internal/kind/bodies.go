package kind

// The bodies of kinds whose wanted state is not one of Google's messages. Their drivers turn them into calls.

// ServiceList is the body of Services: the APIs that must be enabled in the project.
type ServiceList struct {
	Services []string `json:"services"` // "compute.googleapis.com"
}

// Policy is the body of the IAM kinds: the bindings a stack adds to a project, bucket or secret. Bindings of others
// are kept.
type Policy struct {
	Bindings []Binding `json:"bindings"`
}

// Binding grants a role to members.
type Binding struct {
	Role    string   `json:"role"`
	Members []string `json:"members"` // "serviceAccount:EMAIL"
}

// Secret is the body of Secrets: the secret, how its value comes about, and which of its versions has it.
type Secret struct {
	Labels   map[string]string `json:"labels"`
	Version  int               `json:"version"`            // the last that difyup added; live, what it wrote down of that
	Payload  string            `json:"payload,omitempty"`  // taken from what another service makes, or "" to generate
	Generate int               `json:"generate,omitempty"` // length in characters of [A-Za-z0-9]
}

// Certificate is the body of SSLCertificates. A self-signed certificate's key is made when it is created and never
// leaves memory.
type Certificate struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Type        string   `json:"type"`    // SELF_MANAGED (self-signed here) or MANAGED
	Domains     []string `json:"domains"` // subject alternative names
}

// Object is the body of BucketObjects: a file that must be in the bucket.
type Object struct {
	Bucket string `json:"bucket"`
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex, kept in the object's metadata
	Source string `json:"source"` // what gcp.Options.ReadFile takes: a local path, unless it was given another
}
