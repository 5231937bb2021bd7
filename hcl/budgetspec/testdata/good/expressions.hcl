# Everything that is computed when a policy is read.
variable "night_discount" {
  type        = number
  default     = 0.60
  description = "Price multiplier outside office hours"

  validation {
    condition     = var.night_discount > 0 && var.night_discount <= 1
    error_message = "night_discount must be in (0, 1]."
  }
}

variable "teams" {
  type = map(object({
    hours = number
    extra = optional(number, 5)
  }))
  default = { nlp = { hours = 100 } }
}

variable "anything" {
  default = ["research-nlp", "research-cv"]
}

locals {
  total      = sum([for name, team in var.teams : team.hours + team.extra])
  namespaces = [for name in local.short : "research-${name}"]
  short      = [for name in var.anything : trimprefix(name, "research-")]
  oncall     = [notify.webhook.finops]
  quota      = { h100 = 2, "l40s" = local.total / 10 }
  weekdays   = ["mon", "tue", "wed", "thu", "fri"]
  price      = 2.90
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

gpu_class "l40s" {
  devices = [format("nvidia/gpu/NVIDIA %s", upper("l40s"))]
}

rate_card "onprem" {
  effective_from = "2026-07-01T00:00:00+02:00"

  gpu "h100" { per_hour = local.price }
  gpu "l40s" { per_hour = local.price * 0.1 }

  modifier "night" {
    when     = schedule.night && alltrue([for d in job.devices : d.model != null])
    multiply = var.night_discount
  }
}

schedule "night" {
  days  = local.weekdays
  start = "20:00"
  end   = "06:00"
}

schedule "weekend" {
  days  = setsubtract(["sat", "sun", "mon"], local.weekdays)
  start = "00:00"
  end   = "00:00"
}

notify "webhook" "finops" {
  url = "https://hooks.acme.example/gpu"
}

notify "webhook" "oncall" {
  url        = "http://localhost:8080/hook?x=1"
  format     = "cloudevents"
  secret_env = "GOVERNOR_WEBHOOK_SECRET"
}

budget "acme" {
  description = "Of ${length(var.teams)} team%{if length(var.teams) != 1}s%{endif}"

  match {
    namespaces = local.namespaces
    when = (
      job.type == "batch" # nothing else
      && job.priority < local.total
    )
  }

  concurrent {
    gpus = local.quota
  }

  limit "month" {
    gpu_hours = var.teams.nlp.hours
    cost      = max(local.total, 50) * local.price
  }

  alert "burn" {
    when   = burn_rate("1h") > 14 && (forecast.cost > limit.cost || schedule.weekend)
    notify = local.oncall
  }
}

assert "pin_gpu_model" {
  condition     = alltrue([for d in job.devices : d.model != null])
  error_message = "Name the GPU model: ${join(" or ", ["h100", "l40s"])}."
}

assert "afternoon" {
  condition     = request.kind != "dispatch" || anytrue([for n in submitter.names : glob("role:*", n)]) || timecmp(now, "2026-12-24T00:00:00Z") < 0
  error_message = "Not now."
}

moved {
  from = "acme/ml"
  to   = "acme"
}

moved {
  from = "ml"
  to   = "acme/ml"
}
