// Package iam is the local cloud's IAM: service accounts, and the policies of every resource that has one, with what
// their roles permit. Package services serves the projects' policies, storage and secrets serve their own; all keep
// them in one Policies, which is asked before an instance's service account may do something. It must not know what the
// resources are. Start reading at Policies.
package iam
