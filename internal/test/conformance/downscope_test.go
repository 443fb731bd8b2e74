//go:build linux

package conformance_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	gcs "cloud.google.com/go/storage"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/downscope"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
)

// TestDownscope has Google's own code narrow a token, by the name that the Security Token Service has at Google, and Google's
// client use what comes out.
func TestDownscope(t *testing.T) {
	info := cloudWithBuckets(t)
	transport := byName(t, info)
	for _, path := range []string{"storage/v1/b?project=conformance {\"name\":\"narrow\"}", "upload/storage/v1/b/narrow/o?uploadType=media&name=plugin/a a", "upload/storage/v1/b/narrow/o?uploadType=media&name=privkeys/a a"} {
		path, body, _ := strings.Cut(path, " ")
		if resp, text := send(t, info, "Bearer "+info.Token, "POST", path, "application/json", body); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", path, resp.Status, text)
		}
	}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport})
	config := downscope.DownscopingConfig{
		RootSource: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: info.Token}),
		Rules: []downscope.AccessBoundaryRule{{
			AvailableResource: "//storage.googleapis.com/projects/_/buckets/narrow", AvailablePermissions: []string{"inRole:roles/storage.objectViewer"},
			Condition: &downscope.AvailabilityCondition{Title: "plugins", Expression: "resource.name.startsWith('projects/_/buckets/narrow/objects/plugin/')"},
		}},
	}
	source, err := downscope.NewTokenSource(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	client, err := gcs.NewClient(t.Context(), option.WithEndpoint(info.URL+"storage/v1/"), option.WithTokenSource(oauth2.StaticTokenSource(token)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Bucket("narrow").Object("plugin/a").Attrs(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = client.Bucket("narrow").Object("privkeys/a").Attrs(t.Context())
	var e *googleapi.Error
	if !errors.As(err, &e) || e.Code != http.StatusForbidden {
		t.Errorf("another object: %v", err)
	}
	config.Rules[0].AvailablePermissions = []string{"roles/storage.objectViewer"}
	if source, err = downscope.NewTokenSource(ctx, config); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Token(); err == nil || !strings.Contains(err.Error(), "invalid_request") {
		t.Errorf("a boundary that is none: %v", err)
	}
}
