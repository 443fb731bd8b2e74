package ops

import (
	"context"
	"fmt"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// fixed refuses what cannot be changed while a stack runs, for instances that run now would lose a store, though Google would do it.
func (s *Stack) fixed(ctx context.Context, owner resource.Owner, live map[resource.ID]map[string]any) error {
	var faults fault.List
	add := func(option, summary, detail, remedy string) {
		faults = append(faults, &fault.Fault{Summary: summary, Detail: detail, Remedy: remedy, At: s.opts.Spec.At(option)})
	}
	for _, r := range s.graph.Resources() {
		body := live[r.ID()]
		if body == nil || !owner.Marked(r.Kind, body) {
			continue
		}
		was := func(path resource.Path) any { v, _ := resource.Lookup(body, path); return v }
		switch r.Kind {
		case kind.RedisInstances.Kind:
			o := s.opts.Spec.Redis
			if now := was("authEnabled") == true; now != o.Auth {
				add("redis.auth", "AUTH of Redis cannot be changed while the stack runs",
					fmt.Sprintf("`redis.auth` is %t, and %s was created with %t. Google would change it at once, and all instances that run would lose Redis until they are replaced.", o.Auth, r.ID(), now),
					fmt.Sprintf("Set `redis.auth` back to %t. To change it takes instances that know both, and that waits for `difyup rotate`.", now))
			}
			if now := was("transitEncryptionMode") == "SERVER_AUTHENTICATION"; now != o.TransitEncryption {
				add("redis.transit_encryption", "The encryption of Redis is fixed when it is created",
					fmt.Sprintf("`redis.transit_encryption` is %t, and %s was created with %t. Google cannot change it, and difyup does not replace a Redis yet: queued tasks would be lost.", o.TransitEncryption, r.ID(), now),
					fmt.Sprintf("Set `redis.transit_encryption` back to %t. To give up what is in Redis, delete the stack and create it again:\n    difyup destroy --delete-data %s", now, r.ID()))
			}
		case kind.SQLInstances.Kind:
			const mode = "settings.ipConfiguration.sslMode"
			want, _ := resource.Lookup(r.Body, mode)
			if want != "ENCRYPTED_ONLY" || was(mode) == want {
				continue
			}
			running, err := s.running(ctx, live)
			if err != nil {
				return err
			}
			if running.Stack == "" || running.Stores.Database.TLS != dify.Plain {
				continue // none runs, or all that do encrypt already
			}
			section := "database"
			if r.Leaf() == s.opts.Spec.Stack+"-vector" {
				section = "vector"
			}
			add(section+".tls", "Instances that run do not encrypt their connections",
				fmt.Sprintf("With `%s.tls: %s`, %s would refuse them at once, and plugins would fail until all instances are replaced. An earlier difyup created them.", section, s.spec(section), r.ID()),
				fmt.Sprintf("Set `%s.tls` to `allowed` and apply; that replaces the instances. Then set it to `%s` and apply again.", section, s.spec(section)))
		}
	}
	return faults.Err()
}

// spec gives the option `tls` of a section.
func (s *Stack) spec(section string) string {
	if section == "vector" {
		return s.opts.Spec.Vector.TLS
	}
	return s.opts.Spec.Database.TLS
}
