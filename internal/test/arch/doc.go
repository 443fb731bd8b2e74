// Package arch holds the project's policies as tests: which package may import which, that every package says what it
// is for, who may end the process. Each ban carries its reason, which the failure prints.
package arch
