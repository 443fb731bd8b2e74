package dify

import "strings"

// Images gives the image that each service of a release is made of, "REPOSITORY:TAG", below the mirror if there is one. The
// squid is the one that Dify's own compose file takes, with a tag that stays.
func Images(r Release, s Settings) map[Name]string {
	all := map[Name]string{
		API:          "langgenius/dify-api:" + r.Version,
		Web:          "langgenius/dify-web:" + r.Version,
		PluginDaemon: "langgenius/dify-plugin-daemon:" + r.PluginDaemon + "-local",
		Sandbox:      "langgenius/dify-sandbox:" + r.Sandbox,
		SSRFProxy:    "ubuntu/squid:6.6-24.04_beta",
	}
	for name, image := range all {
		if s.Registry != "" {
			all[name] = strings.TrimSuffix(s.Registry, "/") + "/" + image
		}
	}
	all[Worker], all[WorkerBeat] = all[API], all[API]
	return all
}

// pinned gives an image by its digest, if that is known: then a tag that is pushed again makes no difference.
func pinned(image string, pins map[string]string) string {
	digest := pins[image]
	if digest == "" {
		return image
	}
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image + "@" + digest
}
