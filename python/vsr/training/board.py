"""TensorBoard logs of a run. The package is an extra and only needed here."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from vsr.errors import UserError
from vsr.files import writing
from vsr.training.trainer import Progress


def summary_writer() -> Any:
    """PyTorch's class that writes the logs.

    Raises:
        UserError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard logs need tensorboard: pip install tensorboard") from error
    return SummaryWriter


class Board:
    """Curves of every step; scores and a picture of every validated clip: bicubic, output and truth side by side.

    Args:
        folder: Gets the event files.
        first: Iteration that the run goes on from. Whatever an earlier process logged from there on is hidden.

    Raises:
        UserError: tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        with writing(folder):
            self._writer = summary_writer()(str(folder), purge_step=first)

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._folder):
            self._writer.close()

    def show(self, progress: Progress) -> None:
        """Log a step.

        Raises:
            UserError: The disk is full.
        """
        step = progress.step
        values = {
            "loss": progress.loss,
            "learning rate": step.lr,
            "shape/crop": step.crop,
            "shape/frames": step.frames,
            "shape/batch": step.batch,
            "throughput/clips per second": step.batch / progress.took,
            "throughput/LR megapixels per second": step.batch * step.frames * step.crop**2 / 1e6 / progress.took,
        }
        for name, score in progress.scores.items():
            values |= {f"psnr/{name}": score.psnr, f"ssim/{name}": score.ssim}
        with writing(self._folder):
            for label, value in values.items():
                self._writer.add_scalar(label, value, progress.iteration)
            for name, score in progress.scores.items():
                label = f"{name}: bicubic, output, truth"
                self._writer.add_image(label, score.picture, progress.iteration, dataformats="HWC")
            if progress.scores:
                self._writer.flush()
