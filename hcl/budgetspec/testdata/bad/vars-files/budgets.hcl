variable "price" {
  type    = number
  default = 1
}

variable "zones" {
  type    = list(string)
  default = ["a"]
}

budget "acme" {
  match { namespaces = ["*"] }
}
