schedule "night" {
  days  = ["mon", "Tue", "Wednesday", "someday"]
  start = "8pm"
  end   = "24:00"
}

schedule "night" {
  days  = ["sat"]
  start = "6:00"
  end   = "06:00"
}

schedule "empty" {
}

budget "acme" {
  match { namespaces = ["*"] }
}
