package kind

import "github.com/difyup/difyup/internal/resource"

// The services a stack uses. Source: each service's discovery document (rootUrl, servicePath).
var (
	ComputeAPI           = &resource.API{Name: "compute", Host: "https://compute.googleapis.com/", Base: "compute/v1/", Operation: resource.Compute}
	SQLAPI               = &resource.API{Name: "sqladmin", Host: "https://sqladmin.googleapis.com/", Base: "v1/", Operation: resource.SQL}
	RedisAPI             = &resource.API{Name: "redis", Host: "https://redis.googleapis.com/", Base: "v1/", Operation: resource.LongRunning}
	StorageAPI           = &resource.API{Name: "storage", Host: "https://storage.googleapis.com/", Base: "storage/v1/"}
	IAMAPI               = &resource.API{Name: "iam", Host: "https://iam.googleapis.com/", Base: "v1/"}
	ResourceManagerAPI   = &resource.API{Name: "cloudresourcemanager", Host: "https://cloudresourcemanager.googleapis.com/", Base: "v1/"}
	SecretManagerAPI     = &resource.API{Name: "secretmanager", Host: "https://secretmanager.googleapis.com/", Base: "v1/"}
	DNSAPI               = &resource.API{Name: "dns", Host: "https://dns.googleapis.com/", Base: "dns/v1/"}
	ServiceNetworkingAPI = &resource.API{Name: "servicenetworking", Host: "https://servicenetworking.googleapis.com/", Base: "v1/", Operation: resource.LongRunning}
	LoggingAPI           = &resource.API{Name: "logging", Host: "https://logging.googleapis.com/", Base: "v2/"}
	ServiceUsageAPI      = &resource.API{Name: "serviceusage", Host: "https://serviceusage.googleapis.com/", Base: "v1/", Operation: resource.LongRunning}
)

// APIs gives every service, in the order of their names.
func APIs() []*resource.API {
	return []*resource.API{ResourceManagerAPI, ComputeAPI, DNSAPI, IAMAPI, LoggingAPI, RedisAPI, SecretManagerAPI, ServiceNetworkingAPI, ServiceUsageAPI, SQLAPI, StorageAPI}
}
