"""`lyre plan`: how many pods and GPUs a number of callers needs, from a measured curve and a simulation of arrivals."""
