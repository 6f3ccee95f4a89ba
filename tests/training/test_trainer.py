"""The training loop on tiny networks and clips: what it computes, and what survives when it is killed."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounter

from vsr.errors import UserError
from vsr.models import load_model
from vsr.training.config import TrainConfig
from vsr.training.dataset import low_resolution
from vsr.training.distributed import Group
from vsr.training.merge import merged_network
from vsr.training.repsr import Reparameterised, batch_norms
from vsr.training.run import open_clips, train
from vsr.training.state import read_state, write_state
from vsr.training.trainer import MAX_BAD_STEPS, Progress, Trainer, reconstruction_loss

ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth pattern that moves, which a network learns to enlarge quickly."""
    root = tmp_path_factory.mktemp("clips")
    y, x = np.mgrid[0:48, 0:64]
    for name, phase in (("a", 0.0), ("b", 2.0)):
        (root / name).mkdir()
        for t in range(6):
            waves = [np.sin((x + 2 * t) * f + y * g + phase) for f, g in ((0.9, 0.3), (0.4, 1.1), (1.3, 0.2))]
            image = np.stack(waves, -1) * 100 + 128
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{t}.png")
    return root


def config(clips: Path, **changes: Any) -> TrainConfig:
    """A run of 12 steps of two shapes; ``section__key`` changes one setting."""
    settings: dict[str, Any] = {
        "model": {"kind": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 2},
        "data": {"train": [{"root": str(clips)}], "validation": [{"root": str(clips / "a")}], "workers": 0},
        "schedule": {
            "iterations": 12,
            "frames": 3,
            "clip_shares": (1.0,),
            "stages": [{"crop": 8, "share": 0.5}, {"crop": 16, "share": 0.5}],
            "batch": 4,
            "reference_batch": 4,
            "lr": 1e-3,
            "rewarm": 0,
        },
        "optimizer": {"flow_freeze": 12, "ema": 0.5},
        "validate_every": 6,
        "save_every": 1,
    }
    for key, value in changes.items():
        place = settings
        *sections, last = key.split("__")
        for section in sections:
            place = place[section]
        place[last] = value
    return TrainConfig.model_validate(settings)


RECURRENT = {"model": {"kind": "basicvsr", "scale": 2, "num_feat": 4, "num_block": 1, "num_hr_feat": 4, "spynet": None}}


