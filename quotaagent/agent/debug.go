package agent

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/api"
)

// DebugView is what an agent tells of itself to who looks for what is wrong with it. There
// are no secrets in it.
type DebugView struct {
	Agent AgentInfo `json:"agent"`
	// Configuration is that of the agent without its secrets; nil where it is not told.
	Configuration map[string]any `json:"configuration,omitempty"`
	Process       ProcessInfo    `json:"process"`
	Ledger        LedgerInfo     `json:"ledger"`
}

// ProcessInfo is how the process does.
type ProcessInfo struct {
	// Go is the version of Go that built it, Platform the system and the processor it is
	// built for.
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Processors are those that it may use, Goroutines how many run.
	Processors int `json:"processors"`
	Goroutines int `json:"goroutines"`
	// HeapBytes are those in use, SystemBytes those that it has of the system.
	HeapBytes   uint64 `json:"heap_bytes"`
	SystemBytes uint64 `json:"system_bytes"`
	UptimeMS    int64  `json:"uptime_ms"`
}

// LedgerInfo is what keeps the ledger.
type LedgerInfo struct {
	// Server is consul or sqlite; "" where the store does not say.
	Server  string `json:"server,omitempty"`
	Version string `json:"version,omitempty"`
	// Error is why the version is not known.
	Error string `json:"error,omitempty"`
}

// server is a store that knows what it is.
type server interface {
	Server(ctx context.Context) (name, version string, err error)
}

func (a *Agent) serveDebug(ctx context.Context, c api.Call) (any, error) {
	if err := mustManage(c, "to look into an agent"); err != nil {
		return nil, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	out := DebugView{Agent: a.self(), Configuration: a.configuration, Process: ProcessInfo{
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.GOMAXPROCS(0), Goroutines: runtime.NumGoroutine(),
		HeapBytes: memory.HeapAlloc, SystemBytes: memory.Sys, UptimeMS: a.now().Sub(a.started).Milliseconds()}}
	if s, knows := a.store.(server); knows {
		var err error
		if out.Ledger.Server, out.Ledger.Version, err = s.Server(ctx); err != nil {
			out.Ledger.Error = err.Error()
		}
	}
	return out, nil
}

// profiles are those that an agent makes of itself, with the form in which pprof writes
// them: 1 is text, 0 what `go tool pprof` reads. Neither has values of the program.
func profiles() map[string]int { return map[string]int{"goroutine": 1, "heap": 0} }

// serveProfile answers what the goroutines do, or what the memory is used for.
func (a *Agent) serveProfile(_ context.Context, c api.Call) (any, error) {
	if err := mustManage(c, "to look into an agent"); err != nil {
		return nil, err
	}
	form, known := profiles()[c.Var("name")]
	if !known {
		return nil, refusal(http.StatusNotFound, "there is no profile %.40q; there are: %s", c.Var("name"), strings.Join(sortedKeys(profiles()), ", "))
	}
	kind := "application/octet-stream"
	if form == 1 {
		kind = "text/plain; charset=utf-8"
	}
	return api.Raw{Type: kind, Write: func(w io.Writer) error { return pprof.Lookup(c.Var("name")).WriteTo(w, form) }}, nil
}
