package sts

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/iam"
)

const (
	exchange    = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// Register serves the Security Token Service on s.
func Register(s *front.Server, policies *iam.Policies) {
	s.Handle("sts.token", func(_ context.Context, r *front.Request) (any, error) { return token(s.Tokens(), policies, r.Body) })
}

func refuse(reason, format string, args ...any) error {
	return &front.Error{Code: http.StatusBadRequest, Reason: reason, Status: front.OAuth, Message: fmt.Sprintf(format, args...)}
}

func token(tokens *front.Tokens, policies *iam.Policies, in map[string]any) (any, error) {
	switch {
	case body.String(in, "grantType") != exchange:
		return nil, refuse("unsupported_grant_type", "Unsupported grant type: %s", body.String(in, "grantType"))
	case body.String(in, "requestedTokenType") != accessToken:
		return nil, refuse("invalid_request", "Invalid value for \"requested_token_type\": %q", body.String(in, "requestedTokenType"))
	case body.String(in, "subjectTokenType") != accessToken:
		return nil, refuse("invalid_request", "Invalid value for \"subject_token_type\": %q", body.String(in, "subjectTokenType"))
	}
	for _, field := range []string{"audience", "scope", "actorToken", "actorTokenType"} {
		if body.String(in, field) != "" {
			return nil, refuse("invalid_request", "The local cloud exchanges access tokens for narrower ones only, which %s has no part in.", field)
		}
	}
	boundary, err := policies.ParseBoundary(body.String(in, "options"))
	if err != nil {
		return nil, refuse("invalid_request", "Invalid value for \"options\": %v", err)
	}
	narrowed, life, err := tokens.Narrow(body.String(in, "subjectToken"), boundary)
	switch {
	case errors.Is(err, front.ErrNarrowed):
		return nil, refuse("invalid_request", "The subject token has security attributes already: it cannot be narrowed again.")
	case err != nil:
		return nil, refuse("invalid_grant", "The subject token is invalid or expired.")
	}
	return map[string]any{"access_token": narrowed, "issued_token_type": accessToken, "token_type": "Bearer", "expires_in": int(life.Seconds())}, nil
}
