# One organisation with teams and projects: three levels of budgets, claimed by
# namespace and by the role of the submitter's Nomad token.

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

# A MIG instance is a class of its own, with its own price.
gpu_class "h100-1g" {
  devices = ["nvidia/mig/1g.10gb"]
}

governor {
  enforcement = "enforce"
  unmatched   = "deny"
  on_failure  = "closed" # no quorum: refuse NEW GPU jobs, never touch running ones
  timezone    = "Europe/Berlin"
  currency    = "USD"
}

rate_card "onprem-2026h2" {
  effective_from = "2026-07-01T00:00:00+02:00"

  gpu "h100" { per_hour = 2.90 }
  gpu "l40s" { per_hour = 0.95 }
  gpu "h100-1g" { per_hour = 0.48 }
}

budget "acme" {
  description = "All accelerators of Acme AI"
  owner       = "finops@acme.example"

  limit "month" {
    cost = 250000 # the master budget
  }

  concurrent {
    gpus = { h100 = 128, l40s = 64 }
  }

  budget "research" {
    limit "month" {
      cost      = 120000
      gpu_hours = { any = 40000, h100 = 32000 }
    }

    concurrent {
      gpus = { h100 = 64 }
    }

    budget "nlp" {
      # Both lists must match: the namespace, and a role of the token.
      match {
        namespaces = ["research-nlp"]
        identities = ["role:nlp-*"]
      }

      per_job {
        gpus            = 16
        max_runtime     = "72h"
        default_runtime = "4h" # counted when the job states none
        gpu_hours       = 1024
        cost            = 3000
        reschedules     = 2 # worst case = count x GPUs x runtime x (1 + reschedules)
      }

      limit "week" {
        cost = 18000
      }

      over_budget {
        admit = "warn"
      }
    }

    budget "agents" {
      description = "Jobs that autonomous agents submit"

      match {
        namespaces = ["agents"]
        identities = ["role:agent"]
      }

      limit "day" {
        cost = 600
      }

      per_job {
        cost            = 25
        gpu_hours       = 8
        default_runtime = "30m"
      }

      over_budget {
        admit = "deny"
      }
    }
  }

  budget "serving" {
    match {
      namespaces = ["inference"]
    }

    concurrent {
      gpus = { h100 = 48, h100-1g = 28 }
    }

    limit "month" {
      cost = 95000
    }

    lease = "24h" # services have no end: hold a day ahead, renewed while they run

    over_budget {
      admit = "deny"
    }
  }
}
