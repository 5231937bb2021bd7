# A service has no end: its budget holds one lease ahead (a day by default) and
# renews it while the service runs.
job "inference" {
  type = "service"

  group "model" {
    count = 2

    task "server" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT; echo GPU: $NVIDIA_VISIBLE_DEVICES; sleep 86400 & wait"]
      }

      resources {
        cpu    = 200
        memory = 128

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
