"""Networks of RepSR's blocks while they train: batch statistics first, population statistics later, one merge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.models import BasicVSR, SRVGGNet
from vsr.models.base import Upscaler, add_skip, check_frames, enlarged, fuses
from vsr.models.basicvsr import BasicVSRState
from vsr.training.blocks import BLOCKS, MergingBlock
from vsr_kernels import conv3x3, residual_block
from vsr_kernels.nn import Conv3x3, RepConv3x3

Block = MergingBlock | RepConv3x3


class Reparameterised(Upscaler):
    """A network with blocks of branches; :meth:`merged` is what it becomes.

    At first batch norms use the statistics of the batch. Their inconsistency with the population statistics of a merged
    network shows as artefacts in smooth regions, so training ends with :meth:`use_population`: the branches then count
    with population statistics, and what runs, forward and backward, is the merged kernel.

    Source: Wang, Dong, Shan, "RepSR", ACM MM 2022. The order of operations in a block, the expansion and the time of
    the switch are not public; they are this package's own.

    Attributes:
        population: A buffer, so that it survives in a checkpoint: whether :meth:`use_population` was called.
    """

    population: Tensor

    @abstractmethod
    def branched(self) -> Iterator[nn.Module]:
        """The blocks that have branches in train mode, and run their merged kernels in eval mode."""

    @abstractmethod
    def merged(self) -> Upscaler:
        """The plain network that computes the same, with population statistics; in eval mode."""

    def train(self, mode: bool = True) -> Reparameterised:
        """As usual; blocks that count with population statistics stay in eval mode, in which the merged kernel runs."""
        super().train(mode)
        if self.population:
            for block in self.branched():
                block.eval()
        return self

    def use_population(self, *, freeze_affine: bool = False) -> None:
        """Count with population statistics from now on.

        Args:
            freeze_affine: Whether the batch norms' scales and shifts stand still, too.
        """
        self.population.fill_(True)
        for norm in batch_norms(self):
            norm.requires_grad_(not freeze_affine)
        self.train(self.training)


class RepSRTraining(Reparameterised):
    """A compact network whose inner convolutions are re-parameterised blocks.

    Args:
        num_block, num_feat: Blocks and their channels: M4C16 is 4 and 16.
        scale: 1 to 4.
        block: One of :data:`vsr.training.blocks.BLOCKS`.
    """

    def __init__(self, num_block: int, num_feat: int, scale: int, block: str = "repsr") -> None:
        super().__init__()
        self.num_block, self.num_feat, self.scale, self.block = num_block, num_feat, scale, block
        self.recurrent = False
        self.receptive_field = num_block + 2
        self.head = Conv3x3(3, num_feat)
        make = cast("Callable[[int], nn.Module]", BLOCKS[block])
        self.blocks = nn.ModuleList(make(num_feat) for _ in range(num_block))
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((num_feat,), 0.25)) for _ in range(num_block + 1))
        self.tail = Conv3x3(num_feat, 3 * scale * scale)
        self.register_buffer("population", torch.zeros((), dtype=torch.bool))

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments that rebuild this network."""
        return {
            "num_block": self.num_block,
            "num_feat": self.num_feat,
            "scale": self.scale,
            "block": self.block,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), RGB in [0, 1] -> (N, 3, ``scale`` * H, ``scale`` * W), not clamped.

        Raises:
            TypeError, ValueError: ``x`` is no such tensor.
        """
        check_frames(type(self).__name__, x, 4)
        y = conv3x3(x, self.head.weight, self.head.bias, activation="prelu", slope=self.slopes[0])
        for block, slope in zip(self.blocks, list(self.slopes)[1:], strict=True):
            if block.training:
                y = F.prelu(block(y), slope.to(y.dtype))
            else:
                weight, bias = cast(Block, block).merged_parameters()
                y = conv3x3(y, weight, bias, activation="prelu", slope=slope)
        skip = enlarged(x, self.scale)
        if fuses(skip, self.tail.weight):
            return conv3x3(y, self.tail.weight, self.tail.bias, residual=skip, pixel_shuffle=self.scale)
        return add_skip(conv3x3(y, self.tail.weight, self.tail.bias, pixel_shuffle=self.scale), skip)

    def branched(self) -> Iterator[nn.Module]:
        """All blocks between head and tail."""
        return iter(self.blocks)

    @torch.no_grad()
    def merged(self) -> SRVGGNet:
        """The network with one convolution for each block."""
        plain = SRVGGNet(self.num_feat, self.num_block, self.scale).to(self.head.weight)
        kernels = [cast(Block, block).merged_parameters() for block in self.blocks]
        kernels = [(self.head.weight, cast(Tensor, self.head.bias)), *kernels]
        kernels.append((self.tail.weight, cast(Tensor, self.tail.bias)))
        state = {}
        for i, (weight, bias) in enumerate(kernels):
            state[f"body.{2 * i}.weight"], state[f"body.{2 * i}.bias"] = weight, bias
        state |= {f"body.{2 * i + 1}.weight": slope for i, slope in enumerate(self.slopes)}
        plain.load_state_dict(state)
        return plain.eval()


class RepResidualBlock(nn.Module):
    """A residual block whose convolutions are RepSR blocks: ``x + conv2(relu(conv1(x)))``.

    It starts close to the identity, without which a long chain hardly trains: the second convolution has no identity of
    its own, with which every block would double its input.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = RepConv3x3(channels, channels)
        self.conv2 = RepConv3x3(channels, channels, identity=False)
        self._merged: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.training:
            return x + cast(Tensor, self.conv2(F.relu(self.conv1(x))))
        return residual_block(x, *(self._merged or self._merge()))

    @contextmanager
    def merged_once(self) -> Iterator[None]:
        """Inside, the kernels are merged only once, however many frames go through; no weight may change."""
        self._merged = None if self.training else self._merge()
        try:
            yield
        finally:
            self._merged = None

    def _merge(self) -> tuple[Tensor, ...]:
        return *self.conv1.merged_parameters(), *self.conv2.merged_parameters()


