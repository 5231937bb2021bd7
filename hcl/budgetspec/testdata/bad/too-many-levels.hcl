gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "l0" {
  budget "l1" {
    budget "l2" {
      budget "l3" {
        budget "l4" {
          budget "l5" {
            budget "l6" {
              budget "l7" {
                budget "l8" {
                  budget "l9" {
                    budget "l10" {
                      budget "l11" {
                        budget "l12" {
                          budget "l13" {
                            budget "l14" {
                              budget "l15" {
                                budget "l16" {
                                  budget "l17" {
                                    match { namespaces = ["*"] }
                                  }
                                }
                              }
                            }
                          }
                        }
                      }
                    }
                  }
                }
              }
            }
          }
        }
      }
    }
  }
}
