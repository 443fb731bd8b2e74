package frontdoor

import "time"

// KeepFor has idle connections to services kept so long. Call it before the first request.
func (d *Door) KeepFor(t time.Duration) { d.transport.keepFor = t }
