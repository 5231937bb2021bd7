package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// The keys of the audit chain: its end, and the latest records by number.
const (
	auditPrefix       = "audit/"
	auditHeadKey      = auditPrefix + "head"
	auditRecordPrefix = auditPrefix + "record/"
)

func auditKey(seq uint64) string { return fmt.Sprintf("%s%012d", auditRecordPrefix, seq) }

const (
	// auditKept is how many records the store keeps at least: enough for every agent
	// to put them into its archive.
	auditKept = 256
	// auditSlack is how many more there may be before the oldest are removed.
	auditSlack = 64
	// auditWaits bounds the events that wait for a store which does not answer.
	auditWaits = 10_000
	// auditFlush bounds how long a stopping agent tries to write what waits.
	auditFlush = 3 * time.Second
)

// auditChain appends to the one chain of audit records that all agents share.
// Every append compares and sets the chain's end, so that two agents can never
// append to the same end: there is no fork. What can be is written in one commit
// with the change that it records, so that neither exists without the other.
type auditChain struct {
	store  Store
	now    func() time.Time
	logger hclog.Logger
	// heard is told of every event after it was committed.
	heard Auditor
	// archive keeps the records for good; nil for none.
	archive Archive

	mu      sync.Mutex
	waiting []AuditEvent
	wake    chan struct{}

	// pruned is the number of the last record that the store has not any more, as
	// far as is known. It belongs to the leader's work.
	pruned uint64
}

func newAuditChain(store Store, now func() time.Time, logger hclog.Logger, heard Auditor) *auditChain {
	return &auditChain{store: store, now: now, logger: logger.Named("audit"), heard: heard, wake: make(chan struct{}, 1)}
}

// head reads the end of the chain with the version of its document.
func (c *auditChain) head(ctx context.Context) (audit.Head, uint64, error) {
	records, err := c.store.Read(ctx, auditHeadKey)
	if err != nil {
		return audit.Head{}, 0, fmt.Errorf("read the end of the audit chain: %w", err)
	}
	head, err := decodeHead(records[0])
	return head, records[0].Version, err
}

func decodeHead(r ledger.Record) (audit.Head, error) {
	var head audit.Head
	if r.Version == 0 {
		return head, nil
	}
	if err := json.Unmarshal(r.Value, &head); err != nil {
		return head, fmt.Errorf("decode %s: %w", r.Key, err)
	}
	return head, nil
}

// appended are the writes that put events behind an end of the chain.
func appended(head audit.Head, version uint64, events []AuditEvent) ([]ledger.Write, audit.Head, error) {
	if len(events) == 0 {
		return nil, head, nil
	}
	writes := make([]ledger.Write, 0, len(events)+1)
	for _, e := range events {
		var r audit.Record
		r, head = head.Append(e.record())
		value, err := json.Marshal(r)
		if err != nil {
			return nil, head, fmt.Errorf("encode audit record: %w", err)
		}
		writes = append(writes, ledger.Write{Key: auditKey(r.Seq), Value: value})
	}
	value, err := json.Marshal(head)
	if err != nil {
		return nil, head, fmt.Errorf("encode the end of the audit chain: %w", err)
	}
	return append(writes, ledger.Write{Key: auditHeadKey, Value: value, Version: version}), head, nil
}

// commit writes documents and the records of what they change, all or nothing.
// ErrConflict is only about the documents: when the chain alone has grown, it
// tries again.
func (c *auditChain) commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write, events ...AuditEvent) error {
	for attempt := 0; ; attempt++ {
		head, version, err := c.head(ctx)
		if err != nil {
			return err
		}
		records, next, err := appended(head, version, events)
		if err != nil {
			return err
		}
		err = c.store.Commit(ctx, fence, slices.Concat(writes, records))
		switch {
		case err == nil:
			c.tell(events)
			return nil
		case !errors.Is(err, ledger.ErrConflict), len(events) == 0, attempt == commitAttempts:
			return err
		}
		after, now, headErr := c.head(ctx)
		switch {
		case headErr != nil:
			return headErr
		case after == next: // it was written, and only the answer was lost on the way
			c.tell(events)
			return nil
		case now == version:
			return err
		}
	}
}

