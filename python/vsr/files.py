"""Outputs that appear whole or not at all: written under a temporary name beside the target, then moved into place."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vsr.errors import UserError


class PendingFile:
    """A file that is being written.

    Args:
        target: The name it gets when it is complete.

    Attributes:
        target: As given.
        temporary: The name to write to meanwhile, hidden and in the same folder.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
        check_folder(target.parent)
        with writing(target):
            self.temporary.touch(exist_ok=False)

    def commit(self) -> None:
        """Make sure the bytes are on the disk, and move the file into place."""
        with writing(self.target):
            descriptor = os.open(self.temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(self.temporary, self.target)

    def discard(self) -> None:
        """Remove what was written."""
        self.temporary.unlink(missing_ok=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``target`` when the block ends, and vanishes if it fails.

    Raises:
        UserError: The folder does not exist, cannot be written to, or the disk is full.
    """
    pending = PendingFile(target)
    try:
        with writing(target):
            yield pending.temporary
        pending.commit()
    except BaseException:
        pending.discard()
        raise


def check_folder(folder: Path) -> None:
    """Raise UserError unless files can be created in ``folder``."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder to write to")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to write there")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals while ``target`` is written into one clear sentence."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space left on the disk",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file is larger than the file system or the user's limit allows",
            errno.EACCES: "no permission to write there",
            errno.EPERM: "no permission to write there",
            errno.EROFS: "the file system is read-only",
            errno.EIO: "the disk reports an input/output error",
            errno.ENAMETOOLONG: "the file name is too long",
        }
        if error.errno not in reasons:
            raise
        raise UserError(f"{target}: {reasons[error.errno]}") from error
