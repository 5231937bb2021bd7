package load

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Request is one request, again and again.
type Request struct {
	Method, Path, Body string
	Token              string
	// First is sent to another server before this one, and counts as a part of it.
	First *Other
}

// Other is a request to another server.
type Other struct {
	Address string
	Request Request
}

// Result is how many requests there were in a second, and how long they took.
type Result struct {
	PerSecond float64
	P50, P99  time.Duration
	// Took is how long each took, the shortest first.
	Took []time.Duration
}

// Measure sends n requests from some clients at once, the i-th as of says. It returns
// the first answer that is not 200 as an error.
func Measure(address string, clients, n int, of func(i int) Request) (Result, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	took := make([]time.Duration, n)
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var mu sync.Mutex
	var failed error
	began := time.Now()
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := range next {
				request := of(i) // it may take its time
				start := time.Now()
				if err := send(transport, address, request); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = err
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	group.Wait()
	rate := float64(n) / time.Since(began).Seconds()
	slices.Sort(took)
	return Result{PerSecond: rate, P50: Quantile(took, 50), P99: Quantile(took, 99), Took: took}, failed
}

// Side is one of several ways to do the same, which MeasureTurns compares.
type Side struct {
	Name, Address string
	// Of is the i-th request.
	Of func(i int) Request
}

// MeasureTurns has one client send a request by each side in turn, the one that begins
// changing, n times, and tells how long those of each took, in the order in which they were
// sent. What slows the machine for a moment, such as a server that collects its garbage,
// slows all sides alike: where each has a time of its own, that decides about the slowest
// hundredth.
func MeasureTurns(n int, sides ...Side) (map[string][]time.Duration, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true}
	defer transport.CloseIdleConnections()
	took := make(map[string][]time.Duration, len(sides))
	for i := range n {
		for j := range sides {
			side := sides[(i+j)%len(sides)]
			request := side.Of(i) // it may take its time
			start := time.Now()
			if err := send(transport, side.Address, request); err != nil {
				return nil, fmt.Errorf("%s: %w", side.Name, err)
			}
			took[side.Name] = append(took[side.Name], time.Since(start))
		}
	}
	return took, nil
}

// Quantile is that of so many in a hundred, of the times of one measurement or of several
// together.
func Quantile(took []time.Duration, of int) time.Duration {
	if !slices.IsSorted(took) {
		took = slices.Sorted(slices.Values(took))
	}
	return took[len(took)*of/100]
}

func send(transport *http.Transport, address string, q Request) error {
	if q.First != nil {
		if err := send(transport, q.First.Address, q.First.Request); err != nil {
			return err
		}
	}
	r, err := http.NewRequest(q.Method, address+q.Path, strings.NewReader(q.Body))
	if err != nil {
		return err
	}
	if q.Token != "" {
		r.Header.Set("X-Nomad-Token", q.Token)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("%s %s: %s %s", q.Method, q.Path, response.Status, body)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// Median is the one in the middle, of the turns of a benchmark.
func Median[T float64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
