package dify

import (
	"cmp"
	"strings"
)

// squid is the tag of the proxy that Dify's own compose file takes, made one that stays.
const squid = "6.6-24.04_beta"

// Imaged gives the services that an image is named for. The worker and the scheduler are of the API's.
func Imaged() []Name { return []Name{API, Web, PluginDaemon, Sandbox, SSRFProxy} }

// Repository gives the repository on Docker Hub that a service's image is in.
func Repository(n Name) string {
	return map[Name]string{
		API: "langgenius/dify-api", Web: "langgenius/dify-web", PluginDaemon: "langgenius/dify-plugin-daemon", Sandbox: "langgenius/dify-sandbox",
		SSRFProxy: "ubuntu/squid",
	}[n]
}

// SplitImage gives the parts of "REPOSITORY:TAG", "REPOSITORY@DIGEST", and of both together; a tag alone has no repository.
func SplitImage(image string) (repository, tag, digest string) {
	if !strings.ContainsAny(image, ":/@") {
		return "", image, ""
	}
	repository, digest, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	}
	return repository, tag, digest
}

// Images gives the image that each service of a release is made of: "REPOSITORY:TAG", below the mirror if there is one; or as
// the user names it.
func Images(r Release, s Settings) map[Name]string {
	tags := map[Name]string{API: r.Version, Web: r.Version, PluginDaemon: r.PluginDaemon + "-local", Sandbox: r.Sandbox, SSRFProxy: squid}
	all := map[Name]string{}
	for _, n := range Imaged() {
		if repository, _, _ := SplitImage(s.Images[n]); repository != "" {
			all[n] = s.Images[n]
			continue
		}
		all[n] = Repository(n) + ":" + cmp.Or(s.Images[n], tags[n])
		if s.Registry != "" {
			all[n] = strings.TrimSuffix(s.Registry, "/") + "/" + all[n]
		}
	}
	all[Worker], all[WorkerBeat] = all[API], all[API]
	return all
}

// pinned gives an image by its digest, if that is known: then a tag that is pushed again makes no difference.
func pinned(image string, pins map[string]string) string {
	repository, _, digest := SplitImage(image)
	if digest = cmp.Or(digest, pins[image]); digest == "" {
		return image
	}
	return repository + "@" + digest
}
