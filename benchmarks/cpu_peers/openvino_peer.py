"""OpenVINO with its CPU plugin, tuned for latency; bfloat16 by its precision hint.

Under that hint it still runs flow_warp and pixel_shuffle alone in float32, as their errors show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov

from .cases import Array, Case
from .onnx_graph import onnx_model
from .protocol import INT8, Prepared, Setting, UnsupportedError
from .recorder import Recorder

_HINTS = {"float32": "f32", "bfloat16": "bf16", INT8: "bf16"}  # of int8 networks: what is left of them
_REORDERS = ("Reorder", "Convert")


def prepare(case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting) -> Prepared:
    """See :class:`cpu_peers.protocol.Prepare`."""
    if setting.fast:
        raise UnsupportedError("has no such setting")
    graph = Recorder(case.network, params, [x.shape for x in inputs])
    core = ov.Core()
    model = core.read_model(onnx_model(graph))
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[setting.precision],
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # all peers are pinned from outside, alike
    }
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") and setting.precision == "bfloat16":
        raise UnsupportedError("has no bfloat16 on this CPU")
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = [np.array(x[None]) for x in inputs]

    def reorders() -> float:
        """By its profile of one run after another."""
        profiled = core.compile_model(model, "CPU", settings | {"PERF_COUNT": True}).create_infer_request()
        profiled.infer(feed, share_inputs=True)
        profiled.infer(feed, share_inputs=True)
        spent = [(node.node_type, node.real_time.total_seconds()) for node in profiled.profiling_info]
        return sum(time for kind, time in spent if kind in _REORDERS) / sum(time for _, time in spent)

    def call() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    return Prepared(
        call,
        lambda found: [np.array(found[i][0]) for i in range(len(graph.outputs))],
        reorders_inside=None if case.whole else reorders,
    )
