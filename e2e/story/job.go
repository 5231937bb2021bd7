package story

import (
	"fmt"
	"strings"
)

// Job is a job as the story's users write it: one task in one group, that
// prints its environment and sleeps until it is stopped.
type Job struct {
	// ID of the job; it is also the name of its file.
	ID string
	// GPUs per task; 0 makes a CPU job.
	GPUs int
	// Device is the name in the device block, "nvidia/gpu".
	Device string
	// MaxRuntime is the bound that the user states, "30m".
	MaxRuntime string
	// Command replaces "sleep until stopped".
	Command string
}

// HCL is the job file.
func (j Job) HCL() string {
	command := "sleep 3600"
	if j.Command != "" {
		command = j.Command
	}
	var meta, device strings.Builder
	if j.MaxRuntime != "" {
		fmt.Fprintf(&meta, "\n  meta {\n    governor_max_runtime = %q\n  }\n", j.MaxRuntime)
	}
	if j.GPUs > 0 {
		fmt.Fprintf(&device, "\n        device %q {\n          count = %d\n        }\n", j.Device, j.GPUs)
	}
	return fmt.Sprintf(`job %q {
  type = "batch"
%s
  group "g" {
    # Run once: a task that fails or is lost is not tried again.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "t" {
      driver = "exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "env; exec %s"]
      }
      kill_timeout = "1s"

      resources {
        cpu    = 100
        memory = 32
%s      }
    }
  }
}
`, j.ID, meta.String(), command, device.String())
}
