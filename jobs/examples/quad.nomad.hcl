# Four GPUs of one model for a training run. Naming the model pins the price, and
# lets Governor compare only GPUs that are alike.
job "quad" {
  type = "batch"

  meta {
    governor_max_runtime = "2h"
  }

  group "train" {
    # A failed run may start once more; the worst case counts both.
    reschedule {
      attempts       = 1
      interval       = "24h"
      delay          = "30s"
      delay_function = "constant"
      unlimited      = false
    }

    task "train" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT; echo GPUs: $NVIDIA_VISIBLE_DEVICES; sleep 120 & wait"]
      }

      resources {
        cpu    = 200
        memory = 128

        device "nvidia/gpu/Tesla V100-SXM2-16GB" {
          count = 4
        }
      }
    }
  }
}
