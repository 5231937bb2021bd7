# Distributed training: eight GPUs in two allocations that only make sense
# together. As a gang they run both or not at all: the job waits, in sight, until
# all of it fits at once, close together (one NVLink domain, rack or block), and
# when a part of it dies for good, the rest does not burn budget alone.
#
#   nomad job plan jobs/examples/gang.nomad.hcl     where each allocation would run
#   governor job why gang                           while it waits: what fits now
job "gang" {
  type = "batch"

  meta {
    governor_gang        = "true"
    governor_max_runtime = "30m"
    # For how long a part of it may run without the rest; 2m by default.
    governor_gang_timeout = "90s"
  }

  group "trainer" {
    count = 2

    network {
      port "rendezvous" {}
    }

    # The allocations find each other: each registers with its rank.
    service {
      name     = "gang-rendezvous"
      provider = "nomad"
      port     = "rendezvous"
      tags     = ["rank-${NOMAD_ALLOC_INDEX}"]
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "trainer" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["local/train.sh"]
      }

      # Written anew when rank 0 has registered, which the script waits for.
      template {
        destination = "local/rendezvous.env"
        change_mode = "noop"
        data        = <<-EOT
          {{- range nomadService "gang-rendezvous" }}{{ if .Tags | contains "rank-0" }}
          MASTER_ADDR={{ .Address }}
          MASTER_PORT={{ .Port }}
          {{- end }}{{ end }}
        EOT
      }

      template {
        destination = "local/train.sh"
        data        = <<-EOT
          until . "$NOMAD_TASK_DIR/rendezvous.env" && [ -n "$MASTER_ADDR" ]; do sleep 1; done
          echo "rank $NOMAD_ALLOC_INDEX of 2 at $MASTER_ADDR:$MASTER_PORT on $NVIDIA_VISIBLE_DEVICES"
          # exec torchrun --nnodes=2 --nproc-per-node=4 --node-rank="$NOMAD_ALLOC_INDEX" \
          #   --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" train.py
          trap exit INT
          sleep 60 & wait
        EOT
      }

      resources {
        cpu    = 200
        memory = 128

        # The same model everywhere: the slowest GPU sets the pace of all. Governor picks
        # GPUs of one model by itself where the job does not name it.
        device "nvidia/gpu/Tesla V100-SXM2-16GB" {
          count = 4
        }
      }
    }
  }
}
