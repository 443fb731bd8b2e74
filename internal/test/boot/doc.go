// Package boot gives tests an instance that boots: systemd and cloud-init of this machine's distribution, on a copy of this
// machine's files that is thrown away, in namespaces of its own. Its network has what the test puts there and no way out; the
// metadata server that it asks at 169.254.169.254 is the test's. Whatever happens to the test, nothing of it outlives it.
package boot
