package gcp

import (
	"net/http"
	"time"
)

// place is how a failure was met.
type place string

const (
	inAnswer    place = "answer"    // an HTTP status that is none of success
	inOperation place = "operation" // the error of an operation that ended
	onTheWay    place = "way"       // no answer, or a part of one
	tooLong     place = "deadline"  // no answer in time
	inBody      place = "body"      // an answer that cannot be Google's: a proxy's page, or nothing where JSON belongs
)

// when is a condition beside what the failure says.
type when string

const (
	always     when = ""
	fresh      when = "fresh"     // the service that was called was enabled a short time ago
	enabled    when = "enabled"   // it is enabled, as Service Usage says, however it answers
	newAccount when = "account"   // this run made a service account
	atGoogle   when = "google"    // no endpoint of the caller's is set
	atEndpoint when = "endpoint"  // one is: a local cloud
	operation  when = "operation" // it is an operation that is asked for
)

// rule says of one kind of failure that it passes by itself, for how long that is worth waiting for, and what is said.
// What is empty matches everything; the first rule that matches counts. What needs more than sending the same again is
// not here: a stale fingerprint or policy (409, 412) is read again by who wrote it.
type rule struct {
	name   string
	source string

	in       []place
	service  []string // API.Name
	method   string
	code     []int    // HTTP status; of an operation too, where it has one
	reason   []string // errors[].reason, ErrorInfo's, an operation's code; google.rpc.Code by its name
	except   []string // reasons of which it does not speak
	text     []string // one of them is in the message; * stands for anything, PROJECT_ID for the project
	only     when
	within   time.Duration // of the first time it was met in a call
	first    time.Duration // the wait before the second try; it doubles
	most     time.Duration // the longest wait; a Retry-After may be longer
	say      string
	quietFor time.Duration // nothing is said as long as it has not lasted so long
	never    *advice       // what to say when it does not pass; nil for the failure itself
}

// advice is a fault in which PROJECT_ID, PROJECT_NUMBER, SERVICE, WHO and CAUSE are replaced.
type advice struct{ summary, detail, remedy string }

var (
	anywhere = []place{inAnswer, inOperation}

	noService = &advice{
		summary: "A service that was just enabled is not ready",
		detail:  "SERVICE.googleapis.com is enabled, and Google still answers as if it were not: CAUSE.",
		remedy:  "Wait a few minutes, then apply again to continue:\n    difyup apply",
	}
	noAgent = &advice{
		summary: "Service Networking may not work in the project",
		detail:  "In a new project Service Networking's own service account gets its rights after some minutes. It has none yet, or somebody took them away: CAUSE.",
		remedy: "Give it its role, then apply again:\n" +
			"    gcloud projects add-iam-policy-binding PROJECT_ID --member=serviceAccount:service-PROJECT_NUMBER@service-networking.iam.gserviceaccount.com --role=roles/servicenetworking.serviceAgent",
	}
	noAnswer = &advice{
		summary: "Google does not answer",
		detail:  "SERVICE.googleapis.com was asked several times: CAUSE.",
		remedy:  "Check the network between this machine and Google, then run the command again:\n    curl -sS https://SERVICE.googleapis.com/",
	}
	noCloud = &advice{
		summary: "The local cloud does not answer",
		detail:  "It was asked several times (SERVICE): CAUSE. Its process has ended, is stopped, or the machine is too busy.",
		remedy:  "See whether it runs, and start it again if it does not. What was in it is gone then:\n    difyup local status\n    difyup local down\n    difyup apply --local",
	}
	noOperation = &advice{
		summary: "An operation cannot be found",
		detail:  "SERVICE.googleapis.com said that it is at work, and does not know of it any more: CAUSE.",
		remedy:  "Run the command again, which looks at what became of it.",
	}
	notGoogle = &advice{
		summary: "Something else answers in Google's place",
		detail:  "SERVICE.googleapis.com was asked several times: CAUSE. A proxy or the login page of a network does that.",
		remedy:  "Log in to the network, or set HTTPS_PROXY to a proxy that lets Google's APIs through, then run the command again.",
	}
)

