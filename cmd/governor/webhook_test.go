package main

import (
	"net/http/httptest"
	"testing"

	"github.com/shoenig/test/must"
)

func TestWebhooksNeedTheirKey(t *testing.T) {
	t.Parallel()
	const key = "a-key-of-twenty-letters"
	for target, known := range map[string]bool{
		validatePath + "?key=" + key: true, mutatePath + "?key=" + key: true,
		mutatePath: false, mutatePath + "?key=": false, mutatePath + "?key=another": false,
		"/governor/v1/webhook/other?key=" + key: false, "/v1/jobs?key=" + key: false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", target, nil)
		must.Eq(t, known, webhook(nil, key, r) != nil, must.Sprint(target))
		must.Nil(t, webhook(nil, "", r), must.Sprint("they are off"))
	}
}
