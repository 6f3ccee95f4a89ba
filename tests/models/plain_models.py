"""The networks written a second time, in plain PyTorch and straight loops, from their papers and public definitions.

They share nothing with the package: parameters come as a dict under BasicSR's key names, and every tensor is NCHW.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]


def _conv(p: Params, key: str, x: Tensor) -> Tensor:
    weight = p[f"{key}.weight"]
    return F.conv2d(x, weight, p[f"{key}.bias"], padding=weight.shape[-1] // 2)


def srvgg(p: Params, x: Tensor, scale: int, act_type: str = "prelu") -> Tensor:
    """SRVGGNetCompact of Real-ESRGAN."""
    last = max(int(key.split(".")[1]) for key in p)
    y = x
    for index in range(0, last, 2):
        y = _conv(p, f"body.{index}", y)
        if act_type == "prelu":
            slope = p[f"body.{index + 1}.weight"].view(1, -1, 1, 1)
            y = torch.where(y >= 0, y, slope * y)
        else:
            y = torch.where(y >= 0, y, (0.1 if act_type == "leakyrelu" else 0.0) * y)
    y = F.pixel_shuffle(_conv(p, f"body.{last}", y), scale)
    return y + x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def edsr(p: Params, x: Tensor, scale: int, res_scale: float = 1.0) -> Tensor:
    """EDSR of BasicSR with its defaults img_range 255 and the mean of DIV2K."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040], dtype=x.dtype).view(1, 3, 1, 1)
    first = y = _conv(p, "conv_first", (x - mean) * 255.0)
    block = 0
    while f"body.{block}.conv1.weight" in p:
        inner = _conv(p, f"body.{block}.conv2", F.relu(_conv(p, f"body.{block}.conv1", y)))
        y = y + res_scale * inner
        block += 1
    y = _conv(p, "conv_after_body", y) + first
    for layer in (0, 2):
        if f"upsample.{layer}.weight" in p:
            y = F.pixel_shuffle(_conv(p, f"upsample.{layer}", y), 3 if scale == 3 else 2)
    return _conv(p, "conv_last", y) / 255.0 + mean


def warp(x: Tensor, flow: Tensor, padding: str) -> Tensor:
    """x (N, C, H, W) sampled at its pixel grid plus flow (N, 2, H, W)."""
    _, _, h, w = x.shape
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid_x = 2 * (cols + flow[:, 0]) / max(w - 1, 1) - 1
    grid_y = 2 * (rows + flow[:, 1]) / max(h - 1, 1) - 1
    grid = torch.stack([grid_x, grid_y], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def spynet(p: Params, ref: Tensor, supp: Tensor) -> Tensor:
    """SPyNet as BasicSR and mmagic use it."""
    _, _, h, w = ref.shape
    h_up, w_up = (h + 31) // 32 * 32, (w + 31) // 32 * 32
    pair = []
    for image in (ref, supp):
        image = F.interpolate(image, size=(h_up, w_up), mode="bilinear", align_corners=False)
        levels = [(image - p["mean"]) / p["std"]]
        for _ in range(5):
            levels.insert(0, F.avg_pool2d(levels[0], 2, 2, count_include_pad=False))
        pair.append(levels)
    flow = None
    for level, (a, b) in enumerate(zip(*pair, strict=True)):
        if flow is None:
            flow = torch.zeros(a.shape[0], 2, *a.shape[2:], dtype=a.dtype)
        else:
            flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
        y = torch.cat([a, warp(b, flow, "border"), flow], 1)
        for layer in range(5):
            y = _conv(p, f"basic_module.{level}.basic_module.{2 * layer}", y)
            y = F.relu(y) if layer < 4 else y
        flow = flow + y
    assert flow is not None
    flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
    return torch.stack([flow[:, 0] * w / w_up, flow[:, 1] * h / h_up], 1)


def _trunk(p: Params, name: str, x: Tensor) -> Tensor:
    x = F.leaky_relu(_conv(p, f"{name}.main.0", x), 0.1)
    block = 0
    while f"{name}.main.2.{block}.conv1.weight" in p:
        y = F.relu(_conv(p, f"{name}.main.2.{block}.conv1", x))
        x = x + _conv(p, f"{name}.main.2.{block}.conv2", y)
        block += 1
    return x


def basicvsr(p: Params, frames: Tensor, scale: int = 4) -> Tensor:
    """BasicVSR; without ``backward_trunk`` in the parameters, its forward direction alone."""
    flow_net = {key.removeprefix("spynet."): value for key, value in p.items() if key.startswith("spynet.")}
    n, t, _, h, w = frames.shape
    width = p["forward_trunk.main.0.weight"].shape[0]
    behind: list[Tensor] = []
    if "backward_trunk.main.0.weight" in p:
        state = torch.zeros(n, width, h, w, dtype=frames.dtype)
        for i in range(t - 1, -1, -1):
            if i < t - 1:
                state = warp(state, spynet(flow_net, frames[:, i], frames[:, i + 1]), "zeros")
            state = _trunk(p, "backward_trunk", torch.cat([frames[:, i], state], 1))
            behind.insert(0, state)
    out = []
    state = torch.zeros(n, width, h, w, dtype=frames.dtype)
    for i in range(t):
        if i > 0:
            state = warp(state, spynet(flow_net, frames[:, i], frames[:, i - 1]), "zeros")
        state = _trunk(p, "forward_trunk", torch.cat([frames[:, i], state], 1))
        y = torch.cat([behind[i], state], 1) if behind else state
        y = F.leaky_relu(_conv(p, "fusion", y), 0.1)
        for name in ("upconv1", "upconv2"):
            if f"{name}.weight" in p:
                factor = 3 if scale == 3 else 2
                y = F.leaky_relu(F.pixel_shuffle(_conv(p, name, y), factor), 0.1)
        y = _conv(p, "conv_last", F.leaky_relu(_conv(p, "conv_hr", y), 0.1))
        out.append(y + F.interpolate(frames[:, i], scale_factor=scale, mode="bilinear", align_corners=False))
    return torch.stack(out, 1)
