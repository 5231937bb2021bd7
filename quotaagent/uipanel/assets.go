package uipanel

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

// The paths of the panel's files.
const (
	ScriptPath = "/governor/panel.js"
	StylePath  = "/governor/panel.css"
)

//go:embed panel.js
var script []byte

//go:embed panel.css
var style []byte

// Handler serves the panel's files to anyone: they hold no data. It is nil for other paths.
func Handler(path string) http.Handler {
	switch path {
	case ScriptPath:
		return asset{"text/javascript; charset=utf-8", script}
	case StylePath:
		return asset{"text/css; charset=utf-8", style}
	}
	return nil
}

type asset struct {
	kind string
	text []byte
}

// ServeHTTP implements http.Handler.
func (a asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this file can only be read", http.StatusMethodNotAllowed)
		return
	}
	sum := sha256.Sum256(a.text)
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache") // may be kept, and is asked for anew each time
	h.Set("Etag", `"`+hex.EncodeToString(sum[:12])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.text))
}
