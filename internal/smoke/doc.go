// Package smoke proves from outside, through the load balancer, that a Dify works, at any number of instances: it uses it as
// a browser does, with Dify's own console API, and what each row finds broken names its cause. It knows nothing of
// Google, of the stand-in or of the instances; whatever answers like Dify can be proven. Start reading at Run; rows.go is
// the table of what is proven.
package smoke
