package kind

import "strconv"

// The annotations of a secret. The list of secrets shows them; of versions it shows nothing.
const (
	// SecretAdded is the number of the last version that difyup added. It is written last, so that a secret without it was
	// interrupted half way.
	SecretAdded = "difyup-version"
	// SecretUsed is the number of a version that somebody else added, and that instances are to read.
	SecretUsed = "difyup-use"
	// SecretFormer is what earlier versions of difyup wrote when a secret had its value, whichever version that was.
	SecretFormer = "difyup-complete"
)

// Annotation gives an annotation of a live body, "" for none.
func Annotation(live map[string]any, name string) string {
	all, _ := live["annotations"].(map[string]any)
	text, _ := all[name].(string)
	return text
}

// VersionIn reads the number of a version, as an annotation has it.
func VersionIn(text string) (n int, ok bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n > 0
}

// SecretWhole says whether a live secret was made to its end.
func SecretWhole(live map[string]any) bool {
	return Annotation(live, SecretAdded) != "" || Annotation(live, SecretFormer) != ""
}
