// Package sts serves Google's Security Token Service as far as it narrows access tokens: it gives for a token another one that
// is worth no more than a Credential Access Boundary says.
package sts
