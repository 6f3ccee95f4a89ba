"""Files that a command writes beside its main output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``target`` when the block ends, and vanishes if it fails.

    Raises:
        UserError: The folder does not exist, cannot be written to, or the disk is full.
    """
    from vsr.files import PendingFile, writing

    pending = PendingFile(target)
    try:
        with writing(target):
            yield pending.temporary
        pending.commit()
    except BaseException:
        pending.discard()
        raise