def run(made: TrainConfig, folder: Path) -> list[Progress]:
    steps: list[Progress] = []
    train(made, folder, device=torch.device("cpu"), on_step=steps.append)
    return steps


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(read_state(folder / "state.pt")["model"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns(clips: Path, tmp_path: Path) -> None:
    made = config(clips, schedule__iterations=150, schedule__lr=3e-3, validate_every=75)
    steps = run(made, tmp_path / "run")
    assert [s.step for s in steps] == list(made.schedule.steps())
    assert steps[-1].share == 1.0
    losses = [s.loss for s in steps]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    score = steps[-1].scores["a"]
    assert score.psnr > score.bicubic + 1
    model = load_model(tmp_path / "run" / "final.safetensors")
    assert (type(model).__name__, model.scale) == ("SRVGGNet", 2)
    best = load_model(tmp_path / "run" / "best.safetensors")
    assert best.config == model.config
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log] == list(range(150))
    assert [line["loss"] for line in log] == losses
    assert log[-1]["psnr/a"] == score.psnr


def test_a_residual_network_learns(clips: Path, tmp_path: Path) -> None:
    edsr = {"kind": "edsr", "scale": 2, "num_feat": 8, "num_block": 2, "res_scale": 0.5}
    losses = [s.loss for s in run(config(clips, model=edsr, schedule__iterations=60, schedule__lr=3e-3), tmp_path)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert load_model(tmp_path / "final.safetensors").config == {
        "num_feat": 8,
        "num_block": 2,
        "upscale": 2,
        "res_scale": 0.5,
    }


REPSR = {"model": {"kind": "repsr", "scale": 2, "num_feat": 4, "num_block": 2, "switch": 0.5, "statistics_batches": 3}}


SWITCHING = {"switch": 0.5, "statistics_batches": 3}
REP_RECURRENT = {"model": RECURRENT["model"] | SWITCHING | {"rep": True}}


@pytest.mark.parametrize(
    ("model", "plain", "clip"),
    [(REPSR, "SRVGGNet", (1, 3, 7, 9)), (REP_RECURRENT, "BasicVSR", (1, 2, 3, 7, 9))],
    ids=["repsr", "basicvsr"],
)
def test_branches_switch_and_merge(
    clips: Path, tmp_path: Path, model: dict[str, Any], plain: str, clip: tuple[int, ...]
) -> None:
    made = config(clips, **model)
    trainer = Trainer(made, open_clips(made.data.train), open_clips(made.data.validation), tmp_path / "run", ALONE)
    assert isinstance(trainer.model, Reparameterised)
    phases: list[bool] = []
    statistics: list[torch.Tensor] = []

    def look(_: Progress) -> None:
        phases.append(bool(trainer.model.population))
        statistics.append(torch.cat([norm.running_mean for norm in batch_norms(trainer.model)]))

    trainer.run(look)
    assert phases == [False] * 6 + [True] * 6
    assert not torch.equal(statistics[5], statistics[6])
    assert all(torch.equal(s, statistics[6]) for s in statistics[6:])
    final = load_model(tmp_path / "run" / "final.safetensors")
    assert type(final).__name__ == plain
    x = torch.rand(clip)
    torch.testing.assert_close(final(x), trainer.average.eval()(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(merged_network(tmp_path / "run")(x), final(x))


def test_first_step_is_adams(clips: Path, tmp_path: Path) -> None:
    """One step against the loss and PyTorch's Adam applied here, in float64."""
    made = config(clips)
    trainer = Trainer(made, open_clips(made.data.train), [], tmp_path / "run", ALONE)
    double = trainer.average.double()
    batch = next(trainer._batches(ExitStack()))
    step = made.schedule.at(0)

    lr, hr = low_resolution(batch, 2, "bicubic", torch.device("cpu"))
    double.requires_grad_(True)
    loss = ((double(lr.double().flatten(0, 1)) - hr.double().flatten(0, 1)).square() + 1e-12).sqrt().mean()
    loss.backward()
    peer = torch.optim.Adam(double.parameters(), lr=step.lr, betas=(0.9, 0.99))
    peer.step()
    trainer.average = copy.deepcopy(trainer.model)
    assert trainer._step(batch, step) == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, expected in zip(trainer.model.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("model", [{}, REP_RECURRENT, REPSR], ids=["srvgg", "basicvsr", "repsr"])
def test_a_resumed_run_is_the_same(clips: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    """A run that stops anywhere and is continued by another trainer ends bitwise where the whole run does."""
    made = config(clips, **model)
    expected = run(made, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "parts", device=torch.device("cpu"), on_step=stop)
    rest = run(made, tmp_path / "parts")
    assert [s.iteration for s in rest] == list(range(5, 12))
    assert [s.loss for s in rest] == [s.loss for s in expected[5:]]
    assert 0 < rest[0].left < 600, "seconds of this process, for the iterations of this process"
    assert rest[-1].left == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from vsr.training.config import TrainConfig
from vsr.training.run import train
from vsr.training.trainer import Trainer
torch.set_num_threads(1)
step = Trainer._step
def dies(self, batch, at):
    if self.iteration == 4 and self.group.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, at)
if "dies" in sys.argv:
    Trainer._step = dies
train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), device=torch.device("cpu"))
"""


def launch(made: TrainConfig, folder: Path, *before: str, after: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    settings, program = folder.with_suffix(".json"), folder.with_suffix(".py")
    settings.write_text(made.model_dump_json())
    program.write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *before, str(program), str(settings), str(folder), *after]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_killed_and_continued(clips: Path, tmp_path: Path) -> None:
    made = config(clips, schedule__iterations=60)
    torch.set_num_threads(1)
    run(made, tmp_path / "whole")
    process = launch(made, tmp_path / "killed")
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 15):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    again = run(made, tmp_path / "killed")
    assert 10 < again[0].iteration < 59
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert log.read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


@pytest.mark.parametrize(("model", "dies"), [(RECURRENT, ()), (REPSR, ("dies",))], ids=["basicvsr", "repsr"])
def test_two_processes_are_one_with_the_doubled_batch(
    clips: Path, tmp_path: Path, model: dict[str, Any], dies: tuple[str, ...]
) -> None:
    """Also where one of them is killed, and torchrun starts both again from the checkpoint."""
    made = config(clips, **model, schedule__iterations=8)
    alone = run(made, tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    restarts = f"--max-restarts={len(dies)}"
    process = launch(made, tmp_path / "two", *torchrun, restarts, after=dies)
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.terminate()  # torchrun ends its processes with itself
    assert process.returncode == 0, errors
    assert ("exitcode: -9" in errors) == bool(dies), errors
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in log] == pytest.approx([s.loss for s in alone], rel=1e-4)
    assert log[-1]["psnr/a"] == pytest.approx(alone[-1].scores["a"].psnr, abs=0.01)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # A batch norm takes away the bias in front of it: its gradient is rounding, of which Adam makes whole steps.
    for key in (key for key in one if not key.endswith(("conv3.bias", "running_mean"))):
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)


def test_accumulated_parts_are_one_batch(clips: Path, tmp_path: Path) -> None:
    whole = run(config(clips), tmp_path / "whole")
    parts = run(config(clips, accumulate=2), tmp_path / "parts")
    assert [s.loss for s in parts] == pytest.approx([s.loss for s in whole], rel=1e-4)


@pytest.mark.parametrize(("compiled", "model"), [(True, REPSR), ("reduce-overhead", {})])
def test_compiled_once_per_shape(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool | str, model: dict[str, Any]
) -> None:
    made = config(clips, **model, schedule__clip_shares=(0.5, 1.0))
    expected = run(made, tmp_path / "plain")
    torch._dynamo.reset()
    counter = CompileCounter()
    modes: list[object] = []

    def counted(network: torch.nn.Module, *, dynamic: bool, mode: str | None) -> object:
        modes.append(mode)
        return compile_(network, dynamic=dynamic, backend=counter)

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", counted)
    steps = run(made.model_copy(update={"compile": compiled}), tmp_path / "compiled")
    assert counter.frame_count == len(made.schedule.phases) == 4  # whole networks: no graph was broken
    assert set(modes) == {"reduce-overhead" if isinstance(compiled, str) else None}
    assert [s.loss for s in steps] == pytest.approx([s.loss for s in expected], rel=1e-5)


def test_the_flow_stands_still_at_first(clips: Path, tmp_path: Path) -> None:
    made = config(clips, **RECURRENT)
    trainer = Trainer(made, open_clips(made.data.train), [], tmp_path / "run", ALONE)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    moved: list[set[str]] = []

    def look(progress: Progress) -> None:
        now = dict(trainer.model.named_parameters())
        moved.append({name.split(".")[0] for name, p in now.items() if not torch.equal(p, before[name])})

    trainer.run(look)
    assert all("spynet" not in names for names in moved[:3])  # 12 samples
    assert all("spynet" in names for names in moved[3:])
    assert all("forward_trunk" in names for names in moved)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[1] == pytest.approx(0.125 * rates[0])


def test_the_average_goes_by_samples(clips: Path, tmp_path: Path) -> None:
    made = config(clips)
    trainer = Trainer(made, open_clips(made.data.train), [], tmp_path / "run", ALONE)
    mean = [p.clone() for p in trainer.model.parameters()]

    def follow(_: Progress) -> None:
        for m, p in zip(mean, trainer.model.parameters(), strict=True):
            m.mul_(0.5**0.5).add_(p.detach(), alpha=1 - 0.5**0.5)  # a batch of 4 is half of 8

    trainer.run(follow)
    for expected, ours in zip(mean, trainer.average.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_steps_without_a_finite_gradient_are_left_out(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(clips)
    trainer = Trainer(made, open_clips(made.data.train), [], tmp_path / "run", ALONE)
    seen: list[list[torch.Tensor]] = []

    def broken(output: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
        loss = reconstruction_loss(output, target, kind)
        return loss * math.inf if len(seen) in (3, 4) else loss

    monkeypatch.setattr("vsr.training.trainer.reconstruction_loss", broken)
    steps: list[Progress] = []

    def look(progress: Progress) -> None:
        steps.append(progress)
        seen.append([p.clone() for p in trainer.model.parameters()])

    trainer.run(look)
    assert [i for i, s in enumerate(steps) if math.isnan(s.loss)] == [3, 4]
    for a, b in zip(seen[2], seen[4], strict=True):
        assert torch.equal(a, b)
    assert all(torch.isfinite(p).all() for p in seen[-1])


def test_a_run_that_diverged_stops(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(clips, schedule__iterations=100)
    monkeypatch.setattr("vsr.training.trainer.reconstruction_loss", lambda output, *_: output.mean() * math.nan)
    message = rf"iteration \d+: no finite loss or gradient in {MAX_BAD_STEPS} steps .*state\.pt; lower schedule\.lr"
    with pytest.raises(UserError, match=message):
        run(made, tmp_path / "run")
    monkeypatch.undo()
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_a_folder_with_another_run(clips: Path, tmp_path: Path) -> None:
    run(config(clips), tmp_path / "run")
    message = r"run: holds a run with another configuration: schedule\.lr was 0\.001 and is now 0\.002; give another"
    with pytest.raises(UserError, match=message):
        run(config(clips, schedule__lr=2e-3), tmp_path / "run")
    assert run(config(clips, validate_every=7), tmp_path / "run") == []  # what does not matter may change; it was done
    state = read_state(tmp_path / "run" / "state.pt")
    settings = json.loads(state["config"])
    del settings["accumulate"]  # as a version wrote it that did not have it
    write_state(tmp_path / "run" / "state.pt", state | {"config": json.dumps(settings)})
    assert run(config(clips), tmp_path / "run") == []
    settings["speed"] = 3
    write_state(tmp_path / "run" / "state.pt", state | {"config": json.dumps(settings)})
    with pytest.raises(UserError, match=r"accumulate was None and is now 1|speed was 3 and is now None"):
        run(config(clips), tmp_path / "run")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for content in (b"", b"text", b"\x80\x04\x95"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt: not a checkpoint that training can continue from"):
            read_state(path)
    torch.save({"params": {}}, path)
    with pytest.raises(UserError, match=r"of another kind or version"):
        read_state(path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    write_state(path, {"iteration": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"state\.pt: no space left on the disk"):
        write_state(path, {"iteration": 2})
    assert read_state(path)["iteration"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("name", ["state.pt", "log.jsonl"])
def test_a_run_that_filled_the_disk_is_continued(clips: Path, tmp_path: Path, name: str) -> None:
    """The operating system itself refuses to write more; afterwards nothing is lost but the last steps."""
    made = config(clips, save_every=3, validate_every=12)
    run(made, tmp_path / "whole")
    log = tmp_path / "full" / "log.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.iteration == 3:
            limit = 4096 if name == "state.pt" else log.stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(UserError, match=rf"{re.escape(name)}: the file is larger than the file system or the user"):
            train(made, tmp_path / "full", device=torch.device("cpu"), on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in log.parent.iterdir()) == ["log.jsonl", "state.pt"]
    assert [s.iteration for s in run(made, tmp_path / "full")] == list(range(3, 12))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "full"))
    assert log.read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_batches_that_processes_cannot_share(clips: Path, tmp_path: Path) -> None:
    made = config(clips, accumulate=3)
    with pytest.raises(UserError, match=r"batches that 1 processes with accumulate 3 share evenly, got one of 4"):
        run(made, tmp_path / "run")


def test_losses() -> None:
    a, b = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    assert float(reconstruction_loss(a, b, "l1")) == pytest.approx(float((a - b).abs().mean()), rel=1e-6)
    expected = float(((a - b) ** 2 + 1e-12).sqrt().mean())
    assert float(reconstruction_loss(a, b, "charbonnier")) == pytest.approx(expected, rel=1e-6)
    zero = torch.zeros(2, requires_grad=True)
    reconstruction_loss(zero, torch.zeros(2), "charbonnier").backward()
    assert zero.grad is not None
    assert torch.equal(zero.grad, torch.zeros(2))  # no NaN where the output is exact
