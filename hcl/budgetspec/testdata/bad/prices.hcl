gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 1 }

  energy {
    pue = 0.9
  }
  energy { per_kwh = "none" }

  tokens "" { output_per_million = 1 }
  tokens "llama" {}
  tokens "llama" { output_per_million = 1 }
  tokens "opt" { output_per_million = "unlimited" }
  tokens "gpt" { total_per_million = 1 }

  modifier "night" { multiply = 0.6 }
  modifier "spot" { when = job.meta.tier == "spot" }
  modifier "dear" {
    when     = job.type == "batch"
    multiply = 1001
  }
  modifier "dear" {
    when     = job.type == "batch"
    multiply = 2
  }
  modifier "Big" {
    when     = job.type == "batch"
    multiply = 2
  }
}

rate_card "2027" {
  effective_from = "2027-01-01T00:00:00Z"
  gpu "h100" { per_hour = 1 }
  energy { per_kwh = 0 }
}

budget "a" {
  match { namespaces = ["a"] }
}
