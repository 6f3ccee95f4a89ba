"""Training: data, the multigrid schedule, the loop."""
