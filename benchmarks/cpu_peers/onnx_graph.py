"""A recorded network as an ONNX model, for the peers that read one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .recorder import Array, Blob, Node, Recorder

_OPSET = 16  # GridSample's first


def onnx_model(graph: Recorder) -> bytes:
    """The serialised model; inputs and outputs are float32 (1, C, H, W)."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(value: Array) -> str:
        name = f"weights{len(constants)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def emit(kind: str, inputs: list[str], output: str, **settings: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    def translate(node: Node) -> None:
        x, out, at = [blob.name for blob in node.inputs], node.output.name, node.settings
        if node.kind == "conv":
            pad = at["weight"].shape[-1] // 2
            weight = constant(at["weight"])
            if "scale" in at:
                zeros = constant(np.zeros(len(at["scale"]), np.int8))
                weight = emit("DequantizeLinear", [weight, constant(at["scale"]), zeros], out + "weight", axis=0)
            emit("Conv", [*x, weight, constant(at["bias"])], out, pads=[pad] * 4)
        elif node.kind == "rounded":
            grid = [constant(np.float32(1)), constant(at["zero_point"].reshape(()))]
            emit("DequantizeLinear", [emit("QuantizeLinear", [*x, *grid], out + "bytes"), *grid], out)
        elif node.kind == "leaky":
            emit("LeakyRelu", x, out, alpha=at["slope"]) if at["slope"] else emit("Relu", x, out)
        elif node.kind == "prelu":
            emit("PRelu", [*x, constant(at["slopes"][:, None, None])], out)
        elif node.kind == "add":
            emit("Add", x, out)
        elif node.kind == "affine":
            scale, shift = (at[key][:, None, None] for key in ("scale", "shift"))
            if shift.any():
                emit("Add", [emit("Mul", [*x, constant(scale)], out + "scaled"), constant(shift)], out)
            else:
                emit("Mul", [*x, constant(scale)], out)
        elif node.kind == "concat":
            emit("Concat", x, out, axis=1)
        elif node.kind == "shuffle":
            emit("DepthToSpace", x, out, blocksize=at["r"], mode="CRD")
        elif node.kind == "resize":
            scales = constant(np.array([1, 1, at["factor"], at["factor"]], np.float32))
            pixels = "asymmetric" if at["mode"] == "nearest" else "half_pixel"
            pixels = "align_corners" if at["align_corners"] else pixels
            settings = {"mode": at["mode"], "coordinate_transformation_mode": pixels, "nearest_mode": "floor"}
            emit("Resize", [*x, "", scales], out, **settings)
        elif node.kind == "halve":
            emit("AveragePool", x, out, kernel_shape=[2, 2], strides=[2, 2])
        elif node.kind == "constant":
            emit("Identity", [constant(at["value"][None])], out)
        elif node.kind == "gather":
            emit("Gather", [*x, constant(at["channels"])], out, axis=1)
        elif node.kind == "sample":
            grid = emit("Transpose", x[1:], out + "grid", perm=[0, 2, 3, 1])
            emit("GridSample", [x[0], grid], out, mode="bilinear", padding_mode=at["padding"], align_corners=1)
        else:
            raise AssertionError(node.kind)

    for node in graph.nodes:
        translate(node)

    def values(blobs: list[Blob]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(b.name, TensorProto.FLOAT, (1, *b.shape)) for b in blobs]

    made = helper.make_graph(nodes, "network", values(graph.inputs), values(graph.outputs), constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
