package gate

import (
	"errors"
	"net/http"
	"strings"
)

// Explain decides about the plan in body as about one on its way to Nomad, and sends
// nothing there: the Admitter says in Verdict.Account what it knows. It needs what the
// request's token needs to read the job. There is no account of a job for another
// region. Told words its errors.
func (g *Gate) Explain(r *http.Request, body []byte) (Verdict, error) {
	s, err := g.parse(r, Route{Kind: RoutePlan}, body)
	if err != nil {
		return Verdict{}, refuseBody(err)
	}
	s.explain, s.fresh = true, true // no answer of Nomad follows that would tell what was remembered wrongly
	if _, err := g.resolve(r.Context(), s); err != nil {
		return Verdict{}, err
	}
	return g.decide(r.Context(), s)
}

// Told is how an error of Explain is answered: a status, and a sentence for its author.
func Told(err error) (status int, text string) {
	var refused *refusal
	var theirs *answer
	switch {
	case errors.As(err, &refused):
	case errors.As(err, &theirs):
		return theirs.status, "Nomad answered: " + strings.TrimSpace(string(theirs.body[:min(len(theirs.body), 1000)]))
	default:
		refused = refuseUnreachable()
	}
	return refused.status, strings.TrimRight(refused.text, "\n")
}
