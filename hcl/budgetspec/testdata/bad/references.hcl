variable "night_discount" {
  default = 0.6
}

locals {
  hours  = 10
  double = local.hour * 2
  late   = job.gpus
  night  = schedule.night
  rate   = burn_rate("1h")
  whole  = local
  mail   = notify.webhook.finop
  some   = notify.webhook
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

rate_card "r" {
  effective_from = "2026-07-01T00:00:00+02:00"

  gpu "h100" {
    per_hour = var.night_discont
  }
}

notify "webhook" "finops" {
  url = "https://hooks.acme.example/gpu"
}

schedule "night" {
  days  = ["mon"]
  start = "20:00"
  end   = "06:00"
}

budget "acme" {
  match { namespaces = [team] }

  concurrent {
    gpus = { h100 = jobs.gpus }
  }

  alert "burn" {
    when   = burn_rate("1h") > 14
    notify = ["webhook.finops", notify.webhook.finops, notify.webhook.finops, notify.mail.finops]
  }

  alert "nobody" {
    when   = schedule.nigth
    notify = notify.webhook.finops
  }
}
