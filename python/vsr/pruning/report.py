"""What pruning did, in numbers: channels, multiplications, parameters, milliseconds, and PSNR from frame to frame."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from vsr.inference.runner import Runner
from vsr.metrics.evaluation import ClipResult
from vsr.metrics.plot import check_plot
from vsr.models import Pruned
from vsr.models.base import Upscaler
from vsr.models.units import units_of
from vsr.pruning.cost import GigaMacs, Parameters, UnitCount, counts_of

#: What is timed: frames of this size, as many of them for a recurrent network.
HEIGHT, WIDTH, FRAMES = 72, 128, 3
_ROUNDS = 3
_GROUPS = 10


@dataclass(frozen=True)
class Figures:
    """What a network costs.

    Attributes:
        kept: Units of each group.
        units: Their sum.
        gmacs: Billions of multiplications per frame of 320x180, the optical flow's left out.
        parameters: The optical flow's left out.
        milliseconds: Per frame of :data:`WIDTH` x :data:`HEIGHT`, everything included, measured.
    """

    kept: Mapping[str, int]
    units: int
    gmacs: float
    parameters: int
    milliseconds: float


def figures(networks: Mapping[str, Upscaler], device: torch.device) -> dict[str, Figures]:
    """What each network costs; they are timed in turns.

    Args:
        networks: By name.
        device: Where to time them.
    """
    times = _times(networks, device)
    found = {}
    for name, model in networks.items():
        units = units_of(model)
        counts = counts_of(model.kept if isinstance(model, Pruned) else units.everything)
        found[name] = Figures(
            counts,
            round(UnitCount(units).total(counts)),
            GigaMacs(units).total(counts),
            round(Parameters(units).total(counts)),
            times[name],
        )
    return found


def _times(networks: Mapping[str, Upscaler], device: torch.device) -> dict[str, float]:
    """Least time of each network in milliseconds per frame, as ``vsr upscale`` runs it."""
    runners = {name: Runner(model, device=device, dtype=torch.float32, tile=0) for name, model in networks.items()}
    best = dict.fromkeys(runners, math.inf)
    generator = torch.Generator().manual_seed(0)
    for round_number in range(2 + _ROUNDS):  # the first calls record a plan
        for name, runner in runners.items():
            count = FRAMES if runner.recurrent else 1
            clip = torch.rand(count, 3, HEIGHT, WIDTH, generator=generator)
            begin = time.perf_counter()
            runner.run(clip).cpu()
            if round_number >= 2:
                best[name] = min(best[name], (time.perf_counter() - begin) / count * 1e3)
    return best


def summary_table(before: Figures, after: Figures) -> Table:
    """Totals before and after, and the share that is left."""
    table = Table(title="pruned network")
    for heading in ("", "before", "after", "left"):
        table.add_column(heading, justify="left" if not heading else "right")
    size = f"{WIDTH}x{HEIGHT}"
    for label, a, b, digits in (
        ("units", before.units, after.units, 0),
        ("parameters", before.parameters, after.parameters, 0),
        ("GMAC per frame of 320x180", before.gmacs, after.gmacs, 1),
        (f"ms per frame of {size}, measured", before.milliseconds, after.milliseconds, 1),
    ):
        table.add_row(label, f"{a:,.{digits}f}", f"{b:,.{digits}f}", f"{b / a:.1%}")
    return table


def layer_table(before: Figures, after: Figures) -> Table:
    """Kept channels of every layer; one row for the three groups of a residual block."""
    table = Table(title="kept units")
    table.add_column("layer")
    for part in ("in", "hidden", "out"):
        table.add_column(part, justify="right")
    rows: dict[str, dict[str, str]] = {}
    for group, size in before.kept.items():
        layer, _, part = group.rpartition(".")
        rows.setdefault(layer, {})[part] = f"{after.kept[group]} of {size}"
    for layer, cells in rows.items():
        table.add_row(layer, *(cells.get(part, "") for part in ("in", "hidden", "out")))
    return table


def psnr_table(results: Mapping[str, Sequence[ClipResult]]) -> Table:
    """PSNR by frame index, the mean over clips; long clips in groups of consecutive frames.

    Args:
        results: Scores of the same clips by network.
    """
    table = Table(title="PSNR in dB by frame")
    table.add_column("frames")
    for name in results:
        table.add_column(name, justify="right")
    curves = {name: psnr_by_frame(scores) for name, scores in results.items()}
    indices = list(next(iter(curves.values())))
    step = max(1, math.ceil(len(indices) / _GROUPS))
    for i in range(0, len(indices), step):
        group = indices[i : i + step]
        label = str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}"
        means = [sum(curve[index] for index in group) / len(group) for curve in curves.values()]
        table.add_row(label, *(f"{mean:.2f}" for mean in means))
    table.add_section()
    table.add_row("all", *(f"{sum(curve.values()) / len(curve):.2f}" for curve in curves.values()))
    return table


def psnr_by_frame(results: Sequence[ClipResult]) -> dict[int, float]:
    """Mean PSNR over the clips that have a frame, by its index."""
    found: dict[int, list[float]] = {}
    for result in results:
        for index, score in result.frames.items():
            found.setdefault(index, []).append(score.psnr)
    return {index: sum(values) / len(values) for index, values in sorted(found.items())}


def plot_report(before: Figures, after: Figures, results: Mapping[str, Sequence[ClipResult]], target: Path) -> None:
    """Draw kept channels by layer, and PSNR by frame where there are scores.

    Args:
        before, after: Of the dense and the pruned network.
        results: Scores of the same clips by network; may be empty.
        target: The file to write, whose ending chooses the format.

    Raises:
        UserError: matplotlib is not installed, or it does not know the format.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8 if results else 4), layout="constrained")
    panels = figure.subplots(2 if results else 1, 1, squeeze=False)[:, 0]
    layers = list(dict.fromkeys(group.rpartition(".")[0] for group in before.kept))
    for part in ("in", "hidden", "out"):
        groups = [(i, f"{layer}.{part}") for i, layer in enumerate(layers) if f"{layer}.{part}" in after.kept]
        if groups:
            panels[0].plot([i for i, _ in groups], [after.kept[g] for _, g in groups], ".-", lw=0.7, label=part)
    panels[0].set(xlabel="layer, in the order of the network", ylabel="kept units", ylim=(0, None))
    for name, scores in results.items():
        curve = psnr_by_frame(scores)
        panels[-1].plot(list(curve), list(curve.values()), marker=".", label=name)
        panels[-1].set(xlabel="frame", ylabel="PSNR in dB")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(target, dpi=120)
