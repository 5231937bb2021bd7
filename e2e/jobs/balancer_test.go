package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// balancer stands for HAProxy, Traefik or Fabio in front of the agents: it sends
// requests to those that are healthy in Consul, and to another one when one does not
// answer. It does not look at answers.
type balancer struct {
	consul string
	client *http.Client

	mu        sync.Mutex
	addresses []string
	next      int
}

// balance serves at an address of its own until the test ends.
func balance(t *testing.T, consul string) (*balancer, string) {
	t.Helper()
	b := &balancer{consul: consul, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}}
	server := httptest.NewServer(b)
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { b.follow(ctx) })
	t.Cleanup(func() {
		stop()
		following.Wait()
		server.Close()
	})
	return b, server.URL
}

// follow keeps the addresses of the healthy agents.
func (b *balancer) follow(ctx context.Context) {
	for index := 0; ctx.Err() == nil; {
		found, now, err := b.healthy(ctx, index)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		b.mu.Lock()
		b.addresses, index = found, now
		b.mu.Unlock()
	}
}

// healthy asks Consul for the healthy agents, once that has changed since index.
func (b *balancer) healthy(ctx context.Context, index int) ([]string, int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/health/service/governor?passing&index=%d&wait=10s", b.consul, index), nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	var entries []struct {
		Service struct {
			Address string
			Port    int
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&entries); err != nil {
		return nil, 0, err
	}
	var found []string
	for _, e := range entries {
		found = append(found, net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port)))
	}
	index, err = strconv.Atoi(response.Header.Get("X-Consul-Index"))
	return found, index, err
}

// count is how many agents are healthy.
func (b *balancer) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.addresses)
}

// pick is the next agent in turn.
func (b *balancer) pick() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.addresses) == 0 {
		return "", errors.New("no agent is healthy")
	}
	b.next++
	return b.addresses[b.next%len(b.addresses)], nil
}

// retryFor is how long a request goes from agent to agent.
const retryFor = 5 * time.Second

// ServeHTTP implements http.Handler.
func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var response *http.Response
	for deadline := time.Now().Add(retryFor); ; time.Sleep(20 * time.Millisecond) {
		if response, err = b.send(r, body); err == nil || time.Now().After(deadline) || r.Context().Err() != nil {
			break
		}
	}
	if err != nil {
		http.Error(w, "no agent answers: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

// send sends a request to the next agent. An answer that breaks off is none.
func (b *balancer) send(r *http.Request, body []byte) (*http.Response, error) {
	address, err := b.pick()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+address+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = r.Header.Clone()
	response, err := b.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(answer))
	return response, nil
}

// awaits waits until so many agents are healthy.
func (b *balancer) awaits(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); b.count() != n; time.Sleep(20 * time.Millisecond) {
		must.True(t, time.Now().Before(deadline), must.Sprintf("%d agents are healthy, not %d", b.count(), n))
	}
}