// rules is the table. Sources: AIP is google.aip.dev; "provider" is hashicorp/terraform-provider-google 7.45, its issues
// are written TPG#; KCC is GoogleCloudPlatform/k8s-config-connector.
var rules = []rule{
	{
		name: "connection", source: "provider, transport/error_retry_predicates.go: connection reset, EOF, timeouts",
		in: []place{onTheWay}, only: atGoogle, within: 90 * time.Second, first: 200 * time.Millisecond, most: 10 * time.Second,
		say: "the connection failed (CAUSE)", never: noAnswer,
	},
	{
		name: "connection to the local cloud", source: "a process on the same machine: it comes back at once or not at all",
		in: []place{onTheWay}, only: atEndpoint, within: 30 * time.Second, first: 100 * time.Millisecond, most: 5 * time.Second,
		say: "the connection failed (CAUSE)", never: noCloud,
	},
	{
		name: "no answer", source: "AIP-194: a deadline that passed may be tried again",
		in: []place{tooLong}, only: atGoogle, within: 2 * time.Minute, first: 200 * time.Millisecond, most: 10 * time.Second,
		say: "CAUSE", never: noAnswer,
	},
	{
		name: "no answer from the local cloud", source: "a process on the same machine: three times is enough to know that it is stopped",
		in: []place{tooLong}, only: atEndpoint, within: 25 * time.Second, first: 100 * time.Millisecond, most: time.Second,
		say: "CAUSE", never: noCloud,
	},
	{
		name: "not JSON", source: "networks with a login page, and proxies that cut answers",
		in: []place{inBody}, within: 90 * time.Second, first: 200 * time.Millisecond, most: 10 * time.Second,
		say: "CAUSE", never: notGoogle,
	},
	{
		name: "a service that is enabled", source: "TPG#3697 and the text of the error: wait a few minutes for the action to propagate",
		in: anywhere, code: []int{http.StatusForbidden}, reason: []string{"SERVICE_DISABLED", "accessNotConfigured"}, only: enabled,
		within: 5 * time.Minute, first: 200 * time.Millisecond, most: 5 * time.Second,
		say: "the API was just enabled and is not ready everywhere", never: noService,
	},
	{
		name: "a project Compute does not know yet", source: "Compute in the first minutes after it was enabled: 404 for the project itself",
		in: anywhere, service: []string{"compute"}, code: []int{http.StatusNotFound},
		text: []string{"The resource 'projects/PROJECT_ID' was not found", "Failed to find project PROJECT_ID"}, only: enabled,
		within: 5 * time.Minute, first: 200 * time.Millisecond, most: 5 * time.Second,
		say: "Compute Engine was just enabled and does not know the project everywhere", never: noService,
	},
	{
		name: "credentials Service Networking does not know yet", source: "provider, resource_service_networking_connection.go: retried on create; TPG#11195",
		in: anywhere, service: []string{"servicenetworking"}, text: []string{"Request had invalid authentication credentials"},
		within: 5 * time.Minute, first: time.Second, most: 10 * time.Second,
		say: "Service Networking is not ready in the project", never: noAgent,
	},
	{
		name: "Service Networking's preconditions", source: "TPG#11195, TPG#7404: on create and on list in a fresh project",
		in: anywhere, service: []string{"servicenetworking"}, text: []string{"Precondition check failed"},
		within: 5 * time.Minute, first: time.Second, most: 10 * time.Second,
		say: "Service Networking is not ready in the project", never: noAgent,
	},
	{
		name: "Service Networking's own rights", source: "KCC#270: code 7 in the operation, until the service agent has its role",
		in: anywhere, service: []string{"servicenetworking"}, text: []string{"Required 'compute.*' permission"},
		within: 5 * time.Minute, first: time.Second, most: 10 * time.Second,
		say: "Service Networking's service account has no rights yet", never: noAgent,
	},
	{
		name: "Service Networking right after it was enabled", source: "TPG#7404: PERMISSION_DENIED in the first minutes",
		in: anywhere, service: []string{"servicenetworking"}, reason: []string{"PERMISSION_DENIED", "forbidden", "AUTH_PERMISSION_DENIED"}, only: fresh,
		within: 5 * time.Minute, first: time.Second, most: 10 * time.Second,
		say: "Service Networking was just enabled and is not ready everywhere", never: noAgent,
	},
	{
		name: "services that are being enabled", source: "provider, error_retry_predicates.go: serviceusage's 400 and 412, operation error 160009",
		in: anywhere, service: []string{"serviceusage"},
		text:   []string{"Another activation or deactivation is in progress", "Precondition check failed", "encountered internal error*failed services"},
		within: 5 * time.Minute, first: 500 * time.Millisecond, most: 5 * time.Second,
		say: "services are being enabled or disabled",
	},
	{
		name: "peering", source: "provider, error_retry_predicates.go: There is a peering operation in progress; one at a time in a network, and Cloud SQL and Memorystore start some",
		in: anywhere, service: []string{"compute", "servicenetworking", "sqladmin", "redis"}, text: []string{"peering operation in progress"},
		within: 10 * time.Minute, first: 500 * time.Millisecond, most: 10 * time.Second,
		say: "another peering operation is in progress in the network",
	},
	{
		name: "first producers", source: "TPG#3697, TPG#3069, TPG#7910: the first ones in parallel on a new connection",
		in: anywhere, service: []string{"sqladmin", "redis"},
		text:   []string{"Failed to create subnetwork*create Service Networking connection"},
		within: 15 * time.Minute, first: 5 * time.Second, most: 30 * time.Second,
		say: "Google is still making the network of the first store",
		never: &advice{
			summary: "A store gets no private address",
			detail:  "SERVICE.googleapis.com refused it for a quarter of an hour: CAUSE.",
			remedy:  "See whether the network's connection is there, then apply again:\n    gcloud compute networks peerings list --project=PROJECT_ID",
		},
	},
	{
		name: "busy", source: "provider, error_retry_predicates.go: one operation at a time on a Cloud SQL instance or a Compute resource",
		in: anywhere, service: []string{"sqladmin", "compute"}, reason: []string{"operationInProgress"},
		within: 30 * time.Minute, first: 50 * time.Millisecond, most: 5 * time.Second,
		say: "another operation is in progress",
	},
	{
		name: "a Cloud SQL instance in another state", source: "provider, error_retry_predicates.go: every 409 of sqladmin but instanceAlreadyExists, as invalidState",
		in: []place{inAnswer}, service: []string{"sqladmin"}, code: []int{http.StatusConflict}, except: []string{"instanceAlreadyExists"},
		within: 15 * time.Minute, first: 500 * time.Millisecond, most: 10 * time.Second,
		say: "the instance is not in a state for it (CAUSE)",
		never: &advice{
			summary: "A Cloud SQL instance takes no changes",
			detail:  "Cloud SQL refused a change for a quarter of an hour: CAUSE.",
			remedy:  "See in what state the instance is, then run the command again:\n    gcloud sql instances list --project=PROJECT_ID",
		},
	},
	{
		name: "a busy Redis instance", source: "Memorystore: operations only when the instance is READY; its exact words are not recorded, the local cloud's stand for them",
		in: anywhere, service: []string{"redis"}, reason: []string{"FAILED_PRECONDITION", "ABORTED"}, text: []string{"nother operation*in progress"},
		within: 30 * time.Minute, first: 50 * time.Millisecond, most: 5 * time.Second,
		say: "another operation is in progress",
	},
	{
		name: "not ready", source: "provider, error_retry_predicates.go: resourceNotReady of networks and subnetworks",
		in: anywhere, service: []string{"compute"}, reason: []string{"resourceNotReady", "RESOURCE_NOT_READY"},
		within: 10 * time.Minute, first: 50 * time.Millisecond, most: 5 * time.Second,
		say: "what it stands on is not ready",
	},
	{
		name: "in use", source: "kops, upup/pkg/fi/cloudup/gce: a deletion that is refused so is tried later; instances of an old template drain",
		in: anywhere, service: []string{"compute"}, method: http.MethodDelete,
		reason: []string{"resourceInUseByAnotherResource", "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"},
		within: 10 * time.Minute, first: 50 * time.Millisecond, most: 10 * time.Second,
		say: "CAUSE", quietFor: time.Second,
	},
	{
		name: "a new service account", source: "provider, error_retry_predicates.go: setIamPolicy that names a fresh account",
		in: anywhere, code: []int{http.StatusBadRequest}, text: []string{"ervice account*does not exist"},
		within: 2 * time.Minute, first: 200 * time.Millisecond, most: 5 * time.Second,
		say: "the service account was just created and is not known everywhere",
	},
	{
		name: "a service account that cannot be seen yet", source: "provider, error_retry_predicates.go: right after its creation",
		in: []place{inAnswer}, service: []string{"iam"}, code: []int{http.StatusForbidden}, text: []string{"iam.serviceAccounts.*(or it may not exist)"}, only: newAccount,
		within: 2 * time.Minute, first: 200 * time.Millisecond, most: 5 * time.Second,
		say: "the service account was just created and is not known everywhere",
	},
	{
		name: "an operation that cannot be seen yet", source: "provider, tpgresource/common_operation.go: an operation that is not found is asked for again, as long as it may take",
		in: []place{inAnswer}, code: []int{http.StatusNotFound}, only: operation,
		within: 2 * time.Minute, first: 100 * time.Millisecond, most: 5 * time.Second,
		say: "the operation is not seen everywhere yet", never: noOperation,
	},
	{
		name: "rate", source: "Compute's API quotas: per minute; provider: rateLimitExceeded, CONCURRENT_OPERATIONS_QUOTA_EXCEEDED",
		in: anywhere, code: []int{http.StatusForbidden}, reason: []string{"rateLimitExceeded", "userRateLimitExceeded", "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED", "RATE_LIMIT_EXCEEDED"},
		within: 90 * time.Second, first: 500 * time.Millisecond, most: 10 * time.Second,
		say: "the rate limit is reached",
	},
	{
		name: "rate, by its text", source: "Compute's 403: Quota exceeded for quota metric and limit per minute",
		in: anywhere, code: []int{http.StatusForbidden}, text: []string{"Quota exceeded*per minute"},
		within: 90 * time.Second, first: 500 * time.Millisecond, most: 10 * time.Second,
		say: "the rate limit is reached",
	},
	{
		name: "overload", source: "AIP-194, and each API's error pages: 408, 429, 500, 502, 503, 504",
		in:     anywhere,
		code:   []int{http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout},
		within: 90 * time.Second, first: 200 * time.Millisecond, most: 10 * time.Second,
		say: "WHO answered CODE REASON",
	},
}
