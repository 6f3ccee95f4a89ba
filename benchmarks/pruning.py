"""A pruned BasicVSR: does its time fall with its multiplications?

    python benchmarks/pruning.py [--size 90x160] [--frames N] [--rounds N] [--ratio R] [--scope global|layer]
                                 [--align N] [--network FILE] [--cpu-time] [--json FILE]

The public weights are pruned without training (or a pruned file is taken), which changes pictures but no times.
Compared are the forward trunk and whole clips: pruned, and at full width with zeros where units were, which computes
the same at the dense network's cost. Beside them the same trunks in plain PyTorch: F.conv2d, and index_select and
index_add for the pruned one, channels_last. --cpu-time takes the process's CPU time on one thread, for machines that
others work on.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from harness import Case, Result, measure, report
from rich.console import Console
from torch import Tensor

from vsr.models import BasicVSR, PrunedBasicVSR, load_model
from vsr.models.pruned import PrunedBlock, RemovedBlock
from vsr.pruning.cost import GigaMacs, counts_of
from vsr.pruning.recipe import prune
from vsr.pruning.selection import SelectionConfig
from vsr_kernels import plan


def plain_trunk(model: BasicVSR, x: Tensor) -> Tensor:
    """The forward trunk on PyTorch's own operators."""
    head, _, blocks = model.forward_trunk.main
    x = F.leaky_relu(F.conv2d(x, head.weight, head.bias, padding=1), 0.1)
    for block in blocks:
        if isinstance(block, RemovedBlock):
            continue
        y = x.index_select(1, block.in_kept) if isinstance(block, PrunedBlock) else x
        y = F.relu(F.conv2d(y, block.conv1.weight, block.conv1.bias, padding=1))
        y = F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=1)
        x = x.index_add(1, block.out_kept, y) if isinstance(block, PrunedBlock) else x + y
    return x


def trunk_macs(model: PrunedBasicVSR) -> float:
    """Share of the forward trunk's multiplications that is left."""
    cost = GigaMacs(model.units)
    shares = []
    for kept in (model.kept, model.units.everything):
        counts = counts_of(kept)
        parts = []
        for conv in model.units.convs:
            if conv.path.startswith("forward_trunk."):
                inputs = conv.width_in if conv.inputs is None else counts[conv.inputs]
                outputs = conv.width_out if conv.outputs is None else counts[conv.outputs]
                parts.append(cost.of_conv(conv, inputs, outputs))
        shares.append(sum(parts))
    return shares[0] / shares[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="90x160", help="HEIGHTxWIDTH of the LR frames")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--scope", default="global", choices=("global", "layer"))
    parser.add_argument("--align", type=int, default=16)
    parser.add_argument("--network", help="a pruned file instead")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    clock = time.perf_counter
    if args.cpu_time:
        torch.set_num_threads(1)
        clock = time.process_time
    height, width = (int(side) for side in args.size.split("x"))
    if args.network is None:
        selection = SelectionConfig(ratio=args.ratio, scope=args.scope, align=args.align)
        pruned = prune(load_model("basicvsr-vimeo-bi"), selection)
    else:
        pruned = load_model(args.network)
    if not isinstance(pruned, PrunedBasicVSR):
        raise SystemExit(f"{args.network}: not a pruned BasicVSR")
    pruned = pruned.requires_grad_(False).to(memory_format=torch.channels_last)
    full = pruned.to_dense().requires_grad_(False).to(memory_format=torch.channels_last)
    assert isinstance(full, BasicVSR)

    torch.manual_seed(0)
    x = torch.rand(1, pruned.num_feat + 3, height, width).to(memory_format=torch.channels_last)
    trunks = {"pruned": plan(pruned.forward_trunk.forward), "full width": plan(full.forward_trunk.forward)}
    peers = {
        "pruned": lambda: trunks["pruned"](x),
        "full width": lambda: trunks["full width"](x),
        "PyTorch index ops, pruned": lambda: plain_trunk(pruned, x),
        "PyTorch, full width": lambda: plain_trunk(full, x),
    }
    name = f"trunk, {height}x{width}"
    results = [measure(Case(name, peers, tolerance=1e-4, rounds=args.rounds, warmup=2, clock=clock))]

    clip = torch.rand(1, args.frames, 3, height, width)
    for network in (pruned, full):
        for path in network.planned:
            owner, _, method = path.rpartition(".")
            part = network.get_submodule(owner)
            setattr(part, method, plan(getattr(part, method)))
    whole = {"pruned": lambda: pruned(clip), "full width": lambda: full(clip)}
    name = f"{args.frames} frames {height}x{width}, per frame"
    case = Case(name, whole, tolerance=1e-4, rounds=args.rounds, warmup=2, repeats=args.frames, clock=clock)
    results.append(measure(case))

    report(results, args.json)
    console = Console(width=130)
    share, trunk = trunk_macs(pruned), results[0].timings
    for ours, theirs in (("pruned", "full width"), ("PyTorch index ops, pruned", "PyTorch, full width")):
        left = trunk[ours].median / trunk[theirs].median
        console.print(f"{ours}: {left:.3f} of the time for {share:.3f} of the multiplications: {left / share:.2f}")
    frame = rates(results[1])
    console.print(f"frames per second: {frame['full width']:.2f} before, {frame['pruned']:.2f} after")


def rates(result: Result) -> dict[str, float]:
    return {name: 1 / timing.median for name, timing in result.timings.items()}


if __name__ == "__main__":
    main()
