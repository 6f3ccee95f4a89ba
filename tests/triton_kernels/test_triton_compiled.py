"""Every kernel compiled ahead of time for NVIDIA's and AMD's GPUs: matrix instructions, shared memory, no spills.

Compiled as the operators launch them at the sizes of video frames; the default run takes each kernel's first tile, and
those without matrix products for two targets, ``-m slow`` every tile for every target.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ptxvm import DEVICES  # noqa: E402
from ptxvm.toolkit import triton_tools  # noqa: E402
from ptxvm.triton_calls import Call, Launcher  # noqa: E402
from triton_kernels.launching import launching, registered  # noqa: E402

BF16 = torch.bfloat16
OPS = torch.ops.vsr_triton
H, W = 180, 320
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100", "sm_120"), ("gfx942", "gfx1100")
MATRIX = {
    "sm_80": r"mma\.sync",
    "sm_90": r"wgmma\.mma_async",
    "sm_100": r"tcgen05\.mma",
    "sm_120": r"mma\.sync",
    "gfx942": r"v_mfma",
    "gfx1100": r"v_wmma",
}
LDS = 64 << 10  # bytes of a workgroup on both of AMD's


def image(channels: int, factor: int = 1) -> Tensor:
    x = torch.empty(1, channels, H * factor, W * factor, dtype=BF16)
    return x.contiguous(memory_format=torch.channels_last)


def weight(c_out: int, c_in: int) -> tuple[Tensor, Tensor]:
    return torch.empty(c_out, c_in, 3, 3, dtype=BF16), torch.empty(c_out, dtype=BF16)


def dense() -> object:
    x, (w, b) = image(64), weight(64, 64)
    return OPS.conv3x3(x, w, b, b, 0.0, x, "prelu", 1.0, 1, False, True, None)


def shuffled() -> object:
    return OPS.conv3x3(image(64), *weight(256, 64), None, 0.1, None, "leaky_relu", 1.0, 2, True, True, None)


def colours() -> object:
    return OPS.conv3x3(image(3), *weight(64, 3), None, 0.0, None, "relu", 1.0, 1, False, True, None)


def pruned() -> object:
    gather, scatter = torch.arange(37), torch.arange(29)
    return OPS.sparse_conv3x3(
        image(64), *weight(29, 37), None, 0.0, gather, scatter, image(64), "none", False, True, None
    )


def weight_gradient() -> object:
    return OPS.conv3x3_backward(image(64), image(64), weight(64, 64)[0], None, False, True, True, True)


def epilogue_gradient() -> object:
    x = image(64, 2)
    return OPS.conv3x3_epilogue_backward(x, x, weight(256, 1)[1], "prelu", 0.0, 1.0, 2)


def warp() -> object:
    return OPS.flow_warp(image(64), torch.empty(1, 2, H, W), "bilinear", "border")


def warp_gradients() -> object:
    return OPS.flow_warp_backward(image(64), image(64), torch.empty(1, 2, H, W), "bilinear", "zeros", True, True)


def shuffle() -> object:
    return OPS.pixel_shuffle(image(64), 2)


#: Name of the kernel, what launches it, and whether it multiplies matrices.
CASES: dict[str, tuple[str, Callable[[], object], bool]] = {
    "dense": ("conv3x3_kernel", dense, True),
    "shuffled": ("conv3x3_kernel", shuffled, True),
    "colours": ("conv3x3_kernel", colours, True),
    "pruned": ("conv3x3_kernel", pruned, True),
    "weight_gradient": ("weight_gradient_kernel", weight_gradient, True),
    "pack": ("pack_kernel", dense, False),
    "epilogue_gradient": ("epilogue_gradient_kernel", epilogue_gradient, False),
    "warp": ("flow_warp_kernel", warp, False),
    "flow_gradient": ("flow_gradient_kernel", warp_gradients, False),
    "largest": ("largest_kernel", warp_gradients, False),
    "scatter": ("scatter_kernel", warp_gradients, False),
    "round": ("round_kernel", warp_gradients, False),
    "shuffle": ("shuffle_kernel", shuffle, False),
}
SLOW = {"shuffled", "colours"}


@functools.cache
def launched(case: str, tile: int) -> Call:
    """The launch of a case with a tile, counted from the first again where the autotuner has fewer."""
    name, run, _ = CASES[case]
    launcher = Launcher(tile=tile, run=lambda call: None)
    with launching(launcher):
        run()
    (found,) = (call for call in launcher.calls if call.fn.__name__ == name)
    return found


def compile_for(call: Call, target: str) -> object:
    """As Triton would for a GPU of that kind; AMD's with the stages that they get."""
    from vsr_kernels.triton.tiles import AMD_STAGES

    amd = target.startswith("gfx")
    signature = {**call.signature, **dict.fromkeys(call.constexprs, "constexpr")}
    attributes = {(call.fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in call.divisible}
    source = ASTSource(fn=call.fn, signature=signature, constexprs=dict(call.constexprs), attrs=attributes)
    gpu = (
        GPUTarget("hip", target, 64 if target.startswith("gfx9") else 32)
        if amd
        else GPUTarget("cuda", int(target[3:]), 32)
    )
    stages = min(AMD_STAGES, call.num_stages) if amd else call.num_stages
    return triton.compile(source, target=gpu, options={"num_warps": call.num_warps, "num_stages": stages})


def spilled(compiled: object, target: str, folder: Path) -> int:
    """Bytes or registers that the compiler moved to memory."""
    assembly = compiled.asm  # type: ignore[attr-defined]
    if target.startswith("gfx"):
        (count,) = re.findall(r"\.vgpr_spill_count: *(\d+)", assembly["amdgcn"])  # scalar ones go to vector registers
        return int(count)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(assembly["cubin"])
    tools = triton_tools()
    assert tools is not None
    done = subprocess.run([tools / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", done.stdout))
    assert int(found["REG"]) > 0
    return int(found["STACK"]) + int(found["LOCAL"])


def parameters() -> list[object]:
    made = []
    for case, (_, _, products) in CASES.items():
        for target in (*NVIDIA, *AMD):
            for tile in range(4):
                quick = tile == 0 and case not in SLOW and (products or target in ("sm_80", "gfx1100"))
                made.append(pytest.param(case, target, tile, marks=[] if quick else [pytest.mark.slow]))
    return made


@pytest.mark.parametrize(("case", "target", "tile"), parameters())
def test_compiled(case: str, target: str, tile: int, tmp_path: Path) -> None:
    why_not = registered()
    if why_not is not None:
        pytest.skip(why_not)
    if target.startswith("gfx") and CASES[case][0] == "conv3x3_kernel" and tile == 3:
        pytest.skip("AMD's autotuner does not have this tile")
    call = launched(case, tile)
    if any(launched(case, i).key == call.key for i in range(tile)):
        pytest.skip("the autotuner of this kernel has fewer tiles")
    compiled = compile_for(call, target)
    assembly = compiled.asm["amdgcn" if target in AMD else "ptx"]  # type: ignore[attr-defined]
    assert (re.search(MATRIX[target], assembly) is not None) == CASES[case][2]
    limit = LDS if target in AMD else DEVICES[int(target[3:])].shared_optin
    assert compiled.metadata.shared <= limit  # type: ignore[attr-defined]
    assert spilled(compiled, target, tmp_path) == 0


def test_tracing_sees_the_kernels() -> None:
    """What torch.compile makes of an operator holds its launches, for tensors on a GPU that need not be there."""
    why_not = registered()
    if why_not is not None:
        pytest.skip(why_not)
    from vsr_kernels.triton import conv, shuffle, warp

    def run(x: Tensor, w: Tensor, flow: Tensor) -> tuple[object, ...]:
        y, _ = conv._convolve(x, conv._pack(w), 16, conv._Epilogue(), exact=True)
        by_weight, _ = conv._weight_gradient(y, x, w, None, True, True)
        by_x = warp._gradient_by_x(y, x, flow, False, False)
        return by_weight, by_x, shuffle._shuffled(y, (1, 4, 16, 16), 2, False)

    with FakeTensorMode():
        x, w = (torch.empty(size, dtype=BF16, device="cuda") for size in ((1, 16, 8, 8), (16, 16, 3, 3)))
        graph = make_fx(run)(x, w, torch.empty(1, 2, 8, 8, device="cuda")).graph
    launches = [node for node in graph.nodes if "triton_kernel_wrapper" in str(node.target)]
    assert len(launches) == 7
