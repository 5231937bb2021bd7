package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/request"
)

// document is one record of the store, decoded. Nobody changes its value: it is
// shared by all who see it.
type document struct {
	version uint64
	// value is a *ledger.Hold, ledger.Balance, *ledger.Run, *ledger.Queued,
	// *ledger.Remains, audit.Head, audit.Record or markValue; nil when there is no
	// such record.
	value any
	// err is why the record cannot be read.
	err error
	// fresh says that it was read for this group. What is remembered may be old:
	// then the commit fails, but a refusal must not rest on it.
	fresh bool
}

func decodeDocument(r ledger.Record) document {
	d := document{version: r.Version, fresh: true}
	if r.Version == 0 {
		return d
	}
	kind, _, _ := strings.Cut(r.Key, "/")
	switch kind + "/" {
	case holdPrefix, tokensPrefix:
		h, err := ledger.DecodeHold(r.Value)
		d.value, d.err = &h, err
	case balancePrefix:
		d.value, d.err = decoded(ledger.DecodeBalance(r.Value))
	case runPrefix:
		run, err := ledger.Decode[ledger.Run](r.Value)
		d.value, d.err = &run, err
	case queuePrefix:
		queued, err := ledger.Decode[ledger.Queued](r.Value)
		d.value, d.err = &queued, err
	case commitPrefix:
		d.value, d.err = decoded(decodeMark(r.Value))
	case auditPrefix:
		d.value, d.err = decoded(decodeHead(r)) // of the chain only its end is read
	default:
		d.err = fmt.Errorf("a record of no known kind")
	}
	if d.err != nil {
		d.err = fmt.Errorf("%s: %w", r.Key, d.err)
	}
	return d
}

func decoded[T any](v T, err error) (any, error) { return v, err }

func encodeDocument(value any) ([]byte, error) {
	switch v := value.(type) {
	case *ledger.Hold:
		return ledger.EncodeHold(*v)
	case ledger.Balance:
		return v.Encode()
	case *ledger.Run:
		return ledger.Encode(*v)
	case *ledger.Queued:
		return ledger.Encode(*v)
	case *ledger.Remains:
		return ledger.Encode(*v)
	case audit.Head:
		return json.Marshal(v)
	case audit.Record:
		return json.Marshal(v)
	case markValue:
		return v.encode()
	}
	return nil, fmt.Errorf("%T is no document", value)
}

// sheet is the working copy of one group: the documents as they are in the store,
// and as the changes of the group leave them.
type sheet struct {
	b *books
	// memory gives what need not be read; nil for none.
	memory *memory
	docs   map[string]document
	next   map[string]any // as changed; nil for a record that is deleted
	// seen are the keys that successful changes rest on.
	seen map[string]bool
	// grants are all of them, if they were read; fresh as in document.
	grants      []grantAt
	grantsRead  bool
	grantsFresh bool
	// audited says that some change appends to the audit chain.
	audited bool
	// doubted are the keys of which what was known may be old.
	doubted map[string]bool
}

// grantAt is a grant with its record.
type grantAt struct {
	key     string
	version uint64
	ledger.Grant
}

func newSheet(b *books, m *memory) *sheet {
	return &sheet{b: b, memory: m, docs: make(map[string]document), next: make(map[string]any), seen: make(map[string]bool),
		doubted: make(map[string]bool)}
}

// know puts the holds on the sheet that the callers have seen already or take to be
// missing, unless the memory has them: it knows what was written since.
func (s *sheet) know(group []*wish) {
	for _, r := range group {
		if known := r.target.known; known.Hold != nil {
			s.suppose(r.target.key, document{version: known.version, value: known.Hold})
		}
		if r.target.novel {
			s.suppose(r.target.key, document{})
			if r.target.ofJob() {
				s.suppose(queueKey(r.target.key), document{})
			}
		}
	}
}

// suppose puts a document on the sheet of which nothing better is known.
func (s *sheet) suppose(key string, d document) {
	if _, there := s.docs[key]; there || s.doubted[key] {
		return
	}
	if _, there := s.memory.recall(key, s.b.now()); !there {
		s.docs[key] = d
	}
}

// again forgets the changes and keeps what was read.
func (s *sheet) again() { s.next, s.seen = make(map[string]any), make(map[string]bool) }

// get is a document as the changes so far leave it.
func (s *sheet) get(key string) (document, bool) {
	d, known := s.docs[key]
	if value, changed := s.next[key]; changed {
		d.value = value
	}
	return d, known
}

// ofJob reports whether the hold is that of a job, which may have a place in the queue.
func (t target) ofJob() bool { return strings.HasPrefix(t.key, holdPrefix) }

