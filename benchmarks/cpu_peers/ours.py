"""This package: its models and modules, planned as ``vsr upscale`` runs them, or as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vsr.inference.device import cpu_has_bfloat16
from vsr.models import BasicVSR, QuantizedSRVGGNet, SRVGGNet, Upscaler
from vsr.models.basicvsr import ResidualTrunk
from vsr_kernels import Plan, flow_warp, pixel_shuffle, plan
from vsr_kernels.nn import ResidualBlock, SparseResidualBlock

from .cases import Array, Case
from .protocol import INT8, Prepared, Setting, UnsupportedError
from .torch_peer import arrays, conversions, own_layout, plain_layout, tensors


def _compact(state: dict[str, Tensor], channels: int) -> nn.Module:
    last = max(int(key.split(".")[1]) for key in state)
    return SRVGGNet(state["body.0.weight"].shape[0], last // 2 - 1, math.isqrt(state[f"body.{last}.bias"].numel() // 3))


def _compact_int8(state: dict[str, Tensor], channels: int) -> nn.Module:
    last = max(int(key.split(".")[1]) for key in state)
    scale = math.isqrt(state[f"body.{last}.bias"].numel() // 3)
    for key in [key for key in state if key.startswith("slope")]:
        state[key.replace("slope", "body").replace("weight", "slope")] = state.pop(key)
    return QuantizedSRVGGNet(state["body.0.weight"].shape[0], last - 1, scale)


def _basicvsr(state: dict[str, Tensor], channels: int) -> nn.Module:
    width = state["fusion.weight"].shape[0]
    blocks = sum(key.startswith("forward_trunk.main.2.") and key.endswith("conv1.weight") for key in state)
    return BasicVSR(width, blocks, num_hr_feat=state["conv_hr.weight"].shape[0])


def _chain(state: dict[str, Tensor], channels: int) -> nn.Module:
    blocks = sum(key.endswith("conv1.weight") for key in state)
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))


def _trunk(state: dict[str, Tensor], channels: int) -> nn.Module:
    width = state["main.0.weight"].shape[0]
    return ResidualTrunk(channels, width, sum(key.endswith("conv1.weight") for key in state))


def _pruned(state: dict[str, Tensor], channels: int) -> nn.Module:
    made = []
    for index in range(sum(key.endswith("conv1.weight") for key in state)):
        kept_in, kept_out = state[f"{index}.in_kept"], state[f"{index}.out_kept"]
        hidden = state[f"{index}.conv1.weight"].shape[0]
        made.append(SparseResidualBlock(channels, in_kept=kept_in, out_kept=kept_out, hidden=hidden))
    return nn.Sequential(*made)


_MODELS = {
    "compact": _compact,
    "compact_int8": _compact_int8,
    "basicvsr": _basicvsr,
    "chain": _chain,
    "trunk": _trunk,
    "pruned": _pruned,
}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "flow_warp": flow_warp,
    "pixel_shuffle": lambda x: pixel_shuffle(x, 2),
}


def _model(case: Case, params: Mapping[str, Array], channels: int, dtype: torch.dtype) -> nn.Module:
    state = {key: torch.from_numpy(np.array(value)) for key, value in params.items()}
    model = _MODELS[case.ours](state, channels)
    model.load_state_dict(state, strict=True)
    return model.to(dtype).to(memory_format=torch.channels_last).eval()


def _planned(function: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], list[Plan]]:
    """With plans where the upscaler would have them; those plans."""
    if not isinstance(function, Upscaler):
        made = plan(function)
        return made, [made]
    plans = []
    for path in function.planned:
        owner, _, name = path.rpartition(".")
        part = function.get_submodule(owner)
        plans.append(plan(getattr(part, name)))
        setattr(part, name, plans[-1])
    return function, plans


def prepare(
    case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting, *, planned: bool = True
) -> Prepared:
    """See :class:`cpu_peers.protocol.Prepare`."""
    torch.set_num_threads(setting.threads)
    floating = "bfloat16" if cpu_has_bfloat16() else "float32"
    dtype = getattr(torch, floating if setting.precision == INT8 else setting.precision)
    model = _FUNCTIONS.get(case.ours) or _model(case, params, inputs[0].shape[0], dtype)
    plans: list[Plan] = []
    if planned:
        model, plans = _planned(model)
    given = tensors(inputs)
    if case.ours == "basicvsr":
        given = [torch.stack(given, 1)]  # (1, T, 3, H, W)
    elif not case.whole:
        given = own_layout(given, dtype)

    def run() -> list[Tensor]:
        y = model(*given)
        outputs = list(y.unbind(1)) if case.ours == "basicvsr" else [y]
        return plain_layout(outputs) if case.whole else outputs

    @torch.inference_mode()
    def call() -> Any:
        torch.backends.mkldnn.conv.fp32_precision = "tf32" if setting.fast else "none"  # type: ignore[attr-defined]
        return run()

    for _ in range(3):  # plans record the second call with the same shapes, and replay the third
        call()
    for each in plans:
        if each.obstacle is not None:
            raise UnsupportedError(f"is not replayed: {each.obstacle}")
    if case.whole:
        return Prepared(call, arrays)
    return Prepared(call, arrays, reorders_apart=lambda: conversions(inputs, arrays(call()), dtype)())
