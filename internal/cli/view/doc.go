// Package view is how difyup speaks: plans, progress, status and errors, as text for people or as JSON. It is the only
// package that knows colour and width. It decides nothing and asks nobody. Start reading at Plan and Progress.
package view
