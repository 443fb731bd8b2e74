// Package frontdoor is what answers on an instance's port 1080: it sends requests to Dify's services by Dify's routes,
// streams and WebSockets included, and says how the instance is. /health is whether it may get traffic, /alive whether
// it is to be kept, which the agent decides. It knows nothing of how Dify is run. Start reading at Open.
package frontdoor
