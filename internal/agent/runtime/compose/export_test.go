package compose

import (
	"context"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// Wake is what Run does first.
func Wake(ctx context.Context, r runtime.Runtime, services []dify.Service) error {
	return r.(*engine).wake(ctx, services)
}
