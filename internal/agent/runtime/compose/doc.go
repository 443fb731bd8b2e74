// Package compose runs Dify's services as containers, through the docker program and its compose plugin. The project is
// ours, rendered from what package dify says of a release: no stores, one environment per container, addresses that cannot
// hide a store's, no ports on the machine. Start reading at Render.
package compose
