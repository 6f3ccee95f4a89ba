"""Planned functions: the same bits as the functions themselves, in memory that is reserved once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import vsr_kernels
from vsr.inference.runner import Runner
from vsr.models import BasicVSR, SRVGGNet
from vsr_kernels import Plan, plan
from vsr_kernels import nn as vnn
from vsr_kernels.planning.arena import ALIGNMENT, Buffer, lay_out

pytestmark = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


def assert_same(got: Any, expected: Any) -> None:
    """Values to the bit, shapes, strides and structure."""
    (ours, ours_structure), (theirs, theirs_structure) = pytree.tree_flatten(got), pytree.tree_flatten(expected)
    assert ours_structure == theirs_structure
    for one, other in zip(ours, theirs, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        of_many = [i for i, size in enumerate(one.shape) if size > 1]  # other strides say nothing
        assert [one.stride(i) for i in of_many] == [other.stride(i) for i in of_many]
        assert torch.equal(one, other)


def poison(planned: Plan) -> None:
    """NaN in all memory that calls share, which no call may read before it has written it."""
    for replay in planned.replays:
        replay._arena.fill_(0xFF)


def check(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Plan:
    """Replays give what the function gives, from memory that holds nothing of use."""
    planned = plan(function)
    with torch.inference_mode():
        expected = function(*args, **kwargs)
        planned(*args, **kwargs)
        for _ in range(3):
            assert_same(planned(*args, **kwargs), expected)
            assert planned.obstacle is None
            poison(planned)
    return planned


def sparse_model(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(
        vnn.SparseConv3x3(5, 8, in_kept=[4, 0, 2], activation="relu"),
        vnn.SparseResidualBlock(8, in_kept=[1, 3, 6], out_kept=[7, 0], hidden=5),
        vnn.PixelShuffleConv(8, 3, 2, activation="prelu"),
    ).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (17, 33)])
def test_models(dtype: torch.dtype, size: tuple[int, int]) -> None:
    for act_type, scale in (("prelu", 4), ("relu", 1), ("leakyrelu", 3)):
        check(SRVGGNet(20, 2, scale, act_type).eval().to(dtype), torch.rand(2, 3, *size))
    check(sparse_model(dtype).eval(), torch.rand(1, 5, *size, dtype=dtype))
    planned = check(SRVGGNet(20, 3, 2).eval().to(dtype), torch.rand(1, 3, *size))
    assert planned.replays[0].allocating == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optical_flow(dtype: torch.dtype) -> None:
    """7x7 convolutions write into memory that is there, from weights that were packed once."""
    model = nn.Sequential(vnn.Conv7x7(8, 20, activation="relu"), vnn.Conv7x7(20, 2)).eval().to(dtype)
    planned = check(model, torch.rand(2, 8, 17, 12, dtype=dtype))
    assert planned.replays[0].allocating == {}


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_state(dtype: torch.dtype, bidirectional: bool) -> None:
    """Chunk by chunk, with the state that the chunk before left, as without a plan."""
    torch.manual_seed(1)
    model = BasicVSR(12, 2, scale=2, bidirectional=bidirectional, num_hr_feat=8).eval().to(dtype)
    clip = torch.rand(1, 12, 3, 20, 24)
    planned = plan(model.step)
    state = other = None
    with torch.inference_mode():
        for at in range(0, 10, 2):
            out, state = planned(clip[:, at : at + 4], state, keep=2)
            assert (planned.obstacle is None) == (at >= 4)  # without a state, the first with one, and then
            expected, other = model.step(clip[:, at : at + 4], other, keep=2)
            assert_same((out, state), (expected, other))
            poison(planned)


def test_results_are_the_callers() -> None:
    """They stay as they are through later calls, as tensors, as views and as arrays."""
    model = SRVGGNet(8, 1, 2).eval()
    planned, inputs = plan(model), [torch.rand(1, 3, 9, 10) for _ in range(12)]
    with torch.inference_mode():
        planned(inputs[0])
        kept: list[Any] = []
        for i, x in enumerate(inputs):
            out = planned(x)
            kept.append((out, out[:, 1:], out.numpy())[i % 3])
        for i, (x, result) in enumerate(zip(inputs, kept, strict=True)):
            expected = model(x)
            assert torch.equal(torch.as_tensor(result), expected[:, 1:] if i % 3 == 1 else expected)


def test_memory_of_results_is_used_again() -> None:
    """Two pieces where the caller holds one result while it asks for the next."""
    planned, x, places = plan(SRVGGNet(8, 1, 2).eval()), torch.rand(1, 3, 9, 10), set()
    with torch.inference_mode():
        out = planned(x)
        for _ in range(20):
            out = planned(x)
            places.add(out.data_ptr())
    assert len(places) == 2


def test_inputs_are_not_touched() -> None:
    def halve(x: Tensor) -> Tensor:
        y = x + 0
        return y.mul_(0.5)

    x = torch.rand(2, 3, 4, 5)
    before = x.clone()
    check(halve, x)
    assert torch.equal(x, before)


def test_inputs_are_read_where_they_lie() -> None:
    """At any place of a larger tensor, without memory for a copy, and held no longer than the call takes."""
    frames = torch.rand(7, 12, 6, 10)
    planned = plan(lambda x: vsr_kernels.pixel_shuffle(x[:, 1:5], 2))
    with torch.no_grad():
        for i in range(7):
            assert torch.equal(planned(frames[i : i + 1]), F.pixel_shuffle(frames[i : i + 1, 1:5], 2))
    assert planned.obstacle is None and planned.replays[0].arena_bytes == 0
    alone = storage_users(torch.rand(1, 12, 6, 10))
    with torch.no_grad():
        last = torch.rand(1, 12, 6, 10)
        planned(last)
    assert storage_users(last) == alone


def storage_users(tensor: Tensor) -> int:
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


def test_results_as_inputs() -> None:
    """Of the next call, which writes elsewhere."""
    planned, x = plan(lambda x: x * 0.5 + x.flip(3)), torch.rand(1, 2, 3, 4)
    expected = x
    with torch.inference_mode():
        for _ in range(6):
            x, expected = planned(x), planned._function(expected)
            assert torch.equal(x, expected)
    assert planned.obstacle is None


def test_inputs_that_are_copied() -> None:
    """Because a step writes to a part of them, or because they are looked at as wider numbers."""

    def overwrites(x: Tensor) -> Tensor:
        x[:, 1:].mul_(2)
        return x.sum(1)

    def widens(x: Tensor) -> Tensor:
        return x.view(torch.int32) + 1

    with torch.no_grad():
        for function, whole in ((overwrites, torch.rand(1, 6, 5, 8)), (widens, torch.rand(1, 6, 5, 8).half())):
            planned = plan(function)
            for start in (0, 2, 1):  # a first call, which is the function itself and refuses odd addresses; two replays
                x = whole.flatten()[start : start + 160].view(1, 4, 5, 8)
                before = x.clone()
                assert torch.equal(planned(x), function(before.clone()))
                assert start == 0 or torch.equal(x, before)
            assert planned.obstacle is None and planned.replays[0].arena_bytes > 0


def test_expanded_inputs() -> None:
    """Read, and returned."""
    x = torch.rand(1, 3, 1, 5).expand(1, 3, 4, 5)
    check(lambda x: x * 2, x)
    check(lambda x: (x, x[:, 1:], x + 1), x)


def test_inference_mode_and_without() -> None:
    """What one of them recorded is replayed in the other."""
    model, x = SRVGGNet(8, 1, 2).eval(), torch.rand(1, 3, 6, 7)
    modes = (torch.inference_mode, torch.no_grad)
    for first, second in (modes, modes[::-1]):
        planned, kept = plan(model), []
        for mode in (first, first, second, first, second):
            with mode():
                kept.append(planned(x))
                assert torch.equal(kept[-1], model(x))
        assert planned.obstacle is None


def test_what_is_returned_as_it_came() -> None:
    """An input, a view of one, numbers and nothing."""

    def function(x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"x": x, "part": y[:, 1:3], "sum": x + y, "number": 3, "none": None}

    planned = plan(function)
    x, y = torch.rand(1, 4, 5, 6), torch.rand(1, 4, 5, 6)
    with torch.no_grad():
        planned(x, y)
        made = planned(x, y)
    assert planned.obstacle is None
    assert made["number"] == 3 and made["none"] is None
    for name, expected in (("x", x), ("part", y[:, 1:3]), ("sum", x + y)):
        assert torch.equal(made[name], expected)
        assert made[name].data_ptr() not in (x.data_ptr(), y[:, 1:3].data_ptr())


def test_views_chunks_and_ties() -> None:
    """Views of views, several results of one operator, a buffer that is read long after it was made."""

    def function(x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        early = torch.cat([b, a], 1).permute(0, 2, 3, 1)
        for _ in range(5):
            x = F.relu(x * 1.5 - 0.3)
        low, high = torch.aminmax(x, dim=1)
        return early.permute(0, 3, 1, 2)[:, 1:] * x[:, :3] + low[:, None] - high[:, None].contiguous()

    planned = check(function, torch.randn(2, 4, 6, 7))
    # PyTorch has no way to write into given memory that would not allocate as well.
    assert planned.replays[0].allocating == {"aten.relu.default": 5, "aten.aminmax.default": 1}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shuffles(layout: torch.memory_format) -> None:
    """In the memory format of the input, straight into the result."""
    x = torch.rand(2, 12, 6, 10).to(memory_format=layout)
    for function in (vsr_kernels.pixel_shuffle, vsr_kernels.pixel_unshuffle):
        planned = check(lambda x, function=function: function(x, 2), x)
        assert planned.replays[0].allocating == {}


def test_changed_weights() -> None:
    """In place, and replaced: the next replay is of the new ones."""
    model, x = SRVGGNet(8, 1, 2).eval(), torch.rand(1, 3, 6, 7)
    planned = plan(model)
    with torch.no_grad():
        planned(x)
        planned(x)
        model.body[0].weight.mul_(2)
        for _ in range(3):
            assert torch.equal(planned(x), model(x))
        assert planned.obstacle is None
        model.body[2].bias = nn.Parameter(torch.ones(8))
        for _ in range(3):
            assert torch.equal(planned(x), model(x))
        assert planned.obstacle is None


def test_constants_are_told_apart() -> None:
    """Weights of equal values are not one: what is worked out beforehand is kept by which tensor it is of."""
    first, second = torch.zeros(40, 50), torch.zeros(40, 50)
    second[20, 25] = 1.0  # where a printed tensor shows dots

    def function(x: Tensor) -> Tensor:
        return x * (first.sum() + 1) + x * (second.sum() + 1)

    check(function, torch.rand(1, 2, 3, 4))


def test_the_setting_of_fast_float32() -> None:
    """Each setting has its own recording, of the bits that it gives."""
    model, x, conv = SRVGGNet(16, 1, 2).eval(), torch.rand(1, 3, 17, 18), torch.backends.mkldnn.conv
    planned, before = plan(model), conv.fp32_precision
    results = []
    try:
        for setting in ("ieee", "tf32"):
            conv.fp32_precision = setting
            with torch.no_grad():
                for _ in range(3):
                    out = planned(x)
                    assert torch.equal(out, model(x))
            assert planned.obstacle is None
            results.append(out)
    finally:
        conv.fp32_precision = before
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_shapes_come_and_go() -> None:
    """Each shape is replayed from its second time on; only the last few are kept."""
    model = SRVGGNet(8, 1, 2).eval()
    planned = plan(model)
    with torch.inference_mode():
        for size in range(3, 9):
            x = torch.rand(1, 3, size, 5)
            for _ in range(2):
                assert torch.equal(planned(x), model(x))
            assert planned.obstacle is None
            planned(x.contiguous(memory_format=torch.channels_last))
            assert planned.obstacle is not None
        assert len(planned.replays) <= 4


@pytest.mark.parametrize(
    ("obstacle", "text"),
    [("train", "train mode"), ("grad", "gradients"), ("autocast", "autocast")],
)
def test_called_as_it_is(obstacle: str, text: str) -> None:
    model, x = SRVGGNet(8, 1, 2).eval(), torch.rand(1, 3, 6, 7)
    planned = plan(model)
    if obstacle == "train":
        model.train()
    with torch.set_grad_enabled(obstacle == "grad"), torch.autocast("cpu", enabled=obstacle == "autocast"):
        for _ in range(3):
            out = planned(x)
            assert planned.obstacle is not None and text in planned.obstacle
            assert out.shape == (1, 3, 12, 14)
            assert out.requires_grad == (obstacle == "grad")
    assert planned.replays == []


def test_other_devices() -> None:
    planned = plan(lambda x: x + 1)
    with torch.no_grad():
        for _ in range(3):
            assert planned(torch.zeros(1, 2, device="meta")).device.type == "meta"
            assert planned.obstacle is not None and "on the CPU" in planned.obstacle


def test_functions_of_values() -> None:
    """What looks at values, draws numbers or is given what cannot be compared is not replayed."""

    def branches(x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x

    def draws(x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)

    def options(x: Tensor, option: object) -> Tensor:
        return x + 1

    def hides(x: Tensor) -> object:
        return SimpleNamespace(tensor=x + 1)

    x = torch.ones(1, 2, 3, 4)
    with torch.no_grad():
        for function, args in ((branches, (x,)), (draws, (x,)), (options, (x, bytearray(3))), (hides, (x,))):
            planned = plan(function)
            for _ in range(3):
                planned(*args)
                assert planned.obstacle
            assert planned.replays == []
        planned = plan(branches)
        results = [planned(sign * x) for sign in (1, -1, 1, -1)]
        assert [result.sum().item() for result in results] == [48, -24, 48, -24]
        assert planned.obstacle is not None and "random" not in planned.obstacle


def test_copies() -> None:
    """Of a model whose method is planned: the copy plans its own, and has recorded nothing."""
    model, x = SRVGGNet(8, 1, 2).eval(), torch.rand(1, 3, 6, 7)
    model.forward = plan(model.forward)  # type: ignore[method-assign]
    with torch.no_grad():
        for _ in range(2):
            before = model(x)
        other = copy.deepcopy(model)
        assert isinstance(other.forward, Plan) and other.forward.replays == []
        for parameter in other.parameters():
            parameter.mul_(0.5)
        for _ in range(3):
            assert torch.equal(model(x), before)
            assert not torch.equal(other(x), before)
    assert len(model.forward.replays) == len(other.forward.replays) == 1


def test_the_runner_plans_its_models() -> None:
    """On its own copy, with the results of an unplanned one."""
    torch.manual_seed(2)
    model = BasicVSR(8, 1, scale=2, num_hr_feat=8).eval()
    runner = Runner(model, device=torch.device("cpu"), dtype=torch.float32, tile=0)
    plain = copy.deepcopy(model)
    plain.planned = ()
    other = Runner(plain, device=torch.device("cpu"), dtype=torch.float32, tile=0)
    clip = torch.rand(12, 3, 16, 20)
    for at in range(0, 9, 3):
        assert torch.equal(runner.run(clip[at : at + 4], keep=3), other.run(clip[at : at + 4], keep=3))
    own = runner._model(torch.float32)
    for part in (own.backward_trunk, own.forward_trunk):
        assert isinstance(part.forward, Plan) and len(part.forward.replays) == 1
    assert not isinstance(model.forward_trunk.forward, Plan)


def test_two_threads() -> None:
    """While one replays, the other calls the function itself."""
    inside, leave = threading.Event(), threading.Event()
    planned = plan(lambda x: x * 2 + 1)
    x = torch.rand(1, 2, 3, 4)
    with torch.no_grad():
        planned(x)
        planned(x)
        replay = planned.replays[0]
        function, arguments, keywords, results = replay._bound[-1]

        def slow(*args: Any, **kwargs: Any) -> Any:
            inside.set()
            assert leave.wait(10)
            return function(*args, **kwargs)

        replay._bound[-1] = (slow, arguments, keywords, results)
        found: list[Tensor] = []

        def work() -> None:
            with torch.no_grad():
                found.append(planned(x))

        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        assert torch.equal(planned(3 * x), 6 * x + 1)
        leave.set()
        thread.join()
    assert torch.equal(found[0], 2 * x + 1)


def test_nothing_is_allocated() -> None:
    """By a profiler's account, but the few bytes of tables of indices."""
    planned, x = plan(SRVGGNet(24, 3, 2).eval()), torch.rand(1, 3, 30, 40)
    with torch.inference_mode():
        for _ in range(3):
            planned(x)
        with torch.profiler.profile(profile_memory=True) as account:
            planned(x)
        with torch.profiler.profile(profile_memory=True) as other:
            planned._function(x)

    def allocated(profile: torch.profiler.profile) -> int:
        return sum(max(0, event.self_cpu_memory_usage) for event in profile.events())

    assert allocated(account) < 4096
    assert allocated(other) > 30 * 40 * 24 * 4


