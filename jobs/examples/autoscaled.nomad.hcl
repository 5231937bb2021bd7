# An inference service that nomad-autoscaler makes larger and smaller. Only what
# runs is held and paid. Each step up is decided like a submission: where the
# budget has no room, the autoscaler gets the refusal with its arithmetic and
# tries again at its next evaluation. A step down is never refused.
#
# Point the autoscaler's nomad block at the gate, so that it cannot scale around the
# budgets; its token needs no more than the policy "scale".
job "autoscaled" {
  type = "service"

  group "model" {
    count = 1

    scaling {
      enabled = true
      min     = 1
      max     = 3

      # For the autoscaler alone: Nomad and Governor do not look into it.
      policy {
        cooldown            = "3m"
        evaluation_interval = "30s"

        check "waiting" {
          source = "prometheus"
          # vLLM's requests that wait, for each replica.
          query  = "avg(vllm:num_requests_waiting{job=\"autoscaled\"})"

          strategy "target-value" {
            target = 4
          }
        }
      }
    }

    # New replicas first: an update is held for its canary beside what runs.
    update {
      canary       = 1
      max_parallel = 1
      auto_promote = true
      auto_revert  = true
    }

    # Model weights that lie on some nodes already draw replicas there; see
    # docs/placement.md, "State near the GPUs".
    meta {
      governor_state = "weights/llama-3-8b"
    }

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
