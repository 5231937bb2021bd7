package agent

// The key prefixes of documents beside holds and balances.
const (
	queuePrefix = "queue/"
	runPrefix   = "run/"
	// historyPrefix is where revisions of the policy are kept. It does not begin
	// with policyPrefix, so that writing it wakes nobody who watches the policy.
	historyPrefix = "policy-history/"
)
