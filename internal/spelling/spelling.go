package spelling

import "slices"

// Nearest gives the known word that a person who wrote word most likely meant, or "".
func Nearest(word string, known []string) string {
	best, distance := "", max(1, len(word)/3) // further away it is another word
	if len(word) > 100 {
		return ""
	}
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := Edits(word, k); d <= distance && (best == "" || d < distance) {
			best, distance = k, d
		}
	}
	return best
}

// Edits is the number of characters to insert, delete, replace or swap with their neighbour that turn a into b.
func Edits(a, b string) int {
	s, t := []rune(a), []rune(b)
	rows := make([][]int, len(s)+1)
	for i := range rows {
		rows[i] = make([]int, len(t)+1)
		rows[i][0] = i
	}
	for j := range t {
		rows[0][j+1] = j + 1
	}
	for i := range s {
		for j := range t {
			cost := 1
			if s[i] == t[j] {
				cost = 0
			}
			d := min(rows[i][j]+cost, rows[i][j+1]+1, rows[i+1][j]+1)
			if i > 0 && j > 0 && s[i] == t[j-1] && s[i-1] == t[j] {
				d = min(d, rows[i-1][j-1]+1)
			}
			rows[i+1][j+1] = d
		}
	}
	return rows[len(s)][len(t)]
}
