"""Half precision that overflows, memory that runs out, precisions and devices."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import (
    Hungry,
    HungryMean,
    Nearest,
    Overflowing,
    OverflowingMean,
    RunningMean,
    SmallConv,
)
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.inference import Runner, memory
from vsr.inference.device import choose_device, choose_dtype, cpu_has_bfloat16
from vsr.inference.state import finite

CPU = torch.device("cpu")


def runner(
    model: nn.Module, dtype: torch.dtype = torch.float32, tile: int | None = None, overlap: int | None = None
) -> Runner:
    return Runner(model, device=CPU, dtype=dtype, tile=tile, overlap=overlap)


def dark(height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(1, 3, height, width) * 0.4


def bright(height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(1, 3, height, width) * 0.2 + 0.7


def test_only_frames_that_overflow_are_repeated_in_float32() -> None:
    run = runner(Overflowing(), torch.float16)
    for x in (dark(), bright(), dark(), bright(), dark()):
        assert torch.allclose(run.run(x), Nearest()(x), rtol=0, atol=1e-3)
    assert run.overflows == 2
    assert run.warnings == ["float16 overflowed; what is concerned is computed in float32"]
    assert run.dtype == torch.float16


class Rounding(nn.Module):
    """Off by a number in half precision, and exact in float32; counts its calls by dtype."""

    scale, recurrent, receptive_field = 1, False, 0

    def __init__(self, error: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        return x if self.gain.dtype == torch.float32 else x + self.error


@pytest.mark.parametrize(("error", "good"), [(0.003, True), (0.0034, False), (float("nan"), False)])
def test_half_precision_is_checked_on_the_first_frames(error: float, good: bool) -> None:
    """50 dB are an error of 0.00316 of the range."""
    x = torch.rand(1, 3, 20, 30) * 0.5 + 0.2
    run = Runner(Rounding(error), device=CPU, dtype=torch.bfloat16, check_precision=True)
    out = run.run(x)
    assert run.dtype == (torch.bfloat16 if good else torch.float32)
    assert torch.allclose(out, x + (error if good else 0.0), rtol=0, atol=1e-6)
    assert len(run.warnings) == (0 if good else 1)
    if not good:
        assert "from float32 with this model: float32 is used" in run.warnings[0]
    assert set(run._models) == {run.dtype} or not good


def test_what_was_asked_for_is_not_checked() -> None:
    run = runner(Rounding(0.1), torch.bfloat16)
    x = torch.rand(1, 3, 8, 8)
    assert torch.allclose(run.run(x), x + 0.1, rtol=0, atol=1e-6)
    assert run.warnings == []


def test_a_recurrent_model_is_checked_over_several_frames() -> None:
    """The state of the check is not that of the job."""
    frames = torch.rand(5, 3, 120, 130)
    plain = runner(RunningMean(), torch.bfloat16)
    checked = Runner(RunningMean(), device=CPU, dtype=torch.bfloat16, check_precision=True)
    assert torch.equal(checked.run(frames), plain.run(frames))


def test_repeated_overflow_ends_half_precision() -> None:
    run = runner(Overflowing(), torch.float16)
    for _ in range(6):
        run.run(bright())
    assert run.overflows == 3
    assert run.dtype == torch.float32
    assert run.warnings[1] == "float16 overflowed 3 times; float32 from there on"


def test_a_recurrent_model_that_overflows_stays_in_float32_until_the_next_shot() -> None:
    model = OverflowingMean()
    frames = torch.cat([dark(), dark(), bright(), bright(), bright(), bright()])
    run = runner(model, torch.float16)
    reference = runner(model, torch.float32)
    for index in range(len(frames)):
        expected = reference.run(frames[index : index + 1])
        assert torch.allclose(run.run(frames[index : index + 1]), expected, rtol=0, atol=2e-3)
    assert run.overflows == 1  # the state stays large; it is not tried again and again
    run.reset()
    run.run(dark())
    assert run.overflows == 1
    assert all(t.dtype == torch.float16 for t in (run.states[0].feature,))


def test_nan_in_float32_is_an_error() -> None:
    model = SmallConv()
    with torch.no_grad():
        model.second.bias[0] = float("nan")
    for dtype in (torch.float16, torch.float32):
        with pytest.raises(UserError, match="the model gives NaN or infinity in float32"):
            runner(model, dtype).run(dark())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite(dtype: torch.dtype) -> None:
    x = torch.full((100, 1000), torch.finfo(dtype).max, dtype=dtype)
    assert finite(x)  # although the sum of float32 overflows
    for bad in (float("nan"), float("inf"), float("-inf")):
        y = x.clone()
        y[50, 500] = bad
        assert not finite(y)
    assert not finite(torch.tensor([float("inf"), float("-inf")], dtype=dtype))
    assert finite(torch.ones(3, dtype=torch.long))


@pytest.mark.parametrize("receptive_field", [2, None])
def test_tiles_when_memory_runs_out(receptive_field: int | None) -> None:
    x = torch.rand(1, 3, 120, 90)
    run = runner(Hungry(60 * 60, receptive_field), overlap=6)
    expected = runner(SmallConv()).run(x)
    result = run.run(x)
    atol = 2e-6 if receptive_field == 2 else 0.15
    assert torch.allclose(result, expected, rtol=0, atol=atol)
    assert run.warnings == ["memory ran out: the pictures are computed in tiles"]
    assert run.tile_in_use == 60 // 2 if run.shortages == 2 else 60
    before = run.shortages
    run.run(x)
    assert run.shortages == before  # remembered for the rest


def test_memory_that_never_suffices() -> None:
    with pytest.raises(UserError, match=r"out of memory even for tiles of 25x25; use a smaller --chunk"):
        runner(Hungry(10)).run(torch.rand(1, 3, 100, 100))
    with pytest.raises(UserError, match=r"out of memory for 100x100 at once; leave out --tile 0"):
        runner(Hungry(10), tile=0).run(torch.rand(1, 3, 100, 100))


def test_other_errors_are_passed_on() -> None:
    class Wrong(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        runner(Wrong()).run(dark())


@pytest.mark.parametrize("after", [0, 1, 3])
def test_memory_that_runs_out_in_the_middle_of_a_shot(after: int) -> None:
    """The state of the whole picture is cut to tiles, and those of tiles to smaller ones: no frame is off."""
    frames = torch.rand(10, 3, 130, 70)
    expected, _ = RunningMean().step(frames[None])
    model = HungryMean(limit=60 * 60, after=after)
    run = runner(model, overlap=4)
    got = torch.cat([run.run(frames[i : i + 2]) for i in range(0, 10, 2)])
    assert run.shortages >= 1
    assert torch.allclose(got, expected[0], rtol=0, atol=1e-6)
    run._models[torch.float32].limit = 40 * 40  # type: ignore[assignment]  # memory becomes scarcer still
    more = torch.cat([run.run(frames[i : i + 2]) for i in range(0, 10, 2)])
    again, _ = RunningMean().step(torch.cat([frames, frames])[None])
    assert torch.allclose(more, again[0, 10:], rtol=0, atol=1e-6)


def test_cpu_tiles_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 3, 200, 300)
    model = SmallConv()
    footprint = memory.measure(model, recurrent=False)
    # The widest layer returns 12 channels of float32 per pixel; a frame is 3 channels in, 4 * 3 out.
    assert footprint == memory.Footprint(call=4 * 12 * 4, frame=(3 + 12) * 4)
    monkeypatch.setattr(memory, "available_memory", lambda: int(60 * 60 * (footprint.call + footprint.frame) / 0.7) + 1)
    run = runner(model)
    expected = runner(model, tile=0).run(x)
    assert torch.allclose(run.run(x), expected, rtol=0, atol=2e-6)
    assert run.tile_in_use == 56
    assert run.warnings == ["memory is short for 300x200 at once: tiles of 56 are used"]


def test_memory_of_a_recurrent_model() -> None:
    footprint = memory.measure(RunningMean(), recurrent=True)
    assert footprint.frame == (3 + 12 + 3) * 4  # frame, result, state
    assert footprint.pixels(frames=10, available=10**6) == int(0.7 * 10**6 / (10 * 72 + footprint.call))


def test_available_memory_is_plausible() -> None:
    available = memory.available_memory()
    assert available is None or 10**6 < available < 10**14


def test_the_callers_model_is_left_alone() -> None:
    model = SmallConv().train()
    before = copy.deepcopy(model.state_dict())
    runner(model, torch.bfloat16).run(dark())
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
def test_half_precisions(dtype: torch.dtype, atol: float) -> None:
    x = torch.rand(1, 3, 20, 20)
    out = runner(SmallConv(), dtype).run(x)
    assert out.dtype == torch.float32
    assert torch.allclose(out, runner(SmallConv()).run(x), rtol=0, atol=atol)


def test_precision_is_chosen_by_device_and_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.inference.device.cpu_has_bfloat16", lambda: True)
    assert choose_dtype("auto", CPU, 8) == torch.bfloat16
    assert choose_dtype("auto", CPU, 10) == torch.float32
    assert choose_dtype("bfloat16", CPU, 10) == torch.bfloat16
    monkeypatch.setattr("vsr.inference.device.cpu_has_bfloat16", lambda: False)
    assert choose_dtype("auto", CPU, 8) == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_dtype("auto", torch.device("cuda"), 10) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert choose_dtype("auto", torch.device("cuda"), 8) == torch.float32
    with pytest.raises(UserError, match="--dtype: expected auto, float32, bfloat16, float16, got 'int8'"):
        choose_dtype("int8", CPU, 8)


def test_bfloat16_of_this_cpu_is_what_the_kernel_says() -> None:
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read().split()
    except OSError:
        pytest.skip("no /proc/cpuinfo on this system")
    assert cpu_has_bfloat16() == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match="--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"):
        choose_device("gpu")
    with pytest.raises(UserError, match="--device: expected auto, cpu, cuda or cuda:N, got 'meta'"):
        choose_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no CUDA device here; use --device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto").type == "cuda"
    with pytest.raises(UserError, match="--device cuda:2: there are only 2 CUDA devices"):
        choose_device("cuda:2")
