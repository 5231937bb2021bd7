price = "two"
zone  = ["b"]

budget "acme" {
}
