// Package runtime says what runs Dify's services on an instance: containers of Docker's (package compose), or, in a
// rehearsal, processes of the stand-in. The agent and its front door know nothing else of either. Which one it is stands in
// the instance's settings.
package runtime
