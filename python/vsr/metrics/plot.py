"""A figure of per-frame scores. matplotlib is an extra and only needed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vsr.errors import UserError
from vsr.metrics.evaluation import ClipResult


def check_plot(target: Path) -> None:
    """Raise UserError unless matplotlib is there and knows the format that the file's ending stands for."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise UserError("a plot needs matplotlib: pip install matplotlib") from error
    known = FigureCanvasBase.get_supported_filetypes()
    if target.suffix[1:].lower() not in known:
        raise UserError(f"{target}: a plot can be written as {', '.join(sorted(known))}")


def plot_scores(results: Mapping[str, Sequence[ClipResult]], target: Path) -> None:
    """Draw PSNR and SSIM over the frame number, a row of panels for each clip and a line for each method.

    Args:
        results: Scores of the same clips by the names of the methods.
        target: The file to write, whose ending chooses the format (png, svg, pdf ...).

    Raises:
        UserError: matplotlib is not installed, or it does not know the format.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    clips = [result.name for result in next(iter(results.values()))]
    figure = Figure(figsize=(11, 3 * len(clips)), layout="constrained")
    panels = figure.subplots(len(clips), 2, squeeze=False)
    for row, clip in zip(panels, clips, strict=True):
        for panel, unit in zip(row, ("PSNR in dB", "SSIM"), strict=True):
            panel.set(title=clip, xlabel="frame", ylabel=unit)
            panel.grid(alpha=0.3)
    for method, scores in results.items():
        for row, result in zip(panels, scores, strict=True):
            frames = list(result.frames)
            finite = [score.psnr if math.isfinite(score.psnr) else math.nan for score in result.frames.values()]
            row[0].plot(frames, finite, marker=".", label=method)
            row[1].plot(frames, [score.ssim for score in result.frames.values()], marker=".", label=method)
    panels[0][0].legend()
    figure.savefig(target, dpi=120)
