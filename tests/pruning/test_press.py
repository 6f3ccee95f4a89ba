"""Pruning with training: pressure, picks, the cut, and runs that are killed in between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.small import frames, network
from vsr.errors import UserError
from vsr.models import BasicVSR, Pruned, load_model, save_model
from vsr.pruning.cut import unscaled
from vsr.pruning.press import Press, PressConfig
from vsr.pruning.recipe import Recipe, prune, prune_and_train, read_recipe
from vsr.pruning.scales import ScaledNetwork
from vsr.pruning.selection import SelectionConfig, choose
from vsr.pruning.temporal import TemporalConfig, TemporalGuide, temporal_distance
from vsr.training.config import CheckpointConfig
from vsr.training.distributed import Group
from vsr.training.run import open_clips
from vsr.training.schedule import Step
from vsr.training.state import read_state
from vsr.training.trainer import Progress, Trainer, build_model

HALF = SelectionConfig(ratio=0.5, align=1)
STEP = Step(0, 8, 2, 2, 1e-3, 0)


def recipe(clips: Path, **changes: Any) -> Recipe:
    """Eight steps of pressing, four of finetuning."""
    schedule = {
        "iterations": 8,
        "frames": 2,
        "clip_shares": (1.0,),
        "stages": [{"crop": 8, "share": 1.0}],
        "batch": 2,
        "reference_batch": 2,
        "lr": 5e-2,
    }
    settings: dict[str, Any] = {
        "data": {"train": [{"root": str(clips)}], "workers": 0},
        "press": {
            "schedule": schedule,
            "optimizer": {"ema": 0},
            "pressure": {"settle": 2, "every": 1, "increase": 50.0, "limit": 150.0, "hold": 2},
        },
        "finetune": {
            "schedule": schedule | {"iterations": 4, "lr": 1e-3},
            "optimizer": {"flow_freeze": 99},
            "temporal": {"weight": 0.5, "anneal": 0.5},
        },
        "save_every": 1,
    }
    return Recipe.model_validate(settings | changes)


@pytest.fixture
def dense(tmp_path: Path) -> str:
    torch.manual_seed(0)
    path = tmp_path / "dense.safetensors"
    save_model(BasicVSR(6, 2, scale=2, num_hr_feat=6), path)
    return str(path)


# Pressure -------------------------------------------------------------------------------------------------------------


def test_the_pressure_is_that_of_the_paper() -> None:
    config = PressConfig(settle=10, hold=100)
    found = [config.pressure(i) for i in (0, 9, 10, 14, 15, 10 + 5 * 999, 10 + 5 * 1000, 10**6)]
    assert found == pytest.approx([0, 0, 1e-4, 1e-4, 2e-4, 0.1, 0.1, 0.1])
    assert config.length == 10 + 5000 + 100
    with pytest.raises(UserError, match="press: expected at least 5110 iterations"):
        Press(config, HALF, 5109)


@pytest.mark.parametrize("kind", ["bidirectional", "prelu"])
def test_every_picked_scale_is_pressed_in_proportion_to_itself(kind: str) -> None:
    extension = Press(PressConfig(settle=3, every=1, increase=0.5, limit=1), HALF, 100)
    model = extension.prepare(network(kind)).train()
    with torch.no_grad():
        for scale in model.scales:
            scale.uniform_(0.5, 1.5)
    extension.before_step(model, 2, STEP)
    assert extension.penalty(model, frames(model)) == 0.0 and not model.chosen
    extension.before_step(model, 3, STEP)
    kept = choose(model.units, model.dense.state_dict(), model.factors, HALF)
    penalty = extension.penalty(model, frames(model))
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    for (group, size), scale in zip(model.units.sizes.items(), model.scales, strict=True):
        for i in range(size):  # block inputs among them
            wanted = 0.0 if i in kept[group] else 0.5 * scale[i].item()
            assert scale.grad is not None and float(scale.grad[i]) == pytest.approx(wanted)
    with torch.no_grad():
        for scale in model.scales:
            scale.uniform_(0.5, 1.5)  # the picks stay, whatever the scales become
    before = model.get_buffer("pressed").clone()
    extension.before_step(model, 4, STEP)
    assert torch.equal(model.get_buffer("pressed"), before)


def test_scales_learn_at_a_rate_of_their_own(clips: Path, dense: str, tmp_path: Path) -> None:
    """Adam's first step goes as far as its learning rate says, whatever the gradient is."""
    made = recipe(clips, finetune=None)
    assert made.press is not None
    pressure = made.press.pressure.model_copy(update={"scale_factor": 4.0})
    config = made.stage(made.press.model_copy(update={"pressure": pressure}), dense, 2)
    extension = Press(pressure, HALF, config.schedule.length)
    alone = Group(0, 1, torch.device("cpu"))
    trainer = Trainer(config, open_clips(config.data.train), [], tmp_path / "run", alone, extension)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    moved: dict[str, float] = {}

    def look(progress: Progress) -> None:
        for name, value in trainer.model.named_parameters() if progress.iteration == 0 else ():
            moved[name] = float((value.detach() - before[name]).abs().max())

    trainer.run(look)
    rate = config.schedule.at(0).lr
    scales = [far for name, far in moved.items() if name.startswith("scales.")]
    weights = [far for name, far in moved.items() if name.startswith("dense.") and "spynet" not in name]
    assert max(scales) == pytest.approx(4 * rate, rel=1e-3)
    assert max(weights) == pytest.approx(rate, rel=1e-3)


