// Package front is the local cloud's one listener: it matches requests to the methods of Google's discovery documents,
// refuses what they do not allow, writes errors in Google's envelopes, and runs operations in Google's three dialects.
// What a method does is the service packages' affair; they register a Handler for a method's ID. Start with Server.
package front