// need is what a target needs of the sheet.
type need struct {
	paths []string // of balances, sorted
	queue string   // key; "" for none
	runs  []string // keys; the first is the one in view
	grant bool
}

// needs lists what the target needs, as far as it is known now, and which keys of
// that are not on the sheet yet.
func (s *sheet) needs(t target) (n need, missing []string, err error) {
	want := func(key string) document {
		d, known := s.get(key)
		if !known {
			missing = append(missing, key)
		}
		if err == nil {
			err = d.err
		}
		return d
	}
	n.grant = t.policy != nil
	var leaves []string
	if t.budget != "" {
		leaves = append(leaves, t.budget)
	}
	if t.budget != "" && t.ofJob() {
		n.queue = queueKey(t.key)
		want(n.queue)
	}
	if t.run != "" {
		n.runs = append(n.runs, runPrefix+t.run)
	}
	var held document
	if t.key != "" {
		held = want(t.key)
	}
	if t.to != "" {
		want(t.to)
	}
	if hold, ok := held.value.(*ledger.Hold); ok {
		leaves = append(leaves, hold.Budget)
		if hold.Run != "" && hold.Run != t.run {
			n.runs = append(n.runs, runPrefix+hold.Run)
		}
	}
	for _, key := range n.runs {
		if run, ok := want(key).value.(*ledger.Run); ok {
			leaves = append(leaves, run.Budget)
		}
	}
	n.paths = s.paths(t.policy, leaves)
	for _, path := range n.paths {
		want(balancePrefix + path)
	}
	return n, missing, err
}

