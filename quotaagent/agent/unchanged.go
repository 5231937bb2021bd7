package agent

import (
	"encoding/json"
	"reflect"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// serverFields are what Nomad's servers write into a registered job, and what
// says nothing about what runs.
var serverFields = [...]string{"Status", "StatusDescription", "Stable", "Version", "SubmitTime", "CreateIndex", "ModifyIndex",
	"JobModifyIndex", "Dispatched", "ConsulToken", "VaultToken", "NomadTokenID", "VersionTag", "Stop"}

// unchanged reports whether a submission, with the placement that it will get,
// is the job that is registered already. Nomad then keeps what runs and starts
// nothing again. It may say no for a job that is the same: that only holds more
// until Nomad has answered.
func unchanged(submitted, stored *api.Job, patch jobspec.Patch) bool {
	if submitted == nil || stored == nil || (stored.Stop != nil && *stored.Stop) {
		return false
	}
	ours, err := plain(submitted)
	if err != nil {
		return false
	}
	theirs, err := plain(stored)
	if err != nil {
		return false
	}
	for _, g := range patch.Groups {
		group := named(ours, "TaskGroups", g.Group)
		if group == nil || appendAll(group, "Constraints", g.Constraints) != nil || appendAll(group, "Affinities", g.Affinities) != nil {
			return false
		}
		for _, d := range g.Devices {
			device := deviceOf(named(group, "Tasks", d.Task), d.Index)
			if device == nil || appendAll(device, "Constraints", d.Constraints) != nil {
				return false
			}
		}
	}
	var a, b api.Job
	if convert(ours, &a) != nil || convert(theirs, &b) != nil {
		return false
	}
	return alike(reflect.ValueOf(a), reflect.ValueOf(b))
}

// plain is a job as JSON, without what the servers add.
func plain(job *api.Job) (map[string]any, error) {
	var out map[string]any
	if err := convert(job, &out); err != nil {
		return nil, err
	}
	for _, name := range serverFields {
		delete(out, name)
	}
	return out, nil
}

func convert(from, to any) error {
	encoded, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(encoded, to)
}

// named finds the object with this Name in a list of objects.
func named(in map[string]any, list, name string) map[string]any {
	items, _ := in[list].([]any)
	for _, item := range items {
		if object, ok := item.(map[string]any); ok && object["Name"] == name {
			return object
		}
	}
	return nil
}

func deviceOf(task map[string]any, index int) map[string]any {
	resources, _ := task["Resources"].(map[string]any)
	devices, _ := resources["Devices"].([]any)
	if index < 0 || index >= len(devices) {
		return nil
	}
	device, _ := devices[index].(map[string]any)
	return device
}

// appendAll adds constraints or affinities to the list of that name.
func appendAll[T any](object map[string]any, list string, items []T) error {
	var added []any
	if err := convert(items, &added); err != nil {
		return err
	}
	have, _ := object[list].([]any)
	object[list] = append(have, added...)
	return nil
}

// alike reports whether two values of one type mean the same to Nomad. A field
// that is missing, null or empty is the same thing, for Nomad and its client
// write one for the other. An entry of a map is not: variables, metadata and
// driver settings that are there and empty change a job.
func alike(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Pointer:
		return a.IsNil() && b.IsNil() || alike(pointedTo(a), pointedTo(b))
	case reflect.Struct:
		for i := range a.NumField() {
			if a.Type().Field(i).IsExported() && !alike(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !alike(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for _, key := range a.MapKeys() {
			if other := b.MapIndex(key); !other.IsValid() || !alike(a.MapIndex(key), other) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func pointedTo(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}
