# A step of an agent run. An agent that decides by itself how many jobs it starts
# gets an envelope: the run holds its whole cap once, and its jobs draw from that,
# so that a hundred steps cost no more together than one allowed.
#
#   RUN=$(governor run open -cap=gpu_hours=2 -wall-clock=2h -json acme/research | jq -r .id)
#   nomad job run -var run=$RUN -var step=1 jobs/examples/agent-step.nomad.hcl
#   governor run show $RUN       caps, what is used, its jobs
#   governor run close $RUN      what is left goes back to the budget
variable "run" {
  type        = string
  description = "The id that `governor run open` printed."
}

variable "step" {
  type        = number
  default     = 1
  description = "Each step is a job of its own."
}

job "agent-step" {
  id   = "agent-step-${var.step}"
  type = "batch"

  meta {
    governor_run         = var.run
    governor_max_runtime = "10m"
    # A step that does not fit now should fail at once, so that the agent can choose
    # something else, rather than wait in the queue.
    governor_queue = "no"
  }

  group "step" {
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "step" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT; echo step ${var.step}: $NVIDIA_VISIBLE_DEVICES; sleep 60 & wait"]
      }

      resources {
        cpu    = 100
        memory = 64

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
