price = 1 / 8
zones = ["x", lower("Y")]
