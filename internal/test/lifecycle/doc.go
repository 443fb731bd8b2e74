// Package lifecycle tests difyup as its users meet it: commands, what they print and what is then there, on local clouds
// with real servers. The scripts are in testdata/script; what needs more than a script has a test of its own.
package lifecycle
