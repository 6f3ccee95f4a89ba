"""Straightforward Triton kernels to compare with."""
