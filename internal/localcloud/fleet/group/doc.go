// Package group runs managed instance groups: it keeps as many instances as a group should have, spread over its zones,
// at the versions it should run; it heals, rolls and scales them. An instance is a process with its own loopback
// address, its own metadata server and its own directory.
//
// Deciding is apart from doing: decide.go (which instances come and go) and autoscale.go (how many there should be) are
// pure; group.go carries out, one goroutine a group; vm.go is the life of one instance, one goroutine each. It does not
// route traffic, it only tells who runs and asks for draining. Start at Groups.
package group
