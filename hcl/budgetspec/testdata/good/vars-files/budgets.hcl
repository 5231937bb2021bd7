variable "price" {
  type    = number
  default = 1
}

variable "zones" {
  type    = list(string)
  default = ["a"]
}

budget "acme" {
  match { namespaces = ["*"] }
}

gpu_class "h100" {
  devices = [for zone in var.zones : "nvidia/gpu/${zone}"]
}

rate_card "r" {
  effective_from = "2026-07-01T00:00:00+02:00"

  gpu "h100" {
    per_hour = var.price
  }
}
