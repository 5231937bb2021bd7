package budget

import (
	"slices"
	"strings"
)

// Moved is where a path is by the policy's moves: it follows them, also of its
// ancestors, as long as the old path is gone from the policy and the new one is
// there. A path that did not move is itself.
func (p *Policy) Moved(path string) string {
	for range p.Moves { // each applies at most once, so a circle ends
		next := p.step(path)
		if next == path {
			return path
		}
		path = next
	}
	return path
}

// step follows the first move that applies to a path.
func (p *Policy) step(path string) string {
	for _, m := range p.Moves {
		rest, inside := strings.CutPrefix(path, m.From)
		if !inside || rest != "" && rest[0] != '/' || p.Find(m.From) != nil {
			continue
		}
		if p.Find(m.To) != nil || p.step(m.To) != m.To {
			return m.To + rest
		}
	}
	return path
}

// Formers are the paths whose amounts belong to a path or to a budget above it by
// the policy's moves, sorted: as long as a move is not done,
// what was used and held there counts here.
func (p *Policy) Formers(path string) []string {
	var out []string
	for _, m := range p.Moves {
		to := p.Moved(m.From)
		if to == m.From {
			continue
		}
		for node := path; node != ""; node = parentOf(node) {
			rest, below := strings.CutPrefix(node, to+"/")
			switch {
			case below:
				out = append(out, m.From+"/"+rest)
			case within(to, node) && !within(m.From, node):
				out = append(out, m.From)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func parentOf(path string) string { return path[:max(0, strings.LastIndexByte(path, '/'))] }

// within reports whether a path is a node or below it.
func within(path, node string) bool { return path == node || strings.HasPrefix(path, node+"/") }
