// Package authority makes the certificate authorities of the local cloud's stores, each of which has its own as Google's have,
// and the certificates of their servers.
package authority
