// Package spelling finds the known word that a person meant by a misspelt one. It is pure and imports nothing of ours.
package spelling