def test_pressed_units_shrink_and_are_cut(clips: Path, dense: str, tmp_path: Path) -> None:
    by_scale = SelectionConfig(ratio=0.5, align=1, score="scale")
    made = prune_and_train(dense, by_scale, recipe(clips, finetune=None), tmp_path / "run", device=torch.device("cpu"))
    state = read_state(tmp_path / "run" / "press" / "state.pt")["model"]
    scales = torch.cat([value for key, value in state.items() if key.startswith("scales.")])
    pressed = state["pressed"]
    assert int(pressed.sum()) == math.ceil(len(pressed) / 2)
    assert scales[pressed].abs().mean() < scales[~pressed].abs().mean() - 0.1
    assert isinstance(made, Pruned)
    gone = [i for i, unit in enumerate(flat(made)) if not unit]
    overlap = len(set(gone) & set(pressed.nonzero().flatten().tolist())) / len(gone)
    assert overlap > 0.9
    flows = [key for key in state if ".spynet." in key]
    start = load_model(dense).state_dict()
    assert flows and all(torch.equal(state[key], start[key.removeprefix("dense.")]) for key in flows)


def flat(model: Pruned) -> list[bool]:
    return [i in model.kept[group] for group, size in model.units.sizes.items() for i in range(size)]


def test_units_that_were_gone_stay_gone() -> None:
    once = prune(network("bidirectional"), SelectionConfig(ratio=0.3, align=1))
    assert isinstance(once, Pruned)
    extension = Press(PressConfig(every=1, increase=1, limit=1), HALF, 100)
    model = extension.prepare(once).train()
    x = frames(model)
    with torch.no_grad():
        assert (model(x) - once(x)).abs().max() < 2e-5 * once(x).abs().max()
    extension.before_step(model, 0, STEP)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (model(x).square().mean() + extension.penalty(model, x)).backward()
    optimizer.step()
    twice = extension.ship(model.eval())
    assert isinstance(twice, Pruned)
    assert all(set(twice.kept[group]) <= set(once.kept[group]) for group in once.units.sizes)
    assert sum(map(len, twice.kept.values())) == sum(map(len, once.kept.values())) // 2


# Temporal Finetuning --------------------------------------------------------------------------------------------------


def test_the_distance_weighs_late_features_more() -> None:
    teacher = [torch.zeros(1, 2, 3, 3) for _ in range(4)]
    apart = [[torch.full((1, 2, 3, 3), 2.0 * (k == at)) for k in range(4)] for at in range(4)]
    found = [float(temporal_distance(student, teacher, 1.0)) for student in apart]
    assert found == pytest.approx([2 * w / 2.5 / 4 for w in (1, 2, 3, 4)], rel=1e-3)
    assert float(temporal_distance(apart[1], teacher, 0.0)) == pytest.approx(0.5, rel=1e-3)


def test_the_weight_falls_at_the_end() -> None:
    config = TemporalConfig(weight=0.4, anneal=0.25)
    assert [config.strength(s) for s in (0, 0.75, 0.875, 1)] == pytest.approx([0.4, 0.4, 0.2, 0])
    assert TemporalConfig(weight=0.4, anneal=0).strength(1.0) == 0.4


