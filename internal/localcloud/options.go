package localcloud

import (
	"log/slog"
	"time"

	"github.com/difyup/difyup/internal/localcloud/authority"
)

// Options say how a local cloud behaves.
type Options struct {
	Dir string // its state; it is removed at the end
	// TimeScale multiplies Google's latencies: 0 is instant (operations take milliseconds), 1 realistic.
	TimeScale float64
	// Fresh has projects begin as new ones at Google do, with hardly any API enabled. Otherwise all are enabled, so that any
	// client can begin at once.
	Fresh bool
	// Transient is what a local cloud is that was started for a stack, and is to end with its last one. Whoever ends it
	// asks Info; it does not end by itself.
	Transient bool
	Delay     time.Duration // every request to Google's APIs is answered that much later
	// CertificateNames are the names that certificates of databases and caches bear; "" = none.
	CertificateNames authority.Names
	Version          string // of difyup, shown in Info
	Log              *slog.Logger
	Ready            func(Info) // called once its APIs answer; may be nil
}
