gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match {
    namespaces = ["a"]
    node_pools = ["gpu pool", "h100.*"]
  }

  enforcement     = "soft"
  priority        = 101
  cohort          = "The Pool"
  soft            = "80"
  max_idle        = "never"
  undeclared_gpus = true

  placement {
    mode = "prefered"
  }

  concurrent {
    gpus   = { h100 = 8 }
    borrow = { h100 = "unlimited" }
    lend   = { h100 = -1 }
    reclaim {
      from  = "all"
      grace = 5
    }
  }

  over_budget {
    running = "kill"
    throttle {
      min_count = 0
      step      = "0%"
      every     = "0s"
    }
    stop {
      signal = "SIGKILL"
      then   = "purge"
    }
  }

  queue {
    order   = "lifo"
    timeout = "unlimited"
  }

  fair_share {
    weight = 0
  }

  per_run {
    cost        = "unlimited"
    jobs        = 1.5
    concurrency = "none"
  }
}

budget "empty" {
  match { namespaces = ["empty"] }
  concurrent {
    reclaim {}
  }
  over_budget {
    throttle {}
    stop {}
  }
  queue {}
  fair_share {}
  per_run {}
  placement {
    description = "as the agent says"
  }
}
