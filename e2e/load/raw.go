package load

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// MeasureRaw is Measure with clients that cost little, so that what is measured on their
// own machine is the server: each has a connection to http://host:port, writes a request
// and reads its answer before the next. What comes first is left out.
func MeasureRaw(address string, clients, n int, of func(i int) Request) (Result, error) {
	host := strings.TrimPrefix(address, "http://")
	took := make([]time.Duration, n)
	var next atomic.Int64
	began := time.Now()
	var group errgroup.Group
	for range clients {
		group.Go(func() error {
			conn, err := net.Dial("tcp", host)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // everything was read
			in := bufio.NewReader(conn)
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				q := of(i)
				start := time.Now()
				if err := exchange(conn, in, host, q); err != nil {
					return fmt.Errorf("%s %s: %w", q.Method, q.Path, err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	err := group.Wait()
	rate := float64(n) / time.Since(began).Seconds()
	slices.Sort(took)
	return Result{PerSecond: rate, P50: Quantile(took, 50), P99: Quantile(took, 99), Took: took}, err
}

func exchange(conn net.Conn, in *bufio.Reader, host string, q Request) error {
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Nomad-Token: %s\r\nContent-Length: %d\r\n\r\n%s",
		q.Method, q.Path, host, q.Token, len(q.Body), q.Body); err != nil {
		return err
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("%s %s", response.Status, body)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
