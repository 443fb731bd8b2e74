// Package campaign raises the example stack again and again while it is killed, interrupted and lied to, at moments and in
// ways that a seed makes repeatable, and checks that all of that comes to the same in the end: the cloud equals what an
// undisturbed run makes, nothing is left after destroy, and nobody is accused of what he did not do. Start reading at
// TestCampaign; `make campaign` runs it at length.
package campaign
