package dify

import "time"

// How long the end of an instance takes at most, counted from the moment it is told to end (SIGTERM). Google gives a machine
// that it deletes, stops or moves ShutdownTime; systemd gives the agent StopTime of it, and the agent itself ends everything
// within EndTime. The rest is systemd's and the system's own. These are all the times there are: what ends, and by when,
// follows from them (Ending, Service.Grace).
const (
	ShutdownTime = 90 * time.Second // cloud.google.com/compute/docs/shutdownscript; Spot machines get 30 s, and we use none
	StopTime     = 80 * time.Second // TimeoutStopSec of difyup-agent.service
	EndTime      = DrainTime + ServerGrace + ToolGrace + spare

	// NoticeTime is how long the load balancer may take to see that /health fails, and to send nothing more: two probes, 5 s
	// apart, each with 5 s to fail. Until then every request is served as ever.
	NoticeTime = 15 * time.Second
	// DrainTime is what requests, streams and tasks in hand may take. NoticeTime is part of it.
	DrainTime   = 55 * time.Second
	ServerGrace = 7 * time.Second // of the API and the web application, which have nothing in hand from outside then
	ToolGrace   = 6 * time.Second // of what the API and tasks use
	spare       = 4 * time.Second // the runtime's own work between these
)

// Step is services that end together.
type Step struct {
	Services []Name
	By       time.Duration // after the instance was told to end; what still runs then is killed
}

// Ending gives the order in which an instance's services end. Each step begins when the one before it is over. The first
// begins at once, while requests are still served: a worker that is told to end takes no new task, so that others get them,
// and has all that its tasks use until they are done. The second begins when there are no requests either.
func Ending() []Step {
	return []Step{
		{[]Name{Worker, WorkerBeat}, DrainTime},
		{[]Name{API, Web}, DrainTime + ServerGrace},
		{[]Name{PluginDaemon, Sandbox, SSRFProxy}, DrainTime + ServerGrace + ToolGrace},
	}
}
