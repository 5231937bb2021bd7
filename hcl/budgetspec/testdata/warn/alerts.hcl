gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

notify "webhook" "finops" {
  url = "https://hooks.acme.example/gpu"
}

budget "a" {
  match { namespaces = ["a"] }
  alert "burn" {
    when   = burn_rate("1h") > 14
    notify = [notify.webhook.finops]
  }
}

notify "webhook" "nobody" {
  url     = "https://hooks.acme.example/nobody"
  events  = ["budget.*"]
  budgets = ["a", "a/b"]
}
