"""Structured pruning: smaller networks whose measured time falls with their multiplications."""

from vsr.pruning.cut import cut, dense_form, masked
from vsr.pruning.selection import SelectionConfig, choose

__all__ = ["SelectionConfig", "choose", "cut", "dense_form", "masked"]
