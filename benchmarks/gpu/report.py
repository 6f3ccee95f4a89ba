"""The tables of docs/gpu-model.md, and its plot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .counts import Total
from .devices import GPUS, Gpu
from .model import predict_range, roofline

LABEL = "modelled, not measured"


@dataclass(frozen=True)
class Row:
    """A case on one device: this package's kernels and the baseline."""

    key: str
    title: str
    unit: str
    flops: float
    compulsory: int
    ours: Total
    triton: Total | None


def counts_table(rows: Sequence[Row], ours: str = "ours") -> str:
    """What the kernels do on one device; ``ours`` is the name of what is not the baseline."""
    head = [
        "operator",
        "kernels",
        "blocks",
        "regs",
        "blocks/SM",
        "per",
        "other instr. PTX",
        "SASS",
        "main loop",
        "shared B read",
        "wavefronts / ideal",
        "asked / compulsory",
        "L2 / compulsory",
        "DRAM / compulsory",
    ]
    lines = [_line(head), _line(["---"] * 2 + ["---:"] * 3 + ["---"] + ["---:"] * 8)]
    for row in rows:
        for name, found in ((ours, row.ours), ("Triton", row.triton)):
            if found is not None:
                lines.append(_line([row.title if name == ours else "", name, *_figures(found, row.unit)]))
    return "\n".join(lines)


def _figures(found: Total, unit: str) -> list[str]:
    wgmma = any(each.wgmma for each in found.counts)
    loop = found.loop_sass
    return [
        " + ".join(f"{each.blocks:,}" for each in found.counts),
        " + ".join(str(each.registers) for each in found.counts),
        " + ".join(str(each.resident) for each in found.counts),
        unit,
        f"{found.ptx:.2f}",
        f"{found.sass:.2f}" if found.attributed else "-",
        "-" if loop is None or wgmma else f"{loop:.2f}",
        "not counted" if wgmma else f"{found.shared_read:.0f}" if found.sum("shared_read") else "-",
        f"{found.conflicts:.2f}" if found.sum("ideal_wavefronts") else "-",
        f"{found.asked:.2f}",
        f"{found.through_l2:.2f}",
        f"{found.dram:.2f}",
    ]


def times_table(rows: Sequence[Row], gpu: Gpu) -> str:
    """What the model makes of it."""
    head = ["operator", "roofline, µs", "ours, µs", "bound by", "Triton, µs", "bound by"]
    lines = [_line(head), _line(["---", "---:", "---:", "---", "---:", "---"])]
    for row in rows:
        cells = [row.title, f"{roofline(row.flops, row.compulsory, gpu) * 1e6:.1f}"]
        for found in (row.ours, row.triton):
            cells += _prediction(found, gpu)
        lines.append(_line(cells))
    return "\n".join(lines)


def _prediction(found: Total | None, gpu: Gpu) -> list[str]:
    """The time and its bounds, where there are instructions to predict it from."""
    if found is None or not found.attributed:
        return ["-", "-"]
    best, worst = predict_range(found, gpu)
    return [span(best.seconds, worst.seconds), worst.limit]


