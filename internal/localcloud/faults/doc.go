// Package faults decides which requests to the local cloud go wrong, and how. A rule says whom it meets, what happens and
// how often; its decisions depend on its seed and the request alone, so that the same seed gives the same faults. Nothing
// here knows HTTP: who serves asks a Set what is to happen, and does it. Start reading at Rule.
package faults
