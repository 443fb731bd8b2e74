package localcloud

import (
	"path/filepath"
	"strings"
)

// Variable is a variable of other programs' environment.
type Variable struct{ Name, Value string }

// What the directory has for such clients. Neither is a secret: the authority's key never leaves the process.
const (
	caFile     = "ca.pem"        // the authority
	bundleFile = "ca-bundle.pem" // the authority and those that the system trusts, for clients that trust one file alone
)

// TokenFile is the file with the owner's access token.
func (i *Info) TokenFile() string { return filepath.Join(i.Dir, tokenFile) }

// CAFile is the file with the authority that the APIs' certificate is of, where they are found by name; BundleFile has the
// system's besides.
func (i *Info) CAFile() string     { return filepath.Join(i.Dir, caFile) }
func (i *Info) BundleFile() string { return filepath.Join(i.Dir, bundleFile) }

// gcloudAPIs and terraformAPIs are the APIs that gcloud and Terraform's Google provider can be led elsewhere for, with
// what their clients want an address to end in. Gcloud adds the rest of the path itself where there is none.
var (
	gcloudAPIs = [][2]string{
		{"cloudresourcemanager", ""}, {"compute", "compute/v1/"}, {"dns", ""}, {"iam", ""}, {"logging", ""}, {"monitoring", ""}, {"redis", ""}, {"secretmanager", ""}, {"serviceusage", ""},
		{"sql", ""}, {"storage", "storage/v1/"},
	}
	terraformAPIs = [][2]string{
		{"cloud_resource_manager", "v1/"}, {"compute", "compute/v1/"}, {"dns", "dns/v1/"}, {"iam", "v1/"}, {"iam_beta", "v1/"}, {"logging", "v2/"}, {"monitoring", ""}, {"redis", "v1/"},
		{"resource_manager", "v1/"}, {"resource_manager_v3", "v3/"}, {"secret_manager", "v1/"}, {"service_networking", "v1/"}, {"service_usage", "v1/"},
		{"sql", "sql/v1beta4/"}, {"storage", "storage/v1/"},
	}
)

// Env gives what gcloud and Terraform must find in their environment to work on the local cloud instead of Google, in a
// project unless it is "". Terraform's provider takes an access token from a variable only, not from a file: who sets
// the others sets GOOGLE_OAUTH_ACCESS_TOKEN to what TokenFile holds, too.
func (i *Info) Env(project string) []Variable {
	all := []Variable{{"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", i.TokenFile()}}
	if project != "" {
		all = append(all, Variable{"CLOUDSDK_CORE_PROJECT", project})
	}
	for _, api := range gcloudAPIs {
		all = append(all, Variable{"CLOUDSDK_API_ENDPOINT_OVERRIDES_" + strings.ToUpper(api[0]), i.URL + api[1]})
	}
	if project != "" {
		all = append(all, Variable{"GOOGLE_PROJECT", project})
	}
	for _, api := range terraformAPIs {
		all = append(all, Variable{"GOOGLE_" + strings.ToUpper(api[0]) + "_CUSTOM_ENDPOINT", i.URL + api[1]})
	}
	return all
}
