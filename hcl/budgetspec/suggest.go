package budgetspec

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// distanceMax is how many slips of the pen a suggestion forgives: at most
// three, as in HCL itself, and fewer in a short word.
func distanceMax(word string) int { return min(3, (len(word)+1)/3) }

// candidatesMax bounds the work for one suggestion.
const candidatesMax = 500

// nearest is the candidate most like the word, or "" when none is close. Of
// equals the first in alphabetical order.
func nearest(word string, candidates []string) string {
	if len(candidates) > candidatesMax {
		return ""
	}
	best, bestDistance := "", distanceMax(word)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if c == word || max(len(c), len(word))-min(len(c), len(word)) >= bestDistance {
			continue
		}
		if n := distance(strings.ToLower(word), strings.ToLower(c)); n < bestDistance {
			best, bestDistance = c, n
		}
	}
	return best
}

// distance is how many letters must be inserted, removed, replaced or swapped
// with their neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}

// suggestion is a sentence naming the nearest candidate, or "".
func suggestion(word string, candidates []string) string {
	near := nearest(word, candidates)
	if near == "" {
		return ""
	}
	return " Did you mean " + strconv.Quote(near) + "?"
}

// either lists words for people: "a", "b" or "c".
func either(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// abridge puts a text on one line and cuts it at writtenMax characters.
func abridge(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(text); len(runes) > writtenMax {
		return string(runes[:writtenMax]) + "..."
	}
	return text
}

// Reasons why a text is not a duration.
var (
	errDurationForm     = errors.New("it is not a number with a unit")
	errDurationPositive = errors.New("it is not longer than nothing")
	errDurationShort    = errors.New("it is shorter than a second")
	errDurationFine     = errors.New("it is not a whole number of milliseconds")
	errDurationLong     = errors.New("it is longer than 100 years")
)

const (
	day         = 24 * time.Hour
	week        = 7 * day
	durationMax = 100 * 365 * day
)

// parseDuration reads Go's notation and, in front of it, whole weeks and days
// of exactly 24 hours: "90m", "72h", "30d", "1w2d12h".
func parseDuration(text string) (time.Duration, error) {
	rest, total := text, time.Duration(0)
	for _, u := range []struct {
		letter string
		length time.Duration
	}{{"w", week}, {"d", day}} {
		digits, tail, found := strings.Cut(rest, u.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil {
			return 0, errDurationForm
		}
		if n > uint64(durationMax/u.length) {
			return 0, errDurationLong
		}
		total += time.Duration(n) * u.length
		rest = tail
	}
	if rest != "" || text == "" {
		exactly, err := time.ParseDuration(rest)
		if err != nil {
			return 0, errDurationForm
		}
		if exactly < 0 && total > 0 {
			return 0, errDurationForm
		}
		if exactly > durationMax {
			return 0, errDurationLong
		}
		total += exactly
	}
	switch {
	case total <= 0:
		return 0, errDurationPositive
	case total < time.Second:
		return 0, errDurationShort
	case total%time.Millisecond != 0:
		return 0, errDurationFine
	case total > durationMax:
		return 0, errDurationLong
	}
	return total, nil
}

// formatDuration prints a duration without parts that are zero: "72h".
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
