// Package registry asks registries of container images which bytes a tag stands for. It speaks their HTTP API through
// go-containerregistry, which no other package imports, and knows nothing of Dify, nor of stacks.
package registry
