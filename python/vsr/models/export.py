"""Writes networks for other programs: ONNX, ncnn, and the files that BasicSR's and Real-ESRGAN's tools read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsr.errors import UserError
from vsr.files import whole_file
from vsr.models.base import Upscaler
from vsr.models.basicvsr import BasicVSR
from vsr.models.edsr import EDSR, published_res_scale
from vsr.models.ncnn import write_ncnn
from vsr.models.pruned import Pruned
from vsr.models.srvgg import SRVGGNet

_OPSET, _IR_VERSION = 17, 8  # what runtimes of the last years read


def export_model(model: Upscaler, path: Path) -> None:
    """Write a network in the format that the file's ending stands for; BasicVSR and EDSR as ``.pth`` only.

    ``.onnx``: input ``frames`` (N, 3, H, W) float32 in [0, 1], output ``enlarged`` (N, 3, s H, s W), any N, H and W.
    ``.param``, with ``.bin`` beside it: ncnn, blobs ``data`` and ``output``, as Real-ESRGAN's ncnn ports expect them.
    ``.pth``: BasicSR's and Real-ESRGAN's own layout (``params``), which spandrel and others read; those know no pruned
    networks, which are written at full width, with zeros.

    Args:
        model: A :class:`vsr.models.SRVGGNet`, such as a merged RepSR, a :class:`vsr.models.BasicVSR` or a
            :class:`vsr.models.EDSR`; pruned or not.
        path: The target; it appears whole or not at all.

    Raises:
        UserError: Another network or ending, a missing package, or a file that cannot be written.
    """
    if path.suffix not in (".onnx", ".param", ".pth"):
        raise UserError(f"{path}: expected a name that ends in .onnx, .param (ncnn) or .pth (BasicSR, Real-ESRGAN)")
    if path.suffix == ".pth" and isinstance(model, (SRVGGNet, BasicVSR, EDSR)):
        dense = model.to_dense() if isinstance(model, Pruned) else model
        if isinstance(dense, EDSR):
            dense = dense.rescaled(published_res_scale(dense.num_feat))
        content = io.BytesIO()  # torch would turn a full disk into another error
        torch.save({"params": {key: value.float().cpu() for key, value in dense.state_dict().items()}}, content)
        _write(path, content.getvalue())
        return
    if not isinstance(model, SRVGGNet):
        raise UserError(f"{path}: only plain networks (SRVGG, RepSR) can be exported, not {type(model).__name__}")
    if path.suffix == ".onnx":
        _write(path, _onnx_bytes(model))
    else:
        convolutions, slopes = layers_of(model)
        pairs = [(weight.numpy(), bias.numpy()) for weight, bias in convolutions]
        write_ncnn(path, pairs, [slope.numpy() for slope in slopes], model.scale)


def layers_of(model: SRVGGNet) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Weights and biases of the convolutions, and the slope per channel of the activation behind each but the last.

    All activations that the network can have are PReLUs: with slopes of zero, or of one constant.
    """
    state = {key: value.float().cpu() for key, value in model.state_dict().items()}
    count = model.num_conv + 2
    convolutions = [(state[f"body.{2 * i}.weight"], state[f"body.{2 * i}.bias"]) for i in range(count)]
    constant = {"prelu": 0.0, "relu": 0.0, "leakyrelu": 0.1}[model.act_type]
    constants = [torch.full_like(bias, constant) for _, bias in convolutions[:-1]]
    slopes = [state.get(f"body.{2 * i + 1}.weight", slope) for i, slope in enumerate(constants)]
    return convolutions, slopes


def _onnx_bytes(model: SRVGGNet) -> bytes:
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError("an ONNX file needs the package onnx: pip install onnx") from error
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Tensor | np.ndarray[Any, Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    convolutions, slopes = layers_of(model)
    blob = "frames"
    for i, (weight, bias) in enumerate(convolutions):
        inputs = [blob, constant(f"weight{i}", weight.numpy()), constant(f"bias{i}", bias.numpy())]
        nodes.append(helper.make_node("Conv", inputs, [f"conv{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        blob = f"conv{i}"
        if i < len(slopes):
            slope = constant(f"slope{i}", slopes[i].numpy()[:, None, None])
            nodes.append(helper.make_node("PRelu", [blob, slope], [f"act{i}"]))
            blob = f"act{i}"
    r = model.scale
    nodes.append(helper.make_node("DepthToSpace", [blob], ["shuffled"], blocksize=r, mode="CRD"))
    scales = constant("scales", np.array([1, 1, r, r], np.float32))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes.append(helper.make_node("Resize", ["frames", "", scales], ["repeated"], **nearest))
    nodes.append(helper.make_node("Add", ["shuffled", "repeated"], ["enlarged"]))
    graph = helper.make_graph(
        nodes,
        type(model).__name__,
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, ["N", 3, "sH", "sW"])],
        constants,
    )
    opset = helper.make_opsetid("", _OPSET)
    made = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="vsr_kernels")
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
