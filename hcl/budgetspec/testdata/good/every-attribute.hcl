governor {
  description = "everything that this release knows"
  enforcement = "shadow"
  unmatched   = "allow"
  on_failure  = "closed"
  timezone    = "Asia/Beirut"
  currency    = "XCR"
}

gpu_class "h100" {
  description = "the large ones"
  devices     = ["nvidia/gpu/NVIDIA H100 80GB HBM3", "nvidia/gpu/NVIDIA H100 PCIe"]
}

gpu_class "4090" {
  devices = ["nvidia/gpu/NVIDIA GeForce RTX 4090"]
}

rate_card "later" {
  effective_from = "2027-01-01T00:00:00+01:00"
  gpu "h100" { per_hour = 3 }
  gpu "4090" { per_hour = "none" }
}

rate_card "sooner" {
  description    = "with a price to the last digit"
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" {
    description = "list price less ten per cent"
    per_hour    = 2.9 * 0.9
  }
  gpu "4090" { per_hour = 0.000001 }
}

budget "zeta" {
  description = <<-EOT
    Text may stand
    on several lines.
  EOT
  owner       = "ops@acme.example"
  lease       = "1w2d3h"

  match {
    description = "both lists must match"
    namespaces  = ["ml-*", "default"]
    identities  = ["role:ml-*", "policy:gpu", "token:ada", "type:management"]
  }

  concurrent {
    gpus = { "h100" = 8, 4090 = (2 + 2), any = "unlimited" }
  }

  limit "hour" { gpu_hours = 1 / 3 }
  limit "day" { gpu_hours = { h100 = 0.1, 4090 = "none" } }
  limit "week" { cost = 1e3 }
  limit "month" {
    gpu_hours = "unlimited"
    cost      = 1234.567891
  }
  limit "quarter" { cost = "none" }
  limit "year" { cost = 9223372036854.775807 }
  limit "total" { gpu_hours = true ? 7 : 8 }

  per_job {
    gpus            = 4
    max_runtime     = "2d"
    default_runtime = "90m"
    gpu_hours       = 100.5
    cost            = "none"
    reschedules     = 0
  }

  over_budget {
    admit = "warn"
  }

  budget "b" {
    match { namespaces = ["b"] }
    per_job { reschedules = "none" }
  }

  budget "a" {
    match { namespaces = ["a"] }
    over_budget { admit = "deny" }
  }
}

budget "alpha" {
  match { namespaces = ["alpha"] }
}
