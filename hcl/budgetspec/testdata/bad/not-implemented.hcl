variable "x" {
  default = 1
}

locals {
  a = 1
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  cohort   = "pool"
  priority = 3
  soft     = "80%"

  limit "month" {
    energy = 5
    gpu_hours = 10

    rollover {
      carry = "10%"
    }
  }

  concurrent {
    gpus   = { h100 = 1 }
    borrow = { h100 = 1 }
  }

  over_budget {
    admit   = "queue"
    running = "stop"
  }

  queue {
    order = "fifo"
  }
}

budget "agents" {
  match {
    namespaces = ["agents"]
    identities = ["mcp:*"]
    when       = job.type == "batch"
  }

  per_run {
    cost = 1
  }
}
