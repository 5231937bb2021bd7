gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a"] }

  limit "total" {
    gpu_hours = 10
    rollover { carry = "10%" }
  }

  limit "month" {
    gpu_hours = 10
    rollover {
      carry   = 0.1
      max     = { gpu_hours = { h100 = 1 }, energy = 0, cost = "none", gpus = 3, tokens = { total = 5 } }
      expires = "2 weeks"
    }
  }

  limit "week" {
    gpu_hours = 10
    rollover {
      carry   = "110%"
      expires = "1w"
    }
  }

  limit "day" {
    gpu_hours = 10
    rollover {
      carry   = "0.00001%"
      expires = "10 weeks"
    }
    rollover { carry = "1%" }
  }

  limit "hour" {
    gpu_hours = 10
    rollover { expires = "1 hour" }
  }

  limit "year" {
    rollover { carry = "1%" }
  }

  limit "quarter" {
    tokens = 5
    energy = "lots"
  }

  max_committed {}
}
