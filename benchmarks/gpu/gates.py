"""Limits that the kernels' counts on sm_80 must keep, and better counts than plain Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .counts import Total

NAMES = {
    "ptx": "non-MMA per {unit}, PTX",
    "sass": "non-MMA per {unit}, SASS",
    "loop_sass": "the same in the main loop, SASS",
    "shared_read": "shared bytes read per {unit}",
    "conflicts": "shared wavefronts over ideal",
    "asked": "bytes asked over compulsory",
    "local_bytes": "spills and stack",
    "registers": "registers",
}
#: Quantities that depend on the size of the image: of all rows, and of some. The sum over the splits of a weight
#: gradient does not grow with the image, and stretches of 128 pixels are half empty in a small one.
SIZE_DEPENDENT = ("asked",)
SIZE_DEPENDENT_OF: Mapping[str, Sequence[str]] = {
    "gradient": ("ptx", "sass", "loop_sass", "shared_read"),
    "shuffle-thin": ("ptx", "sass"),
}
#: Quantities in which every kernel beats plain Triton.
COMPARED = ("sass", "shared_read", "asked")

GATES: Mapping[str, Mapping[str, float]] = {
    "conv64": {
        "ptx": 1.2,
        "sass": 1.0,
        "loop_sass": 0.45,
        "shared_read": 90,
        "conflicts": 1.0,
        "asked": 3.0,
        "registers": 232,
        "local_bytes": 0,
    },
    "conv64-low": {
        "conflicts": 1.0,
        "asked": 3.0,
        "registers": 232,
        "local_bytes": 0,
    },
    "conv64-residual": {
        "loop_sass": 0.45,
        "shared_read": 90,
        "conflicts": 1.0,
        "asked": 2.2,
        "registers": 232,
        "local_bytes": 0,
    },
    "tail": {
        "ptx": 1.9,
        "sass": 1.5,
        "loop_sass": 0.65,
        "shared_read": 115,
        "conflicts": 1.0,
        "asked": 2.5,
        "registers": 184,
        "local_bytes": 0,
    },
    "conv32": {
        "ptx": 1.8,
        "sass": 1.6,
        "loop_sass": 0.5,
        "shared_read": 90,
        "conflicts": 1.0,
        "asked": 1.65,
        "registers": 208,
        "local_bytes": 0,
    },
    "block64": {
        "ptx": 1.25,
        "sass": 1.15,
        "loop_sass": 0.5,
        "shared_read": 90,
        "conflicts": 1.0,
        "asked": 5.0,
        "registers": 236,
        "local_bytes": 0,
    },
    "block32": {
        "ptx": 2.1,
        "sass": 1.8,
        "loop_sass": 0.5,
        "shared_read": 95,
        "conflicts": 1.0,
        "asked": 3.0,
        "registers": 252,
        "local_bytes": 0,
    },
    "warp": {
        "ptx": 200,
        "sass": 150,
        "asked": 2.45,
        "registers": 40,
        "local_bytes": 0,
    },
    # Below: no prototype to take limits from; what the kernels do, and little more.
    "gradient": {
        "ptx": 2.05,
        "sass": 1.62,
        "loop_sass": 0.84,
        "shared_read": 86,
        "conflicts": 1.0,
        "asked": 2.8,
        "registers": 240,
        "local_bytes": 0,
    },
    "warp-gradient": {
        "ptx": 600,
        "sass": 610,
        "asked": 4.9,
        "registers": 80,
        "local_bytes": 0,
    },
    "shuffle-thin": {
        "ptx": 108,
        "sass": 100,
        "conflicts": 1.0,
        "asked": 1.0,
        "registers": 40,
        "local_bytes": 0,
    },
}


@dataclass(frozen=True)
class Verdict:
    """One gate: where, what, the limit and the figure."""

    case: str
    quantity: str
    limit: float
    figure: float
    strict: bool = False  # the figure must be below the limit

    @property
    def passed(self) -> bool:
        """Whether the gate holds, to two decimals."""
        figure = round(self.figure, 2)
        return figure < round(self.limit, 2) if self.strict else figure <= self.limit

    def __str__(self) -> str:
        sign = "<" if self.strict else "<="
        word = "pass" if self.passed else "FAIL"
        return f"{word}  {self.case:<16} {self.quantity:<34} {self.figure:8.2f} {sign} {self.limit:.2f}"


def judge(key: str, found: Total, unit: str, sized: bool) -> list[Verdict]:
    """The gates of a case; ``sized``: those that depend on the size of the image, too."""
    small = () if sized else (*SIZE_DEPENDENT, *SIZE_DEPENDENT_OF.get(key, ()))
    verdicts = []
    for quantity, limit in GATES.get(key, {}).items():
        if quantity not in small:
            figure = getattr(found, quantity)
            figure = float("inf") if figure is None else float(figure)
            verdicts.append(Verdict(key, NAMES[quantity].format(unit=unit), limit, figure))
    return verdicts


def compare(key: str, ours: Total, triton: Total, unit: str) -> list[Verdict]:
    """That every count with a counterpart is better than the plain Triton kernel's."""
    verdicts = []
    for quantity in COMPARED:
        theirs, figure = getattr(triton, quantity), getattr(ours, quantity)
        if theirs:
            verdicts.append(Verdict(key, NAMES[quantity].format(unit=unit) + " (Triton)", theirs, figure, strict=True))
    return verdicts


def report(verdicts: Sequence[Verdict]) -> str:
    """One line per gate."""
    failed = sum(not verdict.passed for verdict in verdicts)
    return "\n".join([*map(str, verdicts), f"{len(verdicts) - failed} gates pass, {failed} fail"])
