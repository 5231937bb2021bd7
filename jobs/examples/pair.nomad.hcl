# The smallest GPU job: two GPUs for at most ten minutes. Governor picks two that
# are connected best; the task sees exactly those.
#
#   nomad job plan jobs/examples/pair.nomad.hcl    shows price and placement
#   nomad job run  jobs/examples/pair.nomad.hcl
job "pair" {
  type = "batch"

  meta {
    # How long one run may take. It bounds what the job holds of its budget;
    # without it the budget's default_runtime counts.
    governor_max_runtime = "10m"
  }

  group "train" {
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "train" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT; echo GPUs: $NVIDIA_VISIBLE_DEVICES; sleep 60 & wait"]
      }

      resources {
        cpu    = 100
        memory = 64

        device "nvidia/gpu" {
          count = 2
        }
      }
    }
  }
}
