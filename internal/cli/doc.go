// Package cli is difyup's command line: one file for each command, which reads flags, calls ops or localcloud, and hands
// the result to view. Standard output is the answer, standard error the story. Nothing is decided here but what to ask
// and which exit code to give. Start reading at Main.
package cli
