package ops

import (
	"cmp"
	"context"
	"fmt"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// Secret gives the value of one of the stack's secrets that instances are to read, by its purpose. Whoever asks must not show it.
func (s *Stack) Secret(ctx context.Context, purpose string) (string, error) {
	for _, p := range dify.Purposes() {
		if p.Key != purpose {
			continue
		}
		for _, r := range s.graph.Resources() {
			if r.Kind == kind.Secrets.Kind && r.Leaf() == s.opts.Spec.Stack+"-"+p.Name {
				live, err := s.client.Read(ctx, r)
				if err != nil {
					return "", fmt.Errorf("read the secret %s: %w", r.Leaf(), err)
				}
				which := cmp.Or(kind.Annotation(live, kind.SecretAdded), "latest")
				if !p.Held {
					which = cmp.Or(kind.Annotation(live, kind.SecretUsed), which)
				}
				_, value, err := s.client.SecretVersion(ctx, r, which)
				if err != nil {
					return "", fmt.Errorf("read the secret %s: %w", r.Leaf(), err)
				}
				return value, nil
			}
		}
	}
	return "", fmt.Errorf("the stack has no secret for %s", purpose)
}

// Certificate gives the certificate that difyup made for the load balancer, as PEM; "" when Google issues it.
func (s *Stack) Certificate(ctx context.Context) (string, error) {
	if s.opts.Spec.LoadBalancer.Certificate != "self-signed" {
		return "", nil
	}
	for _, r := range s.graph.Resources() {
		if r.Kind != kind.SSLCertificates.Kind {
			continue
		}
		live, err := s.client.Read(ctx, r)
		if err != nil {
			return "", fmt.Errorf("read the certificate: %w", err)
		}
		if v, ok := resource.Lookup(live, "certificate"); ok {
			return fmt.Sprint(v), nil
		}
	}
	return "", nil
}
