package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestABodyIsReadAsItIsUpToItsBound(t *testing.T) {
	t.Parallel()
	route := Route{Method: "POST", Path: "/governor/v1/raw", Right: Read, BodyMax: 8, Serve: func(_ context.Context, c Call) (any, error) {
		body, err := c.Body()
		return map[string]string{"body": string(body), "token": c.Request().Header.Get("X-Nomad-Token")}, err
	}}
	h := Handler([]Route{route}, authorizeTest, nil)
	post := func(body string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/governor/v1/raw", strings.NewReader(body))
		r.Header.Set("X-Nomad-Token", "reader")
		h.ServeHTTP(w, r)
		return w
	}
	w := post("{not js}")
	must.Eq(t, 200, w.Code)
	must.StrContains(t, w.Body.String(), `"body": "{not js}"`)
	must.StrContains(t, w.Body.String(), `"token": "reader"`)
	w = post("123456789")
	must.Eq(t, 413, w.Code)
	must.StrContains(t, w.Body.String(), "the body of this request may have at most 8 bytes")
}
