package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/oauth2/google"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/imagename"
)

// patience is how long a registry may take to say what a tag stands for, all its answers together.
const patience = 30 * time.Second

// Client asks registries. Its zero value is ready for use.
type Client struct {
	// Token gives a Google access token, for the registries of Google's; nil = that of the application default credentials.
	Token func(context.Context) (string, error)
	// Transport carries requests; nil = one of go-containerregistry's.
	Transport http.RoundTripper
	// Patience is how long a registry may take; 0 = half a minute.
	Patience time.Duration
}

// Digest gives the digest of the image that a reference stands for on a platform, "linux/amd64": of an index, that of the image
// for the platform. Credentials are those of Docker's configuration, or for Google's registries the user's Google account;
// else nobody's. The error is a fault that names the image.
func (c *Client) Digest(ctx context.Context, image, platform string) (string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", &fault.Fault{
			Summary: "Malformed image", Detail: fmt.Sprintf("%q is no image: %v.", image, err),
			Remedy: "Write it as `HOST/REPOSITORY:TAG`, or for Docker Hub as `REPOSITORY:TAG`.",
		}
	}
	wanted, err := v1.ParsePlatform(platform)
	if err != nil {
		return "", fmt.Errorf("the platform %s: %w", platform, err)
	}
	limit := c.Patience
	if limit == 0 {
		limit = patience
	}
	asked, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		digest string
		err    error
	}
	// The program that Docker's configuration may name for credentials knows no context: it may outlive the question.
	keys := &dockers{}
	answers := make(chan answer, 1)
	go func() {
		digest, err := c.ask(asked, ref, *wanted, keys)
		answers <- answer{digest, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-asked.Done():
		got.err = asked.Err()
	}
	switch {
	case got.err == nil:
		return got.digest, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case asked.Err() != nil && keys.asked.Load():
		got.err = fmt.Errorf("%w: no answer within %s", errDocker, limit)
	case asked.Err() != nil:
		got.err = fmt.Errorf("no answer within %s", limit)
	}
	return "", explain(image, ref.Context().RegistryStr(), platform, got.err)
}

var errPlatform = errors.New("no image for the platform")

func (c *Client) ask(ctx context.Context, ref name.Reference, wanted v1.Platform, keys authn.Keychain) (string, error) {
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.NewMultiKeychain(keys, &googles{ctx, c.Token})), remote.WithPlatform(wanted),
		remote.WithUserAgent("difyup"), remote.WithRetryBackoff(remote.Backoff{Duration: 300 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
	}
	if c.Transport != nil {
		options = append(options, remote.WithTransport(c.Transport))
	}
	got, err := remote.Get(ref, options...)
	if err != nil {
		return "", err
	}
	if got.MediaType.IsIndex() {
		index, err := got.ImageIndex()
		if err != nil {
			return "", err
		}
		all, err := index.IndexManifest()
		if err != nil {
			return "", err
		}
		for _, m := range all.Manifests {
			if m.Platform != nil && m.Platform.Satisfies(wanted) && m.MediaType.IsImage() {
				return m.Digest.String(), nil
			}
		}
		return "", errPlatform
	}
	img, err := got.Image()
	if err != nil {
		return "", err
	}
	// A manifest does not say for which machine its image is; its configuration does.
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	if config.OS != wanted.OS || config.Architecture != wanted.Architecture {
		return "", errPlatform
	}
	return got.Digest.String(), nil
}

// explain says what went wrong with an image, and what to do.
func explain(image, host, platform string, err error) *fault.Fault {
	f := &fault.Fault{Cause: err}
	hub := host == name.DefaultRegistry
	login := host
	if hub {
		login, host = "", "Docker Hub"
	}
	var refused *transport.Error
	errors.As(err, &refused)
	switch {
	case errors.Is(err, errPlatform):
		f.Summary, f.Cause = "No image for the instances", nil
		f.Detail = fmt.Sprintf("%s has no image for %s, which the instances are.", image, platform)
		f.Remedy = "Choose another tag, or push an image for that platform."
	case errors.Is(err, errDocker):
		f.Summary = "Docker's credentials cannot be read"
		f.Detail = fmt.Sprintf("For %s, Docker's configuration (config.json in ~/.docker, or in $DOCKER_CONFIG) names a program or a login that cannot be used.", host)
		f.Remedy = "Have it work, or take it out of that file; images that are for everybody need none:\n    " + strings.TrimSpace("docker logout "+login)
	case errors.Is(err, errKeys):
		f.Summary = "No credentials for the registry"
		f.Detail = fmt.Sprintf("%s is in a registry of Google's, %s, and there is no access token for it.", image, host)
		f.Remedy = "Log in:\n    gcloud auth application-default login"
	case refused != nil && refused.StatusCode == http.StatusNotFound:
		f.Summary = "There is no such image"
		f.Detail = fmt.Sprintf("%s knows no %s.", host, image)
		f.Remedy = "Check `dify.version`, `dify.images` and `dify.registry`: a mirror must have the same names below its path."
	case refused != nil && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		f.Summary = "The registry lets nobody in"
		f.Detail = fmt.Sprintf("%s does not show %s to who asks (status %d): the image does not exist, or is not for everybody, or the credentials are wrong.", host, image, refused.StatusCode)
		f.Remedy = "Check the name of the image. If it is private, give the instances credentials in `dify.registry_credentials`, and log in where difyup runs:\n    " + strings.TrimSpace("docker login "+login)
		if imagename.OfGoogle(host) {
			f.Remedy = "Check the name of the image, and let your account read the repository, and the instances' if that is another project's: they need the role roles/artifactregistry.reader."
		}
	case refused != nil && refused.StatusCode == http.StatusTooManyRequests:
		f.Summary = "The registry allows no more requests"
		f.Detail = fmt.Sprintf("%s was asked for %s, and says that this address asks too often.", host, image)
		f.Remedy = "Wait, or set `dify.registry` to a mirror, or log in where difyup runs:\n    " + strings.TrimSpace("docker login "+login)
	default:
		f.Summary = "The registry does not answer"
		f.Detail = fmt.Sprintf("difyup asks %s once which bytes %s stands for, so that every instance runs the same, and got no answer. Nothing was changed.", host, image)
		f.Remedy = "Check the network, and run this again; or set `dify.registry` to a mirror that can be reached."
	}
	return f
}

// dockers is what Docker's configuration has for registries.
type dockers struct{ asked atomic.Bool } // and there is no answer yet

var errDocker = errors.New("read Docker's credentials")

func (d *dockers) Resolve(r authn.Resource) (authn.Authenticator, error) {
	d.asked.Store(true)
	defer d.asked.Store(false)
	auth, err := authn.DefaultKeychain.Resolve(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDocker, err)
	}
	return auth, nil
}

// googles is Google's registries, for which a Google access token is a password.
type googles struct {
	ctx   context.Context
	token func(context.Context) (string, error)
}

var errKeys = errors.New("no Google access token")

func (g *googles) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if !imagename.OfGoogle(r.RegistryStr()) {
		return authn.Anonymous, nil
	}
	get := g.token
	if get == nil {
		get = defaultToken
	}
	token, err := get(g.ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	return &authn.Basic{Username: "oauth2accesstoken", Password: token}, nil
}

func defaultToken(ctx context.Context) (string, error) {
	creds, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return "", err
	}
	token, err := creds.TokenSource.Token()
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}
