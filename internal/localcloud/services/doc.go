// Package services is the part of the local cloud that is about projects as a whole: Resource Manager's projects and
// their IAM policies, which APIs are enabled (serviceusage, and the refusal of calls to the others), private services
// access (servicenetworking), and billing. It must not know what the enabled APIs do. Start reading at Register.
package services
