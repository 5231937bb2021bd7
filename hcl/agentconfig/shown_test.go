package agentconfig

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// fill sets every text of a configuration to one of its own, and every block.
func fill(v reflect.Value, path string, texts map[string]string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path, texts)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path, texts)
	case reflect.String:
		texts[path] = fmt.Sprintf("canary-%d", len(texts))
		v.SetString(texts[path])
	case reflect.Struct:
		for i := range v.NumField() {
			name, kind, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
			if strings.HasSuffix(kind, "_range") {
				continue
			}
			if kind == "label" {
				name = "name"
			}
			fill(v.Field(i), strings.TrimPrefix(path+"."+name, "."), texts)
		}
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("a setting of a kind that nobody thought of: " + path)
	}
}

// TestSecretsAreNotShown: each setting is public or a secret, and none of the secrets is
// in what is shown.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	secrets := []string{"nomad.token", "consul.token", "gate.webhook_key"}
	var c Config
	texts := map[string]string{}
	fill(reflect.ValueOf(&c).Elem(), "", texts)
	shown, err := json.Marshal(c.Shown())
	must.NoError(t, err)
	for _, path := range secrets {
		must.MapContainsKey(t, texts, path)
		must.StrNotContains(t, string(shown), `"`+texts[path]+`"`, must.Sprint(path))
		delete(texts, path)
	}
	must.Eq(t, len(secrets), strings.Count(string(shown), `"\u003credacted\u003e"`), must.Sprint("a setting is new: is it a secret?"))
	for path, text := range texts {
		must.StrContains(t, string(shown), `"`+text+`"`, must.Sprint(path))
	}
	must.Eq(t, len(public()), len(texts), must.Sprint("a setting is public that is none"))
}

func TestWhatIsShown(t *testing.T) {
	t.Parallel()
	c, diags := Parse("agent.hcl", []byte(`
nomad {
  token = "3f9c"
}
consul {
  address = "https://me:secret@consul:8501"
}
placement {
  node_pool "gpu" {
    mode = "off"
  }
}
`), Default())
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	shown := c.Shown()
	must.Eq(t, map[string]any{"address": "http://127.0.0.1:4646", "token": Redacted, "region": "", "ca_file": "", "cert_file": "", "key_file": "", "tls_server_name": ""}, shown["nomad"].(map[string]any)) //nolint:forcetypeassert // it is one
	must.Eq(t, Redacted, shown["consul"].(map[string]any)["address"].(string))
	must.Eq(t, "", shown["consul"].(map[string]any)["token"].(string))
	must.Eq(t, []any{map[string]any{"name": "gpu", "mode": "off"}}, shown["placement"].(map[string]any)["node_pool"].([]any))
	must.MapNotContainsKey(t, shown, "tls")
}
