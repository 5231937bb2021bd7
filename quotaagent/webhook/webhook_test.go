package webhook_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/quotaagent/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var at = time.Unix(1674087231, 0)

func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	// The example of github.com/standard-webhooks/standard-webhooks.
	got, err := webhook.Sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	must.NoError(t, err)
	must.Eq(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)
	_, err = webhook.Sign("whsec_?", "x", at, nil)
	must.EqError(t, err, "the secret begins with whsec_ and is no base64 after that")
}

func TestAMessageIsACloudEventWithASignature(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r, string(text)
	}))
	defer server.Close()
	s := webhook.New(func() time.Time { return at }, "0.1.0")
	defer s.Close()
	must.NoError(t, s.Send(t.Context(), webhook.Message{ID: "e-1", URL: server.URL + "/hook?x=1", Body: []byte(`{"a":1}`), Secret: "plain"}))
	must.Eq(t, "application/cloudevents+json; charset=utf-8", got.Header.Get("Content-Type"))
	must.Eq(t, "e-1", got.Header.Get("Webhook-Id"))
	must.Eq(t, "1674087231", got.Header.Get("Webhook-Timestamp"))
	want, err := webhook.Sign("plain", "e-1", at, []byte(body))
	must.NoError(t, err)
	must.Eq(t, want, got.Header.Get("Webhook-Signature"))
	must.Eq(t, "/hook?x=1", got.URL.RequestURI())
	must.NoError(t, s.Send(t.Context(), webhook.Message{ID: "e-2", URL: server.URL}))
	must.Eq(t, "", got.Header.Get("Webhook-Signature"))
}

func TestWhatIsNotTakenIsAnErrorThatNamesNoAddress(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/hangs":
			<-release
		}
	}))
	defer server.Close()
	defer close(release)
	s := webhook.New(func() time.Time { return at }, "0.1.0")
	defer s.Close()
	for name, c := range map[string]struct{ url, want string }{
		"a redirect":  {server.URL + "/moved", "the receiver answered 302 Found"},
		"a failure":   {server.URL + "/broken", "the receiver answered 500 Internal Server Error"},
		"no server":   {"http://127.0.0.1:1/secret", "no answer: "},
		"no address":  {"http://127.0.0.1:port/secret", "the url of the notifier cannot be used"},
		"no patience": {server.URL + "/hangs", "no answer: context deadline exceeded"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := s.Send(ctx, webhook.Message{ID: "e", URL: c.url})
		cancel()
		must.ErrorContains(t, err, c.want, must.Sprint(name))
		must.False(t, strings.Contains(err.Error(), "secret"), must.Sprint(name))
	}
}
