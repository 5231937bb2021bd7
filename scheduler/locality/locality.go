package locality

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Tier is how near to the GPUs of a node some state lies.
type Tier string

// The tiers, the nearest first. What is in none of them is fetched from elsewhere.
const (
	GPU    Tier = "gpu"    // in the memory of its GPUs, kept by a server that runs there
	Memory Tier = "memory" // in its main memory
	Disk   Tier = "disk"   // on a disk of its own
)

// Tiers are all of them, the nearest first.
func Tiers() []Tier { return []Tier{GPU, Memory, Disk} }

// Asset is one piece of state on one node.
type Asset struct {
	// Name is what jobs call it: "llama-3-70b".
	Name string `json:"name"`
	// Node is the id of the node.
	Node string `json:"node"`
	// Bytes of it; 0 when that is not known.
	Bytes int64 `json:"bytes,omitempty"`
	Tier  Tier  `json:"tier"`
	// UntilMS is when it counts as gone, in Unix milliseconds; 0 for never.
	UntilMS int64 `json:"until_ms,omitempty"`
}

// Live reports whether the asset still counts.
func (a Asset) Live(now time.Time) bool { return a.UntilMS == 0 || now.UnixMilli() < a.UntilMS }

// name is what an asset may be called.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$`)

// CheckName says what is wrong with the name of an asset.
func CheckName(text string) error {
	if !name.MatchString(text) {
		return fmt.Errorf("%.150q is no name of state: it has up to 128 letters, digits, and . _ : / @ -, and begins with a letter or a digit", text)
	}
	return nil
}

// ParseTier reads a tier.
func ParseTier(text string) (Tier, error) {
	if t := Tier(text); slices.Contains(Tiers(), t) {
		return t, nil
	}
	return "", fmt.Errorf("%.100q is no tier: it is gpu, memory or disk", text)
}

// ParseBytes reads a size, "140GiB" or "512 MB".
func ParseBytes(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64/1000 {
		return 0, fmt.Errorf("%.100q is no size: write it as 140GiB or 512MB", text)
	}
	return int64(n), nil
}

// Want is state that a job uses.
type Want struct {
	Name string
	// Bytes that the job says it has; 0 when it says nothing.
	Bytes int64
}

// wantsMax bounds how many assets a job names.
const wantsMax = 64

// ParseWants reads what a job says: names, separated by commas, each with its size or
// without: "llama-3-70b=140GiB, kv-chat". The result is sorted by name.
func ParseWants(text string) ([]Want, error) {
	var wants []Want
	for part := range strings.SplitSeq(text, ",") {
		called, size, sized := strings.Cut(part, "=")
		w := Want{Name: strings.TrimSpace(called)}
		if err := CheckName(w.Name); err != nil {
			return nil, err
		}
		if sized {
			var err error
			if w.Bytes, err = ParseBytes(strings.TrimSpace(size)); err != nil {
				return nil, fmt.Errorf("size of %s: %w", w.Name, err)
			}
		}
		if slices.ContainsFunc(wants, func(o Want) bool { return o.Name == w.Name }) {
			return nil, fmt.Errorf("%s is named twice", w.Name)
		}
		if wants = append(wants, w); len(wants) > wantsMax {
			return nil, fmt.Errorf("it names more than %d", wantsMax)
		}
	}
	slices.SortFunc(wants, func(a, b Want) int { return strings.Compare(a.Name, b.Name) })
	return wants, nil
}

// Rates are bytes per second at which a node loads state into its GPUs.
type Rates struct {
	// Fetch from elsewhere, Disk and Memory from the node's own.
	Fetch, Disk, Memory int64
}

// Part is how one piece of state gets into the GPUs of a node.
type Part struct {
	Name string
	// Bytes of it; 0 when nobody says.
	Bytes int64
	// Tier where it lies; "" when it is fetched from elsewhere.
	Tier Tier
	// Takes is how long that is.
	Takes time.Duration
}

// Loading is all that a node loads before a job can start.
type Loading struct {
	// Takes is how long that is, one part after the other.
	Takes time.Duration
	// Parts, sorted by name.
	Parts []Part
}

// Known is what is known of where state lies, to be asked for one node after the other.
type Known struct {
	nearest map[place]Tier
	bytes   map[string]int64
}

type place struct{ name, node string }

// Know makes it of assets; those that have run out do not count. Of several of a name on
// one node the one counts that is loaded soonest.
func Know(assets []Asset, now time.Time) Known {
	k := Known{nearest: make(map[place]Tier, len(assets)), bytes: map[string]int64{}}
	for _, a := range assets {
		if !a.Live(now) {
			continue
		}
		at := place{a.Name, a.Node}
		if have, known := k.nearest[at]; !known || nearness(a.Tier) < nearness(have) {
			k.nearest[at] = a.Tier
		}
		k.bytes[a.Name] = max(k.bytes[a.Name], a.Bytes)
	}
	return k
}

// Loading is what a node would load of what a job wants. A size that the job does not say
// is the largest that is known of the name anywhere.
func (k Known) Loading(wants []Want, node string, rates Rates) Loading {
	var l Loading
	for _, w := range wants {
		part := Part{Name: w.Name, Bytes: w.Bytes, Tier: k.nearest[place{w.Name, node}]}
		if part.Bytes == 0 {
			part.Bytes = k.bytes[w.Name]
		}
		part.Takes = rates.takes(part)
		l.Takes += part.Takes
		l.Parts = append(l.Parts, part)
	}
	return l
}

func nearness(t Tier) int { return slices.Index(Tiers(), t) }

// takes is how long a part is loaded, in milliseconds, rounded up.
func (r Rates) takes(p Part) time.Duration {
	rate := r.Fetch
	switch p.Tier {
	case GPU:
		return 0
	case Memory:
		rate = r.Memory
	case Disk:
		rate = r.Disk
	}
	hi, lo := bits.Mul64(uint64(p.Bytes), 1000)
	lo, carry := bits.Add64(lo, uint64(rate)-1, 0)
	hi += carry
	if hi >= uint64(rate) {
		return longest
	}
	ms, _ := bits.Div64(hi, lo, uint64(rate))
	return min(time.Duration(min(ms, uint64(longest/time.Millisecond)))*time.Millisecond, longest)
}

// longest is what loading counts as at most: nobody waits longer, and sums stay in range.
const longest = 30 * 24 * time.Hour

// String is the loading for people, what takes longest first: "llama-3-70b (140 GiB) is
// fetched in about 2m0s, kv-chat (8.0 GiB) is read from disk in about 3s".
func (l Loading) String() string {
	parts := slices.Clone(l.Parts)
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(b.Takes, a.Takes) })
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.text()
	}
	return strings.Join(texts, ", ")
}

func (p Part) text() string {
	size := "size not known"
	if p.Bytes > 0 {
		size = humanize.IBytes(uint64(p.Bytes))
	}
	text := fmt.Sprintf("%s (%s) ", p.Name, size)
	switch p.Tier {
	case GPU:
		return text + "is in its GPUs"
	case Memory:
		text += "is read from memory"
	case Disk:
		text += "is read from disk"
	default:
		text += "is fetched"
	}
	if p.Bytes == 0 {
		return text
	}
	return text + " in about " + About(p.Takes)
}

// About is a length of time for people: seconds up to ten minutes, minutes behind.
func About(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < 10*time.Minute:
		return max(time.Second, d.Round(time.Second)).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
