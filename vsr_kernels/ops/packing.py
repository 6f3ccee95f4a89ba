"""Packed weights that are kept between calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .precision import exact_float32

_CHAIN = -1  # the slot of a whole chain; its layers have those from 0


class _Held(NamedTuple):
    """A packing and what it was made of."""

    packed: Tensor
    parameters: tuple[Tensor | None, ...]  # held, so that no other tensor takes their identity
    state: tuple[Hashable, ...]
    stream: int


class PackedWeights:
    """Weights of a convolution or residual block in the order in which the kernels read them.

    Without one, an operator packs its weights in every call, on CUDA by a small launch of its own. Give the same
    instance to every call with the same parameters: they are packed in the first call, and again when one of them was
    replaced, moved, cast or changed in place, as its identity, address and version counter tell. Changes that bypass
    the counter (through ``parameter.data`` or memory shared with another library) have to be followed by
    :meth:`clear`; the modules of :mod:`vsr_kernels.nn` do that in ``train()``, ``eval()`` and whenever they are moved
    or cast.

    Only parameters are kept; other tensors, like a merged kernel, are packed in every call. So are weights in traced
    code (``torch.compile``, ``torch.export``), which holds no state. A CUDA graph captures the packing that was made
    before it; changing weights then asks for a new capture. Copies and pickles of an instance are empty.
    """

    def __init__(self) -> None:
        self._slots: dict[int, _Held] = {}
        self._captured: list[Tensor] = []  # read by CUDA graphs, which own no memory

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()

    def clear(self) -> None:
        """Forget everything, so that the next call packs anew."""
        self._slots.clear()

    def get(
        self,
        ops: Any,
        slot: int,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slope: Tensor | None = None,
        number: float = 0.0,
        activation: str = "none",
        r: int = 1,
    ) -> Tensor | None:
        """The argument ``packed`` of an operator, or None where it has to pack by itself.

        Args:
            ops: whose operator, ``torch.ops.vsr_kernels`` or ``torch.ops.vsr_triton``.
            slot: which of the operator's convolutions.
            x: its input, which says where and in which dtype it runs.
            weight, bias, slope, number, activation, r: as the operator takes them.
        """
        exact = exact_float32(x)

        def pack(dtype: torch.dtype) -> Tensor:
            cast = [None if t is None else t.to(dtype) for t in (weight, bias, slope)]
            return ops.conv3x3_pack(*cast, number, activation, r, exact, False)

        return self._get(slot, x, (weight, bias, slope), (ops.name, exact, number, activation, r), pack)

    def get_7x7(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The argument ``packed`` of ``conv7x7``, likewise."""
        exact = exact_float32(x)

        def pack(dtype: torch.dtype) -> Tensor:
            cast = [None if t is None else t.to(dtype) for t in (weight, bias)]
            return torch.ops.vsr_kernels.conv7x7_pack(*cast, exact)

        return self._get(0, x, (weight, bias), (exact,), pack)

    def get_chain(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        slopes: Sequence[Tensor],
        number: float,
        activation: str,
        r: int,
    ) -> Tensor | None:
        """The argument ``packed`` of ``conv_chain``, likewise; arguments as that operator takes them."""
        exact = exact_float32(x)

        def pack(dtype: torch.dtype) -> Tensor:
            cast = [[t.to(dtype) for t in group] for group in (weights, biases, slopes)]
            return torch.ops.vsr_kernels.conv_chain_pack(*cast, number, activation, r, exact)

        settings = (exact, number, activation, r, len(weights), len(biases))
        return self._get(_CHAIN, x, (*weights, *biases, *slopes), settings, pack)

    def _get(
        self,
        slot: int,
        x: Tensor,
        parameters: tuple[Tensor | None, ...],
        settings: tuple[Hashable, ...],
        pack: Callable[[torch.dtype], Tensor],
    ) -> Tensor | None:
        device = x.device.type
        if torch.compiler.is_compiling() or device not in ("cpu", "cuda"):
            return None
        on_gpu = device == "cuda"
        if on_gpu and not torch.cuda.is_initialized():
            return None  # of a fake tensor, CUDA need not even be there
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.no_grad():
            return self.lookup(
                slot,
                parameters,
                (dtype, *settings),
                lambda: pack(dtype),
                stream=torch.cuda.current_stream(x.device).cuda_stream if on_gpu else 0,
                capturing=on_gpu and torch.cuda.is_current_stream_capturing(),
            )

    def lookup(
        self,
        slot: int,
        parameters: tuple[Tensor | None, ...],
        settings: tuple[Hashable, ...],
        pack: Callable[[], Tensor],
        *,
        stream: int = 0,
        capturing: bool = False,
    ) -> Tensor:
        """What is held for these parameters in their present state, else what ``pack`` makes of them.

        Args:
            slot: as in :meth:`get`.
            parameters: what is packed.
            settings: what else the packing depends on.
            pack: makes a packing on the current stream.
            stream: the current stream. Another one could read a packing before it is made, and so makes its own; not so
                while a graph is captured, which starts from an idle device.
            capturing: whether a CUDA graph is being captured. Memory that is allocated then belongs to the graph.
        """
        given = [p for p in parameters if p is not None]
        if any(type(p) is not nn.Parameter or p.is_inference() for p in given):
            return pack()
        state = (*settings, *((p.device, p.dtype, p.data_ptr(), p._version) for p in given))
        held = self._slots.get(slot)
        if (
            held is not None
            and held.state == state
            and all(a is b for a, b in zip(held.parameters, parameters, strict=True))
            and (capturing or held.stream == stream)
        ):
            if capturing and not any(held.packed is other for other in self._captured):
                self._captured.append(held.packed)
            return held.packed
        packed = pack()
        if not capturing and type(packed) is Tensor:  # not one of the fake tensors of a tracer
            self._slots[slot] = _Held(packed, parameters, state, stream)
        return packed
