locals {
  nothing  = null
  objects  = [{ id = 1 }]
  missing  = local.nothing.id
  nowhere  = local.objects[0].name
  beyond   = local.objects[3]
  numbers  = { a = 1 }
  key      = local.numbers.b
  absent   = tomap(local.numbers).b
  sum      = local.nothing + 1
  dotted   = { local.key = 1 }
  clash    = { for n in [1, 2] : "k" => n }
  none     = local.objects[0].id.x
  text     = "a" * 2
  word     = !"yes"
  empty    = null + 1
  zero     = 0 / 0
  huge     = 1e9999
  choice   = "yes" ? 1 : 2
  each     = [for x in 5 : x]
  maximum  = maxx(1, 2)
  home     = env("HOME")
  one      = upper("a", "b")
  attempt  = can(1, 2)
  list     = upper(["a"])
  number   = tonumber("ten")
  forever  = [for x in range(1000) : [for y in range(1000) : y]]
  wide     = format("%99999s", "x")
  template = "a${null}"
  if       = [for x in [1] : x if "maybe"]
}

budget "acme" {
  match { namespaces = ["*"] }
}
