// Package frontdoor is what answers on an instance's port 1080: it sends requests to Dify's services by Dify's routes,
// streams and WebSockets included, and says how the instance is. /health is whether it may get traffic, /alive whether
// it has ever been ready, after which replacing it would be of no use. It knows nothing of how Dify is run. Start reading at Open.
package frontdoor
