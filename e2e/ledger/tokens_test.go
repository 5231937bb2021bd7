package ledger_test

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

// A gateway asks for the tokens of its requests until the budget has none left, says what
// they used, and reports what it did without asking. What nobody settles is posted at
// what was held.
func TestTokensOfAModel(t *testing.T) {
	s := play(t, "tokens", 0)
	s.apply(`
budget "tokens" {
  match {
    namespaces = ["tokens"]
    identities = ["acl:disabled"]
  }
  limit "month" {
    cost   = 5
    tokens = { output = 1000 }
  }
}
`)
	s.run(job{id: "llama", gpus: 1, device: l40s, meta: map[string]string{"governor_max_runtime": "1h"}})
	authorize := func(options ...string) agent.TokenStatus {
		t.Helper()
		args := append([]string{"tokens", "authorize", "-json", "-model=llama-3.1-8b", "-namespace=tokens", "-job=llama", "-input=1000", "-max-output=400"}, options...)
		got := s.governor(append(args, "tokens")...)
		must.Eq(t, 0, got.ExitCode, must.Sprint(got.Output()))
		var status agent.TokenStatus
		must.NoError(t, json.Unmarshal([]byte(got.Output()), &status))
		return status
	}
	first := authorize("-key=first")
	must.Eq(t, first.ID, authorize("-key=first").ID, must.Sprint("sent again it is the same"))
	authorize("-key=second", "-ttl=2s")
	refused := s.governor("tokens", "authorize", "-model=llama-3.1-8b", "-input=10", "-max-output=400", "tokens")
	must.Eq(t, 1, refused.ExitCode)
	s.says(refused.Output(), "it needs 400 output tokens, and budget tokens has 200 output tokens left for the month", "(insufficient_budget)", "in 5s at the earliest")
	refused = s.governor("tokens", "authorize", "-model=no-such-model", "-input=10", "tokens")
	must.Eq(t, 1, refused.ExitCode)
	s.says(refused.Output(), `model "no-such-model" have no price`, "(no_price)")

	settled := s.governor("tokens", "settle", "-input=600", "-cached=400", "-output=100", first.ID)
	must.Eq(t, 0, settled.ExitCode, must.Sprint(settled.Output()))
	s.says(settled.Output(), "600 input, 400 cached and 100 output tokens of llama-3.1-8b are posted to budget tokens")
	s.eventually("what nobody settled is posted", func() error {
		return missing(s.governor("usage", "report", "-budget=tokens").Output(), "2,500")
	})
	reported := s.governor("tokens", "report", "-key=minute-1", "-model=llama-3.1-8b", "-output=600", "tokens")
	must.Eq(t, 0, reported.ExitCode, must.Sprint(reported.Output()))
	s.says(reported.Output(), "over budget: it needs 600 output tokens, and budget tokens has 500 output tokens left", "short by 100 output tokens")
	s.says(s.governor("budget", "status", "tokens").Output(), "output tokens  1,000  1,100     0  -100")
	s.says(s.governor("usage", "report", "-budget=tokens", "-by=job").Output(), "2,500", "3,100")
	s.says(s.governor("usage", "efficiency", "-budget=tokens", "-by=job").Output(), "PER MILLION TOKENS")
	verified := s.governor("usage", "verify")
	must.Eq(t, 0, verified.ExitCode, must.Sprint(verified.Output()))
}
