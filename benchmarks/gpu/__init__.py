"""What kernels do at full size, counted on the CPU by ptxvm, and a model of the time that takes on a GPU."""
