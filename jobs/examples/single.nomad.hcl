# One GPU for a short run: the most common job. What to know about GPU jobs under
# Governor is said here; the other examples say only what is new in them.
#
#   export NOMAD_ADDR=http://<gate>:4640
#   nomad job plan jobs/examples/single.nomad.hcl       price, budget and placement, nothing is held
#   nomad job run  jobs/examples/single.nomad.hcl       the same, and it runs
#   governor job receipt single                         afterwards: what it was held for, and what it used
job "single" {
  type = "batch"

  meta {
    # The longest that one allocation may run, from its placement on. It bounds what is
    # held, and is kept: the task gets a signal, time for a checkpoint if the budget
    # grants it, and is stopped. A tight bound is a cheap bid: less is held, and the job
    # starts earlier where jobs wait for budget.
    governor_max_runtime = "20m"
  }

  group "work" {
    # A task that fails is tried once more in place, within the same bound. A new
    # allocation would be a new start, which is held for as well: none here.
    restart {
      attempts = 1
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "work" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap 'echo saved; exit' TERM; echo GPU: $NVIDIA_VISIBLE_DEVICES; sleep 60 & wait"]
      }

      # Time to write a checkpoint when the task is told to stop. It is the first process
      # of its container, which hears no signal that it does not handle.
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      resources {
        cpu    = 100
        memory = 64

        # Any GPU will do. A job that runs on any is priced at the dearest that it could
        # get: name the model, or constrain it, if that matters to you.
        device "nvidia/gpu" {
          count = 1

          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "16 GiB"
          }
        }
      }
    }
  }
}
