package ops

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/topology"
)

// fixed refuses what cannot be changed while a stack runs: what Google does not change, and what instances that run now would
// lose a store by. Running gives the settings that these have, zero when there are none; it is asked when they matter.
func fixed(spec *config.Spec, g *resource.Graph, owner resource.Owner, live map[resource.ID]map[string]any, running func() (dify.Settings, error)) error {
	var faults fault.List
	add := func(option, summary, detail, remedy string) {
		faults = append(faults, &fault.Fault{Summary: summary, Detail: detail, Remedy: remedy, At: spec.At(option)})
	}
	for _, r := range g.Resources() {
		body := live[r.ID()]
		if body == nil || !owner.Marked(r.Kind, body) {
			continue
		}
		was := func(path resource.Path) any { v, _ := resource.Lookup(body, path); return v }
		switch r.Kind {
		case kind.RedisInstances.Kind:
			o := spec.Redis
			if now := was("authEnabled") == true; now != o.Auth {
				add("redis.auth", "AUTH of Redis cannot be changed while the stack runs",
					fmt.Sprintf("`redis.auth` is %t, and %s was created with %t. Google would change it at once, and all instances that run would lose Redis until they are replaced.", o.Auth, r.ID(), now),
					fmt.Sprintf("Set `redis.auth` back to %t. To change it takes instances that know both, and that waits for `difyup rotate`.", now))
			}
			if now := was("transitEncryptionMode") == "SERVER_AUTHENTICATION"; now != o.TransitEncryption {
				add("redis.transit_encryption", "The encryption of Redis is fixed when it is created",
					fmt.Sprintf("`redis.transit_encryption` is %t, and %s was created with %t. Google cannot change it, and difyup does not replace a Redis yet: queued tasks would be lost.", o.TransitEncryption, r.ID(), now),
					fmt.Sprintf("Set `redis.transit_encryption` back to %t. %s", now, anew(r)))
			}
			for _, f := range []struct {
				path   resource.Path
				option string
			}{{"tier", "redis.high_availability"}, {"redisVersion", "redis.version"}} {
				now := was(f.path)
				if want, _ := resource.Lookup(r.Body, f.path); now != nil && want != nil && now != want {
					add(f.option, "A Redis is not changed into another one",
						fmt.Sprintf("With this `%s`, the %s of %s would be %v. It is %v; difyup does not replace a Redis yet: queued tasks would be lost.", f.option, f.path, r.ID(), want, now),
						fmt.Sprintf("Change `%s` back. %s", f.option, anew(r)))
				}
			}
		case kind.SQLInstances.Kind:
			section, version, tls := "database", spec.Database.Version, spec.Database.TLS
			if r.ID() != topology.MainInstance(spec) {
				section, version, tls = "vector", spec.Vector.Version, spec.Vector.TLS
			}
			if now, err := strconv.Atoi(strings.TrimPrefix(fmt.Sprint(was("databaseVersion")), "POSTGRES_")); err == nil && now > version {
				add(section+".version", "The databases are of a newer PostgreSQL",
					fmt.Sprintf("`%s.version` is %d, and %s has PostgreSQL %d. Cloud SQL takes no version back.", section, version, r.ID(), now),
					fmt.Sprintf("Set `%s.version` to %d.", section, now))
			}
			const mode = "settings.ipConfiguration.sslMode"
			want, _ := resource.Lookup(r.Body, mode)
			if want != "ENCRYPTED_ONLY" || was(mode) == want {
				continue
			}
			now, err := running()
			if err != nil {
				return err
			}
			if now.Stack == "" || now.Stores.Database.TLS != dify.Plain {
				continue // none runs, or all that do encrypt already
			}
			add(section+".tls", "Instances that run do not encrypt their connections",
				fmt.Sprintf("With `%s.tls: %s`, %s would refuse them at once, and plugins would fail until all instances are replaced. An earlier difyup created them.", section, tls, r.ID()),
				fmt.Sprintf("Set `%s.tls` to `allowed` and apply; that replaces the instances. Then set it to `%s` and apply again.", section, tls))
		}
	}
	return faults.Err()
}

// anew says how to have another Redis in place of one. Its name in the stack's zone stays, so that instances find it.
func anew(redis *resource.Resource) string {
	return "To give up what is queued in Redis, and to do without it for some ten minutes, delete it by hand; apply makes the new one:\n    " + redis.DeleteByHand() + "\n    difyup apply"
}

// unnamed refuses to delete what holds data only because the file does not name it any more. What a store gave out, as Redis its
// password, goes when the store is gone. Empty says whether there is nothing in a bucket. A bucket whose successor is there already stays, and
// a note says so: an earlier difyup began with that, and has to be ended.
func unnamed(spec *config.Spec, p *plan.Plan, empty func(bucket *resource.Resource) (bool, error)) error {
	var faults fault.List
	for _, s := range p.Losses() {
		r := s.Res
		if slices.ContainsFunc(r.Needs, func(id resource.ID) bool { return holdsData(id) && p.Live[id] == nil }) {
			continue
		}
		if r.Kind != kind.Buckets.Kind {
			faults = append(faults, &fault.Fault{
				Summary: "Data would be lost",
				Detail:  fmt.Sprintf("%s is the stack's, holds data, and is not what the file describes any more. `apply` never deletes data.", r.ID()),
				Remedy:  fmt.Sprintf("Change the file back. To give up the data, which instances that run lose then, delete it by hand and apply again:\n    %s", r.DeleteByHand()),
			})
			continue
		}
		if nothing, err := empty(r); err != nil {
			return err
		} else if nothing {
			continue
		}
		if p.Live[resource.ID(kind.Buckets.Name+"/"+spec.Storage.Bucket)] != nil {
			p.Leave(r.ID())
			p.Notes = append(p.Notes, fmt.Sprintf("%s is not wanted any more, holds files, and stays. To delete it by hand: %s", r.ID(), r.DeleteByHand()))
			continue
		}
		faults = append(faults, &fault.Fault{
			Summary: "Data would be lost",
			Detail:  fmt.Sprintf("`storage.bucket` is %s, and the stack's files and keys are in %s. `apply` moves no files, and never deletes them.", spec.Storage.Bucket, r.Leaf()),
			Remedy:  fmt.Sprintf("Set `storage.bucket` back to %s. To give up the files, which instances that run lose then, delete the bucket by hand and apply again:\n    %s", r.Leaf(), r.DeleteByHand()),
			At:      spec.At("storage.bucket"),
		})
	}
	return faults.Err()
}

func holdsData(id resource.ID) bool {
	name, _, _ := strings.Cut(string(id), "/")
	k, ok := kind.ByName(name)
	return ok && k.HoldsData()
}
