// Package event says what happened, once. The executor, the Google client and the local cloud's start send events;
// the views of cli/view, and later the console, read them. It holds no behaviour.
package event
