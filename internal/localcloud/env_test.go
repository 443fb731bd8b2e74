package localcloud_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud"
)

func TestEnv(t *testing.T) {
	i := &localcloud.Info{URL: "http://127.64.0.1:4000/", Dir: "/var/lib/difyup/local", Token: "t0ken"}
	var got strings.Builder
	for _, v := range i.Env("demo-project") {
		got.WriteString(v.Name + "=" + v.Value + "\n")
	}
	want := `CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=/var/lib/difyup/local/token
CLOUDSDK_CORE_PROJECT=demo-project
CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE=http://127.64.0.1:4000/compute/v1/
CLOUDSDK_API_ENDPOINT_OVERRIDES_DNS=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_REDIS=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_SERVICEUSAGE=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_SQL=http://127.64.0.1:4000/
CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=http://127.64.0.1:4000/storage/v1/
GOOGLE_PROJECT=demo-project
GOOGLE_CLOUD_RESOURCE_MANAGER_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_COMPUTE_CUSTOM_ENDPOINT=http://127.64.0.1:4000/compute/v1/
GOOGLE_DNS_CUSTOM_ENDPOINT=http://127.64.0.1:4000/dns/v1/
GOOGLE_IAM_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_IAM_BETA_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_REDIS_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_RESOURCE_MANAGER_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_RESOURCE_MANAGER_V3_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v3/
GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_SERVICE_NETWORKING_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT=http://127.64.0.1:4000/v1/
GOOGLE_SQL_CUSTOM_ENDPOINT=http://127.64.0.1:4000/sql/v1beta4/
GOOGLE_STORAGE_CUSTOM_ENDPOINT=http://127.64.0.1:4000/storage/v1/
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, v := range i.Env("") {
		if strings.HasSuffix(v.Name, "PROJECT") {
			t.Errorf("without a project: %s=%s", v.Name, v.Value)
		}
	}
}