// paths are the leaves, their ancestors, and the cohort members of any of them.
func (s *sheet) paths(p *budget.Policy, leaves []string) []string {
	var paths []string
	for _, leaf := range leaves {
		paths = append(paths, ledger.Ancestors(leaf)...)
	}
	if p != nil {
		for _, leaf := range leaves {
			paths = append(paths, p.Formers(leaf)...)
		}
		for _, path := range slices.Clone(paths) {
			paths = append(paths, s.b.membersOf(p, path)...)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// view is what the mutation of a target sees, and the keys of all of it.
func (s *sheet) view(t target, n need) (v view, seen []string) {
	see := func(key string) document {
		d, _ := s.get(key)
		seen = append(seen, key)
		return d
	}
	var hold document
	if t.key != "" {
		hold = see(t.key)
	}
	v.hold.Hold, _ = hold.value.(*ledger.Hold)
	if v.hold.Hold != nil {
		v.hold.version = hold.version
		if _, changed := s.next[t.key]; changed {
			v.hold.version = unsaved
		}
	}
	if t.to != "" {
		v.there, _ = see(t.to).value.(*ledger.Hold)
	}
	if n.queue != "" {
		v.queued, _ = see(n.queue).value.(*ledger.Queued)
	}
	for i, key := range n.runs {
		if run, ok := see(key).value.(*ledger.Run); ok && i == 0 {
			v.run = run
		}
	}
	v.balances = make(map[string]ledger.Balance, len(n.paths))
	for _, path := range n.paths {
		v.balances[path] = balanceOf(see(balancePrefix + path))
	}
	if n.grant {
		now := s.b.now().UnixMilli()
		for _, g := range s.grants {
			if g.Active(now) && slices.Contains(n.paths, g.Budget) {
				v.grants = append(v.grants, g.Grant)
				seen = append(seen, g.key)
			}
		}
	}
	return v, seen
}

func balanceOf(d document) ledger.Balance {
	if b, ok := d.value.(ledger.Balance); ok {
		return b
	}
	return ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
}

// read puts the documents with these keys on the sheet, and the grants if they
// are wanted and not there. What is remembered is not read, unless something must
// be read anyway and the memory has been wrong lately.
func (s *sheet) read(ctx context.Context, keys []string, grants bool) error {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if s.memory != nil {
		keys = s.recall(keys)
		if grants && !s.grantsRead {
			s.recallGrants()
		}
	}
	for len(keys) > 0 {
		n := min(len(keys), request.MaxReads)
		records, err := s.b.store.Read(ctx, keys[:n]...)
		if err != nil {
			return fmt.Errorf("read the books: %w", err)
		}
		for _, r := range records {
			s.docs[r.Key] = decodeDocument(r)
		}
		keys = keys[n:]
	}
	if !grants || s.grantsRead {
		return nil
	}
	return s.readGrants(ctx)
}

// recall takes from the memory what it has and returns the rest of the keys.
func (s *sheet) recall(keys []string) []string {
	var rest []string
	found := make(map[string]document)
	for _, key := range keys {
		if d, ok := s.memory.recall(key, s.b.now()); ok {
			found[key] = d
		} else {
			rest = append(rest, key)
		}
	}
	if len(rest) > 0 && s.memory.distrusted() && len(keys) <= request.MaxReads {
		return keys // they are read together with the rest, at no further cost
	}
	for key, d := range found {
		s.docs[key] = d
	}
	return rest
}

// recallGrants takes the grants from the memory, or as they were read ahead a moment ago,
// unless what was remembered has been wrong lately.
func (s *sheet) recallGrants() {
	if s.grants, s.grantsRead = s.memory.recallGrants(s.b.now()); !s.grantsRead && !s.doubted[""] && !s.memory.distrusted() {
		s.grants, s.grantsRead = s.b.glances.recallGrants(s.b.now())
	}
}

func (s *sheet) readGrants(ctx context.Context) error {
	records, _, err := s.b.store.List(ctx, overridePrefix)
	if err != nil {
		return fmt.Errorf("list overrides: %w", err)
	}
	s.grants, s.grantsRead, s.grantsFresh = nil, true, true
	for _, r := range records {
		// One that cannot be read counts for nothing; the API shows it.
		if g, err := ledger.Decode[ledger.Grant](r.Value); err == nil {
			s.grants = append(s.grants, grantAt{key: r.Key, version: r.Version, Grant: g})
		}
	}
	slices.SortFunc(s.grants, func(a, b grantAt) int { return strings.Compare(a.ID, b.ID) })
	if s.memory != nil {
		s.memory.keepGrants(s.grants, s.b.now())
	}
	return nil
}

// stale are those of the seen keys that were remembered and not read. The grants
// count as one, with an empty key.
func (s *sheet) stale(t target, seen []string) []string {
	var keys []string
	for _, key := range seen {
		if d, ok := s.docs[key]; ok && !d.fresh {
			keys = append(keys, key)
		}
	}
	if t.policy != nil && !s.grantsFresh {
		keys = append(keys, "")
	}
	return keys
}

// refresh drops what may be old, so that it is read.
func (s *sheet) refresh(keys []string) {
	for _, key := range keys {
		if key == "" {
			s.grants, s.grantsRead, s.doubted[""] = nil, false, true
			s.memory.forgetGrants()
			continue
		}
		delete(s.docs, key)
		s.doubted[key] = true
		s.memory.forget(key)
	}
	s.again()
}

// writes is the one commit of all changes: what changed is written, and what was
// only seen is compared.
func (s *sheet) writes() ([]ledger.Write, error) {
	writes := make([]ledger.Write, 0, len(s.next)+len(s.seen))
	for key, value := range s.next {
		w := ledger.Write{Key: key, Version: s.docs[key].version}
		if value != nil {
			var err error
			if w.Value, err = encodeDocument(value); err != nil {
				return nil, fmt.Errorf("encode %s: %w", key, err)
			}
		}
		writes = append(writes, w)
	}
	for key := range s.seen {
		if _, written := s.next[key]; !written {
			writes = append(writes, ledger.Write{Key: key, Version: s.versionOf(key), Check: true})
		}
	}
	slices.SortFunc(writes, func(a, b ledger.Write) int { return strings.Compare(a.Key, b.Key) })
	return writes, nil
}

func (s *sheet) versionOf(key string) uint64 {
	if d, ok := s.docs[key]; ok {
		return d.version
	}
	for _, g := range s.grants {
		if g.key == key {
			return g.version
		}
	}
	return 0
}

// size is how many operations a commit has with further changes.
func (s *sheet) size(delta map[string]any, seen []string) int {
	n := len(s.next)
	for key := range delta {
		if _, there := s.next[key]; !there {
			n++
		}
	}
	compared := make(map[string]bool, len(s.seen)+len(seen))
	for key := range s.seen {
		compared[key] = true
	}
	for _, key := range seen {
		compared[key] = true
	}
	for key := range compared {
		_, a := s.next[key]
		if _, b := delta[key]; !a && !b {
			n++
		}
	}
	return n
}

// accept takes the changes of one request over.
func (s *sheet) accept(delta map[string]any, seen []string) {
	for key, value := range delta {
		s.next[key] = value
	}
	for _, key := range seen {
		s.seen[key] = true
	}
}

// members are the cohort members of each budget of one policy, by path.
type members struct {
	policy *budget.Policy
	of     map[string][]string
}

// membersOf are the paths of the cohort of a budget; none when it is in none.
func (b *books) membersOf(p *budget.Policy, path string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.members.policy != p {
		cohorts := make(map[string][]string)
		p.Walk(func(n *budget.Budget) {
			if n.Cohort != "" {
				cohorts[n.Cohort] = append(cohorts[n.Cohort], n.Path)
			}
		})
		b.members = members{policy: p, of: make(map[string][]string)}
		for _, paths := range cohorts {
			for _, path := range paths {
				b.members.of[path] = paths
			}
		}
	}
	return b.members.of[path]
}
