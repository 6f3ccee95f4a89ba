"""ncnn: its layers from a recorded network; bfloat16 as its storage type."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from .cases import Array, Case
from .protocol import INT8, Prepared, Setting, UnsupportedError
from .recorder import Blob, Node, Recorder

_MAGIC = "7767517"
_RAW = b"\0\0\0\0"  # the tag of float32 weights
_PADDING = {"zeros": 1, "border": 2}


def prepare(case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting) -> Prepared:
    """See :class:`cpu_peers.protocol.Prepare`."""
    if setting.precision == INT8:
        raise UnsupportedError("reads int8 of its own tools only")
    if setting.fast:
        raise UnsupportedError("has no such setting")
    graph = Recorder(case.network, params, [x.shape for x in inputs])
    net = ncnn.Net()
    net.opt.num_threads = setting.threads
    half = setting.precision == "bfloat16"
    net.opt.use_bf16_storage = half
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    text, data = _serialise(graph)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        weights.write_bytes(data)
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise UnsupportedError("cannot load the network")
    plain = [np.array(x) for x in inputs]
    given = [ncnn.Mat(x).clone() for x in plain]  # a Mat does not keep its array alive

    def call() -> tuple[Any, list[Any]]:
        extractor = net.create_extractor()
        for blob, x in zip(graph.inputs, given, strict=True):
            extractor.input(blob.name, x)
        found = [extractor.extract(f"{blob.name}_out") for blob in graph.outputs]
        if any(status for status, _ in found):
            raise UnsupportedError("cannot run the network")
        return extractor, [y for _, y in found]  # the extractor owns their memory

    def reorders() -> float:
        """Conversions of such inputs and outputs, done apart, over a whole call."""
        start = time.perf_counter()
        _, outputs = call()
        whole = time.perf_counter() - start
        packed = [_packed(y, half, net.opt) for y in outputs]
        start = time.perf_counter()
        for x in given:
            _packed(x, half, net.opt)
        for y in packed:
            _unpacked(y, half, net.opt)
        return (time.perf_counter() - start) / whole

    return Prepared(
        call,
        lambda found: [np.array(y) for y in found[1]],
        reorders_inside=None if case.whole or case.memory else reorders,
    )


def _packed(x: Any, half: bool, option: Any) -> Any:
    """As layers take it: channels interleaved by as many as fit a vector, bfloat16 where that is the storage type."""
    if half:
        narrow = ncnn.Mat()
        ncnn.cast_float32_to_bfloat16(x, narrow, option)
        x = narrow
    made = ncnn.Mat()
    ncnn.convert_packing(x, made, next(pack for pack in (16, 8, 4, 1) if x.c % pack == 0), option)
    return made


def _unpacked(x: Any, half: bool, option: Any) -> Any:
    """Back to float32 planes."""
    made = ncnn.Mat()
    ncnn.convert_packing(x, made, 1, option)
    if not half:
        return made
    wide = ncnn.Mat()
    ncnn.cast_bfloat16_to_float32(made, wide, option)
    return wide


def _serialise(graph: Recorder) -> tuple[str, bytes]:
    """The .param and .bin files. A blob is read once in ncnn, so that blobs with several readers are split."""
    readers = Counter(blob.name for node in graph.nodes for blob in node.inputs)
    readers.update(blob.name for blob in graph.outputs)
    read: Counter[str] = Counter()
    lines: list[str] = []
    blobs = 0
    data = bytearray()

    def layer(kind: str, name: str, inputs: list[str], outputs: list[str], settings: str = "") -> None:
        nonlocal blobs
        blobs += len(outputs)
        names = " ".join([*inputs, *outputs])
        lines.append(f"{kind} {name} {len(inputs)} {len(outputs)} {names} {settings}".strip())

    def written(blob: Blob) -> None:
        if readers[blob.name] > 1:
            parts = [f"{blob.name}_{i}" for i in range(readers[blob.name])]
            layer("Split", f"split_{blob.name}", [blob.name], parts)

    def reading(blob: Blob) -> str:
        read[blob.name] += 1
        return blob.name if readers[blob.name] == 1 else f"{blob.name}_{read[blob.name] - 1}"

    for blob in graph.inputs:
        layer("Input", blob.name, [], [blob.name])
        written(blob)
    for node in graph.nodes:
        kind, settings, weights = _layer(node)
        layer(kind, f"layer_{node.output.name}", [reading(blob) for blob in node.inputs], [node.output.name], settings)
        data += weights
        written(node.output)
    for blob in graph.outputs:
        layer("Noop", f"layer_{blob.name}_out", [reading(blob)], [f"{blob.name}_out"])
    return "\n".join([_MAGIC, f"{len(lines)} {blobs}", *lines, ""]), bytes(data)


def _layer(node: Node) -> tuple[str, str, bytes]:
    """Type, settings and weights of a layer."""
    at = node.settings
    if node.kind == "conv":
        weight, bias = at["weight"], at["bias"]
        c_out, _, k, _ = weight.shape
        settings = f"0={c_out} 1={k} 4={k // 2} 5=1 6={weight.size}"
        return "Convolution", settings, _RAW + _bytes(weight) + _bytes(bias)
    if node.kind == "leaky":
        return "ReLU", f"0={at['slope']:e}", b""
    if node.kind == "prelu":
        return "PReLU", f"0={at['slopes'].size}", _bytes(at["slopes"])
    if node.kind == "add":
        return "BinaryOp", "0=0", b""
    if node.kind == "affine":
        return "Scale", f"0={at['scale'].size} 1=1", _bytes(at["scale"]) + _bytes(at["shift"])
    if node.kind == "concat":
        return "Concat", "0=0", b""
    if node.kind == "shuffle":
        return "PixelShuffle", f"0={at['r']}", b""
    if node.kind == "resize":
        kind, factor, align = 1 if at["mode"] == "nearest" else 2, at["factor"], int(at["align_corners"])
        return "Interp", f"0={kind} 1={factor:e} 2={factor:e} 6={align}", b""
    if node.kind == "halve":
        return "Pooling", "0=1 1=2 2=2", b""
    if node.kind == "constant":
        c, h, w = at["value"].shape
        return "MemoryData", f"0={w} 1={h} 2={c}", _bytes(at["value"])
    if node.kind == "sample":
        return "GridSample", f"0=1 1={_PADDING[at['padding']]} 2=1 3=1", b""
    raise UnsupportedError("has no layer that gathers channels by their numbers")


def _bytes(value: Array) -> bytes:
    return np.ascontiguousarray(value, np.float32).tobytes()
