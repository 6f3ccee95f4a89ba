"""CPU time of one training iteration of a small network (M4C16 x2) by the kind of its blocks.

Forward, loss, backward, Adam and the averaged weights, as ``vsr train`` has them. Times are those of the process, so
that other work on the machine counts little, and ratios are taken within a round.

python benchmarks/repsr_step.py [--batch N] [--crop N] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from harness import Result, Timing, distance, report

from vsr.training.repsr import RepSRTraining
from vsr.training.trainer import reconstruction_loss

#: What is compared: the block, and whether training is in its last phase, on the merged kernel. The first one is ours.
PEERS = {
    "repsr, after the switch": ("repsr", True),
    "repsr, before the switch": ("repsr", False),
    "plain": ("plain", False),
    "ecb": ("ecb", False),
    "repvgg": ("repvgg", False),
    "sesr": ("sesr", False),
}


def training(block: str, merged: bool, lr: torch.Tensor, hr: torch.Tensor) -> Callable[[], object]:
    """One iteration as a function.

    Raises:
        SystemExit: the network computes something else than its merged form.
    """
    torch.manual_seed(0)
    network = RepSRTraining(4, 16, 2, block).to(memory_format=torch.channels_last)
    with torch.no_grad():
        apart = distance(network.eval()(lr), network.merged()(lr))
    if not apart <= 1e-5:
        raise SystemExit(f"{block}: differs by {apart:.2e} from its merged form: no timing")
    network.train()
    if merged:
        network.use_population()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        reconstruction_loss(network(lr), hr, "charbonnier").backward()
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1e-3)

    return step


def measure(name: str, steps: dict[str, Callable[[], object]], rounds: int) -> Result:
    """Time all of them in turn, a few rounds long."""
    seconds: dict[str, list[float]] = {peer: [] for peer in steps}
    for number in range(rounds + 2):
        for peer, step in steps.items():
            begin = time.process_time()
            step()
            if number >= 2:
                seconds[peer].append(time.process_time() - begin)
    ours = next(iter(seconds.values()))
    result = Result(name)
    for peer, times in seconds.items():
        ratios = [a / b for a, b in zip(times, ours, strict=True)]
        result.timings[peer] = Timing(
            statistics.median(times), min(times), max(times), statistics.median(ratios), min(ratios), max(ratios)
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lr = torch.rand(args.batch, 3, args.crop, args.crop).contiguous(memory_format=torch.channels_last)
    hr = torch.rand(args.batch, 3, 2 * args.crop, 2 * args.crop).contiguous(memory_format=torch.channels_last)
    steps = {peer: training(block, merged, lr, hr) for peer, (block, merged) in PEERS.items()}
    name = f"M4C16 x2, {args.batch} x {args.crop}x{args.crop}, CPU time per iteration"
    report([measure(name, steps, args.rounds)], args.json)


if __name__ == "__main__":
    main()
