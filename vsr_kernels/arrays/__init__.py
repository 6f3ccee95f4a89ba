"""What the operators on NumPy arrays and on CuPy arrays share: signatures, documentation, checks, kept packings."""
