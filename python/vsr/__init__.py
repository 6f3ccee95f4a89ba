"""Video super-resolution on top of :mod:`vsr_kernels`: models, metrics, streaming inference and a command line."""
