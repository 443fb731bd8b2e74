package topology

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// Version says of one of the stack's secrets which of its versions count.
type Version struct {
	Added int // the last that difyup added, or is going to
	Used  int // what instances read: that one, unless somebody else chose another
}

// Versions are the secrets' versions, by purpose. What is not there counts as version 1 of a secret that comes to be.
type Versions map[string]Version

func (v Versions) of(purpose string) Version {
	if known, ok := v[purpose]; ok {
		return known
	}
	return Version{Added: 1, Used: 1}
}

// ReadVersions decides which versions of its secrets a stack is to have, from the live bodies of its resources, and says what
// people should know of that. Lost says that a secret that is not there was there before. Newest gives the number of the
// newest version of a secret, 0 for none; it is asked where the bodies do not say enough.
func ReadVersions(s *config.Spec, live map[resource.ID]map[string]any, lost bool, newest func(resource.ID) (int, error)) (Versions, []string, error) {
	b := &builder{spec: s}
	before := pinned(live)
	versions := Versions{}
	var notes []string
	var faults fault.List
	for _, p := range purposes(s) {
		name := b.name(p.Name)
		id := resource.ID(kind.Secrets.Name + "/" + name)
		secret := live[id]
		old := before[name]
		added, known := kind.VersionIn(kind.Annotation(secret, kind.SecretAdded))
		switch {
		case secret == nil && lost:
			// The versions of one that is made in its place begin at 1 again, and must not be taken for the old one's.
			added = old + 1
		case secret == nil:
			added = max(old, 1)
		case !known || p.Key == dify.RedisAuth && live[b.redisID()] == nil:
			n, err := newest(id)
			if err != nil {
				return nil, nil, fmt.Errorf("ask for the newest version of %s: %w", id, err)
			}
			switch added = n; {
			case !kind.SecretWhole(secret):
				added = max(n, old, 1)
			case known: // a new Redis gives out a new password, which will be the next version
				added++
			}
		}
		v := Version{Added: added, Used: added}
		if wish := kind.Annotation(secret, kind.SecretUsed); wish != "" {
			n, ok := kind.VersionIn(wish)
			switch {
			case !ok:
				faults = append(faults, &fault.Fault{
					Summary: "A secret's annotation is not a version",
					Detail:  fmt.Sprintf("The annotation %s of the secret %s is %q. It names the version that instances read, a number from 1.", kind.SecretUsed, name, wish),
					Remedy: "Name a version, or remove the annotation:\n" +
						fmt.Sprintf("    gcloud secrets update %s --project %s --remove-annotations=%s", name, s.Project, kind.SecretUsed),
				})
			case p.Held && n != added:
				notes = append(notes, fmt.Sprintf("The secret %s stays at version %d, though its annotation %s asks for %d: "+
					"the old value and the new one must work at the same time for a while, and that waits for `difyup rotate`.", name, added, kind.SecretUsed, n))
			default:
				v.Used = n
			}
		}
		if old > 0 && old != v.Used {
			notes = append(notes, fmt.Sprintf("Instances get version %d of the secret %s in place of %d: they are replaced, a few at a time.", v.Used, name, old))
		}
		versions[p.Key] = v
	}
	return versions, notes, faults.Err()
}

// pinned gives the newest version of each secret that the live templates name, by the secret's name.
func pinned(live map[resource.ID]map[string]any) map[string]int {
	newest := map[string]int{}
	for v := range named(live) {
		newest[v.Name] = max(newest[v.Name], v.Version)
	}
	return newest
}

// named gives the versions of secrets that the live templates name.
func named(live map[resource.ID]map[string]any) map[dify.SecretVersion]bool {
	all := map[dify.SecretVersion]bool{}
	for id, body := range live {
		if !strings.HasPrefix(string(id), kind.InstanceTemplates.Name+"/") {
			continue
		}
		text, _ := resource.Lookup(body, "properties.metadata.items[key="+SettingsKey+"].value")
		var settings dify.Settings
		raw, _ := text.(string)
		if json.Unmarshal([]byte(raw), &settings) != nil {
			continue // an earlier difyup's, which named no versions
		}
		for _, v := range settings.Secrets {
			all[v] = true
		}
		for _, of := range settings.SecretEnvironment {
			for _, v := range of {
				all[v] = true
			}
		}
		for _, v := range settings.RegistryCredentials {
			all[v] = true
		}
	}
	return all
}

// Chosen is a version of a secret that a user chose for instances to read.
type Chosen struct {
	dify.SecretVersion
	Secret *resource.Resource // of which nothing but the name and the parameters is given
	Option string             // that names it; "" for one that an annotation names
}

// NewlyChosen gives the versions that users chose and that no live template names, which may thus not be there.
func NewlyChosen(s *config.Spec, live map[resource.ID]map[string]any, versions Versions) []Chosen {
	b := &builder{spec: s}
	known := named(live)
	var all []Chosen
	add := func(v dify.SecretVersion, option string) {
		if !known[v] {
			known[v] = true
			all = append(all, Chosen{SecretVersion: v, Secret: kind.Secrets.New(v.Name, b.params(), &kind.Secret{}), Option: option})
		}
	}
	for _, p := range purposes(s) {
		if v := versions.of(p.Key); v.Used != v.Added {
			add(dify.SecretVersion{Name: b.name(p.Name), Version: v.Used}, "")
		}
	}
	chosen := s.SecretVariables()
	for _, n := range dify.Names() {
		for _, name := range slices.Sorted(maps.Keys(chosen[n])) {
			add(chosen[n][name], "dify.environment_secrets."+string(n)+"."+name)
		}
	}
	logins := s.RegistryCredentials()
	for _, host := range slices.Sorted(maps.Keys(logins)) {
		add(logins[host], "dify.registry_credentials."+host)
	}
	return all
}
