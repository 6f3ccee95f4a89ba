"""Names for the types that most modules pass around."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Collective, Control

#: One entry per active lane, unless said otherwise.
Array: TypeAlias = npt.NDArray[Any]
#: An operand's value: an ``Array``, or a NumPy scalar where all lanes agree. Both take the same operators.
Values: TypeAlias = Any
#: A grid, block, or position in one: x, y, z.
Triple: TypeAlias = tuple[int, int, int]
#: A NumPy scalar type such as ``np.float32``.
ScalarType: TypeAlias = Any
#: Arithmetic on values, such as ``np.add``.
Elementwise: TypeAlias = Callable[..., Any]

Run: TypeAlias = "Callable[[Machine], None]"
Step: TypeAlias = "Callable[[Machine, int], int | None]"
Reader: TypeAlias = "Callable[[Machine], Values]"
Writer: TypeAlias = "Callable[[Machine, Values], None]"
#: What a decoder makes of an instruction: straight-line code, a branch target, or something that moves lanes itself.
Decoded: TypeAlias = "Run | int | Control | Collective"
