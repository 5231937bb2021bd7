# A parameterized job: a template that holds nothing. Each dispatch is a job of its
# own, decided and held when it is dispatched, and paid by whoever dispatches.
#
#   nomad job run jobs/examples/finetune.nomad.hcl
#   nomad job dispatch -meta=model=llama-3-8b -meta=dataset=support-2026-11 finetune
#   nomad job dispatch -id-prefix-template=tune -meta=... finetune
#
# A pipeline should pass its own -idempotency-token: a dispatch that is sent again
# after a lost answer is then the same one, for Nomad and for the budget.
job "finetune" {
  type = "batch"

  parameterized {
    payload       = "optional"
    meta_required = ["model", "dataset"]
    meta_optional = ["epochs"]
  }

  meta {
    governor_max_runtime = "1h"
    epochs               = "3"
  }

  group "tune" {
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "tune" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT; echo $NOMAD_META_model on $NOMAD_META_dataset, $NOMAD_META_epochs epochs: $NVIDIA_VISIBLE_DEVICES; sleep 60 & wait"]
      }

      resources {
        cpu    = 100
        memory = 64

        # A child is never changed, so Nomad picks its GPUs; a pair by chance need not be
        # connected. Ask for one, or submit jobs instead of dispatching where it matters.
        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
