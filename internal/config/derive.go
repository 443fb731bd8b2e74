package config

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
