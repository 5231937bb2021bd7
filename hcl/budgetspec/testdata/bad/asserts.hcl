assert "a" {
}

assert "a" {
  condition     = true
  error_message = ""
}

assert "B" {
  condition     = true
  error_message = "x"
}

budget "acme" {
  match { namespaces = ["*"] }
}
