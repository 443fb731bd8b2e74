// Package engine gives tests a Docker engine of their own, in namespaces of its own: nothing of it can be seen on this machine's
// network, and whatever happens to the test, no container outlives it. It uses the dockerd and the compose plugin that are
// there (scripts/install-engine installs them), and has images made from scratch of the stand-in.
package engine