def test_wrong_memory_is_refused() -> None:
    """Direct calls of the operators that write into memory."""
    x, weight = torch.zeros(1, 4, 5, 6), torch.zeros(8, 4, 3, 3)
    rest = (None, None, 0.0, None, None, None, "none", 1.0, 1, True, None)
    for out, message in (
        (torch.zeros(1, 8, 5, 7), "out: expected shape"),
        (torch.zeros(1, 8, 5, 6), "out: expected channels_last"),
        (torch.zeros(1, 8, 5, 6, dtype=torch.float16), "out: expected the dtype"),
    ):
        with pytest.raises(RuntimeError, match=f"conv3x3_into: {message}"):
            torch.ops.vsr_kernels.conv3x3_into(out, x, weight, *rest)
    out = torch.empty(1, 8, 5, 6).to(memory_format=torch.channels_last)
    for packed in (torch.zeros(64, dtype=torch.uint8), torch.zeros(3)):
        with pytest.raises(RuntimeError, match="conv3x3_into: packed: expected"):
            torch.ops.vsr_kernels.conv3x3_into(out, x, weight, *rest[:-1], packed)
    for out, message in ((torch.zeros(1, 1, 10, 11), "shape"), (torch.zeros(1, 1, 10, 12).half(), "the dtype")):
        with pytest.raises(RuntimeError, match=f"pixel_shuffle_into: out: expected {message}"):
            torch.ops.vsr_kernels.pixel_shuffle_into(out, x, 2, False)
    with pytest.raises(RuntimeError, match="flow_warp_into: out: expected shape"):
        torch.ops.vsr_kernels.flow_warp_into(out, x, torch.zeros(1, 2, 5, 6), "bilinear", "zeros")


