package history

import (
	"context"
)

// Decision is what was decided about one submission. Decisions are the log of one
// agent: unlike entries they are not exchanged with others.
type Decision struct {
	AtMS      int64  `json:"at_ms"`
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// Outcome and Reason are those of docs/reasons.md.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Budget  string `json:"budget,omitempty"`
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

// Decided writes decisions, and removes the oldest beyond keep.
func (s *Store) Decided(ctx context.Context, decisions []Decision, keep int64) error {
	return s.write(ctx, func(ctx context.Context, w *writer) error {
		for _, d := range decisions {
			if _, err := w.exec(ctx, `INSERT INTO decision (at_ms, namespace, job, outcome, reason, budget, user, gpus, plan, shadow, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				d.AtMS, d.Namespace, d.JobID, d.Outcome, d.Reason, d.Budget, d.Submitter, d.GPUs, d.Plan, d.Shadow, d.Text); err != nil {
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
	out := []Decision{}
	where, args := `1`, []any{}
	if job != "" {
		where, args = `job = ? AND namespace = ?`, []any{job, namespace}
	}
	err := s.read(ctx, func(ctx context.Context, q querier) error {
		out = out[:0]
		rows, err := q.QueryContext(ctx, `SELECT at_ms, namespace, job, outcome, reason, budget, user, gpus, plan, shadow, text FROM decision
			WHERE `+where+` ORDER BY id DESC LIMIT ?`, append(args, limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d Decision
			if err := rows.Scan(&d.AtMS, &d.Namespace, &d.JobID, &d.Outcome, &d.Reason, &d.Budget, &d.Submitter, &d.GPUs, &d.Plan, &d.Shadow, &d.Text); err != nil {
				return err
			}
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}
