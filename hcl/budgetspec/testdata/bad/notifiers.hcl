notify "finops" {
  url = "https://hooks.acme.example/gpu"
}

notify "webhok" "finops" {
  url = "https://hooks.acme.example/gpu"
}

notify "webhook" "finops" {
  url        = "https://user:secret@hooks.acme.example/gpu"
  format     = "cloudevent"
  secret_env = "correct horse"
}

notify "webhook" "finops" {
  url = "https://hooks.acme.example/gpu"
}

notify "webhook" "Fin" {
  url = "https://hooks.acme.example/gpu"
}

notify "webhook" "none" {
}

budget "acme" {
  match { namespaces = ["*"] }
}

notify "webhook" "kinds" {
  url    = "https://hooks.acme.example/gpu"
  events = ["budget.*", "budget.softt", "budget", "*"]
}
