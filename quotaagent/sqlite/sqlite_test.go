package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/storetest"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *sqlite.Store {
	store, err := sqlite.Open(path)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	return store
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return open(t, filepath.Join(t.TempDir(), "a 100% odd?name#.db"))
	})
}

func BenchmarkCommit(b *testing.B) {
	storetest.BenchmarkCommit(b, open(b, filepath.Join(b.TempDir(), "store.db")))
}

func TestRecordsSurviveCloseAndOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	store, err := sqlite.Open(path)
	must.NoError(t, err)
	must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "hold/1", Value: []byte("h")}}))
	before, index, err := store.List(t.Context(), "")
	must.NoError(t, err)
	must.NoError(t, store.Close())

	after, indexAfter, err := open(t, path).List(t.Context(), "")
	must.NoError(t, err)
	must.Eq(t, before, after)
	must.Eq(t, index, indexAfter)
	info, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())
}

func TestASecondOpenerIsSeenAndFenced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	one, two := open(t, path), open(t, path)

	_, index, err := one.List(t.Context(), "policy/")
	must.NoError(t, err)
	woken := make(chan error, 1)
	go func() {
		_, err := one.Watch(t.Context(), "policy/", index)
		woken <- err
	}()
	must.NoError(t, two.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "policy/a", Value: []byte("v")}}))
	select {
	case err := <-woken:
		must.NoError(t, err)
	case <-time.After(time.Second):
		t.Fatal("a commit of another opener was not seen within a second")
	}

	ctx, cancel := context.WithCancel(t.Context())
	led, done := make(chan ledger.Fence, 1), make(chan struct{})
	go func() {
		defer close(done)
		one.Lead(ctx, "one", func(ctx context.Context, fence ledger.Fence) {
			led <- fence
			<-ctx.Done()
		})
	}()
	fence := <-led
	must.NoError(t, two.Commit(t.Context(), fence, nil))
	short, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	two.Lead(short, "two", func(context.Context, ledger.Fence) { t.Error("two leaders on one file") })
	cancel()
	<-done
	must.ErrorIs(t, two.Commit(t.Context(), fence, nil), ledger.ErrConflict)
}

func TestALockedFileIsUnavailableWithinBoundedTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	store := open(t, path)
	other, err := sql.Open("sqlite", path)
	must.NoError(t, err)
	defer other.Close()
	conn, err := other.Conn(t.Context())
	must.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	must.NoError(t, err)

	write := []ledger.Write{{Key: "a", Value: []byte("v")}}
	start := time.Now()
	must.ErrorIs(t, store.Commit(t.Context(), ledger.Fence{}, write), ledger.ErrUnavailable)
	must.Less(t, 8*time.Second, time.Since(start))
	_, err = store.Read(t.Context(), "a")
	must.NoError(t, err, must.Sprint("readers do not wait for writers"))

	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	must.NoError(t, err)
	must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, write))
}

func TestFilesThatCannotBeUsedAreExplained(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"a text file": {func(t *testing.T, path string) {
			must.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database\n", 100)), 0o600))
		}, "the file is no SQLite database, give another path"},
		"a directory": {func(t *testing.T, path string) {
			must.NoError(t, os.Mkdir(path, 0o700))
		}, "is a directory"},
		"a newer schema": {func(t *testing.T, path string) {
			execute(t, path, `UPDATE ledger_schema SET version = 7`)
		}, "the file has schema version 7, this build knows versions up to 1: run a newer governor"},
		"damaged pages": {damage, "the file is damaged, restore it from a backup or move it away"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			c.make(t, path)
			_, err := sqlite.Open(path)
			must.ErrorContains(t, err, c.want)
			must.ErrorContains(t, err, fmt.Sprintf("open ledger store %q", path))
		})
	}
	_, err := sqlite.Open(filepath.Join(t.TempDir(), "missing", "store.db"))
	must.ErrorContains(t, err, "no such file or directory")
	_, err = sqlite.Open(":memory:")
	must.ErrorContains(t, err, "the store needs a file")
}

// execute runs SQL on a fresh store that has been closed again.
func execute(t *testing.T, path, statement string) {
	store, err := sqlite.Open(path)
	must.NoError(t, err)
	must.NoError(t, store.Close())
	db, err := sql.Open("sqlite", path)
	must.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(statement)
	must.NoError(t, err)
}

// damage overwrites every page but the first, which names the tables.
func damage(t *testing.T, path string) {
	store, err := sqlite.Open(path)
	must.NoError(t, err)
	for i := range 50 {
		write := ledger.Write{Key: fmt.Sprintf("k/%d", i), Value: make([]byte, 3000)}
		must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{write}))
	}
	must.NoError(t, store.Close())
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must.NoError(t, err)
	defer file.Close()
	info, err := file.Stat()
	must.NoError(t, err)
	must.Greater(t, 100<<10, info.Size(), must.Sprint("the log was not written back on close"))
	_, err = file.WriteAt([]byte(strings.Repeat("\xa5", int(info.Size())-4096)), 4096)
	must.NoError(t, err)
}
