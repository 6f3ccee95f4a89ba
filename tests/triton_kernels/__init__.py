"""Tests of the Triton kernels where there is no GPU."""
