package consultest_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDataAndAddressOutliveAStop(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	url := "http://" + server.Addr + "/v1/kv/kept"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader("value"))
	must.NoError(t, err)
	response, err := client.Do(request)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
	must.Eq(t, http.StatusOK, response.StatusCode)

	server.Stop()
	mustNotAnswer(t, client, url)

	server.Start()
	response, err = client.Get(url + "?raw")
	must.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
	must.Eq(t, "value", string(body))

	server.Pause()
	mustNotAnswer(t, client, url)
	server.Resume()
	response, err = client.Get(url)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
}

func mustNotAnswer(t *testing.T, client *http.Client, url string) {
	t.Helper()
	response, err := client.Get(url)
	if err == nil {
		response.Body.Close()
		t.Fatalf("consul answered %d", response.StatusCode)
	}
}

func TestTheBinaryIsSoughtInTheCacheLast(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("GOVERNOR_CACHE", cache)
	t.Setenv("CONSUL_BIN", "")
	_, err := consultest.Find()
	must.ErrorContains(t, err, "run `make tools`")

	must.NoError(t, os.WriteFile(filepath.Join(cache, "consul-1.22.5"), nil, 0o700))
	bin, err := consultest.Find()
	must.NoError(t, err)
	must.Eq(t, filepath.Join(cache, "consul-1.22.5"), bin)

	t.Setenv("CONSUL_BIN", "/opt/consul")
	bin, err = consultest.Find()
	must.NoError(t, err)
	must.Eq(t, "/opt/consul", bin)
}
