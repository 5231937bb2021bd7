package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// attemptWithin is how long a receiver may take.
	attemptWithin = 10 * time.Second
	// answerMost is how much of an answer is read, so that the connection can be used
	// again.
	answerMost = 64 << 10
	// secretPrefix is before a secret in base64, as Standard Webhooks writes them.
	secretPrefix = "whsec_"
)

// Message is one event for one receiver.
type Message struct {
	// ID is that of the event, the same for each attempt.
	ID   string
	URL  string
	Body []byte
	// Secret signs the message; "" for a message that is not signed.
	Secret string
}

// Sender sends messages. It is safe for concurrent use.
type Sender struct {
	client *http.Client
	now    func() time.Time
	agent  string
}

// New returns a sender; version is this release's.
func New(now func() time.Time, version string) *Sender {
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxy of the environment
	transport.MaxIdleConnsPerHost = 1
	client := &http.Client{Transport: transport, Timeout: attemptWithin,
		// A receiver that moved must be told so in the policy: a redirected POST would
		// become a GET, and be taken for delivered.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Sender{client: client, now: now, agent: "governor/" + version}
}

// Close closes idle connections.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Send makes one attempt. The error says what the receiver answered, and never holds
// the address, which may be a secret itself.
func (s *Sender) Send(ctx context.Context, m Message) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		return errors.New("the url of the notifier cannot be used")
	}
	request.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	request.Header.Set("User-Agent", s.agent)
	request.Header.Set("Webhook-Id", m.ID)
	at := s.now()
	request.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	if m.Secret != "" {
		signature, err := Sign(m.Secret, m.ID, at, m.Body)
		if err != nil {
			return err
		}
		request.Header.Set("Webhook-Signature", signature)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("no answer: %w", withoutURL(err))
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, answerMost))
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("the receiver answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	return nil
}

// withoutURL is what is below the error of a client, which names the address.
func withoutURL(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// Sign is the signature of Standard Webhooks: "v1," and in base64 the HMAC-SHA256 of
// the id, the time in Unix seconds and the body, joined by dots. A secret that begins
// with whsec_ is base64 from there on; any other is taken as it is.
func Sign(secret, id string, at time.Time, body []byte) (string, error) {
	key := []byte(secret)
	if encoded, ok := strings.CutPrefix(secret, secretPrefix); ok {
		var err error
		if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return "", errors.New("the secret begins with whsec_ and is no base64 after that")
		}
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	_, _ = mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}
