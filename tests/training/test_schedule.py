"""The multigrid schedule against the rules that it is made of, each computed here in another way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vsr.training.schedule import MultigridSchedule, Stage


def schedule(**changes: Any) -> MultigridSchedule:
    return MultigridSchedule(**({"iterations": 3000} | changes))


FIXED = (Stage(crop=64, share=1.0),)


def test_published_shape_of_the_run() -> None:
    """Figure 3 of the paper: three clip lengths per stage, T/2, 3T/4, T, and crops that grow between the stages."""
    phases = schedule(frames=14).phases
    assert [(p.stage, p.crop, p.frames) for p in phases] == [
        (stage, crop, frames) for stage, crop in enumerate((32, 48, 64)) for frames in (7, 11, 14)
    ]
    assert [p.iterations for p in phases] == [500] * 3 + [300] * 3 + [200] * 3
    assert [p.start for p in phases[1:]] == [p.stop for p in phases[:-1]]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([(32, 0.5), (64, 0.5)], 2.1),
        ([(32, 1 / 3), (48, 1 / 3), (64, 1 / 3)], 2.2),
        ([(32, 0.5), (48, 0.3), (64, 0.2)], 2.7),
        ([(32, 0.6), (48, 0.25), (64, 0.15)], 3.0),
    ],
)
def test_predicted_speedup(stages: list[tuple[int, float]], expected: float) -> None:
    """1 / (3/4 * sum of share * (crop / 64)^2), where the clip's thirds divide evenly."""
    made = schedule(frames=16, stages=[Stage(crop=c, share=s) for c, s in stages])
    exact = 1 / (0.75 * sum(s * (c / 64) ** 2 for c, s in stages))
    assert made.speedup == pytest.approx(exact, rel=2e-3)
    assert round(made.speedup, 1) == pytest.approx(expected, abs=0.051)


def test_one_shape_costs_what_it_costs() -> None:
    made = schedule(stages=FIXED, clip_shares=(1.0,))
    assert made.speedup == 1
    assert made.cost == 3000 * 8 * 15 * 64 * 64
    assert {(s.crop, s.frames, s.batch) for s in made.steps()} == {(64, 15, 8)}


@pytest.mark.parametrize("mode", ["constant", "constant_cost"])
@pytest.mark.parametrize("batch", [8, 24])
def test_every_run_sees_its_samples(mode: str, batch: int) -> None:
    made = schedule(batch_mode=mode, batch=batch)
    steps = list(made.steps())
    assert len(steps) == made.length
    assert abs(sum(s.batch for s in steps) - made.samples) <= max(s.batch for s in steps)
    seen = 0
    for step in steps:
        assert step.first_sample == seen
        seen += step.batch
    assert [s.phase for s in steps] == sorted(s.phase for s in steps)
    assert made.cost == sum(s.batch * s.frames * s.crop**2 for s in steps)
    assert made.cost_before(made.length) == made.cost
    assert made.cost_before(700) == sum(s.batch * s.frames * s.crop**2 for s in steps[:700])


def test_a_larger_batch_takes_fewer_iterations() -> None:
    assert schedule(batch=32).length == 750
    shares = {32: 0.5, 48: 0.3, 64: 0.2}
    for crop, share in shares.items():
        samples = sum(s.batch for s in schedule(batch=32).steps() if s.crop == crop)
        assert samples == pytest.approx(24000 * share, abs=32)


def test_a_copy_has_phases_of_its_own() -> None:
    schedule = MultigridSchedule(iterations=1000)
    longer = schedule.model_copy(update={"iterations": 2000})
    assert longer == MultigridSchedule(iterations=2000)
    assert longer.length == longer.phases[-1].stop == 2000 == 2 * schedule.length
    with pytest.raises(ValidationError, match="clip_shares: expected shares that grow to 1"):
        schedule.model_copy(update={"clip_shares": (0.5,)})


def test_constant_cost() -> None:
    made = schedule(batch_mode="constant_cost", frames=16)
    assert [p.batch for p in made.phases] == [64, 42, 32, 28, 18, 14, 16, 10, 8]
    full = 8 * 16 * 64**2
    for phase in made.phases:
        one = phase.frames * phase.crop**2
        assert phase.batch * one <= full < (phase.batch + 1) * one
    bounded = schedule(batch_mode="constant_cost", frames=16, max_batch=20, batch_multiple=4)
    assert [p.batch for p in bounded.phases] == [20, 20, 20, 20, 16, 12, 16, 8, 8]


