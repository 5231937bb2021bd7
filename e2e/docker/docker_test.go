package docker

import (
	"archive/tar"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is a description of a daemon in whose place a handler answers.
func daemon(t *testing.T, handler http.HandlerFunc) *Daemon {
	t.Helper()
	d, err := New(t.TempDir(), "tests")
	must.NoError(t, err)
	listener, err := net.Listen("unix", d.Socket())
	must.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return d
}

func TestPackMakesDirectoriesOnceAndInOrder(t *testing.T) {
	t.Parallel()
	source := filepath.Join(t.TempDir(), "source")
	must.NoError(t, os.WriteFile(source, []byte("content"), 0o600))
	packed, err := pack(map[string]string{"/bin/sh": source, "/lib/x/a.so": source, "/bin/env": source})
	must.NoError(t, err)
	var names []string
	archive := tar.NewReader(packed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		names = append(names, header.Name)
		if header.Typeflag == tar.TypeReg {
			must.Eq(t, 0o755, header.Mode)
			content, err := io.ReadAll(archive)
			must.NoError(t, err)
			must.Eq(t, "content", string(content))
		}
	}
	must.Eq(t, []string{"tmp/", "bin/", "bin/env", "bin/sh", "lib/", "lib/x/", "lib/x/a.so"}, names)
	_, err = pack(map[string]string{"/bin/sh": source + "-missing"})
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestImportTellsAnErrorThatComesAfterTheStatus(t *testing.T) {
	t.Parallel()
	answer := `{"status":"sha256:0123"}`
	d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("repo") != "governor-task" || r.URL.Query().Get("tag") != "1" || r.URL.Query().Get("changes") != "ENV A=b" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, answer)
	})
	must.NoError(t, d.Import(t.Context(), nil, "A=b"))
	answer = `{"status":"Importing"}` + "\n" + `{"error":"no space left on device"}`
	must.ErrorContains(t, d.Import(t.Context(), nil, "A=b"), "import an image: Docker says: no space left on device")
}

func TestErrorsOfTheDaemonAreTold(t *testing.T) {
	t.Parallel()
	d := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/containers/json":
			_, _ = io.WriteString(w, `[{"Id":"aaaaaaaaaaaaaaaa"},{"Id":"bbbbbbbbbbbbbbbb"}]`)
		case r.Method == http.MethodDelete && r.URL.Path == "/containers/bbbbbbbbbbbbbbbb":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"No such container"}`)
		}
	})
	_, err := d.Inspect(t.Context(), "gone")
	must.ErrorContains(t, err, `inspect container gone: Docker answers 404: {"message":"No such container"}`)
	err = d.RemoveContainers(t.Context())
	must.ErrorContains(t, err, "remove container aaaaaaaaaaaa: Docker answers 404")
	must.StrNotContains(t, err.Error(), "bbbb")
}

func TestMissingProgramSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := find("no-such-program")
	must.ErrorContains(t, err, "run `make docker`")
}
