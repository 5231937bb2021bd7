package jobspec

import "github.com/hashicorp/nomad/api"

// Undeclared is one way by which a task can reach GPUs that it was not given.
type Undeclared struct {
	// Group and Task say where.
	Group, Task string
	// What is written there, for people: `docker option privileged = true`.
	What string
	// Fix is what to do about it.
	Fix string
}

func undeclared(*api.Job) []Undeclared { return nil }
