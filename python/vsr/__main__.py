"""``python -m vsr``, which torchrun can start."""

from vsr.cli import main

main()