func (c *auditChain) tell(events []AuditEvent) {
	for _, e := range events {
		c.heard.Record(e)
	}
}

// Record implements Auditor for what has no commit of its own: the event is
// written soon, and again until the store takes it.
func (c *auditChain) Record(e AuditEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) >= auditWaits {
		c.logger.Error("audit event lost: the store has not taken any for too long", "kind", e.Kind, "actor", e.Actor, "text", e.Text)
		return
	}
	c.waiting = append(c.waiting, e)
	select {
	case c.wake <- struct{}{}:
	default: // it is awake
	}
}

// flush writes what waits, in order, in commits of at most so many.
func (c *auditChain) flush(ctx context.Context) error {
	const together = 16
	for {
		c.mu.Lock()
		batch := slices.Clone(c.waiting[:min(len(c.waiting), together)])
		c.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		if err := c.append(ctx, batch); err != nil {
			return err
		}
		c.mu.Lock()
		c.waiting = c.waiting[len(batch):]
		c.mu.Unlock()
	}
}

// append writes events that have no documents. A lost answer does not write them
// twice: the records would be the same, at the same place.
func (c *auditChain) append(ctx context.Context, events []AuditEvent) error {
	for attempt := 0; ; attempt++ {
		head, version, err := c.head(ctx)
		if err != nil {
			return err
		}
		writes, next, err := appended(head, version, events)
		if err != nil {
			return err
		}
		err = c.store.Commit(ctx, ledger.Fence{}, writes)
		if err != nil {
			there, readErr := c.there(ctx, next)
			switch {
			case readErr != nil || attempt == commitAttempts:
				return err
			case !there:
				continue
			}
		}
		c.tell(events)
		return nil
	}
}

// there reports whether the chain has this record.
func (c *auditChain) there(ctx context.Context, head audit.Head) (bool, error) {
	records, err := c.store.Read(ctx, auditKey(head.Seq))
	if err != nil || records[0].Version == 0 {
		return false, err
	}
	var r audit.Record
	if err := json.Unmarshal(records[0].Value, &r); err != nil {
		return false, fmt.Errorf("decode %s: %w", records[0].Key, err)
	}
	return r.Hash == head.Hash, nil
}

// Run writes what waits and keeps the archive up to date until ctx ends; then it
// writes what still waits, for a short time.
func (c *auditChain) Run(ctx context.Context) {
	var followers sync.WaitGroup
	if c.archive != nil {
		followers.Go(func() { c.follow(ctx) })
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-c.wake:
			for ctx.Err() == nil {
				err := c.flush(ctx)
				if err == nil {
					break
				}
				c.logger.Warn("audit records delayed", "error", err)
				pause(ctx, time.Second)
			}
		}
	}
	followers.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditFlush)
	defer cancel()
	if err := c.flush(last); err != nil {
		c.logger.Error("audit records lost while stopping", "error", err)
	}
	if c.archive != nil {
		if err := c.keep(last); err != nil {
			c.logger.Warn("the latest audit records are not in the archive yet", "error", err)
		}
	}
}

// follow puts new records into the archive, whoever wrote them.
func (c *auditChain) follow(ctx context.Context) {
	failing := false
	for index := uint64(0); ctx.Err() == nil; {
		err := c.keep(ctx)
		if err == nil {
			index, err = c.store.Watch(ctx, auditPrefix, index)
		}
		if err != nil && ctx.Err() == nil {
			if !failing {
				c.logger.Error("audit archive delayed", "error", err)
			}
			index = 0
			pause(ctx, time.Second)
		}
		failing = err != nil
	}
}