@pytest.mark.parametrize("kind", ["bidirectional", "unidirectional"])
def test_the_teacher_guides_the_hidden_states(kind: str) -> None:
    teacher = network(kind)
    assert isinstance(teacher, BasicVSR)
    student = prune(teacher, HALF).train()
    guide = TemporalGuide(teacher, TemporalConfig(weight=1, growth=0, anneal=0), 100)
    x = frames(teacher)
    features: list[list[torch.Tensor]] = []
    for model in (student, teacher):  # by hand, through hooks of the test's own
        seen: list[torch.Tensor] = []
        names = ["forward_trunk", "backward_trunk"][: 1 + teacher.bidirectional]
        handles = [
            model.get_submodule(n).register_forward_hook(lambda m, i, y, seen=seen: seen.append(y)) for n in names
        ]
        model(x)
        features.append(seen)
        for handle in handles:
            handle.remove()
    wanted = torch.stack([(a - b).abs().mean() for a, b in zip(*features, strict=True)]).mean()
    guide.before_step(student, 0, STEP)
    student(x)
    penalty = guide.penalty(student, x)
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(wanted.item(), rel=1e-3)
    penalty.backward()
    grad = student.get_submodule("forward_trunk.main.0").weight.grad  # type: ignore[union-attr]
    assert grad is not None and grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


def test_networks_that_cannot_be_guided() -> None:
    with pytest.raises(UserError, match="expected a BasicVSR, which propagates features, got SRVGGNet"):
        TemporalGuide(network("prelu"), TemporalConfig(), 10)
    guide = TemporalGuide(network("bidirectional"), TemporalConfig(), 10)
    with pytest.raises(UserError, match="expected a network like the teacher"):
        guide.before_step(network("unidirectional"), 0, STEP)


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_bit_for_bit(clips: Path, dense: str, tmp_path: Path) -> None:
    settings = recipe(clips)
    cpu = torch.device("cpu")
    whole = prune_and_train(dense, HALF, settings, tmp_path / "whole", device=cpu)

    class Killed(Exception):  # noqa: N818
        pass

    for stage, last in (("press", 1), ("press", 5), ("finetune", 1)):

        def kill(name: str, progress: Progress, stage: str = stage, last: int = last) -> None:
            if (name, progress.iteration) == (stage, last):
                raise Killed

        with pytest.raises(Killed):
            prune_and_train(dense, HALF, settings, tmp_path / "parts", device=cpu, on_step=kill)
    parts = prune_and_train(dense, HALF, settings, tmp_path / "parts", device=cpu)
    wanted = whole.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in parts.state_dict().items())
    other = SelectionConfig(ratio=0.25, align=1)
    with pytest.raises(UserError, match=r"holds a run with another configuration: selection.ratio was 0.5 and is now"):
        prune_and_train(dense, other, settings, tmp_path / "parts", device=cpu)
    log = [json.loads(line) for line in (tmp_path / "parts/finetune/log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log] == [0, 1, 2, 3]


def test_stages_need_one_process(clips: Path, dense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="pruning runs in one process"):
        prune_and_train(dense, HALF, recipe(clips), tmp_path / "run", device=torch.device("cpu"))


def test_plain_networks_are_cut_and_finetuned(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_model(network("prelu"), path)
    finetune = recipe(clips).model_dump()["finetune"] | {"temporal": None}
    settings = recipe(clips, press=None, finetune=finetune)
    made = prune_and_train(str(path), HALF, settings, tmp_path / "run", device=torch.device("cpu"))
    cut = load_model(tmp_path / "run" / "cut.safetensors")
    assert isinstance(made, Pruned) and isinstance(cut, Pruned) and made.kept == cut.kept
    assert not torch.equal(made.get_submodule("body.0").weight, cut.get_submodule("body.0").weight)  # type: ignore[arg-type]


def test_a_checkpoint_must_enlarge_as_the_configuration_says(dense: str) -> None:
    with pytest.raises(UserError, match=r"model.scale: .*dense.safetensors enlarges by 2, got 4"):
        build_model(CheckpointConfig(kind="checkpoint", weights=dense))


def test_recipes(tmp_path: Path) -> None:
    preset = read_recipe("basicvsr")
    assert preset.press is not None and preset.finetune is not None
    Press(preset.press.pressure, HALF, preset.press.schedule.length)  # which is long enough
    with pytest.raises(UserError, match="nothing: neither a file nor a preset; there are basicvsr"):
        read_recipe("nothing")
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {train: [{root: x}]}\npress: {pressure: {limitt: 3}, schedule: {iterations: 100}}\n")
    with pytest.raises(UserError, match=r"press.pressure.limitt: no such key; did you mean limit\?"):
        read_recipe(str(path))
    path.write_text("data: {train: [{root: x}]}\n")
    with pytest.raises(UserError, match="expected press, finetune or both"):
        read_recipe(str(path))


def test_scales_need_no_training_for_other_scores() -> None:
    model = ScaledNetwork(network("bidirectional"))
    units = model.units
    config = SelectionConfig(ratio=0.5, score="l1", align=1)
    assert choose(units, model.dense.state_dict(), unscaled(units), config) == choose(
        units, model.dense.state_dict(), model.factors, config
    )
