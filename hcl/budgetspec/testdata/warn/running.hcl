gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "signal" {
  match { namespaces = ["signal"] }
  over_budget {
    running = "stop"
    stop {
      signal = "SIGUSR1"
      grace  = "none"
    }
  }
}

budget "throttle" {
  match { namespaces = ["throttle"] }
  over_budget {
    running = "stop"
    throttle { step = "50%" }
  }
}

budget "advisory" {
  enforcement = "advisory"
  match { namespaces = ["advisory"] }
  over_budget { running = "stop" }
}

budget "batch" {
  match {
    namespaces = ["batch"]
    when       = job.type == "batch"
  }
  over_budget { running = "throttle" }
}
