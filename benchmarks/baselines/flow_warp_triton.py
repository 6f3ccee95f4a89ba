"""Backward warping as one would write it in Triton: a program takes a run of pixels and all their channels."""

# ruff: noqa: N803  (sizes of tensors)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def flow_warp(
    x,  # (N, H, W, C)
    flow,  # (N, 2, H, W) float32: dx, dy in pixels
    out,  # (N, H, W, C)
    N,
    H,
    W,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, C)
    in_batch = pixel < N * H * W
    image, row, column = pixel // (H * W), pixel // W % H, pixel % W
    at_flow = flow + image * 2 * H * W + row * W + column
    px = column + tl.load(at_flow, mask=in_batch, other=0.0)
    py = row + tl.load(at_flow + H * W, mask=in_batch, other=0.0)
    left, top = tl.floor(px), tl.floor(py)
    fx, fy = px - left, py - top
    sums = tl.zeros((BLOCK, C), tl.float32)
    for corner in tl.static_range(4):
        cx, cy = left + corner % 2, top + corner // 2
        wx = fx if corner % 2 else 1 - fx
        wy = fy if corner // 2 else 1 - fy
        inside = in_batch & (cx >= 0) & (cx < W) & (cy >= 0) & (cy < H)
        source = image * H * W + cy.to(tl.int32) * W + cx.to(tl.int32)
        value = tl.load(x + source[:, None] * C + channel[None, :], mask=inside[:, None], other=0.0)
        sums += value.to(tl.float32) * (wx * wy)[:, None]
    at = pixel[:, None] * C + channel[None, :]
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=in_batch[:, None])


@triton.jit
def flow_warp_backward(
    grad,  # (N, H, W, C)
    x,  # (N, H, W, C)
    flow,  # (N, 2, H, W) float32
    grad_x,  # (N, H, W, C) float32, zeros
    grad_flow,  # (N, 2, H, W) float32
    N,
    H,
    W,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, C)
    in_batch = pixel < N * H * W
    image, row, column = pixel // (H * W), pixel // W % H, pixel % W
    at_flow = image * 2 * H * W + row * W + column
    px = column + tl.load(flow + at_flow, mask=in_batch, other=0.0)
    py = row + tl.load(flow + at_flow + H * W, mask=in_batch, other=0.0)
    left, top = tl.floor(px), tl.floor(py)
    fx, fy = px - left, py - top
    at = pixel[:, None] * C + channel[None, :]
    g = tl.load(grad + at, mask=in_batch[:, None], other=0.0).to(tl.float32)
    dx = tl.zeros((BLOCK,), tl.float32)
    dy = tl.zeros((BLOCK,), tl.float32)
    for corner in tl.static_range(4):
        cx, cy = left + corner % 2, top + corner // 2
        wx = fx if corner % 2 else 1 - fx
        wy = fy if corner // 2 else 1 - fy
        inside = in_batch & (cx >= 0) & (cx < W) & (cy >= 0) & (cy < H)
        source = image * H * W + cy.to(tl.int32) * W + cx.to(tl.int32)
        places = source[:, None] * C + channel[None, :]
        value = tl.load(x + places, mask=inside[:, None], other=0.0).to(tl.float32)
        tl.atomic_add(grad_x + places, g * (wx * wy)[:, None], mask=inside[:, None], sem="relaxed")
        slope = tl.sum(value * g, 1)
        dx += slope * wy * (1 if corner % 2 else -1)
        dy += slope * wx * (1 if corner // 2 else -1)
    tl.store(grad_flow + at_flow, dx, mask=in_batch)
    tl.store(grad_flow + at_flow + H * W, dy, mask=in_batch)


@triton.jit
def narrow(
    source,  # (count,) float32
    out,  # (count,)
    count,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source + at, mask=at < count, other=0.0)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=at < count)
