package jobspec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/hashicorp/nomad/api"
)

// Request is the part of a register, plan or validate body that decides what
// happens; fields that a kind of request does not have stay zero.
type Request struct {
	Job               *api.Job
	PolicyOverride    bool
	PreserveCounts    bool
	PreserveResources bool
	EnforceIndex      bool
	JobModifyIndex    uint64
	api.WriteRequest
}

// ParseRegister reads the body of a registration.
func ParseRegister(data []byte) (*Document, Request, error) {
	var r api.JobRegisterRequest
	doc, err := parseRequest(data, &r)
	if err != nil {
		return nil, Request{}, err
	}
	return doc, Request{
		Job: r.Job, PolicyOverride: r.PolicyOverride, PreserveCounts: r.PreserveCounts,
		PreserveResources: r.PreserveResources, EnforceIndex: r.EnforceIndex,
		JobModifyIndex: r.JobModifyIndex, WriteRequest: r.WriteRequest,
	}, checkJob(r.Job)
}

// ParsePlan reads the body of a dry run.
func ParsePlan(data []byte) (*Document, Request, error) {
	var r api.JobPlanRequest
	doc, err := parseRequest(data, &r)
	if err != nil {
		return nil, Request{}, err
	}
	return doc, Request{Job: r.Job, PolicyOverride: r.PolicyOverride, WriteRequest: r.WriteRequest}, checkJob(r.Job)
}

// ParseValidate reads the body of a validation.
func ParseValidate(data []byte) (*Document, Request, error) {
	var r api.JobValidateRequest
	doc, err := parseRequest(data, &r)
	if err != nil {
		return nil, Request{}, err
	}
	return doc, Request{Job: r.Job, WriteRequest: r.WriteRequest}, checkJob(r.Job)
}

// ParseObject reads any JSON object into a struct, with the same rules about
// keys as for jobs.
func ParseObject[T any](data []byte) (*Document, T, error) {
	var v T
	doc, err := parseRequest(data, &v)
	return doc, v, err
}

func parseRequest(data []byte, into any) (*Document, error) {
	doc, err := Parse(data, SubmissionLimits)
	if err != nil {
		return nil, err
	}
	if !doc.IsObject() {
		return nil, errors.New("the request body must be a JSON object")
	}
	removed, err := doc.checkKeys(reflect.TypeOf(into))
	if err != nil {
		return nil, err
	}
	if removed {
		return doc, doc.Decode(into)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return nil, fmt.Errorf("decode document: %w", err)
	}
	return doc, nil
}

// checkJob gives the answers that Nomad gives for a job without an identity.
func checkJob(job *api.Job) error {
	if job == nil {
		return errors.New("the request has no Job; a job must be specified")
	}
	if deref(job.ID, "") == "" {
		return errors.New("the job has no ID; a job must have a valid ID")
	}
	if err := checkShape(job); err != nil {
		return fmt.Errorf("read job %q: %w", *job.ID, err)
	}
	return nil
}
