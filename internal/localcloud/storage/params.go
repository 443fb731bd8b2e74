package storage

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/localcloud/front"
)

// without are parameters that change nothing here, each for a reason. The front acts on fields.
var without = map[string]string{
	"fields":      "",
	"prettyPrint": "answers are always indented", "uploadType": "insert acts on it", "upload_protocol": "of uploads in Google's other protocols",
	"key": "callers are known by their tokens", "oauth_token": "callers are known by their tokens", "quotaUser": "there are no quotas", "userIp": "there are no quotas",
	"userProject": "nobody is billed", "projection": "neither buckets nor objects have access lists that it could show",
}

const ifMatches = "ifGenerationMatch ifGenerationNotMatch ifMetagenerationMatch ifMetagenerationNotMatch "

// honoured are the parameters that a method acts on, besides those in without. All others are refused: a precondition
// that is passed over loses somebody's data.
var honoured = map[string]string{
	"buckets.insert":              "project",
	"buckets.list":                "project prefix maxResults pageToken returnPartialSuccess",
	"buckets.get":                 "generation ifMetagenerationMatch ifMetagenerationNotMatch",
	"buckets.patch":               "ifMetagenerationMatch ifMetagenerationNotMatch",
	"buckets.update":              "ifMetagenerationMatch ifMetagenerationNotMatch",
	"buckets.delete":              "ifMetagenerationMatch ifMetagenerationNotMatch",
	"buckets.getIamPolicy":        "optionsRequestedPolicyVersion",
	"buckets.setIamPolicy":        "",
	"buckets.testIamPermissions":  "permissions",
	"buckets.getStorageLayout":    "",
	"projects.serviceAccount.get": "",
	"objects.insert":              ifMatches + "name contentEncoding upload_id",
	"objects.get":                 ifMatches + "generation",
	"objects.list":                "prefix delimiter includeTrailingDelimiter startOffset endOffset matchGlob versions maxResults pageToken includeFoldersAsPrefixes",
	"objects.patch":               ifMatches + "generation",
	"objects.update":              ifMatches + "generation",
	"objects.delete":              ifMatches + "generation",
	"objects.copy":                ifMatches + sourceMatches + "sourceGeneration",
	"objects.rewrite":             ifMatches + sourceMatches + "sourceGeneration maxBytesRewrittenPerCall rewriteToken",
	"objects.compose":             "ifGenerationMatch ifMetagenerationMatch",
}

const sourceMatches = "ifSourceGenerationMatch ifSourceGenerationNotMatch ifSourceMetagenerationMatch ifSourceMetagenerationNotMatch "

// honouring has a method refuse what it would pass over, but for names that Google's document does not have: Google passes
// over those too, and Node's client sends a list's parameters along with each delete.
func honouring(id string, h front.Handler) front.Handler {
	acts := strings.Fields(honoured[id])
	return func(ctx context.Context, r *front.Request) (any, error) {
		for _, name := range slices.Sorted(maps.Keys(r.Query)) {
			value := r.Query.Get(name)
			switch _, none := without[name]; {
			case none, strings.HasPrefix(name, "$"):
			case name == "alt":
				if value != "json" && value != "" && (value != "media" || id != "objects.get") {
					return nil, front.Invalid("Invalid value for alt: %q", value)
				}
			case !slices.Contains(acts, name):
				p, known := r.Method.Query[name]
				if known && (value != "false" || p.Type != "boolean") || strings.HasPrefix(name, "if") {
					return nil, front.Invalid("The local cloud does not honour the parameter %s of storage.%s.", name, id)
				}
			case strings.HasPrefix(name, "if") || strings.HasSuffix(strings.ToLower(name), "generation"):
				if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < 0 {
					return nil, front.Invalid("Invalid value for %s: %q", name, value)
				}
			}
		}
		for name := range r.HTTP.Header {
			if strings.HasPrefix(name, "X-Goog-Encryption-") || strings.HasPrefix(name, "X-Goog-Copy-Source-Encryption-") {
				return nil, front.Invalid("The local cloud does not encrypt with a key of the client's (%s).", name)
			}
		}
		return h(ctx, r)
	}
}
