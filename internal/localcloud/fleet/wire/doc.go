// Package wire holds the parts of Compute Engine's messages that the data plane reads, and the grammar of links and
// keys. A key is a relative self link, such as "projects/p/global/backendServices/b".
//
// It only reads: bodies are written by the control plane, or by the owners of "instances" and of a group's size.
// Start at Reader and Get.
package wire
