package main

import (
	"crypto/subtle"
	"net/http"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// The paths of the webhooks for NACP. NACP sends no credentials, so that the key
// stands in the address.
const (
	validatePath = api.Prefix + "v1/webhook/validate"
	mutatePath   = api.Prefix + "v1/webhook/mutate"
)

// webhook is who answers a request to a webhook; nil for any other, also without the
// key, for those that are off do not exist.
func webhook(g *gate.Gate, key string, r *http.Request) http.Handler {
	kind, known := map[string]gate.WebhookKind{validatePath: gate.WebhookValidator, mutatePath: gate.WebhookMutator}[r.URL.Path]
	if !known || key == "" || subtle.ConstantTimeCompare([]byte(r.URL.Query().Get("key")), []byte(key)) != 1 {
		return nil
	}
	return g.Webhook(kind)
}
