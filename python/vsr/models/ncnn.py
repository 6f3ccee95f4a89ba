"""ncnn models (.param with .bin) that hold a compact network, as Real-ESRGAN's ncnn ports ship them.

The ``.param`` file is text: a magic number, counts, one line per layer. The ``.bin`` file holds the layers' weights in
the same order: a convolution's kernel behind a tag that says its type, biases and PReLU slopes as plain float32.
Arrays are NumPy's, so that programs without torch can read and write them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsr.errors import UserError
from vsr.files import PendingFile, writing

_MAGIC = "7767517"
_FLOAT32, _FLOAT16 = 0x00000000, 0x01306B47
_CHAIN = ("Convolution", "PReLU")

Array = NDArray[np.float32]


@dataclass
class _Layer:
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[int, float]
    arrays: dict[str, Array] = field(default_factory=dict)

    def number(self, key: int, default: int = 0) -> int:
        return int(self.settings.get(key, default))


class _Reader:
    """Reads the .bin file from its start to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.at = 0

    def plain(self, count: int, kind: str = "<f4") -> Array:
        size = count * np.dtype(kind).itemsize
        if self.at + size > len(self.data):
            raise UserError(f"{self.path}: ends after {len(self.data)} bytes, in the middle of its weights")
        values = np.frombuffer(self.data, kind, count, self.at).astype(np.float32)
        self.at += -(-size // 4) * 4  # padded to whole words
        return values

    def tagged(self, count: int) -> Array:
        tag = int.from_bytes(self.data[self.at : self.at + 4], "little")
        self.at += 4
        if tag not in (_FLOAT32, _FLOAT16):
            raise UserError(f"{self.path}: weights of type {tag:#010x} are not supported, only float32 and float16")
        return self.plain(count, "<f2" if tag == _FLOAT16 else "<f4")


def read_ncnn(path: Path) -> dict[str, Array]:
    """State_dict of the compact network (:class:`vsr.models.SRVGGNet`) in an ncnn model.

    Args:
        path: The ``.param`` file; the ``.bin`` file of the same name lies beside it.

    Returns:
        float32 arrays under the keys ``body.{i}.weight`` and ``body.{i}.bias``.

    Raises:
        UserError: A file is missing, damaged or holds another network.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"{path}: the weights are expected beside it, in {weights.name}, which is not there")
    layers = _read_param(path)
    _check_graph(path, layers)
    chain = [layer for layer in layers if layer.kind in _CHAIN]
    reader = _Reader(weights)
    for layer in chain:
        _read_weights(layer, reader)
    if reader.at != len(reader.data):
        raise UserError(f"{weights}: {len(reader.data) - reader.at} bytes are left over; it does not fit {path.name}")
    return {f"body.{i}.{key}": value for i, layer in enumerate(chain) for key, value in layer.arrays.items()}


def write_ncnn(path: Path, convolutions: Sequence[tuple[Array, Array]], slopes: Sequence[Array], scale: int) -> None:
    """Write a compact network for ncnn: what :func:`read_ncnn` reads.

    Args:
        path: The ``.param`` file; the ``.bin`` file of the same name goes beside it. Each appears whole or not at all.
        convolutions: Weights (C_out, C_in, 3, 3) and biases (C_out,), float32.
        slopes: (C_out,) of the PReLU behind each convolution but the last.
        scale: Of the pixel shuffle at the end.

    Raises:
        UserError: A file cannot be written.
    """
    lines = ["Input data 0 1 data", "Split split 1 2 data data_body data_skip"]
    weights: list[bytes] = []
    blob = "data_body"

    def layer(kind: str, name: str, settings: str, *arrays: Array) -> None:
        nonlocal blob
        lines.append(f"{kind} {name} 1 1 {blob} {name} {settings}")
        weights.extend(array.astype("<f4").tobytes() for array in arrays)
        blob = name

    for i, (weight, bias) in enumerate(convolutions):
        weights.append(_FLOAT32.to_bytes(4, "little"))
        settings = f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size}"
        layer("Convolution", f"conv{i}", settings, weight, bias)
        if i < len(slopes):
            layer("PReLU", f"prelu{i}", f"0={slopes[i].size}", slopes[i])
    layer("PixelShuffle", "shuffled", f"0={scale}")
    lines.append(f"Interp repeat 1 1 data_skip repeated 0=1 1={scale:.6e} 2={scale:.6e}")
    lines.append(f"BinaryOp add 2 1 {blob} repeated output 0=0")
    blobs = sum(int(line.split()[3]) for line in lines)
    text = "\n".join([_MAGIC, f"{len(lines)} {blobs}", *lines, ""])
    contents = {path.with_suffix(".bin"): b"".join(weights), path: text.encode("ascii")}
    pending = {target: PendingFile(target) for target in contents}
    try:
        for target, content in contents.items():
            with writing(target):
                pending[target].temporary.write_bytes(content)
        for file in pending.values():
            file.commit()
    finally:
        for file in pending.values():
            file.discard()


def _read_param(path: Path) -> list[_Layer]:
    try:
        lines = path.read_text("ascii").splitlines()
    except UnicodeDecodeError:
        lines = []
    if len(lines) < 2 or lines[0].strip() != _MAGIC:
        raise UserError(f"{path}: not a text ncnn model (its first line should be {_MAGIC})")
    layers = []
    try:
        expected = int(lines[1].split()[0])
        for line in lines[2:]:
            if not line.strip():
                continue
            kind, name, n_in, n_out, *rest = line.split()
            split = int(n_in) + int(n_out)
            pairs = [item.split("=", 1) for item in rest[split:]]
            # Lists have keys below zero; no layer of a compact network has any.
            settings = {int(key): float(value) for key, value in pairs if int(key) >= 0}
            layers.append(_Layer(kind, name, rest[: int(n_in)], rest[int(n_in) : split], settings))
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: line {len(layers) + 3} is no layer of an ncnn model: {error}") from error
    if len(layers) != expected:
        raise UserError(f"{path}: says {expected} layers, has {len(layers)}")
    return layers


def _check_graph(path: Path, layers: list[_Layer]) -> None:
    """Refuses any graph but conv [PReLU conv]* -> pixel shuffle, plus the input enlarged by nearest neighbour."""
    kinds = [layer.kind for layer in layers if layer.kind not in ("Input", "Split")]
    chain = [layer for layer in layers if layer.kind in _CHAIN]
    plain = ["Convolution", "PReLU"] * (len(chain) // 2) + ["Convolution"]
    if kinds != [*plain, "PixelShuffle", "Interp", "BinaryOp"]:
        tail = kinds[len(chain) :]
        if kinds[: len(chain)] == plain and tail == ["PixelShuffle", "Interp", "BinaryOp", "Interp"]:
            factor = layers[-1].settings.get(1)
            raise UserError(
                f"{path}: this model resizes its own output by {factor}; load its x4 version and resize afterwards"
            )
        raise UserError(
            f"{path}: not a compact network: expected convolutions and PReLUs in turn, then PixelShuffle, Interp, "
            f"BinaryOp; the layers are {', '.join(sorted(set(kinds)))}"
        )
    shuffle = next(layer for layer in layers if layer.kind == "PixelShuffle")
    interp = next(layer for layer in layers if layer.kind == "Interp")
    add = next(layer for layer in layers if layer.kind == "BinaryOp")
    links = zip(chain, [*chain[1:], shuffle], strict=True)
    if any(after.inputs != before.outputs for before, after in links):
        raise UserError(f"{path}: not a compact network: its convolutions do not form one chain")
    if add.number(0) != 0 or interp.number(0) != 1 or interp.number(1) != shuffle.number(0):
        raise UserError(f"{path}: not a compact network: the skip is not the input enlarged by nearest neighbour")


def _read_weights(layer: _Layer, reader: _Reader) -> None:
    if layer.kind == "PReLU":
        layer.arrays["weight"] = reader.plain(layer.number(0))
        return
    c_out, count = layer.number(0), layer.number(6)
    # kernel, dilation, stride, padding, whether there is a bias
    form = (layer.number(1), layer.number(2, 1), layer.number(3, 1), layer.number(4), layer.number(5))
    if form != (3, 1, 1, 1, 1) or c_out < 1 or count < 1 or count % (9 * c_out):
        raise UserError(f"{reader.path}: {layer.name} is no 3x3 convolution with padding 1 and bias")
    layer.arrays["weight"] = reader.tagged(count).reshape(c_out, -1, 3, 3)
    layer.arrays["bias"] = reader.plain(c_out)