def span(low: float, high: float) -> str:
    """A range of seconds in microseconds."""
    first, last = (f"{value * 1e6:.0f}" if value >= 1e-5 else f"{value * 1e6:.1f}" for value in (low, high))
    return first if first == last else f"{first} - {last}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def device_table() -> str:
    """The devices as the model sees them."""
    head = ["device", "SMs", "GHz", "cycles per MMA and sub-core", "TFLOP/s, mma.sync", "L2, TB/s", "DRAM, TB/s"]
    lines = [_line(head), _line(["---"] + ["---:"] * 6)]
    for gpu in GPUS:
        cells = [
            gpu.name,
            str(gpu.device.multiprocessors),
            f"{gpu.clock / 1e9:.4g}",
            f"{gpu.mma_cycles:.3g}",
            f"{gpu.flops / 1e12:.0f}",
            f"{gpu.l2 / 1e12:.2g}",
            f"{gpu.dram / 1e12:.4g}",
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def sections(rows: dict[str, list[Row]]) -> str:
    """Everything that is generated, as markdown."""
    parts = ["### Devices", device_table()]
    for gpu in GPUS:
        if gpu.name in rows:
            parts += [f"### {gpu.name}: times, {LABEL}", times_table(rows[gpu.name], gpu)]
    for gpu in GPUS:
        if gpu.name in rows:
            parts += [f"### {gpu.name}: counts (sm_{gpu.target})", counts_table(rows[gpu.name])]
    return "\n\n".join(parts)


def operators_sections(rows: dict[str, list[Row]]) -> str:
    """The tables of this package's Triton kernels, as markdown; rows hold them as ``ours``."""
    gpus = [gpu for gpu in GPUS if gpu.name in rows]
    head = ["operator", *(cell for gpu in gpus for cell in (f"{gpu.name}, µs", "bound by"))]
    lines = [_line(head), _line(["---"] + ["---:", "---"] * len(gpus))]
    for each in zip(*(rows[gpu.name] for gpu in gpus), strict=True):
        cells = [each[0].title]
        for gpu, row in zip(gpus, each, strict=True):
            cells += _prediction(row.ours, gpu)
        lines.append(_line(cells))
    parts = [f"### Times, {LABEL}", "\n".join(lines)]
    for gpu in gpus:
        parts += [f"### {gpu.name}: counts of Triton kernels (sm_{gpu.target})"]
        parts += [counts_table(rows[gpu.name], "in Triton")]
    return "\n\n".join(parts)


def write_between_marks(path: Path, text: str, name: str = "generated") -> None:
    """Replace what stands between the two marks of this name in a markdown file."""
    marks = (f"<!-- {name}: begin -->", f"<!-- {name}: end -->")
    before = path.read_text()
    pattern = re.compile(f"({re.escape(marks[0])}\n).*({re.escape(marks[1])})", re.DOTALL)
    after, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if count != 1:
        raise ValueError(f"{path}: expected the marks {marks[0]} and {marks[1]} once, found them {count} times")
    path.write_text(after)


def plot(rows: dict[str, list[Row]], path: Path) -> None:
    """Predicted times of all rows, one panel per device.

    Raises:
        SystemExit: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("the plot needs matplotlib: pip install 'vsr-kernels[plot]'") from None
    gpus = [gpu for gpu in GPUS if gpu.name in rows]
    titles = [row.title for row in rows[gpus[0].name]]
    figure = Figure(figsize=(15, 1.6 + 0.55 * len(titles)), layout="constrained")
    panels = figure.subplots(1, len(gpus), sharey=True, squeeze=False)[0]
    for panel, gpu in zip(panels, gpus, strict=True):
        for at, row in enumerate(rows[gpu.name]):
            for found, shift, colour, name in (
                (row.ours, -0.18, "tab:blue", "this package"),
                (row.triton, 0.18, "tab:orange", "plain Triton"),
            ):
                if found is None or not found.attributed:
                    continue
                best, worst = (p.seconds * 1e6 for p in predict_range(found, gpu))
                label = name if at == 0 else None
                panel.barh(at + shift, worst, 0.34, color=colour, alpha=0.35)
                panel.barh(at + shift, best, 0.34, color=colour, label=label)
            limit = roofline(row.flops, row.compulsory, gpu) * 1e6
            panel.plot([limit, limit], [at - 0.4, at + 0.4], color="black", label="roofline" if at == 0 else None)
        panel.set_xscale("log")
        panel.set_title(gpu.name)
        panel.set_xlabel(f"µs, {LABEL}")
        panel.grid(axis="x", which="both", alpha=0.2)
    panels[0].set_yticks(range(len(titles)), titles)
    panels[0].invert_yaxis()
    panels[-1].legend(loc="lower right", fontsize="small")
    figure.suptitle(f"Times predicted from counted instructions, bytes and wavefronts ({LABEL})")
    figure.savefig(path, dpi=110)
