"""Re-parameterised blocks and the network made of them, against plain modules written out here."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.models import BasicVSR, load_model, save_model
from vsr.training.blocks import BLOCKS, ECB, RepVGGBlock, SESRBlock
from vsr.training.repsr import RepBasicVSR, RepResidualBlock, RepSRTraining, batch_norms, recomputed_statistics
from vsr_kernels.nn import RepConv3x3

SIZES = [(1, 1), (2, 3), (9, 8)]


def settle(module: nn.Module) -> nn.Module:
    """Random values everywhere, batch norms included, in float64."""
    torch.manual_seed(0)
    module.double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    for norm in batch_norms(module):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)
    return module


def image(channels: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    return torch.randn(2, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ecb_by_hand(block: ECB, x: Tensor) -> Tensor:
    """Each 1x1 runs on the image; what surrounds its output is its bias, as the published code pads."""

    def bordered(conv: nn.Conv2d) -> Tensor:
        assert conv.bias is not None
        y = F.pad(F.conv2d(x, conv.weight), (1, 1, 1, 1))
        return y + conv.bias[:, None, None]

    y = F.conv2d(x, block.conv3.weight, block.conv3.bias, padding=1)
    y = y + F.conv2d(bordered(block.expand), block.squeeze.weight, block.squeeze.bias)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=x.dtype)
    laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=x.dtype)
    for edge, kernel in zip(block.edges, (sobel, sobel.T, laplacian), strict=True):
        weight = edge.scale[:, None, None, None] * kernel
        y = y + F.conv2d(bordered(edge.conv1), weight, edge.bias, groups=x.shape[1])
    return y


def repvgg_by_hand(block: RepVGGBlock, x: Tensor) -> Tensor:
    three, one, identity = block.norms
    return three(F.conv2d(x, block.conv3.weight, padding=1)) + one(F.conv2d(x, block.conv1.weight)) + identity(x)


def sesr_by_hand(block: SESRBlock, x: Tensor) -> Tensor:
    wide = F.conv2d(x, block.expand.weight, padding=1)
    return F.conv2d(wide, block.squeeze.weight, block.squeeze.bias) + x


BY_HAND = {"ecb": ecb_by_hand, "repvgg": repvgg_by_hand, "sesr": sesr_by_hand}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BLOCKS)
def test_branches_and_merge(name: str, size: tuple[int, int]) -> None:
    block = settle(BLOCKS[name](6))
    x = image(6, size)
    if name in BY_HAND:
        if size != (1, 1) or name != "repvgg":  # PyTorch's batch norm wants more than one value, and has two here
            torch.testing.assert_close(copy.deepcopy(block).train()(x), BY_HAND[name](copy.deepcopy(block).train(), x))
        torch.testing.assert_close(block.eval()(x), BY_HAND[name](block.eval(), x))
    block.eval()
    weight, bias = block.merged_parameters()
    torch.testing.assert_close(block(x), F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_every_parameter(name: str) -> None:
    """In both modes; in eval mode they are those of the branches with population statistics."""
    block = settle(BLOCKS[name](4))
    x = image(4, (5, 6))
    for mode in (True, False):
        block.train(mode).zero_grad()
        block(x).square().sum().backward()
        # A batch norm takes away what is constant, the biases in front of it among it.
        no_effect = {"branches.0.conv3.bias", "branches.1.conv3.bias"} if mode else set()
        no_effect |= {f"edges.{i}.conv1.bias" for i in range(3)}  # edge filters add up to zero
        for key, parameter in block.named_parameters():
            assert parameter.grad is not None, key
            assert key in no_effect or bool(parameter.grad.abs().max() > 1e-9), key


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_merged_network(tmp_path: Path, name: str, scale: int) -> None:
    net = settle(RepSRTraining(3, 5, scale, name)).eval()
    for size in SIZES:
        x = image(3, size)
        torch.testing.assert_close(net.merged()(x), net(x))
    merged = net.float().merged()
    save_model(merged, tmp_path / "net.safetensors")
    x = image(3, (7, 9)).float()
    assert torch.equal(load_model(tmp_path / "net.safetensors")(x), merged(x))


def test_population_phase_trains_the_merged_kernel() -> None:
    net = settle(RepSRTraining(2, 4, 2))
    x = image(3, (6, 6))
    batch = net.train()(x)
    net.use_population()
    assert net.training
    population = net(x)
    torch.testing.assert_close(population, net.eval()(x))
    assert not torch.allclose(batch, population)
    buffers = [b.clone() for b in net.buffers()]
    net.train()(x).square().sum().backward()
    for before, now in zip(buffers, net.buffers(), strict=True):
        assert torch.equal(before, now)
    assert all(p.grad is not None for p in net.parameters())
    again = RepSRTraining(2, 4, 2).double()
    again.load_state_dict(net.state_dict())
    assert not any(block.training for block in again.train().branched())  # the phase is part of a checkpoint
    net.use_population(freeze_affine=True)
    assert {p.requires_grad for norm in batch_norms(net) for p in norm.parameters()} == {False}


def rep_by_hand(conv: RepConv3x3, x: Tensor) -> Tensor:
    y = x if conv.identity else torch.zeros_like(x)
    for branch in conv.branches:
        y = y + branch.conv1(branch.bn(F.conv2d(x, branch.conv3.weight, branch.conv3.bias, padding=1)))
    return y


@pytest.mark.parametrize("size", SIZES)
def test_residual_block_of_branches(size: tuple[int, int]) -> None:
    block = settle(RepResidualBlock(5))
    assert isinstance(block, RepResidualBlock)
    x = image(5, size)
    for mode in (True, False):
        peer = copy.deepcopy(block.train(mode))
        expected = x + rep_by_hand(peer.conv2, F.relu(rep_by_hand(peer.conv1, x)))
        torch.testing.assert_close(block(x), expected)
    block.zero_grad()
    block(x).square().sum().backward()
    peer.zero_grad()
    expected.square().sum().backward()
    for (key, ours), theirs in zip(block.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_a_chain_of_residual_blocks_starts_close_to_the_identity() -> None:
    chain = nn.Sequential(*(RepResidualBlock(16) for _ in range(30)))
    x = torch.rand(2, 16, 12, 12)
    assert 0.5 < float(chain(x).detach().std() / x.std()) < 3


@pytest.mark.parametrize("bidirectional", [True, False])
def test_merged_basicvsr(tmp_path: Path, bidirectional: bool) -> None:
    """Float64, in both phases of training, and as a file that any BasicVSR is read from."""
    net = RepBasicVSR(4, 2, scale=2, bidirectional=bidirectional, num_hr_feat=4)
    settle(net.forward_trunk)
    settle(net)
    clip = image(3, (5, 7)).view(1, 2, 3, 5, 7).sigmoid()
    batch = net.train()(clip)
    merged = net.merged()
    assert type(merged) is BasicVSR
    expected = merged(clip)
    torch.testing.assert_close(net.eval()(clip), expected)
    assert not torch.allclose(batch, expected)
    net.use_population()
    found = net.train()(clip)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    still = {name for name, p in net.named_parameters() if p.grad is None}
    assert not still
    merged.zero_grad()
    merged(clip).square().sum().backward()
    torch.testing.assert_close(net.conv_hr.weight.grad, merged.conv_hr.weight.grad)
    save_model(merged.float(), tmp_path / "net.safetensors")
    assert torch.equal(load_model(tmp_path / "net.safetensors")(clip.float()), merged(clip.float()))


@pytest.mark.parametrize("name", BLOCKS)
def test_autocast_rounds_the_merged_kernel_once(name: str) -> None:
    """Under autocast the last phase computes what the merged network will: no products are rounded before they are
    added, and the skip connection stays float32."""
    net = settle(RepSRTraining(3, 5, 2, name)).float()
    assert isinstance(net, RepSRTraining)
    net.use_population()
    merged, x = net.merged(), torch.rand(1, 3, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = net.train()(x), merged(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_recomputed_statistics_are_plain_averages() -> None:
    net = settle(RepSRTraining(1, 4, 2)).train()
    images = [image(3, (6, 6), seed) for seed in range(5)]
    seen: list[Tensor] = []
    first = next(iter(batch_norms(net)))
    handle = first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad(), recomputed_statistics(net):
        for x in images:
            net(x)
    handle.remove()
    assert first.running_mean is not None
    assert first.running_var is not None
    torch.testing.assert_close(first.running_mean, torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0))
    variances = torch.stack([s.transpose(0, 1).flatten(1).var(1) for s in seen])
    torch.testing.assert_close(first.running_var, variances.mean(0))
    assert first.momentum == 0.1


PROGRAM = """
import sys
import torch
import torch.distributed as dist
from vsr.training.repsr import RepSRTraining, synchronise_batch_norms
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = RepSRTraining(2, 4, 2).double()
synchronise_batch_norms(net)
x = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))[rank::2]
wrapped = torch.nn.parallel.DistributedDataParallel(net)
wrapped(x).square().mean().backward()
if rank == 0:
    torch.save({"grads": [p.grad for p in net.parameters()], "buffers": list(net.buffers())}, sys.argv[1])
dist.destroy_process_group()
"""


def test_statistics_of_two_processes(tmp_path: Path) -> None:
    """Gradients and running statistics of two processes with half a batch each are those of one with the whole."""
    program, result = tmp_path / "program.py", tmp_path / "result.pt"
    program.write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(program), str(result)], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(result, weights_only=True)
    torch.manual_seed(0)
    net = RepSRTraining(2, 4, 2).double()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    net(x).square().mean().backward()
    for ours, expected in zip(found["grads"], net.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.grad, rtol=1e-5, atol=1e-7)
    for ours, expected in zip(found["buffers"], net.buffers(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
