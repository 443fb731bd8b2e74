package iam

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// What a Credential Access Boundary may have at most.
const (
	mostRules      = 10
	longestBounds  = 2048
	mostOperators  = 12 // in one condition, as in all of IAM's
	resourcePrefix = "//storage.googleapis.com/projects/_/buckets/"
)

// boundary permits what one of its rules does.
type boundary []rule

type rule struct {
	bucket      string
	permissions []string    // patterns
	when        []condition // one of them holds; none = always
}

// condition is that a text begins with another one.
type condition struct {
	list   bool // the prefix of the names that are listed; else the resource's name
	prefix string
}

// Permits says whether one of the rules permits a use.
func (b boundary) Permits(u front.Use) bool {
	name := "projects/_/buckets/" + u.Bucket
	if u.Object != "" {
		name += "/objects/" + u.Object
	}
	return slices.ContainsFunc(b, func(r rule) bool {
		return r.bucket == u.Bucket && slices.ContainsFunc(r.permissions, func(pattern string) bool { return matches(pattern, u.Permission) }) &&
			(len(r.when) == 0 || slices.ContainsFunc(r.when, func(c condition) bool {
				if c.list {
					return strings.HasPrefix(u.Prefix, c.prefix)
				}
				return strings.HasPrefix(name, c.prefix)
			}))
	})
}

// ParseBoundary reads the options of a token's exchange, which must have a boundary. Conditions are those that Google's
// documentation has: the beginning of an object's name, or of the names that are listed, and several of them joined by "||".
func (p *Policies) ParseBoundary(options string) (front.Boundary, error) {
	var o struct {
		Boundary json.RawMessage `json:"accessBoundary"`
	}
	if err := strictly(options, &o); err != nil {
		return nil, err
	}
	var given struct {
		Rules []struct {
			Resource    string   `json:"availableResource"`
			Permissions []string `json:"availablePermissions"`
			Condition   *struct {
				Expression  string `json:"expression"`
				Title       string `json:"title"`
				Description string `json:"description"`
				Location    string `json:"location"`
			} `json:"availabilityCondition"`
		} `json:"accessBoundaryRules"`
	}
	if err := strictly(string(o.Boundary), &given); err != nil {
		return nil, err
	}
	switch n := len(given.Rules); {
	case len(o.Boundary) > longestBounds:
		return nil, fmt.Errorf("the access boundary is longer than %d characters", longestBounds)
	case n == 0:
		return nil, errors.New("the access boundary has no rules")
	case n > mostRules:
		return nil, fmt.Errorf("the access boundary has %d rules, and may have %d", n, mostRules)
	}
	var b boundary
	for _, g := range given.Rules {
		bucket, ok := strings.CutPrefix(g.Resource, resourcePrefix)
		if !ok || bucket == "" || strings.Contains(bucket, "/") {
			return nil, fmt.Errorf("the resource %q is no bucket, %sNAME", g.Resource, resourcePrefix)
		}
		r := rule{bucket: bucket}
		if len(g.Permissions) == 0 {
			return nil, errors.New("a rule has no permissions")
		}
		for _, permission := range g.Permissions {
			role, ok := strings.CutPrefix(permission, "inRole:")
			if !ok {
				return nil, fmt.Errorf("the permission %q is no role, inRole:NAME", permission)
			}
			if err := p.checkRole(role); err != nil {
				return nil, err
			}
			r.permissions = append(r.permissions, p.roles[role]...)
		}
		if g.Condition != nil {
			var err error
			if r.when, err = conditions(g.Condition.Expression); err != nil {
				return nil, err
			}
		}
		b = append(b, r)
	}
	return b, nil
}

func strictly(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("it cannot be read as JSON: %w", err)
	}
	if d.More() {
		return errors.New("something follows the JSON")
	}
	return nil
}

// term is one of the conditions that are understood. Its string has no quotes or backslashes.
var term = regexp.MustCompile(`^(?:(resource\.name)|api\.getAttribute\(\s*['"]storage\.googleapis\.com/objectListPrefix['"]\s*,\s*(?:''|"")\s*\))` +
	`\.startsWith\(\s*(?:'([^'"\\]*)'|"([^'"\\]*)")\s*\)$`)

// conditions reads an expression.
func conditions(expression string) ([]condition, error) {
	if n := strings.Count(expression, "||"); n > mostOperators {
		return nil, fmt.Errorf("the condition has %d logical operators, and may have %d", n, mostOperators)
	}
	var all []condition
	for text := range strings.SplitSeq(expression, "||") {
		m := term.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			return nil, fmt.Errorf("the local cloud does not evaluate the condition %q", text)
		}
		all = append(all, condition{list: m[1] == "", prefix: m[2] + m[3]})
	}
	return all, nil
}
