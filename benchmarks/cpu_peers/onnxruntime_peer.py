"""ONNX Runtime with its CPU provider, which has no bfloat16 or float16 convolution on x86."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from .cases import Array, Case
from .onnx_graph import onnx_model
from .protocol import INT8, Prepared, Setting, UnsupportedError
from .recorder import Recorder

_REORDERS = ("ReorderInput", "ReorderOutput")


def prepare(case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting) -> Prepared:
    """See :class:`cpu_peers.protocol.Prepare`."""
    if setting.precision not in ("float32", INT8) or setting.fast:
        raise UnsupportedError("has float32 and int8 convolutions only")
    graph = Recorder(case.network, params, [x.shape for x in inputs])
    model = onnx_model(graph)
    feed = {blob.name: x[None] for blob, x in zip(graph.inputs, inputs, strict=True)}
    session = InferenceSession(model, _options(setting.threads), providers=["CPUExecutionProvider"])

    def reorders() -> float:
        """By its profile of three runs."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options(setting.threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            profiled = InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for _ in range(3):
                profiled.run(None, feed)
            events = json.loads(Path(profiled.end_profiling()).read_text())
        spent = [(e["args"]["op_name"], e["dur"]) for e in events if e["cat"] == "Node" and "op_name" in e["args"]]
        return sum(time for kind, time in spent if kind in _REORDERS) / sum(time for _, time in spent)

    return Prepared(
        lambda: session.run(None, feed),
        lambda found: [y[0] for y in found],
        reorders_inside=None if case.whole else reorders,
    )


def _options(threads: int) -> SessionOptions:
    onnxruntime.set_default_logger_severity(3)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    return options
