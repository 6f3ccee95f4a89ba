"""A schedule for people: a table of its phases with their predicted cost, and a picture."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from vsr.metrics.plot import check_plot
from vsr.training.schedule import MultigridSchedule


def plan_table(schedule: MultigridSchedule) -> Table:
    """One row per phase: its shape, iterations, learning rates at both ends, and share of the predicted cost."""
    gain = f"predicted {schedule.speedup:.2f} times as fast as the same samples at full shape"
    table = Table(title=f"{schedule.length} iterations, {schedule.samples} samples, {gain}")
    for heading in ("stage", "LR crop", "frames", "batch", "iterations", "learning rate", "cost"):
        table.add_column(heading, justify="right")
    for phase in schedule.phases:
        first, last = schedule.at(phase.start).lr, schedule.at(phase.stop - 1).lr
        table.add_row(
            str(phase.stage + 1),
            f"{phase.crop}x{phase.crop}",
            str(phase.frames),
            str(phase.batch),
            str(phase.iterations),
            f"{first:.2e} to {last:.2e}",
            f"{phase.cost / schedule.cost:.1%}",
        )
    return table


def plot_plan(schedule: MultigridSchedule, target: Path, *, points: int = 2000) -> None:
    """Draw crop, clip length, batch and learning rate over the samples.

    Args:
        schedule: The run.
        target: The file to write, whose ending chooses the format.
        points: Iterations to draw at most.

    Raises:
        UserError: matplotlib is not installed, or it does not know the format.
    """
    check_plot(target)
    from matplotlib.figure import Figure

    steps = [schedule.at(i) for i in range(0, schedule.length, max(1, schedule.length // points))]
    samples = [step.first_sample for step in steps]
    figure = Figure(figsize=(9, 8), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    rows = {
        "LR crop in pixels": [step.crop for step in steps],
        "frames": [step.frames for step in steps],
        "batch": [step.batch for step in steps],
        "learning rate": [step.lr for step in steps],
    }
    for panel, (label, values) in zip(panels, rows.items(), strict=True):
        panel.plot(samples, values, drawstyle="default" if label == "learning rate" else "steps-post")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("samples")
    figure.savefig(target)
