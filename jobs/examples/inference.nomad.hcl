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
        args    = ["-c", "echo GPU: $NVIDIA_VISIBLE_DEVICES; exec sleep 86400"]
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