def test_global_cosine_is_that_of_torch() -> None:
    made = schedule(stages=FIXED, clip_shares=(1.0,), lr_preset="cosine", iterations=200, lr=3e-4, final_lr=1e-6)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200, eta_min=1e-6)
    for step in made.steps():
        assert step.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        peer.step()


def test_restarts_are_cosines_of_their_stage() -> None:
    made = schedule(lr=1e-3, final_lr=0.0)
    steps = list(made.steps())
    for begin, end, peak in ((0, 1500, 1.0), (1500, 2400, 0.75), (2400, 3000, 0.5)):
        assert steps[begin].lr == pytest.approx(1e-3 * peak)
        middle = (begin + end) // 2
        assert steps[middle].lr == pytest.approx(1e-3 * peak / 2)
        assert steps[end - 1].lr < 1e-3 * peak * 1e-4
        assert all(a.lr > b.lr for a, b in zip(steps[begin:end], steps[begin + 1 : end], strict=False))


def test_ramps_at_changes_of_shape() -> None:
    made = schedule(lr_preset="rewarm", rewarm=800, final_lr=0.0)
    flat = schedule(lr_preset="cosine", final_lr=0.0)
    for phase in made.phases:
        ratios = [made.at(i).lr / flat.at(i).lr for i in range(phase.start, phase.stop)]
        if phase.start == 0:
            assert ratios == [1.0] * phase.iterations
            continue
        assert ratios[:100] == pytest.approx([(i + 1) / 101 for i in range(100)])
        assert ratios[100:] == [1.0] * (phase.iterations - 100)


def test_warm_up() -> None:
    made = schedule(warmup=1600, lr_preset="cosine")
    flat = schedule(lr_preset="cosine")
    ratios = [made.at(i).lr / flat.at(i).lr for i in range(300)]
    assert ratios[:200] == pytest.approx([(i + 1) / 201 for i in range(200)])
    assert ratios[200:] == [1.0] * 100


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_learning_rate_follows_the_batch(rule: str, factor: float) -> None:
    made = schedule(batch=32, lr_scaling=rule, lr_preset="cosine", final_lr=0.0)
    base = schedule(lr_scaling=rule, lr_preset="cosine", final_lr=0.0)
    for i in (0, 100, 600):  # the same samples are four times as many iterations of the small batch
        assert made.at(i).lr == pytest.approx(factor * base.at(4 * i).lr)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [{"crop": 32, "share": 0.5}, {"crop": 64, "share": 0.4}]}, "shares that add up to 1, got 0.9"),
        ({"stages": [{"crop": 64, "share": 0.5}, {"crop": 32, "share": 0.5}]}, r"crops that grow .*, got \[64, 32\]"),
        ({"clip_shares": (0.5, 0.75)}, r"shares that grow to 1, got \[0.5, 0.75\]"),
        ({"clip_shares": (0.75, 0.5, 1.0)}, "shares that grow to 1"),
        ({"batch_multiple": 3}, "a multiple of batch_multiple = 3, got 8"),
        ({"max_batch": 32}, "none under batch_mode 'constant'"),
        ({"max_batch": 4, "batch_mode": "constant_cost"}, "at least batch = 8, got 4"),
        ({"final_lr": 1.0}, "at most lr = 0.0002, got 1"),
        ({"warmup": 24000}, "less than the run's 24000 samples, got 24000"),
        ({"iterations": 3}, "at least one in every phase, but crop 32 with 7 frames gets none of 3"),
        (
            {"stages": [{"crop": 32, "share": 0.95}, {"crop": 64, "share": 0.05}]},
            "at least 10% of the run in the last, got 5%",
        ),
        ({"crop": 3}, "crop"),
        ({"lr_preset": "step"}, "cosine"),
    ],
)
def test_what_makes_no_schedule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        schedule(**({"frames": 14} | changes))


@pytest.mark.parametrize("iteration", [-1, 3000])
def test_no_such_iteration(iteration: int) -> None:
    with pytest.raises(IndexError, match=f"expected 0 to 2999, got {iteration}"):
        schedule().at(iteration)


def test_a_step_needs_the_iteration_only() -> None:
    """Two schedules of the same settings agree everywhere, in any order, also after a round trip through JSON."""
    first = schedule(batch_mode="constant_cost", lr_preset="rewarm")
    again = MultigridSchedule.model_validate_json(first.model_dump_json())
    order = list(range(0, first.length, 7))
    assert [first.at(i) for i in order] == [again.at(i) for i in reversed(order)][::-1]
    assert math.isclose(sum(phase.cost for phase in first.phases), again.cost)
