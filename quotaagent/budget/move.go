package budget

import "strings"

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
