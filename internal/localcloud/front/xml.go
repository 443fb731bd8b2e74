package front

import (
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// objectPath gives the method and its parameters for a request of Cloud Storage's XML API, GET or HEAD /BUCKET/OBJECT.
// On Google that API is known by its host; here it has what is left of the paths.
func (s *Server) objectPath(req *http.Request) (*route, map[string]string) {
	bucket, object, ok := strings.Cut(strings.TrimPrefix(req.URL.EscapedPath(), "/"), "/")
	if !ok || len(bucket) < 3 || object == "" || s.roots[bucket] {
		return nil, nil
	}
	name, err := url.PathUnescape(object)
	if err != nil {
		return nil, nil
	}
	return &route{method: s.object, xml: true}, map[string]string{"bucket": bucket, "object": name}
}

// checkXML refuses what the XML API has and the local cloud has not.
func checkXML(r *Request) error {
	if r.HTTP.Method != http.MethodGet && r.HTTP.Method != http.MethodHead {
		return &Error{Code: http.StatusMethodNotAllowed, XML: "MethodNotAllowed", Message: "The local cloud's XML API has GET and HEAD of objects; the JSON API has the rest."}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Query)) {
		switch {
		case strings.HasPrefix(strings.ToLower(name), "x-goog-"):
			return &Error{Code: http.StatusBadRequest, XML: "InvalidArgument", Message: "The local cloud knows no signed URLs."}
		case name != "generation" && name != "userProject":
			return &Error{Code: http.StatusBadRequest, XML: "InvalidArgument", Message: "The local cloud's XML API does not have the parameter " + name + "."}
		}
	}
	return nil
}

// xmlEnvelope writes e as the XML API does.
func (e *Error) xmlEnvelope() []byte {
	code := e.XML
	if code == "" {
		code = map[int]string{
			http.StatusBadRequest: "InvalidArgument", http.StatusUnauthorized: "AuthenticationRequired", http.StatusForbidden: "AccessDenied", http.StatusNotFound: "NoSuchKey",
			http.StatusPreconditionFailed: "PreconditionFailed", http.StatusRequestedRangeNotSatisfiable: "InvalidRange", http.StatusTooManyRequests: "SlowDown",
			http.StatusServiceUnavailable: "ServiceUnavailable",
		}[e.Code]
	}
	if code == "" {
		code = "InternalError"
	}
	body, _ := xml.Marshal(struct { // texts can always be written
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: e.Message})
	return append([]byte("<?xml version='1.0' encoding='UTF-8'?>"), body...)
}
