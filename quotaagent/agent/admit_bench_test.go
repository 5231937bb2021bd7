package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// BenchmarkDurableAdmissions measures jobs that are decided and held in one real
// Consul server, by clients that submit one after the other, next to what that
// server does of plain writes by as many clients: "x_puts" is the ratio. All of
// them write the same root budget.
func BenchmarkDurableAdmissions(b *testing.B) {
	server := consultest.Start(b)
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			puts := plainPuts(b, server.Addr, clients)
			store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: fmt.Sprintf("bench-%d-%d", clients, b.N)}, hclog.NewNullLogger())
			must.NoError(b, err)
			defer store.Close()
			must.NoError(b, store.Commit(b.Context(), ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte(testPolicy(1_000_000, "1000000000"))}}))
			c := newClock()
			nomad := newNomad(c.now)
			a := New(Options{Name: "bench", Store: store, Nomad: nomad, Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: time.Now})
			must.NoError(b, a.Keeper.Load(b.Context()))
			b.ResetTimer()
			rate, p99 := hammer(b, clients, b.N, func(n int) error {
				v, err := a.Engine.Admit(b.Context(), batch(nomad, "default", fmt.Sprintf("job-%08d", n), 1, 1, time.Hour))
				if err == nil && v.Denied {
					err = fmt.Errorf("denied: %s", v.Message)
				}
				return err
			})
			b.ReportMetric(rate, "admissions/s")
			b.ReportMetric(float64(p99.Microseconds())/1000, "p99_ms")
			b.ReportMetric(puts, "puts/s")
			b.ReportMetric(rate/puts, "x_puts")
		})
	}
}

// plainPuts is how many writes of single keys the server takes in a second.
func plainPuts(b *testing.B, address string, clients int) float64 {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client, value := &http.Client{Transport: transport}, make([]byte, 500)
	rate, _ := hammer(b, clients, 200*clients, func(n int) error {
		url := fmt.Sprintf("http://%s/v1/kv/plain/%d/%d", address, clients, n)
		request, err := http.NewRequestWithContext(b.Context(), http.MethodPut, url, bytes.NewReader(value))
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		return errors.Join(err, response.Body.Close())
	})
	return rate
}

// hammer has so many clients make n calls together, and says how many there were
// in a second and how long all but a hundredth took at most.
func hammer(b *testing.B, clients, n int, call func(n int) error) (rate float64, p99 time.Duration) {
	var next atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	ctx, cancel := context.WithCancelCause(b.Context())
	defer cancel(nil)
	begin := time.Now()
	for range clients {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n && ctx.Err() == nil; i = int(next.Add(1)) {
				start := time.Now()
				if err := call(i); err != nil {
					cancel(err)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	total := time.Since(begin)
	if ctx.Err() != nil {
		b.Fatal(context.Cause(ctx))
	}
	slices.Sort(took)
	return float64(n) / total.Seconds(), took[len(took)*99/100]
}

// BenchmarkDurableTokens measures requests for tokens that are authorized and settled in
// one real Consul server, each of the two a durable commit, by clients that do one after
// the other: "authorizations/s" of the first half, "requests/s" of both.
func BenchmarkDurableTokens(b *testing.B) {
	server := consultest.Start(b)
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: fmt.Sprintf("tokens-%d-%d", clients, b.N)}, hclog.NewNullLogger())
			must.NoError(b, err)
			defer store.Close()
			policy := strings.NewReplacer("output = 1000", "output = 1000000000", "input = 5000", "input = 1000000000", "cost = 0.02", "cost = 1000000").Replace(tokenPolicy)
			must.NoError(b, store.Commit(b.Context(), ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte(policy)}}))
			c := newClock()
			a := New(Options{Name: "bench", Store: store, Nomad: newNomad(c.now), Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: time.Now})
			must.NoError(b, a.Keeper.Load(b.Context()))
			ids := make([]string, b.N+1)
			b.ResetTimer()
			authorized, p99 := hammer(b, clients, b.N, func(n int) error {
				s, err := a.Engine.AuthorizeTokens(b.Context(), opener, askTokens(fmt.Sprint(n), 100, 100))
				ids[n] = s.ID
				return err
			})
			settled, _ := hammer(b, clients, b.N, func(n int) error {
				_, err := a.Engine.SettleTokens(b.Context(), opener, TokenUsage{ID: ids[n], Input: 90, Output: 30})
				return err
			})
			b.ReportMetric(authorized, "authorizations/s")
			b.ReportMetric(float64(p99.Microseconds())/1000, "p99_ms")
			b.ReportMetric(1/(1/authorized+1/settled), "requests/s")
		})
	}
}
