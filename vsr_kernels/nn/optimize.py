"""optimize(model): swap eligible modules of an existing model for the fused ones, and say what was done."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from .conv import Conv3x3, Conv7x7, PixelShuffleConv, ResidualBlock


@dataclass
class OptimizeReport:
    """What :func:`optimize` did.

    Attributes:
        replaced: module path -> what now stands there.
        kept: module path -> why a convolution or activation was left as it is.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.kept)} kept"]
        lines += [f"  + {path}: {what}" for path, what in self.replaced.items()]
        lines += [f"  - {path}: {why}" for path, why in self.kept.items()]
        return "\n".join(lines)


def optimize(
    model: nn.Module, *, dtype: torch.dtype | None = None, channels_last: bool = True
) -> tuple[nn.Module, OptimizeReport]:
    """Return a copy of a model with its eligible modules replaced by fused ones, and a report.

    Replaced are 3x3 convolutions (stride, padding, dilation and groups 1), inside an ``nn.Sequential`` together with
    the ReLU, LeakyReLU, PReLU or PixelShuffle that follows directly, 7x7 convolutions (padding 3) with a ReLU, and
    residual blocks of BasicSR's form (``conv1``, ``conv2``, ``relu``, ``res_scale``). Outputs are the same to rounding.
    State_dict keys stay, except that a fused PReLU's ``weight`` becomes the convolution's ``slope``.

    Args:
        model: any module; it is not modified.
        dtype: cast the copy's floating parameters to this dtype.
        channels_last: put the copy's 4-d parameters in channels_last memory.

    Returns:
        The new model and an :class:`OptimizeReport`.
    """
    made = copy.deepcopy(model)
    report = OptimizeReport()
    made = _visit(made, "", report)
    if dtype is not None:
        made = made.to(dtype=dtype)
    if channels_last:
        made = made.to(memory_format=torch.channels_last)
    return made, report


def _visit(module: nn.Module, path: str, report: OptimizeReport) -> nn.Module:
    """Replace ``module`` if it is eligible, else what it contains."""
    if isinstance(module, (Conv3x3, Conv7x7, PixelShuffleConv, ResidualBlock)):
        return module
    try:
        block = ResidualBlock.from_module(module) if _is_plain_block(module) else None
    except ValueError as error:
        block = None
        report.kept[path] = str(error)
    if block is not None:
        report.replaced[path] = "ResidualBlock"
        return block
    if isinstance(module, nn.Conv2d):
        return _replace_conv(module, path, report)
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        _fuse_sequence(module, path, report)
        return module
    for name, child in module.named_children():
        setattr(module, name, _visit(child, _join(path, name), report))
    return module


def _is_plain_block(module: nn.Module) -> bool:
    """Whether a module is ResidualBlockNoBN in all but name: these children, and nothing hooked or added."""
    names = dict(module.named_children())
    return (
        type(module).__name__ == "ResidualBlockNoBN"
        and set(names) == {"conv1", "conv2", "relu"}
        and isinstance(getattr(module, "res_scale", None), (int, float))
        and not any(_is_hooked(part) for part in module.modules())
    )


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward, which a replacement would not do."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)


def _replace_conv(conv: nn.Conv2d, path: str, report: OptimizeReport) -> nn.Module:
    if type(conv) is not nn.Conv2d:
        report.kept[path] = f"expected nn.Conv2d itself, got the subclass {type(conv).__name__}"
        return conv
    if _is_hooked(conv):
        report.kept[path] = "expected a module without hooks, got one with hooks"
        return conv
    try:
        made = _kind_for(conv).from_module(conv)
    except ValueError as error:
        report.kept[path] = str(error).removeprefix("Conv3x3: ").removeprefix("Conv7x7: ")
        return conv
    report.replaced[path] = type(made).__name__
    return made


def _kind_for(conv: nn.Conv2d) -> type[Conv3x3] | type[Conv7x7]:
    """The module that could replace a convolution, if anything can."""
    return Conv7x7 if conv.kernel_size == (7, 7) else Conv3x3


def _fuse_sequence(sequence: nn.Sequential, path: str, report: OptimizeReport) -> None:
    """Fuse convolutions with what follows them; followers become Identity, so that indices keep their place."""
    names = list(sequence._modules)
    skip = False
    for i, name in enumerate(names):
        child = sequence._modules[name]
        if child is None or skip:
            skip = False
            continue
        here = _join(path, name)
        follower = sequence._modules[names[i + 1]] if i + 1 < len(names) else None
        if type(child) is nn.Conv2d and follower is not None:
            fused = _fuse_pair(child, follower)
            if fused is not None:
                sequence._modules[name] = fused
                report.replaced[here] = f"{type(fused).__name__} with {type(follower).__name__}"
                sequence._modules[names[i + 1]] = nn.Identity()
                skip = True
                continue
        sequence._modules[name] = _visit(child, here, report)


def _fuse_pair(conv: nn.Conv2d, follower: nn.Module) -> nn.Module | None:
    if _is_hooked(conv) or _is_hooked(follower):
        return None
    try:
        if type(follower) is nn.PixelShuffle:
            return PixelShuffleConv.from_module(conv, follower)
        if type(follower) in (nn.ReLU, nn.LeakyReLU, nn.PReLU):
            return _kind_for(conv).from_module(conv, follower)
    except ValueError:
        pass  # the convolution is reported on its own
    return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
