governor {
  meter {
    basis    = "running"
    interval = "1m"
    idle     = "owner"
  }
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
  watts   = 700
}

gpu_class "h100-1g" {
  devices = ["nvidia/mig/1g.10gb"]
  share   = { h100 = 1 / 7 }
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }

  energy {
    per_kwh = 0.21
    pue     = 1.3
  }

  tokens "meta-llama/Llama-3.1-70B-Instruct" {
    input_per_million  = 0.35
    cached_per_million = "none"
    output_per_million = 0.40
  }

  tokens "embedding" {
    input_per_million = 0.01
  }
}

budget "acme" {
  enforcement     = "hard-mandatory"
  undeclared_gpus = "deny"
  max_idle        = "2h"

  placement {
    mode = "prefer"
  }

  limit "month" {
    energy = 180000
    tokens = { input = 1000000, output = "unlimited" }
  }

  max_committed {
    gpu_hours = { any = 5000, h100 = 4000.5 }
    cost      = 9000
    energy    = "none"
  }

  budget "a" {
    cohort          = "pool"
    priority        = 0
    soft            = "82.5%"
    enforcement     = "soft-mandatory"
    undeclared_gpus = "allow"

    placement {
      description = "many small jobs, placed by Nomad"
      mode        = "off"
    }

    match {
      namespaces = ["a"]
      node_pools = ["gpu_large", "h100-*"]
      identities = ["user:ada@acme.example", "oidc:group=nlp", "mcp:*", "acl:disabled", "anonymous", "workload"]
    }

    concurrent {
      gpus   = { h100 = 64, any = 64 }
      borrow = { h100 = 32, any = "none" }
      lend   = { h100 = 48, any = "unlimited" }

      reclaim {
        from        = "any"
        grace       = "none"
        min_runtime = "2m"
      }
    }

    limit "month" {
      cost      = 120000
      gpu_hours = { any = 40000, h100 = "unlimited" }

      rollover {
        carry   = "10%"
        max     = { gpu_hours = { any = 3000, h100 = 100 } }
        expires = "1 quarter"
      }
    }

    limit "day" {
      energy = 10
      rollover {
        max     = { energy = 2.5 }
        expires = "2 weeks"
      }
    }

    limit "week" {
      cost = 20000
      rollover { carry = "100%" }
    }

    per_job {
      energy = 100
    }

    over_budget {
      admit   = "queue"
      running = "throttle"

      throttle {
        min_count = 2
        step      = "50%"
        every     = "5m"
      }
    }

    queue {
      order   = "fair_share"
      timeout = "48h"
    }

    fair_share {
      weight    = 3
      half_life = "168h"
    }

    override "b-glass" {
      who      = ["role:oncall", "user:oncall@acme.example"]
      max      = { cost = 5000, gpu_hours = 1500, gpus = { h100 = 8 }, energy = 7, tokens = { output = 10 } }
      expires  = "8h"
      reason   = "optional"
      approval = 2
    }

    override "a-glass" {
      who      = ["role:oncall"]
      max      = { cost = 0.5 }
      expires  = "30m"
      approval = 1
    }
  }

  budget "b" {
    cohort      = "pool"
    priority    = 100
    match { namespaces = ["b"] }

    concurrent {
      gpus = { any = 8, h100 = 4 }
      reclaim { grace = "10m" }
    }

    per_run {
      cost        = 25
      gpu_hours   = { any = 8, h100 = 4 }
      energy      = 3.5
      tokens      = { cached = 1, output = 20 }
      jobs        = 12
      concurrency = 2
      wall_clock  = "6h"
    }

    over_budget {
      admit   = "queue"
      running = "stop"

      stop {
        signal = "SIGUSR1"
        grace  = "15m"
        then   = "stop"
      }
    }

    queue {
      order = "priority"
    }

    override "all" {
      who     = ["acl:disabled"]
      max     = { gpus = 2 }
      expires = "1h"
      reason  = "required"
    }
  }

  budget "c" {
    enforcement = "advisory"
    match { namespaces = ["c"] }

    over_budget {
      admit   = "queue"
      running = "let_finish"
      stop { signal = "none" }
    }

    queue { timeout = "1h" }
    fair_share { half_life = "1h" }
    per_run { jobs = "none" }
  }
}
