package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/difyup/difyup/internal/agent/stores"
)

// probes is where the agents try the bucket of Dify's files: nobody else has objects with that prefix.
const probes = "difyup-probe/"

// seeBucket does what changes nothing in Dify's bucket: it asks for the bucket itself, as Dify's client does before each use, and
// for the names of objects. It gives the generations of the object of this instance's probe, older versions too.
func (a *agent) seeBucket(ctx context.Context) (left []string, err error) {
	at := "/storage/v1/b/" + url.PathEscape(a.settings.Stores.Bucket)
	if _, err := a.bucketCall(ctx, http.MethodGet, at+"?fields=name", nil, "see it", "storage.buckets.get"); err != nil {
		return nil, err
	}
	name := probes + a.name
	// Names that begin with this one come after it.
	raw, err := a.bucketCall(ctx, http.MethodGet, at+"/o?versions=true&maxResults=20&fields=items(name,generation)&prefix="+url.QueryEscape(name), nil, "list objects", "storage.objects.list")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct{ Name, Generation string }
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errNoAnswer
	}
	for _, item := range list.Items {
		if item.Name == name {
			left = append(left, item.Generation)
		}
	}
	return left, nil
}

var errNoAnswer = errors.New("the bucket's answer cannot be read")

// tryBucket does with Dify's bucket all that Dify does, to an object of the instance's own, which it removes again. A right
// that is missing is a *stores.Lack.
func (a *agent) tryBucket(ctx context.Context) (err error) {
	left, err := a.seeBucket(ctx)
	if err != nil {
		return err
	}
	name, bucket := probes+a.name, url.PathEscape(a.settings.Stores.Bucket)
	object := "/storage/v1/b/" + bucket + "/o/" + url.PathEscape(name)
	// A bucket with versioning keeps as an older version what is removed without its generation.
	remove := func(ctx context.Context, generation string) error {
		_, err := a.bucketCall(ctx, http.MethodDelete, object+"?generation="+url.QueryEscape(generation), nil, "delete objects", "storage.objects.delete")
		var status *statusError
		if errors.As(err, &status) && status.Code == http.StatusNotFound { // it was overwritten
			return nil
		}
		return err
	}
	// What an earlier try left that was cut off, or was told nothing: writing over it would take another right.
	for _, generation := range left {
		if err := remove(ctx, generation); err != nil {
			return err
		}
	}
	var made []string // generations
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		for _, generation := range made {
			err = errors.Join(err, remove(ctx, generation))
		}
	}()
	write := func(contents, what, right string) error {
		raw, err := a.bucketCall(ctx, http.MethodPost, "/upload/storage/v1/b/"+bucket+"/o?uploadType=media&name="+url.QueryEscape(name), []byte(contents), what, right)
		if err != nil {
			return err
		}
		var answer struct{ Generation string }
		if err := json.Unmarshal(raw, &answer); err != nil || answer.Generation == "" {
			return errNoAnswer
		}
		made = append(made, answer.Generation)
		return nil
	}
	if err := write("1", "write objects", "storage.objects.create"); err != nil {
		return err
	}
	if err := write("2", "overwrite objects", "storage.objects.delete"); err != nil {
		return err
	}
	raw, err := a.bucketCall(ctx, http.MethodGet, object+"?alt=media", nil, "read objects", "storage.objects.get")
	if err == nil && string(raw) != "2" {
		err = &stores.Lack{Says: "does not give back what was written to it", Err: errors.New("the probe has other contents")}
	}
	return err
}

// Cloud Storage lets one object be changed about once a second, and refuses more with 429.
const (
	bucketAgain = 2 * time.Second
	bucketTries = 5
)

// bucketCall asks Cloud Storage for something of Dify's bucket. What it does and the right that it takes are told when it is refused.
func (a *agent) bucketCall(ctx context.Context, method, path string, contents []byte, what, right string) ([]byte, error) {
	r := request{Host: "storage.googleapis.com", Method: method, Path: path, What: "the bucket " + a.settings.Stores.Bucket, Body: contents}
	if contents != nil {
		r.Type = "application/octet-stream"
	}
	for tries := 1; ; tries++ {
		raw, err := a.google.call(ctx, a.endpoint, r)
		var status *statusError
		if !errors.As(err, &status) {
			return raw, err
		}
		switch {
		case status.Code == http.StatusForbidden:
			return nil, &stores.Lack{Says: "does not let the instance's service account " + what + " (" + right + "); `difyup apply` gives it the rights", Err: err}
		case status.Code == http.StatusTooManyRequests && tries < bucketTries:
			if err := sleep(ctx, bucketAgain); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}
