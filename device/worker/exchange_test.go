package worker

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
)

func TestReplacedLibraryExchangesTheWorkerWithinTheCall(t *testing.T) {
	t.Parallel()
	dir := ""
	s, _ := start(t, func(o *Options) { dir = o.Args[2] })
	eventually(t, s)
	first := pid(t, s)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "outdated"), []byte(strconv.Itoa(first)), 0o644))
	must.NotEq(t, first, pid(t, s))
	ended(t, first)
	_, err := s.Read()
	must.NoError(t, err)
}

// A driver that is upgraded soon after its workers crashed makes no device
// unhealthy: the worker that served is exchanged within the call all the same.
func TestReplacedLibraryIsNoFailureAfterOthers(t *testing.T) {
	t.Parallel()
	dir, clock := "", time.Unix(0, 0)
	s, set := start(t, func(o *Options) {
		dir, o.Now = o.Args[2], func() time.Time { return clock }
		o.BackoffLeast, o.BackoffMost = time.Second, 8*time.Second
	})
	set("crash", true)
	for range 3 {
		_, err := s.Read()
		must.ErrorContains(t, err, "exit status 127")
		_, _ = s.Read() // tells of the end
		clock = clock.Add(8 * time.Second)
	}
	set("crash", false)
	eventually(t, s)
	clock = clock.Add(time.Second)
	first := pid(t, s)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "outdated"), []byte(strconv.Itoa(first)), 0o644))
	_, err := s.Read()
	must.NoError(t, err)
	must.NotEq(t, first, pid(t, s))
}

// Whoever notices first that the library was replaced, what is under way or asked
// for meanwhile is answered by the next worker.
func TestReplacedLibraryFailsNoCallThatIsUnderWay(t *testing.T) {
	t.Parallel()
	dir := ""
	s, _ := start(t, func(o *Options) { dir = o.Args[2] })
	eventually(t, s)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, err := s.Read(); return err },
		func() error { _, err := s.Sample(); return err },
		func() error { _, err := s.Watch(time.Millisecond); return err },
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					must.NoError(t, call())
				}
			}
		})
	}
	for range 10 {
		old := pid(t, s)
		must.NoError(t, os.WriteFile(filepath.Join(dir, "outdated"), []byte(strconv.Itoa(old)), 0o644))
		must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return pid(t, s) != old }),
			wait.Timeout(time.Minute), wait.Gap(time.Millisecond)))
	}
	close(stop)
	wg.Wait()
}

func TestMismatchIsToldAndEachReadTriesAFreshProcess(t *testing.T) {
	t.Parallel()
	s, set := start(t, nil)
	set("mismatch", true)
	for range 3 {
		_, err := s.Read()
		must.EqError(t, err, "version differs")
	}
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		_, err := s.Read()
		must.EqError(t, err, "version differs")
		return s.number > 2
	}), wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
	set("mismatch", false)
	eventually(t, s)
}
