package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Decision is what was decided about one submission. Decisions are the log of one
// agent: unlike entries they are not exchanged with others.
type Decision struct {
	// ID names it among those of all agents, such as d-3f9c1a0b-812: the file that has it,
	// and its number there, which is never given again. Of two agents that began with
	// copies of one file, each has decisions with the same IDs. "" before it is written.
	ID        string `json:"id,omitempty"`
	AtMS      int64  `json:"at_ms"`
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// Request is what was asked of Nomad: register, plan, validate, scale, dispatch,
	// periodic or revert; "" of what was decided before it was kept.
	Request string `json:"request,omitempty"`
	// Outcome and Reason are those of docs/reasons.md.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Budget  string `json:"budget,omitempty"`
	// Source is file:line of the limit that decided, else of the budget; "" where neither
	// is known, and of what was decided before it was kept. Revision is that of the policy
	// then in force.
	Source   string `json:"source,omitempty"`
	Revision string `json:"revision,omitempty"`
	// Submitter is the accessor of who submitted.
	Submitter string `json:"submitter,omitempty"`
	GPUs      int64  `json:"gpus"`
	// Plan says that the job was only planned, Shadow that the decision was not
	// enforced.
	Plan   bool `json:"plan,omitempty"`
	Shadow bool `json:"shadow,omitempty"`
	// Text is what the author was told, with the arithmetic; "" of plans, and of what was
	// decided before texts were kept.
	Text string `json:"text,omitempty"`
}

// DecisionQuery says which decisions are meant.
type DecisionQuery struct {
	// Namespace and Job are those of the job; an empty Job means all jobs.
	Namespace, Job string
	// Until is the time by which they were made; zero means now.
	Until time.Time
	// Skip is how many of the latest are left out, Limit how many follow at most.
	Skip, Limit int
}

// ErrNoDecision means that the file has no decision with an ID.
var ErrNoDecision = errors.New("no such decision")

// decisionID is the form of the ID of a decision.
var decisionID = regexp.MustCompile(`^d-([0-9a-f]{8})-([1-9][0-9]{0,17})$`)

// IsDecisionID reports whether a text has the form of the ID of a decision.
func IsDecisionID(text string) bool { return decisionID.MatchString(text) }

// Decided writes decisions, and removes the oldest beyond keep.
func (s *Store) Decided(ctx context.Context, decisions []Decision, keep int64) error {
	return s.write(ctx, func(ctx context.Context, w *writer) error {
		for _, d := range decisions {
			if _, err := w.exec(ctx, `INSERT INTO decision (at_ms, namespace, job, outcome, reason, budget, user, gpus, plan, shadow, text, request, source, revision)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				d.AtMS, d.Namespace, d.JobID, d.Outcome, d.Reason, d.Budget, d.Submitter, d.GPUs, d.Plan, d.Shadow, d.Text, d.Request, d.Source, d.Revision); err != nil {
				return err
			}
		}
		_, err := w.exec(ctx, `DELETE FROM decision WHERE id <= (SELECT max(id) FROM decision) - ?`, keep)
		return err
	})
}

// Decisions are those about a job, the latest first: at most limit. An empty job
// means all jobs.
func (s *Store) Decisions(ctx context.Context, namespace, job string, limit int) ([]Decision, error) {
	return s.FindDecisions(ctx, DecisionQuery{Namespace: namespace, Job: job, Limit: limit})
}

// FindDecisions are those that are meant, the latest first.
func (s *Store) FindDecisions(ctx context.Context, q DecisionQuery) ([]Decision, error) {
	where, args := `1`, []any{}
	if q.Job != "" {
		where, args = `job = ? AND namespace = ?`, []any{q.Job, q.Namespace}
	}
	if !q.Until.IsZero() {
		where, args = where+` AND at_ms <= ?`, append(args, q.Until.UnixMilli())
	}
	return s.decisions(ctx, where+` ORDER BY id DESC LIMIT ? OFFSET ?`, append(args, q.Limit, q.Skip)...)
}

// Decision is the one with an ID. ErrNoDecision means that this file has none: it may be
// one of another agent's, or too old.
func (s *Store) Decision(ctx context.Context, id string) (Decision, error) {
	parts := decisionID.FindStringSubmatch(id)
	if parts == nil {
		return Decision{}, fmt.Errorf("%w: %.40q is not the ID of one, such as d-3f9c1a0b-812", ErrNoDecision, id)
	}
	nr, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return Decision{}, fmt.Errorf("%w: %.40q: %w", ErrNoDecision, id, err)
	}
	found, err := s.decisions(ctx, `id = ?`, nr)
	switch {
	case err != nil:
		return Decision{}, err
	case len(found) == 0 || found[0].ID != id:
		return Decision{}, fmt.Errorf("%w: %s", ErrNoDecision, id)
	}
	return found[0], nil
}

// decisions are those that a condition finds.
func (s *Store) decisions(ctx context.Context, where string, args ...any) ([]Decision, error) {
	out := []Decision{}
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		out = out[:0]
		file, err := readMeta(ctx, q, "file")
		if err != nil {
			return err
		}
		rows, err := q.QueryContext(ctx, `SELECT id, at_ms, namespace, job, outcome, reason, budget, user, gpus, plan, shadow, text, request, source, revision FROM decision
			WHERE `+where, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			d, err := scanDecision(rows, file)
			if err != nil {
				return err
			}
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}

func scanDecision(rows *sql.Rows, file string) (Decision, error) {
	var d Decision
	var nr int64
	err := rows.Scan(&nr, &d.AtMS, &d.Namespace, &d.JobID, &d.Outcome, &d.Reason, &d.Budget, &d.Submitter, &d.GPUs, &d.Plan, &d.Shadow, &d.Text, &d.Request, &d.Source, &d.Revision)
	d.ID = fmt.Sprintf("d-%.8s-%d", file, nr)
	return d, err
}
