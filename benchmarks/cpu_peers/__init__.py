"""What benchmarks/cpu.py is made of: the cases, one module per peer, the worker processes, raw peaks, the report."""
