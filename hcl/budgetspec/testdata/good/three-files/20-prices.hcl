rate_card "now" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
  gpu "l40s" { per_hour = 0.95 }
}
