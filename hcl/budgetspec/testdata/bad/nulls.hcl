variable "sizes" {
  type    = map(number)
  default = { small = 4 }
}

variable "limits" {
  type    = object({ cost = optional(number) })
  default = {}
}

locals {
  large = var.sizes["large"]
  twice = 2 * var.limits.cost
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a"] }
  concurrent { gpus = local.large }
  limit "month" { gpu_hours = local.twice }
}
