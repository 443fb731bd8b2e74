package front

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/schema"
)

// route is a method's path as segments; a segment is literal, or a parameter with an optional ":verb" behind it.
type route struct {
	method   *schema.Method
	upload   bool
	xml      bool // of Cloud Storage's XML API
	segments []segment
	literals int
}

type segment struct{ literal, param, verb string }

type router struct {
	routes map[string][]route // by HTTP method and number of segments, the most literal first
}

func (rt *router) add(httpMethod, path string, m *schema.Method, upload bool) {
	r := route{method: m, upload: upload}
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		s := segment{literal: part}
		if rest, ok := strings.CutPrefix(part, "{"); ok {
			name, verb, _ := strings.Cut(rest, "}")
			s = segment{param: name, verb: verb}
			if verb != "" {
				r.literals++
			}
		} else {
			r.literals += 2
		}
		r.segments = append(r.segments, s)
	}
	key := routeKey(httpMethod, len(r.segments))
	list := append(rt.routes[key], r)
	slices.SortStableFunc(list, func(a, b route) int { return b.literals - a.literals })
	rt.routes[key] = list
}

func routeKey(httpMethod string, segments int) string {
	return httpMethod + strings.Repeat("/", segments)
}

// find matches a request's path, still escaped, since object names may hold slashes.
func (rt *router) find(req *http.Request) (*route, map[string]string) {
	parts := strings.Split(strings.Trim(req.URL.EscapedPath(), "/"), "/")
	for i := range parts {
		part, err := url.PathUnescape(parts[i])
		if err != nil {
			return nil, nil
		}
		parts[i] = part
	}
	for _, r := range rt.routes[routeKey(req.Method, len(parts))] {
		if params, ok := r.match(parts); ok {
			return &r, params
		}
	}
	return nil, nil
}

func (r *route) match(parts []string) (map[string]string, bool) {
	params := map[string]string{}
	for i, s := range r.segments {
		switch {
		case s.param == "":
			if s.literal != parts[i] {
				return nil, false
			}
		default:
			v, ok := strings.CutSuffix(parts[i], s.verb)
			if !ok || v == "" {
				return nil, false
			}
			params[s.param] = v
		}
	}
	return params, true
}
