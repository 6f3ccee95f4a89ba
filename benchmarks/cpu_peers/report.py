"""Table, JSON and plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .peaks import Peaks
from .session import TOLERANCES, Row, Section

_PACKAGES = ("torch", "onnxruntime", "openvino", "ncnn", "numpy")

EXPLANATION = (
    "Every peer is a process of its own; they take turns within each round, all pinned to the same cores. Times are "
    "medians [least-most]; 'times ours' is the median over rounds of a peer's time over that of the first row. "
    "Networks: float32 NCHW in and out, conversions included. Operators: each peer in its own layout; what the "
    "conversions between that and float32 NCHW cost is in the column 'reorders' and not in the time (for onnxruntime, "
    "openvino and ncnn it is subtracted, by their profilers or measured). GFLOP/s count direct convolutions. Error: "
    "relative L2 distance to eager float32 PyTorch with coordinates in float64; allowed are "
    + ", ".join(f"{value:.0e} ({name})" for name, value in TOLERANCES.items())
    + "; where it is larger, nothing is timed."
)


def environment() -> dict[str, str]:
    """What a reader needs to place the figures."""
    found = {"cpu": _cpu_name(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def table(section: Section, peaks: Peaks) -> Table:
    """A section as a table; percentages are of the peak, or of a copy of as many bytes."""
    threads = f"{section.threads} thread{'s' if section.threads > 1 else ''}"
    unit = "GB/s" if section.moved else "GFLOP/s"
    title = f"{section.title}, {section.precision}, {threads}"
    caption = f"other load while timed: {section.disturbance:.2f} cores"
    made = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in ("peer", "ms", "CPU ms", "times ours", unit, "of peak", "reorders ms", "error"):
        made.add_column(name, justify="left" if name == "peer" else "right")
    ours = section.rows[0]
    for row in section.rows:
        error = "" if row.error is None else f"{row.error:.1e}"
        if row.refused is not None:
            made.add_row(row.label, row.refused, *[""] * 5, error)
            continue
        ratio = _span(row.ratios(ours), 1.0) if row is not ours and ours.wall else ""
        reorders = row.reorders()
        made.add_row(
            row.label,
            _span(row.seconds(), 1e3),
            f"{statistics.median(row.cpu_seconds()) * 1e3:.2f}",
            ratio,
            *_rate(section, row, peaks),
            "" if reorders is None else f"{reorders * 1e3:.2f}",
            error,
        )
    return made


def _span(values: Sequence[float], factor: float) -> str:
    low, middle, high = (factor * v for v in (min(values), statistics.median(values), max(values)))
    return f"{middle:.2f} [{low:.2f}-{high:.2f}]"


def _rate(section: Section, row: Row, peaks: Peaks) -> tuple[str, str]:
    """Work per second, and its part of the peak; unknown for another case than the section's."""
    if not row.entry.startswith(f"{section.case} "):
        return "", ""
    seconds = statistics.median(row.seconds())
    rate = (section.moved or section.flops) / seconds / 1e9
    peak = peaks.copy.get(section.moved) if section.moved else peaks.gflops.get(section.precision)
    return f"{rate:.1f}", "" if peak is None else f"{100 * rate / peak:.0f} %"


def write_json(path: Path, sections: Sequence[Section], peaks: dict[int, Peaks]) -> None:
    """Everything, with the seconds of every round."""
    data: dict[str, Any] = {
        "environment": environment(),
        "tolerances": TOLERANCES,
        "peaks": {str(threads): asdict(found) for threads, found in peaks.items()},
        "sections": [asdict(section) for section in sections],
    }
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(data, indent=1))
    os.replace(part, path)


def print_peaks(console: Console, threads: int, peaks: Peaks) -> None:
    """One line per number of threads."""
    figures = [f"{name} {value:.0f} GFLOP/s" for name, value in peaks.gflops.items()]
    figures += [f"copy of {size / 2e6:.0f} MB {value:.1f} GB/s" for size, value in peaks.copy.items()]
    console.print(f"peaks, {threads} thread{'s' if threads > 1 else ''}: " + ", ".join(figures))


def plot(path: Path, sections: Sequence[Section]) -> None:
    """How many times longer than ours every peer takes: a panel per precision and number of threads.

    Raises:
        SystemExit: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("the plot needs matplotlib: pip install 'vsr-kernels[plot]'") from None
    timed = [section for section in sections if section.rows[0].wall]
    panels = sorted({(s.precision, s.threads) for s in timed}, key=lambda p: (p[0] != "float32", p[1]))
    cases = list(dict.fromkeys(s.case for s in timed))
    labels = list(dict.fromkeys(r.label for s in timed for r in s.rows if r.wall))
    if not panels:
        raise SystemExit("cpu: nothing was timed, there is nothing to plot")
    figure = Figure(figsize=(6.5 * len(panels), 1.5 + 0.16 * len(cases) * len(labels)), layout="constrained")
    height = 0.85 / len(labels)
    for axes, (precision, threads) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for at, label in enumerate(labels):
            points = []
            for section in timed:
                if (section.precision, section.threads) == (precision, threads):
                    found = [r for r in section.rows if r.label == label and r.wall]
                    points += [(cases.index(section.case), r.ratios(section.rows[0])) for r in found]
            middles = [statistics.median(ratios) for _, ratios in points]
            spread = [
                [m - min(ratios) for m, (_, ratios) in zip(middles, points, strict=True)],
                [max(ratios) - m for m, (_, ratios) in zip(middles, points, strict=True)],
            ]
            places = [case + (at - len(labels) / 2) * height for case, _ in points]
            axes.barh(places, middles, height, xerr=spread, label=label, color=f"C{at}", error_kw={"lw": 0.8})
        axes.axvline(1.0, color="black", lw=0.8)
        axes.set_yticks(range(len(cases)), cases)
        axes.invert_yaxis()
        axes.set_title(f"{precision}, {threads} thread{'s' if threads > 1 else ''}")
        axes.set_xlabel("time over that of ours")
    figure.axes[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
