package nvml

import (
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// symbols remembers which functions the library has.
type symbols struct {
	lib nvml.Interface

	mu    *sync.Mutex
	known map[string]bool
}

func newSymbols(lib nvml.Interface) symbols {
	return symbols{lib: lib, mu: &sync.Mutex{}, known: map[string]bool{}}
}

func (s symbols) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, asked := s.known[name]
	if !asked {
		found = s.lib.Extensions().LookupSymbol(name) == nil
		s.known[name] = found
	}
	return found
}

func (s symbols) all(names ...string) bool {
	for _, name := range names {
		if !s.has(name) {
			return false
		}
	}
	return true
}

type number interface {
	~int | ~int32 | ~int64 | ~uint32 | ~uint64
}

// ask calls a function that the library may lack; any answer but success is
// "not known".
func ask[T number](s symbols, symbol string, call func() (T, nvml.Return)) inventory.Maybe[int64] {
	if !s.has(symbol) {
		return inventory.Maybe[int64]{}
	}
	v, ret := call()
	if ret != nvml.SUCCESS {
		return inventory.Maybe[int64]{}
	}
	return inventory.Known(int64(v))
}

// state is ask for a switch.
func state(s symbols, symbol string, call func() (nvml.EnableState, nvml.Return)) inventory.Maybe[bool] {
	v := ask(s, symbol, call)
	return inventory.Maybe[bool]{Value: v.Value == int64(nvml.FEATURE_ENABLED), Known: v.Known}
}
