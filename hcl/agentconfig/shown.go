package agentconfig

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// Redacted stands for a value that is not shown.
const Redacted = "<redacted>"

// public are the settings whose texts anybody may see who helps with an agent. Whatever
// is not here is a secret, so that a setting that is added later is one until somebody
// has thought about it.
func public() []string {
	return []string{
		"name", "bind", "advertise", "data_dir", "log_level",
		"nomad.address", "nomad.region", "nomad.ca_file", "nomad.cert_file", "nomad.key_file", "nomad.tls_server_name",
		"consul.address", "consul.datacenter", "consul.prefix", "consul.ca_file", "consul.cert_file", "consul.key_file",
		"gate.unknown_writes", "gate.infeasible", "gate.credentials", "gate.submit_capability", "gate.ui_link",
		"placement.mode", "placement.gang_timeout", "placement.gang_plan_after", "placement.rack", "placement.block", "placement.node_pool.name", "placement.node_pool.mode",
		"placement.loading.fetch", "placement.loading.disk", "placement.loading.memory",
		"history.path", "history.retention",
		"tls.cert_file", "tls.key_file", "tls.ca_file", "tls.client_ca_file", "tls.verify_client",
		"identity.user_token_names", "identity.header.name", "identity.header.trusted_cidrs",
		"telemetry.metrics_access", "telemetry.metrics_bind", "telemetry.otlp_endpoint", "telemetry.trace_ratio",
	}
}

// Shown is the configuration without its secrets, by the names in the file: blocks are
// maps, or lists of maps. Of a secret it says Redacted, and "" where it is not set.
// Files of certificates and keys are named, not read.
func (c Config) Shown() map[string]any { return shownBlock(reflect.ValueOf(c), "") }

func shownBlock(v reflect.Value, prefix string) map[string]any {
	out := map[string]any{}
	for i := range v.NumField() {
		name, kind, tagged := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
		if !tagged && name == "" || strings.HasSuffix(kind, "_range") {
			continue
		}
		if kind == "label" {
			name = "name"
		}
		if value := shownValue(v.Field(i), prefix+name); value != nil {
			out[name] = value
		}
	}
	return out
}

// shownValue is a value by its path; nil for a block that is not there.
func shownValue(v reflect.Value, path string) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return shownValue(v.Elem(), path)
	case reflect.Struct:
		return shownBlock(v, path+".")
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = shownValue(v.Index(i), path)
		}
		return list
	case reflect.Bool:
		return v.Bool()
	case reflect.String:
		return shownText(v.String(), path)
	}
	return Redacted // there are no others, and what is not known is not shown
}

func shownText(text, path string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if !slices.Contains(public(), path) || err == nil && u.User != nil {
		return Redacted
	}
	return text
}