// keep puts the records that the store still has into the archive.
func (c *auditChain) keep(ctx context.Context) error {
	head, _, err := c.head(ctx)
	if err != nil || head.Seq == c.archive.Last() {
		return err
	}
	records, _, err := c.window(ctx)
	if err != nil {
		return err
	}
	last := c.archive.Last()
	fresh := slices.DeleteFunc(records, func(r audit.Record) bool { return r.Seq <= last })
	if len(fresh) == 0 {
		return nil
	}
	if err := c.archive.Keep(ctx, fresh); err != nil {
		return fmt.Errorf("archive audit records: %w", err)
	}
	return nil
}

// window are the records that the store still has, in order, with their documents.
func (c *auditChain) window(ctx context.Context) ([]audit.Record, []ledger.Record, error) {
	stored, _, err := c.store.List(ctx, auditRecordPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list audit records: %w", err)
	}
	slices.SortFunc(stored, func(a, b ledger.Record) int { return strings.Compare(a.Key, b.Key) })
	records := make([]audit.Record, len(stored))
	for i, r := range stored {
		if err := json.Unmarshal(r.Value, &records[i]); err != nil {
			return nil, nil, fmt.Errorf("decode %s: %w", r.Key, err)
		}
	}
	return records, stored, nil
}

// prune is a duty of the leader: it removes records from the store that are older
// than those it keeps, after they are in the leader's own archive.
func (c *auditChain) prune(ctx context.Context, fence ledger.Fence) error {
	head, _, err := c.head(ctx)
	if err != nil || head.Seq < c.pruned+auditKept+auditSlack {
		return err
	}
	records, stored, err := c.window(ctx)
	if err != nil {
		return err
	}
	last := len(records) - min(len(records), auditKept)
	if c.archive != nil {
		if err := c.keep(ctx); err != nil {
			return err
		}
	}
	old := make([]ledger.Write, 0, last)
	for _, r := range stored[:last] {
		old = append(old, ledger.Write{Key: r.Key, Version: r.Version})
	}
	for len(old) > 0 {
		n := min(len(old), ledger.MaxWrites/2) // each delete is two operations in Consul
		if err := c.store.Commit(ctx, fence, old[:n]); err != nil && !errors.Is(err, ledger.ErrConflict) {
			return fmt.Errorf("remove old audit records: %w", err)
		}
		old = old[n:]
	}
	c.pruned = head.Seq - min(head.Seq, auditKept)
	return nil
}

// AuditLog is a part of the audit chain.
type AuditLog struct {
	// Head is the end of the whole chain.
	Head audit.Head `json:"head"`
	// Records in order, from the one that was asked for on.
	Records []audit.Record `json:"records"`
	// More says that further ones follow.
	More bool `json:"more"`
}

// auditPage is how many records one answer has at most.
const auditPage = 1000

// log returns records from a number on, of the archive and of the store. Those
// that this agent has in neither are left out.
func (c *auditChain) log(ctx context.Context, from uint64) (AuditLog, error) {
	head, _, err := c.head(ctx)
	if err != nil {
		return AuditLog{}, err
	}
	out := AuditLog{Head: head, Records: []audit.Record{}}
	if c.archive != nil {
		if out.Records, err = c.archive.Records(ctx, from, auditPage); err != nil {
			return AuditLog{}, fmt.Errorf("read the audit archive: %w", err)
		}
	}
	if len(out.Records) < auditPage {
		window, _, err := c.window(ctx)
		if err != nil {
			return AuditLog{}, err
		}
		next := from
		if n := len(out.Records); n > 0 {
			next = out.Records[n-1].Seq + 1
		}
		for _, r := range window {
			if r.Seq >= next && r.Seq <= head.Seq {
				out.Records = append(out.Records, r)
			}
		}
	}
	slices.SortFunc(out.Records, func(a, b audit.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	out.Records = out.Records[:min(len(out.Records), auditPage)]
	if n := len(out.Records); n > 0 {
		out.More = out.Records[n-1].Seq < head.Seq
	}
	return out, nil
}