class RepBasicVSR(Reparameterised, BasicVSR):
    """A BasicVSR with RepSR blocks in its trunks.

    In train mode batch norms see one time step at a time, as the trunks do.

    Args:
        num_feat, num_block, scale, bidirectional, num_hr_feat: See :class:`vsr.models.BasicVSR`.
    """

    def __init__(
        self, num_feat: int, num_block: int, *, scale: int, bidirectional: bool = True, num_hr_feat: int = 64
    ) -> None:
        super().__init__(num_feat, num_block, scale=scale, bidirectional=bidirectional, num_hr_feat=num_hr_feat)
        for trunk in [self.backward_trunk, self.forward_trunk] if bidirectional else [self.forward_trunk]:
            trunk.main[2] = nn.Sequential(*(RepResidualBlock(num_feat) for _ in range(num_block)))
        self.register_buffer("population", torch.zeros((), dtype=torch.bool))

    def branched(self) -> Iterator[RepResidualBlock]:
        """The blocks of both trunks."""
        return (module for module in self.modules() if isinstance(module, RepResidualBlock))

    def step(
        self, frames: Tensor, state: BasicVSRState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, BasicVSRState]:
        """See :meth:`vsr.models.BasicVSR.step`."""
        with ExitStack() as stack:
            for block in self.branched():
                stack.enter_context(block.merged_once())
            return super().step(frames, state, keep=keep)

    @torch.no_grad()
    def merged(self) -> BasicVSR:
        """The network with plain residual blocks."""
        plain = BasicVSR(
            self.num_feat,
            self.num_block,
            scale=self.scale,
            bidirectional=self.bidirectional,
            num_hr_feat=self.num_hr_feat,
        ).to(self.conv_last.weight)
        state = self.state_dict()
        for name, module in self.named_modules():
            if isinstance(module, RepConv3x3):
                state[f"{name}.weight"], state[f"{name}.bias"] = module.merged_parameters()
        plain.load_state_dict({key: state[key] for key in plain.state_dict()})
        return plain.to(memory_format=torch.channels_last).eval()


def batch_norms(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    """All batch norms of a network."""
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


@contextmanager
def recomputed_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, forward passes in train mode collect the population statistics anew, each batch counting the same.

    The running averages of training lag behind the weights; these do not.
    """
    norms = list(batch_norms(model))
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on CPUs, too (torch's own needs GPUs).

    Every process must bring the same number of pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        moments = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
        moments = _Average.apply(moments)
        mean, variance = moments[0], (moments[1] - moments[0].square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class _Average(torch.autograd.Function):
    """The mean of a tensor over all processes, differentiable."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        # Each process's loss is its own; the mean over processes that gradients are brought to divides once more.
        total = grad.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def synchronise_batch_norms(model: nn.Module) -> None:
    """Turn every batch norm into a :class:`SyncedBatchNorm2d`, in place, parameters and statistics kept."""
    for norm in list(batch_norms(model)):
        norm.__class__ = SyncedBatchNorm2d
