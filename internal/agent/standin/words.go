package standin

import (
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"unicode"
)

// words gives the words of a text in their order, in lower case.
func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// keywordsEach is how many keywords a segment has at most.
const keywordsEach = 10

// keywords gives the words that tell a text from others: the rare and long before the short.
func keywords(text string) []string {
	all := slices.DeleteFunc(words(text), func(w string) bool { return len([]rune(w)) < 3 })
	slices.SortFunc(all, func(a, b string) int {
		if d := len([]rune(b)) - len([]rune(a)); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	all = slices.Compact(all)
	return all[:min(len(all), keywordsEach)]
}

// split makes segments of a text: its lines, apart from empty ones.
func split(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// dimensions is the length of the test provider's vectors.
const dimensions = 64

// embed is the test provider's model: it puts each word at a place by its hash. Texts with words in common are near each
// other, and the same text gives the same vector everywhere.
func embed(text string) []float32 {
	v := make([]float32, dimensions)
	for _, w := range words(text) {
		h := fnv.New64a()
		h.Write([]byte(w))
		sum, sign := h.Sum64(), float32(1)
		if sum>>63 == 1 {
			sign = -1
		}
		v[sum%dimensions] += sign
	}
	var length float64
	for _, x := range v {
		length += float64(x) * float64(x)
	}
	if length == 0 { // cosine distance needs a direction
		v[0], length = 1, 1
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(length))
	}
	return v
}
