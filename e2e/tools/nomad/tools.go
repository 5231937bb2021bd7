//go:build tools

// Package tools pins the Nomad server that the end-to-end tests run.
package tools

import _ "github.com/hashicorp/nomad"
