package budget

import "strings"

// wildcard is the only special character of a pattern: any run of characters,
// also none.
const wildcard = '*'

// MatchesGlob reports whether text matches a pattern. It takes time
// proportional to the product of the lengths at worst: patterns come from
// people, who may write many wildcards.
func MatchesGlob(pattern, text string) bool {
	p, t := 0, 0
	star, resume := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == wildcard:
			star, resume = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0: // let the last wildcard swallow one more character
			resume++
			p, t = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], string(wildcard)) == ""
}

// globsOverlap reports whether some text matches both patterns.
func globsOverlap(a, b string) bool {
	// row[j] says whether a[i:] and b[j:] overlap, filled from the ends.
	row, below := make([]bool, len(b)+1), make([]bool, len(b)+1)
	for i := len(a); i >= 0; i-- {
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				row[j] = true
			case i < len(a) && a[i] == wildcard:
				row[j] = below[j] || (j < len(b) && row[j+1])
			case j < len(b) && b[j] == wildcard:
				row[j] = row[j+1] || (i < len(a) && below[j])
			case i < len(a) && j < len(b):
				row[j] = a[i] == b[j] && below[j+1]
			default:
				row[j] = false
			}
		}
		row, below = below, row
	}
	return below[0]
}

// matchesAny reports whether one of the texts matches one of the patterns.
func matchesAny(patterns []string, texts ...string) bool {
	for _, p := range patterns {
		for _, t := range texts {
			if MatchesGlob(p, t) {
				return true
			}
		}
	}
	return false
}

// listsOverlap reports whether some text matches a pattern of each list. An
// empty list sets no condition, so it overlaps everything.
func listsOverlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for _, x := range a {
		for _, y := range b {
			if globsOverlap(x, y) {
				return true
			}
		}
	}
	return false
}
