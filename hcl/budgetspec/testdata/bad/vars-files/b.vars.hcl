price = 3
zones = local.zones
