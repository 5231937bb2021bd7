variable "a" {
  type      = "string"
  default   = "x"
  sensitive = true
}

variable "b" {
  type    = number
  default = "ten"
}

variable "c" {
  default = var.a
}

variable "d" {
}

variable "e" {
  default = null
}

variable "7up" {
  default = 1
}

variable "f" {
  type    = number
  default = 2

  validation {
    condition     = var.f > 0 && var.f <= 1
    error_message = "f must be in (0, 1]."
  }

  validation {
    condition     = var.b > 0
    error_message = "b must be positive."
  }

  validation {
    condition     = var.f + 1
    error_message = "f must be."
  }

  validation {
    condition = var.f > 0
  }
}

variable "f" {
  default = 3
}

variable "g" {
  type = object({ price = numbr })
}

variable "h" {
  default = unquoted
}

variable "i" {
  defalt = 1
}

locals {
  x = 1
}

locals {
  x = 2

  y {
  }
}

budget "acme" {
  match { namespaces = ["*"] }
}
