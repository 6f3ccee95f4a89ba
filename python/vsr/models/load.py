"""Builds the network that a checkpoint was made for, from its tensors alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vsr.errors import UserError
from vsr.models import pruned, quantized, weights
from vsr.models.base import Upscaler
from vsr.models.basicvsr import BasicVSR
from vsr.models.checkpoint import read_checkpoint, write_safetensors
from vsr.models.edsr import EDSR, published_res_scale
from vsr.models.pruned import Pruned, build_pruned, is_pruned
from vsr.models.quantized import QuantizedSRVGGNet, build_quantized, is_quantized
from vsr.models.spynet import SPyNet
from vsr.models.srvgg import ACTIVATIONS, SRVGGNet

_SHOWN = 4  # keys that an error names before it only counts


def load_model(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Upscaler:
    """Loads a network with its weights, whatever public layout the file has.

    Architecture, width, depth, scale and direction are found from the tensors; pruned and quantized networks say in
    their metadata what they were. No tensor tells EDSR's ``res_scale``: without metadata it is the published one, 0.1
    at 256 channels and else 1. See :func:`vsr.models.checkpoint.read_checkpoint` for the layouts.

    Args:
        path_or_name: A checkpoint file, or a name of :data:`vsr.models.weights.NAMES`, which is fetched if needed.
        device: Where the network goes.
        dtype: Of its parameters.

    Returns:
        The network in eval mode.

    Raises:
        UserError: No such file or name; a file that is damaged, no checkpoint, or fits no network known here.
    """
    path = _path_of(path_or_name)
    tensors, metadata = read_checkpoint(path)
    model = _build(path, tensors, metadata)
    _check_fit(path, model, tensors)
    model.load_state_dict(tensors, strict=True, assign=True)
    model.to(device=device, dtype=dtype)
    return model.to(memory_format=torch.channels_last).eval()  # as the operators read kernels


def load_spynet(path_or_name: str | os.PathLike[str]) -> SPyNet:
    """Loads SPyNet from its own checkpoint or out of a BasicVSR one, as a start for training.

    Args:
        path_or_name: As for :func:`load_model`.

    Returns:
        The flow network, float32, in eval mode.

    Raises:
        UserError: As for :func:`load_model`, or the checkpoint holds no SPyNet.
    """
    path = _path_of(path_or_name)
    tensors, _ = read_checkpoint(path)
    inside = {key.removeprefix("spynet."): value for key, value in tensors.items() if key.startswith("spynet.")}
    model = SPyNet()
    _check_fit(path, model, inside or tensors)
    model.load_state_dict(inside or tensors, strict=True)
    return model.eval()


def save_model(model: Upscaler, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Saves a network as ``.safetensors``, from which :func:`load_model` builds it again.

    Args:
        model: The network.
        path: The file, whose name ends in ``.safetensors``; it appears whole or not at all.
        half: Store parameters as float16, in half the size; they are float32 again when loaded, rounded.

    Raises:
        UserError: Another ending, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: expected a name that ends in .safetensors")
    metadata = {"architecture": type(model).__name__} | {key: str(value) for key, value in model.config.items()}
    if isinstance(model, Pruned):
        metadata[pruned.FORMAT_KEY] = pruned.FORMAT
    if isinstance(model, QuantizedSRVGGNet):
        metadata[quantized.FORMAT_KEY] = quantized.FORMAT
    tensors = model.state_dict()
    if half:  # buffers are few, and may be indices or integers of a quantized network
        tensors |= {name: parameter.detach().half() for name, parameter in model.named_parameters()}
    write_safetensors(target, tensors, metadata)


def _path_of(path_or_name: str | os.PathLike[str]) -> Path:
    name = os.fspath(path_or_name)
    path = Path(name).expanduser()
    if name in weights.NAMES and not path.exists():
        return weights.fetch(name)
    if not path.exists() and path.name == name and not path.suffix:
        raise UserError(f"{name}: neither a file nor a name of weights; there are {', '.join(weights.NAMES)}")
    return path


def _build(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Upscaler:
    """The network that the names and shapes of ``tensors`` ask for, without memory for its parameters yet."""
    try:
        with torch.device("meta"):
            if is_quantized(tensors, metadata):
                return build_quantized(path, tensors, metadata)
            if is_pruned(tensors, metadata):
                return build_pruned(path, tensors, metadata)
            if "forward_trunk.main.0.weight" in tensors:
                return _build_basicvsr(tensors)
            if "conv_after_body.weight" in tensors:
                return _build_edsr(tensors, metadata)
            if "body.0.weight" in tensors:
                return _build_srvgg(path, tensors, metadata)
    except (KeyError, IndexError, ValueError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: looks like a known network, but {missing}") from error
    raise UserError(
        f"{path}: fits no network known here: missing body.0.weight (SRVGG, RepSR), conv_after_body.weight (EDSR) "
        f"and forward_trunk.main.0.weight (BasicVSR); unexpected: {_some(list(tensors))}"
    )


def _build_basicvsr(tensors: Mapping[str, Tensor]) -> BasicVSR:
    num_feat = tensors["forward_trunk.main.0.weight"].shape[0]
    num_hr_feat = tensors["conv_hr.weight"].shape[0]
    scale = 1
    if "upconv2.weight" in tensors:
        scale = 4
    elif "upconv1.weight" in tensors:
        scale = math.isqrt(tensors["upconv1.weight"].shape[0] // num_hr_feat)
    return BasicVSR(
        num_feat,
        _count(tensors, "forward_trunk.main.2."),
        scale=scale,
        bidirectional="backward_trunk.main.0.weight" in tensors,
        num_hr_feat=num_hr_feat,
    )


def _build_edsr(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> EDSR:
    num_feat = tensors["conv_first.weight"].shape[0]
    scale = 1
    if "upsample.2.weight" in tensors:
        scale = 4
    elif "upsample.0.weight" in tensors:
        scale = math.isqrt(tensors["upsample.0.weight"].shape[0] // num_feat)
    res_scale = float(metadata.get("res_scale", published_res_scale(num_feat)))
    return EDSR(num_feat, _count(tensors, "body."), scale, res_scale)


def _build_srvgg(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> SRVGGNet:
    last = _count(tensors, "body.", step=2) * 2 - 2
    act_type = metadata.get("act_type")
    if "body.1.weight" in tensors:
        act_type = "prelu"
    elif act_type not in ACTIVATIONS:
        raise UserError(
            f"{path}: has no PReLU slopes (body.1.weight), and relu and leakyrelu cannot be told apart by the tensors; "
            "a .safetensors file can say which in its metadata, as act_type"
        )
    channels = tensors[f"body.{last}.weight"].shape[0]
    return SRVGGNet(tensors["body.0.weight"].shape[0], last // 2 - 1, math.isqrt(channels // 3), act_type)


def _count(tensors: Mapping[str, Tensor], prefix: str, step: int = 1) -> int:
    """How many modules are numbered 0, ``step``, 2 * ``step``, ... after ``prefix``, without a gap."""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    count = 0
    while str(count * step) in numbers:
        count += 1
    return count


def _check_fit(path: Path, model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not exactly those of ``model``, by name and shape."""
    wanted = model.state_dict()
    faults = []
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    for fault, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if keys:
            faults.append(f"{fault}: {_some(keys)}")
    if faults:
        raise UserError(f"{path}: does not fit {type(model).__name__}: {'; '.join(faults)}")


def _some(keys: Sequence[str]) -> str:
    """The first few keys and how many there are."""
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more ({len(keys)} in all)" if rest > 0 else "")
