# Budgets for a small organisation with two teams.
#
#   governor budget validate hcl/examples    checks this directory
#   governor budget plan     hcl/examples    shows what would change
#   governor budget apply    hcl/examples    puts it into force
#
# All .hcl files of a directory belong together, so you may split this one as
# you like: one file per team, for example.

# How Governor decides. Every line here is optional; these are the defaults,
# apart from the time zone.
governor {
  enforcement = "enforce"       # "shadow" decides and records, but blocks nothing
  unmatched   = "deny"          # a GPU job that no budget claims: "deny" or "allow"
  timezone    = "Europe/Berlin" # in which days and months begin and end
  currency    = "USD"
}

# A class is a name for GPUs that count and cost the same. The devices are the
# full names that `nomad node status -verbose` shows. A device is in one class.
gpu_class "v100" {
  devices = ["nvidia/gpu/Tesla V100-SXM2-16GB"]
}

gpu_class "rtx8000" {
  devices = ["nvidia/gpu/Quadro RTX 8000"]
}

gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

# What one GPU costs per hour. Prices are never changed after the fact: for a
# new price write a second rate_card with a later effective_from.
rate_card "2026" {
  effective_from = "2026-01-01T00:00:00+01:00"

  gpu "v100" { per_hour = 0.90 }
  gpu "rtx8000" { per_hour = 0.55 }
  gpu "l40s" { per_hour = 0.95 }
  gpu "h100" { per_hour = 2.90 }
}

# Budgets nest, and a job must fit into its own budget and all those above.
budget "acme" {
  description = "All accelerators of Acme"
  owner       = "finops@acme.example"

  # The windows are hour, day, week, month, quarter, year and total.
  limit "month" {
    cost = 25000
  }

  # How many GPUs may be held at the same time. "any" counts all classes.
  concurrent {
    gpus = { any = 24, h100 = 8 }
  }

  budget "research" {
    # Which jobs draw from this budget. The deepest budget that matches wins.
    # "default" is Nomad's own namespace, so this works without ACLs.
    match {
      namespaces = ["default", "research-*"]
    }

    limit "month" {
      cost      = 12000
      gpu_hours = { any = 9000, h100 = 3000 }
    }

    limit "day" {
      gpu_hours = 400
    }

    concurrent {
      gpus = { any = 12, h100 = 4 }
    }

    # What a single job may ask for. A batch job that states no runtime is
    # counted with default_runtime; it can state one with
    # meta { governor_max_runtime = "90m" }.
    per_job {
      gpus            = 8
      gpu_hours       = 256
      cost            = 500
      max_runtime     = "72h"
      default_runtime = "4h"
      reschedules     = 1 # the worst case counts this many further starts
    }
  }

  budget "serving" {
    match {
      namespaces = ["inference"]
    }

    limit "month" {
      cost = 13000
    }

    limit "day" {
      cost = 450
    }

    concurrent {
      gpus = { any = 12, h100 = 4 }
    }

    # Services have no end, so a day is held ahead and renewed while they run.
    lease = "24h"

    # Beyond a limit new work is refused; "warn" would let it in.
    over_budget {
      admit = "deny"
    }
  }
}
