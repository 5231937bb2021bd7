gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

schedule "night" {
  days  = ["mon"]
  start = "20:00"
  end   = "06:00"
}

assert "attribute" {
  condition     = job.typ == "batch"
  error_message = "x"
}

assert "inner" {
  condition     = alltrue([for d in job.devices : d.modle != null])
  error_message = "x"
}

assert "whole" {
  condition     = job == null
  error_message = "x"
}

assert "schedule" {
  condition     = schedule.nigth
  error_message = "x"
}

assert "root" {
  condition     = forecast.cost > 5
  error_message = "x"
}

assert "rate" {
  condition     = burn_rate("1h") > 5
  error_message = "x"
}

assert "number" {
  condition     = job.meta.n > 5
  error_message = "x"
}

assert "truth" {
  condition     = job.meta.flag || job.gpus > 1
  error_message = "x"
}

assert "never" {
  condition     = job.gpus == "8"
  error_message = "x"
}

assert "word" {
  condition     = job.type == "bach"
  error_message = "x"
}

assert "class" {
  condition     = estimate.gpu_hours.h200 < 5
  error_message = "x"
}

assert "tokens" {
  condition     = estimate.tokens.outputs < 5
  error_message = "x"
}

assert "not-one" {
  condition     = job.type
  error_message = "x"
}

assert "no-attributes" {
  condition     = job.type.length > 5
  error_message = "x"
}

assert "costly" {
  condition     = contains([for a in range(1000) : [for b in range(1000) : b]], job.gpus)
  error_message = "x"
}

assert "large" {
  condition = anytrue([
    job.id == "0",
    job.id == "1",
    job.id == "2",
    job.id == "3",
    job.id == "4",
    job.id == "5",
    job.id == "6",
    job.id == "7",
    job.id == "8",
    job.id == "9",
    job.id == "10",
    job.id == "11",
    job.id == "12",
    job.id == "13",
    job.id == "14",
    job.id == "15",
    job.id == "16",
    job.id == "17",
    job.id == "18",
    job.id == "19",
    job.id == "20",
    job.id == "21",
    job.id == "22",
    job.id == "23",
    job.id == "24",
    job.id == "25",
    job.id == "26",
    job.id == "27",
    job.id == "28",
    job.id == "29",
    job.id == "30",
    job.id == "31",
    job.id == "32",
    job.id == "33",
    job.id == "34",
    job.id == "35",
    job.id == "36",
    job.id == "37",
    job.id == "38",
    job.id == "39",
    job.id == "40",
    job.id == "41",
    job.id == "42",
    job.id == "43",
    job.id == "44",
    job.id == "45",
    job.id == "46",
    job.id == "47",
    job.id == "48",
    job.id == "49",
    job.id == "50",
    job.id == "51",
    job.id == "52",
    job.id == "53",
    job.id == "54",
    job.id == "55",
    job.id == "56",
    job.id == "57",
    job.id == "58",
    job.id == "59",
    job.id == "60",
    job.id == "61",
    job.id == "62",
    job.id == "63",
    job.id == "64",
    job.id == "65",
    job.id == "66",
    job.id == "67",
    job.id == "68",
    job.id == "69",
    job.id == "70",
    job.id == "71",
    job.id == "72",
    job.id == "73",
    job.id == "74",
    job.id == "75",
    job.id == "76",
    job.id == "77",
    job.id == "78",
    job.id == "79",
    job.id == "80",
    job.id == "81",
    job.id == "82",
    job.id == "83",
    job.id == "84",
    job.id == "85",
    job.id == "86",
    job.id == "87",
    job.id == "88",
    job.id == "89",
    job.id == "90",
    job.id == "91",
    job.id == "92",
    job.id == "93",
    job.id == "94",
    job.id == "95",
    job.id == "96",
    job.id == "97",
    job.id == "98",
    job.id == "99",
    job.id == "100",
    job.id == "101",
    job.id == "102",
    job.id == "103",
    job.id == "104",
    job.id == "105",
    job.id == "106",
    job.id == "107",
    job.id == "108",
    job.id == "109",
    job.id == "110",
    job.id == "111",
    job.id == "112",
    job.id == "113",
    job.id == "114",
    job.id == "115",
    job.id == "116",
    job.id == "117",
    job.id == "118",
    job.id == "119",
    job.id == "120",
    job.id == "121",
    job.id == "122",
    job.id == "123",
    job.id == "124",
    job.id == "125",
    job.id == "126",
    job.id == "127",
    job.id == "128",
    job.id == "129",
  ])
  error_message = "x"
}

budget "acme" {
  match {
    namespaces = ["*"]
    when       = request.kind == "plan"
  }

  alert "spans" {
    when   = burn_rate("soon") > 1 && burn_rate() > 1
    notify = []
  }
}
