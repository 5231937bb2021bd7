gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

notify "webhook" "finops" {
  url = "https://hooks.acme.example/gpu"
}

budget "a" {
  match { namespaces = ["a"] }

  override "nothing" {}

  override "wrong" {
    who      = ["oncall", "*"]
    max      = { money = 5, jobs = 2, gpu_hours = 0, gpus = { h100 = "unlimited" } }
    expires  = "1 day"
    reason   = "always"
    approval = -1
    notify   = ["webhook.finops", notify.webhook.finops, notify.webhook.finops]
  }

  override "wrong" {
    who     = ["role:oncall"]
    max     = 500
    expires = "8h"
    notify  = notify.webhook.finops
  }

  alert "nothing" {}

  alert "job" {
    when   = job.type == "batch"
    notify = [notify.webhook.finnops]
  }

  alert "twice" {
    when   = forecast.cost > limit.cost
    notify = [notify.webhook.finops]
  }

  alert "twice" {
    when   = forecast.cost > limit.cost
    notify = []
  }
}
