package front

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// exchangePath is where tokens are exchanged: the one method whose caller is known by its body.
const exchangePath = "/v1/token"

// exchange answers a request for a token in another's place. It is from whom the subject's token is for; one without a token
// that is known is refused before it meets anything.
func (s *Server) exchange(w http.ResponseWriter, req *http.Request) {
	refuse := func(reason, format string, args ...any) {
		s.fail(w, "sts", &Error{Code: http.StatusBadRequest, Reason: reason, Status: OAuth, Message: fmt.Sprintf(format, args...)})
	}
	body, err := exchangeBody(req)
	if err != nil {
		refuse("invalid_request", "%v", err)
		return
	}
	token, _ := body["subjectToken"].(string)
	subject, ok := s.tokens.look(token)
	if !ok {
		refuse("invalid_grant", "The subject token is invalid or expired.")
		return
	}
	raw, err := json.Marshal(body)
	if err != nil {
		refuse("invalid_request", "%v", err)
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(raw))
	s.requests.Add(1)
	s.serveMethod(w, req, subject.identity)
}

// exchangeBody reads a request for a token, which is a form, as OAuth has it, or JSON, and gives its fields by their names in
// JSON.
func exchangeBody(req *http.Request) (map[string]any, error) {
	raw, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	if err != nil || len(raw) > maxBody {
		return nil, errors.New("the request cannot be read, or is too large")
	}
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")) // what is none is no form
	given := map[string]any{}
	if kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(raw))
		if err != nil {
			return nil, errors.New("the form cannot be read")
		}
		for name, values := range form {
			if len(values) > 1 {
				return nil, fmt.Errorf("the parameter %s is there more than once", name)
			}
			given[name] = values[0]
		}
	} else if err := json.Unmarshal(raw, &given); err != nil {
		return nil, errors.New("the body is neither a form nor JSON")
	}
	body := map[string]any{}
	for name, value := range given {
		head, rest, more := strings.Cut(name, "_")
		for more && rest != "" {
			var part string
			part, rest, more = strings.Cut(rest, "_")
			if part != "" {
				head += strings.ToUpper(part[:1]) + part[1:]
			}
		}
		if _, twice := body[head]; twice {
			return nil, fmt.Errorf("the parameter %s is there more than once", name)
		}
		body[head] = value
	}
	return body, nil
}
