package imagename

import "strings"

// Hub is Docker Hub, where images are whose names have no host.
const Hub = "docker.io"

// Registry gives the registry that an image is in, HOST or HOST:PORT, and the rest of its name. As Docker sees it, what stands
// before the first slash is a host if it has a dot or a colon, or is localhost.
func Registry(image string) (host, rest string) {
	first, after, ok := strings.Cut(image, "/")
	if !ok || first != "localhost" && !strings.ContainsAny(first, ".:") {
		return Hub, image
	}
	if first == "index.docker.io" {
		first = Hub
	}
	return first, after
}

// OfGoogle says whether a registry is Artifact Registry or Container Registry, for which a Google access token is a password.
func OfGoogle(host string) bool {
	return strings.HasSuffix(host, ".pkg.dev") || host == "gcr.io" || strings.HasSuffix(host, ".gcr.io")
}

// InProject says whether an image is in a registry of Google's, in a project.
func InProject(image, project string) bool {
	host, rest := Registry(image)
	// The ID of a domain's project is "DOMAIN:PROJECT", which is written with a slash here.
	return OfGoogle(host) && strings.HasPrefix(rest, strings.ReplaceAll(project, ":", "/")+"/")
}
