"""One call of a model, made safe: half precision that overflows, memory that runs out, pictures too large for it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.inference import memory
from vsr.inference.state import finite, is_finite, map_tensors, tensors_of, to_float32, with_tensors
from vsr.inference.tiling import Tile, place, tile_grid
from vsr_kernels import plan

_LEAST_TILE = 32
_DEFAULT_OVERLAP = 32
_GREATEST_EXACT_OVERLAP = 64
_MAX_RETRIES = 3
_ALWAYS_FITS = 128 * 128
_CHECKED_SIDE, _CHECKED_FRAMES, _LEAST_PSNR = 96, 3, 50.0


class Runner:
    """Runs a super-resolution model and keeps the state of a recurrent one.

    Args:
        model: See :class:`vsr.models.Upscaler`; whatever its precision, it takes and answers float32. It is copied.
        device: Where to compute.
        dtype: Precision to compute in.
        tile: Side of a tile in input pixels; 0 for none ever; None to tile only when memory is short.
        overlap: Surroundings of a tile in input pixels; None for as much as the model's receptive field asks.
        check_precision: Whether to compare a part of the first frames with float32, and to compute in float32 if they
            are less than 50 dB of PSNR from it.

    Attributes:
        scale: Enlargement of the model.
        recurrent: Whether it is recurrent.
        tile: Side of the tiles in use, None for none.
        overlap: Surroundings of a tile in input pixels.
        device: Where it computes.
        dtype: The precision in use; float32 after repeated overflow.
        overflows: Calls that were repeated in float32.
        shortages: Calls that were repeated in (smaller) tiles.
        warnings: One sentence for each thing that went another way than asked.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tile: int | None = None,
        overlap: int | None = None,
        check_precision: bool = False,
    ) -> None:
        self.scale = int(model.scale)  # type: ignore[arg-type]
        self.recurrent = bool(model.recurrent)
        self.dtype = dtype
        self.tile = tile or None
        field: int | None = model.receptive_field  # type: ignore[assignment]
        if overlap is None:
            overlap = field if field is not None and field <= _GREATEST_EXACT_OVERLAP else _DEFAULT_OVERLAP
        self.overlap = overlap
        self.overflows = 0
        self.shortages = 0
        self.warnings: list[str] = []
        self._exact = field is not None and overlap >= field
        self._may_tile = tile != 0
        self._checks = check_precision and dtype != torch.float32
        self._plans = tile is None and device.type == "cpu"
        self.device = device
        self._original = model
        self._models: dict[torch.dtype, nn.Module] = {}
        self._size: tuple[int, int] | None = None
        self._grid: list[Tile] = []
        self._states: list[Any] = []
        self._in_float32 = False  # until the next reset: a state that overflowed once will again

    def reset(self) -> None:
        """Forget what the model remembers."""
        self._states = [None] * len(self._states)
        self._in_float32 = False

    @property
    def states(self) -> list[Any]:
        """What the model remembers, one state per tile."""
        return self._states

    def restore(self, states: list[list[Tensor]], tile: int | None, size: tuple[int, int]) -> None:
        """Go on from a state that was saved.

        Args:
            states: The tensors (see :func:`vsr.inference.state.tensors_of`) of each of :attr:`states`.
            tile: As :attr:`tile` was.
            size: Height and width of the frames.
        """
        self.tile = tile
        self._plans = False
        self._layout(*size)
        with torch.inference_mode():
            _, template = self._call(self.dtype, torch.zeros(1, 3, 64, 64), None, 1)
        self._states = [with_tensors(template, [tensor.to(self.device) for tensor in state]) for state in states]

    def run(self, frames: Tensor, keep: int | None = None) -> Tensor:
        """Enlarge frames.

        Args:
            frames: (T, 3, H, W) float32 R'G'B' in [0, 1], on any device. T is 1 unless the model is recurrent.
            keep: How many of the frames are wanted, all if None; the others are look-ahead.

        Returns:
            (keep, 3, scale * H, scale * W) float32, finite, not clamped.

        Raises:
            UserError: Memory does not suffice for the smallest tiles, or the model gives NaN in float32 too.
        """
        keep = frames.shape[0] if keep is None else keep
        height, width = frames.shape[-2:]
        if self._checks:
            self._check_precision(frames)
        if self._plans:
            self._plan(height, width, frames.shape[0])
        if (height, width) != self._size:
            self._layout(height, width)
        while True:
            with torch.inference_mode():
                out = self._attempt(frames, keep)
            if out is not None:
                return out
            # Only here, outside of the handler, has the failed call let go of its tensors.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._shrink()

    def _attempt(self, frames: Tensor, keep: int) -> Tensor | None:
        """The result, with the states advanced; None and nothing changed if memory ran out."""
        try:
            if len(self._grid) == 1:
                out, state = self._guarded(frames, self._states[0], keep)
                self._states = [state]
                return out
            return self._tiled(frames, keep)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            return None

    def _tiled(self, frames: Tensor, keep: int) -> Tensor:
        height, width = frames.shape[-2] * self.scale, frames.shape[-1] * self.scale
        out: Tensor | None = None
        states = []
        for tile, before in zip(self._grid, self._states, strict=True):
            part, after = self._guarded(tile.patch(frames), before, keep)
            states.append(after)
            # The whole result is put together in main memory: tiling is for when the device's is short.
            part = part.cpu()
            if out is None:
                out = torch.empty((keep, 3, height, width), dtype=part.dtype, memory_format=torch.channels_last)
            place(out, part, tile, self.scale, exact=self._exact)
        assert out is not None
        self._states = states
        return out

    def _guarded(self, frames: Tensor, state: Any, keep: int) -> tuple[Tensor, Any]:
        dtype = torch.float32 if self._in_float32 else self.dtype
        out, after = self._call(dtype, frames, state, keep)
        if finite(out) and is_finite(after):
            return out, after
        if dtype != torch.float32:
            self.overflows += 1
            self._in_float32 = self.recurrent
            if self.overflows == 1:
                self.warnings.append(f"{_name(dtype)} overflowed; what is concerned is computed in float32")
            elif self.overflows == _MAX_RETRIES:
                self.warnings.append(f"{_name(dtype)} overflowed {_MAX_RETRIES} times; float32 from there on")
                self.dtype = torch.float32
            out, after = self._call(torch.float32, frames, state, keep)
            if finite(out) and is_finite(after):
                return out, after
        raise UserError("the model gives NaN or infinity in float32; its weights are damaged or do not fit")

    def _call(self, dtype: torch.dtype, frames: Tensor, state: Any, keep: int) -> tuple[Tensor, Any]:
        model = self._model(dtype)
        x = frames.to(device=self.device).contiguous(memory_format=torch.channels_last)
        if self.recurrent:
            if dtype == torch.float32:
                state = to_float32(state)
            out, after = model.step(x[None], state, keep=keep)  # type: ignore[operator]
            return out[0], after
        return model(x)[:keep], None

    def _model(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._models:
            fresh = copy.deepcopy(self._original).eval().requires_grad_(False)
            # channels_last convolutions are 1.3 to 5 times as fast.
            fresh = fresh.to(device=self.device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for path in getattr(fresh, "planned", ()):
                owner, _, name = path.rpartition(".")
                part = fresh.get_submodule(owner)
                setattr(part, name, plan(getattr(part, name)))
            self._models[dtype] = fresh
        return self._models[dtype]

    def _check_precision(self, frames: Tensor) -> None:
        """Before the first call, see on a part of the pictures whether half precision is good enough."""
        self._checks = False
        top, left = (max(0, (size - _CHECKED_SIDE) // 2) for size in frames.shape[-2:])
        patch = frames[:_CHECKED_FRAMES, :, top : top + _CHECKED_SIDE, left : left + _CHECKED_SIDE]
        with torch.inference_mode():
            low, exact = (
                self._call(dtype, patch, None, patch.shape[0])[0].clamp(0, 1) for dtype in (self.dtype, torch.float32)
            )
        psnr = -10 * math.log10(max(1e-10, (low.double() - exact.double()).square().nan_to_num(1.0).mean().item()))
        if psnr >= _LEAST_PSNR:
            del self._models[torch.float32]
            return
        self.warnings.append(f"{_name(self.dtype)} is {psnr:.1f} dB from float32 with this model: float32 is used")
        self.dtype = torch.float32

    def _plan(self, height: int, width: int, frames: int) -> None:
        """On a CPU, decide before the first call whether the pictures have to be tiled."""
        self._plans = False
        available = memory.available_memory()
        if available is None or height * width <= _ALWAYS_FITS:
            return
        limit = memory.measure(self._model(self.dtype), self.recurrent).pixels(frames, available)
        if height * width > limit:
            side = math.isqrt(limit) - 2 * self.overlap
            self.tile = max(_LEAST_TILE, side // 8 * 8)
            self.warnings.append(f"memory is short for {width}x{height} at once: tiles of {self.tile} are used")

    def _layout(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._grid = tile_grid(height, width, self.tile or max(height, width), self.overlap)
        self._states = [None] * len(self._grid)

    def _shrink(self) -> None:
        """Halve the tiles, and cut what the model remembers to the new ones."""
        assert self._size is not None
        height, width = self._size
        side = max(max(t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in self._grid)
        if not self._may_tile:
            raise UserError(f"out of memory for {width}x{height} at once; leave out --tile 0, or ask for a small tile")
        if side <= _LEAST_TILE:
            raise UserError(f"out of memory even for tiles of {side}x{side}; use a smaller --chunk or another device")
        self.shortages += 1
        whole = self._whole_state()
        self.tile = max(_LEAST_TILE, -(-side // 2))
        if self.shortages == 1:
            self.warnings.append("memory ran out: the pictures are computed in tiles")
        self._layout(height, width)
        if whole is not None:
            self._states = [map_tensors(whole, tile.patch) for tile in self._grid]

    @property
    def tile_in_use(self) -> int | None:
        """Side of the tiles if there is more than one, else None."""
        return self.tile if len(self._grid) > 1 else None

    def _whole_state(self) -> Any:
        """The tiles' states as that of the whole picture; None at the beginning of a shot."""
        assert self._size is not None
        if self._states[0] is None or len(self._grid) == 1:
            return self._states[0]
        merged = [first.new_empty((*first.shape[:-2], *self._size)) for first in tensors_of(self._states[0])]
        for tile, state in zip(self._grid, self._states, strict=True):
            for target, tensor in zip(merged, tensors_of(state), strict=True):
                place(target, tensor, tile, 1, exact=True)
        return with_tensors(self._states[0], merged)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in ("out of memory", "can't allocate memory", "not enough memory"))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
