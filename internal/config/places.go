package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/spelling"
)

// regions gives Google's regions with the letters of their zones, to be compared with Compute Engine's page "Regions and zones",
// which was not at hand when they were written down. Zones for accelerators only are left out. A region that is not here may be new: see Unlisted.
func regions() map[string]string {
	m := map[string]string{"us-central1": "abcf", "us-east1": "bcd", "europe-west1": "bcd"}
	for _, name := range []string{
		"africa-south1", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3", "asia-south1", "asia-south2",
		"asia-southeast1", "asia-southeast2", "australia-southeast1", "australia-southeast2", "europe-central2", "europe-north1", "europe-north2",
		"europe-southwest1", "europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9",
		"europe-west10", "europe-west12", "me-central1", "me-central2", "me-west1", "northamerica-northeast1", "northamerica-northeast2",
		"northamerica-south1", "southamerica-east1", "southamerica-west1", "us-east4", "us-east5", "us-south1",
		"us-west1", "us-west2", "us-west3", "us-west4",
	} {
		m[name] = "abc"
	}
	return m
}

// multiRegions gives the multi-regions that a bucket may be in, and the predefined pairs of regions. Source: Cloud Storage's page
// "Bucket locations".
func multiRegions() []string {
	return []string{"asia", "eu", "us", "asia1", "eur4", "eur5", "eur7", "eur8", "nam4"}
}

func regionNames() []string {
	var names []string
	for name := range regions() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// zonesOf gives the three zones that are used in a region, a, b and c where it is not known.
func zonesOf(region string) []string {
	letters := regions()[region]
	if letters == "" {
		letters = "abc"
	}
	var zones []string
	for _, l := range letters[:3] {
		zones = append(zones, region+"-"+string(l))
	}
	return zones
}

// continents and bearings are what Google makes the names of its regions of.
var (
	continents = []string{"africa", "asia", "australia", "europe", "me", "northamerica", "southamerica", "us"}
	bearings   = []string{"central", "east", "north", "northeast", "northwest", "south", "southeast", "southwest", "west"}
)

// plausible says whether Google could call a new region so: each year some are added, under names made of the same words.
// It says so of names that have nothing in common with any, too.
func plausible(name string) bool {
	area := strings.TrimRight(name, "0123456789")
	continent, bearing, _ := strings.Cut(area, "-")
	if slices.Contains(continents, continent) && slices.Contains(bearings, bearing) {
		return true
	}
	return nearestRegion(name) == ""
}

// nearestRegion gives the region that was meant by a misspelt name, or "".
func nearestRegion(name string) string {
	if near := spelling.Nearest(name, regionNames()); near != "" && spelling.Edits(name, near) <= 3 { // further away it is another place
		return near
	}
	// What is misspelt twice is still recognised by its words.
	continent, bearing, _ := strings.Cut(name, "-")
	bearing = strings.TrimRight(bearing, "0123456789")
	number := strings.TrimLeft(strings.TrimPrefix(name, continent+"-"+bearing), "0")
	c, b := continent, bearing
	if !slices.Contains(continents, c) {
		c = spelling.Nearest(c, continents)
	}
	if !slices.Contains(bearings, b) {
		b = spelling.Nearest(b, bearings)
	}
	if near := c + "-" + b + number; regions()[near] != "" {
		return near
	}
	return ""
}

func region(r *reader, s *Spec) {
	check := func(path, name string) {
		if name == "" || !r.ok(path) || regions()[name] != "" || plausible(name) {
			return
		}
		r.at(path, "Unknown value", fmt.Sprintf("%s cannot be %s: Google has no such region.", quote(path), quote(name)), fmt.Sprintf("Did you mean %s?", quote(nearestRegion(name))))
	}
	check("region", s.Region)
	location := s.Storage.Location
	switch {
	case r.places["storage.location"].Line == 0 || !r.ok("storage.location"):
	case shapes()["region"].Fits(location):
		check("storage.location", location)
	case !slices.Contains(multiRegions(), location):
		remedy := "Choose one of them."
		if near := spelling.Nearest(location, multiRegions()); near != "" {
			remedy = fmt.Sprintf("Did you mean %s?", quote(near))
		}
		r.at("storage.location", "Unknown value", fmt.Sprintf("%s cannot be %s. It takes a region, or %s.", quote("storage.location"), quote(location), list(multiRegions(), "or")), remedy)
	}
}

// Place is a region or a zone that the description names.
type Place struct {
	Path string // of the option: "region", "compute.zones[1]"
	Name string
	Zone bool
}

// Unlisted gives those places that difyup does not know, the region first. They may be newer than it is: Google knows.
func (s *Spec) Unlisted() []Place {
	var all []Place
	letters := regions()[s.Region]
	if letters == "" {
		all = append(all, Place{Path: "region", Name: s.Region})
	}
	for i, z := range s.Compute.Zones {
		if !strings.Contains(letters, z[strings.LastIndexByte(z, '-')+1:]) || letters == "" {
			path := fmt.Sprintf("compute.zones[%d]", i)
			if !s.Has(path) {
				path = "region"
			}
			all = append(all, Place{Path: path, Name: z, Zone: true})
		}
	}
	return all
}
