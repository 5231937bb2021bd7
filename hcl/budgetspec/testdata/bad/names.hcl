gpu_class "H100" {
  devices = ["nvidia/gpu/a"]
}

gpu_class "any" {
  devices = ["nvidia/gpu/b"]
}

budget "-x" {
}

budget "a/b" {
}

budget "" {
}

budget {
}

budget "a" "b" {
}

budget "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" {
}

budget "ok_1-2" {
  match "all" {
    namespaces = ["*"]
  }
}
