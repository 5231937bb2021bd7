package agent

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// serverFields are what Nomad's servers write into a registered job, and what
// says nothing about what runs.
var serverFields = [...]string{"Status", "StatusDescription", "Stable", "Version", "SubmitTime", "CreateIndex", "ModifyIndex",
	"JobModifyIndex", "Dispatched", "DispatchIdempotencyToken", "ConsulToken", "VaultToken", "NomadTokenID", "Stop"}

// unchanged reports whether a submission, with the placement that it will get,
// is the job that is registered already. Nomad then keeps what runs and starts
// nothing again; any difference makes it start a finished batch job again, even
// another submitter (nomad/structs, Job.SpecChanged). It may say no for a job
// that is the same: that only holds more until Nomad has answered.
func unchanged(s gate.Submission, patch jobspec.Patch) bool {
	if s.Stored == nil || s.Kind != gate.Scale && submitterOf(s.Stored) != tokenID(s.Identity) {
		return false // a job that is scaled stays its submitter's
	}
	a, b, ok := asComparable(s, patch)
	return ok && alike(reflect.ValueOf(a), reflect.ValueOf(b))
}

// asComparable is the submitted job as it would be registered and the stored
// one, without what says nothing about what runs; false when they cannot be
// compared or the stored one was stopped.
func asComparable(s gate.Submission, patch jobspec.Patch) (a, b api.Job, ok bool) {
	submitted, stored := s.Job, s.Stored
	if submitted == nil || stored == nil || (stored.Stop != nil && *stored.Stop) {
		return a, b, false
	}
	ours, err := plain(submitted)
	if err != nil {
		return a, b, false
	}
	theirs, err := plain(stored)
	if err != nil {
		return a, b, false
	}
	if patch.Drop != "" {
		dropOn(ours, patch.Drop)
	}
	for _, g := range patch.Groups {
		group := named(ours, "TaskGroups", g.Group)
		if group == nil || appendAll(group, "Constraints", g.Constraints) != nil || appendAll(group, "Affinities", g.Affinities) != nil {
			return a, b, false
		}
		for _, d := range g.Devices {
			device := deviceOf(named(group, "Tasks", d.Task), d.Index)
			if device == nil || appendAll(device, "Constraints", d.Constraints) != nil {
				return a, b, false
			}
		}
	}
	if convert(ours, &a) != nil || convert(theirs, &b) != nil {
		return a, b, false
	}
	asStored(&a)
	asStored(&b)
	return a, b, true
}

func submitterOf(stored *api.Job) string {
	if stored.NomadTokenID == nil {
		return ""
	}
	return *stored.NomadTokenID
}

// tokenID is what Nomad will write into the job about its submitter
// (nomad/job_endpoint.go, doRegister): nothing where ACLs are off and for tasks.
func tokenID(id gate.Identity) string {
	switch {
	case slices.Contains(id.Names, gate.NameACLDisabled), slices.Contains(id.Names, gate.NameWorkload):
		return ""
	case id.Accessor == "" && slices.Contains(id.Names, gate.NameAnonymous):
		return "anonymous"
	}
	return id.Accessor
}

// asStored fills in the defaults that Nomad's servers add to what its client
// library fills in, as seen on 1.11.3.
func asStored(job *api.Job) {
	if len(job.Datacenters) == 0 {
		job.Datacenters = []string{"*"}
	}
	if job.NodePool == nil || *job.NodePool == "" {
		pool := api.NodePoolDefault
		job.NodePool = &pool
	}
	// All but these two live in the groups.
	var stagger time.Duration
	var parallel int
	if u := job.Update; u != nil && u.MaxParallel != nil && *u.MaxParallel > 0 {
		parallel = *u.MaxParallel
		if u.Stagger != nil {
			stagger = *u.Stagger
		}
	}
	job.Update = &api.UpdateStrategy{Stagger: &stagger, MaxParallel: &parallel}
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			if t.Identity == nil {
				t.Identity = &api.WorkloadIdentity{}
			}
			if t.Identity.Name == "" {
				t.Identity.Name = "default"
			}
			if len(t.Identity.Audience) == 0 {
				t.Identity.Audience = []string{"nomadproject.io"}
			}
		}
	}
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

// dropOn removes the constraints on a target from every task group.
func dropOn(job map[string]any, target string) {
	groups, _ := job["TaskGroups"].([]any)
	for _, item := range groups {
		group, _ := item.(map[string]any)
		constraints, _ := group["Constraints"].([]any)
		if group != nil && constraints != nil {
			group["Constraints"] = slices.DeleteFunc(constraints, func(c any) bool {
				object, _ := c.(map[string]any)
				return object["LTarget"] == target
			})
		}
	}
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

// alike reports whether two values of one type mean the same to Nomad, which
// does not tell a list or map that is missing from an empty one, nor a missing
// true-or-false from false. It does tell a block that is missing from an empty
// one (ui, consul, disconnect), and an empty variable, metadata entry or driver
// setting from none.
func alike(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Pointer:
		if a.Type().Elem().Kind() != reflect.Bool && a.IsNil() != b.IsNil() {
			return false
		}
		return a.IsNil() && b.IsNil() || alike(pointedTo(a), pointedTo(b))
	case reflect.Struct:
		return alikeFields(a, b)
	case reflect.Slice:
		if a.Len() != b.Len() || a.Type().Elem().Kind() == reflect.Uint8 && a.IsNil() != b.IsNil() {
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

// alikeFields compares two structs. The amounts in Resources are plain numbers
// to Nomad.
func alikeFields(a, b reflect.Value) bool {
	amounts := a.Type() == reflect.TypeFor[api.Resources]()
	for i := range a.NumField() {
		field := a.Type().Field(i)
		x, y := a.Field(i), b.Field(i)
		if amounts && field.Type == reflect.TypeFor[*int]() {
			x, y = pointedTo(x), pointedTo(y)
		}
		if field.IsExported() && !alike(x, y) {
			return false
		}
	}
	return true
}

func pointedTo(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}
