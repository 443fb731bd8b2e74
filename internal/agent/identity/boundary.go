package identity

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// What a caller may do with objects, and with the bucket that it has all of: its clients ask for the bucket before each use.
const (
	objectRole = "inRole:roles/storage.objectAdmin"
	bucketRole = "inRole:roles/storage.legacyBucketReader"
)

type rule struct {
	Resource    string     `json:"availableResource"`
	Permissions []string   `json:"availablePermissions"`
	Condition   *condition `json:"availabilityCondition,omitempty"`
}

type condition struct {
	Expression string `json:"expression"`
}

// Boundary gives the Credential Access Boundary of a caller, as the options of a token's exchange: the objects of a bucket whose
// names begin with one of the prefixes. "" stands for the whole bucket.
func Boundary(bucket string, prefixes []string) string {
	r := rule{Resource: "//storage.googleapis.com/projects/_/buckets/" + bucket, Permissions: []string{objectRole}}
	var terms []string
	for _, p := range prefixes {
		terms = append(terms, fmt.Sprintf("resource.name.startsWith('projects/_/buckets/%s/objects/%s')", bucket, p),
			// Who lists is asked for the bucket, and for what the names begin with.
			fmt.Sprintf("api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('%s')", p))
	}
	if slices.Contains(prefixes, "") {
		r.Permissions = []string{bucketRole, objectRole}
	} else { // without any, it is one that the service does not take
		r.Condition = &condition{strings.Join(terms, " || ")}
	}
	var options struct {
		Boundary struct {
			Rules []rule `json:"accessBoundaryRules"`
		} `json:"accessBoundary"`
	}
	options.Boundary.Rules = []rule{r}
	raw, _ := json.Marshal(options) // texts always encode
	return string(raw)
}
