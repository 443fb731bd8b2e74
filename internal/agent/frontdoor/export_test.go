package frontdoor

import "time"

// KeepFor has idle connections to services kept so long. Call it before the first request.
func (d *Door) KeepFor(t time.Duration) { d.transport.keepFor = t }

// SetUpload has another largest upload, while no request is in hand.
func (d *Door) SetUpload(n int64) { d.opts.Upload = n }
