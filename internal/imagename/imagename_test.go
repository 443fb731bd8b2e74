package imagename

import "testing"

func TestRegistry(t *testing.T) {
	for image, want := range map[string][3]string{
		"langgenius/dify-api:1.17.1":                            {"docker.io", "langgenius/dify-api:1.17.1"},
		"squid":                                                 {"docker.io", "squid"},
		"docker.io/library/squid":                               {"docker.io", "library/squid"},
		"index.docker.io/library/squid":                         {"docker.io", "library/squid"},
		"ghcr.io/acme/api@sha256:0":                             {"ghcr.io", "acme/api@sha256:0"},
		"localhost/api":                                         {"localhost", "api"},
		"registry:5000/api":                                     {"registry:5000", "api"},
		"gcr.io/demo-project/api:1":                             {"gcr.io", "demo-project/api:1", "ours"},
		"eu.gcr.io/demo-project/api:1":                          {"eu.gcr.io", "demo-project/api:1", "ours"},
		"asia-northeast1-docker.pkg.dev/demo-project/hub/api":   {"asia-northeast1-docker.pkg.dev", "demo-project/hub/api", "ours"},
		"asia-northeast1-docker.pkg.dev/demo-project-2/hub/api": {"asia-northeast1-docker.pkg.dev", "demo-project-2/hub/api", "Google's"},
		"notgcr.io/demo-project/api":                            {"notgcr.io", "demo-project/api"},
		"gcr.io.example.com/demo-project/api":                   {"gcr.io.example.com", "demo-project/api"},
	} {
		host, rest := Registry(image)
		whose := ""
		switch {
		case InProject(image, "demo-project"):
			whose = "ours"
		case OfGoogle(host):
			whose = "Google's"
		}
		if got := [3]string{host, rest, whose}; got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	if !InProject("gcr.io/example.com/demo/api", "example.com:demo") {
		t.Error("a project of a domain's is not known")
	}
}
