package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
)

// Image is an image that the instances of a stack run.
type Image struct {
	Reference string // as registries are asked for it
	Option    string // that it follows from
}

// Images gives the images that the instances of a stack run, sorted, without those that the description gives a digest of.
func Images(s *config.Spec) []Image {
	release, err := dify.Choose(s.Dify.Version, s.Images())
	if err != nil {
		return nil // a description that was read has a release
	}
	references := dify.Images(release, (&builder{spec: s}).settings())
	var all []Image
	for _, n := range dify.Imaged() {
		option := "dify.version"
		if s.Images()[n] != "" {
			option = "dify.images." + string(n)
		}
		if _, _, digest := dify.SplitImage(references[n]); digest == "" {
			all = append(all, Image{references[n], option})
		}
	}
	slices.SortStableFunc(all, func(a, b Image) int { return cmp.Compare(a.Reference, b.Reference) })
	return slices.CompactFunc(all, func(a, b Image) bool { return a.Reference == b.Reference })
}

// Notes gives what people should know of a stack's release: whose settings one that is not known is given, and which images
// are of other repositories than Dify's.
func Notes(s *config.Spec) []string {
	var notes []string
	if release, err := dify.Choose(s.Dify.Version, s.Images()); err == nil && release.Like != "" {
		notes = append(notes, fmt.Sprintf("Dify %s is not among the releases that difyup knows: it is given the settings, routes and memory of %s, the nearest before it.",
			release.Version, release.Like))
	}
	var others []string
	for _, n := range dify.Imaged() {
		if repository, _, _ := dify.SplitImage(s.Images()[n]); repository != "" && repository != dify.Repository(n) {
			others = append(others, fmt.Sprintf("%s for %s", s.Images()[n], n))
		}
	}
	if len(others) > 0 {
		notes = append(notes, "Images of other repositories than Dify's are run: "+strings.Join(others, ", ")+".")
	}
	return notes
}