# The arena


def lifetimes(seed: int) -> list[Buffer]:
    rng = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(60):
        first, length, size = (int(torch.randint(0, most, (), generator=rng)) for most in (40, 12, 5000))
        made.append(Buffer(size, first, first + length))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_buffers_in_use_do_not_overlap(seed: int) -> None:
    buffers = lifetimes(seed)
    total = lay_out(buffers)
    for i, one in enumerate(buffers):
        assert one.offset % ALIGNMENT == 0 and one.offset + one.nbytes <= total
        for other in buffers[:i]:
            together = one.first <= other.last and other.first <= one.last
            apart = one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset
            assert apart or not together
    most = max(sum(b.nbytes for b in buffers if b.first <= step <= b.last) for step in range(60))
    assert most <= total <= 1.5 * most + 60 * ALIGNMENT


def test_a_chain_needs_two_buffers() -> None:
    assert lay_out([Buffer(640, i, i + 1) for i in range(20)]) == 1280


def test_scattered_sums_are_written_where_their_residual_lies() -> None:
    blocks = [vnn.SparseResidualBlock(8, in_kept=[1, 3, 6], out_kept=[7, 0], hidden=5) for _ in range(4)]
    chain = nn.Sequential(vnn.SparseConv3x3(5, 8), *blocks, vnn.SparseConv3x3(8, 8)).eval()
    x = torch.rand(1, 5, 17, 33)
    replay = check(chain, x).replays[0]
    image = 17 * 33 * 8 * 4
    assert replay.arena_bytes < 2.5 * image  # one of them, a hidden layer of 5 channels, the input

    class Again(nn.Module):
        """The residual is read once more; the caller's tensor is one, too."""

        def __init__(self) -> None:
            super().__init__()
            self.chain = chain

        def forward(self, x: Tensor) -> Tensor:
            y = self.chain[0](x)
            return self.chain[2](self.chain[1](y)) + y

    check(Again().eval(), x)
    y = torch.rand(1, 8, 9, 10).contiguous(memory_format=torch.channels_last)
    before = y.clone()
    check(nn.Sequential(*blocks, vnn.SparseConv3x3(8, 8)).eval(), y)
    assert torch.equal(y, before)
