// Package imagename reads the names of container images: which registry one is in, and whether that is Google's.
package imagename
