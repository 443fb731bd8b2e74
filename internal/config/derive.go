package config

import "github.com/difyup/difyup/internal/dify"

// derive sets the defaults that depend on other options.
func derive(s *Spec) {
	if s.LoadBalancer.Certificate == "" {
		s.LoadBalancer.Certificate = "self-signed"
		if s.Domain != "" {
			s.LoadBalancer.Certificate = "managed"
		}
	}
	if !s.Has("compute.zones") {
		s.Compute.Zones = zonesOf(s.Region)
	}
	if !s.Has("compute.max_surge") {
		s.Compute.MaxSurge = len(s.Compute.Zones)
	}
	if b, err := dify.Divide(s.Machine(), s.Tuning()); err == nil {
		t := b.Tuning
		s.Dify.APIWorkers, s.Dify.APIConnections, s.Dify.APIDatabaseConnections, s.Dify.WorkerConcurrency = t.APIWorkers, t.APIConnections, t.APIDatabase, t.WorkerTasks
	}
	if s.Storage.Bucket == "" {
		s.Storage.Bucket = s.Project + "-" + s.Stack + "-files"
	}
	if s.Storage.Location == "" {
		s.Storage.Location = s.Region
	}
	if !s.Has("storage.cors") && s.Domain != "" {
		s.Storage.CORS = []CORS{{
			Origins: []string{"https://" + s.Domain}, Methods: []string{"GET", "HEAD"},
			Headers: []string{"Content-Type"}, MaxAgeSeconds: 3600,
		}}
	}
	if !s.Has("storage.lifecycle") {
		s.Storage.Lifecycle = []LifecycleRule{
			{Action: "delete", NoncurrentDays: 30, Prefixes: []string{}},
			{Action: "abort-uploads", AgeDays: 7, Prefixes: []string{}},
		}
	}
}

// AgentBucket is the name of the bucket that instances get their program from.
func (s *Spec) AgentBucket() string { return s.Project + "-" + s.Stack + "-agent" }

// Machine gives what an instance has; zeros for a machine type that there is not.
func (s *Spec) Machine() dify.Machine {
	m, problem, _ := machineNamed(s.Compute.MachineType)
	if problem != "" {
		return dify.Machine{}
	}
	return dify.Machine{CPUs: m.cpus, MemoryMiB: int(m.memory * 1024)}
}

// Tuning gives how much an instance does at once.
func (s *Spec) Tuning() dify.Tuning {
	d := s.Dify
	return dify.Tuning{APIWorkers: d.APIWorkers, APIConnections: d.APIConnections, APIDatabase: d.APIDatabaseConnections, WorkerTasks: d.WorkerConcurrency}
}
